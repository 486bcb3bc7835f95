"""Pictures with the magnitudes of natural images, of which only the phases are free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neurolab.featurevis.colour import to_rgb
from neurolab.featurevis.parametrizations.base import Parametrization
from neurolab.featurevis.spectrum import Spectrum, demo_spectrum


class MacoImage(Parametrization):
    """Pictures whose Fourier magnitudes are fixed to the mean of natural images (MACO, Fel et al., "Unlocking
    Feature Visualization for Deeper Networks with MAgnitude Constrained Optimization", NeurIPS 2023).

    picture = sigmoid(M irfft2(magnitude * exp(i phase))). The phases say what is where in an image; how much
    of each frequency there is hardly differs from image to image. With the magnitudes held, ascent cannot put
    its energy into high frequencies, which fool a network and look like noise. The phases start uniform, as
    in the paper (its code starts them normal). spectrum: the mean magnitudes, see
    `neurolab.featurevis.spectrum`; default, those of the demo set.

    Differences from the published code: the magnitudes are those of images in this very space, so that there
    is nothing to standardise after the transform; the mean is left out, as there. And where coefficients
    mirror each other (the first column, the last of even widths) their phases do, too, so that the magnitudes
    are kept there as well. The few coefficients that are real may move between plus and minus their
    magnitude.
    """

    kind = "maco"

    def __init__(
        self, seeds: Sequence[int], size: tuple[int, int], *, spectrum: Spectrum | None = None
    ) -> None:
        super().__init__(seeds, size)
        self.spectrum = spectrum or demo_spectrum()
        height, width = self.size
        self.phase = nn.Parameter(2 * math.pi * self.uniform(3, height, width // 2 + 1) - math.pi)
        mirrored, magnitude = mirrored_coefficients(self.size), self.spectrum.resampled(self.size)
        magnitude = torch.where(mirrored, (magnitude + opposite(magnitude)) / 2, magnitude)
        magnitude[:, 0, 0] = 0  # the mean of drawings is white paper, and it could only change to black
        self.register_buffer("magnitude", magnitude, persistent=False)
        self.register_buffer("mirrored", mirrored, persistent=False)
        self.magnitude: Tensor
        self.mirrored: Tensor

    def forward(self) -> Tensor:
        # A coefficient and its mirror image have opposite phases in a real picture. Of uniform phases the
        # difference is uniform, too.
        phase = torch.where(self.mirrored, self.phase - opposite(self.phase), self.phase)
        coefficients = torch.polar(self.magnitude.expand_as(phase), phase)
        return to_rgb(torch.fft.irfft2(coefficients, s=self.size, norm="ortho"))

    def settings(self) -> dict[str, Any]:
        return {"spectrum": self.spectrum.digest}


def opposite(coefficients: Tensor) -> Tensor:
    """Those of the opposite row frequency, [..., height, width // 2 + 1]."""
    return coefficients.flip(-2).roll(1, -2)


def mirrored_coefficients(size: tuple[int, int]) -> Tensor:
    """Which coefficients of rfft2 have their mirror image among them, and are not their own: bool [height,
    width // 2 + 1]."""
    height, width = size
    mirrored = torch.zeros(height, width // 2 + 1, dtype=torch.bool)
    mirrored[:, 0] = True
    if width % 2 == 0:
        mirrored[:, -1] = True
    mirrored[0] = False
    if height % 2 == 0:
        mirrored[height // 2] = False
    return mirrored
