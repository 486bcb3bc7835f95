"""Which units of a site stand out from their own everyday activation."""

from __future__ import annotations

import numpy as np

from neurolab.atlas import Atlas
from neurolab.atlas.distribution import selectivity

__all__ = ["most_selective", "selectivity"]


def most_selective(atlas: Atlas, site: str, count: int, exemplars: int = 9) -> list[str]:
    """A site's `count` most selective units as "SITE/89", strongest first, ties by unit number."""
    scores = selectivity(atlas.site(site), exemplars)
    order = np.argsort(-scores, kind="stable")[:count]
    return [f"{site}/{unit}" for unit in order.tolist()]
