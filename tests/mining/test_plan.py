"""What a plan says against what a build then takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from neurolab.atlas.reductions import Reduced
from neurolab.data.items import Batch, Item
from neurolab.data.sources import Record, Shard
from neurolab.errors import AtlasError, SourceError
from neurolab.mining.checkpoint import MiningState, fresh_state
from neurolab.mining.miner import mine
from neurolab.mining.plan import plan
from neurolab.mining.remembered import Kept, SiteSummaries, bytes_per_unit
from neurolab.models.sites import Site
from neurolab.models.zoo import Model
from tests.mining.small_build import NoiseSource, small_model

KEPT = Kept(k=20, bins=8, bottom=5, buckets=6, bucket_images=4, coactivation=64)


class Rotten(NoiseSource):
    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for record in super().read(shard, start, stop):
            yield Record(record.key, b"no image")


class Stream(NoiseSource):
    def shards(self) -> list[Shard]:
        return [Shard("first", None)]


def arrays_of(summaries: SiteSummaries) -> Iterator[NDArray[np.generic]]:
    for part in summaries.parts().values():
        for value in vars(part).values():
            array = getattr(value, "digits", value)
            if isinstance(array, np.ndarray):
                yield array


def test_a_plan_is_what_a_build_takes(tiny_clip: Model, image_folder: Path, tmp_path: Path) -> None:
    sites = ["layer2.0", "layer4.0"]
    found = plan(tiny_clip, image_folder, sites, kept=KEPT, batch_size=10, workers=0)
    settings = {name: value for name, value in asdict(KEPT).items() if name != "concepts"}
    states: list[MiningState] = []
    with pytest.MonkeyPatch.context() as patch:
        save = MiningState.save
        patch.setattr(MiningState, "save", lambda self, path: (states.append(self), save(self, path))[1])
        atlas = mine(
            tiny_clip, image_folder, sites, tmp_path / "a", batch_size=10, progress=False, **settings
        )
    assert (found.sites, found.units) == (2, sum(atlas.site(site).units for site in sites))
    assert found.images == len(atlas)
    # Once the edges are known, no array grows any more.
    for summaries in states[-1].sites.values():
        summaries.others()
    held = sum(array.nbytes for summaries in states[-1].sites.values() for array in arrays_of(summaries))
    waited = found.units * len(atlas) * 4 * 2  # all images, for the histograms and for the co-activations
    assert found.memory == pytest.approx(held + waited, rel=0.02)
    written = sum(path.stat().st_size for path in atlas.path.rglob("*") if path.is_file())
    assert found.disk == pytest.approx(written, rel=0.25)
    shapes = [atlas.site(site).shape for site in sites]
    maps = max(atlas.site(s).units * int(np.prod(shape)) for s, shape in zip(sites, shapes, strict=True))
    assert found.activations == 10 * 4 * maps
    assert found.seconds == pytest.approx(len(atlas) / found.images_per_second)


def test_a_plan_of_a_few_units_is_what_their_build_takes(
    tiny_clip: Model, image_folder: Path, tmp_path: Path
) -> None:
    units, concepts = ["layer4.0/1", "layer4.0/5", "layer2.0/0"], {"label": ["even", "odd", "none"]}
    few = plan(
        *(tiny_clip, image_folder, []), units=units, concepts=concepts, limit=15, threads=1, batch_size=10,
        workers=0,
    )  # fmt: skip
    every = plan(tiny_clip, image_folder, ["layer4.0", "layer2.0"], limit=15, batch_size=10, workers=0)
    states: list[MiningState] = []
    with pytest.MonkeyPatch.context() as patch:
        save = MiningState.save
        patch.setattr(MiningState, "save", lambda self, path: (states.append(self), save(self, path))[1])
        atlas = mine(
            *(tiny_clip, image_folder, [], tmp_path / "a"), units=units, concepts=concepts, limit=15,
            batch_size=10, progress=False,
        )  # fmt: skip
    assert (few.sites, few.units, few.images) == (2, 3, 15)
    held = 0
    for summaries in states[-1].sites.values():
        summaries.others()
        held += sum(array.nbytes for array in arrays_of(summaries))
    waited = few.units * len(atlas) * 4  # all images, for the histograms
    assert few.memory == pytest.approx(held + waited, rel=0.02)
    assert few.memory < every.memory / 4
    written = sum(path.stat().st_size for path in atlas.path.rglob("*") if path.is_file())
    assert few.disk == pytest.approx(written, rel=0.25)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"workers": -1}, {"thumbnail": 0}, {"batch_size": 0}])
def test_numbers_with_which_nothing_can_be_mined(wrong: dict[str, int], tmp_path: Path) -> None:
    ((name, number),) = wrong.items()
    with pytest.raises(AtlasError, match=f"{name} is at least {number + 1}, not {number}"):
        plan(small_model(), NoiseSource(), ["0"], **wrong)
    with pytest.raises(AtlasError, match=f"{name} is at least {number + 1}, not {number}"):
        mine(small_model(), NoiseSource(), ["0"], tmp_path / "a", progress=False, **wrong)
    assert not (tmp_path / "a").exists()


def test_a_plan_reads_little_and_writes_nothing(tmp_path: Path) -> None:
    source = NoiseSource()
    found = plan(small_model(), source, ["0"], batch_size=8, workers=0, probe=2)
    assert source.count == 3 * 8
    assert found.images == 63 and found.images_per_second > 0


def test_the_length_of_a_stream_is_not_known() -> None:
    found = plan(small_model(), Stream(), ["0"], batch_size=8, workers=0)
    assert (found.images, found.disk, found.seconds) == (None, None, None)
    assert found.images_per_second > 0


class Wordy(NoiseSource):
    """The same images, with a caption of a thousand letters more."""

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for record in super().read(shard, start, stop):
            yield replace(record, captions=(*record.captions, "x" * 1000))


def test_every_image_of_a_source_needs_its_room_on_the_disk() -> None:
    plain, wordy = (
        plan(small_model(), of, ["0"], batch_size=8, workers=0) for of in (NoiseSource(), Wordy())
    )
    assert plain.disk and wordy.disk and plain.images == 63
    assert wordy.disk - plain.disk == pytest.approx(63 * 1000, abs=1)


def test_tokens_need_room_for_their_places(tiny_vit: Model) -> None:
    """On the disk: images that are drawn of a level say which of their tokens it was."""
    images, tokens = (
        plan(tiny_vit, NoiseSource(), ["block2"], kept=KEPT, workers=0, reduction=reduction)
        for reduction in ("max", "token")
    )
    assert images.disk and tokens.disk
    assert tokens.disk - images.disk == tokens.units * KEPT.buckets * KEPT.bucket_images * 4


@pytest.mark.parametrize(("limit", "rate"), [(None, 24 / 3), (16, 8 / 1), (8, 8 / 100)])
def test_the_first_batch_warms_up_where_there_is_another(
    limit: int | None, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes 100 seconds here, and each behind it one."""
    clock = iter([0, *range(100, 110)])
    monkeypatch.setattr("neurolab.mining.plan.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    source = NoiseSource() if limit is None else NoiseSource().limit(limit)
    found = plan(small_model(), source, ["0"], batch_size=8, workers=0)
    assert found.images_per_second == rate


@pytest.mark.parametrize("images", [8, 9, 16, 5])
def test_a_source_of_few_batches_has_a_rate_too(images: int) -> None:
    found = plan(small_model(), NoiseSource().limit(images), ["0"], batch_size=8, workers=0)
    assert found.images == images and 0 < found.images_per_second < np.inf
    assert found.seconds == pytest.approx(images / found.images_per_second)


def test_a_source_without_images_cannot_be_planned_by() -> None:
    with pytest.raises(SourceError, match="the first images of noise cannot be read"):
        plan(small_model(), Rotten(), ["0"], workers=0)


def test_bytes_grow_with_what_is_kept() -> None:
    memory, disk = bytes_per_unit(Kept())
    for more in (Kept(bottom=90), Kept(bucket_images=32), Kept(coactivation=64), Kept(k=200), Kept(bins=128)):
        assert bytes_per_unit(more)[0] > memory and bytes_per_unit(more)[1] > disk


def test_memory_is_no_more_than_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many more images than the sample; and one site after the other is saved. On one thread: what is
    needed for a moment to take in a site would else be there of several sites or not, as it happens."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    kept, units, images = replace(KEPT, sample=256), 1500, 400
    names = ["a", "b", "c", "d"]
    sites = [Site(name, name, "linear", units, (), "vector") for name in names]
    stated = bytes_per_unit(kept)[0] * units * len(names)
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        state = fresh_state(sites, kept)
        for start in range(0, images, 16):
            values = rng.standard_normal((16, units), dtype=np.float32)
            reduced = Reduced(values, np.zeros(values.shape, np.int32))
            items = [Item(f"{start + i}", (), {}, 1, 1, b"") for i in range(16)]
            batch = Batch("s", start // 16, np.empty((16, 0)), items, [], start, start + 16)
            state.take(batch, dict.fromkeys(names, reduced))
        _, peak = tracemalloc.get_traced_memory()
        assert 0.9 * stated < peak < 1.15 * stated
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        state.save(tmp_path / "state.npz")
        assert tracemalloc.get_traced_memory()[1] - held < 1.5 * stated / len(names)
    finally:
        tracemalloc.stop()
