"""Pictures against what the atlas has of their units: each function gives one value for each picture."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neurolab.atlas import Atlas
from neurolab.atlas.arrays import SiteArrays
from neurolab.atlas.distribution import share_below
from neurolab.featurevis.scores import formulas
from neurolab.featurevis.scores.heldout import Advance, view_activations
from neurolab.featurevis.scores.judges import (
    EXEMPLARS,
    Judge,
    compared_units,
    random_images,
    thumbnail_size,
)
from neurolab.featurevis.scores.natural import Looker, as_thumbnail, earlier_sites
from neurolab.featurevis.scores.subjects import Subject, by_site
from neurolab.featurevis.transforms import AnyTransform
from neurolab.models.zoo import Model


def responses(
    model: Model,
    subjects: Sequence[Subject],
    transforms: Sequence[AnyTransform],
    *,
    draws: int,
    seed: int,
    batch_size: int,
    advance: Advance,
) -> list[dict[str, float | None]]:
    """What `excitement` says of each picture, under random views."""
    result: list[dict[str, float | None]] = [{} for _ in subjects]
    for site, rows in by_site(subjects):
        images = [model.preprocess(subjects[row].image) for row in rows]
        seen = view_activations(
            model, site, images, transforms, draws=draws, seed=seed, batch_size=batch_size, advance=advance
        )
        for row, activations in zip(rows, seen, strict=True):
            result[row] = excitement(site, subjects[row].index, activations)
    return result


def excitement(site: SiteArrays, unit: int, activations: NDArray[np.float64]) -> dict[str, float | None]:
    """The scores of the response: activations [units] of all the site's units to a picture of one."""
    value, high = float(activations[unit]), float(site.max[unit])
    return {
        "activation_percentile": float(100 * share_below(site, value, np.array([unit]))[0]),
        "over_natural_max": formulas.over_natural_max(value, float(site.mean[unit]), high),
        "selectivity": formulas.selectivity(activations, unit, site.mean, site.sd),
    }


def transfers(judge: Judge, subjects: Sequence[Subject], seed: int) -> list[float | None]:
    """The transfer of each picture by this judge, against up to 200 other units of its site."""
    directions = judge.directions([subject.image for subject in subjects])
    result: list[float | None] = [None] * len(subjects)
    for site, rows in by_site(subjects):
        compared = compared_units(site, seed)
        drawn = np.unique([subjects[row].index for row in rows])
        others, own = judge.concepts(site, compared), judge.concepts(site, drawn)
        for row in rows:
            index = subjects[row].index
            concept = own[np.searchsorted(drawn, index)]
            result[row] = formulas.transfer(directions[row], concept, others[compared != index])
    return result


def path_similarities(
    atlas: Atlas, model: Model, subjects: Sequence[Subject], seed: int, batch_size: int, advance: Advance
) -> list[float | None]:
    """The path similarity of each picture, which is compared with thumbnails as one (see `other_judge`)."""
    longest = thumbnail_size(atlas)
    if longest is None:
        warnings.warn(f"{atlas.path} has no thumbnails, so there is no path_similarity", stacklevel=3)
        return [None] * len(subjects)
    sites = {site.name: earlier_sites(model, site.name) for site, _ in by_site(subjects)}
    every = list({before.name: before for found in sites.values() for before in found}.values())
    if not every:
        return [None] * len(subjects)
    looker = Looker(model, every, embeds=False, batch_size=batch_size)
    pictures = looker.look([as_thumbnail(subject.image, longest) for subject in subjects], advance)
    drawn = random_images(atlas, seed)
    result: list[float | None] = []
    for row, subject in enumerate(subjects):
        exemplars = subject.site.distinct_images([subject.index])[0, :EXEMPLARS]
        exemplars = exemplars[exemplars >= 0]
        natural = looker.of_atlas(atlas, exemplars, advance)
        random = looker.of_atlas(atlas, np.setdiff1d(drawn, exemplars), advance)
        names = [before.name for before in sites[subject.site.name]]
        paths = [formulas.AtSite(pictures[name][row], natural[name], random[name]) for name in names]
        result.append(formulas.path_similarity(paths))
    return result


def seed_diversities(own: Judge, subjects: Sequence[Subject]) -> list[float | None]:
    """The seed diversity of each picture's kin, one picture for each seed."""
    families: dict[tuple[str, ...], dict[int, int]] = {}
    for row, subject in enumerate(subjects):
        families.setdefault(subject.kin, {}).setdefault(subject.seed, row)
    several = [family for family in families.values() if len(family) > 1]
    rows = [row for family in several for row in family.values()]
    if not rows:
        return [None] * len(subjects)
    directions = dict(zip(rows, own.directions([subjects[row].image for row in rows]), strict=True))
    values = {
        kin: formulas.seed_diversity(np.stack([directions[row] for row in family.values()]))
        for kin, family in families.items()
        if len(family) > 1
    }
    return [values.get(subject.kin) for subject in subjects]
