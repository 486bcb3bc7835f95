"""Count, mean, variance, minimum and maximum of each unit, mergeable without a trace of how."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurolab.mining.exact import ExactSums

State = dict[str, NDArray[np.generic]]

# float32 numbers are multiples of 2**-149 below 2**128; their squares need twice as many bits.
LOWEST, HIGHEST = -160, 128


class Moments:
    """Count, mean, variance, minimum and maximum per unit; NaN is left out and infinities count, as in NumPy.

    The sums of the values and of their squares are exact (`neurolab.mining.exact`), so mean and variance are
    the float64 numbers next to the true ones, however the values were divided and merged. The variance is
    that of the population: mean(x**2) - mean(x)**2, which without rounding loses no digits.
    """

    def __init__(self, units: int) -> None:
        """Nothing seen yet of `units` units."""
        self.units = units
        self.count = np.zeros(units, np.int64)
        self._infinite = np.zeros((2, units), np.int64)  # how many were -inf and inf
        self._sum = ExactSums(units, LOWEST, HIGHEST)
        self._squares = ExactSums(units, 2 * LOWEST, 2 * HIGHEST)
        self._min = np.full(units, np.inf, np.float32)
        self._max = np.full(units, -np.inf, np.float32)

    def update(self, values: ArrayLike, indices: ArrayLike | None = None, positions: object = None) -> None:
        """Take in `values` [n, units]; indices and positions are not needed."""
        # -0.0 becomes 0.0: one zero, whatever the order
        floats = np.asarray(values, np.float32) + np.float32(0)
        if floats.ndim != 2 or floats.shape[1] != self.units:
            raise ValueError(f"values are {floats.shape}; expected (n, {self.units})")
        self._min = np.fmin(self._min, np.fmin.reduce(floats, axis=0, initial=np.float32(np.inf)))
        self._max = np.fmax(self._max, np.fmax.reduce(floats, axis=0, initial=np.float32(-np.inf)))
        self.count += len(floats)
        exact = floats.astype(np.float64)
        if not np.isfinite(floats).all():
            self.count -= np.isnan(floats).sum(axis=0)
            self._infinite += np.stack([(floats == end).sum(axis=0) for end in (-np.inf, np.inf)])
            exact[~np.isfinite(floats)] = 0
        self._sum.add(exact)
        self._squares.add(exact * exact)

    def merge(self, other: Moments) -> None:
        """Take in what `other` has seen; `other` stays as it is."""
        if other.units != self.units:
            raise ValueError(f"cannot merge moments of {other.units} units into those of {self.units}")
        self.count = self.count + other.count
        self._infinite = self._infinite + other._infinite
        self._sum.merge(other._sum)
        self._squares.merge(other._squares)
        self._min = np.minimum(self._min, other._min)
        self._max = np.maximum(self._max, other._max)

    @property
    def mean(self) -> NDArray[np.float64]:
        """[units] float64, NaN where nothing was seen or both infinities were."""
        scale = 1 << self._sum.scale
        finite = np.array([s / (n * scale) if n else np.nan for s, n in self._sums()])
        low, high = self._infinite > 0
        return np.where(low & high, np.nan, np.where(low, -np.inf, np.where(high, np.inf, finite)))

    @property
    def variance(self) -> NDArray[np.float64]:
        """[units] float64, of the population; NaN where nothing was seen or an infinity was."""
        scale = 1 << self._squares.scale
        pairs = zip(self._sums(), self._squares.integers(), strict=True)
        finite = np.array([(n * q - s * s) / (n * n * scale) if n else np.nan for (s, n), q in pairs])
        return np.where(self._infinite.any(axis=0), np.nan, finite)

    def _sums(self) -> list[tuple[int, int]]:
        return list(zip(self._sum.integers(), self.count.tolist(), strict=True))

    @property
    def sd(self) -> NDArray[np.float64]:
        """[units] float64: the square root of the variance."""
        return np.sqrt(self.variance)

    @property
    def min(self) -> NDArray[np.float32]:
        """[units] float32, NaN where nothing was seen."""
        return np.where(self.count == 0, np.float32(np.nan), self._min)

    @property
    def max(self) -> NDArray[np.float32]:
        """[units] float32, NaN where nothing was seen."""
        return np.where(self.count == 0, np.float32(np.nan), self._max)

    def state(self) -> State:
        """`count`, `min`, `max` [units], `infinite` [2, units], `sum` and `squares` [digits, units]."""
        return {
            "count": self.count.copy(),
            "infinite": self._infinite.copy(),
            "sum": self._sum.carried(),
            "squares": self._squares.carried(),
            "min": self._min.copy(),
            "max": self._max.copy(),
        }

    @classmethod
    def from_state(cls, state: State) -> Moments:
        """The summary whose `state()` this is."""
        self = cls(len(state["count"]))
        self.count, self._infinite = state["count"].astype(np.int64), state["infinite"].astype(np.int64)
        self._sum.digits = state["sum"].astype(np.int64)
        self._squares.digits = state["squares"].astype(np.int64)
        self._min, self._max = state["min"].astype(np.float32), state["max"].astype(np.float32)
        return self
