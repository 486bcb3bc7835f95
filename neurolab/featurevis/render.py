"""Draw what excites units: gradient ascent on pictures (activation maximization)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurolab.featurevis.batch import BatchObjective
from neurolab.featurevis.methods import Method, find_method
from neurolab.featurevis.objectives import Objective, as_objective
from neurolab.featurevis.parametrizations.base import Maker, Parametrization
from neurolab.featurevis.picture import Picture
from neurolab.featurevis.progress import Report, progress_bar
from neurolab.featurevis.regularizers import PICTURE
from neurolab.featurevis.rescue import redirected_relus
from neurolab.featurevis.transforms import AnyTransform, Frame, Views, find_transforms
from neurolab.models.capture import capture
from neurolab.models.zoo import Model

RESCUED = 16  # steps in which gradients are helped through ReLUs, as lucid's; what is dead then stays dead


def render(
    model: Model,
    units: Sequence[str | Objective] | str | Objective,
    *,
    method: str | Method | Maker = "fourier",
    size: int | tuple[int, int] | None = None,
    steps: int = 256,
    seed: int | Sequence[int] = 0,
    transforms: str | Sequence[AnyTransform] | None = None,
    border: float | str | None = None,
    views: int | None = None,
    lr: float | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> list[Picture]:
    """Draw a picture for each unit, all units of a batch in one run.

    units: "SITE/89", or objectives (`neurolab.featurevis.objectives`). method: "fourier", "maco", "pyramid",
    "cppn", "vit" or "pixels" (`neurolab.featurevis.methods`), a Method, or a callable (seeds, size) ->
    Parametrization. It decides the rest where nothing else is asked for:

    size: of the pictures, one side or (height, width); default, the model's input; of larger ones the network
    sees windows. seed: one for all or one per unit; a picture depends on its own objective, seed and
    these settings, not on the others (up to the rounding of the network's sums, which depends on the batch's
    size). transforms: "standard", "lucid", "crops", "none" or a list; border: the grey level around the
    picture, or "reflect". views: of each picture at each step, each with its own draw of the transforms; the
    objective is their mean. lr: the optimizer's.

    Where a unit has no gradient at first, ReLUs let one through to it for some steps (lucid's rescue, each
    picture's its own). Warns of units whose gradient stays zero. Ctrl-C ends the drawing and gives the
    pictures as they are then.
    Raises UnknownSiteError for units that the model does not have.
    """
    chosen = [units] if isinstance(units, str | Objective) else list(units)
    objectives = [as_objective(unit).bind(model) for unit in chosen]
    seeds = _one_each(seed, len(objectives))
    way = find_method(method).changed(transforms, border, views, lr)
    recipe = Recipe.of(way, model.image_size, size, steps)
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
    """A method for pictures and views of given sizes, and so many steps of it."""

    method: Method
    frame: Frame
    transforms: tuple[AnyTransform, ...]
    steps: int

    @classmethod
    def of(
        cls, method: Method, view: tuple[int, int], size: int | tuple[int, int] | None, steps: int
    ) -> Recipe:
        """The recipe for a network whose input is `view`."""
        frame = Frame(view if size is None else _pair(size), view)
        return cls(method, frame, find_transforms(method.transforms, frame), steps)

    def __post_init__(self) -> None:
        if min(self.steps, self.method.views, *self.frame.picture) < 1:
            given = f"{self.steps}, {self.method.views}, {self.frame.picture}"
            raise ValueError(f"steps, views and size must be at least 1, not {given}")

    def settings(self) -> dict[str, Any]:
        return {
            "size": list(self.frame.picture),
            "lr": self.method.lr,
            "schedule": self.method.schedule,
            "penalty": self.method.penalty.formula if self.method.penalty else None,
            "optimizer": getattr(self.method.optimizer, "__name__", repr(self.method.optimizer)).lower(),
            "transforms": [repr(transform) for transform in self.transforms],
            "border": self.method.border,
            "views": self.method.views,
        }


class Ascent:
    """Gradient ascent on one batch of pictures, each with its own objective."""

    def __init__(
        self, model: Model, objectives: Sequence[Objective], seeds: Sequence[int], recipe: Recipe
    ) -> None:
        self.model, self.objectives, self.seeds, self.recipe = model, objectives, seeds, recipe
        method = recipe.method
        self.image: Parametrization = method.parametrization(seeds, recipe.frame.picture).to(model.device)
        self.views = Views(
            recipe.transforms,
            seeds,
            recipe.frame,
            steps=recipe.steps,
            count=method.views,
            border=method.border,
            device=model.device,
        )
        penalty = method.penalty.bind(model) if method.penalty else None
        drawn = [objective - penalty if penalty else objective for objective in objectives]
        members = [objective for objective in drawn for _ in range(method.views)]
        self.objective = BatchObjective(members, model.device)
        self.optimizer = method.optimizer(self.image.parameters(), lr=method.lr)
        self.history: list[Tensor] = []
        self.dead = torch.zeros(len(objectives), dtype=torch.bool, device=model.device)

    def run(self, report: Report) -> None:
        """Take all steps."""
        names = f"{self.objectives[0].name}{' ...' if len(self.objectives) > 1 else ''}"
        judged = min(RESCUED, self.recipe.steps) - 1
        sites = [site for site in self.objective.sites if site != PICTURE]
        with capture(self.model, sites) as acts:
            for step in range(self.recipe.steps):
                with self.rescue() if step < judged else nullcontext():
                    report(names, self.step(acts, step))
                if step < judged:
                    self.dead |= self.blocked()
                elif step == judged:
                    self.warn_of_dead(self.blocked())

    def step(self, acts: capture, step: int) -> Tensor:
        """One step up; the objectives [batch] before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.method.lr_at(step, self.recipe.steps)
        self.optimizer.zero_grad(set_to_none=True)
        views, pictures = self.recipe.method.views, self.image()
        self.seen = self.views(pictures, step)
        self.seen.retain_grad()
        self.model.encode_image(self.seen.contiguous(memory_format=torch.channels_last))
        read = {site: acts[site] for site in self.objective.sites if site != PICTURE}
        if PICTURE in self.objective.sites:
            read[PICTURE] = pictures.repeat_interleave(views, 0)
        values = self.objective(read).unflatten(0, (-1, views)).mean(1)
        # The sum: the gradient of item i is that of its own objective, whatever the batch's size.
        (-values.sum()).backward()
        self.optimizer.step()
        self.image.settle()
        self.history.append(values.detach())
        return self.history[-1]

    def rescue(self) -> AbstractContextManager[None]:
        """ReLUs that let a gradient through to the items that had none before, if there are any."""
        if not self.dead.any():
            return nullcontext()
        return redirected_relus(self.model.module, self.dead.repeat_interleave(self.recipe.method.views))

    def blocked(self) -> Tensor:
        """Which items had no gradient through the network in the last step: bool [batch].

        Looked for in what the network was shown: a penalty on the picture has a gradient of its own.
        """
        if self.seen.grad is None:
            return torch.zeros_like(self.dead)
        return ~self.seen.grad.unflatten(0, (len(self.dead), -1)).flatten(1).any(1)

    def warn_of_dead(self, dead: Tensor) -> None:
        """Warn of the items that still have no gradient of their own."""
        if dead.any():
            names = ", ".join(o.name for o, none in zip(self.objectives, dead.tolist(), strict=True) if none)
            warnings.warn(
                f"no gradient after {len(self.history)} steps, so the picture shows nothing: {names}. "
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
