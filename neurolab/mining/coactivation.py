"""Which units fire together, from a few hundred random projections of all their activations."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurolab.mining.hashes import Hashes, random_signs

State = dict[str, NDArray[np.generic]]

QUANTA = 2**11  # in half the range that the sample had
LIMIT = 2**14  # quanta; what lies further out counts as this
_ROWS_AT_ONCE = 2**24 // LIMIT  # float32 sums of so many products are exact in any order
_UNITS_AT_ONCE = 4096


class CoActivation:
    """Random projections of the activations, by which the correlation of any two units is estimated.

    For unit u and image i with signs e_i the sum over the images of (x_ui - mean_u) e_i, scaled to length 1,
    is what `arrays` gives: the dot product of two units' is their correlation over all images, with a
    standard deviation of about 1 / sqrt(count) where it is 0 (Johnson and Lindenstrauss 1984, with the signs
    of Achlioptas 2003). So every pair can be asked for, also across sites, though no pair was ever counted.

    Sums must not depend on the order, so activations are rounded to integers first: in steps of a 2,048th of
    half the range of the histogram's edges (`fix`), up to 8 times as far out. NaN counts as the middle.
    Until the edges are known, what is seen waits.
    """

    def __init__(self, units: int, count: int = 512) -> None:
        """ValueError for a count of projections that is no multiple of 64."""
        if count < 64 or count % 64:
            raise ValueError(f"the number of projections is a multiple of 64, not {count}")
        self.units, self.count = units, count
        self._images = np.zeros((), np.int64)
        self._signs = np.zeros(count, np.int64)  # of all images
        self._sum = np.zeros(units, np.int64)
        self._projected = np.zeros((units, count), np.int64)
        self._middle: NDArray[np.float64] | None = None
        self._step: NDArray[np.float64] | None = None
        self._waiting: list[tuple[NDArray[np.float32], Hashes]] = []

    def update(self, values: ArrayLike, hashes: Hashes) -> None:
        """Take in `values` [n, units] of images with these `hashes` [n]."""
        floats = np.asarray(values, np.float32)
        if floats.shape != (len(hashes), self.units):
            raise ValueError(f"values are {floats.shape}; expected {(len(hashes), self.units)}")
        if self._middle is None:
            self._waiting.append((floats.copy(), hashes.copy()))
            return
        for start in range(0, len(hashes), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            self._count(floats[some], random_signs(hashes[some], self.count))

    def _count(self, values: NDArray[np.float32], signs: NDArray[np.float32]) -> None:
        assert self._middle is not None and self._step is not None
        for start in range(0, self.units, _UNITS_AT_ONCE):
            some = slice(start, start + _UNITS_AT_ONCE)
            with np.errstate(invalid="ignore", over="ignore"):
                quanta = np.rint((values[:, some] - self._middle[some]) / self._step[some])
            whole = np.clip(np.nan_to_num(quanta, nan=0.0), -LIMIT, LIMIT).astype(np.float32)
            self._sum[some] += whole.sum(axis=0, dtype=np.float64).astype(np.int64)
            self._projected[some] += (whole.T @ signs).astype(np.int64)
        self._signs += signs.sum(axis=0, dtype=np.float64).astype(np.int64)
        self._images = self._images + len(values)

    def fix(self, edges: NDArray[np.float64]) -> None:
        """Say what the edges [units, bins + 1] of the histogram are; without effect the second time."""
        if self._middle is not None:
            return
        low, high = edges[:, 0], edges[:, -1]
        self._middle, self._step = low / 2 + high / 2, (high / 2 - low / 2) / QUANTA
        gathered, self._waiting = self._waiting, []
        for values, hashes in gathered:
            self.update(values, hashes)

    @property
    def scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What counts as the middle, and the step to which activations are rounded, [units] each."""
        if self._middle is None or self._step is None:
            raise ValueError("the edges are not known yet, by which activations are rounded")
        return self._middle, self._step

    def append(self, after: CoActivation) -> None:
        """Take in what `after` has seen of the images that come next, be the edges known to it or not."""
        if after._middle is None:
            for values, hashes in after._waiting:
                self.update(values, hashes)
        else:
            self.merge(after)

    def merge(self, other: CoActivation) -> None:
        """Take in what `other` has seen. ValueError where the sizes or the edges differ, or are not known."""
        if (other.units, other.count) != (self.units, self.count):
            raise ValueError("cannot merge co-activations of other numbers of units or projections")
        if self._middle is None or other._middle is None or not np.array_equal(self._middle, other._middle):
            raise ValueError("these co-activations have no common edges: fix the same edges for both")
        self._images = self._images + other._images
        self._signs, self._sum = self._signs + other._signs, self._sum + other._sum
        self._projected = self._projected + other._projected

    def arrays(self) -> State:
        """`projection` [units, count] float32, for the atlas; 0 for units that never vary."""
        mean = self._sum / max(int(self._images), 1)
        centred = self._projected - mean[:, None] * self._signs
        length = np.sqrt(np.einsum("uc,uc->u", centred, centred))
        return {"projection": (centred / np.where(length > 0, length, 1)[:, None]).astype(np.float32)}

    def state(self) -> State:
        """Sums; `middle` and `step` ([0] while they are not known); and what waits."""
        waiting = [np.concatenate(parts) for parts in zip(*self._waiting, strict=True)] or [
            np.empty((0, self.units), np.float32),
            np.empty(0, np.uint64),
        ]
        nothing = np.empty(0)
        return {
            "images": self._images.copy(),
            "signs": self._signs.copy(),
            "sum": self._sum.copy(),
            "projected": self._projected.copy(),
            "middle": nothing if self._middle is None else self._middle.copy(),
            "step": nothing if self._step is None else self._step.copy(),
            "waiting": waiting[0],
            "hashes": waiting[1],
        }

    @classmethod
    def from_state(cls, state: State) -> CoActivation:
        """The summary whose `state()` this is."""
        self = cls(*state["projected"].shape)
        self._images, self._signs = state["images"].astype(np.int64), state["signs"].astype(np.int64)
        self._sum, self._projected = state["sum"].astype(np.int64), state["projected"].astype(np.int64)
        if state["middle"].size or not self.units:
            self._middle, self._step = state["middle"].astype(np.float64), state["step"].astype(np.float64)
        if len(state["hashes"]):
            self._waiting = [(state["waiting"].astype(np.float32), state["hashes"].astype(np.uint64))]
        return self
