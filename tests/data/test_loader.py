"""Loading: the same groups whatever happened before, workers that survive any image, nothing left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import neurolab.data.pool
from neurolab.data.decode import ImageTransform, decode_image, resize_crop
from neurolab.data.loader import ALL_DONE, Batch, load_batches
from neurolab.data.sources import Record, Shard, open_source
from neurolab.errors import SourceError
from tests.data.making import (
    Chatty,
    Greedy,
    Killer,
    MemorySource,
    NeedsNoTorch,
    Signalled,
    Slow,
    Square,
    encoded,
    samples,
    write_tar,
)

SMALL = ImageTransform((8, 8), thumbnail=16)


def children() -> list[int]:
    """The processes that this one started and that are still there, zombies too."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(entry.parent.name))
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before, threads = set(children()), threading.active_count()
    yield
    gc.collect()
    assert set(children()) <= before
    assert threading.active_count() <= threads


def mixed(count: int = 30) -> MemorySource:
    """Good images with a bad one at every seventh place, in two shards."""
    records = [
        Record(f"{i}", b"bad" if i % 7 == 3 else encoded(i), (f"picture {i}",), {"label": str(i)})
        for i in range(count)
    ]
    return MemorySource({"a": records[: count // 2], "b": records[count // 2 :]})


def told(batches: Sequence[Batch]) -> list[tuple[object, ...]]:
    """Everything about batches, as values that compare."""
    return [
        (
            b.shard,
            b.number,
            b.start,
            b.stop,
            b.images.tobytes(),
            [vars(i) for i in b.items],
            b.skipped,
            b.notes,
        )
        for b in batches
    ]


def test_batches_hold_what_the_source_has() -> None:
    batches = list(load_batches(mixed(), SMALL, batch_size=4))
    assert [(b.shard, b.number, b.start, b.stop) for b in batches] == [
        *(("a", 0, 0, 4), ("a", 1, 4, 8), ("a", 2, 8, 12), ("a", 3, 12, 15)),
        *(("b", 0, 0, 4), ("b", 1, 4, 8), ("b", 2, 8, 12), ("b", 3, 12, 15)),
    ]
    assert [[item.key for item in b.items] for b in batches[:2]] == [["0", "1", "2"], ["4", "5", "6", "7"]]
    assert [(skip.key, skip.reason) for skip in batches[0].skipped] == [
        ("3", "not an image in a format that Pillow reads")
    ]
    item = batches[0].items[1]
    assert (item.captions, item.labels, item.width, item.height) == (("picture 1",), {"label": "1"}, 24, 20)
    assert max(decode_image(item.thumbnail).size) == 16
    assert np.array_equal(batches[0].images[1], resize_crop(decode_image(encoded(1)), (8, 8)))
    assert batches[0].images.dtype == np.uint8


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    alone = list(load_batches(mixed(), SMALL, batch_size=4))
    assert told(list(load_batches(mixed(), SMALL, batch_size=4, workers=workers))) == told(alone)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.booleans(), max_size=12), max_size=4), st.integers(1, 7), st.data())
def test_grouping_depends_on_nothing_else(shards: list[list[bool]], size: int, data: st.DataObject) -> None:
    """Whatever is bad and whatever was done: a group is the same records, and its batch the same bytes."""
    good = encoded(0)
    source = MemorySource(
        {
            f"s{n}": [Record(f"{n}/{i}", good if ok else b"") for i, ok in enumerate(shard)]
            for n, shard in enumerate(shards)
        },
        sized=data.draw(st.booleans()),
    )
    whole = list(load_batches(source, SMALL, batch_size=size))
    for batch in whole:
        keys = [f"{batch.shard[1:]}/{i}" for i in range(batch.start, batch.stop)]
        assert sorted([i.key for i in batch.items] + [s.key for s in batch.skipped]) == sorted(keys)
        assert batch.start == batch.number * size
        assert len(batch.images) == len(batch.items)
    done = {f"s{n}": data.draw(st.integers(-1, 5), label="done") for n in range(len(shards))}
    resumed = list(load_batches(source, SMALL, batch_size=size, done=done))
    expected = [b for b in whole if done[b.shard] != ALL_DONE and b.number >= done[b.shard]]
    assert told(resumed) == told(expected)


def test_finished_shards_are_not_read() -> None:
    source = mixed()
    list(load_batches(source, SMALL, batch_size=4, done={"a": 4, "b": ALL_DONE}))
    assert source.reads == []


def plain(sizes: dict[str, int], sized: bool = True) -> MemorySource:
    return MemorySource(
        {name: [Record(f"{i}", b"")] * size for i, (name, size) in enumerate(sizes.items())}, sized
    )


def test_nothing_is_read_behind_the_end_of_a_shard() -> None:
    """Be it so many whole groups or not."""
    source = plain({"whole": 8, "more": 9, "less": 7})
    list(load_batches(source, SMALL, batch_size=4, done={"whole": 2, "more": 2, "less": 2}))
    assert source.reads == [("more", 8)]


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("size", range(1, 10))
def test_a_batch_says_whether_it_ends_its_shard(size: int, sized: bool) -> None:
    """Of a stream a full last group does not know it."""
    ends = [batch.ends for batch in load_batches(plain({"s": size}, sized), SMALL, batch_size=3)]
    assert ends == [False] * (len(ends) - 1) + [sized or size % 3 > 0]


def test_a_batch_may_be_empty() -> None:
    source = MemorySource({"s": [Record("a", b""), Record("b", b"")]})
    for workers in (0, 1):
        (batch,) = load_batches(source, SMALL, workers=workers)
        assert batch.images.shape == (0, 8, 8, 3)
        assert (batch.items, len(batch.skipped), batch.stop) == ([], 2, 2)


def test_notes_come_through() -> None:
    source = MemorySource({"s": [Record("a", encoded(1), notes=("a.json: not JSON",))]})
    for workers in (0, 1):
        (batch,) = load_batches(source, SMALL, workers=workers)
        assert batch.notes == [("a", "a.json: not JSON")]


def test_a_decoder_that_dies_costs_its_own_image_only() -> None:
    records = [Record(f"{i}", Square(i)) for i in range(20)]
    for i, killer in ((2, Killer()), (3, Killer(0)), (11, Greedy())):
        records[i] = Record(f"{i}", killer)
    source = MemorySource({"s": records})
    batches = list(load_batches(source, SMALL, batch_size=5, workers=2))
    kept = [item.key for batch in batches for item in batch.items]
    assert kept == [f"{i}" for i in range(20) if i not in (2, 3, 11)]
    skipped = [skip for batch in batches for skip in batch.skipped]
    assert [skip.key for skip in skipped] == ["2", "3", "11"]
    assert skipped[0].reason == "the decoder died of it (exit status 7)"
    assert [int(image[0, 0, 0]) for batch in batches for image in batch.images] == [int(key) for key in kept]


def with_one_signalled(tmp_path: Path, number: int, times: int) -> MemorySource:
    """Twelve good images, of which the eighth is drawn in a process that gets a signal so many times."""
    records = [Record(f"{i}", Square(i)) for i in range(12)]
    records[7] = Record("7", Signalled(number, times, tmp_path / "drawn"))
    return MemorySource({"s": records})


@pytest.mark.parametrize("times", [1, 2])
def test_a_worker_killed_from_outside_costs_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(neurolab.data.pool, "PAUSE_SECONDS", 0.01)
    source = with_one_signalled(tmp_path, signal.SIGKILL, times)
    batches = list(load_batches(source, SMALL, batch_size=4, workers=1))
    assert [skip for batch in batches for skip in batch.skipped] == []
    assert [item.key for batch in batches for item in batch.items] == [f"{i}" for i in range(12)]


def test_workers_killed_again_and_again_end_the_pass_and_blame_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neurolab.data.pool, "PAUSE_SECONDS", 0.01)
    source, seen = with_one_signalled(tmp_path, signal.SIGKILL, 99), []
    with pytest.raises(SourceError, match=r"had 7 were killed.*short of memory. Give fewer workers"):
        for batch in load_batches(source, SMALL, batch_size=4, workers=1):
            seen += [item.key for item in batch.items]
    assert seen == ["0", "1", "2", "3"]
    assert (tmp_path / "drawn").stat().st_size == 3


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_decoder_that_crashes_is_tried_no_third_time(tmp_path: Path, number: int) -> None:
    batches = list(load_batches(with_one_signalled(tmp_path, number, 99), SMALL, batch_size=4, workers=1))
    (skip,) = [skip for batch in batches for skip in batch.skipped]
    assert skip == ("7", f"the decoder died of it (signal {int(number)})")
    assert (tmp_path / "drawn").stat().st_size == 2


def test_workers_import_little_and_may_print() -> None:
    source = MemorySource(
        {"s": [Record("a", NeedsNoTorch()), Record("b", Chatty()), Record("c", NeedsNoTorch())]}
    )
    (batch,) = load_batches(source, SMALL, workers=1)
    assert batch.skipped == []
    assert len(batch.items) == 3


def test_leaving_early_ends_the_workers() -> None:
    source = MemorySource({"s": [Record(f"{i}", Slow(0.05)) for i in range(400)]})
    batches = load_batches(source, SMALL, batch_size=4, workers=2)
    next(batches)
    assert len(children()) >= 2
    batches.close()  # type: ignore[attr-defined]
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        for _ in load_batches(source, SMALL, batch_size=4, workers=2):
            raise KeyboardInterrupt
    gc.collect()
    assert time.monotonic() - start < 5, "400 slow images were not waited for"


def test_a_consumer_that_forgets_the_iterator() -> None:
    batches = load_batches(mixed(), SMALL, batch_size=2, workers=2)
    next(batches)
    del batches
    gc.collect()


class Failing(MemorySource):
    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        yield from self.records[shard.name][:5]
        raise SourceError("the disk is gone")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_that_fails_is_raised_after_what_it_gave(workers: int) -> None:
    source = Failing({"s": [Record(f"{i}", encoded(i)) for i in range(9)]})
    seen = []
    with pytest.raises(SourceError, match="the disk is gone"):
        for batch in load_batches(source, SMALL, batch_size=2, workers=workers):
            seen.append(batch.number)
    assert seen == [0, 1]


def test_few_groups_are_read_ahead() -> None:
    given = 0

    class Counting(MemorySource):
        def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
            nonlocal given
            for i in range(1000):
                given += 1
                yield Record(f"{i}", Square(0))

    source = Counting({"s": []}, sized=False)
    batches = load_batches(source, SMALL, batch_size=2, workers=2)
    for taken in range(1, 6):
        next(batches)
        time.sleep(0.1)
        assert given <= 2 * (taken + 2 * 2 + 1)
    batches.close()  # type: ignore[attr-defined]


def test_drawings_that_cannot_travel_are_told() -> None:
    for drawing in (lambda: None, MainOnly()):
        source = MemorySource({"s": [Record("x", b"bad"), Record("mine", drawing)]})  # type: ignore[arg-type]
        with pytest.raises(SourceError, match="drawing of mine cannot be sent to a decode worker"):
            list(load_batches(source, SMALL, workers=1))


class MainOnly:
    """Pickles as something that no worker can import."""

    def __call__(self) -> None:
        return None

    def __reduce__(self) -> tuple[object, ...]:
        return (_Unimportable(), ())


class _Unimportable:
    def __reduce__(self) -> str:
        return "only_in_this_process"

    def __call__(self) -> None:
        return None


only_in_this_process = _Unimportable()


def test_a_worker_that_cannot_start_is_not_blamed_on_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neurolab.data.pool.sys, "executable", "/bin/false")
    with pytest.raises(SourceError, match=r"does not start \(/bin/false"):
        list(load_batches(mixed(), SMALL, workers=1))


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        load_batches(mixed(), SMALL, batch_size=0)
    with pytest.raises(ValueError, match="workers"):
        load_batches(mixed(), SMALL, workers=-1)


SCRIPT = """
import sys
from neurolab.data.decode import ImageTransform
from neurolab.data.loader import load_batches
from neurolab.data.sources import open_source
print("started", flush=True)
print(sum(len(b.items) for b in load_batches(open_source(sys.argv[1]), ImageTransform((8, 8)), workers=2)))
"""


@pytest.mark.parametrize("way", ["script", "module", "stdin"])
def test_programs_without_a_main_guard(image_folder: Path, tmp_path: Path, way: str) -> None:
    """multiprocessing would start such a program again in each worker."""
    (tmp_path / "program.py").write_text(SCRIPT)
    command = {"script": ["program.py"], "module": ["-m", "program"], "stdin": ["-"]}[way]
    done = subprocess.run(
        [sys.executable, *command, str(image_folder)],
        input=SCRIPT if way == "stdin" else "",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["started", "24"]


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = SCRIPT.replace(
        "print(sum",
        "import os\nfor b in load_batches(open_source(sys.argv[1]), "
        "ImageTransform((8, 8)), batch_size=1, workers=2): os.kill(os.getpid(), 9)\nprint(sum",
    )
    for i in range(60):
        (tmp_path / f"{i}.jpg").write_bytes(encoded(i))
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=False)
    # Workers inherit the error stream: waiting for its end is waiting for them.
    assert killed.returncode == -9


def test_loading_in_threads(image_folder: Path) -> None:
    """As pages of Streamlit do: each thread its own workers."""
    counts: list[int] = []

    def load() -> None:
        counts.append(sum(len(b.items) for b in load_batches(open_source(image_folder), SMALL, workers=1)))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [24, 24, 24]


def test_a_broken_shard_ends_up_in_the_report(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", samples(5))
    path.write_bytes(path.read_bytes()[:6000])
    batches = list(load_batches(open_source(path), SMALL, batch_size=2, workers=1))
    last = batches[-1].skipped[-1]
    assert last.key == "x/(end of the shard)"
    assert "broken off after 2 samples" in last.reason
    assert sum(b.stop - b.start for b in batches) == len(open_source(path))


def test_real_photos_through_workers(neurolab_data: Path) -> None:
    source = open_source(neurolab_data / "flickr8k" / "flickr8k-dev-000.tar").limit(128)
    transform = ImageTransform((224, 224))
    one, two = (list(load_batches(source, transform, workers=workers)) for workers in (0, 2))
    assert told(one) == told(two)
    assert sum(len(batch.items) for batch in one) == 128
