"""Pictures that start as an image and stay near it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from neurolab.featurevis.colour import from_rgb, to_rgb
from neurolab.featurevis.parametrizations.base import Parametrization
from neurolab.featurevis.parametrizations.fourier import spectrum_scale
from neurolab.featurevis.picture import seen_at


class SeededImage(Parametrization):
    """Pictures that start as an image, by their Fourier coefficients (feature accentuation, Hamblin et al.
    2024).

    The image, reduced and cropped to the size, is what zero parameters give; ascent adds to its coefficients,
    weighted as `FourierImage` has them: what excites a unit in this image is drawn out. The published method
    weights the gradient instead of the coefficients. All pictures of the batch start as the same image; on a
    seed nothing depends but the transforms. Colours are held to 0.02 to 0.98.

    Use `regularizers.Distance` to keep the picture near the image.
    """

    kind = "seeded"

    def __init__(
        self, seeds: Sequence[int], size: tuple[int, int], *, image: Image.Image, decay: float = 1.0
    ) -> None:
        super().__init__(seeds, size)
        self.decay = decay
        shown = seen_at(image, self.size)
        self.digest = hashlib.sha256(shown.tobytes()).hexdigest()
        height, width = self.size
        self.change = nn.Parameter(torch.zeros(len(self.seeds), 3, height, width // 2 + 1, 2))
        self.register_buffer("scale", spectrum_scale(self.size, decay).float()[..., None], persistent=False)
        self.register_buffer("image", torch.from_numpy(from_rgb(shown[None] / 255)).float(), persistent=False)
        self.scale: Tensor
        self.image: Tensor

    def forward(self) -> Tensor:
        change = torch.fft.irfft2(torch.view_as_complex(self.change * self.scale), s=self.size) / 4
        return to_rgb(self.image + change)

    def settings(self) -> dict[str, Any]:
        return {"decay": self.decay, "image": self.digest}
