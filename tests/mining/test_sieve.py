"""The device's side of mining: the summaries are those of the host alone, byte by byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurolab.atlas.reductions import OnDevice, Reduced
from neurolab.mining import sieve as sieve_module
from neurolab.mining.draws import Draws
from neurolab.mining.remembered import Kept, SiteSummaries
from neurolab.mining.sieve import Sieve, sieves
from neurolab.mining.summaries import TopK, draw_hashes

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]
EDGES = {"a": (-2.0, 3.0), "b": (-1e-3, 1e-3)}
Values = dict[str, NDArray[np.float32]]


def summaries(kept: Kept, units: dict[str, int]) -> dict[str, SiteSummaries]:
    return {
        site: SiteSummaries.empty(count, kept, np.tile(np.linspace(*EDGES[site], kept.bins + 1), (count, 1)))
        for site, count in units.items()
    }


def hashes_of(first: int, count: int) -> NDArray[np.uint64]:
    return draw_hashes([f"image {number}" for number in range(first, first + count)])


def places_of(values: NDArray[np.float32], first: int) -> NDArray[np.int32]:
    """Some place for every value."""
    rows = np.arange(first, first + len(values))[:, None]
    return ((rows * 31 + np.arange(values.shape[1]) * 7) % 49).astype(np.int32)


def by_host(sites: dict[str, SiteSummaries], batches: list[Values], concepts: int) -> None:
    first = 0
    for batch in batches:
        count = len(next(iter(batch.values())))
        images, hashes = np.arange(first, first + count), hashes_of(first, count)
        for site, values in batch.items():
            reduced = Reduced(values, places_of(values, first))
            sites[site].update(reduced, images, hashes, concepts_of(images, concepts))
        first += count


def by_device(
    sites: dict[str, SiteSummaries], batches: list[Values], concepts: int, device: str = "cpu"
) -> list[int]:
    """The same with a sieve, which is drained now and then; how many values of each batch it let through."""
    sieve, first, entries = Sieve(sites, torch.device(device)), 0, []
    for number, batch in enumerate(batches):
        count = len(next(iter(batch.values())))
        images, hashes = np.arange(first, first + count), hashes_of(first, count)
        sifted = sieve.sift(on_device(batch, first, device), hashes)
        sieve.take(sifted, images, concepts_of(images, concepts))
        entries.append(len(sifted.entries.units))
        if number % 3 == 0:
            sieve.drain()
        first += count
    sieve.drain()
    return entries


def on_device(batch: Values, first: int, device: str = "cpu") -> dict[str, OnDevice]:
    arrays = {site: (values, places_of(values, first)) for site, values in batch.items()}
    return {
        site: OnDevice(*(torch.from_numpy(array).to(device) for array in both))
        for site, both in arrays.items()
    }


def concepts_of(images: NDArray[np.int64], concepts: int) -> NDArray[np.int64] | None:
    return images % (concepts + 1) - 1 if concepts else None


def assert_same(some: dict[str, SiteSummaries], others: dict[str, SiteSummaries]) -> None:
    for site, one in some.items():
        mine, theirs = one.state(), others[site].state()
        assert mine.keys() == theirs.keys()
        for name, array in mine.items():
            assert array.dtype == theirs[name].dtype, (site, name)
            assert array.tobytes() == theirs[name].tobytes(), (site, name)


def rough(rng: np.random.Generator, rows: int, units: int, scale: float) -> NDArray[np.float32]:
    """Values with ties, zeros of both signs, numbers of every size, infinities and NaN among them."""
    values = rng.standard_normal((rows, units)) * scale
    kind = rng.integers(0, 14, (rows, units))
    values = np.where(kind == 0, np.round(values / scale) * scale, values)
    values = np.where(kind == 1, 0.0, values)
    values = np.where(kind == 2, -0.0, values)
    values = np.where(kind == 3, values * 10.0 ** rng.integers(-44, 36, (rows, units)), values)
    with np.errstate(over="ignore"):
        floats = values.astype(np.float32)
    odd = rng.random((rows, units))
    floats[odd < 0.01] = np.nan
    floats[(odd >= 0.01) & (odd < 0.015)] = np.inf
    floats[(odd >= 0.015) & (odd < 0.02)] = -np.inf
    return floats


def smooth(rng: np.random.Generator, rows: int, units: int, scale: float) -> NDArray[np.float32]:
    return (rng.standard_normal((rows, units)) * scale).astype(np.float32)


KEPT = Kept(k=3, bins=5, bottom=2, buckets=4, bucket_images=3, concepts=2, coactivation=64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kept", [KEPT, Kept(k=70, bins=8, bottom=0, bucket_images=0), Kept(buckets=7)])
@settings(deadline=None)  # the first call on a GPU takes its time
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    is_rough=st.booleans(),
)
def test_a_sieve_leaves_what_the_host_would(
    device: str, kept: Kept, seed: int, sizes: list[int], is_rough: bool
) -> None:
    rng = np.random.default_rng(seed)
    make = rough if is_rough else smooth
    units = {"a": 3, "b": 2}
    batches = [{"a": make(rng, n, 3, 1.0), "b": make(rng, n, 2, 1e-3)} for n in sizes]
    host, there = summaries(kept, units), summaries(kept, units)
    by_host(host, batches, kept.concepts)
    by_device(there, batches, kept.concepts, device)
    assert_same(host, there)


@pytest.mark.parametrize("kept", [Kept(k=2, bottom=2, bucket_images=0), Kept(k=90, bottom=90)])
def test_what_only_just_reaches_the_bar_is_let_through(kept: Kept) -> None:
    """The numbers next to the worst that is kept; and where none is, the infinities."""
    below, above = np.nextafter(np.float32(1), np.float32([0, 2]))
    ends = [[np.inf], [-np.inf], [1.0] * 200, [below], [above]]
    batches = [{"a": np.array(values, np.float32)[:, None]} for values in ends]
    host, there = summaries(kept, {"a": 1}), summaries(kept, {"a": 1})
    by_host(host, batches, 0)
    by_device(there, batches, 0)
    assert_same(host, there)


@pytest.fixture
def long() -> list[Values]:
    rng = np.random.default_rng(0)
    return [{"a": smooth(rng, 50, 40, 1.0)} for _ in range(60)]


def test_of_a_long_pass_little_is_let_through(long: list[Values]) -> None:
    kept = Kept(k=20, bins=8, bottom=5, buckets=8, bucket_images=4)
    sites = summaries(kept, {"a": 40})
    entries = by_device(sites, long, 0)
    assert entries[0] == 50 * 40
    # Of the last 1,000 of 3,000 images, by chance: the best 25, and 4 of each level; some more, as the bar
    # is not raised with each image.
    assert 0.005 < sum(entries[-20:]) / (20 * 50 * 40) < 2 * (25 + 8 * 4) / 2500


def test_what_was_sifted_too_early_may_be_taken_later(long: list[Values]) -> None:
    """What is let through before the last batches were taken in is more than is needed, never less."""
    kept = Kept(k=20, bins=8, bottom=5, buckets=8, bucket_images=4)
    host, there = summaries(kept, {"a": 40}), summaries(kept, {"a": 40})
    by_host(host, long, 0)
    sieve = Sieve(there, torch.device("cpu"))
    for start in range(0, len(long), 4):
        numbers = [(50 * turn, hashes_of(50 * turn, 50)) for turn in range(start, start + 4)]
        early = [
            sieve.sift(on_device(batch, *number[:1]), number[1])
            for batch, number in zip(long[start : start + 4], numbers, strict=True)
        ]
        for sifted, (first, _) in zip(early, numbers, strict=True):
            sieve.take(sifted, np.arange(first, first + 50), None)
    sieve.drain()
    assert_same(host, there)


def test_a_bar_too_high_and_a_width_too_old_are_noticed(
    long: list[Values], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(k=20, bins=8, bottom=5, buckets=8, bucket_images=4)
    host = summaries(kept, {"a": 40})
    by_host(host, long, 0)
    right = TopK.bar.fget
    for where, name, wrong in (
        (TopK, "bar", property(lambda self: right(self) + np.float32(0.3))),
        (Draws, "_outgrown", lambda self, low, high: torch.zeros(40, dtype=torch.bool)),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(where, name, wrong)
            there = summaries(kept, {"a": 40})
            by_device(there, long, 0)
        with pytest.raises(AssertionError):
            assert_same(host, there)


def test_sites_are_sifted_together_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sieve_module, "UNITS_AT_ONCE", 6)
    sites = {str(units): SiteSummaries.empty(units, KEPT, np.zeros((units, 6))) for units in (4, 2, 1, 9, 3)}
    found = sieves(sites, torch.device("cpu"), {"9": 2, "3": 3})
    assert [list(one.sites) for one in found] == [["4", "2"], ["1"], ["9"], ["3"]]
