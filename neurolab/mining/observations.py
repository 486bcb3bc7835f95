"""Observations: what summaries number, draw and count. Images, or with the reduction `token` their tokens.

The one place where images become observations on the way into the summaries, and numbers of observations
become images and places on the way to the atlas. Observation number image * tokens + token is a token of an
image: no number comes twice, ties go to the earlier image and in it to the earlier token, and the images of
a part are numbered on by a shift.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurolab.atlas.observed import observations_per_image
from neurolab.errors import AtlasError
from neurolab.mining.hashes import Hashes, token_hashes
from neurolab.models.sites import Site

MOST = 2**31  # of a site: as many as the sums of `neurolab.mining.exact` are exact for
_ROWS_AT_ONCE = 1024  # summaries take a row of a wide site apart into some ten times its memory


@dataclass(frozen=True)
class Observations:
    """Consecutive observations of a site, [n] each: numbers, the hashes they are drawn by, their concepts.

    concepts: -1 for none; None where none are counted.
    """

    numbers: NDArray[np.int64]
    hashes: Hashes
    concepts: NDArray[np.int64] | None

    def some(self) -> Iterator[tuple[slice, Observations]]:
        """Runs of them, and where in their rows these are: summaries need memory for a run at a time."""
        for start in range(0, len(self.numbers), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            concepts = None if self.concepts is None else self.concepts[rows]
            yield rows, Observations(self.numbers[rows], self.hashes[rows], concepts)


def observations(
    images: NDArray[np.int64], hashes: Hashes, concepts: NDArray[np.int64] | None, per_image: int
) -> Observations:
    """The observations of images [n] with their hashes and concepts, `per_image` of each, image by image.

    A token has the concept of its image, and a hash of its own (`token_hashes`). An image that is one
    observation keeps its number and its hash.
    """
    if per_image == 1:
        return Observations(images, hashes, concepts)
    numbers = (images[:, None] * per_image + np.arange(per_image)).reshape(-1)
    repeated = None if concepts is None else concepts.repeat(per_image)
    return Observations(numbers, token_hashes(hashes, per_image).reshape(-1), repeated)


def count_per_image(sites: Sequence[Site], reduction: str) -> dict[str, int]:
    """How many observations an image is, by site."""
    return {site.name: observations_per_image(reduction, site.shape, site.prefix_tokens) for site in sites}


def check_rows(site: str, rows: int, images: int, per_image: int) -> None:
    """AtlasError where a site's values are not `per_image` rows for each of so many images."""
    if rows != images * per_image:
        raise AtlasError(
            f"{site} gave {rows} rows of values for {images} images, not {per_image} for each: its number of "
            "tokens is not the same for every image; choose another reduction than 'token'"
        )


def check_number(images: int, per_image: Mapping[str, int]) -> None:
    """AtlasError where so many images are more observations of a site than can be counted."""
    for site, count in per_image.items():
        if images * count > MOST:
            raise AtlasError(
                f"{images:,} images with {count} observations each are too many for {site}: at most {MOST:,} "
                f"are counted. Mine up to {MOST // count:,} images (limit), or choose another reduction"
            )


def images_and_places(
    arrays: Mapping[str, NDArray[np.generic]], per_image: int
) -> dict[str, NDArray[np.generic]]:
    """A summary's arrays with images and the places in them, where they have numbers of observations.

    -1, which stands for none, stays -1. The images drawn of a level get their `position`, too: without it,
    one would not know which of the tokens was drawn.
    """
    if per_image == 1 or "images" not in arrays:
        return dict(arrays)
    numbers = arrays["images"].astype(np.int64)
    position = np.where(numbers < 0, -1, numbers % per_image).astype(np.int32)
    return {**arrays, "images": numbers // per_image, "position": position}
