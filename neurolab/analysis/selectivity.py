"""Which units of a site stand out from their own everyday activation."""

from __future__ import annotations

import numpy as np

from neurolab.atlas import Atlas
from neurolab.atlas.arrays import SiteArrays


def selectivity(site: SiteArrays, exemplars: int = 9) -> np.ndarray:
    """How far a unit's strongest images lie above its mean, in its standard deviations; [units] float64.

    A unit that fires alike for everything scores near 2, one that waits for a few images far more. A unit
    that never varies scores 0.
    """
    strongest = np.asarray(site.values[:, :exemplars], dtype=np.float64)
    strongest = np.where(np.isfinite(strongest), strongest, np.nan)
    sd = np.asarray(site.sd, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        score = (np.nanmean(strongest, axis=1) - site.mean) / sd
    return np.where(sd > 0, score, 0.0)


def most_selective(atlas: Atlas, site: str, count: int, exemplars: int = 9) -> list[str]:
    """A site's `count` most selective units as "SITE/89", strongest first, ties by unit number."""
    scores = selectivity(atlas.site(site), exemplars)
    order = np.argsort(-scores, kind="stable")[:count]
    return [f"{site}/{unit}" for unit in order.tolist()]
