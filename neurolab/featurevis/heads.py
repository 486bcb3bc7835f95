"""Draw what makes a head of an attention layer speak."""

from __future__ import annotations

import copy
from collections.abc import Hashable

import torch
from torch import Tensor

from neurolab.errors import UnknownSiteError
from neurolab.featurevis.objectives import Objective, Reading
from neurolab.featurevis.places import Place, Where
from neurolab.models.sites import Site, find_site, locate_site
from neurolab.models.zoo import Model


class Head(Reading):
    """How much an attention head says: the length of its output, before the heads are mixed.

    At every token the output of a head is what it has gathered from the tokens that it attends to, a vector
    of head_dim numbers; a head that finds nothing to gather says little. site: a `heads` site, as
    "block3.heads" or "attnpool.heads". One of its numbers is `Unit("block3.heads", 40)`, a direction in it
    `Direction`.
    """

    def __init__(self, site: str, head: int, where: Where = "mean") -> None:
        self.heads = 0  # how many the layer has; known once bound
        super().__init__(site, Place(where), f"{site}/head {head}", torch.tensor([head]))

    def bind(self, model: Model) -> Objective:
        site = find_site(model, self.site)
        place = locate_site(model, site.name)
        layer = model.module.get_submodule(place.where.path)
        if site.kind != "heads":
            raise UnknownSiteError(f"{site.name} is no site of heads: those end in .heads (see list_sites)")
        bound = copy.copy(self)
        bound.heads = int(layer.num_heads)  # type: ignore[arg-type]
        return Reading.bind(bound, model)

    def at_places(self, activation: Tensor) -> Tensor:
        items = torch.arange(len(activation), device=activation.device)
        said = activation.float().unflatten(-1, (self.heads, -1))[items, ..., self.numbers, :]
        return (said.square().sum(-1) + 1e-12).sqrt()  # the root has no slope at 0

    def check(self, site: Site) -> str:
        for head in self.numbers.tolist():
            if not 0 <= head < self.heads:
                raise UnknownSiteError(f"{site.name} has heads 0 to {self.heads - 1}, not {head}")
        return f"{site.name}/head {self.numbers[0]}"

    def describe(self) -> str:
        return f"length of {self.name}"

    def signature(self) -> Hashable:
        return *super().signature(), self.heads  # type: ignore[misc]
