"""What a unit does at every level: images drawn at random between its least and its most active."""

from __future__ import annotations

import numpy as np

from neurolab.atlas.arrays import Level, Unit
from neurolab.explorer import shell
from neurolab.explorer.cards import kinds_line, thumbnail
from neurolab.explorer.lab import Lab
from neurolab.explorer.markup import esc, grid, href
from neurolab.explorer.tables import in_sd

SHOWN = 10  # images of a level


def levels(lab: Lab, site: str, unit: Unit) -> str:
    """HTML: a row for each level that has images, from the highest down; a sentence where none were drawn.

    Exemplars show a unit at its loudest only; the article's conditional plots (Goh et al. 2021) look at all
    levels.
    """
    found = [level for level in lab.atlas.site(site).levels(unit.index) if level.count]
    note = "images drawn at random; activation in standard deviations from zero"
    head = shell.heading("At every level", note)
    if not found:
        return head + '<p class="nl-dim">This atlas was built without images of every level.</p>'
    rows = []
    for level in found:
        strip = grid(
            (
                f'<a href="{href("image", image=image)}" target="_self">{thumbnail(lab, image)}</a>'
                for image in level.images[:SHOWN]
            ),
            "nl-strip",
        )
        kinds = kinds_line(lab, np.array(level.images))
        rows.append(f'<div class="nl-level">{_range(level, unit.sd)}<div>{strip}{kinds}</div></div>')
    return head + "".join(rows)


def _range(level: Level, sd: float) -> str:
    low, high = (float(in_sd(end, sd)) for end in (level.low, level.high))
    images = "1 image" if level.count == 1 else f"{level.count:,} images"
    title = esc(f"activation {level.low:.4g} to {level.high:.4g}")
    return f'<div class="range" title="{title}"><b>{low:.1f} to {high:.1f}</b><span>{images}</span></div>'
