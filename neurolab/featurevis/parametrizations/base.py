"""What every parametrization has in common.

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

from neurolab.featurevis.seeds import generator


class Parametrization(nn.Module, ABC):
    """A batch of pictures, one per seed. seeds: one integer per picture; size: (height, width) in pixels."""

    kind: str  # what a picture made this way is called in an atlas
    depends_on_batch = False  # whether pictures of a batch have parameters in common

    def __init__(self, seeds: Sequence[int], size: tuple[int, int]) -> None:
        super().__init__()
        if not seeds or min(size) < 1:
            raise ValueError(f"pictures need at least one seed and one pixel, not {len(seeds)} seeds, {size}")
        self.seeds, self.size = tuple(int(seed) for seed in seeds), (int(size[0]), int(size[1]))

    @abstractmethod
    def forward(self) -> Tensor:
        """The pictures, RGB in (0, 1), [batch, 3, height, width]; by the same operations at every step."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What a picture depends on besides its seed and size; kept with the picture."""

    def settle(self) -> None:
        """Called after every step: where the parameters have to keep within bounds."""

    def normal(self, *shape: int, purpose: str = "start") -> Tensor:
        """Standard normal numbers [batch, *shape], each item's from its own generator."""
        return torch.stack([torch.randn(shape, generator=generator(seed, purpose)) for seed in self.seeds])

    def uniform(self, *shape: int) -> Tensor:
        """Numbers uniform in [0, 1), [batch, *shape], each item's from its own generator."""
        return torch.stack([torch.rand(shape, generator=generator(seed, "start")) for seed in self.seeds])


Maker = Callable[[Sequence[int], tuple[int, int]], Parametrization]


def frequencies(size: tuple[int, int]) -> Tensor:
    """The frequency of every coefficient of rfft2, in cycles per pixel, [height, width // 2 + 1] float64."""
    height, width = size
    rows = torch.fft.fftfreq(height, dtype=torch.float64)
    columns = torch.fft.rfftfreq(width, dtype=torch.float64)
    return torch.hypot(rows[:, None], columns[None, :])
