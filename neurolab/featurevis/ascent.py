"""The ascent itself: one batch of pictures, each with its own objective, step by step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurolab.featurevis.batch import BatchObjective
from neurolab.featurevis.methods import Method
from neurolab.featurevis.objectives import Objective
from neurolab.featurevis.picture import Picture
from neurolab.featurevis.progress import Report
from neurolab.featurevis.recording import WORTH_IT, Recording, record
from neurolab.featurevis.regularizers import PICTURE
from neurolab.featurevis.rescue import redirected_relus
from neurolab.featurevis.transforms import AnyTransform, Frame, find_transforms
from neurolab.featurevis.views import Views
from neurolab.models.attention_layout import contiguous_attention
from neurolab.models.capture import capture
from neurolab.models.folding import folded_norms
from neurolab.models.zoo import Model

# float16 is not among them: gradients of a mean over a map are below its smallest numbers.
PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
RESCUED = 16  # steps in which gradients are helped through ReLUs, as lucid's; what is dead then stays dead


@dataclass(frozen=True)
class Recipe:
    """A method for pictures and views of given sizes, and so many steps of it.

    precision: what the network computes in, "float32" or "bfloat16"; pictures and objectives are float32.
    record: whether steps are taken from a `Recording`, where they are all alike; None: where they are many.
    """

    method: Method
    frame: Frame
    transforms: tuple[AnyTransform, ...]
    steps: int
    precision: str = "float32"
    record: bool | None = None

    @classmethod
    def of(
        cls,
        method: Method,
        view: tuple[int, int],
        size: int | tuple[int, int] | None,
        steps: int,
        precision: str = "float32",
        record: bool | None = None,
    ) -> Recipe:
        """The recipe for a network whose input is `view`."""
        frame = Frame(view if size is None else _pair(size), view)
        return cls(method, frame, find_transforms(method.transforms, frame), steps, precision, record)

    def __post_init__(self) -> None:
        if min(self.steps, self.method.views, *self.frame.picture) < 1:
            given = f"{self.steps}, {self.method.views}, {self.frame.picture}"
            raise ValueError(f"steps, views and size must be at least 1, not {given}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {self.precision!r}")

    def computing(self, device: torch.device) -> AbstractContextManager[Any]:
        """Around the network: in the precision asked for."""
        dtype = PRECISIONS[self.precision]
        return torch.autocast(device.type, dtype) if dtype else nullcontext()

    def settings(self) -> dict[str, Any]:
        return {
            "size": list(self.frame.picture),
            "lr": self.method.lr,
            "schedule": self.method.schedule,
            "penalty": self.method.penalty.formula if self.method.penalty else None,
            "optimizer": named(self.method.optimizer),
            "transforms": [repr(transform) for transform in self.transforms],
            "border": self.method.border,
            "views": self.method.views,
            **({"alpha": True} if self.method.alpha else {}),
            **({"precision": self.precision} if self.precision != "float32" else {}),
            **({"record": self.record} if self.record is not None else {}),
        }


class Ascent:
    """Gradient ascent on one batch of pictures, each with its own objective."""

    def __init__(
        self, model: Model, objectives: Sequence[Objective], seeds: Sequence[int], recipe: Recipe
    ) -> None:
        self.model, self.objectives, self.seeds, self.recipe = model, objectives, seeds, recipe
        method = recipe.method
        self.image = method.image(seeds, recipe.frame.picture).to(model.device)
        self.views = Views(
            recipe.transforms,
            seeds,
            recipe.frame,
            steps=recipe.steps,
            count=method.views,
            border=method.border,
            device=model.device,
        )
        drawn = [method.held(objective, model) for objective in objectives]
        members = [objective for objective in drawn for _ in range(method.views)]
        self.objective = BatchObjective(members, model.device)
        self.optimizer = method.optimizer(self.image.parameters(), lr=method.lr)
        self.history: list[Tensor] = []
        self.dead = torch.zeros(len(objectives), dtype=torch.bool, device=model.device)
        self.seen: Tensor | None = None
        self.recording: Recording | None = None

    def run(self, report: Report) -> None:
        """Take all steps."""
        names = f"{self.objectives[0].name}{' ...' if len(self.objectives) > 1 else ''}"
        judged = min(RESCUED, self.recipe.steps) - 1
        sites = [site for site in self.objective.sites if site != PICTURE]
        quick = contiguous_attention(self.model.module)
        with self.beside(), capture(self.model, sites) as acts, folded_norms(self.model), quick:
            try:
                for step in range(self.recipe.steps):
                    with self.rescue() if step < judged else nullcontext():
                        report(names, self.step(acts, step))
                    if step < judged:
                        self.dead |= self.blocked()
                    elif step == judged:
                        self.warn_of_dead(self.blocked())
                        self.seen = None  # its graph would be in the way of a recording
                        if step + 1 < self.recipe.steps and self.is_recordable():
                            self.recording = self.record(acts, step)
            finally:
                self.recording = None  # and with it goes the memory that it holds

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Inside, a GPU works on a stream of its own: on its usual one nothing can be recorded."""
        if self.model.device.type != "cuda" or not self.is_recordable():
            yield
            return
        usual = torch.cuda.current_stream(self.model.device)
        own = torch.cuda.Stream(self.model.device)
        own.wait_stream(usual)
        try:
            with torch.cuda.stream(own):
                yield
        finally:
            usual.wait_stream(own)

    def is_recordable(self) -> bool:
        """Whether all steps to come are the same operations, and recording them is worth it or asked for."""
        steady = self.objective.is_steady and self.views.is_steady and not self.recipe.method.alpha
        fewest = WORTH_IT.get(self.model.device.type)
        if not steady or fewest is None:
            return False
        return self.recipe.steps >= fewest if self.recipe.record is None else self.recipe.record

    def record(self, acts: capture, step: int) -> Recording | None:
        """A recording of the steps to come; None where they cannot be, and nobody has asked for it."""
        try:
            return record(partial(self.climb, acts), self.views.maps[step : step + 2], self.image)
        except RuntimeError as error:
            why = f"a step cannot be recorded ({error})"
            what = "record=False (--no-record) takes it operation by operation"
            if self.recipe.record:
                raise RuntimeError(f"{why}: {what}") from error
            warnings.warn(f"{why}, and is taken operation by operation; {what} without trying", stacklevel=4)
            return None

    def step(self, acts: capture, step: int) -> Tensor:
        """One step up; the objectives [batch] before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.method.lr_at(step, self.recipe.steps)
        if self.recording is not None:
            values = self.recording(self.views.maps[step])
        else:
            self.optimizer.zero_grad(set_to_none=True)
            values = self.climb(acts, self.views.maps[step], step, watched=step < RESCUED)
        self.optimizer.step()
        self.image.settle()
        self.history.append(values)
        return values

    def climb(self, acts: capture, maps: Tensor, step: int = 0, watched: bool = False) -> Tensor:
        """Leave the gradients of a step in the parameters; its objectives [batch].

        maps: of its views. watched: have the gradient of what the network is shown, too.
        """
        views, pictures = self.recipe.method.views, self.image()
        seen = self.views(pictures, step, maps)
        if watched:
            self.seen = seen
            seen.retain_grad()
        with self.recipe.computing(self.model.device):
            self.model.encode_image(seen.contiguous(memory_format=torch.channels_last))
        read = {site: acts[site] for site in self.objective.sites if site != PICTURE}
        if PICTURE in self.objective.sites:
            read[PICTURE] = pictures.repeat_interleave(views, 0)
        values = self.objective(read).unflatten(0, (-1, views)).mean(1)
        # The sum: the gradient of item i is that of its own objective, whatever the batch's size.
        (-values.sum()).backward()
        return values.detach()

    def rescue(self) -> AbstractContextManager[None]:
        """ReLUs that let a gradient through to the items that had none before, if there are any."""
        if not self.dead.any():
            return nullcontext()
        return redirected_relus(self.model.module, self.dead.repeat_interleave(self.recipe.method.views))

    def blocked(self) -> Tensor:
        """Which items had no gradient through the network in the last step: bool [batch].

        Looked for in what the network was shown: a penalty on the picture has a gradient of its own.
        """
        if self.seen is None or self.seen.grad is None:
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
            shown = self.image()
            images = as_bytes(
                shown if shown.shape[1] == 3 else shown[:, :3] * shown[:, 3:] + 1 - shown[:, 3:]
            )
            transparent = as_bytes(shown) if shown.shape[1] == 4 else None
        history = torch.stack(self.history, dim=1).cpu().numpy().astype(np.float32)
        settings = self.recipe.settings() | self.image.settings() | {"steps": len(self.history)}
        return [
            Picture(
                name=objective.name,
                image=images[i],
                rgba=None if transparent is None else transparent[i],
                facet=objective.facet,
                kind=self.recipe.method.kind or self.image.kind,
                seed=self.seeds[i],
                settings=settings | {"objective": objective.formula},
                history=history[i],
            )
            for i, objective in enumerate(self.objectives)
        ]


def named(optimizer: Any) -> str:
    """What an optimizer is called, with the settings that it was given beforehand."""
    if isinstance(optimizer, partial):
        given = [f"{name}={value}" for name, value in optimizer.keywords.items() if name != "fused"]
        return named(optimizer.func) + (f"({', '.join(given)})" if given else "")
    return getattr(optimizer, "__name__", repr(optimizer)).lower()


def as_bytes(images: Tensor) -> np.ndarray:
    """Images [batch, channels, height, width] in [0, 1] as uint8 [batch, height, width, channels]."""
    return np.ascontiguousarray((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, Sequence) else (int(size), int(size))
