"""A measured number with its bootstrap interval, and tables of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measure:
    """A number over independent items with its 95 % percentile-bootstrap interval.

    value is None where it could not be measured; `note` then says why. low and high are None where there is
    nothing to draw from (a size), chance where it has no meaning (a speed).
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    items: int = 0
    chance: float | None = None
    note: str = ""

    @classmethod
    def of(cls, name: str, per_item: np.ndarray, chance: float | None = None) -> Measure:
        """The mean of one number per item."""
        return cls.of_statistic(name, [per_item], lambda means: means[0], chance)

    @classmethod
    def of_ratio(
        cls, name: str, per_item: np.ndarray, base: np.ndarray, chance: float | None = None
    ) -> Measure:
        """The mean over that of `base`, both of the same items, which are drawn together."""
        if not base.mean() > 0:
            raise ValueError(f"{name}: the base of the ratio is {base.mean()}")
        pairs = np.stack([per_item, base], axis=1)
        return cls.of_statistic(name, [pairs], lambda means: means[0][..., 0] / means[0][..., 1], chance)

    @classmethod
    def of_gap(cls, name: str, first: np.ndarray, second: np.ndarray) -> Measure:
        """How far apart the means of two groups of items are, which are drawn independently."""
        return cls.of_statistic(name, [first, second], lambda means: np.abs(means[0] - means[1]))

    @classmethod
    def of_statistic(
        cls,
        name: str,
        groups: list[np.ndarray],
        statistic: Callable[[list[np.ndarray]], np.ndarray],
        chance: float | None = None,
        draws: int = 1000,
        seed: int = 0,
    ) -> Measure:
        """A function of the groups' means; it gets arrays with the draws as first axis."""
        rng = np.random.default_rng(seed)
        drawn = [group[rng.integers(0, len(group), (draws, len(group)))].mean(axis=1) for group in groups]
        low, high = np.percentile(statistic(drawn), [2.5, 97.5])
        value = statistic([group.mean(axis=0, keepdims=True) for group in groups])
        return cls(name, float(value[0]), float(low), float(high), sum(map(len, groups)), chance)


def shown(value: float | None) -> str:
    """Three digits after the point, none where the number is large, and a dash for none."""
    return "–" if value is None else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}"


def interval(measure: Measure) -> str:
    return "–" if measure.low is None else f"{shown(measure.low)} to {shown(measure.high)}"


def measure_table(measures: Iterable[Measure]) -> str:
    """The measured numbers as a Markdown table."""
    rows = ["| measure | value | 95 % interval | chance | items |", "|---|---|---|---|---|"]
    rows += [
        f"| {m.name} | {shown(m.value)} | {interval(m)} | {shown(m.chance)} | {m.items or '–'} |"
        for m in measures
    ]
    return "\n".join(rows)
