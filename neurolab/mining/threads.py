"""Sites side by side: what is remembered of one has nothing to do with the others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Thing = TypeVar("Thing")


def each(call: Callable[[Thing], None], things: Iterable[Thing]) -> None:
    """Call for each thing, on as many threads as torch has; all have ended when it returns.

    Sorting and counting in NumPy let other threads work meanwhile: two take 0.57 of the time of one.
    """
    count = torch.get_num_threads()
    for _ in map(call, things) if count == 1 else _pool(count).map(call, things):
        pass


@functools.cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "neurolab-mining")
