"""The k images that excite each unit most: exact, mergeable, independent of the order of the images."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

_SIGN = np.uint32(0x80000000)
_LAST_IMAGE = np.uint64(0xFFFFFFFF)
_NO_IMAGE = 1 << 32
_UNITS_AT_ONCE = 4096  # bounds the memory of a sort


def pack(values: NDArray[np.float32], images: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One integer per (value, image) whose order is: higher value first, then smaller image.

    The bits of a float32, with the sign bit flipped for positive and all bits for negative numbers, sort as
    the number does. They fill the upper half; the lower half counts images down. No packed pair is 0.
    """
    bits = values.view(np.uint32)
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.uint64)
    return (ordered << np.uint64(32)) | (_LAST_IMAGE - images.astype(np.uint64))


def unpack(keys: NDArray[np.uint64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Values and images of packed keys; -inf and -1 for the key 0, an empty slot."""
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    values = np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered).view(np.float32)
    images = (_LAST_IMAGE - (keys & _LAST_IMAGE)).astype(np.int64)
    return np.where(keys == 0, np.float32(-np.inf), values), np.where(keys == 0, -1, images)


class TopK:
    """Per unit, the k largest values with their images and positions: value descending, then image ascending.

    NaN never enters; `nan` [units] counts what was turned away. -0.0 is 0.0. Values are kept as float32. The
    result is a function of the set of (value, image) offered: any order of updates, any sharding and any
    order of merges give the same bytes, as long as no image is offered twice.

    Newcomers that beat the current k-th value wait in a buffer, and the best k are chosen when it is full:
    after n images in random order that has happened about log(n / k) times, and once in k images at worst.
    """

    def __init__(self, units: int, k: int) -> None:
        """`units` rows of `k` slots. Raises ValueError for k < 1."""
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        self.units, self.k = units, k
        self.nan = np.zeros(units, np.int64)
        self._room = max(k, 64)
        # The first _filled[u] slots of row u are taken, in no order; the others hold 0 and -1.
        self._keys = np.zeros((units, k + self._room), np.uint64)
        self._position = np.full((units, k + self._room), -1, np.int32)
        self._filled = np.zeros(units, np.int64)
        # What a newcomer has to beat: an empty slot loses to every image.
        self._least = np.full(units, -np.inf, np.float32)
        self._least_image = np.full(units, _NO_IMAGE, np.int64)

    def update(self, values: ArrayLike, indices: ArrayLike, positions: NDArray[np.int32]) -> None:
        """Offer `values` [n, units] of images `indices` [n] (0 to 2**32 - 1) at `positions` [n, units]."""
        floats = self._ranked(np.asarray(values, np.float32))
        images = np.asarray(indices, np.int64)
        if floats.shape != (len(images), self.units):
            raise ValueError(f"values are {floats.shape}; expected {(len(images), self.units)}")
        if len(images) and not (images.min() >= 0 and images.max() <= int(_LAST_IMAGE)):
            raise ValueError("image indices must be from 0 to 2**32 - 1")
        self.nan += np.isnan(floats).sum(axis=0)
        for start in range(0, len(images), self._room):
            self._offer(floats, images, positions, start, min(start + self._room, len(images)))

    def _offer(
        self,
        values: NDArray[np.float32],
        images: NDArray[np.int64],
        positions: NDArray[np.int32],
        start: int,
        stop: int,
    ) -> None:
        offered, offered_images = values[start:stop], images[start:stop]
        admitted = offered > self._least
        ties = offered == self._least
        if ties.any():
            admitted |= ties & (offered_images[:, None] < self._least_image)
        flat = np.flatnonzero(admitted)
        if not len(flat):
            return
        rows, units = np.divmod(flat, self.units)
        keys = pack(offered[rows, units], offered_images[rows])
        rank = admitted.astype(np.int32)
        for row in range(1, len(rank)):  # many times as fast as numpy.cumsum along the first axis
            rank[row] += rank[row - 1]
        self._insert(units, rank[rows, units] - 1, rank[-1], keys, positions[rows + start, units])

    def _insert(
        self,
        units: NDArray[np.int64],
        turn: NDArray[np.signedinteger[Any]],
        newcomers: NDArray[np.signedinteger[Any]],
        keys: NDArray[np.uint64],
        positions: NDArray[np.int32],
    ) -> None:
        """Put keys [n] of some units, each in its turn among those of its unit, into free slots. newcomers:
        how many there are of each unit, no more than there is room for at once."""
        self._make_room(np.flatnonzero(self._filled + newcomers > self._keys.shape[1]))
        slots = self._filled[units] + turn
        self._keys[units, slots], self._position[units, slots] = keys, positions
        self._filled += newcomers

    def _ranked(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values as they are compared, the larger the better, and back; -0.0 becomes 0.0, to tie with it."""
        return values + np.float32(0)

    @property
    def bar(self) -> NDArray[np.float32]:
        """[units]: the last value with which an image after all those offered so far may still enter: the
        least, of the smallest k the largest."""
        above = np.nextafter(self._least, np.float32(np.inf))
        return self._ranked(np.where(self._least_image == _NO_IMAGE, np.float32(-np.inf), above))

    def admit(
        self,
        units: NDArray[np.int64],
        values: NDArray[np.float32],
        images: NDArray[np.int64],
        positions: NDArray[np.int32],
    ) -> None:
        """Offer single values, [n] each, of `units` in ascending order; NaN and -0.0 are not among them.

        With all that reach the `bar` of their unit, it is as if everything had been offered by `update`.
        """
        keys = pack(self._ranked(values), images)
        counts = np.bincount(units, minlength=self.units)
        turn = np.arange(len(units)) - np.repeat(np.cumsum(counts) - counts, counts)
        for start in range(0, int(counts.max(initial=0)), self._room):
            now = turn // self._room == start // self._room
            newcomers = np.clip(counts - start, 0, self._room)
            self._insert(units[now], turn[now] - start, newcomers, keys[now], positions[now])

    def _make_room(self, units: NDArray[np.int64]) -> None:
        for start in range(0, len(units), _UNITS_AT_ONCE):
            some = units[start : start + _UNITS_AT_ONCE]
            self._place(some, *best(self._keys[some], self._position[some], self.k))

    def _place(self, units: NDArray[np.int64], keys: NDArray[np.uint64], position: NDArray[np.int32]) -> None:
        """Make [units, k] keys and positions the content of these units."""
        self._keys[units, : self.k], self._keys[units, self.k :] = keys, 0
        self._position[units, : self.k], self._position[units, self.k :] = position, -1
        self._filled[units] = (keys > 0).sum(axis=1)
        least, image = unpack(keys.min(axis=1))
        self._least[units], self._least_image[units] = least, np.where(image < 0, _NO_IMAGE, image)

    def _sorted(self) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
        """Keys and positions [units, k], best first."""
        keys = np.empty((self.units, self.k), np.uint64)
        position = np.empty((self.units, self.k), np.int32)
        for start in range(0, self.units, _UNITS_AT_ONCE):
            some = slice(start, start + _UNITS_AT_ONCE)
            order = np.argsort(self._keys[some], axis=1)[:, ::-1][:, : self.k]
            keys[some] = np.take_along_axis(self._keys[some], order, axis=1)
            position[some] = np.take_along_axis(self._position[some], order, axis=1)
        return keys, position

    def merge(self, other: TopK) -> None:
        """Take in what `other` has seen; `other` stays as it is. Raises ValueError when units or k differ."""
        if (other.units, other.k) != (self.units, self.k):
            raise ValueError(
                f"cannot merge top-{other.k} of {other.units} units into top-{self.k} of {self.units}"
            )
        for start in range(0, self.units, _UNITS_AT_ONCE):
            some = np.arange(start, min(start + _UNITS_AT_ONCE, self.units))
            keys = np.concatenate([self._keys[some], other._keys[some]], axis=1)
            position = np.concatenate([self._position[some], other._position[some]], axis=1)
            self._place(some, *best(keys, position, self.k))
        self.nan = self.nan + other.nan

    def state(self) -> dict[str, NDArray[np.generic]]:
        """`values` [units, k] f32, `images` [units, k] i64, `position` [units, k] i32, `nan` [units] i64.

        Empty slots hold -inf, -1 and -1.
        """
        keys, position = self._sorted()
        values, images = unpack(keys)
        return {"values": values, "images": images, "position": position, "nan": self.nan.copy()}

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """`values` (where there is no image -inf, of the smallest inf), `images` and `position`, for the
        atlas."""
        state = self.state()
        values = self._ranked(state["values"].astype(np.float32))
        return {"values": values, "images": state["images"], "position": state["position"]}

    def shift_images(self, by: int) -> None:
        """Number the images from `by` on: those of a shard, once it is known how many come before it."""
        taken = self._keys > 0
        if taken.any() and int(unpack(self._keys[taken])[1].max()) + by > int(_LAST_IMAGE):
            raise ValueError("image indices must be from 0 to 2**32 - 1")
        self._keys[taken] -= np.uint64(by)  # the lower half counts images down
        self._least_image = np.where(
            self._least_image == _NO_IMAGE, self._least_image, self._least_image + by
        )

    @classmethod
    def from_state(cls, state: dict[str, NDArray[np.generic]]) -> Self:
        """The summary whose `state()` this is."""
        images = state["images"].astype(np.int64)
        units, k = images.shape
        self = cls(units, k)
        keys = pack(state["values"].astype(np.float32), np.maximum(images, 0))
        keys = np.where(images < 0, np.uint64(0), keys)
        self._place(np.arange(units), keys, state["position"].astype(np.int32))
        self.nan = state["nan"].astype(np.int64)
        return self


class BottomK(TopK):
    """Per unit, the k smallest values, from the smallest; otherwise as `TopK`, whose slots hold their
    negatives."""

    def _ranked(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.float32(0) - values


def best(
    keys: NDArray[np.uint64], position: NDArray[np.int32], k: int
) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """The k largest keys of each row with their positions, [rows, k], in no order but with zeros last."""
    least = np.partition(keys, -k, axis=1)[:, -k]
    chosen = keys >= least[:, None]
    if np.count_nonzero(chosen) == k * len(keys):
        return keys[chosen].reshape(-1, k), position[chosen].reshape(-1, k)
    # Rows with fewer than k keys: the zeros tie. The sort decides, and puts them last.
    order = np.argsort(keys, axis=1)[:, ::-1][:, :k]
    return np.take_along_axis(keys, order, axis=1), np.take_along_axis(position, order, axis=1)
