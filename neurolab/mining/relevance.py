"""Relevance maximization: a second ranking of a unit's images, by how much it did for an output.

The images that excite a unit most need not be those in which anything follows from it. Achtibat et al. 2023
("From attribution maps to human-understandable explanations through Concept Relevance Propagation") rank
images by the relevance of the unit to an output as well; here relevance is gradient x activation (Shrikumar
et al. 2016) or its mean along the way from no activation at all (integrated gradients, Sundararajan et al.
2017), both computed by captum on the activations of any site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from neurolab.atlas import Atlas
from neurolab.atlas.arrays import Exemplar
from neurolab.atlas.reductions import Reduced, reduce_map
from neurolab.data.decode import ImageTransform
from neurolab.data.in_memory import InMemorySource
from neurolab.data.loader import load_batches
from neurolab.data.sources import Source, open_source
from neurolab.errors import UnknownSiteError
from neurolab.mining.targets import Direction, Logit, Score, Target, Text
from neurolab.mining.topk import TopK
from neurolab.models.capture import capture
from neurolab.models.layouts import MAP, TOKENS
from neurolab.models.sites import Site, find_site
from neurolab.models.zoo import Model
from neurolab.progress import reporting

__all__ = ["Direction", "Logit", "Ranking", "Target", "Text", "rank_by_relevance", "relevance"]

METHODS = ("gradient", "integrated")

Images = Sequence[Image.Image] | Source | str | Path | Sequence[str | Path | Source]


def relevance(
    model: Model, images: Tensor, site: str, target: Target, *, method: str = "gradient", steps: int = 32
) -> Tensor:
    """What each unit did for the target at each place: the site's map, float32, of images [batch, 3, h, w].

    method: "gradient", the activation times the target's gradient with respect to it, by captum's
    InputXGradient; "integrated", the activation times the mean of the gradients at `steps` activations on the
    straight line from 0, by captum's IntegratedGradients: summed up, the target's difference from what it is
    without the site (but not before a LayerNorm, where all that matters happens next to 0). Positive where
    the unit speaks for the target. Images are RGB in [0, 1].

    Raises UnknownSiteError for a site that does not exist or that the target does not depend on.
    """
    return _relevance(model, images, find_site(model, site), target.score(model), method, steps)


def _relevance(model: Model, images: Tensor, site: Site, score: Score, method: str, steps: int) -> Tensor:
    from captum.attr import InputXGradient, IntegratedGradients

    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}, not {method!r}")
    with torch.no_grad(), capture(model, [site.name]) as acts:
        model.encode_image(images)

    # captum's own layer methods find modules only: no attention heads, no single run of a shared module.
    def from_site(activation: Tensor, images: Tensor) -> Tensor:
        with capture(model, edit={site.name: lambda _: activation.clone()}):
            output = model.encode_image(images)
        assert output is not None
        if not output.requires_grad:
            raise UnknownSiteError(f"what {model.name} gives for an image does not depend on {site.name}")
        return score(output)

    activation = acts[site.name].detach().requires_grad_()
    if method == "gradient":
        found = InputXGradient(from_site).attribute(activation, additional_forward_args=images)
    else:
        # As many at a time as there are images, so that memory does not grow with the steps.
        at_once = len(images)
        found = IntegratedGradients(from_site).attribute(
            activation, additional_forward_args=images, n_steps=steps, internal_batch_size=at_once
        )
    return found.detach()


@dataclass(frozen=True, eq=False)
class Ranking:
    """The images in which units of a site did most for a target; row i of the arrays is unit `units[i]`.

    values: [units, k] float32, the relevance summed over the places, the largest first; -inf for none.
    images: [units, k] int64, numbers in the order of the images that could be read, as in an atlas of the
    same source; -1 for none. position: [units, k] int32, the place of the largest relevance, row by row in
    `grid`; -1 for none. keys: of the images that are in the ranking, by number. count: images seen.
    """

    site: str
    target: str
    method: str
    count: int
    grid: tuple[int, int] | None
    units: NDArray[np.int64]
    values: NDArray[np.float32]
    images: NDArray[np.int64]
    position: NDArray[np.int32]
    keys: Mapping[int, str]

    def exemplars(self, atlas: Atlas, unit: int) -> list[Exemplar]:
        """A unit's images as exemplars of an atlas that has them, in this order; `value` is the relevance.

        Raises UnknownSiteError for a unit that was not ranked, AtlasError for images that are not there.
        """
        if unit not in self.units:
            raise UnknownSiteError(f"unit {unit} of {self.site} was not ranked")
        row = int(np.flatnonzero(self.units == unit)[0])
        taken = self.images[row] >= 0
        keys = [self.keys[number] for number in self.images[row, taken].tolist()]
        found = atlas.images([atlas.image_index(key) for key in keys])
        values, positions = self.values[row, taken].tolist(), self.position[row, taken].tolist()
        return [
            Exemplar.of(image, value, position, self.grid)
            for image, value, position in zip(found, values, positions, strict=True)
        ]


def rank_by_relevance(
    model: Model,
    images: Images,
    site: str,
    target: Target,
    *,
    units: Sequence[int] | None = None,
    k: int = 100,
    method: str = "gradient",
    steps: int = 32,
    batch_size: int = 32,
    workers: int = 0,
    progress: bool = True,
) -> Ranking:
    """For each unit of a site the `k` images in which it did most for a target.

    images: a source, what `neurolab.open_source` takes, or PIL images, whose keys are their numbers. Images
    that cannot be read are left out. units: default, all. method, steps: see `relevance`; a unit's relevance
    in an image is the sum over all places (class tokens as well), and ties go to the earlier image. Memory
    does not grow with the number of images.
    """
    where, score = find_site(model, site), target.score(model)
    chosen = np.arange(where.units) if units is None else np.unique(np.asarray(units, np.int64))
    if not len(chosen) or not 0 <= chosen[0] <= chosen[-1] < where.units:
        raise UnknownSiteError(f"{site} has units 0 to {where.units - 1}, not {chosen.tolist()[:8]}")
    source, best = _source(images), _Best(len(chosen), k)
    transform = ImageTransform(model.image_size, model.resize_mode, model.interpolation, thumbnail=None)
    with reporting(progress, f"Relevance of {site} to {target}", source.size(), 0) as reporter:
        for batch in load_batches(source, transform, batch_size=batch_size, workers=workers):
            if batch.items:
                pixels = torch.from_numpy(batch.images).to(model.device).permute(0, 3, 1, 2).float() / 255
                found = _relevance(model, pixels, where, score, method, steps)
                best.add(_reduce(found, where, chosen), [item.key for item in batch.items])
            reporter.advance(batch.records)
    about = where.name, str(target), method, best.count, where.grid, chosen
    return Ranking(*about, **best.top.arrays(), keys=best.needed())  # type: ignore[arg-type]


class _Best:
    """The best images so far, and the keys of those among them (and of not many more)."""

    def __init__(self, units: int, k: int) -> None:
        self.top, self.count = TopK(units, k), 0
        self._keys: dict[int, str] = {}

    def add(self, reduced: Reduced, keys: Sequence[str]) -> None:
        """Take in a batch of images."""
        numbers = np.arange(self.count, self.count + len(keys))
        self.top.update(reduced.values, numbers, reduced.positions)
        self._keys.update(zip(numbers.tolist(), keys, strict=True))
        self.count += len(keys)
        if len(self._keys) > 2 * self.top.units * self.top.k:
            self._keys = self.needed()

    def needed(self) -> dict[int, str]:
        """The keys of the images that are among the best, by number."""
        numbers = np.unique(self.top.arrays()["images"]).tolist()
        return {number: self._keys[number] for number in numbers if number >= 0}


def _reduce(relevances: Tensor, site: Site, units: NDArray[np.int64]) -> Reduced:
    """The sum over the places of each unit, and the place of the largest relevance."""
    axis = 1 if site.layout == MAP else relevances.ndim - 1
    some = relevances.index_select(axis, torch.from_numpy(units).to(relevances.device))
    if site.layout == MAP:
        total = some.sum((2, 3), dtype=torch.float64)
    else:
        total = some.sum(1, dtype=torch.float64) if site.layout == TOKENS else some
    placed = site.layout != TOKENS or site.shape[0] > site.prefix_tokens
    reduction = "max" if placed else "cls"
    largest = reduce_map(some, site, reduction).to_host()
    return Reduced(total.to("cpu", torch.float32).numpy(), largest.positions)


def _source(images: Images) -> Source:
    if isinstance(images, Source | str | Path):
        return open_source(images)
    pictures = [image for image in images if isinstance(image, Image.Image)]
    return InMemorySource(pictures) if len(pictures) == len(images) else open_source(images)  # type: ignore[arg-type]
