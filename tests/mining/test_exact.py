"""Sums that no number of rows makes inexact."""

from __future__ import annotations

import numpy as np

from neurolab.mining.exact import ExactSums


def test_millions_of_rows_at_once_are_summed_exactly() -> None:
    """Their largest digits together are beyond what a float64 holds: an odd number of more than 53 bits."""
    digit, rows = 2**31 - 1, 2**23 + 1
    sums = ExactSums(1, -32, 32)
    sums.add(np.broadcast_to(digit * 2.0**-32, (rows, 1)))
    assert sums.integers() == [digit * rows << sums.scale - 32]
    assert float(digit * rows) != digit * rows
