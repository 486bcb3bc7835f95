"""The values of a batch, on the device that computed them, and what all that is done with them asks first."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class BatchValues(NamedTuple):
    """Of a batch, [n, units]: its values in float32, without -0.0; `numbers`, the same with 0 in place of NaN
    and infinities; `finite`, which are neither. And [units]: the ends `low` and `high` of the finite ones,
    inf and -inf where there are none.
    """

    values: Tensor
    numbers: Tensor
    finite: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, values: Tensor) -> BatchValues:
        """Look at values [n, units], float32; those that are -0.0 become 0.0."""
        values.add_(0.0)
        numbers = values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        finite = numbers == values
        low = torch.where(finite, values, math.inf).amin(dim=0)
        high = torch.where(finite, values, -math.inf).amax(dim=0)
        return cls(values, numbers, finite, low, high)

    def spread(self) -> Tensor:
        """[3], still on the device: what `Spread` says."""
        least = torch.linalg.vector_norm(torch.where(self.numbers == 0, math.inf, self.numbers), -math.inf)
        largest = torch.maximum(self.high, -self.low).amax().clamp_min(0.0)
        return torch.stack([least, largest, self.finite.all().to(torch.float32)])


class Spread(NamedTuple):
    """Of which sizes the finite values of a batch are that are not 0, from `least` to `largest` (inf and 0
    where there are none), and whether all values are finite."""

    least: float
    largest: float
    all_finite: bool

    @classmethod
    def read(cls, spread: Tensor) -> Spread:
        """What `BatchValues.spread` gave, once it is on the host."""
        least, largest, all_finite = spread.tolist()
        return cls(least, largest, bool(all_finite))
