"""Units that are like a unit: by the images they share, by what these show, by weights, by activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurolab.analysis.hits import Hit, Scored, best_hits, chosen_sites
from neurolab.atlas import Atlas
from neurolab.atlas.arrays import SiteArrays
from neurolab.atlas.matching import require_model
from neurolab.errors import AtlasError

if TYPE_CHECKING:
    from neurolab.models.zoo import Model

# Of rank-biased overlap: 1 / (1 - p) = 100 images count. Measured on the last layer of the pocket with 3,000
# photos and k = 100: the strongest 20 of 3,000 other photos of a unit's ten nearest units excite it by 1.59
# of its standard deviations above its mean; by sets it is 1.56, with p = 0.98 1.51, with p = 0.95 1.27.
PERSISTENCE = 0.99


@dataclass(frozen=True)
class _Asked:
    """The unit whose like are sought, and where."""

    atlas: Atlas
    arrays: SiteArrays
    index: int
    sites: Sequence[SiteArrays]
    model: Model | None

    @property
    def name(self) -> str:
        return self.arrays.unit_name(self.index)


def similar_units(
    atlas: Atlas,
    unit: str,
    by: str = "exemplars",
    model: Model | None = None,
    site: str | Sequence[str] | None = None,
    top: int = 24,
) -> list[Hit]:
    """The units that are most like a unit, best first, without itself.

    by:

    - `exemplars`: they have the same exemplars at similar ranks (`rank_overlap`); 0 is what two random lists
      agree in, 1 the same list. The default: it needs nothing but the exemplars, and of the ways to compare
      these it finds the units that strong new images excite together most.
    - `sets`: they have the same exemplars, in whatever order (`set_overlap`); 0 and 1 as above. It follows
      the correlation over all images a little better.
    - `embedding`: their exemplars look alike to the model (cosine of `neurolab.atlas.embeddings`), though
      they may be others.
    - `direction`: the same weights write them (cosine of `neurolab.models.writers.incoming_weights`): within
      the unit's site, for other layers read other inputs. Needs the model.
    - `coactivation`: they are active for the same images (correlation over all of them, estimated from random
      projections; its standard error is at most 1 / sqrt(their number)). Needs an atlas that recorded them.

    site: one or several sites to search; default: all, for `direction` the unit's own. Hits by exemplars say
    how many are shared. Ties: by site, then by unit number. Raises AtlasError where the atlas or the model
    has not what is needed, UnknownSiteError where no single layer writes the site.
    """
    if by not in _WAYS:
        raise AtlasError(f"units are not compared by {by!r}; choose one of {', '.join(_WAYS)}")
    name, _, index = atlas.unit_name(unit).rpartition("/")
    searched = [name] if by == "direction" and site is None else site
    asked = _Asked(atlas, atlas.site(name), int(index), chosen_sites(atlas, searched), model)
    scored = [_without(asked, some) for some in _WAYS[by](asked)]
    return best_hits(scored, top)


def rank_overlap(
    images: NDArray[np.int64], of: NDArray[np.int64], among: int, persistence: float = PERSISTENCE
) -> NDArray[np.float64]:
    """How far lists of images agree with a list, the first ranks counting most, beyond chance; [units].

    Rank-biased overlap (Webber, Moffat & Zobel 2010, eq. 32), extrapolated beyond the last rank D:
    R = (1 - p) sum_d p^(d-1) A_d + p^D A_D, where A_d is the share of the first d images that both have. Two
    random lists among N images have A_d = d / N on average, hence E = (1 - p^D) / ((1 - p) N); returned is
    (R - E) / (1 - E). images: [units, k], from the first rank, -1 for none; of: [D]; among: N.
    """
    depth = np.arange(1, len(of) + 1)
    by_depth = (1 - persistence) * persistence ** (depth - 1.0) / depth
    # A shared image counts from the depth on where both have it: one look-up instead of a sum over depths.
    gain = np.cumsum(by_depth[::-1])[::-1] + persistence ** len(of) / len(of)
    ranks = _ranks(images, of, among)
    unit, rank = np.nonzero(ranks < len(of))
    later = np.maximum(ranks[unit, rank], rank)
    worth = np.append(gain, 0.0)[np.minimum(later, len(of))]  # beyond the list asked for, nothing counts
    found = np.bincount(unit, worth, minlength=len(images)).astype(np.float64, copy=False)
    return _beyond_chance(found, (1 - persistence ** len(of)) / ((1 - persistence) * among))


def set_overlap(images: NDArray[np.int64], of: NDArray[np.int64], among: int) -> NDArray[np.float64]:
    """The Jaccard index of sets of images with a set, beyond chance; [units].

    J = shared / together; E is that of two random sets of the sizes n and D among N images, which share
    n D / N on average; returned is (J - E) / (1 - E). Arguments as of `rank_overlap`.
    """
    sizes = (images >= 0).sum(axis=1) + len(of)
    shared = shared_images(images, of, among)
    chance = (sizes - len(of)) * len(of) / among
    expected = chance / (sizes - chance)
    return _beyond_chance(shared / (sizes - shared), expected)


def shared_images(images: NDArray[np.int64], of: NDArray[np.int64], among: int) -> NDArray[np.int64]:
    """How many images of each row of `images` [units, k] are in `of` [D]; [units]."""
    return np.asarray((_ranks(images, of, among) < len(of)).sum(axis=1))


def _ranks(images: NDArray[np.int64], of: NDArray[np.int64], among: int) -> NDArray[np.int32]:
    """Each image's rank in `of`, from 0; len(of) for those that are not in it and for -1."""
    rank = np.full(among + 1, len(of), np.int32)  # the last entry is what -1 reads
    rank[of] = np.arange(len(of))
    return rank[images]


def _beyond_chance(found: NDArray[np.float64], expected: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """(found - expected) / (1 - expected); NaN where chance alone gives everything."""
    room = 1.0 - np.asarray(expected)
    possible = room > 1e-12
    return np.where(possible, (found - expected) / np.where(possible, room, 1.0), np.nan)


def _by_exemplars(asked: _Asked) -> list[Scored]:
    return _overlapping(asked, rank_overlap)


def _by_sets(asked: _Asked) -> list[Scored]:
    return _overlapping(asked, set_overlap)


def _overlapping(asked: _Asked, overlap: Callable[..., NDArray[np.float64]]) -> list[Scored]:
    own, among = asked.arrays.distinct_images([asked.index])[0], len(asked.atlas)
    own = own[own >= 0]
    if not len(own):
        raise AtlasError(f"{asked.name} has no exemplars to compare it by")
    if overlap is set_overlap and len(own) == among:
        raise AtlasError(
            f"the exemplars of {asked.name} are all {among} images, so every unit has the same; compare by "
            "'exemplars', which looks at their order"
        )
    lists = [(site, site.distinct_images()) for site in asked.sites]
    return [
        _scored(site, overlap(images, own, among), shared=shared_images(images, own, among))
        for site, images in lists
    ]


def _by_embedding(asked: _Asked) -> list[Scored]:
    if asked.arrays.embedding is None:
        raise AtlasError(f"{asked.atlas.path} has no embeddings of units, for its model gives none of images")
    return _by_cosine(asked, lambda site: site.embedding)


def _by_direction(asked: _Asked) -> list[Scored]:
    from neurolab.models.writers import incoming_weights  # imports torch, which the other ways do not need

    if asked.model is None:
        raise AtlasError("units are compared by direction in the model's weights: give the model, too")
    require_model(asked.atlas, asked.model)
    others = [site.name for site in asked.sites if site.name != asked.arrays.name]
    if others:
        raise AtlasError(
            f"directions of {asked.arrays.name} and {others[0]} cannot be compared, for other layers read "
            "other inputs; leave the site out"
        )
    weights = incoming_weights(asked.model, asked.arrays.name)
    return _by_cosine(asked, lambda site: weights)


def _by_coactivation(asked: _Asked) -> list[Scored]:
    # A projection is of unit norm, so that the cosine is the estimate of the correlation.
    return _by_cosine(asked, lambda site: _projection(asked.atlas, site))


def _projection(atlas: Atlas, site: SiteArrays) -> NDArray[np.float32]:
    """What the atlas recorded of when the units of a site are active, [units, n]."""
    if site.coactivation is None:
        raise AtlasError(
            f"{atlas.path} was built without co-activation; build it again with coactivation=512 "
            "(--coactivation 512)"
        )
    return site.coactivation["projection"]


def _by_cosine(asked: _Asked, vectors: Callable[[SiteArrays], NDArray[Any] | None]) -> list[Scored]:
    """Scores by the cosine of a site's vectors [units, dim] to that of the unit; NaN for a zero vector."""
    own = np.asarray(vectors(asked.arrays), np.float32)[asked.index]
    length = np.linalg.norm(own)
    if not (np.isfinite(length) and length > 0):
        raise AtlasError(f"nothing is known of {asked.name} by which it could be compared")
    found = []
    for site in asked.sites:
        rows = vectors(site)
        if rows is not None and rows.shape[1] == len(own):
            wide = np.asarray(rows, np.float32)
            lengths = np.sqrt(np.einsum("ud,ud->u", wide, wide, dtype=np.float64))
            known = np.isfinite(lengths) & (lengths > 0)
            cosine = wide @ (own / length) / np.where(known, lengths, 1.0)
            found.append(_scored(site, np.where(known, cosine, np.nan)))
    return found


def _scored(site: SiteArrays, score: NDArray[np.float64], **more: NDArray[np.number]) -> Scored:
    return Scored(site, np.asarray(score, np.float64), np.arange(site.units), more)


def _without(asked: _Asked, scored: Scored) -> Scored:
    """The scores of a site without the unit itself."""
    if scored.site.name == asked.arrays.name:
        scored.score[asked.index] = np.nan
    return scored


_WAYS: dict[str, Callable[[_Asked], list[Scored]]] = {
    "exemplars": _by_exemplars,
    "sets": _by_sets,
    "embedding": _by_embedding,
    "direction": _by_direction,
    "coactivation": _by_coactivation,
}
