"""What is counted of a site: images, or with the reduction `token` the patch tokens of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PLACED = ("max", "center", "token")  # the reductions whose values are from a place of the map


def observations_per_image(reduction: str, shape: Sequence[int], prefix_tokens: int) -> int:
    """How many observations an image is, for a site of this shape: its patch tokens, or one."""
    return shape[0] - prefix_tokens if reduction == "token" else 1


def distinct_images(images: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each image of a row [units, k] once, at its first rank: [units, k], -1 behind the last.

    An image whose tokens excite a unit is its exemplar several times; where units are compared by their
    images it counts once.
    """
    order = np.argsort(images, axis=1, kind="stable")
    ordered = np.take_along_axis(images, order, axis=1)
    repeated = np.zeros(images.shape, bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    once = np.where(repeated, -1, images)
    return np.take_along_axis(once, np.argsort(once < 0, axis=1, kind="stable"), axis=1)
