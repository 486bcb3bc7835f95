"""What must hold of a site's arrays, whoever wrote them: checked for all units at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from neurolab.atlas.arrays import SiteArrays

Problem = tuple[str, str]
"""The file of the site's folder that is wrong, and what is wrong with it."""

Check = tuple[str, np.bool_ | NDArray[np.bool_]]
"""What would be wrong, and of which units [units] it is."""

_ROUNDING = 1e-6  # of the mean against the smallest and the largest value, which are float32


def array_problems(site: SiteArrays, images: int) -> Iterator[Problem]:
    """What does not hold of a site's exemplars and statistics, in an atlas of so many images."""
    checks = {
        "exemplars.npz": _exemplar_checks(site),
        "statistics.npz": _statistics_checks(site, images),
        "lowest.npz": _lowest_checks(site),
        "buckets.npz": _bucket_checks(site),
    }
    for file, of_file in checks.items():
        for wrong, units in of_file:
            if (bad := np.flatnonzero(units)).size:
                yield file, f"{wrong} ({_named(bad)})"


def missing_images(numbers: NDArray[np.int64], images: int) -> str | None:
    """What is wrong with image numbers [units, ...] in an atlas of so many images; None if nothing is.

    -1 stands for no image.
    """
    bad = (numbers < -1) | (numbers >= images)
    if not bad.any():
        return None
    units = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
    return f"names image {int(numbers[bad][0])}, but there are images 0 to {images - 1} ({_named(units)})"


def _exemplar_checks(site: SiteArrays) -> Iterator[Check]:
    used = site.images >= 0
    yield from _ranked(site.values, site.images, site.position, site.per_image)
    if site.grid is not None:
        outside = (site.position < -1) | (site.position >= site.grid[0] * site.grid[1])
        yield f"has places outside the grid of {site.grid[0]} x {site.grid[1]}", outside.any(axis=1)
    if site.k:
        yield "has a first value that is not the maximum", used[:, 0] & (site.values[:, 0] != site.max)


def _lowest_checks(site: SiteArrays) -> Iterator[Check]:
    if site.lowest is not None:
        values, images, position = (site.lowest[name] for name in ("values", "images", "position"))
        yield from _ranked(-values, images, position, site.per_image)
        yield "has a first value that is not the minimum", (images[:, 0] >= 0) & (values[:, 0] != site.min)


def _ranked(
    values: NDArray[np.floating], images: NDArray[np.int64], position: NDArray[np.int32], per_image: int
) -> Iterator[Check]:
    """Of images [units, n] in the order of falling values, -1 behind them.

    position: which of its `per_image` observations each is, where these are several.
    """
    used = images >= 0
    yield "has images behind an empty place", (used[:, 1:] & ~used[:, :-1]).any(axis=1)
    # Written so that NaN counts as unsorted, too.
    falling = values[:, 1:] <= values[:, :-1]
    yield "has values that are not sorted", (used[:, 1:] & used[:, :-1] & ~falling).any(axis=1)
    if per_image > 1:
        yield from _tokens(images, position, per_image)
    numbers = images if per_image == 1 else images * per_image + position
    ordered = np.sort(np.where(used, numbers, -1), axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    yield f"names {'an image' if per_image == 1 else 'a token'} twice", twice.any(axis=1)


def _tokens(images: NDArray[np.int64], position: NDArray[np.int32], tokens: int) -> Iterator[Check]:
    """Of images [units, ...] and which of their tokens it is."""
    outside = (images >= 0) & ((position < 0) | (position >= tokens))
    yield f"names a token that is not one of 0 to {tokens - 1}", outside.reshape(len(images), -1).any(axis=1)


def _bucket_checks(site: SiteArrays) -> Iterator[Check]:
    if site.buckets is not None:
        edges, counts, images, values = (
            site.buckets[name] for name in ("edges", "counts", "images", "values")
        )
        drawn = images >= 0
        yield "counts fewer images in a bucket than it names", (drawn.sum(axis=2) > counts).any(axis=1)
        yield "counts more images than there are", counts.sum(axis=1) > site.count
        inside = (edges[:, :-1, None] <= values) & (values < edges[:, 1:, None])
        yield "has values outside their bucket", (drawn & ~inside).any(axis=(1, 2))
        if "position" in site.buckets:
            yield from _tokens(images, site.buckets["position"], site.per_image)


def _statistics_checks(site: SiteArrays, images: int) -> Iterator[Check]:
    there, what = images * site.per_image, "images" if site.per_image == 1 else "tokens"
    yield f"counts fewer than 0 or more than {there} {what}", (site.count < 0) | (site.count > there)
    yield "has negative counts in its histogram", (site.histogram < 0).any(axis=1)
    yield "has a histogram that does not add up to the count", site.histogram.sum(axis=1) != site.count
    seen = site.count > 0
    rising = (np.diff(site.edges, axis=1) >= 0).all(axis=1)
    yield "has edges that do not rise", seen & ~rising
    yield "has a negative standard deviation", site.sd < 0
    low, high = site.min.astype(np.float64), site.max.astype(np.float64)
    finite = seen & np.isfinite(low) & np.isfinite(high)
    room = _ROUNDING * np.maximum(np.abs(low), np.abs(high))
    with np.errstate(invalid="ignore"):
        between = (low - room <= site.mean) & (site.mean <= high + room)
    yield "has a mean that is not between minimum and maximum", finite & ~between


def _named(units: NDArray[np.intp]) -> str:
    """The first of some units, and how many more there are."""
    return f"unit {units[0]}" + (f" and {len(units) - 1} more" if len(units) > 1 else "")
