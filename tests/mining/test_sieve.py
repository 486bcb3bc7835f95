"""The device's side of mining: the summaries are those of the host alone, byte by byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurolab.atlas.reductions import OnDevice, Reduced
from neurolab.mining.remembered import Kept, SiteSummaries
from neurolab.mining.sieve import Sieve
from neurolab.mining.summaries import draw_hashes

CPU = torch.device("cpu")
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
    sites: dict[str, SiteSummaries],
    batches: list[Values],
    concepts: int,
    drained: int = 3,
    sieve: Sieve | None = None,
) -> None:
    """The same with a sieve, which is drained now and then."""
    sieve, first = sieve or Sieve(sites, CPU), 0
    for number, batch in enumerate(batches):
        count = len(next(iter(batch.values())))
        images, hashes = np.arange(first, first + count), hashes_of(first, count)
        reduced = {
            site: OnDevice(torch.from_numpy(values), torch.from_numpy(places_of(values, first)))
            for site, values in batch.items()
        }
        sieve.take(sieve.sift(reduced, hashes), images, hashes, concepts_of(images, concepts))
        if number % 3 == 0:
            sieve.drain()
        first += count
    sieve.drain()


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


KEPT = Kept(k=3, bins=5, bottom=2, buckets=4, bucket_images=3, concepts=2, coactivation=64)


@pytest.mark.parametrize("kept", [KEPT, Kept(k=70, bins=8, bottom=0, bucket_images=0), Kept(buckets=7)])
@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(1, 90), min_size=1, max_size=6))
def test_a_sieve_leaves_what_the_host_would(kept: Kept, seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    units = {"a": 3, "b": 2}
    batches = [{"a": rough(rng, n, 3, 1.0), "b": rough(rng, n, 2, 1e-3)} for n in sizes]
    host, device = summaries(kept, units), summaries(kept, units)
    by_host(host, batches, kept.concepts)
    by_device(device, batches, kept.concepts)
    assert_same(host, device)
