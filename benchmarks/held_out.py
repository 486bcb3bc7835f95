"""How strongly pictures excite their units under transforms that no engine has drawn them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torchvision.transforms as T
from peers import GREY, Engine, Task
from torch import Tensor

import neurolab
from neurolab.measure import Measure


def excitation(task: Task, pictures: Tensor, looks: int) -> Tensor:
    """The mean activation of each picture's unit over the map and over random looks at it: [units].

    Every engine's pictures are looked at in the same ways: in perspective, lighter or darker, with more or
    less contrast. They are shown as their colours are, so there is no better or worse start.
    """
    transforms = T.Compose([T.RandomPerspective(0.2, p=1, fill=GREY), T.ColorJitter(0.15, 0.15)])
    pictures = pictures.to(task.model.device)
    total = torch.zeros(len(pictures), device=task.model.device)
    site = task.names()[0].rpartition("/")[0]
    items, units = torch.arange(len(pictures)), torch.tensor(task.units)
    with torch.no_grad(), torch.random.fork_rng(), neurolab.capture(task.model, [site]) as acts:
        torch.manual_seed(12345)
        for _ in range(looks):
            task.model.encode_image(transforms(pictures))
            total += acts[site][items, units].mean((1, 2))
    return (total / looks).cpu()


def strengths(engine: Engine, task: Task, batch: int, looks: int) -> Tensor:
    """The excitation of all units of a task, drawn in batches of so many."""
    parts = [replace(task, units=task.units[i : i + batch]) for i in range(0, len(task.units), batch)]
    return torch.cat([excitation(part, engine(part), looks) for part in parts])


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Measure:
    """The ratio of the means over units, with its 95 % interval by bootstrap over the units."""
    return Measure.of_ratio("ratio", np.array(ours, dtype=float), np.array(theirs, dtype=float))
