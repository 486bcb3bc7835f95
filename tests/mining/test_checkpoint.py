"""The state on the disk, and what Ctrl-C may interrupt."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from neurolab.atlas.reductions import Reduced
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
