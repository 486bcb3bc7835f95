"""Choices that look random and are the same everywhere: each one a function of its names alone.

Unlike a seeded generator's, a choice made here does not shift when another is added before it, and it depends
on no library's random number stream. It is used where pictures must come out the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def fraction(*names: object) -> float:
    """A number in [0, 1) that depends on `names` only (their str, so 1 and "1" are the same name)."""
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2.0**48


def between(low: float, high: float, *names: object) -> float:
    """A number in [low, high) that depends on `names` only."""
    return low + (high - low) * fraction(*names)


def pick(options: Sequence[T], *names: object) -> T:
    """One of `options`, each equally likely over many names."""
    return options[int(fraction(*names) * len(options))]


def shuffled(items: Sequence[T], *names: object) -> list[T]:
    """`items` in an order that depends on `names` and the items' own places only."""
    order = sorted(range(len(items)), key=lambda i: fraction(*names, i))
    return [items[i] for i in order]
