"""Pictures as sums of pictures of many resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurolab.featurevis.colour import to_rgb
from neurolab.featurevis.parametrizations.base import Parametrization


def levels_of(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """The sizes of a pyramid: longer sides spread evenly in their logarithm from 1 to that of `size`; each
    size once, so that there may be fewer than `levels`."""
    longer = max(size)
    sides = [longer ** (i / max(levels - 1, 1)) for i in range(levels)] if levels > 1 else [float(longer)]
    shares = [side / longer for side in sides]
    sizes = [(max(1, round(size[0] * share)), max(1, round(size[1] * share))) for share in shares]
    return list(dict.fromkeys(sizes))


class PyramidImage(Parametrization):
    """Pictures as the sum of pictures of many resolutions, ascended together (direct ascent synthesis, Fort &
    Whitaker 2025): sigmoid(M sum_r up(P_r)), with bicubic enlargement.

    A change of a coarse level moves many pixels at once, so that coarse shapes come first, as with Fourier
    images; but a level is local, so that a picture may be fine in one place and smooth in another. levels:
    how many, evenly spread in the logarithm of their side (the paper takes all from 1 to the picture's own,
    or every fourth; the few here give the same pictures in a fraction of the time). All levels start normal
    with standard deviation `sd`; the paper's start at zero, where no seed makes a difference.

    Deviation: a sigmoid in decorrelated colours where the paper has (tanh + 1) / 2 in red, green and blue.
    """

    kind = "pyramid"

    def __init__(
        self, seeds: Sequence[int], size: tuple[int, int], *, levels: int = 12, sd: float = 0.01
    ) -> None:
        super().__init__(seeds, size)
        if levels < 1:
            raise ValueError(f"a pyramid has at least one level, not {levels}")
        self.count, self.sd = levels, sd
        sizes = levels_of(self.size, levels)
        numbers = sd * self.normal(3, sum(height * width for height, width in sizes))
        parts = numbers.split([height * width for height, width in sizes], dim=-1)
        self.levels = nn.ParameterList(
            part.unflatten(-1, shape).clone() for part, shape in zip(parts, sizes, strict=True)
        )

    def forward(self) -> Tensor:
        enlarged = [
            level
            if level.shape[-2:] == self.size
            else F.interpolate(level, size=self.size, mode="bicubic", align_corners=False)
            for level in self.levels
        ]
        return to_rgb(torch.stack(enlarged).sum(0))

    def settings(self) -> dict[str, Any]:
        return {"levels": self.count, "sd": self.sd}
