"""Trying again what fails for a while: disks, network drives, servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import sleep
from typing import TypeVar

DISK_WAITS: tuple[float, ...] = (0.2, 0.8, 2.0)
NET_WAITS: tuple[float, ...] = (2.0, 8.0, 20.0)
ROW_WAITS: tuple[float, ...] = (1.0, 4.0)
"""Seconds before each further attempt: of a disk, of a server, of a server for one image of many."""

T = TypeVar("T")
MayPass = Callable[[Exception], bool]


def patiently(read: Callable[[], T], may_pass: MayPass, waits: Sequence[float]) -> T:
    """What `read` gives, called again after each of `waits` while it raises what may pass."""
    for seconds in waits:
        try:
            return read()
        except Exception as error:
            if not may_pass(error):
                raise
        sleep(seconds)
    return read()


def read_on(
    read: Callable[[int], Iterator[T]], start: int, may_pass: MayPass, waits: Sequence[float]
) -> Iterator[T]:
    """What `read(start)` gives; where it breaks off for what may pass, `read` begins again at that place.

    The waits begin anew with every item that comes: a long stream may break off often.
    """
    position, failures = start, 0
    while True:
        try:
            for item in read(position):
                yield item
                position, failures = position + 1, 0
            return
        except Exception as error:
            if failures == len(waits) or not may_pass(error):
                raise
        sleep(waits[failures])
        failures += 1
