"""Parametrizations: what gradient ascent moves, and how a picture comes of it.

A parametrization is an nn.Module that holds the parameters of a batch of independent pictures and whose call
gives them as RGB in (0, 1), float32 [batch, 3, height, width]. Every parameter has the batch as its first
dimension, and a picture's start depends on its own seed only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neurolab.featurevis.colour import to_rgb
from neurolab.featurevis.seeds import generator

PIVOT = 32.0  # cycles per picture


class Parametrization(nn.Module, ABC):
    """A batch of pictures, one per seed. seeds: one integer per picture; size: (height, width) in pixels."""

    kind: str  # what a picture made this way is called in an atlas

    def __init__(self, seeds: Sequence[int], size: tuple[int, int]) -> None:
        super().__init__()
        if not seeds or min(size) < 1:
            raise ValueError(f"pictures need at least one seed and one pixel, not {len(seeds)} seeds, {size}")
        self.seeds, self.size = tuple(int(seed) for seed in seeds), (int(size[0]), int(size[1]))

    @abstractmethod
    def forward(self) -> Tensor:
        """The pictures, RGB in (0, 1), [batch, 3, height, width]."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What a picture depends on besides its seed and size; kept with the picture."""

    def start(self, *shape: int) -> Tensor:
        """Standard normal numbers [batch, *shape], each item's from its own generator."""
        starts = [torch.randn(shape, generator=generator(seed, "start")) for seed in self.seeds]
        return torch.stack(starts)


def frequencies(size: tuple[int, int]) -> Tensor:
    """The frequency of every coefficient of rfft2, in cycles per pixel, [height, width // 2 + 1] float64."""
    height, width = size
    rows = torch.fft.fftfreq(height, dtype=torch.float64)
    columns = torch.fft.rfftfreq(width, dtype=torch.float64)
    return torch.hypot(rows[:, None], columns[None, :])


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
        self.spectrum = nn.Parameter(sd * self.start(3, height, width // 2 + 1, 2))
        scale = spectrum_scale(self.size, decay).float()[..., None]
        self.register_buffer("scale", scale, persistent=False)
        self.scale: Tensor

    def forward(self) -> Tensor:
        coefficients = torch.view_as_complex(self.spectrum * self.scale)
        image = torch.fft.irfft2(coefficients, s=self.size) / 4
        return to_rgb(image, self.decorrelated)

    def settings(self) -> dict[str, Any]:
        return {"decay": self.decay, "sd": self.sd, "decorrelated": self.decorrelated}


class PixelImage(Parametrization):
    """Pictures by their pixels: sigmoid(M z), z starts normal with standard deviation `sd`.

    The gradient of a network is rough, and without the Fourier weighting the fine detail wins: mostly of use
    to show why the other parametrization is there.
    """

    kind = "pixels"

    def __init__(
        self, seeds: Sequence[int], size: tuple[int, int], *, sd: float = 0.01, decorrelated: bool = True
    ) -> None:
        super().__init__(seeds, size)
        self.sd, self.decorrelated = sd, decorrelated
        self.pixels = nn.Parameter(sd * self.start(3, *self.size))

    def forward(self) -> Tensor:
        return to_rgb(self.pixels, self.decorrelated)

    def settings(self) -> dict[str, Any]:
        return {"sd": self.sd, "decorrelated": self.decorrelated}


Maker = Callable[[Sequence[int], tuple[int, int]], Parametrization]
PARAMETRIZATIONS: dict[str, Maker] = {"fourier": FourierImage, "pixels": PixelImage}


def find_parametrization(name: str | Maker) -> Maker:
    """A parametrization by its name; a callable (seeds, size) -> Parametrization is given back as it is."""
    if not isinstance(name, str):
        return name
    if name not in PARAMETRIZATIONS:
        known = ", ".join(PARAMETRIZATIONS)
        raise ValueError(f"parametrization {name!r} is unknown; choose one of {known}, or pass a callable")
    return PARAMETRIZATIONS[name]
