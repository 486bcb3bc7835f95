"""The images' embeddings as they come, and from them the embedding of every unit, in constant memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurolab.atlas.observed import distinct_images
from neurolab.errors import AtlasError

EXEMPLARS = 20  # of a unit, whose embeddings are averaged
_IMAGES_AT_ONCE = 4096
_UNITS_AT_ONCE = 2048


class EmbeddingsFile:
    """Rows of float16 on the disk, one per image: appended during the pass, mapped into memory after it.

    `rows` is how many a checkpoint vouches for: what was written after it is cut off. AtlasError where the
    file holds fewer.
    """

    def __init__(self, path: str | Path, dim: int, rows: int = 0) -> None:
        self.path, self.dim, self.rows = Path(path), dim, rows
        self._file = open(self.path, "ab")  # noqa: SIM115 - closed by close()
        size = rows * dim * 2
        if os.fstat(self._file.fileno()).st_size < size:
            self._file.close()
            raise AtlasError(
                f"{path} holds fewer embeddings than the checkpoint says ({rows}); "
                "overwrite=True (--overwrite) starts afresh"
            )
        self._file.truncate(size)

    def append(self, embeddings: NDArray[np.float16]) -> None:
        """Add rows [n, dim]."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim:
            raise AtlasError(f"embeddings have the shape {embeddings.shape}, not (n, {self.dim})")
        self._file.write(np.ascontiguousarray(embeddings, np.float16).tobytes())
        self.rows += len(embeddings)

    def flush(self) -> None:
        """Put every row so far on the disk, before a checkpoint that counts them."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def array(self) -> NDArray[np.float16]:
        """All rows, [images, dim], mapped into memory."""
        self._file.flush()
        if not self.rows:
            return np.empty((0, self.dim), np.float16)
        return np.memmap(self.path, np.float16, "r", shape=(self.rows, self.dim))

    def close(self) -> None:
        """Close the file; it stays where it is."""
        self._file.close()


def unit_norm(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows [..., dim] at length 1; zeros for those that are zero or not finite."""
    wide = np.asarray(rows, np.float32)
    # In float64 the squares of finite float32 numbers cannot overflow.
    length = np.sqrt(np.einsum("...d,...d->...", wide, wide, dtype=np.float64))[..., None]
    known = np.isfinite(length) & (length > 0)
    inverse = (1 / np.where(known, length, 1)).astype(np.float32)
    return np.where(known, wide * inverse, np.float32(0))


def mean_direction(embeddings: NDArray[np.float16]) -> NDArray[np.float32]:
    """The mean of the unit-norm embeddings, [dim]; of rows that are zero or not finite nothing is counted."""
    total, counted = np.zeros(embeddings.shape[1], np.float64), 0
    for start in range(0, len(embeddings), _IMAGES_AT_ONCE):
        rows = unit_norm(embeddings[start : start + _IMAGES_AT_ONCE])
        total += rows.sum(axis=0, dtype=np.float64)
        counted += int(np.count_nonzero(rows.any(axis=1)))
    return (total / max(counted, 1)).astype(np.float32)


def unit_embeddings(
    images: NDArray[np.int64], embeddings: NDArray[np.float16], center: NDArray[np.float32]
) -> NDArray[np.float16]:
    """What each unit stands for in the model's own embedding space, [units, dim] float16.

    images: [units, k], the exemplars from the strongest, -1 for none; embeddings: [images, dim]; center:
    their `mean_direction`. An image's embedding at unit norm, minus the center, at unit norm again, is what
    sets it apart from the other images; a unit's is the mean of those of its first 20 exemplars, at unit
    norm; an image that is several of them counts once. Zeros for a unit without exemplars.
    """
    result = np.zeros((len(images), embeddings.shape[1]), np.float16)
    if not len(embeddings):
        return result
    for start in range(0, len(images), _UNITS_AT_ONCE):
        some = distinct_images(images[start : start + _UNITS_AT_ONCE])[:, :EXEMPLARS]
        # An image is an exemplar of many units, and told apart from the others once.
        shown, place = np.unique(some, return_inverse=True)
        directions = unit_norm(embeddings[np.maximum(shown, 0)])
        known = (shown >= 0) & directions.any(axis=1)
        apart = unit_norm(directions - center) * known[:, None]
        total = np.zeros((len(some), embeddings.shape[1]), np.float32)
        for rank in place.reshape(some.shape).T:
            total += apart[rank]
        result[start : start + _UNITS_AT_ONCE] = unit_norm(total)
    return result
