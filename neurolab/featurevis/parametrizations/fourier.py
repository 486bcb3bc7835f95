"""Pictures by their Fourier coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neurolab.featurevis.colour import to_rgb
from neurolab.featurevis.parametrizations.base import Parametrization, frequencies

PIVOT = 32.0  # cycles per picture


def spectrum_scale(size: tuple[int, int], decay: float) -> Tensor:
    """How much each Fourier coefficient weighs, [height, width // 2 + 1] float64.

    sqrt(width height) * max(width, height) / PIVOT * (PIVOT / max(k, 1))^decay, with k the frequency in
    cycles per longer side. For decay 1 it is lucid's sqrt(width height) / max(f, 1 / max(width, height)),
    with f in cycles per pixel: all octaves have the same energy, as in photographs. sqrt(width height) makes
    the transform unitary; the floor under k keeps the mean colour finite.

    Where lucid's other decays change contrast and speed with the size of the picture, all decays here agree
    at PIVOT cycles per picture, so one learning rate serves for all sizes and decays.
    """
    longer = max(size)
    cycles = (frequencies(size) * longer).clamp_min(1)
    return (size[0] * size[1]) ** 0.5 * longer / PIVOT * (PIVOT / cycles) ** decay


class FourierImage(Parametrization):
    """Pictures by their Fourier coefficients (Olah et al., "Feature Visualization", Distill 2017; lucid).

    picture = sigmoid(M irfft2(scale * coefficient) / 4), with `spectrum_scale` and the colour matrix M;
    coefficients start normal with standard deviation `sd`. decay: lucid's is 1; with 1.5 coarse shapes and
    colours come before texture, and motifs are larger and easier to name.

    Any size. Lucid computes one column more for odd widths and cuts it off; here the inverse transform has
    the exact size, so every coefficient has the frequency that it is scaled for.
    """

    kind = "fourier"

    def __init__(
        self,
        seeds: Sequence[int],
        size: tuple[int, int],
        *,
        decay: float = 1.5,
        sd: float = 0.01,
        decorrelated: bool = True,
    ) -> None:
        super().__init__(seeds, size)
        self.decay, self.sd, self.decorrelated = decay, sd, decorrelated
        height, width = self.size
        # The last dimension is (real, imaginary): Adam treats the two as separate numbers, as lucid's does.
        self.spectrum = nn.Parameter(sd * self.normal(3, height, width // 2 + 1, 2))
        scale = spectrum_scale(self.size, decay).float()[..., None]
        self.register_buffer("scale", scale, persistent=False)
        self.scale: Tensor

    def forward(self) -> Tensor:
        coefficients = torch.view_as_complex(self.spectrum * self.scale)
        image = torch.fft.irfft2(coefficients, s=self.size) / 4
        return to_rgb(image, self.decorrelated)

    def settings(self) -> dict[str, Any]:
        return {"decay": self.decay, "sd": self.sd, "decorrelated": self.decorrelated}
