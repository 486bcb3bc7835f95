"""Of a batch's activations only what the summaries of their units need, found where the activations are.

On a GPU a network computes thousands of images a second, and NumPy's summaries take in some hundreds of as
many units. But of a long pass nearly no image is among the best of a unit so far, or in the draw of one of
its levels. So the device finds the few values that may enter (`sift`) and does the counting, and the host
takes in the few (`take`) while the device computes the next batch. The summaries are the same to the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurolab.atlas.reductions import OnDevice
from neurolab.mining.batch_values import BatchValues, Spread
from neurolab.mining.coactivation import CoActivation
from neurolab.mining.draws import Draws, InBuckets
from neurolab.mining.hashes import Hashes, random_signs
from neurolab.mining.moments import Moments
from neurolab.mining.observations import Observations, check_rows, observations
from neurolab.mining.remembered import Arrays, SiteSummaries
from neurolab.mining.tallies import CoActivationTally, HistogramTally, MomentsTally
from neurolab.mining.threads import each
from neurolab.mining.transfer import sent, upload

UNITS_AT_ONCE = 2**16  # of an image; bounds the device's memory: some ten copies of them in float64
TOP, LOWEST, DRAWN = 1, 2, 4  # what a value may enter


class Entries(NamedTuple):
    """The values of a batch that may enter a summary, [n] each, by unit and then by row of the batch.

    kinds: which summaries, as a sum of TOP, LOWEST and DRAWN. low, high [units] and spread: as `BatchValues`
    has them.
    """

    units: Tensor
    rows: Tensor
    values: Tensor
    positions: Tensor
    kinds: Tensor
    low: Tensor
    high: Tensor
    spread: Tensor


class Sifted(NamedTuple):
    """A batch after `sift`: the hashes of its images; what may enter, on its way to the host, and the event
    of its arrival from a GPU; on the device, its values, and in which buckets they are."""

    hashes: Hashes
    entries: Entries
    batch: BatchValues
    placed: InBuckets | None
    arrived: torch.cuda.Event | None


class Sieve:
    """The device's side of the summaries of some sites, whose histograms know their edges.

    After `take` of what `sift` gave, batch by batch, and `drain`, the summaries are what `update` would have
    made them; between `take` and `drain` they lack what is counted. Numbers of images must rise.
    """

    def __init__(self, sites: Mapping[str, SiteSummaries], device: torch.device, per_image: int = 1) -> None:
        """per_image: how many observations of these sites an image is."""
        self.sites, self.per_image = dict(sites), per_image
        for summaries in sites.values():
            summaries.fix()
        ends = np.cumsum([of.top.units for of in sites.values()]).tolist()
        self.slices = [slice(end - of.top.units, end) for end, of in zip(ends, sites.values(), strict=True)]
        some, units = next(iter(sites.values())), ends[-1]
        self._seen = 0
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._moments = MomentsTally(units, device)
        self._histogram = HistogramTally(self._joined(lambda of: of.histogram.edges), device)
        self._top = torch.empty(units, device=device)
        self._lowest = None if some.lowest is None else torch.empty(units, device=device)
        self._draws: Draws | None = None
        if some.buckets is not None:
            buckets = [(its, of.buckets) for its, of in self._by_slice() if of.buckets is not None]
            self._draws = Draws(buckets, device)
        self._coactivation: CoActivationTally | None = None
        if (projected := some.coactivation) is not None:
            scale = self._joined(lambda of: of.coactivation and np.stack(of.coactivation.scale, axis=1))
            self._coactivation = CoActivationTally(projected.count, scale[:, 0], scale[:, 1], device)
        self._refresh()
        if self._stream is not None:
            self._counted = torch.cuda.current_stream(device).record_event()

    def _by_slice(self) -> Iterator[tuple[slice, SiteSummaries]]:
        return zip(self.slices, self.sites.values(), strict=True)

    def _joined(self, of: Callable[[SiteSummaries], Any]) -> NDArray[np.float64]:
        return np.concatenate([of(summaries) for summaries in self.sites.values()])

    def _refresh(self) -> None:
        """Let the device know what may still enter."""
        for its, summaries in self._by_slice():
            upload(self._top[its], summaries.top.bar)
            if summaries.lowest is not None and self._lowest is not None:
                upload(self._lowest[its], summaries.lowest.bar)
        if self._draws is not None:
            self._draws.refresh()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Around what the host has to do with the device: a GPU does it beside what it computes, once it has
        counted what was taken in before; and computes nothing more before it is done."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._counted)
            yield
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def sift(self, reduced: Mapping[str, OnDevice], hashes: Hashes) -> Sifted:
        """What of a batch may enter the summaries, on its way to the host; these stay as they are.

        reduced: of all sites, as `reduce_map` gives it. Waits until the device has computed it.
        """
        parts = [reduced[site] for site in self.sites]
        observed = self._observed(np.zeros(len(hashes), np.int64), hashes)
        for site, part in zip(self.sites, parts, strict=True):
            check_rows(site, len(part.values), len(hashes), self.per_image)
        batch = BatchValues.of(torch.cat([part.values.to(torch.float32) for part in parts], dim=1))
        values, positions = batch.values, torch.cat([part.positions for part in parts], dim=1)
        kinds = (values >= self._top).view(torch.uint8)
        if self._lowest is not None:
            kinds.add_((values <= self._lowest).view(torch.uint8), alpha=LOWEST)
        placed = None
        if self._draws is not None:
            hashes_there = sent(observed.hashes.view(np.int64), values.device)
            placed = self._draws.place(batch.numbers)
            kinds.add_(self._draws.admitted(batch, placed, hashes_there).view(torch.uint8), alpha=DRAWN)
        spread = (
            batch.spread()
        )  # asked for before the wait for what is found, as a device then has nothing to do
        units, rows = kinds.T.nonzero(as_tuple=True)
        found = Entries(
            units,
            rows,
            values[rows, units],
            positions[rows, units].to(torch.int32),
            kinds[rows, units],
            batch.low,
            batch.high,
            spread,
        )
        entries = Entries(*(tensor.to("cpu", non_blocking=True) for tensor in found))
        arrived = torch.cuda.Event() if values.is_cuda else None
        if arrived is not None:
            arrived.record()
        return Sifted(hashes, entries, batch, placed, arrived)

    def take(self, sifted: Sifted, images: NDArray[np.int64], concepts: NDArray[np.int64] | None) -> None:
        """Take in a batch of images, with their concepts; it was sifted before."""
        observed = self._observed(images, sifted.hashes, concepts)
        if sifted.arrived is not None:
            sifted.arrived.synchronize()
        units, rows, values, positions, kinds, low, high, _ = (tensor.numpy() for tensor in sifted.entries)
        if self._draws is not None:
            with self._aside():
                self._draws.widen(low, high)
        ends = np.searchsorted(units, [its.stop for its in self.slices])
        ranks = np.argsort(np.argsort(observed.hashes, kind="stable"))

        def enter(site: tuple[tuple[slice, SiteSummaries], int, int]) -> None:
            (its, summaries), start, stop = site
            some, of = slice(start, stop), rows[start:stop]
            _enter(
                summaries,
                kinds[some],
                units[some] - its.start,
                values[some],
                observed.numbers[of],
                positions[some],
                observed.hashes[of],
                ranks[of],
            )

        sites = list(zip(self._by_slice(), [0, *ends[:-1]], ends, strict=True))
        each(enter, sites, len(units) // 2)  # they are in order, and take half as long
        with self._aside():
            self._refresh()
        self._count(sifted, observed)

    def _observed(
        self, images: NDArray[np.int64], hashes: Hashes, concepts: NDArray[np.int64] | None = None
    ) -> Observations:
        return observations(images, hashes, concepts, self.per_image)

    def _count(self, sifted: Sifted, observed: Observations) -> None:
        """Have the device count a batch; it is not waited for."""
        batch, spread = sifted.batch, Spread.read(sifted.entries.spread)
        self._moments.add(batch, spread)
        self._histogram.add(batch, spread)
        if self._draws is not None and sifted.placed is not None:
            self._draws.count(batch, spread, sifted.placed, observed.concepts)
        if self._coactivation is not None:
            self._coactivation.add(batch.values, random_signs(observed.hashes, self._coactivation.count))
        self._seen += len(batch.values)
        if self._stream is not None:
            self._counted = torch.cuda.current_stream(self._stream.device).record_event()

    def drain(self) -> None:
        """Give the summaries what the device has counted since the last time."""
        if not self._seen:
            return
        seen, self._seen = self._seen, 0
        moments, histogram = self._moments.drain(), self._histogram.drain()
        projected = None if self._coactivation is None else self._coactivation.drain()
        if self._draws is not None:
            self._draws.drain()
        for its, summaries in self._by_slice():
            mine = {name: array[..., its] for name, array in moments.items()}
            summaries.moments.merge(Moments.from_state(mine))
            summaries.histogram.count(histogram[its])
            for best in (summaries.top, summaries.lowest):
                if best is not None:
                    best.nan = best.nan + (seen - mine["count"].astype(np.int64))
            if summaries.coactivation is not None and projected is not None:
                summaries.coactivation.merge(CoActivation.from_state(_of_units(projected, its)))


def _enter(
    summaries: SiteSummaries,
    kinds: NDArray[np.uint8],
    units: NDArray[np.int64],
    values: NDArray[np.float32],
    numbers: NDArray[np.int64],
    positions: NDArray[np.int32],
    hashes: Hashes,
    ranks: NDArray[np.int64],
) -> None:
    """Offer values to the summaries that they may enter."""
    for kind, best in ((TOP, summaries.top), (LOWEST, summaries.lowest)):
        if best is not None:
            some = np.flatnonzero((kinds & kind) > 0)
            best.admit(units[some], values[some], numbers[some], positions[some])
    if summaries.buckets is not None:
        some = np.flatnonzero((kinds & DRAWN) > 0)
        summaries.buckets.admit(units[some], values[some], numbers[some], hashes[some], ranks[some])


def _of_units(state: Arrays, units: slice) -> Arrays:
    """A state of co-activations, of some of its units."""
    per_unit = ("sum", "projected", "middle", "step")
    mine = {name: array[units] if name in per_unit else array for name, array in state.items()}
    return mine | {"waiting": state["waiting"][:, units]}


def sieves(
    sites: Mapping[str, SiteSummaries], device: torch.device, per_image: Mapping[str, int]
) -> list[Sieve]:
    """Sieves for some sites, each for no more of them than the device should hold at once, and for such as
    have the same number of observations of an image. per_image: that number, where it is not 1."""
    groups: list[dict[str, SiteSummaries]] = []
    room, before = 0, 0
    for name, summaries in sites.items():
        count = per_image.get(name, 1)
        size = summaries.top.units * count
        if count != before or size > room:
            groups.append({})
            room = UNITS_AT_ONCE
        groups[-1][name] = summaries
        room, before = room - size, count
    return [Sieve(group, device, per_image.get(next(iter(group)), 1)) for group in groups]
