"""The numbers of a benchmark as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A number and its goal.

    low, high: of the repeats, or its 95 % interval. ours, theirs: what it is the ratio of: milliseconds for a
    picture and step, mean activations, pictures a minute, images a second, or megabytes.
    """

    key: str
    measure: str
    goal: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    ours: float | None = None
    theirs: float | None = None
    note: str = ""


def table(rows: Sequence[Row], settings: Mapping[str, Any], value: str = "ratio") -> str:
    """The rows and the settings as Markdown. value: the head of the column of values."""
    heads = ("measure", "goal", value, "lowest to highest", "ours", "theirs", "")
    lines = [heads, ("---",) * len(heads)]
    for row in rows:
        spread = "" if row.low is None else f"{row.low:.2f} to {row.high:.2f}"
        ours, theirs = ("" if value is None else f"{value:.4g}" for value in (row.ours, row.theirs))
        ratio = "not measured" if row.value is None else f"{row.value:.2f}"
        lines.append((row.measure, row.goal, ratio, spread, ours, theirs, row.note))
    listed = [f"- {key}: {value}" for key, value in settings.items()]
    return "\n".join([*(f"| {' | '.join(cells)} |" for cells in lines), "", *listed]) + "\n"


def as_json(rows: Sequence[Row], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every number by its key (null where it was not measured), the rows, and the settings."""
    return {row.key: row.value for row in rows} | {
        "rows": [asdict(row) for row in rows],
        "settings": dict(settings),
    }
