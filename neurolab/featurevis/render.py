"""Draw what excites units: gradient ascent on pictures (activation maximization)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurolab.featurevis.batch import BatchObjective
from neurolab.featurevis.objectives import Objective, as_objective
from neurolab.featurevis.parametrization import Maker, Parametrization, find_parametrization
from neurolab.featurevis.picture import Picture
from neurolab.featurevis.progress import Report, progress_bar
from neurolab.featurevis.transforms import Frame, Transform, Views, find_transforms
from neurolab.models.capture import capture
from neurolab.models.zoo import Model

DEAD_AFTER = 16  # steps without any gradient until a unit is called dead


def render(
    model: Model,
    units: Sequence[str | Objective] | str | Objective,
    *,
    size: int | tuple[int, int] | None = None,
    steps: int = 256,
    lr: float = 0.05,
    seed: int | Sequence[int] = 0,
    parametrization: str | Maker = "fourier",
    transforms: str | Sequence[Transform] = "standard",
    border: float | str = 0.5,
    views: int = 1,
    batch_size: int = 16,
    progress: bool = True,
) -> list[Picture]:
    """Draw a picture for each unit, all units of a batch in one run.

    units: "SITE/89", or objectives (`neurolab.featurevis.objectives`). size: of the pictures, one side or
    (height, width); default, the model's input; of larger ones the network sees windows. seed: one for all or
    one per unit; a picture depends on its own objective, seed and these settings, not on the others (up to
    the rounding of the network's sums, which depends on the batch's size). parametrization: "fourier",
    "pixels" or a callable (seeds, size) -> Parametrization. transforms: "standard", "lucid", "none" or a
    list; border: the grey level around the picture, or "reflect". views: of each picture at each step, each
    with its own draw of the transforms; the objective is their mean. lr: Adam's.

    Ctrl-C ends the drawing and gives the pictures as they are then. Warns of units whose gradient stays zero.
    Raises UnknownSiteError for units that the model does not have.
    """
    chosen = [units] if isinstance(units, str | Objective) else list(units)
    objectives = [as_objective(unit).bind(model) for unit in chosen]
    seeds = _one_each(seed, len(objectives))
    frame = Frame(_pair(size or model.image_size), model.image_size)
    maker, moves = find_parametrization(parametrization), find_transforms(transforms, frame)
    recipe = Recipe(frame, steps, lr, maker, moves, border, views)
    pictures: list[Picture] = []
    batches = range(0, len(objectives), batch_size)
    with progress_bar(steps * len(batches), progress) as report, torch.enable_grad():
        for first in batches:
            part, ascent, interrupted = slice(first, first + batch_size), None, False
            try:
                ascent = Ascent(model, objectives[part], seeds[part], recipe)
                ascent.run(report)
            except KeyboardInterrupt:
                interrupted = True
            pictures += ascent.pictures() if ascent else []
            if interrupted:
                kept = f"{len(pictures)} of {len(objectives)} pictures were begun and are kept"
                warnings.warn(f"interrupted: {kept}", stacklevel=2)
                break
    return pictures


@dataclass(frozen=True)
class Recipe:
    """How pictures are drawn; the arguments of `render`, looked up."""

    frame: Frame
    steps: int
    lr: float
    parametrization: Maker
    transforms: tuple[Transform, ...]
    border: float | str
    views: int

    def __post_init__(self) -> None:
        if min(self.steps, self.views, *self.frame.picture) < 1:
            given = f"{self.steps}, {self.views}, {self.frame.picture}"
            raise ValueError(f"steps, views and size must be at least 1, not {given}")

    def settings(self) -> dict[str, Any]:
        return {
            "size": list(self.frame.picture),
            "lr": self.lr,
            "optimizer": "adam",
            "transforms": [repr(transform) for transform in self.transforms],
            "border": self.border,
            "views": self.views,
        }


class Ascent:
    """Gradient ascent on one batch of pictures, each with its own objective."""

    def __init__(
        self, model: Model, objectives: Sequence[Objective], seeds: Sequence[int], recipe: Recipe
    ) -> None:
        self.model, self.objectives, self.seeds, self.recipe = model, objectives, seeds, recipe
        self.image: Parametrization = recipe.parametrization(seeds, recipe.frame.picture).to(model.device)
        self.views = Views(
            recipe.transforms,
            seeds,
            recipe.frame,
            steps=recipe.steps,
            count=recipe.views,
            border=recipe.border,
            device=model.device,
        )
        members = [objective for objective in objectives for _ in range(recipe.views)]
        self.objective = BatchObjective(members, model.device)
        self.optimizer = torch.optim.Adam(self.image.parameters(), lr=recipe.lr)
        self.history: list[Tensor] = []

    def run(self, report: Report) -> None:
        """Take all steps."""
        names = f"{self.objectives[0].name}{' ...' if len(self.objectives) > 1 else ''}"
        with capture(self.model, self.objective.sites) as acts:
            for step in range(self.recipe.steps):
                report(names, self.step(acts, step))
                if step + 1 == min(DEAD_AFTER, self.recipe.steps):
                    self.warn_of_dead()

    def step(self, acts: capture, step: int) -> Tensor:
        """One step up; the objectives [batch] before it."""
        self.optimizer.zero_grad(set_to_none=True)
        seen = self.views(self.image(), step)
        self.model.encode_image(seen.contiguous(memory_format=torch.channels_last))
        values = self.objective(acts).unflatten(0, (-1, self.recipe.views)).mean(1)
        # The sum: the gradient of item i is that of its own objective, whatever the batch's size.
        (-values.sum()).backward()
        self.optimizer.step()
        self.history.append(values.detach())
        return self.history[-1]

    def warn_of_dead(self) -> None:
        """Warn of the items no parameter of which has ever had a gradient; Adam's second moment remembers."""
        moments = [self.optimizer.state[p]["exp_avg_sq"].flatten(1) for p in self.image.parameters()]
        alive = torch.stack([moment.any(1) for moment in moments]).any(0).tolist()
        dead = [o.name for o, lives in zip(self.objectives, alive, strict=True) if not lives]
        if dead:
            warnings.warn(
                f"no gradient in {len(self.history)} steps, so the picture stays grey: {', '.join(dead)}. "
                "A unit that is read after its ReLU has none while it is silent: draw it before the ReLU "
                "(the port :in of the activation function's module), or start from another seed",
                stacklevel=4,
            )

    def pictures(self) -> list[Picture]:
        """The pictures as they are now; none where no step has been taken."""
        if not self.history:
            return []
        with torch.no_grad():
            images = (self.image() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        history = torch.stack(self.history, dim=1).cpu().numpy().astype(np.float32)
        settings = self.recipe.settings() | self.image.settings() | {"steps": len(self.history)}
        return [
            Picture(
                name=objective.name,
                image=np.ascontiguousarray(images[i]),
                kind=self.image.kind,
                seed=self.seeds[i],
                settings=settings | {"objective": objective.formula},
                history=history[i],
            )
            for i, objective in enumerate(self.objectives)
        ]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _one_each(seed: int | Sequence[int], units: int) -> list[int]:
    seeds = [seed] * units if isinstance(seed, int) else [int(s) for s in seed]
    if len(seeds) != units:
        raise ValueError(f"{len(seeds)} seeds for {units} units: give one seed for all, or one for each")
    return seeds
