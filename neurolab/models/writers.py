"""Which layer writes a site, and with which weights it writes each unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neurolab.errors import UnknownSiteError
from neurolab.models import passes
from neurolab.models.families import CONVOLUTIONS
from neurolab.models.naming import HEADS, INPUT
from neurolab.models.places import Place
from neurolab.models.sites import find_site, locate_site
from neurolab.models.tracing import tensors_in
from neurolab.models.zoo import Model

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def incoming_weights(model: Model, site: str) -> NDArray[np.float32]:
    """The weights that write each unit of a site, one row per unit, [units, inputs] float32.

    They are those of the linear layer, or of the convolution (each unit's kernel as one row; 0 for inputs of
    other groups), whose output the site is. A batch normalization between them scales the rows, and turns
    those round whose scale is negative. The layer is found by running the network once on a black image.

    Raises UnknownSiteError where no single layer writes the site: a residual sum, the output of an
    activation function, attention heads, text.
    """
    place = locate_site(model, site)
    if place.where.port == HEADS or place.of_text:
        raise _nobody(place, "it holds attention heads" if place.where.port == HEADS else "it is of the text")
    layer, scales = _find(model, place)
    weight = _full_kernel(layer)
    for scale in scales:
        weight = weight * scale[:, None]
    if len(weight) != find_site(model, site).units:
        raise _nobody(place, f"{type(layer).__name__} gives {len(weight)} channels, which are not its units")
    return weight.to("cpu", torch.float32).numpy()


@dataclass(frozen=True)
class _Seen:
    """A tensor as it was at one moment: written to in place, it is another."""

    tensor: Tensor
    version: int

    @classmethod
    def now(cls, tensor: Tensor) -> _Seen:
        return cls(tensor, tensor._version)

    @property
    def identity(self) -> tuple[int, int]:
        return id(self.tensor), self.version


@dataclass(frozen=True)
class _Run:
    """A run of a layer, and what it gave and took; both are held, so that no other tensor takes their id."""

    layer: nn.Module
    gave: _Seen
    took: _Seen


def _find(model: Model, place: Place) -> tuple[nn.Module, list[Tensor]]:
    """The layer that wrote the tensor at a place, and the scales of the normalizations between."""
    runs, seen = _watch(model, place)
    if not seen:
        raise _nobody(place, "the network does not compute it for an image")
    wanted = seen[-1 if place.where.run is None else place.where.run].identity
    scales: list[Tensor] = []
    while wanted in runs:
        run = runs[wanted]
        if type(run.layer) not in _NORMS:
            return run.layer, scales
        scales.append(_scale(run.layer))
        wanted = run.took.identity
    raise _nobody(place, "it is a sum, or something lies between the layers and it")


def _watch(model: Model, place: Place) -> tuple[dict[tuple[int, int], _Run], list[_Seen]]:
    """The runs of all layers for one image, by what they gave; and the tensors at the place."""
    runs: dict[tuple[int, int], _Run] = {}
    seen: list[_Seen] = []

    def after(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            gave = _Seen.now(output)
            runs[gave.identity] = _Run(layer, gave, _Seen.now(args[0]))

    def note(values: list[object]) -> None:
        seen.extend(_Seen.now(value) for value in values[:1] if isinstance(value, Tensor))

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        note([x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)])

    hooked = model.module.get_submodule(place.hooked.path)
    kinds = (nn.Linear, *CONVOLUTIONS, *_NORMS)  # exactly: subclasses may compute otherwise
    handles = [m.register_forward_hook(after) for m in model.module.modules() if type(m) in kinds]
    if place.hooked.port == INPUT:
        handles.append(hooked.register_forward_pre_hook(before, with_kwargs=True))
    else:
        handles.append(hooked.register_forward_hook(_first_of_output(note)))
    try:
        # Not in inference mode, whose tensors do not count their versions.
        with torch.no_grad(), passes.suspended():
            model.encode_image(torch.zeros(1, 3, *model.image_size, device=model.device))
    finally:
        for handle in handles:
            handle.remove()
    return runs, seen


def _first_of_output(note: Callable[[list[object]], None]) -> Callable[..., None]:
    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        note([x for x in tensors_in(output) if isinstance(x, Tensor)])

    return after


def _scale(norm: Any) -> Tensor:
    """gamma / sqrt(var + eps) of a batch normalization, [channels]."""
    if norm.running_var is None:
        raise UnknownSiteError(f"{norm} normalizes each batch by itself, so its scale is not known")
    scale = (norm.running_var + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight


def _full_kernel(layer: nn.Module) -> Tensor:
    """The weights as [outputs, inputs]; of a convolution in groups 0 for the inputs of other groups."""
    weight = cast(Tensor, layer.weight).detach()
    groups = cast(int, getattr(layer, "groups", 1))
    if groups == 1:
        return weight.flatten(1)
    outputs, inputs = len(weight) // groups, weight[0].numel()
    full = weight.new_zeros(groups, outputs, groups, inputs)
    group = torch.arange(groups)
    full[group, :, group] = weight.reshape(groups, outputs, inputs)
    return full.reshape(groups * outputs, groups * inputs)


def _nobody(place: Place, why: str) -> UnknownSiteError:
    return UnknownSiteError(
        f"no single layer writes {place.where}, for {why}: choose the output of a linear layer or "
        "convolution, or the input of an activation function right behind one"
    )
