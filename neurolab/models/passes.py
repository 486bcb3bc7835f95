"""What captures know of each other and of the pass that is running.

Several captures may be active on one network, nested or side by side. A pass may end early only when every
one of them has what it wants, and each has to know when a new pass begins.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import nn


class StopForward(BaseException):
    """Ends a forward pass whose remaining part nobody needs; it never leaves the library.

    A BaseException, so that no `except Exception` inside a network takes it for a failure.
    """


class Listener(Protocol):
    """An active capture."""

    modules: frozenset[int]  # the identities of all modules of its network

    def begin_pass(self) -> None: ...

    def is_satisfied(self) -> bool: ...


class _Inside(threading.local):
    """How many blocks a thread is in: one that runs a network by the way must not silence another's."""

    suspended = 0
    must_finish = 0


_active: list[Listener] = []
_inside = _Inside()


def join(listener: Listener) -> None:
    _active.append(listener)


def leave(listener: Listener) -> None:
    _active[:] = [other for other in _active if other is not listener]


def begin_pass(root: nn.Module) -> None:
    """Tell the captures on this network that a new pass begins."""
    if _active and not _inside.suspended:
        modules = frozenset(map(id, root.modules()))
        for listener in _related(modules):
            listener.begin_pass()


def can_stop(listener: Listener) -> bool:
    """Whether the running pass may end here: no capture on the network waits for more."""
    return not _inside.must_finish and all(other.is_satisfied() for other in _related(listener.modules))


def stop(listener: Listener) -> None:
    """End the running pass. Always raises StopForward."""
    for other in _related(listener.modules):
        other.begin_pass()
    raise StopForward


def _related(modules: frozenset[int]) -> list[Listener]:
    return [other for other in _active if not other.modules.isdisjoint(modules)]


def is_suspended() -> bool:
    return _inside.suspended > 0


@contextmanager
def suspended() -> Iterator[None]:
    """Passes inside are invisible to active captures."""
    _inside.suspended += 1
    try:
        yield
    finally:
        _inside.suspended -= 1


@contextmanager
def must_finish() -> Iterator[None]:
    """Passes inside run to their end."""
    _inside.must_finish += 1
    try:
        yield
    finally:
        _inside.must_finish -= 1
