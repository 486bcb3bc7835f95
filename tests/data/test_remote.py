"""Images behind URLs in the rows of a table: what can be had is, what cannot is a bad image, and an
unplugged cable is none."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import neurolab.data.remote
from neurolab.data.daemons import DaemonPool
from neurolab.data.decode import ImageTransform, decode_image
from neurolab.data.loader import load_batches
from neurolab.data.parquet import ParquetSource
from neurolab.data.remote import FAILURES_IN_A_ROW, Fetched, Remote, fetched
from neurolab.data.sources import Record, Unreadable, open_source
from neurolab.errors import SourceError
from tests.data.making import encoded
from tests.data.serving import Server, serving

SMALL = ImageTransform((8, 8))


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({f"/{number}.jpg": encoded(number) for number in range(6)}) as served:
        yield served


def table(place: Path, urls: Sequence[str]) -> ParquetSource:
    images = pa.array([{"bytes": None, "path": url} for url in urls],
                      pa.struct([("bytes", pa.binary()), ("path", pa.string())]))  # fmt: skip
    pq.write_table(pa.table({"image": images}), place / "t.parquet")
    return ParquetSource([place / "t.parquet"])


def reasons(source: ParquetSource) -> dict[str, str]:
    (batch,) = load_batches(source, SMALL)
    return {skip.key: skip.reason for skip in batch.skipped}


def test_images_behind_the_web_come_in_order(tmp_path: Path, server: Server) -> None:
    source = table(tmp_path, [f"{server.address}/{number % 6}.jpg" for number in range(200)])
    records = list(fetched(source))
    assert [record.payload for record in records] == [encoded(number % 6) for number in range(200)]
    batches = list(load_batches(source, SMALL, batch_size=64, workers=1))
    assert sum(len(batch.items) for batch in batches) == 200
    (record, *_) = source
    assert decode_image(record.payload).size == (24, 20)


def test_names_that_http_does_not_write(tmp_path: Path, server: Server) -> None:
    server.files["/gr%C3%B6%C3%9Fe%20x.jpg?a=%20b"] = encoded(1)
    source = table(
        tmp_path, [f"{server.address}/größe x.jpg?a=%20b", f"{server.address}/gr%C3%B6ße x.jpg?a= b"]
    )
    assert reasons(source) == {}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_refused_row_is_a_bad_image(
    tmp_path: Path, server: Server, waits: list[float], status: int
) -> None:
    server.refused = {"GET /3.jpg": [status]}
    told = reasons(table(tmp_path, [f"{server.address}/{number}.jpg" for number in range(6)]))
    assert told.keys() == {"3.jpg"} and f"({status} " in told["3.jpg"]
    assert server.asked.count("GET /3.jpg") == 1 and not waits


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_row_is_asked_for_again(tmp_path: Path, server: Server, waits: list[float], status: int) -> None:
    source = table(tmp_path, [f"{server.address}/{number}.jpg" for number in range(6)])
    server.refused = {"GET /3.jpg": [status, 200]}
    assert reasons(source) == {}
    assert waits == [1.0]
    server.refused = {"GET /3.jpg": [status]}
    assert f"HTTP Error {status}" in reasons(source)["3.jpg"]
    assert waits == [1.0, 1.0, 4.0]


class Flaky(MemoryFileSystem):
    """Files of which some may not be read, some break off once, and some are not there."""

    protocol = "flaky"
    broken: ClassVar[set[str]] = set()

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        name = path.rpartition("/")[2]
        if name == "secret.jpg":
            raise PermissionError("403 Forbidden")
        if name == "none.jpg":
            raise FileNotFoundError(path)
        if name in self.broken:
            self.broken.discard(name)
            raise OSError("connection reset")
        return io.BytesIO(encoded(1))


def test_rows_behind_other_schemes(tmp_path: Path, waits: list[float]) -> None:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.broken.add("reset.jpg")
    names = ["flaky://a.jpg", "flaky://secret.jpg", "flaky://reset.jpg", "flaky://none.jpg", "odd://x/y.jpg"]
    told = reasons(table(tmp_path, names))
    assert told.keys() == {"secret.jpg", "none.jpg", "y.jpg"}
    assert "Protocol not known: odd" in told["y.jpg"] and waits == [1.0]


def test_a_scheme_without_its_package_is_said(tmp_path: Path) -> None:
    fsspec.register_implementation("packed", "no_such_package.Files", clobber=True)
    with pytest.raises(SourceError, match=r"packed://a\.jpg cannot be fetched"):
        list(load_batches(table(tmp_path, ["packed://a.jpg"]), SMALL))


def test_a_host_that_does_not_exist(
    tmp_path: Path, server: Server, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = urllib.request.urlopen

    def resolve(request: Any, **options: Any) -> Any:
        if "127.0.0.1" in request.full_url:
            return real(request, **options)
        raise urllib.error.URLError(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", resolve)
    urls = [f"{server.address}/0.jpg", "http://gone.invalid/x.jpg", f"{server.address}/1.jpg"]
    assert reasons(table(tmp_path, urls)).keys() == {"x.jpg"}
    assert not waits, "a name that is not known is not asked for again"


def records(count: int) -> list[Record]:
    return [Record(str(number), Remote(f"http://x/{number}")) for number in range(count)]


@pytest.mark.parametrize("first, failing, stops", [(3, 31, False), (3, 32, True), (0, 64, True)])
def test_a_cable_that_is_unplugged_ends_the_reading(
    monkeypatch: pytest.MonkeyPatch, first: int, failing: int, stops: bool
) -> None:
    down = {f"http://x/{number}" for number in range(first, first + failing)}

    def fetch(url: str) -> Fetched:
        return Fetched(Unreadable("no route"), True) if url in down else Fetched(b"x")

    monkeypatch.setattr(neurolab.data.remote, "fetch", fetch)
    taken: list[Record] = []
    if stops:
        with pytest.raises(SourceError, match=f"{FAILURES_IN_A_ROW} images in a row .*no route.*same"):
            taken.extend(fetched(records(200)))
        assert len(taken) == first, "of those that failed none is given"
    else:
        taken.extend(fetched(records(200)))
        assert [record.key for record in taken] == [str(number) for number in range(200)]
        assert sum(isinstance(record.payload, Unreadable) for record in taken) == failing
    assert all(record.payload == b"x" for record in taken[:first])


def test_answers_that_refuse_are_no_sign_of_a_cable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neurolab.data.remote, "fetch", lambda url: Fetched(Unreadable("404")))
    assert len(list(fetched(records(200)))) == 200
    assert [record.key for record in fetched(records(31))] == [str(number) for number in range(31)]


def test_several_are_fetched_at_once_and_few_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(8, timeout=20)
    asked: list[str] = []

    def fetch(url: str) -> Fetched:
        asked.append(url)
        if int(url.rpartition("/")[2]) < 8:
            together.wait()
        return Fetched(url.encode())

    monkeypatch.setattr(neurolab.data.remote, "fetch", fetch)
    rows = iter(records(800))
    given = fetched(rows)
    first = next(given)
    assert first.payload == b"http://x/0"
    assert len(asked) <= 100 and next(rows).key == str(neurolab.data.remote.AHEAD + 1)


def test_rows_with_bytes_are_not_read_ahead() -> None:
    read: list[str] = []

    def rows() -> Iterator[Record]:
        for number in range(9):
            read.append(str(number))
            yield Record(str(number), b"x")

    for record in fetched(rows()):
        assert read[-1] == record.key


def test_hashing_fetches_nothing(tmp_path: Path, server: Server) -> None:
    urls = [f"{server.address}/{number}.jpg" for number in range(6)]
    source = table(tmp_path, urls)
    hashes = {source.limit(2).content_hash(), source.limit(3).content_hash(), source.content_hash()}
    assert len(hashes) == 3
    assert hashes == {table(tmp_path, urls).limit(n).content_hash() for n in (2, 3)} | {source.content_hash()}
    assert len(list(open_source(source).limit(3))) == 3
    assert not server.asked


def test_nobody_there_to_one_who_asks_for_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="Check the network"):
        decode_image(Remote("http://127.0.0.1:9/x.jpg"))


def unreachable(monkeypatch: pytest.MonkeyPatch, gone: set[str]) -> None:
    """No network for the URLs that end in `gone`; behind the others there is an image."""

    def fetch(url: str) -> Fetched:
        if url.rpartition("/")[2] in gone:
            return Fetched(Unreadable(f"{url} cannot be fetched"), by_network=True)
        return Fetched(encoded(1))

    monkeypatch.setattr(neurolab.data.remote, "fetch", fetch)


def test_a_small_shard_of_which_nothing_comes_is_no_shard_of_bad_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = table(tmp_path, [f"http://x/{number}.jpg" for number in range(5)])
    unreachable(monkeypatch, {f"{number}.jpg" for number in range(5)})
    with pytest.raises(SourceError, match=r"5 images in a row could not be fetched, the last one 4\.jpg"):
        list(fetched(source))
    unreachable(monkeypatch, {f"{number}.jpg" for number in range(1, 5)})
    bad = [isinstance(record.payload, Unreadable) for record in fetched(source)]
    assert bad == [False, True, True, True, True]


def test_a_server_that_fails_has_answered(tmp_path: Path, server: Server) -> None:
    """However many of its rows there are: the network works."""
    server.refused = {"GET": [503]}
    rows = range(FAILURES_IN_A_ROW + 8)
    source = table(tmp_path, [f"{server.address}/{number % 6}.jpg" for number in rows])
    assert all(isinstance(record.payload, Unreadable) for record in fetched(source))


def test_a_silent_server_keeps_no_process_from_ending(tmp_path: Path) -> None:
    """Ctrl-C is not waited for by threads that wait for a server."""
    code = (
        "import threading, time; from neurolab.data.daemons import DaemonPool; pool = DaemonPool(2, 'x');"
        "futures = [pool.submit(time.sleep, 600) for _ in range(5)]; time.sleep(0.1); pool.close();"
        "print([future.cancelled() for future in futures], pool.submit(len, 'abc').done())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("]")[0] == "[False, False, True, True, True"


def test_threads_that_nobody_waits_for_give_results_and_errors() -> None:
    pool = DaemonPool(3, "test")
    results = [pool.submit(divmod, number, 3) for number in range(20)]
    assert [future.result() for future in results] == [divmod(number, 3) for number in range(20)]
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result()
    pool.close()
