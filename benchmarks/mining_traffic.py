"""How much of a device's memory finding and counting read or write, counted without a device.

On a GPU what is done with each value of a batch takes as long as its memory takes: so the bytes of all
tensors that torch's operations read and write are the measure, and they are the same on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mining_state import in_the_corner, started, warm_up
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neurolab.atlas.reductions import OnDevice
from neurolab.mining.sieve import sieves
from neurolab.mining.summaries import draw_hashes
from neurolab.models.sites import Site

UNITS, ROWS, WARM, BATCHES = 3072, 256, 2048, 3


class Traffic(TorchDispatchMode):
    """Inside, counts the bytes that operations read and write; views read nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        out = func(*args, **given)
        tensors = [leaf for leaf in tree_leaves((args, given, out)) if isinstance(leaf, Tensor)]
        if not func.is_view and "empty" not in str(func):  # type: ignore[attr-defined]
            self.bytes += sum(_bytes(tensor) for tensor in tensors)
        return out


def _bytes(tensor: Tensor) -> int:
    """Of what a tensor holds; dimensions that are repeated without being stored count once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return tensor.element_size() * int(np.prod(list(sizes), dtype=np.int64))


def bytes_per_value() -> float:
    """For each activation of a batch in the middle of a pass; normal ones, as those of many layers are."""
    site = Site("units", "units", "linear", UNITS, (), "vector")
    state, rng = started([site], WARM), np.random.default_rng(1)
    spread = in_the_corner(rng.standard_normal((64, UNITS), dtype=np.float32))
    warm_up(state, {"units": spread}, WARM)
    (sieve,) = sieves(state.sites, torch.device("cpu"), {})
    counted = 0
    for batch in range(BATCHES):
        values = torch.from_numpy(rng.standard_normal((ROWS, UNITS), dtype=np.float32))
        found = {"units": OnDevice(values, torch.zeros(ROWS, UNITS, dtype=torch.int64))}
        images = np.arange(WARM + batch * ROWS, WARM + (batch + 1) * ROWS)
        with Traffic() as traffic:
            sieve.take(sieve.sift(found, draw_hashes([f"{image}" for image in images])), images, None)
        counted = traffic.bytes  # of the last: in the first, levels still become wider
    return counted / (ROWS * UNITS)
