"""What a unit's statistics say of how its activations are distributed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurolab.atlas.arrays import SiteArrays


def selectivity(site: SiteArrays, exemplars: int = 9) -> np.ndarray:
    """How far a unit's strongest images lie above its mean, in its standard deviations; [units] float64.

    A unit that fires alike for everything scores near 2, one that waits for a few images far more. A unit
    that never varies scores 0.
    """
    strongest = np.asarray(site.values[:, :exemplars], dtype=np.float64)
    known = np.isfinite(strongest)
    count = known.sum(axis=1)
    total = np.where(known, strongest, 0.0).sum(axis=1)
    sd = np.asarray(site.sd, dtype=np.float64)
    varies = sd > 0
    score = (total / np.where(count > 0, count, np.nan) - site.mean) / np.where(varies, sd, 1.0)
    return np.where(varies, score, 0.0)


def z_scores(site: SiteArrays, values: NDArray[np.floating], units: NDArray[np.int64]) -> NDArray[np.float64]:
    """(value - mean) / sd of some units' values, NaN for a unit that never varies.

    values, units: [n], the activations and the units' numbers.
    """
    sd = np.asarray(site.sd[units], np.float64)
    varies = np.isfinite(sd) & (sd > 0)
    score = (np.asarray(values, np.float64) - site.mean[units]) / np.where(varies, sd, 1.0)
    return np.where(varies, score, np.nan)


def share_below(site: SiteArrays, values: ArrayLike, units: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of the images whose activation lies below a value, for some units, [n], 0 to 1.

    values: [n], or one number for all; units: [n]. From the histogram, within a bin as evenly spread; exactly
    0 at and below the minimum, 1 at and above the maximum. NaN where the value or the maximum is NaN.
    """
    low, high, places, counts = _cells(site, units)
    value = np.broadcast_to(np.asarray(values, np.float64), low.shape)
    below = np.cumsum(counts, axis=1, dtype=np.float64)
    cell = np.clip((places <= value[:, None]).sum(axis=1) - 1, 0, counts.shape[1] - 1)
    row = np.arange(len(units))
    start, end = places[row, cell], places[row, cell + 1]
    with _infinities():
        width = end - start
        inside = np.clip((value - start) / np.where(width > 0, width, 1.0), 0.0, 1.0)
    passed = below[row, cell] - counts[row, cell] * (1.0 - inside)
    share = passed / np.maximum(below[:, -1], 1.0)
    share = np.where(value >= high, 1.0, np.where(value <= low, 0.0, share))
    return np.where(np.isnan(value) | np.isnan(high), np.nan, share)


def skewness(site: SiteArrays, units: NDArray[np.int64]) -> NDArray[np.float64]:
    """E[((x - mean) / sd)^3] of some units, [n], from the histogram: its images are evenly spread in a bin.

    Over a bin of half width h whose middle lies c from the mean, the mean cube is c^3 + c h^2. Large for a
    unit that is silent but for a few images. NaN for a unit that never varies.
    """
    _, _, places, counts = _cells(site, units)
    sd = np.asarray(site.sd[units], np.float64)
    varies = np.isfinite(sd) & (sd > 0)
    scale = np.where(varies, sd, 1.0)[:, None]
    with _infinities():
        ends = (places - np.nan_to_num(site.mean[units])[:, None]) / scale
        middle, half = (ends[:, 1:] + ends[:, :-1]) / 2, np.diff(ends, axis=1) / 2
        total = np.maximum(counts.sum(axis=1), 1)
        cubes = (counts * middle * (middle * middle + half * half)).sum(axis=1) / total
    return np.where(varies, cubes, np.nan)


def _infinities() -> np.errstate:
    """Around arithmetic with a unit's extremes: from infinite ones come numbers that are not used, or NaN."""
    return np.errstate(invalid="ignore", over="ignore")


def _cells(
    site: SiteArrays, units: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Minimum, maximum [n], the edges of the bins within these [n, bins + 1], and their counts [n, bins].

    Beyond the extremes there is no image, though the outermost bins may go further.
    """
    low, high = (np.asarray(ends[units], np.float64) for ends in (site.min, site.max))
    edges = np.asarray(site.edges[units], np.float64)
    within = np.fmin(np.fmax(edges, low[:, None]), high[:, None])  # without images there are no extremes
    return low, high, within, np.asarray(site.histogram[units])
