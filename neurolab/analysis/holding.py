"""Which units hold an image of the atlas among their exemplars: what is recorded, without the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neurolab.analysis.hits import Hit, Scored, best_hits, chosen_sites
from neurolab.atlas import Atlas
from neurolab.atlas.distribution import z_scores


def units_of_image(
    atlas: Atlas, image: int | str, site: str | Sequence[str] | None = None, top: int = 24
) -> list[Hit]:
    """The units that have an image of the atlas among their exemplars, the one that it excites most first.

    image: its number, or its key. No model is needed, and only what was recorded is found: a unit whose k
    strongest images are others is none, however much the image excites it (`units_excited_by` tells). Score,
    value and percentile are those of `units_excited_by`; the rank is the image's among the unit's exemplars
    (of an atlas of tokens that of its first token, whose value is its largest). site: one or several sites;
    default: all. Ties: by site, then by unit number. AtlasError where there is no such image.
    """
    number = atlas.image_index(image) if isinstance(image, str) else atlas.image(image).index
    found = []
    for arrays in chosen_sites(atlas, site):
        units, rank = np.divmod(np.flatnonzero(arrays.images == number), arrays.k)
        first = np.diff(units, prepend=-1) > 0
        units, rank = units[first], rank[first]
        value = arrays.values[units, rank]
        more = {"value": value, "rank": rank + 1}
        found.append(Scored(arrays, z_scores(arrays, value, units), units, more))
    return best_hits(found, top)
