"""Count, mean, variance, minimum and maximum of each unit, mergeable."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

State = dict[str, NDArray[np.generic]]


class Moments:
    """Count, mean, variance, minimum and maximum per unit; NaN is left out and infinities count, as in NumPy.

    Mean and sum of squares are float64, merged by the pairwise formula of Chan, Golub and LeVeque (1983):
    with n = n_a + n_b and d = mean_b - mean_a,
    mean = (n_a mean_a + n_b mean_b) / n and m2 = m2_a + m2_b + d**2 n_a n_b / n.
    The variance is that of the population: m2 / n.
    """

    def __init__(self, units: int) -> None:
        """Nothing seen yet of `units` units."""
        self.units = units
        self.count = np.zeros(units, np.int64)
        self._mean = np.zeros(units, np.float64)
        self._m2 = np.zeros(units, np.float64)
        self._min = np.full(units, np.inf, np.float32)
        self._max = np.full(units, -np.inf, np.float32)

    def update(self, values: ArrayLike, indices: ArrayLike | None = None, positions: object = None) -> None:
        """Take in `values` [n, units]; indices and positions are not needed."""
        floats = np.asarray(values, np.float32) + np.float32(
            0
        )  # -0.0 becomes 0.0: one zero, whatever the order
        if floats.ndim != 2 or floats.shape[1] != self.units:
            raise ValueError(f"values are {floats.shape}; expected (n, {self.units})")
        batch = Moments(self.units)
        missing = np.isnan(floats)
        with np.errstate(invalid="ignore"):  # inf - inf
            exact = floats.astype(np.float64)
            exact[missing] = 0
            batch.count = len(floats) - missing.sum(axis=0, dtype=np.int64)
            batch._mean = exact.sum(axis=0) / np.maximum(batch.count, 1)
            exact -= batch._mean
            exact[missing] = 0
            batch._m2 = np.einsum("nu,nu->u", exact, exact)
        batch._min = np.fmin.reduce(floats, axis=0, initial=np.float32(np.inf))
        batch._max = np.fmax.reduce(floats, axis=0, initial=np.float32(-np.inf))
        self.merge(batch)

    def merge(self, other: Moments) -> None:
        """Take in what `other` has seen; `other` stays as it is."""
        if other.units != self.units:
            raise ValueError(f"cannot merge moments of {other.units} units into those of {self.units}")
        a, b = self.count.astype(np.float64), other.count.astype(np.float64)
        n = np.maximum(a + b, 1)
        with np.errstate(invalid="ignore"):
            apart = other._mean - self._mean
            mean = (a * self._mean + b * other._mean) / n
            m2 = (self._m2 + other._m2) + apart * apart * (a * b / n)
        # What was seen by one side only is taken over unrounded.
        only_self, only_other = other.count == 0, self.count == 0
        self._mean = np.where(only_other, other._mean, np.where(only_self, self._mean, mean))
        self._m2 = np.where(only_other, other._m2, np.where(only_self, self._m2, m2))
        self.count = self.count + other.count
        self._min = np.minimum(self._min, other._min)
        self._max = np.maximum(self._max, other._max)

    def _seen(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.where(self.count == 0, values.dtype.type(np.nan), values)

    @property
    def mean(self) -> NDArray[np.floating]:
        """[units] float64, NaN where nothing was seen."""
        return self._seen(self._mean)

    @property
    def variance(self) -> NDArray[np.floating]:
        """[units] float64, of the population; NaN where nothing was seen."""
        return self._seen(self._m2 / np.maximum(self.count, 1))

    @property
    def sd(self) -> NDArray[np.floating]:
        """[units] float64: the square root of the variance."""
        return np.sqrt(self.variance)

    @property
    def min(self) -> NDArray[np.floating]:
        """[units] float32, NaN where nothing was seen."""
        return self._seen(self._min)

    @property
    def max(self) -> NDArray[np.floating]:
        """[units] float32, NaN where nothing was seen."""
        return self._seen(self._max)

    def state(self) -> State:
        """Everything, in arrays [units]."""
        names = ("count", "_mean", "_m2", "_min", "_max")
        return {name.strip("_"): getattr(self, name).copy() for name in names}

    @classmethod
    def from_state(cls, state: State) -> Moments:
        """The summary whose `state()` this is."""
        self = cls(len(state["count"]))
        self.count = state["count"].astype(np.int64)
        self._mean, self._m2 = state["mean"].astype(np.float64), state["m2"].astype(np.float64)
        self._min, self._max = state["min"].astype(np.float32), state["max"].astype(np.float32)
        return self
