"""How a process on the CPU holds its memory."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# The options of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
NEVER = 2**31 - 1
# Where glibc comes to by itself in a process that has freed a large block, and the usual limit.
USUAL = {M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20, M_MMAP_MAX: 65536}

_inside = 0
_lock = threading.Lock()


def keep_freed_memory() -> bool:
    """Have glibc keep the memory that tensors give back, for the tensors after them; whether it does.

    It would return every large block to the kernel at once and get the next one page by page, zeroed: 25 to
    30 % of the time that the teacher takes for a batch. The price is that memory once used stays with the
    process. Other C libraries are left as they are.
    """
    mallopt = _mallopt()
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))


@contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """`keep_freed_memory` for the time of a block, in any thread; then all that is free is given back.

    Gives whether it is kept. What a process has set itself with mallopt is lost.
    """
    global _inside
    with _lock:
        _inside += 1
        kept = keep_freed_memory()
    try:
        yield kept
    finally:
        with _lock:
            _inside -= 1
            mallopt = _mallopt()
            if mallopt is not None and not _inside:
                for option, value in USUAL.items():
                    mallopt(option, value)
                ctypes.CDLL(None).malloc_trim(0)


def installed_memory() -> int | None:
    """Bytes of memory that this machine has; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _mallopt() -> Callable[[int, int], int] | None:
    """glibc's mallopt; None in a process with another C library."""
    return ctypes.CDLL(None).mallopt if platform.libc_ver()[0] == "glibc" else None
