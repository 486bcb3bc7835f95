"""How far a build is: a bar with rate and time left on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_SECONDS_BETWEEN_LINES = 30.0


class Reporter(Protocol):
    """What a build tells of itself."""

    def advance(self, records: int) -> None: ...


class Silence:
    """Says nothing."""

    def advance(self, records: int) -> None:
        """Nothing."""


class Lines:
    """A line every half minute, for logs."""

    def __init__(self, console: Console, what: str, total: int | None, done: int) -> None:
        self._console, self._what, self._total, self._first = console, what, total, done
        self._done = done
        self._started = self._spoke = time.monotonic()

    def advance(self, records: int) -> None:
        """Count records, and say so if it is time."""
        self._done += records
        if time.monotonic() - self._spoke >= _SECONDS_BETWEEN_LINES:
            self.say()

    def say(self) -> None:
        """Write the line."""
        self._spoke = time.monotonic()
        rate = (self._done - self._first) / max(self._spoke - self._started, 1e-9)
        parts = [
            f"{self._what}: {self._done:,} of {'?' if self._total is None else f'{self._total:,}'} images"
        ]
        parts.append(f"{rate:.1f} images/s")
        if self._total is not None and rate > 0:
            parts.append(f"{max(self._total - self._done, 0) / rate:.0f} s left")
        self._console.print(", ".join(parts), highlight=False, soft_wrap=True, markup=False)


class Bar:
    """A task of rich's progress bar."""

    def __init__(self, bar: Progress, what: str, total: int | None, done: int) -> None:
        self._bar, self._task = bar, bar.add_task(what, total=total, completed=done)

    def advance(self, records: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, records)


class Rate(ProgressColumn):
    """Images per second, over the last while."""

    def render(self, task: Task) -> Text:
        """The rate, once there is one."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s", style="progress.data.speed")


@contextmanager
def reporting(show: bool, what: str, total: int | None, done: int) -> Iterator[Reporter]:
    """A reporter of a build of `total` records (None: nobody knows), `done` of which lie behind it."""
    console = Console(stderr=True)
    if not show:
        yield Silence()
    elif not console.is_terminal:
        lines = Lines(console, what, total, done)
        yield lines
        lines.say()
    else:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            yield Bar(bar, what, total, done)


def say(show: bool, what: str) -> None:
    """A line on the error stream, where something is shown at all."""
    if show:
        Console(stderr=True).print(what, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def status(show: bool, what: str) -> Iterator[None]:
    """A line that something of unknown length is going on."""
    console = Console(stderr=True)
    if not show:
        yield
    elif not console.is_terminal:
        console.print(f"{what} ...", highlight=False, soft_wrap=True, markup=False)
        yield
    else:
        with console.status(Text(f"{what} …")):
            yield
