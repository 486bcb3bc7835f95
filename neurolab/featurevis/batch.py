"""Different objectives for the items of one batch, computed together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from neurolab.featurevis.objectives import Objective


class BatchObjective:
    """Objective i of item i, for a whole batch: one forward and one backward pass for all of them.

    members: bound objectives, one per item. Those of equal signatures (all units of one site) become a single
    operation; others are computed group by group, each on the rows of its items.
    """

    def __init__(self, members: Sequence[Objective], device: torch.device | str = "cpu") -> None:
        self.sites = tuple(dict.fromkeys(site for member in members for site in member.sites))
        if not self.sites:
            raise ValueError("an objective must read a site; a number alone has no picture")
        groups: dict[Hashable, list[int]] = {}
        for i, member in enumerate(members):
            groups.setdefault(member.signature(), []).append(i)
        self.groups = [
            (torch.tensor(rows, device=device), members[rows[0]].stack([members[i] for i in rows]))
            for rows in groups.values()
        ]
        order = torch.tensor([i for rows in groups.values() for i in rows])
        self.places = order.argsort().to(device)

    def __call__(self, acts: Mapping[str, Tensor]) -> Tensor:
        """[batch] values of activation maps of the whole batch."""
        if len(self.groups) == 1:
            return self.groups[0][1](acts)
        parts = [
            objective({site: acts[site].index_select(0, rows) for site in objective.sites})
            for rows, objective in self.groups
        ]
        return torch.cat(parts).index_select(0, self.places)
