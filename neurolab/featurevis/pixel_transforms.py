"""Random changes of the colours of views: noise, colour jitter, blur.

Each view has its own, from generators of the pictures' own on their device.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


class PixelTransform(ABC):
    """A random change of the colours of a view, after all that moves them."""

    @abstractmethod
    def __call__(self, views: Tensor, randoms: Sequence[torch.Generator], done: float) -> Tensor:
        """Changed views [pictures, views, 3, height, width].

        randoms: one a picture, on their device. done: the share of the run's steps that lies behind.
        """


@dataclass(frozen=True)
class Noise(PixelTransform):
    """Noise that is uniform in [-level, level], in every colour of every pixel of every view alone."""

    level: float

    def __call__(self, views: Tensor, randoms: Sequence[torch.Generator], done: float) -> Tensor:
        return views + self.level * symmetric(views.shape[1:], randoms)


@dataclass(frozen=True)
class ColourJitter(PixelTransform):
    """(colour - a) / exp(b) in each channel of each view, with a uniform in [-shift, shift] and b in [-scale,
    scale]: what survives is no matter of one colour (Ghiasi et al., "What do Vision Transformers Learn?",
    2022)."""

    shift: float = 1.0
    scale: float = 1.0

    def __call__(self, views: Tensor, randoms: Sequence[torch.Generator], done: float) -> Tensor:
        shift, scale = symmetric((2, *channels(views)), randoms).unbind(1)
        return (views - self.shift * shift) / (self.scale * scale).exp()


@dataclass(frozen=True)
class ColourNoise(PixelTransform):
    """Normal noise of one number for each channel of each view, its standard deviation falling linearly from
    `sd` to 0 over the run (Ghiasi et al. 2022)."""

    sd: float = 0.5

    def __call__(self, views: Tensor, randoms: Sequence[torch.Generator], done: float) -> Tensor:
        shape = channels(views)
        drawn = [torch.randn(shape, generator=random, device=random.device) for random in randoms]
        return views + self.sd * (1 - done) * torch.stack(drawn)


@dataclass(frozen=True)
class Blur(PixelTransform):
    """A Gaussian blur of each view, its standard deviation in pixels uniform in [low, high]."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"a blur has widths 0 <= low <= high, not {self.low}, {self.high}")

    def __call__(self, views: Tensor, randoms: Sequence[torch.Generator], done: float) -> Tensor:
        share = (symmetric(channels(views)[:1], randoms) + 1) / 2
        widths = (self.low + (self.high - self.low) * share).flatten().clamp_min(1e-3)
        radius = max(1, math.ceil(3 * self.high))
        places = torch.arange(-radius, radius + 1, device=views.device)
        kernels = torch.softmax(-places.square() / (2 * widths[:, None].square()), dim=1)
        kernels = kernels.repeat_interleave(3, 0)  # of every channel of every view
        rows = F.pad(views.reshape(1, -1, *views.shape[-2:]), [radius] * 4, mode="replicate")
        rows = F.conv2d(rows, kernels[:, None, None, :], groups=len(kernels))
        return F.conv2d(rows, kernels[:, None, :, None], groups=len(kernels)).view_as(views)


def channels(views: Tensor) -> tuple[int, ...]:
    """The shape of a number for each view's channel: (views, 3, 1, 1)."""
    return *views.shape[1:3], 1, 1


def symmetric(shape: Sequence[int], randoms: Sequence[torch.Generator]) -> Tensor:
    """[pictures, *shape] numbers, uniform in [-1, 1]."""
    drawn = [torch.rand(tuple(shape), generator=random, device=random.device) for random in randoms]
    return torch.stack(drawn) * 2 - 1
