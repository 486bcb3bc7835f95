"""Which units of which sites are mined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from neurolab.atlas.reductions import check_reduction
from neurolab.errors import UnknownSiteError
from neurolab.mining.observations import images_and_places
from neurolab.mining.remembered import Arrays, Kept, SiteSummaries
from neurolab.models.sites import Site, find_site, parse_unit
from neurolab.models.zoo import Model

# By full site name, ascending; sites that are not here have all of theirs.
Units = Mapping[str, NDArray[np.int64]]


def find_sites(model: Model, names: str | Sequence[str], reduction: str) -> list[Site]:
    """The sites, each once, checked against the reduction."""
    found = [find_site(model, name) for name in ([names] if isinstance(names, str) else names)]
    if not found:
        raise UnknownSiteError("name at least one site; `neurolab sites MODEL` lists them")
    sites = list({site.name: site for site in found}.values())
    for site in sites:
        check_reduction(reduction, site.name, site.layout, site.prefix_tokens, site.shape)
    return sites


def find_units(
    model: Model, sites: str | Sequence[str], units: Sequence[str], reduction: str
) -> tuple[list[Site], Units]:
    """The sites, with those of the units, and which units there are of those that are named by units.

    units: "SITE/12". A site that is named as a whole, too, has all its units. UnknownSiteError for units that
    do not exist.
    """
    whole = [sites] if isinstance(sites, str) else list(sites)
    asked: dict[str, set[int]] = {}
    for unit in units:
        name, index = parse_unit(unit)
        asked.setdefault(name, set()).add(index)
    chosen = find_sites(model, [*whole, *asked], reduction)
    found: dict[str, set[int]] = {}
    for name, indices in asked.items():
        site = find_site(model, name)
        if max(indices) >= site.units:
            raise UnknownSiteError(f"{name} has units 0 to {site.units - 1}, not {max(indices)}")
        found.setdefault(site.name, set()).update(indices)
    for name in whole:
        found.pop(find_site(model, name).name, None)
    return chosen, {name: np.array(sorted(indices), np.int64) for name, indices in found.items()}


def spread(arrays: Arrays, blank: Arrays, units: NDArray[np.int64], total: int) -> Arrays:
    """Arrays [units, ...] of some units as those of all, [total, ...]: the others are as `blank` [1, ...]."""
    result = {}
    for name, array in arrays.items():
        result[name] = np.repeat(blank[name].astype(array.dtype), total, axis=0)
        result[name][units] = array
    return result


def written(
    summaries: SiteSummaries, kept: Kept, units: NDArray[np.int64] | None, total: int, per_image: int = 1
) -> dict[str, Arrays]:
    """All arrays of a site for the atlas, by file: exemplars, statistics, and what may be left out.

    units: those that the summaries are of, where these are not all `total`; of the others nothing was seen.
    per_image: how many observations an image is.
    """

    def every(of: SiteSummaries) -> dict[str, Arrays]:
        parts = {"exemplars": of.exemplars(), "statistics": of.statistics(), **of.others()}
        return {name: images_and_places(part, per_image) for name, part in parts.items()}

    arrays = every(summaries)
    if units is None:
        return arrays
    blank = every(SiteSummaries.empty(1, kept))
    return {name: spread(part, blank[name], units, total) for name, part in arrays.items()}
