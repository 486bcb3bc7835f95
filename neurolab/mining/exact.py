"""Sums of floating-point numbers without any rounding, so that they do not depend on the order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BITS = 32  # of a digit
ROWS_AT_ONCE = 1 << 16  # digits are below 2**32, and a float64 holds sums below 2**53 exactly
_NUMBERS_AT_ONCE = 1 << 16  # of a block that stays in the cache while its digits are taken


class ExactSums:
    """Exact sums of columns of float64 numbers, as integers in the base 2**32.

    A number x is taken apart into digits, x = sum over i of d_i 2**(32 i), each the integer next to what is
    left of x: what they are depends on x alone. Digits are added as integers, so the sums are the same for
    every order, grouping and sharding (the idea of Kulisch's long accumulator; Demmel and Nguyen 2013 keep
    only its leading digits). Up to 2**31 numbers may be added.
    """

    def __init__(self, columns: int, lowest: int, highest: int) -> None:
        """For multiples of 2**lowest below 2**highest."""
        self._first, last = lowest // BITS, highest // BITS
        self.digits = np.zeros((last - self._first + 1, columns), np.int64)

    @property
    def scale(self) -> int:
        """The sums are `integers()` times 2**-scale."""
        return -BITS * self._first

    def add(self, numbers: NDArray[np.float64]) -> None:
        """Add up `numbers` [n, columns], all finite, onto the sums."""
        for top in range(0, len(numbers), ROWS_AT_ONCE):
            rows = numbers[top : top + ROWS_AT_ONCE]
            width = max(1, _NUMBERS_AT_ONCE // len(rows))
            for left in range(0, rows.shape[1], width):
                self._add_block(np.array(rows[:, left : left + width]), slice(left, left + width))

    def _add_block(self, left: NDArray[np.float64], columns: slice) -> None:
        largest = float(np.abs(left).max(initial=0.0))
        # 2**exponent is above all of them, so from the digit before on all are 0.
        digit = int(np.frexp(largest)[1]) // BITS
        while largest > 0:
            base = 2.0 ** (BITS * digit)
            taken = np.rint(left * (1 / base))
            self.digits[digit - self._first, columns] += taken.sum(axis=0).astype(np.int64)
            left -= taken * base
            digit -= 1
            largest = float(np.abs(left).max(initial=0.0))

    def merge(self, other: ExactSums) -> None:
        """Add another's sums onto these."""
        self.digits = self.digits + other.digits

    def integers(self) -> list[int]:
        """The sums times 2**scale, exactly."""
        totals = [0] * self.digits.shape[1]
        for row in self.digits[::-1].tolist():
            totals = [(total << BITS) + digit for total, digit in zip(totals, row, strict=True)]
        return totals
