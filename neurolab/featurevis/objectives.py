"""Objectives: what a picture shall excite, as one number per picture, to be made large.

An objective reads activation maps and gives one value for each item of the batch; no value depends on another
item. Objectives are added, subtracted and multiplied, with each other, with numbers and with "SITE/89"::

    Unit("layer4.2", 89) - 0.5 * Unit("layer4.2", 1777)
    Direction("block11", vector, power=2) + "block11.mlp/12"

Objectives are never changed: every operation gives a new one.
"""

from __future__ import annotations

import copy
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Union

import torch
from torch import Tensor

from neurolab.errors import UnknownSiteError
from neurolab.featurevis.places import Place, Where
from neurolab.models.sites import Site, find_site, parse_unit
from neurolab.models.zoo import Model

Operand = Union["Objective", str, float]


class Objective(ABC):
    """Something to maximise. Called with activation maps by full site name it gives [batch] values.

    name: what the picture is called. formula: the name with what it leaves out, as where in the map a unit is
    read. sites: the sites that it reads. groups: what makes pictures belong together, see
    `neurolab.featurevis.together`; nothing, for most objectives. facet: the name of the facet that steers it.
    """

    name: str
    formula: str
    sites: tuple[str, ...]
    groups: frozenset[Hashable] = frozenset()
    facet: str | None = None
    is_steady: bool = False

    @abstractmethod
    def __call__(self, acts: Mapping[str, Tensor]) -> Tensor:
        """One value for each item of the batch, float32 [batch]."""

    @abstractmethod
    def bind(self, model: Model) -> Objective:
        """The same with full site names, for use; UnknownSiteError where the model has not what is read."""

    @abstractmethod
    def signature(self) -> Hashable:
        """Objectives of equal signatures differ in their numbers only, and are computed together."""

    @abstractmethod
    def stack(self, members: Sequence[Any]) -> Objective:
        """An objective whose item i is that of members[i], which all have this one's signature."""

    def __add__(self, other: Operand) -> Objective:
        return Combination("+", self, as_objective(other))

    def __radd__(self, other: Operand) -> Objective:
        return self if other == 0 else Combination("+", as_objective(other), self)  # 0: where sum() starts

    def __sub__(self, other: Operand) -> Objective:
        return Combination("-", self, as_objective(other))

    def __rsub__(self, other: Operand) -> Objective:
        return Combination("-", as_objective(other), self)

    def __mul__(self, other: Operand) -> Objective:
        return Combination("*", self, as_objective(other))

    def __rmul__(self, other: Operand) -> Objective:
        return Combination("*", as_objective(other), self)

    def __neg__(self) -> Objective:
        return -1 * self

    def __repr__(self) -> str:
        return f"<objective {self.formula}>"


class Reading(Objective):
    """An objective that reads one site: a number at every place of the map, and a `Place` to reduce them."""

    is_steady = True

    def __init__(self, site: str, place: Place, name: str, numbers: Tensor) -> None:
        self.site, self.sites, self.place, self.name = site, (site,), place, name
        self.numbers = numbers  # [1 or batch, ...]: what differs between the items of a batch
        self.formula = f"{self.place.where}({self.describe()})"

    @abstractmethod
    def at_places(self, activation: Tensor) -> Tensor:
        """The number at every place of an activation map: its dimensions, without the units; always by the
        same operations."""

    @abstractmethod
    def check(self, site: Site) -> str:
        """The name on this site; UnknownSiteError where the numbers do not fit its units."""

    def __call__(self, acts: Mapping[str, Tensor]) -> Tensor:
        return self.place.of(self.at_places(acts[self.site]).float())

    def bind(self, model: Model) -> Objective:
        site = find_site(model, self.site)
        place = self.place.bind(site)
        return self._with(site.name, place, self.check(site), self.numbers.to(model.device))

    def signature(self) -> Hashable:
        return type(self), self.site, self.place

    def stack(self, members: Sequence[Reading]) -> Objective:
        name = ", ".join(dict.fromkeys(member.name for member in members))
        return self._with(self.site, self.place, name, torch.cat([member.numbers for member in members]))

    def _with(self, site: str, place: Place, name: str, numbers: Tensor) -> Objective:
        changed = copy.copy(self)
        Reading.__init__(changed, site, place, name, numbers)
        return changed

    def describe(self) -> str:
        return self.name


class Unit(Reading):
    """A unit's activation.

    where: "mean" over the map or the patches (lucid's channel objective), "max", "center", "cls", or a place;
    see `neurolab.featurevis.places.Place`.
    """

    def __init__(self, site: str, index: int, where: Where = "mean") -> None:
        super().__init__(site, Place(where), f"{site}/{index}", torch.tensor([index]))

    def at_places(self, activation: Tensor) -> Tensor:
        items = torch.arange(len(activation), device=activation.device)
        # Of each item its own unit, all at once; the units of tokens are the last dimension.
        tokens = activation.ndim == 3
        return activation[items, ..., self.numbers] if tokens else activation[items, self.numbers]

    def check(self, site: Site) -> str:
        for index in self.numbers.tolist():
            if not 0 <= index < site.units:
                last = site.units - 1
                raise UnknownSiteError(f"{site.name} has no unit {index}: its units are 0 to {last}")
        return f"{site.name}/{self.numbers[0]}"


def neuron(site: str, index: int, position: int | tuple[int, int] | None = None) -> Unit:
    """A unit at one place: (row, column) of the map or of the patches, or a token; default: the centre."""
    return Unit(site, index, "center" if position is None else position)


class Direction(Reading):
    """The activations along a vector over the site's units: dot * max(0.1, cos)^power, reduced over places.

    The cosine (lucid's direction_cossim) asks for the direction itself, and not for anything large that has a
    component along it. It is that of each place and item alone. vector: [units].
    """

    def __init__(
        self,
        site: str,
        vector: Tensor | Sequence[float],
        *,
        power: float = 0.0,
        where: Where = "mean",
        name: str = "direction",
    ) -> None:
        numbers = torch.as_tensor(vector, dtype=torch.float32).detach().clone()
        if numbers.ndim != 1 or not torch.isfinite(numbers).all() or not numbers.any():
            shape = tuple(numbers.shape)
            raise ValueError(f"a direction is a finite vector [units] other than zero, not one of {shape}")
        self.label, self.power = name, power
        super().__init__(site, Place(where), f"{site}/{name}", numbers[None])

    def at_places(self, activation: Tensor) -> Tensor:
        values = units_last(activation)
        vectors = self.numbers.reshape(-1, *[1] * (values.ndim - 2), self.numbers.shape[-1])
        return along(values, vectors, self.power)

    def describe(self) -> str:
        return f"{self.name} * cos^{self.power:g}"

    def check(self, site: Site) -> str:
        if (given := self.numbers.shape[-1]) != site.units:
            raise UnknownSiteError(
                f"a direction of {given} numbers does not fit {site.name}, which has {site.units} units"
            )
        return f"{site.name}/{self.label}"

    def signature(self) -> Hashable:
        return *super().signature(), self.power  # type: ignore[misc]


def units_last(activation: Tensor) -> Tensor:
    """Activations as float32 [batch, ..., units]."""
    return activation.float() if activation.ndim != 4 else activation.float().permute(0, 2, 3, 1)


def along(values: Tensor, vectors: Tensor, power: float) -> Tensor:
    """dot * max(0.1, cos)^power of values and vectors [..., units], lucid's: [...]."""
    dots = (values * vectors).sum(-1)
    if not power:
        return dots
    lengths = (values.norm(dim=-1) + 1e-4) * (vectors.norm(dim=-1) + 1e-4)  # 1e-4: as lucid has it
    return dots * (dots / lengths).clamp_min(0.1) ** power


class Constant(Objective):
    """A number."""

    sites = ()
    is_steady = True

    def __init__(self, *values: float, device: torch.device | None = None) -> None:
        self.values = torch.tensor(values, device=device)
        self.name = self.formula = f"{values[0]:g}"

    def __call__(self, acts: Mapping[str, Tensor]) -> Tensor:
        return self.values

    def bind(self, model: Model) -> Constant:
        return Constant(*self.values.tolist(), device=model.device)

    def signature(self) -> Hashable:
        return Constant

    def stack(self, members: Sequence[Constant]) -> Constant:
        return Constant(*(float(member.values) for member in members), device=self.values.device)


OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}


class Combination(Objective):
    """Two objectives, added, subtracted or multiplied, item by item."""

    def __init__(self, symbol: str, left: Objective, right: Objective) -> None:
        self.symbol, self.left, self.right = symbol, left, right
        self.sites = tuple(dict.fromkeys(left.sites + right.sites))
        self.groups = left.groups | right.groups
        self.facet = left.facet or right.facet
        self.is_steady = left.is_steady and right.is_steady
        self.name = f"{self._part(left, left.name)} {symbol} {self._part(right, right.name)}"
        self.formula = f"{self._part(left, left.formula)} {symbol} {self._part(right, right.formula)}"

    def _part(self, term: Objective, text: str) -> str:
        return f"({text})" if isinstance(term, Combination) and self.symbol != "+" else text

    def __call__(self, acts: Mapping[str, Tensor]) -> Tensor:
        return OPERATORS[self.symbol](self.left(acts), self.right(acts))

    def bind(self, model: Model) -> Objective:
        return Combination(self.symbol, self.left.bind(model), self.right.bind(model))

    def signature(self) -> Hashable:
        return self.symbol, self.left.signature(), self.right.signature()

    def stack(self, members: Sequence[Combination]) -> Objective:
        left = self.left.stack([member.left for member in members])
        return Combination(self.symbol, left, self.right.stack([member.right for member in members]))


def as_objective(value: Operand) -> Objective:
    """An objective as it is, "SITE/89" as that unit, a number as a constant."""
    if isinstance(value, Objective):
        return value
    return Unit(*parse_unit(value)) if isinstance(value, str) else Constant(float(value))
