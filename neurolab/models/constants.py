"""Numbers that a device needs again and again, sent there once: sending them makes a GPU wait each time."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

Numbers = tuple[float, ...] | tuple[tuple[float, ...], ...]


@functools.lru_cache(maxsize=256)
def constant(numbers: Numbers, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of these numbers; not to be changed, for all who ask for the same get the same one."""
    with torch.inference_mode(False):  # else no gradient could go through what is computed with it
        return torch.tensor(numbers, dtype=dtype, device=device)
