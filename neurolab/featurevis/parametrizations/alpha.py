"""Pictures that are transparent where nothing helps the objective."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neurolab.featurevis.parametrizations.base import Parametrization
from neurolab.featurevis.parametrizations.fourier import spectrum_scale


class TransparentImage(Parametrization):
    """Any parametrization's colours with an alpha channel (Mordvintsev et al., "Differentiable Image
    Parameterizations", Distill 2018): RGBA in (0, 1), [batch, 4, height, width].

    alpha = sigmoid(irfft2(scale * coefficient) / 4), as `FourierImage` has its colours; it starts near a
    half. Each view is laid over another random background, so only what has to be there becomes opaque.
    """

    def __init__(self, colours: Parametrization, decay: float = 1.5, sd: float = 0.01) -> None:
        super().__init__(colours.seeds, colours.size)
        self.colours, self.decay, self.kind = colours, decay, colours.kind
        height, width = self.size
        self.opacity = nn.Parameter(sd * self.normal(height, width // 2 + 1, 2, purpose="alpha"))
        self.register_buffer("scale", spectrum_scale(self.size, decay).float()[..., None], persistent=False)
        self.scale: Tensor

    def forward(self) -> Tensor:
        waves = torch.fft.irfft2(torch.view_as_complex(self.opacity * self.scale), s=self.size) / 4
        return torch.cat([self.colours(), torch.sigmoid(waves)[:, None]], dim=1)

    def settle(self) -> None:
        self.colours.settle()

    def settings(self) -> dict[str, Any]:
        return self.colours.settings() | {"alpha_decay": self.decay}
