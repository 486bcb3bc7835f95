"""Buckets of a power of two: their numbers against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from neurolab.mining.levels import UNSEEN, bucket_of, find_exponents

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(floats, min_size=1, max_size=6), st.integers(2, 32))
def test_numbers_are_those_of_exact_arithmetic(values: list[float], buckets: int) -> None:
    given_ = np.array(values, np.float32)
    low, high = given_.min(keepdims=True), given_.max(keepdims=True)
    exponent = find_exponents(low, high, buckets)
    width = Fraction(2) ** int(exponent[0])
    numbers = [math.floor(Fraction(float(value)) / width) for value in given_]
    assert max(numbers) - min(numbers) < buckets
    expected = [number % buckets for number in numbers]
    assert bucket_of(given_, np.repeat(exponent, len(given_)), buckets).tolist() == expected


@given(st.lists(floats, min_size=2, max_size=6), st.integers(2, 32))
def test_half_the_width_would_not_reach_unless_it_is_the_least(values: list[float], buckets: int) -> None:
    given_ = np.array(values, np.float32)
    low, high = float(given_.min()), float(given_.max())
    (exponent,) = find_exponents(np.float32([low]), np.float32([high]), buckets).tolist()
    narrower = Fraction(2) ** (exponent - 1)
    covered = math.floor(Fraction(high) / narrower) - math.floor(Fraction(low) / narrower) < buckets
    largest = max(abs(low), abs(high))
    assert not covered or exponent == max(math.frexp(largest)[1] - 40, -149)


def test_no_bucket_is_narrower_than_the_smallest_number() -> None:
    for low, high in ((1, 1), (-3, -3), (0, 1), (-1, 2), (2**19, 2**19)):
        ends = np.float32([[low], [high]]) * np.float32(2.0**-149)
        assert find_exponents(*ends, buckets=32).tolist() == [-149]


def test_nothing_seen_has_no_width() -> None:
    assert find_exponents(np.float32([np.inf]), np.float32([-np.inf]), 4).tolist() == [UNSEEN]
    numbers = bucket_of(np.float32([0, -3, 5]), np.repeat(UNSEEN, 3), 4)
    assert np.isin(numbers, range(4)).all()
