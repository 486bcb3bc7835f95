"""What one pass of a network shows of its modules: which run, how often, in which order, on what shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from neurolab.errors import UnknownModelError
from neurolab.models import passes

if TYPE_CHECKING:
    from neurolab.models.zoo import Model

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """One run of a module: when it began and ended, and the shapes of its first input and output tensors.

    Shapes are of a batch of one; None where there is no tensor of floating-point numbers.
    """

    began: int
    ended: int
    shape_in: Shape | None
    shape_out: Shape | None


Trace = Mapping[str, tuple[Run, ...]]
_IMAGE_TRACES: WeakKeyDictionary[nn.Module, dict[tuple[int, int], Trace]] = WeakKeyDictionary()
_TEXT_TRACES: WeakKeyDictionary[nn.Module, Trace] = WeakKeyDictionary()


def trace_image(model: Model) -> Trace:
    """The runs of every module, by path, when one black image is encoded. Computed once for each network.

    Raises UnknownModelError where the network cannot take an image of the model's size.
    """
    known = _IMAGE_TRACES.setdefault(model.module, {})
    if model.image_size not in known:
        image = torch.zeros(1, 3, *model.image_size, device=model.device)
        try:
            known[model.image_size] = trace(model.module, lambda: model.encode_image(image))
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, AssertionError) as error:
            height, width = model.image_size
            raise UnknownModelError(
                f"{model.name} fails on an image of {height} x {width} ({error}): is its image_size right?"
            ) from error
    return known[model.image_size]


def trace_text(model: Model) -> Trace:
    """The runs of every module, by path, when a text is encoded; none where there is no text tower."""
    if not model.has_text:
        return {}
    if model.module not in _TEXT_TRACES:
        _TEXT_TRACES[model.module] = trace(model.module, lambda: model.encode_text(""))
    return _TEXT_TRACES[model.module]


def trace(root: nn.Module, forward: Callable[[], object]) -> Trace:
    """The runs of every module of `root`, by path, during `forward()`; active captures do not see them."""
    found: dict[str, list[Run]] = {}
    clock = count()
    handles = []
    for path, module in root.named_modules():
        begin, end = _watch(found.setdefault(path, []), clock)
        handles.append(module.register_forward_pre_hook(begin, with_kwargs=True))
        handles.append(module.register_forward_hook(end))
    try:
        with torch.no_grad(), passes.suspended():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return {path: tuple(runs) for path, runs in found.items() if runs}


def _watch(runs: list[Run], clock: count[int]) -> tuple[Callable[..., None], Callable[..., None]]:
    started: list[tuple[int, Shape | None]] = []

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        started.append((next(clock), _shape((*args, *kwargs.values()))))

    def end(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        began, shape = started.pop()
        runs.append(Run(began, next(clock), shape, _shape(tensors_in(output))))

    return begin, end


def tensors_in(output: object) -> list[object]:
    """The parts of what a module returns, the first tensor of which is read: itself, or its items."""
    if isinstance(output, Mapping):
        return list(output.values())
    return list(output) if isinstance(output, (tuple, list)) else [output]


def _shape(values: Iterable[object]) -> Shape | None:
    first = next((value for value in values if isinstance(value, Tensor)), None)
    return tuple(first.shape) if first is not None and first.is_floating_point() else None
