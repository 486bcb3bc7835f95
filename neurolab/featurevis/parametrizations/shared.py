"""Pictures that have most of what they show in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neurolab.featurevis.colour import to_rgb
from neurolab.featurevis.parametrizations.base import Parametrization, frequencies
from neurolab.featurevis.parametrizations.fourier import spectrum_scale


class SharedImage(Parametrization):
    """Pictures of one batch as a common picture and what each has of its own (Mordvintsev et al.,
    "Differentiable Image Parameterizations", Distill 2018: aligned interpolation; lucid's lowres_tensor).

    picture_i = sigmoid(M irfft2(scale * (common + own_i)) / 4). Every picture moves the common part, so that
    what they all ask for is drawn once, at one place; the own parts start at zero. finest: up to this
    frequency, in cycles per longer side, the common part reaches; detail above it is each picture's own.

    The pictures depend on each other, all those of a call belong together, and all have the seed of the
    first: draw them with one seed.
    """

    kind = "shared"
    depends_on_batch = True

    def __init__(
        self,
        seeds: Sequence[int],
        size: tuple[int, int],
        *,
        finest: float = 16.0,
        decay: float = 1.5,
        sd: float = 0.01,
    ) -> None:
        super().__init__(seeds, size)
        self.finest, self.decay, self.sd = finest, decay, sd
        shape = (3, self.size[0], self.size[1] // 2 + 1, 2)
        self.common = nn.Parameter(sd * self.normal(*shape)[:1])
        self.own = nn.Parameter(torch.zeros(len(self.seeds), *shape))
        scale = spectrum_scale(self.size, decay).float()[..., None]
        coarse = (frequencies(self.size) * max(self.size) <= finest).float()[..., None]
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("reach", coarse, persistent=False)
        self.scale: Tensor
        self.reach: Tensor

    def forward(self) -> Tensor:
        coefficients = (self.common * self.reach + self.own) * self.scale
        return to_rgb(torch.fft.irfft2(torch.view_as_complex(coefficients), s=self.size) / 4)

    def settings(self) -> dict[str, Any]:
        return {"finest": self.finest, "decay": self.decay, "sd": self.sd}
