"""Levels of activation: buckets whose width is a power of two and whose edges are its multiples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FINEST = 40  # a bucket is at least 2**-40 of the largest value wide, so that its number is exact
SMALLEST = -149  # 2**-149 is the smallest float32
UNSEEN = -(2**20)  # the exponent of a unit of which nothing was seen


def bucket_of(values: NDArray[np.float32], exponent: NDArray[np.int64], buckets: int) -> NDArray[np.float64]:
    """The number, modulo `buckets`, of the bucket 2**exponent wide in which each value is; all are finite.

    Of a unit of which nothing was seen, any number.
    """
    # Powers of two, and numbers below 2**53 where the buckets reach: exact, and no integer is divided.
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.floor(values * np.ldexp(1.0, -np.maximum(exponent, SMALLEST)))
        numbers -= np.floor(numbers / buckets) * buckets
    return numbers


def find_exponents(low: NDArray[np.float32], high: NDArray[np.float32], buckets: int) -> NDArray[np.int64]:
    """The exponent of the least power of two of which `buckets` buckets cover [low, high], for each unit.

    It is no less than 2**-40 of the largest value, nor than the smallest float32; `UNSEEN` where low > high.
    """
    seen = low <= high
    bottom, top = (np.where(seen, ends, 0).astype(np.float64) for ends in (low, high))
    largest = np.maximum(np.abs(bottom), np.abs(top))
    least = np.maximum(np.frexp(largest)[1].astype(np.int64) - FINEST, SMALLEST)
    # The range is above (buckets - 2) widths of the exponent before the one that is sought.
    guess = np.frexp((top - bottom) / buckets)[1].astype(np.int64) - 2
    exponent = np.where(top > bottom, np.maximum(guess, least), least)
    while True:
        wide = np.floor(np.ldexp(top, -exponent)) - np.floor(np.ldexp(bottom, -exponent)) >= buckets
        if not wide.any():
            return np.where(seen, exponent, UNSEEN)
        exponent += wide
