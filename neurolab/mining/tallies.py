"""What the summaries count and add up, counted where the activations are: on the device.

A tally holds what batches added since it was last drained, for many units at once, and what it drains into a
summary is what the summary would have counted itself, to the byte: counts are integers, and so are the digits
of exact sums. Nothing here waits for the device but `drain`. What takes time is the device's memory: each
number costs a read or a write for each step that is taken with all of them, so there are few.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurolab.mining.batch_values import BatchValues, Spread
from neurolab.mining.coactivation import LIMIT
from neurolab.mining.exact import BITS, HALF, ROWS_AT_ONCE, ExactSums, first_digit
from neurolab.mining.moments import HIGHEST, LOWEST
from neurolab.mining.transfer import sent

Arrays = dict[str, NDArray[np.generic]]
MANTISSA = 24  # bits of a float32


class SumTally:
    """`ExactSums` on a device.

    columns, lowest, highest: as there. bits: that a number may have between its first and its last.
    """

    def __init__(self, columns: int, lowest: int, highest: int, bits: int, device: torch.device) -> None:
        self._blank = ExactSums(columns, lowest, highest)
        self.first, self.bits = lowest // BITS, bits
        self.digits = torch.zeros(self._blank.digits.shape, dtype=torch.int64, device=device)

    def add(self, numbers: Tensor, least: float, largest: float) -> None:
        """Add up numbers [n, columns], float64, all 0 or of a size from `least` to `largest`; they are used
        up. Between the two lie all digits that there can be, so none of them has to be looked for."""
        if not 0 < least <= largest:
            return
        last = max(self.first, (math.frexp(least)[1] - self.bits) // BITS)
        for left in numbers.split(ROWS_AT_ONCE):
            for digit in range(max(last, first_digit(largest, len(left))), last, -1):
                base = 2.0 ** (BITS * digit)
                taken = (left * (1 / base)).round_()
                self._add_sums(digit, taken.sum(dim=0))
                left.sub_(taken, alpha=base)
            # What is left are multiples of the last one's base, and nothing has to be rounded.
            self._add_sums(last, left.sum(dim=0) * 2.0 ** (-BITS * last))

    def _add_sums(self, digit: int, sums: Tensor) -> None:
        """Add up sums [columns], integers below 2**53, to a digit; but what goes beyond it, to the next."""
        whole = sums.to(torch.int64)
        carry = (whole + HALF) >> BITS
        self.digits[digit - self.first] += whole - (carry << BITS)
        self.digits[digit + 1 - self.first] += carry

    def drain(self) -> NDArray[np.int64]:
        """[digits, columns] since the last time."""
        digits = self.digits.cpu().numpy().copy()
        self.digits.zero_()
        return digits


class MomentsTally:
    """`Moments` on a device."""

    def __init__(self, units: int, device: torch.device) -> None:
        self._sum = SumTally(units, LOWEST, HIGHEST, MANTISSA, device)
        self._squares = SumTally(units, 2 * LOWEST, 2 * HIGHEST, 2 * MANTISSA, device)
        self._counts = torch.zeros(3, units, dtype=torch.int64, device=device)  # all but NaN, -inf, inf
        self._ends = torch.empty(2, units, device=device)
        self._reset()

    def _reset(self) -> None:
        self._counts.zero_()
        self._ends[0], self._ends[1] = math.inf, -math.inf

    def add(self, batch: BatchValues, spread: Spread) -> None:
        """Add up the values of a batch."""
        if spread.all_finite:
            self._counts[0] += len(batch.values)
            self._reach(batch.low, batch.high)
        else:
            self._count_all(batch.values)
        exact = batch.numbers.to(torch.float64)
        self._squares.add(exact * exact, spread.least**2, spread.largest**2)
        self._sum.add(exact, spread.least, spread.largest)

    def _count_all(self, values: Tensor) -> None:
        """Count values of which some are NaN or infinite."""
        number = ~values.isnan()
        which = number, values == -math.inf, values == math.inf
        for count, of in zip(self._counts, which, strict=True):
            count += of.sum(dim=0)
        self._reach(
            torch.where(number, values, math.inf).amin(dim=0),
            torch.where(number, values, -math.inf).amax(dim=0),
        )

    def _reach(self, low: Tensor, high: Tensor) -> None:
        torch.minimum(self._ends[0], low, out=self._ends[0])
        torch.maximum(self._ends[1], high, out=self._ends[1])

    def drain(self) -> Arrays:
        """The `state` of such a summary since the last time."""
        counts, ends = self._counts.cpu().numpy().copy(), self._ends.cpu().numpy().copy()
        self._reset()
        sums = {"sum": self._sum.drain(), "squares": self._squares.drain()}
        return {"count": counts[0], "infinite": counts[1:], "min": ends[0], "max": ends[1], **sums}


class HistogramTally:
    """The counts of `Histogram` on a device, between edges [units, bins + 1]."""

    def __init__(self, edges: NDArray[np.float64], device: torch.device) -> None:
        units, ends = edges.shape
        self.columns = ends + 1
        self._edges = torch.from_numpy(_least_float32(_before_last(edges))).to(device)
        self._starts = torch.arange(units, device=device)[:, None] * self.columns
        self._counts = Counts(units * self.columns, device)

    def add(self, batch: BatchValues, spread: Spread) -> None:
        """Count the values of a batch."""
        values = batch.values.T.contiguous()
        column = torch.searchsorted(self._edges, values, right=True, out_int32=True)
        self._counts.add(column + self._starts, None if spread.all_finite else ~values.isnan())

    def drain(self) -> NDArray[np.int64]:
        """[units, bins + 2] since the last time."""
        return self._counts.drain().reshape(-1, self.columns)


def _before_last(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges whose last is behind the number that it was: the last bin holds its right edge."""
    moved = edges.copy()
    moved[:, -1] = np.nextafter(moved[:, -1], np.inf)
    return moved


def _least_float32(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """The least float32 that is not below each number. A float32 is at or above either, or neither."""
    with np.errstate(over="ignore"):
        near = numbers.astype(np.float32)
        return np.where(near < numbers, np.nextafter(near, np.float32(np.inf)), near)


class BucketTally:
    """The counts of `ActivationBuckets` on a device: of all images, and of those of each concept."""

    def __init__(self, units: int, buckets: int, concepts: int, device: torch.device) -> None:
        self.shape = units, buckets, 1 + concepts
        self._counts = Counts(math.prod(self.shape), device)

    def add(self, places: Tensor, finite: Tensor | None, concepts: Tensor) -> None:
        """Count images by their places [n, units], unit * buckets + bucket, where these are finite (None:
        everywhere); concepts: the number of that of each image [n], or -1."""
        of_all = places.to(torch.int64)
        if (columns := self.shape[2]) > 1:
            of_all *= columns
            known = (concepts >= 0)[:, None].expand_as(places)
            self._counts.add(of_all + 1 + concepts[:, None], known if finite is None else known & finite)
        self._counts.add(of_all, finite)

    def drain(self) -> NDArray[np.int64]:
        """[units, buckets, 1 + concepts] since the last time."""
        return self._counts.drain().reshape(self.shape)

    def drain_units(self, units: Tensor) -> NDArray[np.int64]:
        """The same of some units only, [n, buckets, 1 + concepts]."""
        of_unit = self._counts.of[:-1].view(self.shape[0], -1)
        found = of_unit[units].cpu().numpy().reshape(-1, *self.shape[1:])
        of_unit[units] = 0
        return found


class CoActivationTally:
    """The sums of `CoActivation` on a device. middle, step: as it has them."""

    def __init__(
        self, count: int, middle: NDArray[np.float64], step: NDArray[np.float64], device: torch.device
    ) -> None:
        self.count, self._scale = count, (middle, step)
        self._middle, self._step = (torch.from_numpy(array.copy()).to(device) for array in self._scale)
        self._sum = torch.zeros(len(middle), dtype=torch.int64, device=device)
        self._projected = torch.zeros(len(middle), count, dtype=torch.int64, device=device)
        self._signs = np.zeros(count, np.int64)
        self._images = 0

    def add(self, values: Tensor, signs: NDArray[np.float32]) -> None:
        """Add up values [n, units] of images with random signs [n, count]."""
        quanta = ((values.to(torch.float64) - self._middle) / self._step).round_()
        whole = quanta.nan_to_num_(nan=0.0).clamp_(-LIMIT, LIMIT)
        self._sum += whole.sum(dim=0).to(torch.int64)
        # Sums of integers far below 2**53: exact in any order, which in float32 they might not be.
        on_device = sent(signs, values.device).to(torch.float64)
        self._projected += (whole.T @ on_device).to(torch.int64)
        self._signs += signs.sum(axis=0, dtype=np.float64).astype(np.int64)
        self._images += len(signs)

    def drain(self) -> Arrays:
        """The `state` of such a summary since the last time."""
        found: Arrays = {
            "images": np.array(self._images),
            "signs": self._signs.copy(),
            "sum": self._sum.cpu().numpy().copy(),
            "projected": self._projected.cpu().numpy().copy(),
            "middle": self._scale[0],
            "step": self._scale[1],
            "waiting": np.empty((0, len(self._sum)), np.float32),
            "hashes": np.empty(0, np.uint64),
        }
        self._images = 0
        self._signs[:] = 0
        self._sum.zero_()
        self._projected.zero_()
        return found


class Counts:
    """How often each of so many places was met; `of` has one place more, for what does not count."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.of = torch.zeros(size + 1, dtype=torch.int64, device=device)

    def add(self, places: Tensor, valid: Tensor | None) -> None:
        """Count places, int64, of those that are valid; None: all are."""
        where = (places if valid is None else torch.where(valid, places, len(self.of) - 1)).flatten()
        self.of.scatter_add_(
            0, where, torch.ones((), dtype=torch.int64, device=where.device).expand_as(where)
        )

    def drain(self) -> NDArray[np.int64]:
        found = self.of[:-1].cpu().numpy().copy()
        self.of.zero_()
        return found
