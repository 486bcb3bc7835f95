"""One way to call every engine: draw these units of this network in so many steps, and time the steps.

Steps are timed from outside: a hook on the network notes when it is called, once in a step by every engine.
Recorded steps of ours call no network; of ours the beginning of every step is noted.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.metadata
import importlib.util
import io
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import torch
import torchvision.transforms as T
from torch import Tensor, nn

import neurolab
from neurolab.featurevis.ascent import Ascent
from neurolab.featurevis.methods import Method
from neurolab.featurevis.parametrizations.fourier import FourierImage
from neurolab.featurevis.pixel_transforms import Noise
from neurolab.featurevis.transforms import Window
from neurolab.models.capture import capture
from neurolab.models.layouts import image_tower
from neurolab.models.zoo import Model

LR, GREY, BILINEAR = 0.05, 0.5, T.InterpolationMode.BILINEAR
HORAMA_SIZE, HORAMA_CROPS = 1280, 6  # its defaults


@dataclass(frozen=True)
class Task:
    """Draw units of a module's output, in one batch.

    site: the module's path in the image tower. clock: takes the times at which the network is called.
    """

    model: Model
    site: str
    units: tuple[int, ...]
    steps: int
    seed: int = 0
    horama_size: int = HORAMA_SIZE
    clock: list[float] | None = None

    @property
    def size(self) -> int:
        return self.model.image_size[0]

    @property
    def network(self) -> nn.Module:
        return image_tower(self.model.module)

    @property
    def layer(self) -> nn.Module:
        return self.network.get_submodule(self.site)

    def names(self) -> list[str]:
        """The units as neurolab names them."""
        path = next(name for name, module in self.model.module.named_modules() if module is self.layer)
        return [f"{path}:out/{unit}" for unit in self.units]

    def synchronize(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()

    @contextmanager
    def timing(self, network: nn.Module) -> Iterator[None]:
        """Note the time of every call of a network, where there is a clock."""
        if (clock := self.clock) is None:
            yield
            return

        handle = network.register_forward_pre_hook(lambda *_: self.note(clock))
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def timing_ours(self) -> Iterator[None]:
        """Note the time at which each step of ours begins, where there is a clock."""
        if (clock := self.clock) is None:
            yield
            return
        step = Ascent.step

        def noted(ascent: Ascent, acts: capture, number: int) -> Tensor:
            self.note(clock)
            return step(ascent, acts, number)

        with mock.patch.object(Ascent, "step", noted):
            yield

    def note(self, clock: list[float]) -> None:
        self.synchronize()
        clock.append(time.perf_counter())


Engine = Callable[[Task], Tensor]  # gives the pictures, [units, 3, height, width] in [0, 1]


def seconds_per_step(engine: Engine, task: Task, steps: int) -> list[float]:
    """The durations of the last `steps` of a task's steps."""
    clock: list[float] = []
    engine(replace(task, clock=clock))
    times = clock[-steps - 1 :]
    if len(times) < 2:
        raise ValueError(f"{task.steps} steps are too few to time the last {steps} of them")
    return [after - before for before, after in pairwise(times)]


def seconds_between(engine: Engine, task: Task, few: int) -> float:
    """The duration of a step, from whole runs of `few` steps and of more: their difference.

    What Python asks of a GPU may be done later, or be recorded and done without it: there single steps
    cannot be seen from outside. Of quick steps there are more, so that they make up most of the longer run.
    """

    def seconds(steps: int) -> float:
        task.synchronize()
        began = time.perf_counter()
        engine(replace(task, steps=steps))
        task.synchronize()
        return time.perf_counter() - began

    short = seconds(few)
    more = min(512, max(32, round(few / short)))  # about a second's, if all were as slow as the first
    return (seconds(few + more) - short) / more


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def version(distribution: str) -> str | None:
    """The version of what is installed; None where it is not."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def ours(task: Task, **asked: Any) -> Tensor:
    """neurolab.render, with the transforms of lucid unless others are asked for.

    Where steps are timed they are those of a long run, which are recorded.
    """
    settings: dict[str, Any] = {"transforms": "lucid", "batch_size": len(task.units), **asked}
    if task.clock is not None:
        settings["record"] = True
    with task.timing_ours():
        pictures = neurolab.render(
            task.model, task.names(), steps=task.steps, seed=task.seed, lr=LR, progress=False, **settings
        )
    return torch.from_numpy(np.stack([picture.image for picture in pictures])).permute(0, 3, 1, 2) / 255


def with_decay_1(task: Task, **settings: Any) -> Tensor:
    """Ours, with the weights of frequencies that Lucent has."""
    return ours(task, method=Method(functools.partial(FourierImage, decay=1.0)), **settings)


def lucent(task: Task, *, frozen: bool = False) -> Tensor:
    """Lucent's render_vis as its README has it: its Fourier image, transforms and hooks, several units by
    `batch=`. It leaves weights as they are, which in a fresh network ask for gradients; frozen: they do not.
    """
    with quiet():
        from lucent.optvis import objectives, param, render

    # A copy: its hooks stay, and gradients pile up in the weights.
    network = copy.deepcopy(task.network).requires_grad_(not frozen)
    layer, alone = task.site.replace(".", "_"), len(task.units) == 1
    terms = [objectives.channel(layer, unit, batch=None if alone else i) for i, unit in enumerate(task.units)]
    np.random.seed(task.seed)
    with torch.random.fork_rng(), quiet(), task.timing(network):
        torch.manual_seed(task.seed)
        (images,) = render.render_vis(
            network,
            objectives.Objective.sum(terms),
            lambda: param.image(task.size, batch=len(task.units)),
            thresholds=(task.steps,),
            progress=False,
            show_image=False,
            fixed_image_size=task.size,
        )
    shown = torch.from_numpy(images).permute(0, 3, 1, 2)
    return (shown * 255).round() / 255  # in the 256 levels that ours have


class Reached(Exception):
    pass


@contextmanager
def cut(task: Task) -> Iterator[Callable[[Tensor], Tensor]]:
    """The network cut behind the layer, as a function of normalized images."""

    def end(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        raise Reached(output)

    def run(images: Tensor) -> Tensor:
        try:
            task.network(images)
        except Reached as reached:
            return reached.args[0]
        raise RuntimeError(f"{task.site} did not run")

    handle = task.layer.register_forward_hook(end)
    try:
        with task.timing(task.network):
            yield run
    finally:
        handle.remove()


def floor(task: Task, *, channels_last: bool = True) -> Tensor:
    """No drawing at all: forward to the layer and backward to a normalized batch, weights frozen."""
    batch = torch.zeros(len(task.units), 3, task.size, task.size, device=task.model.device)
    batch = batch.contiguous(memory_format=torch.channels_last) if channels_last else batch
    batch.requires_grad_()
    items, units = range(len(task.units)), list(task.units)
    with cut(task) as network:
        for _ in range(task.steps):
            batch.grad = None
            (-network(batch)[items, units].mean((1, 2)).sum()).backward()
    return batch.detach()


def horama(task: Task) -> Tensor:
    """Horama's fourier at its own crops, noise, optimizer and picture size; one unit. How the network is run
    is left to its user: cut behind the layer here, to its favour."""
    from horama import fourier

    (unit,) = task.units
    with cut(task) as network, quiet(), torch.random.fork_rng():
        torch.manual_seed(task.seed)
        image, _ = fourier(
            lambda images: network(images)[:, unit].mean(),
            total_steps=task.steps,
            image_size=task.horama_size,
            model_input_size=task.size,
            crops_per_iteration=HORAMA_CROPS,
            device=str(task.model.device),
        )
    return image.detach()[None].clamp(0, 1)


def ours_as_horama(task: Task) -> Tensor:
    """Ours, with Horama's picture size, crops and noise."""
    crops = [Window(0.2, 0.25), Noise(0.05)]
    return ours(task, size=task.horama_size, transforms=crops, views=HORAMA_CROPS)


def captum_style(task: Task) -> Tensor:
    """A loop as captum's unreleased optim module has it: a hook on the layer, whole passes, a Fourier image,
    one random affine map of torchvision for the whole batch. Weights are frozen, to its favour."""
    kept: list[Tensor] = []
    affine = T.RandomAffine(10, (0.03, 0.03), (0.9, 1.1), interpolation=BILINEAR, fill=GREY)
    transforms = T.Compose([T.Pad(12, fill=GREY), affine, T.CenterCrop(task.size)])
    seeds, size = [task.seed] * len(task.units), task.model.image_size
    image = FourierImage(seeds, size, decay=1.0).to(task.model.device)
    optimizer = torch.optim.Adam(image.parameters(), lr=LR)
    handle = task.layer.register_forward_hook(lambda module, args, output: kept.append(output))
    try:
        with task.timing(task.network), torch.random.fork_rng():
            torch.manual_seed(task.seed)
            for _ in range(task.steps):
                kept.clear()
                optimizer.zero_grad()
                task.network(task.model.normalize(transforms(image())))
                activations = [kept[0][i, unit].mean() for i, unit in enumerate(task.units)]
                (-torch.stack(activations).sum()).backward()
                optimizer.step()
    finally:
        handle.remove()
    return image().detach()


@contextmanager
def quiet() -> Iterator[None]:
    """Without others' progress bars and warnings."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
