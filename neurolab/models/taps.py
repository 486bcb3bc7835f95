"""One site of a running capture: hooks on a module, an activation kept, edits made."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neurolab.errors import UnknownSiteError
from neurolab.models import passes
from neurolab.models.attention import heads_of, module_output
from neurolab.models.layouts import Layout
from neurolab.models.naming import INPUT, OUTPUT, PORTS
from neurolab.models.places import Place
from neurolab.models.tracing import tensors_in

Edit = Callable[[Tensor], Tensor]
Reader = Callable[[str, Tensor], None]


class Owner(Protocol):
    """The capture that a tap belongs to."""

    def may_stop(self) -> bool: ...

    def stop(self) -> None: ...


class Tap:
    """What a capture does at one place.

    calls: how often the module runs in a pass, None where that is not known. kept: the activation of the last
    pass. is_read: whether the running pass has nothing more for this tap. reader: gets what would be kept.
    """

    def __init__(
        self,
        place: Place,
        module: nn.Module,
        layout: Layout | None,
        calls: int | None,
        gradients: bool,
        reader: Reader | None = None,
    ) -> None:
        self.place, self.module, self.layout, self.calls = place, module, layout, calls
        self.gradients, self.reader = gradients, reader
        self.name = str(place.where)
        self.keeps = False
        self.edits: list[Edit] = []
        self.kept: Tensor | None = None
        self.begin_pass()

    def begin_pass(self) -> None:
        self.seen = 0
        self.is_read = False
        self._heads: Tensor | None = None

    @property
    def rank(self) -> int:
        """The order of hooks on one module: an edited input changes the heads, edited heads the output."""
        return PORTS.index(self.place.hooked.port) if self.place.hooked.port != OUTPUT else len(PORTS)

    def hook(self, owner: Owner) -> list[RemovableHandle]:
        """Put the hooks on the module."""
        self._owner = owner
        if self.place.hooked.port == INPUT:
            return [self.module.register_forward_pre_hook(self._before, with_kwargs=True)]
        if self.place.hooked.port == OUTPUT:
            return [self.module.register_forward_hook(self._after)]
        return [
            self.module.register_forward_pre_hook(self._read_heads, with_kwargs=True),
            self.module.register_forward_hook(self._mix_heads),
        ]

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
        if tensor is None or not self._is_meant():
            return None
        handed = self._take(tensor)
        if handed is None:
            return None
        # Self-attention gets one tensor as query, key and value: all of them are the input.
        replaced = tuple(handed if x is tensor else x for x in args)
        return replaced, {name: handed if x is tensor else x for name, x in kwargs.items()}

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        tensor = next((x for x in tensors_in(output) if isinstance(x, Tensor)), None)
        if tensor is None or not self._is_meant():
            return None
        handed = self._take(tensor)
        return None if handed is None else replace_tensor(output, tensor, handed)

    def _read_heads(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._is_meant():
            self._heads = self._take(heads_of(module, args, kwargs))

    def _mix_heads(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        heads, self._heads = self._heads, None
        if heads is None:
            return None
        mixed = module_output(module, heads)
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    def _is_meant(self) -> bool:
        """Count a run of the module, and say whether it is the one that the site means."""
        if passes.is_suspended():
            return False
        run, index = self.place.where.run, self.seen
        self.seen += 1
        if self.calls is not None:
            index %= self.calls  # a bare call of a part of the network announces no new pass
            return index == (self.calls - 1 if run is None else run)
        if run is None and index and self.edits:
            raise UnknownSiteError(
                f"{self.place.where.path} runs several times in a pass: say which run is to be edited, as "
                f"{self.place.where.path}#0:{self.place.where.port}, or use wrap_model"
            )
        return run is None or index == run

    def _take(self, tensor: Tensor) -> Tensor | None:
        """Edit and keep an activation; what the network is to go on with, None for the tensor that it has.

        Ends the pass where that is due.
        """
        value = tensor if self.layout is None else self.layout.arrange(tensor)
        for edit in self.edits:
            value = self._edited(edit, value)
        self.is_read = self.calls is not None or self.place.where.run is not None
        stopping = self._owner.may_stop()
        handed = self._keep(value, stopping) if self.keeps else value
        if stopping:
            self._owner.stop()
        if handed is value and not self.edits:
            return None
        return handed if self.layout is None else self.layout.restore(handed)

    def _edited(self, edit: Edit, value: Tensor) -> Tensor:
        result = edit(value.clone())  # a clone: the edit may work in place, others may hold the tensor
        if not isinstance(result, Tensor) or result.shape != value.shape:
            given = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(
                f"the edit of {self.name} must return a tensor of the shape {tuple(value.shape)}, not {given}"
            )
        return result

    def _keep(self, value: Tensor, stopping: bool) -> Tensor:
        """Keep an activation that nobody else can write to; returns what is handed on.

        With a graph the kept tensor lies on the way of the gradients, and the network gets a copy of it.
        Without, the copy is what is kept. Where the pass ends here, none is needed.
        """
        if self.reader is not None:
            self.reader(self.name, value)
            return value
        if self.gradients and not torch.is_grad_enabled():
            raise RuntimeError("gradients=True needs a pass outside torch.no_grad() and inference_mode()")
        connected = torch.is_grad_enabled() and (value.requires_grad or self.gradients)
        kept = value if stopping and not self.gradients else value.clone()
        if self.gradients:
            kept.requires_grad_().retain_grad()
        self.kept = kept
        return kept.clone() if connected and not stopping else value


def replace_tensor(output: Any, tensor: Tensor, new: Tensor) -> Any:
    """A module's output with one tensor of it exchanged; its type stays."""
    if isinstance(output, Tensor):
        return new
    if isinstance(output, Mapping):
        changed: Any = copy.copy(output)
        for name, value in output.items():
            if value is tensor:
                changed[name] = new
        return changed
    items = [new if item is tensor else item for item in output]
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
