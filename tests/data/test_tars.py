"""WebDataset shards: random access and streams agree, and broken shards lose nothing without saying so."""

from __future__ import annotations

import http.server
import io
import json
import shutil
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
import webdataset
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

import neurolab.data.streams
import neurolab.data.tars
from neurolab.data import patience
from neurolab.data.sources import Record, Source, Unreadable, open_source
from neurolab.data.streams import StreamBroken, TarStreamSource
from neurolab.data.tarfiles import shard_names
from neurolab.data.tars import INDEXES_KEPT, TarIndex, TarSource, read_index
from neurolab.errors import BadImageError, SourceError
from tests.data.making import encoded, samples, write_tar


def both(*paths: Path) -> list[Source]:
    """The same shards by random access and as a stream."""
    return [TarSource(paths), TarStreamSource([str(path) for path in paths])]


def last_reason(records: list[Record]) -> str:
    payload = records[-1].payload
    return payload.reason if isinstance(payload, Unreadable) else ""


def test_samples_are_those_of_webdataset_itself(tmp_path: Path) -> None:
    members = [
        *samples(3),
        ("folder/a.b.jpg", b"two dots: not an image member"),
        ("folder/a.jpg", encoded(7)),
        ("__meta__", b"left out"),
        ("__index__/0.jpg", b"left out"),
        ("UPPER.JPG", encoded(8)),
        ("UPPER.TXT", "größer".encode()),
        ("no-extension", b""),
    ]
    path = write_tar(tmp_path / "x.tar", members)
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))
    for source in both(path):
        ours = list(source)
        assert [record.key for record in ours] == [sample["__key__"] for sample in theirs]
        with_image = [i for i, sample in enumerate(theirs) if "jpg" in sample]
        assert [ours[i].payload for i in with_image] == [theirs[i]["jpg"] for i in with_image]
        assert ours[0].captions == tuple(json.loads(theirs[0]["json"])["captions"])
        assert ours[1].labels == {"label": "1"}
        assert ours[-1].captions == ("größer",)


def test_a_sample_without_image_is_unreadable_and_keeps_its_place(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.json", b"{}"), ("b.jpg", encoded(1)), ("c.mp3", b"")])
    for source in both(path):
        first, second, third = source
        assert isinstance(first.payload, Unreadable)
        assert "no image (its members: json)" in first.payload.reason
        assert second.payload == encoded(1)
        assert isinstance(third.payload, Unreadable)


def test_of_several_images_of_a_sample_the_first_is_taken_and_it_says_so(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.png", b"second"), ("a.jpg", b"first"), ("b.jpg", b"only")])
    for source in both(path):
        several, single = list(source)
        assert (several.payload, several.notes) == (
            b"first",
            ("it has several images, jpg, png: the first is taken",),
        )
        assert single.notes == ()


def test_duplicates(tmp_path: Path) -> None:
    a, b = encoded(1), encoded(2)
    path = write_tar(
        tmp_path / "x.tar", [("k.jpg", a), ("k.jpg", b), ("m.jpg", b), ("k.jpg", a), ("k~2.jpg", b)]
    )
    for source in both(path):
        records = list(source)
        assert [record.key for record in records] == ["k", "m", "k~2", "k~2~2"]
        assert [record.payload for record in records] == [a, b, a, b]
        assert "duplicate" in records[0].notes[0]
        assert not records[1].notes
        assert list(source.read(source.shards()[0], 2, 3)) == records[2:3]


def test_several_shards_prefix_their_keys(tmp_path: Path) -> None:
    one, two = write_tar(tmp_path / "t-0.tar", samples(2)), write_tar(tmp_path / "t-1.tar", samples(2))
    for source in both(one, two):
        assert [record.key for record in source] == ["t-0/0000", "t-0/0001", "t-1/0000", "t-1/0001"]
    (tmp_path / "more").mkdir()
    three = Path(shutil.copy(one, tmp_path / "more/t-0.tar"))
    source = TarSource([one, three])
    assert [shard.name for shard in source.shards()] == [f"{tmp_path.name}/t-0", "more/t-0"]


def test_shard_names() -> None:
    assert shard_names(["http://x/a.b.tar?sig=1/2", "y/c.tar.gz", "d.parquet"]) == ["a.b", "c", "d"]
    assert shard_names(["a/t.tar", "a/t.tar"]) == ["a/t", "a/t~2"]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_shards(tmp_path: Path, mode: str) -> None:
    plain = write_tar(tmp_path / "x.tar", samples(5))
    packed = write_tar(tmp_path / "x.tar.gz", samples(5), mode)
    assert list(TarStreamSource([str(packed)])) == list(TarSource([plain]))
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size * 2 // 3])
    records = list(TarStreamSource([str(packed)]))
    assert records[-1].key == "x/(end of the shard)"
    assert "broken off after" in last_reason(records)


def test_ranges_equal_slices(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", samples(12))
    for source in both(path):
        (shard,) = source.shards()
        whole = list(source.read(shard))
        for start, stop in [(0, 5), (3, None), (11, 12), (5, 5), (12, None), (0, 99)]:
            assert list(source.read(shard, start, stop)) == whole[start:stop]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_shard_cut_anywhere(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Both readers agree at any cut; every whole sample is there; the break is reported."""
    path = tmp_path_factory.getbasetemp() / "cut.tar"
    whole = write_tar(path, samples(3)).read_bytes()
    complete = list(TarSource([path]))
    # Two blocks of 512 zero bytes mark the end, behind which there is only padding.
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    cut = data.draw(st.integers(1, end))
    path.write_bytes(whole[:cut])
    random_access, stream = both(path)
    streamed = list(stream)
    assert last_reason(streamed)
    if len(streamed) == 1:
        with pytest.raises(SourceError):
            random_access.shards()
        return
    records = list(random_access)
    assert [(r.key, r.payload) for r in records[:-1]] == [(r.key, r.payload) for r in streamed[:-1]]
    assert last_reason(records)
    # The sample at the cut may lack its last members; those before it are whole.
    assert records[:-2] == complete[: len(records) - 2]
    assert len(random_access) == len(records)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", samples(6))
    data = bytearray(path.read_bytes())
    place = data.index(b"0003.jpg")
    data[place : place + 8] = b"\xff" * 8
    path.write_bytes(data)
    for source in both(path):
        records = list(source)
        assert [record.key for record in records] == ["0000", "0001", "0002", "x/(end of the shard)"]
        assert "damaged header" in last_reason(records)


def test_one_broken_shard_of_many_is_reported_and_all_broken_are_an_error(tmp_path: Path) -> None:
    good, bad, empty = write_tar(tmp_path / "a.tar", samples(2)), tmp_path / "b.tar", tmp_path / "c.tar"
    bad.write_bytes(b"<html>not found</html>" * 100)
    empty.write_bytes(b"")
    records = list(TarSource([good, bad, empty]))
    keys = [record.key for record in records]
    assert keys == ["a/0000", "a/0001", "b/(end of the shard)", "c/(end of the shard)"]
    with pytest.raises(SourceError, match="no samples"):
        TarSource([bad]).shards()
    with pytest.raises(SourceError, match="cannot open"):
        TarSource([tmp_path / "missing.tar"]).shards()


def test_hostile_member_names(tmp_path: Path) -> None:
    image = encoded(0)
    names = [
        "../../etc/x.jpg",
        "/abs/x.jpg",
        "./here.jpg",
        "日本.jpg",
        "a\nb.jpg",
        "x" * 300 + ".jpg",
        "dir/._x.jpg",
    ]
    path = write_tar(tmp_path / "x.tar", [(name, image) for name in names])
    for source in both(path):
        found = [record.key for record in source]
        assert found == ["../../etc/x", "/abs/x", "here", "日本", "a\nb", "x" * 300]


def test_the_hash_is_of_names_and_bytes(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", samples(3))
    (tmp_path / "copy").mkdir()
    copy = Path(shutil.copy(path, tmp_path / "copy/x.tar"))
    original = TarSource([path]).content_hash()
    assert TarSource([copy]).content_hash() == original
    copy.write_bytes(copy.read_bytes()[:-1])
    assert TarSource([copy]).content_hash() != original
    assert TarSource([Path(shutil.copy(path, tmp_path / "y.tar"))]).content_hash() != original


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a web server on the test's folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            return None

        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_shards_behind_a_url(tmp_path: Path, served: str) -> None:
    paths = [write_tar(tmp_path / f"t-{i}.tar", samples(4, 4 * i)) for i in range(2)]
    source = TarStreamSource([f"{served}/t-0.tar", f"{served}/t-1.tar"])
    assert list(source) == list(TarSource(paths))
    assert bool(source)
    with pytest.raises(TypeError, match="not known"):
        len(source)
    assert source.describe()["size"] is None
    assert isinstance(open_source(f"{served}/t-{{0..1}}.tar"), TarStreamSource)
    before = source.content_hash()
    write_tar(paths[0], samples(60))
    assert TarStreamSource([f"{served}/t-0.tar", f"{served}/t-1.tar"]).content_hash() != before


def test_a_download_that_ends_too_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cut(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(path.read_bytes()[:20_000])

        def log_message(self, *args: object) -> None:
            return None

    path = write_tar(tmp_path / "x.tar", samples(30))
    monkeypatch.setattr(patience, "NET_WAITS", (0.0, 0.0, 0.0))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cut) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(StreamBroken, match="ended 80000 bytes before the end"):
            list(TarStreamSource([f"http://127.0.0.1:{server.server_address[1]}/x.tar"]))
        server.shutdown()


def test_nothing_behind_a_url(served: str) -> None:
    with pytest.raises(SourceError, match="nothing at"):
        list(TarStreamSource([f"{served}/missing.tar"]))
    with pytest.raises(SourceError, match="nosuch"):
        list(TarStreamSource(["nosuch://x/y.tar"]))
    with pytest.raises(SourceError, match="run a command"):
        TarStreamSource(["pipe:cat x.tar"])


class Flaky:
    """A stream that breaks after some bytes."""

    def __init__(self, path: Path, good_for: int) -> None:
        self.stream, self.left = path.open("rb"), good_for

    def read(self, size: int = -1) -> bytes:
        if self.left <= 0:
            raise ConnectionResetError("reset by peer")
        data = self.stream.read(min(size, self.left))
        self.left -= len(data)
        return data

    def close(self) -> None:
        self.stream.close()


def test_a_broken_connection_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "x.tar", samples(30))
    whole = path.stat().st_size
    limits = iter([whole // 3, whole // 2, whole // 2, whole])
    monkeypatch.setattr(patience, "NET_WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(neurolab.data.streams, "_open_url", lambda url: Flaky(path, next(limits)))
    assert list(TarStreamSource(["http://x/x.tar"])) == list(TarSource([path]))
    monkeypatch.setattr(neurolab.data.streams, "_open_url", lambda url: Flaky(path, whole // 2))
    with pytest.raises(StreamBroken, match=r"reset by peer.*start again"):
        list(TarStreamSource(["http://x/x.tar"]))


def test_a_stream_is_opened_again_three_times_for_one_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "x.tar", samples(30))
    half, whole = path.stat().st_size // 2, path.stat().st_size
    waits: list[float] = []
    monkeypatch.setattr(patience, "sleep", waits.append)
    limits = iter([half, half, half, whole, half, half, half, half])
    monkeypatch.setattr(neurolab.data.streams, "_open_url", lambda url: Flaky(path, next(limits)))
    assert len(list(TarStreamSource(["http://x/x.tar"]))) == 30
    assert waits == [2.0, 8.0, 20.0]
    with pytest.raises(StreamBroken):
        list(TarStreamSource(["http://x/x.tar"]))
    assert next(limits, None) is None, "no more than asked for"


class ShortFiles(MemoryFileSystem):
    """Files of which some openings end early, without an error."""

    protocol = "short"
    cuts: ClassVar[list[int]] = []
    data = b""

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return io.BytesIO(self.data[: self.cuts.pop(0)] if self.cuts else self.data)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": path, "size": len(self.data), "type": "file"}


def test_a_file_that_ends_early_without_an_error_is_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "x.tar", samples(30))
    fsspec.register_implementation("short", ShortFiles, clobber=True)
    monkeypatch.setattr(ShortFiles, "data", path.read_bytes())
    monkeypatch.setattr(patience, "NET_WAITS", (0.0, 0.0))
    ShortFiles.cuts[:] = [20_480, 5_120]
    assert list(TarStreamSource(["short://x.tar"])) == list(TarSource([path]))
    ShortFiles.cuts[:] = [20_480] * 9
    left = path.stat().st_size - 20_480
    with pytest.raises(StreamBroken, match=f"ended {left} bytes before the end"):
        list(TarStreamSource(["short://x.tar"]))
    ShortFiles.cuts.clear()


def test_flickr8k(neurolab_data: Path) -> None:
    paths = sorted((neurolab_data / "flickr8k").glob("flickr8k-test-*.tar"))
    source, stream = both(*paths)
    records = list(source)
    assert len(source) == len(records) == 1000
    assert {len(record.captions) for record in records} == {5}
    assert [record.key for record in stream] == [record.key for record in records]
    assert list(stream.read(stream.shards()[0], 990)) == records[990:]


def test_unreadable_places_raise_bad_image_errors() -> None:
    with pytest.raises(BadImageError, match="why"):
        Unreadable("why")()


def test_few_indexes_are_held_however_many_shards_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 30 shards no more than those that are kept on purpose, and the one in hand."""
    made: list[weakref.ref[TarIndex]] = []
    alive: list[int] = []

    def noting(stream: Any, path: Path) -> TarIndex:
        index = read_index(stream, path)
        made.append(weakref.ref(index))
        alive.append(sum(one() is not None for one in made))
        return index

    monkeypatch.setattr(neurolab.data.tars, "read_index", noting)
    shards = [write_tar(tmp_path / f"{i:02d}.tar", samples(2)) for i in range(30)]
    source = TarSource(shards)
    assert len(source) == 60 and len(made) == 30
    assert max(alive) <= INDEXES_KEPT + 2
