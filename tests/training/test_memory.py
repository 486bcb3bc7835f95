from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from neurolab.training.memory import keep_freed_memory

# A process of its own, as what it sets stays. Its faults are the pages that the kernel has zeroed anew.
TEN_BLOCKS = """
import ctypes, resource
from neurolab.training.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
c = ctypes.CDLL(None)
c.malloc.restype, c.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def block():
    place = c.malloc(64_000_000)
    c.memset(place, 1, 64_000_000)
    c.free(place)
block()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    block()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    done = subprocess.run(
        [sys.executable, "-c", TEN_BLOCKS.format(keep=keep)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_a_block_is_zeroed_once_and_not_each_time_it_is_used() -> None:
    assert faults(keep=True) * 10 < faults(keep=False)


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
