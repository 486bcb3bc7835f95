"""What the loader gives of images: batches of pixels, and what is known of each image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Skip(NamedTuple):
    """A record and what was wrong with it."""

    key: str
    reason: str


@dataclass
class Item:
    """An image that was read: its record's key, captions and labels, its upright size, a small WebP."""

    key: str
    captions: tuple[str, ...]
    labels: dict[str, str]
    width: int
    height: int
    thumbnail: bytes


@dataclass
class Decoded:
    """Images of a group, uint8 [n, height, width, 3], with their items; and the records that dropped out."""

    images: np.ndarray
    items: list[Item]
    skipped: list[Skip] = field(default_factory=list)
    notes: list[Skip] = field(default_factory=list)


@dataclass
class Batch:
    """Group ``number`` of a shard: the images among its records ``start`` to ``stop`` that could be read.

    ``images`` is uint8 [n, height, width, 3], n = len(items), and may be empty. ``skipped`` lists the bad
    images with their reasons; ``notes`` says of images what was wrong beside them (unreadable captions).
    ``ends``: it is known to be the shard's last; False for a last one of which that only shows behind it.
    """

    shard: str
    number: int
    images: np.ndarray
    items: list[Item]
    skipped: list[Skip]
    start: int
    stop: int
    notes: list[Skip] = field(default_factory=list)
    ends: bool = False

    @property
    def records(self) -> int:
        """How many records it is made of, bad ones included."""
        return self.stop - self.start
