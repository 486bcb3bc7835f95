"""How units respond to pictures under random views that no drawing method has practised on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurolab.atlas.arrays import SiteArrays
from neurolab.atlas.reductions import reduce_map, reduction_of_image
from neurolab.featurevis.pixel_transforms import Noise
from neurolab.featurevis.seeds import generator
from neurolab.featurevis.transforms import AnyTransform, Frame, Transform, Window, matrices, uniform
from neurolab.featurevis.views import Views
from neurolab.models.capture import capture
from neurolab.models.zoo import Model

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Flip(Transform):
    """Left and right exchanged, with a probability of `share`."""

    share: float = 0.5

    def draw(self, count: int, frame: Frame, random: torch.Generator) -> Tensor:
        maps = matrices(torch.ones(count), torch.zeros(count), torch.zeros(count, 2))
        maps[:, 0, 0] = torch.where(torch.rand(count, generator=random) < self.share, -1.0, 1.0)
        return maps


@dataclass(frozen=True)
class Shear(Transform):
    """Upright lines leant to a side by an angle uniform in [-degrees, degrees]."""

    degrees: float

    def draw(self, count: int, frame: Frame, random: torch.Generator) -> Tensor:
        maps = matrices(torch.ones(count), torch.zeros(count), torch.zeros(count, 2))
        maps[:, 0, 1] = (uniform(count, -self.degrees, self.degrees, random) * (math.pi / 180)).tan()
        return maps


# Drawing shifts, turns and enlarges, or cuts out small windows. None of its methods mirrors or leans.
HELD_OUT: tuple[AnyTransform, ...] = (Window(0.7, 1.0), Flip(), Shear(10), Noise(0.05))


@torch.inference_mode()
def view_activations(
    model: Model,
    site: SiteArrays,
    images: Sequence[Tensor],
    transforms: Sequence[AnyTransform],
    *,
    draws: int,
    seed: int,
    batch_size: int,
    advance: Advance,
) -> NDArray[np.float64]:
    """Every unit's activation on each image, the mean over `draws` random views: [images, units].

    images: [3, height, width] as the model sees them. Maps are reduced as the atlas's were, of tokens the
    largest. All images get the same views, so that methods are compared on equal terms. batch_size: views per
    pass, at least those of one image. advance is called with the number of views seen.
    """
    # Of a purpose of its own: else a picture of the same seed was drawn with the same random numbers.
    drawn_from = generator(seed, "held-out views").initial_seed()
    frame = Frame(model.image_size, model.image_size)
    together = max(1, batch_size // draws)
    means = np.empty((len(images), site.units))
    with capture(model, [site.name]) as acts:
        for first in range(0, len(images), together):
            some = torch.stack(list(images[first : first + together])).to(model.device)
            seeds = [drawn_from] * len(some)
            views = Views(
                transforms, seeds, frame, steps=1, count=draws, border="reflect", device=model.device
            )
            model.encode_image(views(some, 0))
            values = reduced(acts[site.name], site).reshape(len(some), draws, site.units)
            means[first : first + together] = values.mean(axis=1, dtype=np.float64)
            advance(len(some) * draws)
    return means


def reduced(activation: Tensor, site: SiteArrays) -> NDArray[np.float32]:
    """[n, units]: activation maps reduced as those of the atlas's site were, of tokens the largest."""
    return reduce_map(activation, site, reduction_of_image(site.reduction)).to_host().values
