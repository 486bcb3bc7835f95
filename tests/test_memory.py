from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from neurolab.memory import freed_memory_kept, installed_memory, keep_freed_memory

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")

# A process of its own, as what it sets stays. Its faults are the pages that the kernel has zeroed anew.
BLOCKS = """
import ctypes, resource
from neurolab.memory import freed_memory_kept, installed_memory, keep_freed_memory
c = ctypes.CDLL(None)
c.malloc.restype, c.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def block():
    place = c.malloc(64_000_000)
    c.memset(place, 1, 64_000_000)
    c.free(place)
def faults():
    block()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        block()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
"""


def counted(program: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS + program], capture_output=True, text=True, check=True
    )
    return [int(number) for number in done.stdout.split()]


@GLIBC
def test_a_block_is_zeroed_once_and_not_each_time_it_is_used() -> None:
    (kept,), (usual,) = counted("assert keep_freed_memory(); print(faults())"), counted("print(faults())")
    assert kept * 10 < usual


@GLIBC
def test_it_is_kept_inside_a_block_and_given_back_after_it() -> None:
    program = """
with freed_memory_kept() as kept:
    assert kept
    with freed_memory_kept():
        print(faults())
    print(faults(), resident())  # the outer block still holds
print(faults(), resident())
"""
    inner, outer, held, after, left = counted(program)
    assert inner * 10 < after
    assert outer * 10 < after
    assert left < held - 50_000_000


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
    with freed_memory_kept() as kept:
        assert not kept


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux's /proc")
def test_installed_memory_is_what_the_kernel_says() -> None:
    found = re.search(r"^MemTotal:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found is not None
    assert installed_memory() == pytest.approx(1024 * int(found[1]), rel=0.01)
