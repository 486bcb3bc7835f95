"""Different objectives for the items of one batch, computed together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from neurolab.featurevis.activations import Rows
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

    @property
    def is_steady(self) -> bool:
        """Whether it is the same operations at every call."""
        return all(objective.is_steady for _, objective in self.groups)

    def __call__(self, acts: Mapping[str, Tensor]) -> Tensor:
        """[batch] values of activation maps of the whole batch."""
        if len(self.groups) == 1:
            return self.groups[0][1](Rows(acts))
        parts = [objective(Rows(acts, rows)) for rows, objective in self.groups]
        return torch.cat(parts).index_select(0, self.places)


def batches_of(objectives: Sequence[Objective], batch_size: int) -> list[list[int]]:
    """The numbers of the objectives, divided into batches of up to batch_size, in their order.

    Those that belong together stay together, were it in a larger batch.
    """
    if batch_size < 1:
        raise ValueError(f"a batch has at least one picture, not {batch_size}")
    clusters: list[tuple[set[Hashable], list[int]]] = []
    for i, objective in enumerate(objectives):
        groups, numbers = set(objective.groups), [i]
        for cluster in [c for c in clusters if c[0] & groups]:
            clusters.remove(cluster)
            groups, numbers = groups | cluster[0], sorted(cluster[1] + numbers)
        clusters.append((groups, numbers))
    batches: list[list[int]] = []
    for _, numbers in sorted(clusters, key=lambda cluster: cluster[1]):
        if not batches or len(batches[-1]) + len(numbers) > batch_size:
            batches.append([])
        batches[-1] += numbers
    return batches
