"""Objectives of several pictures at once, which then belong together: drawn apart, or drawn alike.

Pictures belong together whose objectives hold the same one of these::

    apart = Diversity("layer3.1")
    neurolab.render(model, 4 * [Unit("layer4.1", 89) + 0.1 * apart], seed=range(4))

They are drawn in one batch. Every other objective leaves the pictures of a batch alone.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neurolab.featurevis.activations import rows_of
from neurolab.featurevis.objectives import Objective, Operand, as_objective, units_last
from neurolab.models.sites import find_site
from neurolab.models.zoo import Model


class Together(Objective):
    """An objective that compares each picture with the others of its group, at one site.

    of: None, or an objective f: what is compared is then the activation times the gradient of f, the part of
    it that f asks for. The article's diverse facets are drawn so (Goh et al. 2021, appendix).
    """

    verb: str

    def __init__(self, site: str, of: Operand | None = None) -> None:
        self.site, self.of = site, None if of is None else as_objective(of)
        self.group: Hashable = object()
        self.owners: Tensor | None = None  # the picture that each row of the batch belongs to
        self._describe()

    def _describe(self) -> None:
        self.is_steady = self.of is None or self.of.is_steady
        self.sites = tuple(dict.fromkeys((self.site, *(self.of.sites if self.of else ()))))
        self.groups = frozenset({self.group})
        self.name = self.formula = f"{self.verb} at {self.site}{f' of {self.of.formula}' if self.of else ''}"

    @abstractmethod
    def compare(self, features: Tensor, owners: Tensor) -> Tensor:
        """[rows] values of features [rows, ..., units] of pictures `owners` [rows]."""

    def __call__(self, acts: Mapping[str, Tensor]) -> Tensor:
        rows = rows_of(acts)
        features = units_last(rows[self.site])
        if self.of is not None:
            (gradient,) = rows.gradients(self.of(rows), [self.site])
            features = features * units_last(gradient)
        if self.owners is None:
            return self.compare(features, torch.arange(len(features), device=features.device))
        self.owners = self.owners.to(features.device)  # sent there once
        return self.compare(features, self.owners)

    def bind(self, model: Model) -> Objective:
        changed = copy.copy(self)  # of the same group, and another object for each picture
        changed.site = find_site(model, self.site).name
        changed.of = self.of and self.of.bind(model)
        changed._describe()
        return changed

    def signature(self) -> Hashable:
        return type(self), self.group, self.site, self.of and self.of.signature()

    def stack(self, members: Sequence[Any]) -> Objective:
        changed = copy.copy(self)
        numbers: dict[int, int] = {}
        changed.owners = torch.tensor([numbers.setdefault(id(member), len(numbers)) for member in members])
        changed.of = self.of and self.of.stack([member.of for member in members])
        return changed


class Diversity(Together):
    """Minus the mean cosine of the picture's style with those of the others; 0 to -1 (lucid's diversity).

    The style is the Gram matrix of the activations over the places: which units are active together,
    wherever. What excites a unit for several reasons is drawn several ways so. Each picture is held away from
    the others as they are: the gradient of its value is its own.
    """

    verb = "diversity"

    def compare(self, features: Tensor, owners: Tensor) -> Tensor:
        places = features.reshape(len(features), -1, features.shape[-1])
        grams = F.normalize((places.transpose(1, 2) @ places).flatten(1), dim=1, eps=1e-12)
        others = (owners[:, None] != owners).float()
        alike = grams @ grams.detach().T
        return -(alike * others).sum(1) / others.sum(1).clamp_min(1)


class Alignment(Together):
    """Minus the mean squared difference of the activations from those of the neighbours in the list, at the
    same places (lucid's alignment): what several pictures have in common is drawn at the same place.

    Neighbours up to 4 apart count, each with 1 / decay^distance. Meant for pictures of equal seeds, which
    start alike and are seen under the same transforms.
    """

    verb = "alignment"

    def __init__(self, site: str, of: Operand | None = None, decay: float = 2.0) -> None:
        self.decay = float(decay)
        super().__init__(site, of)

    def compare(self, features: Tensor, owners: Tensor) -> Tensor:
        flat = features.flatten(1)
        apart = (owners[:, None] - owners).abs()
        views = (apart == 0).sum(1)
        weights = torch.where((apart > 0) & (apart <= 4), self.decay ** -apart.float(), 0.0) / views
        squares = flat.square().mean(1)
        products = flat @ flat.detach().T / flat.shape[1]
        distances = squares[:, None] + squares.detach()[None] - 2 * products
        return -(weights * distances).sum(1)

    def signature(self) -> Hashable:
        return *super().signature(), self.decay  # type: ignore[misc]


def interpolation(first: Operand, last: Operand, count: int) -> list[Objective]:
    """Objectives that lead from one to another in `count` equal steps: (1 - w) * first + w * last.

    Draw them with one seed, or with the "shared" method, and motifs stay in their places.
    """
    if count < 2:
        raise ValueError(f"an interpolation has at least 2 pictures, not {count}")
    a, b = as_objective(first), as_objective(last)
    weights = [i / (count - 1) for i in range(count)]
    return [(1 - w) * a + w * b for w in weights]
