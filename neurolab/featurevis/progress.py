"""The progress bar of a drawing: steps, time left and the objective now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

Report = Callable[[str, Tensor], None]
_SECONDS = 0.25  # between looks at the objective: each waits for the device to catch up


@contextmanager
def progress_bar(steps: int, shown: bool) -> Iterator[Report]:
    """A bar of that many steps; what it gives advances it: report(what is drawn, objectives [batch])."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("objective {task.fields[objective]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bar:
        task = bar.add_task("drawing", total=steps, objective="")
        looked = 0.0

        def report(what: str, values: Tensor) -> None:
            nonlocal looked
            if shown and time.monotonic() - looked > _SECONDS:
                bar.update(task, description=what, objective=f"{values.mean().item():.4g}")
                looked = time.monotonic()
            bar.advance(task)

        yield report
