"""The state on the disk, and what Ctrl-C may interrupt."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from neurolab.atlas.reductions import Reduced
from neurolab.atlas.shards import ShardRow
from neurolab.atlas.writing import read_npz
from neurolab.data.items import Batch, Item, Skip
from neurolab.data.loader import ALL_DONE
from neurolab.errors import AtlasError
from neurolab.mining.checkpoint import MiningState, fresh_state, interrupts_deferred
from neurolab.mining.remembered import Kept
from neurolab.mining.summaries import draw_hashes


class SiteOf(NamedTuple):
    name: str
    units: int


def feed(state: MiningState, seed: int, count: int = 9) -> None:
    rng = np.random.default_rng(seed)
    images = np.arange(state.images, state.images + count)
    for summaries in state.sites.values():
        values = rng.standard_normal((count, summaries.top.units)).astype(np.float32)
        reduced = Reduced(values, np.indices(values.shape, np.int32).sum(axis=0, dtype=np.int32))
        summaries.update(reduced, images, draw_hashes([f"{seed}/{image}" for image in images]))
    state.images += count
    state.skipped.append((f"bad é{seed}.jpg", "empty: 0 bytes"))
    state.done["shard/α"] = state.done.get("shard/α", 0) + 1


def test_saved_and_loaded_it_goes_on_the_same(tmp_path: Path) -> None:
    sites = [SiteOf("visual.layer4.2.act3:in", 5), SiteOf("head", 3)]
    kept = Kept(k=4, bins=8, bottom=3, buckets=4, bucket_images=2)
    straight, halted = fresh_state(sites, kept), fresh_state(sites, kept)
    for seed in range(6):
        feed(straight, seed)
        feed(halted, seed)
        halted.save(tmp_path / "state.npz")
        halted = MiningState.load(tmp_path / "state.npz")
    assert (halted.done, halted.images, halted.records) == ({"shard/α": 6}, 54, 60)
    assert halted.skipped == straight.skipped
    straight.save(tmp_path / "straight.npz")
    assert (tmp_path / "straight.npz").read_bytes() == (tmp_path / "state.npz").read_bytes()


def test_statistics_show_what_fell_outside_the_bins() -> None:
    state = fresh_state([SiteOf("site", 2)], Kept(k=3, bins=4))
    summaries = state.sites["site"]
    summaries.histogram.sample = 10
    values = np.linspace(0, 1, 10, dtype=np.float32)[:, None].repeat(2, axis=1)
    later = np.array([[-5, 0.5], [9, 0.5], [0.5, 0.5]], np.float32)
    for batch in (values, later):
        summaries.update(
            Reduced(batch, np.zeros(batch.shape, np.int32)),
            np.arange(len(batch)),
            draw_hashes([str(i) for i in range(len(batch))]),
        )
    found = summaries.statistics()
    np.testing.assert_allclose(found["edges"][0], [-5, -0.25, 0.125, 0.5, 0.875, 1.25, 9])
    np.testing.assert_allclose(found["edges"][1], [-0.25, -0.25, 0.125, 0.5, 0.875, 1.25, 1.25])
    assert found["histogram"][:, [0, -1]].tolist() == [[1, 1], [0, 0]]
    assert found["histogram"].sum(axis=1).tolist() == [13, 13]
    assert (found["count"] == 13).all()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    state = fresh_state([SiteOf("site", 2)], Kept(k=3, bins=4))
    state.save(path)
    np.savez(tmp_path / "other.npz", about=np.frombuffer(b'{"done": {}}', np.uint8))
    with pytest.raises(AtlasError, match=r"other\.npz is damaged"):
        MiningState.load(tmp_path / "other.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AtlasError, match=r"state\.npz"):
        MiningState.load(path)


def test_ctrl_c_waits_for_the_end_of_the_batch() -> None:
    state = fresh_state([SiteOf("site", 1)], Kept(k=1, bins=1))
    reached = False
    with pytest.raises(KeyboardInterrupt), state.taking():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        reached = True
    assert reached and not state.torn
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture
def python_interrupts() -> Iterator[None]:
    """Whatever a test makes of SIGINT, the next has Python's handler again."""
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.usefixtures("python_interrupts")
def test_a_job_in_the_background_is_not_interrupted() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_deferred():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.usefixtures("python_interrupts")
@pytest.mark.parametrize("times", [0, 1, 3])
def test_a_handler_of_ones_own_is_called_behind_the_batch(times: int) -> None:
    calls: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    with interrupts_deferred():
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
        assert calls == []
    assert calls == [signal.SIGINT] * min(times, 1)
    os.kill(os.getpid(), signal.SIGINT)
    assert len(calls) == min(times, 1) + 1


@pytest.mark.usefixtures("python_interrupts")
def test_an_interrupt_is_not_lost_in_an_error() -> None:
    calls: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    with pytest.raises(MemoryError), interrupts_deferred():
        os.kill(os.getpid(), signal.SIGINT)
        raise MemoryError
    assert calls == [signal.SIGINT]


def test_an_error_inside_a_batch_marks_the_state_as_torn() -> None:
    state = fresh_state([SiteOf("site", 1)], Kept(k=1, bins=1))
    with pytest.raises(MemoryError), state.taking():
        raise MemoryError
    assert state.torn


def test_other_threads_have_nothing_to_defer() -> None:
    entered = []

    def work() -> None:
        with interrupts_deferred():
            entered.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [True]


def batch_of(shard: str, number: int, kept: int, bad: int, ends: bool = False) -> Batch:
    """With a note on its first record."""
    keys = [f"{shard}/{number}/{i}" for i in range(kept + bad)]
    items = [Item(key, (), {}, 4, 4, b"") for key in keys[:kept]]
    skipped, notes = [Skip(key, "empty") for key in keys[kept:]], [Skip(keys[0], "no caption")]
    start = number * 4
    stop = start + len(keys)
    images = np.empty((kept, 0, 0, 3), np.uint8)
    return Batch(shard, number, images, items, skipped, start, stop, notes, ends)


# The last group of "b" is full, and "c" a stream that tells its end only by being read on.
BATCHES = [
    batch_of("a", 0, 4, 0),
    batch_of("a", 1, 0, 2, ends=True),
    batch_of("b", 0, 3, 1),
    batch_of("b", 1, 4, 0),
    batch_of("c", 0, 2, 2),
]
ROWS = [ShardRow("a", 6, 4, 2, 0), ShardRow("b", 8, 7, 1, 4), ShardRow("c", 4, 2, 2, 11)]


def test_a_shard_has_a_row_and_is_finished_when_nothing_can_be_behind(tmp_path: Path) -> None:
    state, finished = fresh_state([], Kept()), []
    for batch in BATCHES:
        state.take(batch, {})
        state.save(tmp_path / "state.npz")
        state = MiningState.load(tmp_path / "state.npz")
        finished.append([row.name for row in state.finished])
    assert finished == [[], ["a"], ["a"], ["a"], ["a", "b"]]
    assert state.done == {"a": ALL_DONE, "b": ALL_DONE, "c": 1}
    state.end()
    assert state.shards == state.finished == ROWS


@pytest.mark.parametrize("cuts", list(product([False, True], repeat=len(BATCHES) - 1)))
def test_rows_of_parts_are_those_of_one_pass(cuts: tuple[bool, ...]) -> None:
    """However the batches are cut into parts, also in the middle of a shard."""
    state, part = fresh_state([], Kept()), fresh_state([], Kept())
    for batch, cut in zip(BATCHES, (*cuts, True), strict=True):
        part.take(batch, {})
        if cut:
            state.append(part)
            part = fresh_state([], Kept())
    assert state.shards == ROWS
    assert [row.name for row in state.finished] == ["a", "b"]
    assert state.records == sum(row.records for row in ROWS)
    assert state.notes == [note for batch in BATCHES for note in batch.notes]
    assert state.skipped == [skip for batch in BATCHES for skip in batch.skipped]


def test_a_checkpoint_without_rows_is_of_an_earlier_version(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    fresh_state([], Kept()).save(path)
    about = json.loads(read_npz(path)["about"].tobytes())
    del about["shards"]
    np.savez(path, about=np.frombuffer(json.dumps(about).encode(), np.uint8))
    with pytest.raises(AtlasError, match=r"earlier neurolab.*overwrite"):
        MiningState.load(path)
