"""Pictures as functions of the place: compositional pattern-producing networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neurolab.featurevis.parametrizations.base import Parametrization


class CppnImage(Parametrization):
    """Pictures as the output of a small network of the pixel's coordinates (Stanley 2007; Mordvintsev et al.,
    "Differentiable Image Parameterizations", Distill 2018).

    The weights of one network per picture are what ascent moves. x and y run from -sqrt(3) to sqrt(3) along
    the longer side, so that they have variance 1 in a square picture; hidden layers are linear with lucid's
    composite activation (atan(z) / 0.67, atan(z)^2 / 0.6), whose two halves are joined; colour is the sigmoid
    of the last linear layer, which starts at zero: the pictures start grey. Weights start normal with the
    variance 1 / inputs, biases at zero.

    The networks of a batch are independent and computed together (lucid has one for a picture; lucent's takes
    one picture a batch). They are ascended with a smaller step than coefficients; see `METHODS`.
    """

    kind = "cppn"

    def __init__(
        self, seeds: Sequence[int], size: tuple[int, int], *, hidden: int = 24, layers: int = 8
    ) -> None:
        super().__init__(seeds, size)
        if hidden < 1 or layers < 1:
            raise ValueError(f"a CPPN needs hidden units and layers, not {hidden} and {layers}")
        self.hidden, self.count = hidden, layers
        inputs = [2] + [2 * hidden] * (layers - 1)
        numbers = self.normal(sum(n * hidden for n in inputs)).split([n * hidden for n in inputs], dim=-1)
        self.weights = nn.ParameterList(
            part.unflatten(-1, (n, hidden)) / n**0.5 for part, n in zip(numbers, inputs, strict=True)
        )
        batch = len(self.seeds)
        self.biases = nn.ParameterList(torch.zeros(batch, 1, hidden) for _ in inputs)
        self.colour_weight = nn.Parameter(torch.zeros(batch, 2 * hidden, 3))
        self.colour_bias = nn.Parameter(torch.zeros(batch, 1, 3))
        self.register_buffer("places", coordinates(self.size), persistent=False)
        self.places: Tensor

    def forward(self) -> Tensor:
        values = self.places.expand(len(self.seeds), -1, -1)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            values = composite(torch.baddbmm(bias, values, weight))
        colours = torch.sigmoid(torch.baddbmm(self.colour_bias, values, self.colour_weight))
        return colours.transpose(1, 2).unflatten(-1, self.size)

    def settings(self) -> dict[str, Any]:
        return {"hidden": self.hidden, "layers": self.count}


def coordinates(size: tuple[int, int]) -> Tensor:
    """(x, y) of every pixel's centre, row by row: [height * width, 2]; the longer side is 2 sqrt(3)."""
    height, width = size
    step = 2 * 3**0.5 / max(size)
    y = (torch.arange(height) - (height - 1) / 2) * step
    x = (torch.arange(width) - (width - 1) / 2) * step
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).flatten(0, 1)


def composite(values: Tensor) -> Tensor:
    """lucid's composite activation: [..., n] to [..., 2 n], each half with a variance near 1."""
    angles = torch.atan(values)
    return torch.cat([angles / 0.67, angles.square() / 0.6], dim=-1)
