"""Arrays on their way to a device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(there: Tensor, array: NDArray[np.generic]) -> None:
    """Copy an array to where a tensor is; a GPU does it in its turn, and is not waited for."""
    there.copy_(_pinned(array, there.device), non_blocking=True)


def sent(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """An array on a device; a GPU is not waited for."""
    return _pinned(array, device).to(device, non_blocking=True)


def _pinned(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """An array as a tensor, from which a GPU can copy by itself."""
    here = torch.from_numpy(np.ascontiguousarray(array))
    return here.pin_memory() if device.type == "cuda" else here
