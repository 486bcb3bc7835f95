"""What runs in a network, and what hangs on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@contextmanager
def counting(module: nn.Module) -> Iterator[list[int]]:
    """How often a module has run, as the length of the list."""
    runs: list[int] = []
    handle = module.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        yield runs
    finally:
        handle.remove()
