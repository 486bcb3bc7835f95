"""Sums of floating-point numbers without any rounding, so that they do not depend on the order."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

BITS = 32  # of a digit
HALF = 1 << BITS - 1
EXACT = 53  # bits of an integer that a float64 holds exactly
ROWS_AT_ONCE = 1 << 16
_NUMBERS_AT_ONCE = 1 << 16  # of a block that stays in the cache while its digits are taken


def first_digit(largest: float, rows: int) -> int:
    """The first digit to take of so many numbers up to a size: what is taken then has a sum below 2**53."""
    exponent = math.frexp(largest)[1] + rows.bit_length()
    return -((EXACT - exponent) // BITS)


class ExactSums:
    """Exact sums of columns of float64 numbers, as integers in the base 2**32.

    Numbers are taken apart into digits, x = sum over i of d_i 2**(32 i), each the integer next to what is
    left of x, from the first digit on whose sum a float64 holds. Digits are added as integers, so the sums
    are the same for every order, grouping and sharding (the idea of Kulisch's long accumulator; Demmel and
    Nguyen 2013 keep only its leading digits), and so are `carried` digits. Up to 2**31 numbers may be added.
    """

    def __init__(self, columns: int, lowest: int, highest: int) -> None:
        """For multiples of 2**lowest below 2**highest; both exponents are multiples of 32."""
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
        digit = max(self._first, first_digit(largest, len(left)))
        while largest > 0:
            base = 2.0 ** (BITS * digit)
            taken = np.rint(left * (1 / base))
            sums = taken.sum(axis=0).astype(np.int64)
            carry = (sums + HALF) >> BITS
            self.digits[digit - self._first, columns] += sums - (carry << BITS)
            self.digits[digit + 1 - self._first, columns] += carry
            left -= taken * base
            digit -= 1
            largest = float(np.abs(left).max(initial=0.0))

    def merge(self, other: ExactSums) -> None:
        """Add another's sums onto these."""
        self.digits = self.digits + other.digits

    def carried(self) -> NDArray[np.int64]:
        """The digits [digits, columns] of the sums, each but the last from -2**31 to 2**31: whatever made
        the same sums, these are the same."""
        digits = self.digits.copy()
        for below, above in pairwise(digits):
            carry = (below + HALF) >> BITS
            below -= carry << BITS
            above += carry
        return digits

    def integers(self) -> list[int]:
        """The sums times 2**scale, exactly."""
        totals = [0] * self.digits.shape[1]
        for row in self.digits[::-1].tolist():
            totals = [(total << BITS) + digit for total, digit in zip(totals, row, strict=True)]
        return totals
