"""How an activation map becomes one number per image and unit, and where in the map that number is from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurolab.errors import AtlasError

REDUCTIONS = ("max", "mean", "cls", "center")
_GATHERED_AT_ONCE = 1 << 18  # numbers: small enough to stay in the processor's cache

Finder = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int32]]


@dataclass(frozen=True)
class Reduced:
    """`values` [n, units] float32, and `positions(rows, units)`: the places in the map of some of them.

    A position is the flat index (row by row) in the (height, width) grid of a map, or among the patch tokens;
    -1 where a value is from no single place. Of equal maxima it is the first. It is found when asked for:
    few values become exemplars, and to find every maximum's place costs several times the maximum.
    """

    values: NDArray[np.float32]
    positions: Finder

    def all_positions(self) -> NDArray[np.int32]:
        """The positions of all values, [n, units] int32."""
        rows, units = (index.ravel() for index in np.indices(self.values.shape))
        return self.positions(rows, units).reshape(self.values.shape)


def check_reduction(reduction: str, site: str, layout: str, prefix_tokens: int, shape: Sequence[int]) -> None:
    """AtlasError where the reduction is unknown or a site has not what it needs."""
    if reduction not in REDUCTIONS:
        raise AtlasError(f"reduction {reduction!r} is unknown; choose one of {', '.join(REDUCTIONS)}")
    if reduction == "cls" and layout != "vector" and not (layout == "tokens" and prefix_tokens):
        raise AtlasError(f"{site} has no class token; choose another reduction than 'cls', e.g. 'max'")
    if reduction != "cls" and layout == "tokens" and shape and shape[0] <= prefix_tokens:
        raise AtlasError(f"{site} has no patch tokens; choose the reduction 'cls'")


def reduce_map(
    activation: Tensor,
    reduction: str,
    *,
    layout: str,
    prefix_tokens: int = 0,
    grid: tuple[int, int] | None = None,
) -> Reduced:
    """Reduce an activation map to one number per image and unit.

    activation: [n, units, height, width] for the layout `map`, [n, tokens, units] for `tokens`, [n, units]
    for `vector` (whose values stay as they are). `max` and `mean` go over places, `center` takes the place
    (height // 2, width // 2), `cls` the first token. The first `prefix_tokens` tokens are no places. grid:
    (height, width) of the patches, for `center`; without it the middle of a row of tokens is taken. A place
    that is NaN makes `max` and `mean` NaN. Values are float32, whatever the map is. AtlasError where the
    reduction does not fit the layout.
    """
    check_reduction(reduction, "the map", layout, prefix_tokens, ())
    activation = activation.detach()
    if layout == "vector":
        return Reduced(_numpy(activation), _nowhere)
    if reduction == "cls":
        return Reduced(_numpy(activation[:, 0]), _nowhere)
    # [n, units, places] or [n, places, units]
    by_token = layout == "tokens"
    places = activation[:, prefix_tokens:] if by_token else activation.flatten(2)
    axis = 1 if by_token else 2
    if reduction == "mean":
        return Reduced(_numpy(places.mean(dim=axis, dtype=torch.float32)), _nowhere)
    if reduction == "center":
        height, width = activation.shape[2:] if not by_token else grid or (1, places.shape[1])
        middle = height // 2 * width + width // 2
        return Reduced(_numpy(places.select(axis, middle)), _always(middle))
    return Reduced(_numpy(places.amax(dim=axis)), _find_maximum(places, by_token))


def _numpy(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.to("cpu", torch.float32).contiguous().numpy())


def _nowhere(rows: NDArray[np.int64], units: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.full(len(rows), -1, np.int32)


def _always(place: int) -> Finder:
    return lambda rows, units: np.full(len(rows), place, np.int32)


def _find_maximum(places: Tensor, by_token: bool) -> Finder:
    """A function that looks up where the given rows and units have their (first) maximum."""

    def find(rows: NDArray[np.int64], units: NDArray[np.int64]) -> NDArray[np.int32]:
        found = np.empty(len(rows), np.int32)
        step = max(1, _GATHERED_AT_ONCE // places.shape[1 if by_token else 2])
        # NumPy's arg-max is several times as fast as torch's, but it has neither bfloat16 nor other devices.
        array = places.numpy() if places.device.type == "cpu" and places.dtype == torch.float32 else None
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            if array is not None:
                picked = array[rows[some], :, units[some]] if by_token else array[rows[some], units[some]]
                found[some] = picked.argmax(axis=1)
            else:
                row, unit = (torch.from_numpy(i[some]).to(places.device) for i in (rows, units))
                chosen = places[row, :, unit] if by_token else places[row, unit]
                found[some] = chosen.argmax(dim=1).cpu().numpy()
        return found

    return find
