"""How a process on the CPU holds its memory."""

from __future__ import annotations

import ctypes
import platform

# The options of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc keep the memory that tensors give back, for the tensors after them; whether it does.

    It would return every large block to the kernel at once and get the next one page by page, zeroed: 25 to
    30 % of the time that the teacher takes for a batch. The price is that memory once used stays with the
    process. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
