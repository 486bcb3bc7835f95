"""Whether a network finds in a picture what it finds in a unit's exemplars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neurolab.atlas import Atlas
from neurolab.atlas.arrays import SiteArrays
from neurolab.atlas.embeddings import mean_direction, unit_embeddings
from neurolab.errors import AtlasError
from neurolab.featurevis.scores.formulas import from_center
from neurolab.featurevis.scores.heldout import Advance
from neurolab.featurevis.scores.natural import EMBEDDING, Looker, as_thumbnail
from neurolab.models.zoo import Model

EXEMPLARS = 9  # of a unit, from the strongest, that stand for what it responds to
RANDOM = 256  # images that stand for all
COMPARED = 200  # other units of the site


@dataclass(frozen=True)
class Judge:
    """A network's embeddings, centred on their mean over images.

    of_images: embeddings [n, D] of images by their numbers; of_pictures: of pictures.
    """

    center: NDArray[np.float32]
    of_images: Callable[[NDArray[np.int64]], NDArray[np.floating]]
    of_pictures: Callable[[Sequence[Image.Image]], NDArray[np.float32]]

    def directions(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """The pictures' centred embeddings, [n, D]."""
        return from_center(self.of_pictures(pictures), self.center)

    def concepts(self, site: SiteArrays, units: NDArray[np.int64]) -> NDArray[np.float32]:
        """The mean centred embedding of each unit's first exemplars, [units, D]; zeros where it has none."""
        exemplars = np.asarray(site.distinct_images(units)[:, :EXEMPLARS])
        images, places = np.unique(exemplars[exemplars >= 0], return_inverse=True)
        rows = np.full(exemplars.shape, -1, np.int64)
        rows[exemplars >= 0] = places
        known = np.asarray(self.of_images(images), np.float16)
        return unit_embeddings(rows, known, self.center).astype(np.float32)


def own_judge(atlas: Atlas, model: Model, batch_size: int, advance: Advance) -> Judge | None:
    """The model that the atlas was made of, with the embeddings kept there; None where it gives none."""
    kept = atlas.image_embeddings()
    if kept is None:
        return None
    looker = Looker(model, [], embeds=True, batch_size=batch_size)
    return Judge(
        mean_direction(kept),
        lambda images: kept[images],
        lambda pictures: looker.look(pictures, advance)[EMBEDDING],
    )


def other_judge(atlas: Atlas, second: Model, seed: int, batch_size: int, advance: Advance) -> Judge:
    """Another network, shown the atlas's thumbnails.

    An atlas keeps no larger copy of its images than a thumbnail, whose longer side is 160 pixels unless
    `mine` was told otherwise. So pictures are reduced to that size, too, and compressed alike: the network
    compares like with like, at the price of all detail that a thumbnail does not show. Each image is
    embedded once. AtlasError where the atlas has no thumbnails; ValueError where the network gives no
    embedding.
    """
    if second.embedding_dim is None:
        raise ValueError(f"{second.name} gives no embedding of an image; choose another second model")
    longest = thumbnail_size(atlas)
    if longest is None:
        raise AtlasError(f"{atlas.path} has no thumbnails to show to {second.name}; mine it again with them")
    looker = Looker(second, [], embeds=True, batch_size=batch_size)
    center = mean_direction(looker.of_atlas(atlas, random_images(atlas, seed), advance)[EMBEDDING])  # type: ignore[arg-type]
    return Judge(
        center,
        lambda images: looker.of_atlas(atlas, images, advance)[EMBEDDING],
        lambda pictures: looker.look([as_thumbnail(p, longest) for p in pictures], advance)[EMBEDDING],
    )


def thumbnail_size(atlas: Atlas) -> int | None:
    """The longest side of the atlas's thumbnails in pixels; None where it was built without."""
    size = atlas.manifest["settings"].get("thumbnail")
    return None if size is None else int(size)


def random_images(atlas: Atlas, seed: int) -> NDArray[np.int64]:
    """The numbers of up to 256 images of the atlas, drawn with the seed."""
    drawn = np.random.default_rng(seed).choice(len(atlas), min(RANDOM, len(atlas)), replace=False)
    return np.sort(drawn).astype(np.int64)


def compared_units(site: SiteArrays, seed: int) -> NDArray[np.int64]:
    """Up to 200 units of a site, drawn with the seed: the same for all pictures."""
    drawn = np.random.default_rng(seed).choice(site.units, min(COMPARED, site.units), replace=False)
    return np.sort(drawn).astype(np.int64)
