"""Where in an activation map a value is read: at one place, or over all of them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from neurolab.errors import UnknownSiteError
from neurolab.models.sites import Site

REDUCTIONS = ("mean", "max", "center", "cls")
Where = str | int | tuple[int, int]


@dataclass(frozen=True)
class Place:
    """A reduction, or one place, of the maps of a site.

    where: "mean" or "max" over the places; "center", the place (height // 2, width // 2); "cls", the first
    token; (row, column) of the map or of the patches; a number, that token (0 is CLS where there is one).
    Places of a transformer's site are its patches: CLS and register tokens are left out of "mean" and "max".
    prefix and grid, the tokens before the patches and the patches' (rows, columns), come from `bind`.
    """

    where: Where = "mean"
    prefix: int = 0
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.where, str) and self.where not in REDUCTIONS:
            known = ", ".join(REDUCTIONS)
            raise ValueError(f"{self.where!r} is no place: choose one of {known}, (row, column) or a token")

    def bind(self, site: Site) -> Place:
        """The place in the maps of this site; UnknownSiteError where they have no such place."""
        if site.layout == "vector":
            return self if self.where == "mean" else self._missing(site)
        if site.layout == "map":
            place = Place(self.where, 0, site.grid)
            fits = not isinstance(self.where, int) and self.where != "cls"
        else:
            tokens = site.shape[0]
            place = Place(self.where, site.prefix_tokens, site.grid)
            fits = place.prefix > 0 if self.where == "cls" else place._has_tokens(tokens)
        if isinstance(self.where, tuple) or self.where == "center":
            fits = place.grid is not None and place._in_grid(place.grid)
        return place if fits else self._missing(site)

    def _has_tokens(self, tokens: int) -> bool:
        return 0 <= self.where < tokens if isinstance(self.where, int) else tokens > self.prefix

    def _in_grid(self, grid: tuple[int, int]) -> bool:
        row, column = self._row_column(grid)
        return 0 <= row < grid[0] and 0 <= column < grid[1]

    def _row_column(self, grid: tuple[int, int]) -> tuple[int, int]:
        return self.where if isinstance(self.where, tuple) else (grid[0] // 2, grid[1] // 2)

    def _missing(self, site: Site) -> Place:
        shape = " x ".join(map(str, site.shape)) or "a single vector"
        raise UnknownSiteError(f"{site.name} has no place {self.where!r}: its {site.layout} is {shape}")

    def of(self, values: Tensor) -> Tensor:
        """[batch] values of [batch, height, width] or [batch, tokens] ones; those of [batch] stay."""
        if values.ndim == 1:
            return values
        if values.ndim == 2 and (self.where == "cls" or isinstance(self.where, int)):
            return values[:, 0 if isinstance(self.where, str) else self.where]
        patches = values[:, self.prefix :] if values.ndim == 2 else values
        if self.where in ("mean", "max"):
            flat = patches.flatten(1)
            return flat.mean(1) if self.where == "mean" else flat.amax(1)
        grid = self.grid or (values.shape[-2], values.shape[-1])
        row, column = self._row_column(grid)
        return patches[:, row * grid[1] + column] if values.ndim == 2 else patches[:, row, column]

    def key(self) -> Hashable:
        return self.where, self.prefix, self.grid
