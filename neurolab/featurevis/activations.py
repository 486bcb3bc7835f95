"""The activation maps that an objective reads: of some items of the batch, with the way to a gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from neurolab.errors import UnknownSiteError


class Rows(Mapping[str, Tensor]):
    """Activation maps of some items of a batch, as site -> [items, ...].

    whole: the maps of the whole batch. rows: the numbers of the items; None for all.
    """

    def __init__(self, whole: Mapping[str, Tensor], rows: Tensor | None = None) -> None:
        self.whole, self.rows = whole, rows

    def __getitem__(self, site: str) -> Tensor:
        return self._select(self.whole[site])

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole)

    def __len__(self) -> int:
        return len(self.whole)

    def gradients(self, values: Tensor, sites: Sequence[str]) -> list[Tensor]:
        """The gradients of values [items] with respect to the maps of earlier sites, as constants.

        Item i's is that of values[i] alone, as no item's value depends on another's map. Raises
        UnknownSiteError for a site that the values do not depend on: one that is no earlier.
        """
        maps = [self.whole[site] for site in sites]
        found = torch.autograd.grad(values.sum(), maps, retain_graph=True, allow_unused=True)
        result = []
        for site, gradient in zip(sites, found, strict=True):
            if gradient is None:
                raise UnknownSiteError(f"{site} does not come before what is drawn: choose an earlier site")
            result.append(self._select(gradient.detach()))
        return result

    def _select(self, value: Tensor) -> Tensor:
        return value if self.rows is None else value.index_select(0, self.rows)


def rows_of(acts: Mapping[str, Tensor]) -> Rows:
    """Maps as Rows: those of a whole batch, unless they are Rows already."""
    return acts if isinstance(acts, Rows) else Rows(acts)
