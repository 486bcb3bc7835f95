"""What networks make of an atlas's images and of pictures: embeddings, and the way to a unit."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from neurolab.atlas import Atlas
from neurolab.atlas.reductions import reduce_map
from neurolab.data.decode import make_thumbnail, to_rgb
from neurolab.featurevis.scores.heldout import Advance
from neurolab.models.capture import capture
from neurolab.models.sites import Site, list_sites
from neurolab.models.zoo import Model

EMBEDDING = "embedding"  # beside the names of sites, which all have a port
Looks = dict[str, NDArray[np.float32]]


def earlier_sites(model: Model, site: str, count: int = 6) -> list[Site]:
    """Up to `count` sites that are computed before a site, evenly spread and in order; [] for the first.

    The blocks' residual sums or streams where the network has at least two of them before the site, else any
    maps and tokens.
    """
    usual = list_sites(model)
    every = usual if any(known.name == site for known in usual) else list_sites(model, all_modules=True)
    names = [known.name for known in every]
    before = every[: names.index(site)] if site in names else []
    maps = [known for known in before if known.grid is not None and known.kind != "heads"]
    blocks = [known for known in maps if known.kind == "residual"]
    chosen = blocks if len(blocks) > 1 else maps
    places = np.linspace(0, len(chosen) - 1, min(count, len(chosen))).round().astype(int)
    return [chosen[place] for place in places]


class Looker:
    """Shows images to a network once each, and keeps what is asked of it: embeddings, means of maps.

    sites: whose spatial means are kept; embeds: whether the network's embedding is. batch_size: images per
    pass.
    """

    def __init__(self, model: Model, sites: Sequence[Site], *, embeds: bool, batch_size: int) -> None:
        self.model, self.embeds, self.batch_size = model, embeds, batch_size
        self.sites = {site.name: site for site in sites}
        self._seen: dict[int, dict[str, NDArray[np.float32]]] = {}

    def look(self, images: Sequence[Image.Image], advance: Advance) -> Looks:
        """By name of site, and EMBEDDING: one row [units or D] for each image, all from the same pass."""
        parts: dict[str, list[NDArray[np.float32]]] = {}
        for first in range(0, len(images), self.batch_size):
            some = images[first : first + self.batch_size]
            for name, rows in self._pass(torch.stack([self.model.preprocess(image) for image in some])):
                parts.setdefault(name, []).append(rows)
            advance(len(some))
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def of_atlas(self, atlas: Atlas, images: Iterable[int] | NDArray[np.int64], advance: Advance) -> Looks:
        """The same of an atlas's images by their numbers, as their thumbnails show them."""
        wanted = [int(image) for image in images]
        new = [image for image in dict.fromkeys(wanted) if image not in self._seen]
        for first in range(0, len(new), self.batch_size):
            some = new[first : first + self.batch_size]
            seen = self.look([thumbnail(atlas, image) for image in some], advance)
            for row, image in enumerate(some):
                self._seen[image] = {name: rows[row] for name, rows in seen.items()}
        names = [*self.sites, *[EMBEDDING] * self.embeds]
        return {name: np.stack([self._seen[image][name] for image in wanted]) for name in names}

    @torch.inference_mode()
    def _pass(self, images: Tensor) -> Iterable[tuple[str, NDArray[np.float32]]]:
        with capture(self.model, self.sites, stop=not self.embeds) as acts:
            embedded = self.model.encode_image(images)
        for name, site in self.sites.items():
            yield name, reduce_map(acts[name], site, "mean").to_host().values
        if self.embeds and embedded is not None:
            yield EMBEDDING, embedded.to("cpu", torch.float32).numpy()


def thumbnail(atlas: Atlas, image: int) -> Image.Image:
    """The thumbnail of an image; AtlasError where the atlas was built without."""
    return to_rgb(Image.open(io.BytesIO(atlas.thumbnail(image))))


def as_thumbnail(picture: Image.Image, longest: int) -> Image.Image:
    """A picture as small and as compressed as the thumbnails it is compared with."""
    return to_rgb(Image.open(io.BytesIO(make_thumbnail(picture, longest))))
