"""What part of the image each cell of a site's map depends on: its theoretical receptive field, by trial.

A stripe of the image is made NaN, and the cells that turn NaN depend on it: NaN times any weight, plus
anything, is NaN, and activation functions and pooling hand it on. So nothing is read out of the network's
modules, nothing cancels, whatever the weights, and no operation is taken for another: strides, dilation,
padding, sums of branches and what is dropped at the edges come out as the network really does them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neurolab.errors import UnknownModelError
from neurolab.models.capture import capture
from neurolab.models.layouts import MAP
from neurolab.models.sites import Site, find_site
from neurolab.models.zoo import Model

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in fractions of the model's view

Mask = NDArray[np.bool_]
Whole = NDArray[np.int64]

_IMAGES_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class ReceptiveField:
    """The smallest rectangle of the model's input around all that a map's cell depends on, for each cell.

    site: full name. pixels: [rows, columns, 4] int32, (x0, y0, x1, y1) of each cell, the last two exclusive;
    all 0 for a cell that reads padding alone. No formula of size, stride and offset says as much: at the
    edges layers drop pixels that do not fill a stride. Of a site that joins branches of different depth it is
    the largest among the units. is_patch: of tokens, which attention has made depend on the whole image; the
    rectangle is the patch that the token stands for. Where there are no places, the one cell is the whole.
    """

    site: str
    image_size: tuple[int, int]
    pixels: NDArray[np.int32]
    is_patch: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the map."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the largest field, in pixels: the theoretical size, cut to the input."""
        x0, y0, x1, y1 = np.moveaxis(self.pixels, -1, 0)
        return int((y1 - y0).max()), int((x1 - x0).max())

    @property
    def is_global(self) -> bool:
        """Whether every cell depends on the same pixels, so that its field says nothing of a place.

        So it is behind global pooling, squeeze-and-excitation, attention and linear layers over places, and
        where so many convolutions have been passed that the field is larger than the input from every cell.
        """
        return bool((self.pixels == self.pixels[0, 0]).all())

    def box(self, row: int, column: int) -> tuple[int, int, int, int] | None:
        """A cell's field as (x0, y0, x1, y1) in pixels of the input; None where it reads padding alone."""
        x0, y0, x1, y1 = self.pixels[row, column].tolist()
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def box_in_view(self, row: int, column: int) -> Box | None:
        """A cell's field in fractions of the model's view, as `Exemplar.box` gives the cell itself."""
        found, (height, width) = self.box(row, column), self.image_size
        if found is None:
            return None
        return found[0] / width, found[1] / height, found[2] / width, found[3] / height


_FIELDS: WeakKeyDictionary[nn.Module, dict[tuple[str, tuple[int, int]], ReceptiveField]] = WeakKeyDictionary()


def receptive_field(model: Model, site: str) -> ReceptiveField:
    """The receptive fields of a site's cells, by full or short name.

    Exact for maps, as measured on the network's image side, which is run a few hundred times for a large map
    and a few dozen for a small one, once for each network and site. An operation that answers NaN with a
    number (a comparison, torch.where) would hide what lies behind it; those of common networks do not.
    Raises UnknownSiteError, and UnknownModelError for a network that gives NaN for an ordinary image.
    """
    found = find_site(model, site)
    known = _FIELDS.setdefault(model.module, {})
    key = found.name, model.image_size
    if key not in known:
        measured = found.layout == MAP
        pixels = _measure(model, found) if measured else _patches(model, found)
        pixels.flags.writeable = False
        is_patch = not measured and found.grid is not None
        known[key] = ReceptiveField(found.name, model.image_size, pixels, is_patch)
    return known[key]


def _patches(model: Model, site: Site) -> NDArray[np.int32]:
    """The share of the input that the grid gives each patch; one for all where there is no grid."""
    (height, width), (rows, columns) = model.image_size, site.grid or (1, 1)
    pixels = np.empty((rows, columns, 4), np.int32)
    row, column = np.arange(rows)[:, None], np.arange(columns)
    pixels[..., 0], pixels[..., 1] = column * width // columns, row * height // rows
    pixels[..., 2], pixels[..., 3] = -(-(column + 1) * width // columns), -(-(row + 1) * height // rows)
    return pixels


def _measure(model: Model, site: Site) -> NDArray[np.int32]:
    """The fields of a map's cells [rows, columns, 4]."""
    height, width = model.image_size
    by_row, by_column = np.ones((height, 1), bool), np.ones((1, width), bool)
    with _plain_convolutions():
        without, alive = _touched(model, site, np.stack([~(by_row & by_column), by_row & by_column]))
        if without.any():
            raise UnknownModelError(
                f"{model.name} gives NaN at {site.name} for an ordinary image, so it cannot be seen what its "
                "cells depend on: are its weights right?"
            )
        y0, y1 = _spans(lambda rows: _touched(model, site, rows[:, :, None] & by_column), height, alive)
        x0, x1 = _spans(lambda columns: _touched(model, site, columns[:, None] & by_row), width, alive)
    return np.where(alive[..., None], np.stack([x0, y0, x1, y1], axis=-1), 0).astype(np.int32)


def _touched(model: Model, site: Site, masks: Mask) -> Mask:
    """Which cells depend on the pixels of each mask: [masks, height, width] to [masks, rows, columns]."""
    ordinary = torch.rand(3, *model.image_size, generator=torch.Generator().manual_seed(0))
    found = []
    for start in range(0, len(masks), _IMAGES_AT_ONCE):
        some = torch.from_numpy(masks[start : start + _IMAGES_AT_ONCE])
        images = torch.where(some[:, None], torch.nan, ordinary)
        with torch.inference_mode(), capture(model, [site.name]) as acts:
            model.encode_image(images)
        found.append(acts[site.name].isnan().any(dim=1).cpu().numpy())
    return np.concatenate(found)


@contextmanager
def _plain_convolutions() -> Iterator[None]:
    """Convolutions as plain sums: Winograd's and Fourier's algorithms spread NaN over whole tiles."""
    mkldnn, nnpack = torch.backends.mkldnn, torch.backends.nnpack
    before = mkldnn.set_flags(_enabled=False)
    try:
        with nnpack.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        mkldnn.set_flags(*before)


def _spans(touched: Callable[[Mask], Mask], length: int, alive: Mask) -> tuple[Whole, Whole]:
    """The first pixel along an axis that each cell depends on, and one past the last; alive: that do at all.

    touched: which pixels of the axis are NaN [tests, length] to which cells then are [tests, rows, columns].
    By bisection, of all cells at the same time.
    """
    known = _Brackets(length, alive)
    while len(tests := known.tests()):
        masks = _pack(tests, length)
        for mask, cells in zip(masks, touched(masks), strict=True):
            known.learn(mask, cells)
    return known.first, known.end


class _Brackets:
    """What is known of each cell's span: `first` <= its first pixel <= `latest`, `soonest` <= end <= `end`.

    A span may have holes (dilation, strides), so that only NaN on all of it up to some pixel, or from some
    pixel on, tells where it begins or ends.
    """

    def __init__(self, length: int, alive: Mask) -> None:
        self.length, self.alive = length, alive
        self.first, self.latest = np.zeros(alive.shape, np.int64), np.full(alive.shape, length - 1)
        self.soonest, self.end = np.ones(alive.shape, np.int64), np.full(alive.shape, length)

    def tests(self) -> Whole:
        """Of each cell not known yet, its span at most and the part of it to be NaN: [tests, 4], sorted."""
        new = self.length - 1  # how far apart the bounds are at first
        # The outermost pixel first: behind many layers most cells see the edge, and are known by that.
        begins = np.where(self.latest - self.first == new, 1, (self.first + self.latest) // 2 + 1)
        ends = np.where(self.end - self.soonest == new, new, (self.soonest + self.end) // 2)
        at_begin = np.stack([self.first, self.end, self.first, begins], axis=-1)
        at_end = np.stack([self.first, self.end, ends, self.end], axis=-1)
        unsure = [self.alive & (self.first < self.latest), self.alive & (self.soonest < self.end)]
        return np.unique(np.concatenate([at_begin[unsure[0]], at_end[unsure[1]]]), axis=0)

    def learn(self, mask: Mask, cells: Mask) -> None:
        """Take in which cells are NaN when the pixels of `mask` [length] are."""
        before = np.concatenate([[0], np.cumsum(mask)])  # NaN pixels before each pixel
        count = before[self.end] - before[self.first]
        up_to, since = self.first + count, self.end - count
        begin = (count > 0) & (before[up_to] - before[self.first] == count)
        end = (count > 0) & (before[self.end] - before[since] == count)
        self.latest = np.where(begin & cells, np.minimum(self.latest, up_to - 1), self.latest)
        self.soonest = np.where(end & cells, np.maximum(self.soonest, since + 1), self.soonest)
        self.first = np.where(begin & ~cells, up_to, self.first)
        self.end = np.where(end & ~cells, since, self.end)


def _pack(tests: Whole, length: int) -> Mask:
    """Tests of spans that do not overlap in one mask: [tests, 4] to [masks, length]."""
    masks: list[Mask] = []
    taken: list[int] = []
    for first, end, start, stop in tests.tolist():
        place = next((i for i, until in enumerate(taken) if until <= first), len(masks))
        if place == len(masks):
            masks.append(np.zeros(length, bool))
            taken.append(0)
        masks[place][start:stop], taken[place] = True, end
    return np.stack(masks)
