"""What a unit does at every level: images drawn at random between its least and its most active."""

from __future__ import annotations

import numpy as np

from neurolab.atlas.arrays import Exemplar, Level, SiteArrays, Unit
from neurolab.explorer import shell
from neurolab.explorer.cards import kinds_line, thumbnail
from neurolab.explorer.lab import Lab
from neurolab.explorer.markup import esc, grid, href, image
from neurolab.explorer.spotlight import STYLES
from neurolab.explorer.tables import counted_as, in_sd

SHOWN = 10  # images of a level


def levels(lab: Lab, site: str, unit: Unit) -> str:
    """HTML: a row for each level that has images, from the highest down; a sentence where none were drawn.

    Exemplars show a unit at its loudest only; the article's conditional plots (Goh et al. 2021) look at all
    levels.
    """
    arrays = lab.atlas.site(site)
    found = [level for level in arrays.levels(unit.index) if level.count]
    note = f"{counted_as(arrays)} drawn at random; activation in standard deviations from zero"
    head = shell.heading("At every level", note)
    if not found:
        return head + '<p class="nl-dim">This atlas was built without images of every level.</p>'
    rows = []
    for level in found:
        strip = grid((_drawn(lab, arrays, level, i) for i in range(len(level.images[:SHOWN]))), "nl-strip")
        kinds = kinds_line(lab, np.array(level.images))
        rows.append(f'<div class="nl-level">{_range(level, unit.sd, arrays)}<div>{strip}{kinds}</div></div>')
    return head + "".join(rows)


def _drawn(lab: Lab, arrays: SiteArrays, level: Level, place: int) -> str:
    """An image that was drawn, with its patch marked where it was a patch that was drawn."""
    number = level.images[place]
    shown = thumbnail(lab, number)
    if level.positions:
        row = lab.atlas.image(number)
        patch = Exemplar.of(row, level.values[place], level.positions[place], arrays.grid)
        data = lab.marked(patch, STYLES[0])
        shown = image(data, lab.caption(number)) if data else shown
    return f'<a href="{href("image", image=number)}" target="_self">{shown}</a>'


def _range(level: Level, sd: float, arrays: SiteArrays) -> str:
    low, high = (float(in_sd(end, sd)) for end in (level.low, level.high))
    count = f"{level.count:,} {counted_as(arrays, level.count)}"
    title = esc(f"activation {level.low:.4g} to {level.high:.4g}")
    return f'<div class="range" title="{title}"><b>{low:.1f} to {high:.1f}</b><span>{count}</span></div>'
