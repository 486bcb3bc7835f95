"""What several pages show: unit cards, exemplar tiles, bars of kinds, rows of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from neurolab.atlas.arrays import Exemplar
from neurolab.atlas.image_table import ImageRow
from neurolab.explorer.lab import Lab
from neurolab.explorer.markup import deviations, esc, grid, href, image, link
from neurolab.explorer.tables import in_sd, kind_counts, subjects
from neurolab.explorer.theme import kind_colour

PLATE = 6  # exemplars beside the picture of a unit card
HIDDEN = ("group", "folder", "font", "triad", "clean")  # labels for analyses


def unit_card(lab: Lab, site: str, unit: int, badge: str = "") -> str:
    """A linked card: the unit's picture (or its top exemplar), six exemplars, what they show, their kinds."""
    arrays = lab.atlas.site(site)
    images = [int(i) for i in arrays.distinct_images([unit])[0, : PLATE + 1] if i >= 0]
    picture = lab.picture(site, unit)
    cells = [image(picture, f"feature visualization of unit {unit}")] if picture else []
    cells += [thumbnail(lab, i) for i in images][: PLATE + 1 - len(cells)]
    cells += ['<div class="nl-blank"></div>'] * (PLATE + 1 - len(cells))
    plate = grid((f"<div>{cell}</div>" for cell in cells), "nl-plate")
    found = subjects(arrays.images[unit], lab.texts)
    words = ", ".join(name for name, count in found[:3] if count > 1)
    meaning = "" if badge else "its maximum, in standard deviations from zero"
    badge = badge or deviations(float(in_sd(arrays.max[unit], arrays.sd[unit])))
    foot = f'<b>{unit}</b><em>{esc(words)}</em><span title="{esc(meaning)}">{esc(badge)}</span>'
    address = href("unit", site=site, unit=unit)
    return (
        f'<a class="nl-card" href="{address}" target="_self">{plate}{kinds_line(lab, arrays.images[unit])}'
        f'<div class="nl-card-foot">{foot}</div></a>'
    )


def unit_row(lab: Lab, site: str, unit: int, score: str) -> str:
    """A search result: the unit's picture, its name and score, and a strip of ten exemplars."""
    arrays = lab.atlas.site(site)
    images = [int(i) for i in arrays.distinct_images([unit])[0, :10] if i >= 0]
    picture = lab.picture(site, unit)
    large = image(picture, f"feature visualization of unit {unit}") if picture else _first(lab, images)
    strip = grid(
        (f'<a href="{href("image", image=i)}" target="_self">{thumbnail(lab, i)}</a>' for i in images),
        "nl-strip",
    )
    words = ", ".join(name for name, count in subjects(arrays.images[unit], lab.texts)[:4] if count > 1)
    address = href("unit", site=site, unit=unit)
    name = link(f"unit {unit}", "unit", site=site, unit=unit)
    kinds = kinds_line(lab, arrays.images[unit])
    return (
        f'<div class="nl-result"><a class="frame" href="{address}" target="_self">{large}</a>'
        f"<div><h4>{name}<span>{esc(lab.short(site))}</span><span>{esc(words)}</span>"
        f'<span class="score">{esc(score)}</span></h4>{strip}{kinds}</div></div>'
    )


def thumbnail(lab: Lab, number: int) -> str:
    """An image of the atlas, square as the model sees it, with its caption as the tooltip."""
    data = lab.thumbnail(number)
    caption = lab.caption(number)
    return image(data, caption, caption) if data else '<div class="nl-blank"></div>'


def exemplar_tile(lab: Lab, exemplar: Exemplar, sd: float, style: str) -> str:
    """An exemplar with the place that excites marked, its value in sd from zero, and a tooltip."""
    data = lab.marked(exemplar, style)
    picture = image(data, lab.caption(exemplar.image)) if data else '<div class="nl-blank"></div>'
    kind = exemplar.labels.get("kind", "")
    dot = f'<i class="nl-dot" style="background:{kind_colour(kind)}" title="{esc(kind)}"></i>' if kind else ""
    value = float(in_sd(exemplar.value, sd))
    tip = esc(tooltip(exemplar)).replace("\n", "<br>")
    address = href("image", image=exemplar.image)
    return (
        f'<figure class="nl-tile"><a href="{address}" target="_self">'
        f'<div class="pic">{picture}<div class="tip">{tip}</div></div></a>'
        f'<figcaption title="activation {exemplar.value:.4g}"><b>{deviations(value)}</b>{dot}</figcaption>'
        "</figure>"
    )


def tooltip(shown: Exemplar | ImageRow) -> str:
    """An image's first caption and its labels, one a line; the key where there are neither."""
    labels = [f"{name}: {value}" for name, value in telling_labels(shown.labels)]
    lines = [*shown.captions[:1], *labels] or [shown.key]
    return "\n".join(line if len(line) <= 120 else line[:119] + "…" for line in lines[:6])


def telling_labels(labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """The labels that tell a person something: not blank, and not made for analyses alone."""
    return [(name, value) for name, value in labels.items() if value and name not in HIDDEN]


def kinds_line(lab: Lab, images: np.ndarray) -> str:
    """The kinds of a unit's exemplars as one thin bar: many colours are a multimodal unit."""
    counts = kind_counts(images[None], lab.texts)[0]
    total = int(counts.sum())
    if not total:
        return ""
    parts = [
        f'<i style="width:{100 * int(count) / total:.1f}%;background:{kind_colour(kind)}" '
        f'title="{esc(f"{int(count)} of {total} exemplars: {kind}")}"></i>'
        for kind, count in zip(lab.texts.kinds, counts, strict=True)
        if count
    ]
    return grid(parts, "nl-kinds")


def kinds_legend(kinds: Sequence[str]) -> str:
    """Which colour is which kind."""
    return grid(
        (f'<span><i style="background:{kind_colour(k)}"></i>{esc(k)}</span>' for k in kinds), "nl-legend"
    )


def bars(counts: Sequence[tuple[str, int]], colour: str | None = None) -> str:
    """Named counts as horizontal bars; each kind in its own colour where no `colour` is given."""
    most = max((count for _, count in counts), default=1)
    cells = []
    for name, count in counts:
        fill = f"width:{100 * count / max(most, 1):.1f}%;background:{colour or kind_colour(name)}"
        cells.append(f'<span class="name" title="{esc(name)}">{esc(name)}</span>')
        cells.append(f'<div><i style="{fill}"></i></div><span class="n">{count}</span>')
    return grid(cells, "nl-bars")


def pills(options: Sequence[tuple[str, str, bool]]) -> str:
    """Links to choose from: (text, address that `href` made, whether it is the one shown)."""
    cells = (
        f'<a class="nl-pill{" on" if shown else ""}" href="{address}" target="_self">{esc(text)}</a>'
        for text, address, shown in options
    )
    return grid(cells, "nl-pills")


def _first(lab: Lab, images: Sequence[int]) -> str:
    return thumbnail(lab, images[0]) if images else '<div class="nl-blank"></div>'
