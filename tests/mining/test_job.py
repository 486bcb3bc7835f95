"""A build at work: what its checkpoint is of, and what it leaves to read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurolab.atlas.manifest import BUILDING
from neurolab.data.sources import Record, Shard
from neurolab.errors import AtlasError
from neurolab.mining.job import CHECKPOINT, Job
from tests.mining.small_build import NoiseSource, Unmeasured, small_build


class Asked(Unmeasured):
    """Streams, and which of them were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        self.asked.append(shard.name)
        yield from super().read(shard, start, stop)


def test_a_stream_that_was_read_to_its_end_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is the last, whose last group was full, so that only reading on told that it ended."""
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Job, "finish", lambda self: (_ for _ in ()).throw(MemoryError))
        small_build(tmp_path / "a", first := Asked(), batch_size=13)
    assert first.asked == ["first", "second"]
    atlas = small_build(tmp_path / "a", again := Asked(), batch_size=13)
    assert again.asked == [] and len(atlas) == 61


def test_a_checkpoint_of_other_sites_is_refused(tmp_path: Path) -> None:
    """Which a copied folder may hold; its state counts what this build does not read."""
    for name, sites in (("other", ["0"]), ("swapped", ["2", "0"]), ("atlas", ["0", "2"])):
        with pytest.raises(KeyboardInterrupt):
            small_build(tmp_path / name, NoiseSource(fail_at=20), sites=sites)
    path = tmp_path / "atlas" / BUILDING / CHECKPOINT
    for name in ("other", "swapped"):
        shutil.copy(tmp_path / name / BUILDING / CHECKPOINT, path)
        with pytest.raises(AtlasError, match=r"checkpoint\.npz is of other sites; overwrite=True"):
            small_build(tmp_path / "atlas")
    again = NoiseSource()
    small_build(tmp_path / "atlas", again, overwrite=True)
    assert again.count == 63
