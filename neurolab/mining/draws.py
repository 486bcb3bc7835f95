"""The device's side of the images that are drawn of every level of activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurolab.mining.batch_values import BatchValues, Spread
from neurolab.mining.buckets import ActivationBuckets
from neurolab.mining.levels import FINEST, SMALLEST
from neurolab.mining.tallies import BucketTally
from neurolab.mining.transfer import sent, upload


class InBuckets(NamedTuple):
    """Where values [n, units] belong, unit * buckets + bucket, int32; and how often buckets had become wider
    by then."""

    places: Tensor
    widenings: int


class Draws:
    """Which values of a batch may enter the draws of `ActivationBuckets`, and how many are of which bucket.

    sites: of each, the slice of the units that are its, and its buckets.
    """

    def __init__(self, sites: Sequence[tuple[slice, ActivationBuckets]], device: torch.device) -> None:
        self.sites = list(sites)
        units, (_, self.buckets, _, concepts) = self.sites[-1][0].stop, self.sites[0][1].sizes
        self._firsts = torch.arange(units, dtype=torch.int32, device=device) * self.buckets
        self._tally = BucketTally(units, self.buckets, concepts, device)
        self._low, self._high = (torch.empty(units, device=device) for _ in range(2))
        self._exponent = torch.empty(units, dtype=torch.int64, device=device)
        self._scale = torch.empty(units, dtype=torch.float64, device=device)
        self._largest = torch.empty(units, self.buckets, dtype=torch.int64, device=device)
        self._widenings = 0
        self.refresh()

    def refresh(self) -> None:
        """Learn from the host how wide the buckets are, and which hashes may still enter."""
        for units, buckets in self.sites:
            # Where nothing was seen there is no width, and any will do: all is admitted there.
            scale = np.ldexp(1.0, -np.maximum(buckets.exponent, SMALLEST))
            upload(self._scale[units], scale)
            upload(self._exponent[units], buckets.exponent)
            upload(self._low[units], buckets.low)
            upload(self._high[units], buckets.high)
            upload(self._largest[units], buckets.largest.view(np.int64))

    def place(self, numbers: Tensor) -> InBuckets:
        """Where numbers [n, units], all finite, belong; those of units whose buckets do not reach as far,
        anywhere."""
        # In float64 scaling by powers of two is exact, and so are the remainders of integers.
        levels = (numbers * self._scale).floor_().remainder_(self.buckets)
        return InBuckets(levels.to(torch.int32).add_(self._firsts), self._widenings)

    def admitted(self, batch: BatchValues, placed: InBuckets, hashes: Tensor) -> Tensor:
        """Which values [n, units] of a batch of images with these hashes [n] may be drawn: bool.

        Of a unit whose buckets must become wider all may: which bucket is whose is not known yet.
        """
        largest = self._largest.view(-1).index_select(0, placed.places.view(-1)).view(placed.places.shape)
        beats = hashes[:, None] < largest
        return batch.finite & (beats | self._outgrown(batch.low, batch.high))

    def _outgrown(self, low: Tensor, high: Tensor) -> Tensor:
        """As `ActivationBuckets.outgrown`, as bool [units]."""
        low, high = torch.minimum(low, self._low), torch.maximum(high, self._high)
        seen = low <= high
        bottom, top = (torch.where(seen, end, 0.0).to(torch.float64) for end in (low, high))
        wide = (top * self._scale).floor() - (bottom * self._scale).floor() >= self.buckets
        least = torch.frexp(torch.maximum(bottom.abs(), top.abs())).exponent.to(torch.int64) - FINEST
        return seen & (wide | (least.clamp_min(SMALLEST) > self._exponent))

    def widen(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        """Let the host's buckets cover [low, high] [units], too.

        What was counted of these belongs to the old buckets, and goes there first.
        """
        for units, buckets in self.sites:
            outgrown = buckets.outgrown(low[units], high[units])
            if len(outgrown):
                self._widenings += 1
                on_device = sent(outgrown + units.start, self._scale.device)
                buckets.count(outgrown, self._tally.drain_units(on_device))
            buckets.widen(low[units], high[units])

    def count(
        self, batch: BatchValues, spread: Spread, placed: InBuckets, concepts: NDArray[np.int64] | None
    ) -> None:
        """Count the values of a batch and the concepts of their images, [n] or None."""
        if placed.widenings != self._widenings:
            placed = self.place(batch.numbers)
        numbers = np.full(len(batch.values), -1) if concepts is None else concepts
        of_image = sent(numbers, batch.values.device)
        self._tally.add(placed.places, None if spread.all_finite else batch.finite, of_image)

    def drain(self) -> None:
        """Give the host's buckets what was counted."""
        counts = self._tally.drain()
        for units, buckets in self.sites:
            buckets.count(np.arange(buckets.units), counts[units])
