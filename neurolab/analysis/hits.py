"""What a search over the units of an atlas finds, and the best of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neurolab.atlas import Atlas
from neurolab.atlas.arrays import SiteArrays
from neurolab.atlas.distribution import share_below


@dataclass(frozen=True)
class Hit:
    """A unit that a search found, and how well it fits: the higher, the better.

    score: for an image the z-score, for a text or another unit the cosine or the agreement. value: the
    activation by the image. percentile: the percentage of the atlas's images that excite the unit less, 0 to
    100; read off the unit's histogram as if the images were evenly spread in a bin, which may be a point or
    two beside a count of them. rank: of the image among the unit's exemplars, from 1. shared: how many
    exemplars two units have in common.
    """

    unit: str  # SITE/89
    score: float
    value: float | None = None
    percentile: float | None = None
    rank: int | None = None
    shared: int | None = None


@dataclass(frozen=True)
class Scored:
    """Units of a site with their scores, [n] each; a score that is NaN is no hit.

    more: other fields of their hits, by name, [n] each.
    """

    site: SiteArrays
    score: NDArray[np.float64]
    units: NDArray[np.int64]
    more: Mapping[str, NDArray[np.number]] = field(default_factory=dict)

    def hit(self, place: int) -> Hit:
        """The hit at a place, with its percentile where there is a value."""
        unit = self.units[place]
        more = {name: values[place].item() for name, values in self.more.items()}
        if "value" in more:
            below = share_below(self.site, more["value"], unit[None])
            more["percentile"] = 100.0 * float(below[0])
        return Hit(self.site.unit_name(int(unit)), float(self.score[place]), **more)


def best_hits(scored: Sequence[Scored], top: int) -> list[Hit]:
    """The best units of all sites, best first. Ties: in the order given."""
    if not scored:
        return []
    scores = np.concatenate([some.score for some in scored])
    of = np.repeat(np.arange(len(scored)), [len(some.score) for some in scored])
    place = np.concatenate([np.arange(len(some.score)) for some in scored])
    order = np.argsort(-scores, kind="stable")[: max(top, 0)]  # NaN comes last
    return [scored[of[i]].hit(place[i]) for i in order if not np.isnan(scores[i])]


def chosen_sites(atlas: Atlas, site: str | Sequence[str] | None) -> list[SiteArrays]:
    """One or several sites by full or short name; for None all of the atlas."""
    names = atlas.sites if site is None else [site] if isinstance(site, str) else site
    return [atlas.site(name) for name in names]
