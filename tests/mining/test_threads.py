"""Sites side by side: all are done, errors come out, and of little nothing is made of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from neurolab.mining.threads import ENOUGH, each


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("size", "aside"), [(3 * ENOUGH, True), (3 * ENOUGH - 1, False)])
def test_all_are_done_before_it_returns(size: int, aside: bool) -> None:
    done: dict[int, str] = {}
    each(lambda number: done.setdefault(number, threading.current_thread().name), [1, 2, 3], size)
    assert sorted(done) == [1, 2, 3]
    assert all(name.startswith("neurolab-mining") == aside for name in done.values())


@pytest.mark.parametrize("size", [0, 10 * ENOUGH])
def test_an_error_comes_out(size: int) -> None:
    def fail(number: int) -> None:
        if number == 2:
            raise ZeroDivisionError(number)

    with pytest.raises(ZeroDivisionError, match="2"):
        each(fail, [1, 2, 3], size)


def test_one_thread_stays_alone() -> None:
    torch.set_num_threads(1)
    names: list[str] = []
    each(lambda number: names.append(threading.current_thread().name), [1, 2], 10 * ENOUGH)
    assert names == [threading.current_thread().name] * 2
