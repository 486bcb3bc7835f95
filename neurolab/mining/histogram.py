"""How often each unit was how active: counts between fixed edges, mergeable."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

State = dict[str, NDArray[np.generic]]

SAMPLE = 1024  # images that the edges come from
_NUMBERS_AT_ONCE = 1 << 16


class Histogram:
    """Counts per unit in equal bins between fixed edges, and beside them what fell below and above.

    The edges are those given, or come from the first `sample` images: from their smallest to their largest
    finite value, and a quarter of that range wider on both sides, since later images go further. A source of
    at most `sample` images gets its exact range. A bin holds its left edge; the last one holds its right edge
    too. NaN is left out; infinities fall below and above.
    """

    def __init__(
        self, units: int, bins: int = 64, *, edges: NDArray[np.float64] | None = None, sample: int = SAMPLE
    ) -> None:
        """`edges` [units, bins + 1], for shards that must agree; else they are found from `sample` images."""
        if bins < 1:
            raise ValueError(f"a histogram needs at least 1 bin, not {bins}")
        if edges is not None and edges.shape != (units, bins + 1):
            raise ValueError(f"edges are {edges.shape}; expected {(units, bins + 1)}")
        self.units, self.bins, self.sample = units, bins, sample
        self.edges = edges
        # Column 0 is below the edges, the last column above.
        self._counts = np.zeros((units, bins + 2), np.int64)
        self._waiting: list[NDArray[np.float32]] = []

    @property
    def counts(self) -> NDArray[np.int64]:
        """[units, bins], once the edges are fixed."""
        return self._counts[:, 1:-1]

    @property
    def below(self) -> NDArray[np.int64]:
        """[units]: how many values were under the first edge."""
        return self._counts[:, 0]

    @property
    def above(self) -> NDArray[np.int64]:
        """[units]: how many values were over the last edge."""
        return self._counts[:, -1]

    def _waiting_rows(self) -> int:
        return sum(len(rows) for rows in self._waiting)

    def update(self, values: ArrayLike, indices: ArrayLike | None = None, positions: object = None) -> None:
        """Take in `values` [n, units]; indices and positions are not needed."""
        floats = np.asarray(values, np.float32)
        if floats.ndim != 2 or floats.shape[1] != self.units:
            raise ValueError(f"values are {floats.shape}; expected (n, {self.units})")
        if self.edges is None:
            room = self.sample - self._waiting_rows()
            self._waiting.append(floats[:room].copy())
            floats = floats[room:]
            if not len(floats):
                return
            self._fix_edges(margin=0.25)
        self._count(floats)

    def count(self, counts: NDArray[np.int64]) -> None:
        """Add up counts [units, bins + 2] between the edges, which are fixed; below and above included."""
        self._counts += counts

    def finish(self) -> None:
        """Fix the edges of a source that ended within the sample. Without effect once they are fixed."""
        if self.edges is None:
            self._fix_edges(margin=0.0)

    def _fix_edges(self, margin: float) -> None:
        # By blocks of units, and row after row: the sample is the largest thing that a site ever holds.
        waiting, self._waiting = self._waiting or [np.empty((0, self.units), np.float32)], []
        blocks = [
            equal_edges(np.concatenate([rows[:, some] for rows in waiting]), self.bins, margin)
            for some in _blocks(self.units, self.sample)
        ]
        self.edges = np.concatenate([np.empty((0, self.bins + 1)), *blocks])
        while waiting:
            self._count(waiting.pop(0))

    def _count(self, values: NDArray[np.float32]) -> None:
        for some in _blocks(self.units, len(values)):
            self._count_block(some, values[:, some])

    def _count_block(self, some: slice, values: NDArray[np.float32]) -> None:
        assert self.edges is not None
        exact, edges = values.astype(np.float64), self.edges[some]
        first, last = edges[:, 0], edges[:, -1]
        with np.errstate(invalid="ignore", over="ignore"):
            exact_place = (exact - first) * (self.bins / (last - first))
            edge = np.rint(exact_place)
            # Rounding can only matter where a value is next to an edge: there the edges themselves decide.
            near = np.flatnonzero(np.abs(exact_place - edge) < 1e-4)
        slots = np.floor(np.clip(exact_place, -1, self.bins)) + 1
        units = near % len(edges)
        slots.ravel()[near] = self._compare(exact.ravel()[near], edges, units, edge.ravel()[near])
        slots += np.arange(len(edges)) * (self.bins + 2)
        missing = np.isnan(slots)
        counted = slots[~missing] if missing.any() else slots.ravel()
        counts = self._counts[some]
        counts += np.bincount(counted.astype(np.intp), minlength=counts.size).reshape(counts.shape)

    def _compare(
        self,
        values: NDArray[np.float64],
        edges: NDArray[np.float64],
        units: NDArray[np.int64],
        edge: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """The column of values [n] of some units [n], with edges [units, bins + 1], that lie next to edge
        number `edge` of theirs, or far outside."""
        inside = np.clip(edge, 0, self.bins)
        at = edges[units, inside.astype(np.intp)]
        slots = inside + (values >= at)
        # The last bin holds its right edge.
        return np.where((inside == self.bins) & (values == at), self.bins, slots)

    def append(self, after: Histogram) -> None:
        """Take in what `after` has counted of the images that come next: the sample is filled up from it."""
        if after.edges is None:
            for values in after._waiting:
                self.update(values)
        else:
            self.merge(after)

    def merge(self, other: Histogram) -> None:
        """Take in what `other` has counted; `other` stays as it is.

        Both must have the same edges, or one may still be gathering its sample, or both together have
        gathered no more than one sample. ValueError otherwise: fix the edges first and give them to every
        shard.
        """
        if (other.units, other.bins) != (self.units, self.bins):
            raise ValueError("cannot merge histograms of different units or bins")
        if self.edges is None and other.edges is None:
            if self._waiting_rows() + other._waiting_rows() > self.sample:
                raise ValueError("these histograms have no common edges: give the same edges to both")
            self._waiting += other._waiting
            return
        if self.edges is None:
            self.edges = other.edges
            gathered, self._waiting = self._waiting, []
        else:
            gathered = other._waiting
        for values in gathered:
            self._count(values)
        if other.edges is not None:
            assert self.edges is not None
            if not np.array_equal(self.edges, other.edges):
                raise ValueError("these histograms have different edges: give the same edges to both")
            self._counts += other._counts

    def state(self) -> State:
        """`edges` ([0, 0] while gathering), `counts` [units, bins + 2] and, of the sample so far, `waiting`
        [rows, units]; `sample` [] is how many rows it will have.
        """
        waiting = np.concatenate([np.empty((0, self.units), np.float32), *self._waiting])
        edges = np.empty((0, 0)) if self.edges is None else self.edges
        return {
            "edges": edges,
            "counts": self._counts.copy(),
            "waiting": waiting,
            "sample": np.array(self.sample),
        }

    @classmethod
    def from_state(cls, state: State) -> Histogram:
        """The summary whose `state()` this is."""
        units, columns = state["counts"].shape
        edges = state["edges"].astype(np.float64) if state["edges"].size else None
        self = cls(units, columns - 2, edges=edges, sample=int(state["sample"]))
        self._counts = state["counts"].astype(np.int64)
        self._waiting = [state["waiting"].astype(np.float32)] if len(state["waiting"]) else []
        return self


def _blocks(units: int, rows: int) -> Iterator[slice]:
    """Units by so many that so many rows of them stay in the cache."""
    width = max(1, _NUMBERS_AT_ONCE // max(rows, 1))
    return (slice(start, start + width) for start in range(0, units, width))


def equal_edges(values: NDArray[np.float32], bins: int, margin: float) -> NDArray[np.float64]:
    """Edges [units, bins + 1] of equal bins over the finite `values` [n, units], wider by a share `margin`.

    As in NumPy, a unit of one value v gets [v - 0.5, v + 0.5] (but wider where v is so large that these would
    round to v), a unit without finite values [0, 1].
    """
    finite = np.isfinite(values)
    low = np.min(values, axis=0, where=finite, initial=np.inf).astype(np.float64)
    high = np.max(values, axis=0, where=finite, initial=-np.inf).astype(np.float64)
    none = ~finite.any(axis=0)
    low, high = np.where(none, 0.0, low), np.where(none, 1.0, high)
    single = low == high
    half = np.where(single, np.maximum(0.5, np.abs(low) * 2.0**-20), 0.0)
    low, high = low - half, high + half
    widening = (high - low) * margin
    return np.linspace(low - widening, high + widening, bins + 1, axis=1)
