"""Methods of feature visualization side by side, by the scores of their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from neurolab.atlas.pictures import PictureRow
from neurolab.errors import AtlasError
from neurolab.measure import Measure

DOT, MEAN, LINE, TEXT = "#7f9fbf", "#0b3c6f", "#b0b0b0", "#333333"
WIDTH, ROW = 9.0, 0.42  # inches: of the figure, which a README shows whole, and of one method in a panel
ACROSS = 3
SPREAD = 0.28  # of the dots of a method around its line


@dataclass(frozen=True)
class Panel:
    """How one score is shown. references: values that one knows what to expect of, with their names."""

    score: str
    title: str
    meaning: str
    references: tuple[tuple[float, str], ...] = ()
    bounds: tuple[float, float] | None = None


UNIT_RANGE = (0.0, 1.0)
PANELS = (
    Panel(
        "activation_percentile",
        "Activation percentile",
        "% of natural images that excite it less",
        ((50, "median"),),
        (0, 100),
    ),
    Panel(
        "over_natural_max",
        "Over natural maximum",
        "higher: excites more, in unseen views",
        ((0, "mean"), (1, "strongest image")),
    ),
    Panel(
        "selectivity",
        "Selectivity",
        "share of other units that it excites less",
        ((0.5, "chance"),),
        UNIT_RANGE,
    ),
    Panel("transfer", "Transfer", "higher: another net sees the exemplars", ((0.5, "chance"),), UNIT_RANGE),
    Panel(
        "self_transfer",
        "Self-transfer",
        "higher: its own net sees the exemplars",
        ((0.5, "chance"),),
        UNIT_RANGE,
    ),
    Panel(
        "path_similarity",
        "Path similarity",
        "higher: early layers see it as natural",
        ((0, "random"), (1, "exemplars")),
    ),
    Panel("seed_diversity", "Seed diversity", "higher: other seeds, other pictures", ((0, "the same"),)),
)


def method_name(row: PictureRow) -> str:
    """The kind of a picture, its facet where it has one, and whether it is transparent."""
    return " · ".join([row.kind, *filter(None, [row.facet, "transparent" * ("alpha" in row.settings)])])


def unit_scores(rows: Sequence[PictureRow]) -> dict[str, dict[str, dict[str, float]]]:
    """By method, score and unit: the mean over the unit's pictures. Methods and scores by name."""
    gathered: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        for name, value in row.scores.items():
            of_method = gathered.setdefault(method_name(row), {})
            of_method.setdefault(name, {}).setdefault(row.unit, []).append(value)
    return {
        method: {
            name: {unit: float(np.mean(values)) for unit, values in sorted(units.items())}
            for name, units in sorted(scores.items())
        }
        for method, scores in sorted(gathered.items())
    }


def method_scores(rows: Sequence[PictureRow]) -> dict[str, dict[str, Measure]]:
    """By method and score, the mean over units with its 95 % bootstrap interval.

    A unit counts once: its pictures by the same method are averaged first, whatever their seeds and settings.
    Units are drawn again, for they, and not seeds, are what the claim is about.
    """
    return {
        method: {name: Measure.of(name, np.array(list(units.values()))) for name, units in scores.items()}
        for method, scores in unit_scores(rows).items()
    }


def panels_of(scores: Mapping[str, Mapping[str, object]]) -> list[Panel]:
    """The panels of the scores, by method, that there are.

    self_transfer is left out where all its methods have transfer, which says more: a network that a picture
    fools is no judge of it.
    """
    found = {name for of_method in scores.values() for name in of_method}
    if all("transfer" in of_method for of_method in scores.values() if "self_transfer" in of_method):
        found.discard("self_transfer")
    return [panel for panel in PANELS if panel.score in found]


def methods_figure(rows: Sequence[PictureRow]) -> Figure:
    """Methods compared by the scores of an atlas's pictures: a panel for each score that there is.

    A faint dot is a unit, the dark one their mean with its 95 % bootstrap interval; dashed lines are what
    natural images reach, or chance. A unit's dots stand equally high in all panels. Where methods drew
    different units, their numbers differ by more than the method: the count stands beside the name.
    AtlasError where no picture has a score.
    """
    units, measures = unit_scores(rows), method_scores(rows)
    panels = panels_of(units)
    if not panels:
        raise AtlasError("none of these pictures has been scored: `neurolab score ATLAS` does that")
    down = -(-len(panels) // ACROSS)
    height = down * (ROW * len(units) + 1.1)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.1)
    figure = Figure(figsize=(WIDTH, height), dpi=200, layout=layout)
    grid = figure.subplots(down, ACROSS, squeeze=False, sharey=True)
    for place, panel in enumerate(panels):
        draw_panel(grid.flat[place], panel, units, measures)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    return figure


def draw_panel(
    axes: Axes,
    panel: Panel,
    units: dict[str, dict[str, dict[str, float]]],
    measures: dict[str, dict[str, Measure]],
) -> None:
    """One score of all methods, the first on top."""
    offsets = unit_offsets(units)
    for place, method in enumerate(units):
        of_units = units[method].get(panel.score, {})
        heights = [place + offsets[unit] for unit in of_units]
        axes.scatter(list(of_units.values()), heights, s=11, color=DOT, alpha=0.55, linewidths=0)
        measure = measures[method].get(panel.score)
        if measure and measure.value is not None and measure.low is not None and measure.high is not None:
            axes.plot([measure.low, measure.high], [place, place], color=MEAN, linewidth=2.2, zorder=3)
            axes.plot(measure.value, place, "o", color=MEAN, markersize=5, zorder=4)
    dress(axes, panel, units)
    draw_references(axes, panel)


def draw_references(axes: Axes, panel: Panel) -> None:
    """What is to be expected of a score, dashed. Two near each other have their names on the outer sides."""
    low, high = axes.get_xlim()
    places = [value for value, _ in panel.references]
    near = len(places) > 1 and places[-1] - places[0] < 0.35 * (high - low)
    for place, (value, name) in enumerate(panel.references):
        axes.axvline(value, color=LINE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        side = ("right", "left")[place] if near else "center"
        axes.annotate(
            name, (value, 1), (0, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha=side, va="bottom", fontsize=7.5, color="#777777",
        )  # fmt: skip


def unit_offsets(units: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """How far above or below its method's line each unit's dot stands: the same in all panels."""
    names = sorted({unit for scores in units.values() for of_units in scores.values() for unit in of_units})
    # Neighbours in the alphabet stand apart, so that no slope is seen where there is none.
    order = np.random.default_rng(0).permutation(len(names))
    heights: NDArray[np.float64] = np.linspace(-SPREAD, SPREAD, len(names)) if len(names) > 1 else np.zeros(1)
    return dict(zip(names, heights[order].tolist(), strict=True))


def dress(axes: Axes, panel: Panel, units: dict[str, dict[str, dict[str, float]]]) -> None:
    """Titles, ticks and limits."""
    axes.set_title(panel.title, fontsize=10.5, fontweight="bold", color=TEXT, pad=27, loc="left")
    axes.annotate(
        panel.meaning, (0, 1), (0, 15), xycoords="axes fraction", textcoords="offset points",
        fontsize=8, color="#555555",
    )  # fmt: skip
    counts = {method: max(map(len, scores.values())) for method, scores in units.items()}
    axes.set_yticks(range(len(units)), [f"{method} ({count})" for method, count in counts.items()])
    axes.set_ylim(len(units) - 0.45, -0.55)
    axes.tick_params(labelsize=8.5, length=0, colors=TEXT, pad=3)
    axes.spines[:].set_visible(False)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    if panel.bounds:
        low, high = panel.bounds
        margin = (high - low) * 0.04
        axes.set_xlim(low - margin, high + margin)
