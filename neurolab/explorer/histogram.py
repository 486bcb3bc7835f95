"""The histogram of a unit's activations, as HTML.

Bars are plain elements: sharp at any size, drawn in a millisecond, each with its count in a tooltip. The x
axis has two scales: the activation, and the activation in standard deviations from zero (not from the mean),
the unit of "Multimodal Neurons in Artificial Neural Networks" (Goh et al. 2021). Counts are logarithmic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurolab.explorer.markup import esc, number


@dataclass(frozen=True)
class _Axes:
    """What places a bar: the range of x, the decades of y, and what is usual and what is high."""

    low: float
    high: float
    decades: int
    usual_width: float
    lowest_exemplar: float

    def x(self, value: float) -> float:
        """Percent of the plot's width."""
        return 100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def y(self, count: int) -> float:
        """Percent of the plot's height; log(count + 1), so that one image is a bar and none is not."""
        return min(100 * math.log10(count + 1) / self.decades, 100.0)


def histogram(
    counts: np.ndarray,
    edges: np.ndarray,
    sd: float,
    exemplars: Sequence[float],
    words: tuple[str, str] = ("image", "images"),
) -> str:
    """HTML of one unit's histogram: `counts` [bins], `edges` [bins + 1], and its exemplars' values as ticks.

    Bars that hold exemplars are coloured, bins wider than the others (what fell beyond the equal ones) are
    hatched, zero is a line. words: for one and for several of what is counted. Returns a sentence where
    nothing was counted.
    """
    counts, edges = np.asarray(counts), np.asarray(edges, dtype=np.float64)
    if counts.sum() == 0 or not np.isfinite(edges).all() or edges[-1] <= edges[0]:
        return '<p class="nl-dim">No activations were counted.</p>'
    used = np.flatnonzero(counts)
    counts, edges = counts[used[0] : used[-1] + 1], edges[used[0] : used[-1] + 2]
    decades = max(1, math.ceil(math.log10(float(counts.max()) + 1)))
    usual = float(np.median(np.diff(edges)))
    axes = _Axes(float(edges[0]), float(edges[-1]), decades, usual, min(exemplars, default=math.inf))
    spans = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    pairs = zip(counts.tolist(), spans, strict=True)
    bars = "".join(_bar(axes, count, *span, words[count > 1]) for count, span in pairs if count)
    marks = "".join(f'<i style="left:{axes.x(value):.2f}%"></i>' for value in exemplars)
    zero = f'<u style="left:{axes.x(0.0):.2f}%"></u>' if axes.low <= 0 <= axes.high else ""
    levels = [(10**i, axes.y(10**i)) for i in range(decades + 1)]
    names = "".join(f'<s style="bottom:{at:.1f}%">{count:,}</s>' for count, at in levels)
    lines = "".join(f'<hr style="bottom:{at:.1f}%">' for _, at in levels)
    return (
        f'<div class="nl-hist"><div class="nl-hist-y">{names}</div>'
        f'<div class="nl-hist-plot">{lines}{zero}{bars}</div>'
        f'<div class="nl-hist-marks">{marks}</div>'
        f'<div class="nl-hist-x">{_scale(axes, 1.0, "")}<em>activation</em></div>'
        f'<div class="nl-hist-x">{_scale(axes, sd, " sd")}<em>sd from zero</em></div></div>'
    )


def ticks(low: float, high: float, most: int = 9) -> list[float]:
    """At most `most` round values (1, 2 or 5 times a power of ten apart) between `low` and `high`."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return []
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(m * power for m in (1, 2, 5, 10, 20) if (high - low) / (m * power) <= most - 1)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _bar(axes: _Axes, count: int, left: float, right: float, word: str) -> str:
    kinds = ["top"] if right > axes.lowest_exemplar else []
    kinds += ["rest"] if right - left > 1.01 * axes.usual_width else []
    tooltip = esc(f"{number(left)} to {number(right)}: {count:,} {word}")
    start, wide = axes.x(left), axes.x(right) - axes.x(left)
    style = f"left:{start:.2f}%;width:{wide:.2f}%;height:{axes.y(count):.1f}%"
    return f'<b class="{" ".join(kinds)}" style="{style}" title="{tooltip}"></b>'


def _scale(axes: _Axes, unit: float, suffix: str) -> str:
    """Tick labels of the x axis in multiples of `unit`."""
    if not unit > 0:
        return ""
    labels = []
    for value in ticks(axes.low / unit, axes.high / unit):
        text = f"{value:g}{suffix}".replace("-", "−")
        labels.append(f'<s style="left:{axes.x(value * unit):.2f}%">{text}</s>')
    return "".join(labels)
