"""What tells whether a file behind a URL is still the same: by every kind of server, and without one."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from neurolab.data.fingerprints import fingerprint, fingerprints
from neurolab.data.sources import open_source
from neurolab.data.streams import TarStreamSource
from neurolab.data.tars import TarSource
from neurolab.errors import SourceError
from tests.data.making import samples, write_tar
from tests.data.serving import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"/a.tar": b"a" * 100, "/b.tar": b"b" * 100}) as served:
        yield served


def test_a_server_that_refuses_the_question_is_asked_for_a_byte(server: Server) -> None:
    url = f"{server.address}/a.tar"
    server.refused = {"HEAD": [405]}
    assert fingerprint(url) == "100"
    server.files["/a.tar"] += b"more"
    assert fingerprint(url) == "104"
    server.ranges = False
    assert fingerprint(url) == "104"
    server.told = {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
    assert fingerprint(url) == "Thu, 01 Jan 2026 00:00:00 GMT 104"
    server.told |= {"ETag": '"abc"'}
    assert fingerprint(url) == '"abc"'


def test_all_ways_to_ask_tell_the_same(server: Server, waits: list[float]) -> None:
    url = f"{server.address}/a.tar"
    for told in ({"ETag": '"abc"'}, {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, {}):
        server.told, server.refused = told, {}
        found = {fingerprint(url)}
        for statuses in ([405], [403], [501], [503], [503, 200], [429, 500, 200]):
            for server.ranges in (True, False):
                server.refused = {"HEAD": list(statuses)}
                found.add(fingerprint(url))
        assert len(found) == 1, told
    assert waits[:3] == [2.0, 8.0, 20.0]


def test_a_server_that_fails_for_a_moment_does_not_change_the_source(server: Server) -> None:
    def hashed() -> str:
        return open_source(f"{server.address}/{{a,b}}.tar").content_hash()

    before = hashed()
    server.refused = {"HEAD": [503, 503, 200], "GET": [503]}
    assert hashed() == before
    server.refused = {"HEAD": [503], "GET": [503]}
    with pytest.raises(SourceError, match=r"tar cannot be learned: .*503.*start again"):
        hashed()
    server.refused = {}
    server.files["/b.tar"] += b"more"
    assert hashed() != before


def test_nothing_there_and_nobody_there(server: Server) -> None:
    with pytest.raises(SourceError, match=r"there is nothing at .*c\.tar \(404"):
        fingerprint(f"{server.address}/c.tar")
    server.refused = {"HEAD": [403], "GET": [403]}
    with pytest.raises(SourceError, match=r"the server refuses .*a\.tar \(403"):
        fingerprint(f"{server.address}/a.tar")
    with pytest.raises(SourceError, match="nothing at memory://none"):
        fingerprint("memory://none")
    with pytest.raises(SourceError, match="cannot be learned: URLError"):
        fingerprint("http://127.0.0.1:9/x.tar")


def test_what_tells_nothing_is_said(server: Server) -> None:
    server.sized = False
    urls = [f"{server.address}/{name}.tar" for name in "ab"]
    with pytest.warns(UserWarning, match=r"neither entity tag, date nor size of .*a\.tar and 1 more"):
        assert fingerprints(urls) == ["", ""]
    server.sized = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fingerprints(urls) == ["100", "100"]


class Versioned(MemoryFileSystem):
    """A file system that tells its files apart in its own way."""

    protocol = "versioned"
    version = 1
    failures = 0

    def ukey(self, path: str) -> str:
        return f"version {self.version}"

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        if Versioned.failures:
            Versioned.failures -= 1
            raise TimeoutError("no answer")
        return {"name": path, "size": 5, "type": "file"}


def test_other_file_systems(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    fsspec.register_implementation("versioned", Versioned, clobber=True)
    first = fingerprint("versioned://a.tar")
    monkeypatch.setattr(Versioned, "failures", 2)
    assert fingerprint("versioned://a.tar") == first
    assert waits == [2.0, 8.0]
    monkeypatch.setattr(Versioned, "version", 2)
    assert fingerprint("versioned://a.tar") != first
    monkeypatch.setattr(Versioned, "failures", 99)
    with pytest.raises(SourceError, match=r"a\.tar cannot be learned: TimeoutError: no answer"):
        fingerprint("versioned://a.tar")
    memory = fsspec.filesystem("memory")
    memory.pipe("/fingerprints/a.tar", b"12345")
    before = fingerprint("memory://fingerprints/a.tar")
    memory.store["/fingerprints/a.tar"].modified += datetime.timedelta(seconds=1)
    assert fingerprint("memory://fingerprints/a.tar") != before


def test_a_file_url_is_the_path_that_it_names(tmp_path: Path) -> None:
    place = tmp_path / "a b"
    place.mkdir()
    path = write_tar(place / "x.tar", samples(3))
    write_tar(tmp_path / "packed.tar.gz", samples(2), "w:gz")
    for url in (f"file://{path}", path.as_uri(), f"file://localhost{path}"):
        source = open_source(url)
        assert isinstance(source, TarSource)
        assert list(source) == list(TarSource([path]))
    before = open_source(path.as_uri()).content_hash()
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    assert open_source(path.as_uri()).content_hash() != before
    assert TarStreamSource([f"file://{path}"]).content_hash() == TarStreamSource([str(path)]).content_hash()
    assert len(list(open_source(f"file://{tmp_path}/packed.tar.gz"))) == 2
    assert len(open_source(f"file://{place}")) == 3
    both = TarStreamSource([str(path), "memory://x/x.tar"])
    fsspec.filesystem("memory").pipe("/x/x.tar", path.read_bytes())
    before = both.content_hash()
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert TarStreamSource(list(both.urls.values())).content_hash() != before
