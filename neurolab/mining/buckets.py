"""A few images of every activation level of each unit, drawn at random: what conditional plots show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurolab.mining.hashes import EMPTY, HASH_BITS, Hashes
from neurolab.mining.levels import UNSEEN, bucket_of, find_exponents

State = dict[str, NDArray[np.generic]]

MOST_BUCKETS = 32
_UNITS_AT_ONCE = 2048


class ActivationBuckets:
    """Up to `images` images, drawn at random, of each of at most `buckets` levels of a unit's activation.

    The article's procedure (Goh et al. 2021, appendix on conditional probability): buckets of equal width
    from the most negative to the most positive activation, and in each the same number of images, however
    rare the level. Here it takes one pass and no edges beforehand: the width is the least power of two with
    which `buckets` buckets, whose edges are its multiples, cover what was seen (so there are between half of
    them and all, and 0 is an edge). When the range grows, two buckets become one. In each, the images with
    the lowest hashes are kept (`draw_hashes`): a uniform draw without replacement, the same for every order
    and sharding. An image has one hash for all units: the draw of a unit is as good as any, but those of
    several units share images more often than chance would have it (and people have fewer to look at), so
    they are no independent samples of the source. NaN and infinities are left out.

    Where images are of so many `concepts` (labels, or what the model itself takes them for), those of each
    bucket are counted: P(concept | activation), of all images and not of those drawn.
    """

    def __init__(self, units: int, buckets: int = 16, images: int = 16, concepts: int = 0) -> None:
        """ValueError for numbers of buckets that are not 2 to 32, no images, or concepts below 0."""
        if not 2 <= buckets <= MOST_BUCKETS or images < 1 or concepts < 0:
            raise ValueError(
                f"2 to {MOST_BUCKETS} buckets of at least 1 image and 0 or more concepts, not {buckets} of "
                f"{images} and {concepts}: choose others"
            )
        self.units, self.buckets, self.images, self.concepts = units, buckets, images, concepts
        self._low = np.full(units, np.inf, np.float32)
        self._high = np.full(units, -np.inf, np.float32)
        self._exponent = np.full(units, UNSEEN, np.int64)
        # Bucket number i of a unit, floor(value / width), lies at i modulo buckets.
        # The first count is of all images, the others of those of each concept.
        self._counts = np.zeros((units, buckets, 1 + concepts), np.int64)
        self._hashes = np.full((units, buckets, images), EMPTY, np.uint64)
        # The largest hash of each bucket: what a newcomer must beat.
        self._largest = np.full((units, buckets), EMPTY, np.uint64)
        self._drawn = np.full((units, buckets, images), -1, np.int64)
        self._values = np.full((units, buckets, images), np.nan, np.float32)

    def update(
        self, values: ArrayLike, indices: ArrayLike, hashes: Hashes, concepts: ArrayLike | None = None
    ) -> None:
        """Offer `values` [n, units] of images `indices` [n] with their `hashes` [n].

        concepts: the number of each image's concept [n]; -1, or None for all, for images without.
        """
        floats = np.asarray(values, np.float32) + np.float32(0)  # -0.0 becomes 0.0
        numbers = np.asarray(indices, np.int64)
        if floats.shape != (len(numbers), self.units) or len(hashes) != len(numbers):
            raise ValueError(f"values are {floats.shape}; expected {(len(numbers), self.units)}, as hashes")
        of = np.full(len(numbers), -1) if concepts is None else np.asarray(concepts, np.int64)
        if of.shape != numbers.shape or (len(of) and not -1 <= of.min() <= of.max() < self.concepts):
            raise ValueError(f"concepts are [{len(numbers)}] numbers from -1 to {self.concepts - 1}")
        order = np.argsort(hashes, kind="stable")
        floats, numbers, sorted_hashes, of = floats[order], numbers[order], hashes[order], of[order]
        for start in range(0, self.units if len(numbers) else 0, _UNITS_AT_ONCE):
            some = slice(start, start + _UNITS_AT_ONCE)
            self._offer(some, floats[:, some], numbers, sorted_hashes, of)

    def _offer(
        self,
        some: slice,
        values: NDArray[np.float32],
        indices: NDArray[np.int64],
        hashes: Hashes,
        concepts: NDArray[np.int64],
    ) -> None:
        finite = np.isfinite(values)
        everything = bool(finite.all())
        low = np.min(values, axis=0, initial=np.inf, where=True if everything else finite)
        high = np.max(values, axis=0, initial=-np.inf, where=True if everything else finite)
        self._widen(some, low, high)
        seen = values if everything else np.where(finite, values, np.float32(0))
        numbers = bucket_of(seen, self._exponent[some], self.buckets)
        places = (numbers + np.arange(numbers.shape[1]) * self.buckets).astype(np.intp)
        counts = self._counts[some].reshape(-1, 1 + self.concepts)
        counts[:, 0] += np.bincount(places.ravel() if everything else places[finite], minlength=len(counts))
        for concept in np.unique(concepts[concepts >= 0]):
            its = finite & (concepts == concept)[:, None]
            counts[:, 1 + concept] += np.bincount(places[its], minlength=len(counts))
        admitted = finite & (hashes[:, None] < self._largest[some].reshape(-1)[places])
        rows, units = np.divmod(np.flatnonzero(admitted), admitted.shape[1])  # faster than numpy.nonzero
        self._admit(some, places[rows, units], rows, hashes[rows], indices[rows], values[rows, units])

    def _admit(
        self,
        some: slice,
        places: NDArray[np.int64],
        ranks: NDArray[np.int64],
        hashes: Hashes,
        indices: NDArray[np.int64],
        values: NDArray[np.float32],
    ) -> None:
        """Put images into their places [units * buckets], instead of those with the largest hashes.

        ranks: the how manieth each image's hash is among those of the batch.
        """
        kept = self._hashes[some].reshape(-1, self.images)
        # One index for a slot, and `take` for rows: quicker than two indices and brackets.
        slots = (array[some].reshape(-1) for array in (self._hashes, self._drawn, self._values))
        hash_in, image_in, value_in = slots
        largest = self._largest[some].reshape(-1)
        # By place, and in it by hash. NumPy sorts single integers many times as fast as by two keys.
        order = np.argsort(places * (int(ranks.max(initial=0)) + 1) + ranks)
        first = np.flatnonzero(np.diff(places[order], prepend=-1))  # of each place
        at, size = places[order[first]], np.diff(first, append=len(order))
        turn = np.arange(len(order)) - np.repeat(first, size)  # the how manieth of its place
        # One image for each place at a time, and of no place more than it has room for.
        ends = np.cumsum(np.bincount(turn)[: self.images])
        # NumPy sorts short numbers fast. Of those for whom there is no room, the order does not matter.
        short = np.minimum(turn, self.images).astype(np.min_scalar_type(self.images))
        by_turn = order[np.argsort(short, kind="stable")]
        for new in np.split(by_turn[: ends[-1]], ends[:-1]) if len(ends) else ():
            now = places[new]
            slot = now * self.images + kept.take(now, axis=0).argmax(axis=1)
            better = hashes[new] < hash_in[slot]
            new, slot = new[better], slot[better]
            hash_in[slot], image_in[slot], value_in[slot] = hashes[new], indices[new], values[new]
        largest[at] = kept.take(at, axis=0).max(axis=1)

    def outgrown(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[np.int64]:
        """The units whose buckets become wider when they are to cover [low, high] [units], too.

        An empty range is from inf to -inf.
        """
        units = np.flatnonzero((low < self._low) | (high > self._high))
        low, high = np.minimum(self._low[units], low[units]), np.maximum(self._high[units], high[units])
        return units[find_exponents(low, high, self.buckets) != self._exponent[units]]

    def widen(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        """Let the buckets cover [low, high] [units], too."""
        self._widen(slice(0, self.units), low, high)

    def count(self, units: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Add up how many more images of some units are in each bucket, [n, buckets, 1 + concepts], where
        bucket number i, floor(value / width), is at i modulo buckets."""
        self._counts[units] += counts

    def admit(
        self,
        units: NDArray[np.int64],
        values: NDArray[np.float32],
        images: NDArray[np.int64],
        hashes: Hashes,
        ranks: NDArray[np.int64],
    ) -> None:
        """Offer single values, [n] each, that the buckets of their units cover, to the draw; none is counted.

        ranks: the how manieth each hash is among those of the batch, from 0. With all whose hash is below the
        largest that is drawn of their bucket (`largest`), it is as if everything had been offered by
        `update`.
        """
        places = bucket_of(values, self._exponent[units], self.buckets).astype(np.int64)
        self._admit(slice(None), units * self.buckets + places, ranks, hashes, images, values)

    @property
    def largest(self) -> Hashes:
        """[units, buckets]: the largest hash that is drawn; `EMPTY` where there is room."""
        return self._largest

    @property
    def low(self) -> NDArray[np.float32]:
        """[units]: the least value seen; inf where there was none."""
        return self._low

    @property
    def high(self) -> NDArray[np.float32]:
        """[units]: the largest value seen; -inf where there was none."""
        return self._high

    @property
    def exponent(self) -> NDArray[np.int64]:
        """[units]: a bucket is 2**exponent wide; far below any where nothing was seen."""
        return self._exponent

    def _widen(self, some: slice, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        """Let the buckets of some units cover [low, high], too."""
        grown = np.flatnonzero((low < self._low[some]) | (high > self._high[some]))
        if not len(grown):
            return
        units = grown + some.start
        before, lowest = self._exponent[units], self._low[units]
        self._low[units] = np.minimum(lowest, low[grown])
        self._high[units] = np.maximum(self._high[units], high[grown])
        after = find_exponents(self._low[units], self._high[units], self.buckets)
        self._exponent[units] = after
        changed = (after != before) & (before != UNSEEN)
        if changed.any():
            self._coarsen(units[changed], lowest[changed], before[changed], after[changed])

    def _coarsen(
        self,
        units: NDArray[np.int64],
        low: NDArray[np.float32],
        before: NDArray[np.int64],
        after: NDArray[np.int64],
    ) -> None:
        """Join the buckets of units that were seen from `low` up, as the exponent of the width grows."""
        first = np.floor(np.ldexp(low.astype(np.float64), -before)).astype(np.int64)[:, None]
        places = np.arange(self.buckets)
        numbers = first + (places - first) % self.buckets
        joined = (numbers >> np.minimum(after - before, 63)[:, None]) % self.buckets
        counts = np.zeros((len(units), self.buckets, 1 + self.concepts), np.int64)
        np.add.at(counts, (np.arange(len(units))[:, None], joined), self._counts[units])
        self._counts[units] = counts
        self._refill(units, np.repeat(joined, self.images, axis=1), [self])

    def _refill(
        self, units: NDArray[np.int64], places: NDArray[np.int64], givers: Sequence[ActivationBuckets]
    ) -> None:
        """Fill the buckets of units with the lowest hashes of what the givers have of them.

        places: [units, images] the bucket in which each of the givers' images belongs.
        """
        hashes, drawn, values = (
            np.concatenate([getattr(giver, name)[units].reshape(len(units), -1) for giver in givers], axis=1)
            for name in ("_hashes", "_drawn", "_values")
        )
        keys = (places.astype(np.uint64) << np.uint64(HASH_BITS)) | hashes
        order = np.argsort(keys, axis=1, kind="stable")
        places = np.take_along_axis(places, order, axis=1)
        # The rank of each within its bucket: its column less that of the bucket's first.
        sizes = np.stack([(places == bucket).sum(axis=1) for bucket in range(self.buckets)], axis=1)
        starts = np.cumsum(sizes, axis=1) - sizes
        rank = np.arange(places.shape[1]) - np.take_along_axis(starts, places, axis=1)
        row, column = np.nonzero(rank < self.images)
        where = units[row], places[row, column], rank[row, column]
        self._hashes[units], self._drawn[units], self._values[units] = EMPTY, -1, np.nan
        from_ = row, order[row, column]
        self._hashes[where], self._drawn[where], self._values[where] = (
            hashes[from_], drawn[from_], values[from_],
        )  # fmt: skip
        self._largest[units] = self._hashes[units].max(axis=2)

    def merge(self, other: ActivationBuckets) -> None:
        """Take in what `other` has seen; `other` stays as it is. ValueError where the sizes differ."""
        if other.sizes != self.sizes:
            raise ValueError("cannot merge buckets of other numbers of units, buckets, images or concepts")
        other = ActivationBuckets.from_state(other.state())
        for start in range(0, self.units, _UNITS_AT_ONCE):
            some = slice(start, min(start + _UNITS_AT_ONCE, self.units))
            for one, its in ((self, other), (other, self)):
                one._widen(some, its._low[some], its._high[some])
            self._counts[some] += other._counts[some]
            places = np.tile(np.repeat(np.arange(self.buckets), self.images), 2)
            units = np.arange(some.start, some.stop)
            self._refill(units, np.tile(places, (len(units), 1)), [self, other])

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Units, buckets, images of a bucket, concepts."""
        return self.units, self.buckets, self.images, self.concepts

    def shift_images(self, by: int) -> None:
        """Number the images from `by` on: those of a shard, once it is known how many come before it."""
        self._drawn = np.where(self._drawn < 0, self._drawn, self._drawn + by)

    def arrays(self) -> State:
        """For the atlas, from the lowest bucket up; places without a bucket come last.

        edges [units, buckets + 1] float64, NaN behind the last; counts [units, buckets] int64, how many
        images were in each; concepts [units, buckets, concepts] int64, how many of each concept; images
        [units, buckets, images] int64 in the order of the draw, -1 for none; values, their activations,
        float32.
        """
        seen = self._exponent != UNSEEN
        exponent = np.where(seen, self._exponent, 0)
        low, high = (np.where(seen, ends, 0).astype(np.float64) for ends in (self._low, self._high))
        first, last = (np.floor(np.ldexp(ends, -exponent)).astype(np.int64) for ends in (low, high))
        numbers = first[:, None] + np.arange(self.buckets + 1)
        edges = np.ldexp(numbers.astype(np.float64), exponent[:, None])
        edges[(numbers > last[:, None] + 1) | ~seen[:, None]] = np.nan
        places = numbers[:, :-1] % self.buckets
        order = np.argsort(self._hashes, axis=2, kind="stable")
        images, values = (np.take_along_axis(a, order, axis=2) for a in (self._drawn, self._values))
        counts = np.take_along_axis(self._counts, places[:, :, None], axis=1)
        return {
            "edges": edges,
            "counts": counts[:, :, 0],
            "concepts": counts[:, :, 1:],
            "images": np.take_along_axis(images, places[:, :, None], axis=1),
            "values": np.take_along_axis(values, places[:, :, None], axis=1),
        }

    def state(self) -> State:
        """low, high, exponent [units]; counts [units, buckets, 1 + concepts]; hashes, images, values."""
        order = np.argsort(self._hashes, axis=2, kind="stable")
        drawn: State = {"hashes": self._hashes, "images": self._drawn, "values": self._values}
        return {
            "low": self._low.copy(),
            "high": self._high.copy(),
            "exponent": self._exponent.copy(),
            "counts": self._counts.copy(),
            **{name: np.take_along_axis(array, order, axis=2) for name, array in drawn.items()},
        }

    @classmethod
    def from_state(cls, state: State) -> ActivationBuckets:
        """The summary whose `state()` this is."""
        units, buckets, images = state["hashes"].shape
        self = cls(units, buckets, images, state["counts"].shape[2] - 1)
        self._low, self._high = state["low"].astype(np.float32), state["high"].astype(np.float32)
        self._exponent, self._counts = state["exponent"].astype(np.int64), state["counts"].astype(np.int64)
        self._hashes, self._drawn = state["hashes"].astype(np.uint64), state["images"].astype(np.int64)
        self._values = state["values"].astype(np.float32)
        self._largest = self._hashes.max(axis=2)
        return self
