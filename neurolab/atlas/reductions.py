"""How an activation map becomes numbers of its units, and where in the map they are from.

Most reductions give one number per image and unit. `token` gives one per patch token: each is an observation
of its own, so that what mining counts and finds are tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from neurolab.errors import AtlasError

REDUCTIONS = ("max", "mean", "cls", "center", "token")


class Reduced(NamedTuple):
    """`values` [n, units] float32, and their `positions` [n, units] int32: where in the map they are from.

    n is the number of images, with `token` that of their tokens: row image * tokens + token. A position is
    the flat index (row by row) in the (height, width) grid of a map, or among the patch tokens; -1 where a
    value is from no single place. Of equal maxima it is the first.
    """

    values: NDArray[np.float32]
    positions: NDArray[np.int32]


class OnDevice(NamedTuple):
    """What `Reduced` holds, on the device that computes it: reading it would wait for the device."""

    values: Tensor
    positions: Tensor

    def to_host(self) -> Reduced:
        """The same in NumPy, once it is there."""
        values = self.values.to("cpu", torch.float32).contiguous().numpy()
        # Positions that all units share are one column in memory: it is not copied for each of them.
        shared = self.positions.stride(-1) == 0
        places = self.positions[:, :1] if shared else self.positions
        positions = places.to("cpu", torch.int32).contiguous().numpy()
        return Reduced(values, np.broadcast_to(positions, values.shape))


def check_reduction(reduction: str, site: str, layout: str, prefix_tokens: int, shape: Sequence[int]) -> None:
    """AtlasError where the reduction is unknown or a site has not what it needs."""
    if reduction not in REDUCTIONS:
        raise AtlasError(f"reduction {reduction!r} is unknown; choose one of {', '.join(REDUCTIONS)}")
    if reduction == "cls" and layout != "vector" and not (layout == "tokens" and prefix_tokens):
        raise AtlasError(f"{site} has no class token; choose another reduction than 'cls', e.g. 'max'")
    if reduction != "cls" and layout == "tokens" and shape and shape[0] <= prefix_tokens:
        raise AtlasError(f"{site} has no patch tokens; choose the reduction 'cls'")
    if reduction == "token" and layout != "tokens":
        raise AtlasError(
            f"{site} has no tokens but a {layout}; choose the reduction 'max', or sites of a transformer"
        )


def reduction_of_image(reduction: str) -> str:
    """The reduction that gives one number per image, to hold against what was mined with `reduction`.

    The same, but for `token`: an image is as exciting as its largest token.
    """
    return "max" if reduction == "token" else reduction


class Placed(Protocol):
    """A site, as far as its maps' order of dimensions goes: a `Site` of a network, a site of an atlas."""

    @property
    def layout(self) -> str: ...
    @property
    def prefix_tokens(self) -> int: ...
    @property
    def grid(self) -> tuple[int, int] | None: ...


def reduce_map(activation: Tensor, site: Placed, reduction: str) -> OnDevice:
    """Reduce a site's activation map to one number per image (or token) and unit, on its device.

    activation: [n, units, height, width] for the layout `map`, [n, tokens, units] for `tokens`, [n, units]
    for `vector` (whose values stay as they are). `max` and `mean` go over places, `center` takes the place
    (height // 2, width // 2), `cls` the first token, `token` gives all tokens, [n * tokens, units]. The
    site's `prefix_tokens` are no places; its `grid` is the (height, width) of the patches, for `center`:
    without it the middle of a row of tokens is taken. A place that is NaN makes `max` and `mean` NaN. What
    comes back shares no memory with the map, which a network may overwrite. AtlasError where the reduction
    does not fit the layout.
    """
    layout, prefix_tokens, grid = site.layout, site.prefix_tokens, site.grid
    check_reduction(reduction, "the map", layout, prefix_tokens, ())
    activation = activation.detach()
    if layout == "vector":
        return _from(activation.clone(), -1)
    if reduction == "cls":
        return _from(activation[:, 0].clone(), -1)
    tokens = activation if layout == "tokens" else activation.permute(0, 2, 3, 1).flatten(1, 2)
    places = tokens[:, prefix_tokens:]  # [n, places, units]
    if reduction == "token":
        return _every(places)
    if reduction == "mean":
        return _from(places.mean(dim=1, dtype=torch.float32), -1)
    if reduction == "center":
        height, width = activation.shape[2:] if layout == "map" else grid or (1, places.shape[1])
        middle = height // 2 * width + width // 2
        return _from(places[:, middle].clone(), middle)
    if activation.device.type != "cpu":
        return OnDevice(*places.max(dim=1))
    return _largest(tokens, prefix_tokens)


def _from(values: Tensor, place: int) -> OnDevice:
    """Values that are all from one place."""
    return OnDevice(values, torch.full(values.shape, place, dtype=torch.int32, device=values.device))


def _every(places: Tensor) -> OnDevice:
    """The values of all places [n, places, units], a row for each."""
    images, count, units = places.shape
    numbers = torch.arange(count, dtype=torch.int32, device=places.device).repeat(images)
    values = places.clone(memory_format=torch.contiguous_format).flatten(0, 1)
    return OnDevice(values, numbers[:, None].expand(-1, units))


def _largest(tokens: Tensor, prefix: int) -> OnDevice:
    """The maxima over the places behind the prefix, and where they are.

    On a CPU torch's max is five times as slow as its pooling to one place, which wants all tokens at once in
    memory: where the largest is one of the prefix, it is looked for again without them.
    """
    image = tokens.contiguous().transpose(1, 2).unsqueeze(2)  # [n, units, 1, tokens], channels last in memory
    values, places = (found.flatten(1) for found in F.adaptive_max_pool2d(image, 1, return_indices=True))
    rows, units = (places < prefix).nonzero(as_tuple=True)
    if len(rows):
        values[rows, units], places[rows, units] = tokens[rows, prefix:, units].max(dim=1)
        places[rows, units] += prefix
    return OnDevice(values, places - prefix)
