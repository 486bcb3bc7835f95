"""Objectives of the picture itself: what a picture is held to besides what it shall excite.

They read the pictures as the parametrization gives them, before any transform, and are added or subtracted as
others are::

    Unit("layer4.2", 89) - 0.001 * TotalVariation()
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from neurolab.featurevis.objectives import Objective
from neurolab.featurevis.picture import seen_at
from neurolab.models.zoo import Model

PICTURE = "picture"  # stands for a site: the pictures, [batch, 3 or 4 (with alpha), height, width]


class OfPicture(Objective):
    """One number of each picture."""

    sites = (PICTURE,)
    is_steady = True

    def __init__(self, name: str) -> None:
        self.name = self.formula = name

    @abstractmethod
    def of(self, pictures: Tensor) -> Tensor:
        """[batch] numbers of pictures [batch, 3, height, width]."""

    def __call__(self, acts: Mapping[str, Tensor]) -> Tensor:
        return self.of(acts[PICTURE][:, :3].float())

    def bind(self, model: Model) -> Objective:
        return self

    def signature(self) -> Hashable:
        return self.formula

    def stack(self, members: Sequence[Any]) -> Objective:
        return self


class TotalVariation(OfPicture):
    """The lengths of the differences between neighbours, along rows, columns and both diagonals, summed
    (Ghiasi et al. 2022); each is the root of the sum of squares over the picture."""

    def __init__(self) -> None:
        super().__init__("TV")

    def of(self, pictures: Tensor) -> Tensor:
        x = pictures
        pairs = (
            (x[..., 1:], x[..., :-1]),
            (x[..., 1:, :], x[..., :-1, :]),
            (x[..., 1:, 1:], x[..., :-1, :-1]),
            (x[..., 1:, :-1], x[..., :-1, 1:]),
        )
        # 1e-12: the root has no slope at 0, where a picture starts plain.
        return sum(((a - b).square().sum((1, 2, 3)) + 1e-12).sqrt() for a, b in pairs)  # type: ignore[return-value]


class L1(OfPicture):
    """The mean distance of the colours from `grey`."""

    def __init__(self, grey: float = 0.5) -> None:
        self.grey = grey
        super().__init__(f"L1({grey:g})")

    def of(self, pictures: Tensor) -> Tensor:
        return (pictures - self.grey).abs().mean((1, 2, 3))


class L2(OfPicture):
    """The mean squared distance of the colours from `grey`: the magnitude of the picture. The article's
    facets are drawn with 10 of it."""

    def __init__(self, grey: float = 0.5) -> None:
        self.grey = grey
        super().__init__(f"L2({grey:g})")

    def of(self, pictures: Tensor) -> Tensor:
        return (pictures - self.grey).square().mean((1, 2, 3))


class Roughness(OfPicture):
    """Half the mean squared distance of the picture from itself blurred (lucid's blur_input_each_step): its
    gradient moves every pixel towards the mean of the 3 x 3 around it, which itself is held."""

    def __init__(self) -> None:
        super().__init__("roughness")

    def of(self, pictures: Tensor) -> Tensor:
        around = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
        blurred = F.avg_pool2d(around, 3, stride=1).detach()
        return (pictures - blurred).square().mean((1, 2, 3)) / 2


class Opacity(OfPicture):
    """The mean alpha of a picture: 1 where nothing of what is behind it can be seen."""

    def __init__(self) -> None:
        super().__init__("opacity")

    def __call__(self, acts: Mapping[str, Tensor]) -> Tensor:
        if acts[PICTURE].shape[1] != 4:
            raise ValueError("these pictures have no alpha channel: draw them with alpha=True")
        return self.of(acts[PICTURE][:, 3:].float())

    def of(self, pictures: Tensor) -> Tensor:
        return pictures.mean((1, 2, 3))


class Distance(OfPicture):
    """The mean squared distance of the colours from those of an image, reduced and cropped to the picture's
    size."""

    def __init__(self, image: Image.Image) -> None:
        self.image, self.shown = image, torch.empty(3, 0, 0)
        super().__init__("distance")

    def of(self, pictures: Tensor) -> Tensor:
        size = (pictures.shape[-2], pictures.shape[-1])
        if self.shown.shape[-2:] != size or self.shown.device != pictures.device:
            shown = torch.from_numpy(seen_at(self.image, size) / np.float32(255)).permute(2, 0, 1)
            self.shown = shown.to(pictures.device)
        return (pictures - self.shown).square().mean((1, 2, 3))

    def signature(self) -> Hashable:
        return self.formula, id(self.image)
