"""Pictures by their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neurolab.featurevis.colour import to_rgb
from neurolab.featurevis.parametrizations.base import Parametrization


class PixelImage(Parametrization):
    """Pictures by their pixels: sigmoid(M z), z starts normal with standard deviation `sd`.

    The gradient of a network is rough, and without the Fourier weighting the fine detail wins: mostly of use
    to show why the other parametrizations are there.
    """

    kind = "pixels"

    def __init__(
        self, seeds: Sequence[int], size: tuple[int, int], *, sd: float = 0.01, decorrelated: bool = True
    ) -> None:
        super().__init__(seeds, size)
        self.sd, self.decorrelated = sd, decorrelated
        self.pixels = nn.Parameter(sd * self.normal(3, *self.size))

    def forward(self) -> Tensor:
        return to_rgb(self.pixels, self.decorrelated)

    def settings(self) -> dict[str, Any]:
        return {"sd": self.sd, "decorrelated": self.decorrelated}


class BoundedPixels(Parametrization):
    """Pictures as their colours themselves, moved back into [0, 1] after every step (Ghiasi et al. 2022).

    They start uniform in [0, 1].
    """

    kind = "bounded pixels"

    def __init__(self, seeds: Sequence[int], size: tuple[int, int]) -> None:
        super().__init__(seeds, size)
        self.pixels = nn.Parameter(self.uniform(3, *self.size))

    def forward(self) -> Tensor:
        return self.pixels * 1.0  # a tensor of the graph, as all others give

    @torch.no_grad()
    def settle(self) -> None:
        self.pixels.clamp_(0, 1)

    def settings(self) -> dict[str, Any]:
        return {}
