"""Objectives that were written for Lucent, for `render`.

They are functions T -> loss, where T("layer4_1_conv2") is what a layer gave for the whole batch::

    from lucent.optvis.objectives import channel, diversity

    render(model, from_lucent(channel("layer4_1", 89) - channel("layer4_1", 177)))
    render(model, from_lucent(lambda T: -T("layer4_1")[:, 89].mean() - T("layer3_0").std()))
    four = from_lucent(channel("layer4_1", 89) - 100 * diversity("layer3_0"), pictures=4)
    render(model, four, seed=range(4))

What a layer gave is read before later layers change it in place: where a network adds to a tensor or cuts it
off in place, Lucent's own hooks see the changed one.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, overload
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from neurolab.errors import UnknownSiteError
from neurolab.featurevis.objectives import Objective, Unit
from neurolab.featurevis.regularizers import PICTURE
from neurolab.models.capture import capture
from neurolab.models.layouts import image_tower
from neurolab.models.sites import find_site, full_name
from neurolab.models.tracing import trace_image
from neurolab.models.zoo import Model

Reader = Callable[[str], Tensor]  # Lucent's T
COMPARE = {"diversity", "alignment", "channel_interpolate"}  # Lucent's objectives of several pictures


@overload
def from_lucent(objective: Any, *, pictures: None = None) -> Objective: ...
@overload
def from_lucent(objective: Any, *, pictures: int) -> list[Objective]: ...
def from_lucent(objective: Any, *, pictures: int | None = None) -> Objective | list[Objective]:
    """A Lucent objective, "layer:n", or any function T -> loss, as an objective that is maximised.

    Its value for a picture is minus the loss of a batch of that picture alone: where Lucent takes the mean
    over the batch, pictures stay independent here. Such a batch has no second picture: leave `batch=` out.

    pictures: how many pictures the loss compares with each other (diversity, alignment, channel_interpolate,
    `batch=`). Gives so many objectives, to be drawn in one call, each once: the loss is that of their batch,
    in this order, and each has an equal share of minus the loss as its value. Of several views of the
    pictures, it is the mean of the views' losses.

    Layers are module paths with underscores, as Lucent's, or sites of neurolab; "labels" is the network's
    output, "input" the pictures before any transform. Lucent is not needed for functions of one's own.
    """
    loss = _as_loss(objective, pictures)
    if pictures is not None:
        return [LucentObjective(loss, number) for number in range(pictures)]
    return Channel(*_parse(objective)) if isinstance(objective, str) else LucentObjective(loss)


class Channel(Unit):
    """The unit that Lucent calls "layer:n"."""

    def bind(self, model: Model) -> Objective:
        return Unit(find_layer(model, self.site), int(self.numbers)).bind(model)


class Loss:
    """A function T -> loss of so many pictures (None: of each alone), and the layers that it reads."""

    def __init__(self, function: Callable[[Reader], Any], name: str, pictures: int | None) -> None:
        self.function, self.name, self.pictures = function, name, pictures
        self._read: WeakKeyDictionary[nn.Module, dict[tuple[int, int], dict[str, str]]] = WeakKeyDictionary()

    def of(self, layers: Mapping[str, str], acts: Mapping[str, Tensor]) -> Tensor:
        """The loss of activation maps; layers: their sites by the names that it knows."""

        def read(layer: str) -> Tensor:
            if layer not in layers:
                known = ", ".join(layers)
                raise UnknownSiteError(f"{self.name} reads {layer!r} now, but did not at first: only {known}")
            return acts[layers[layer]]

        return self.function(read).float().reshape(())

    def layers(self, model: Model) -> dict[str, str]:
        """The sites that it reads, by the names that it knows: it is tried once on pictures of noise."""
        known = self._read.setdefault(model.module, {})
        if model.image_size not in known:
            known[model.image_size] = self._tried(model)
        return known[model.image_size]

    def _tried(self, model: Model) -> dict[str, str]:
        count, layers, maps = self.pictures or 1, {}, {}
        noise = torch.rand(count, 3, *model.image_size, generator=torch.Generator().manual_seed(0))
        shown = noise.to(model.device)

        def read(layer: str) -> Tensor:
            if layer not in layers:
                layers[layer] = site = find_layer(model, layer)
                with torch.no_grad(), capture(model, [site] if site != PICTURE else []) as acts:
                    model.encode_image(shown)
                maps[layer] = (shown if site == PICTURE else acts[site]).clone().requires_grad_()
            return maps[layer].clone()

        try:
            with torch.enable_grad():
                self._check(self.function(read), layers)
        except (RuntimeError, IndexError) as error:
            error.add_note(
                f"In {self.name}, tried on a batch of {count}. Tensors of its own must be on {model.device}; "
                "items that it picks out of the batch (batch=) must exist: from_lucent(..., pictures=n)."
            )
            raise
        return layers

    def _check(self, loss: Any, layers: Mapping[str, str]) -> None:
        several = "one that compares pictures, or has a batch=, needs from_lucent(..., pictures=n)"
        if not layers:
            raise ValueError(f"{self.name} reads no layer, so it has no picture: call T(layer) in it")
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            read = ", ".join(layers)
            raise ValueError(f"the loss of {self.name} does not depend on what it reads ({read}); {several}")
        if loss.numel() != 1:
            raise ValueError(f"the loss of {self.name} is to be one number, not {tuple(loss.shape)}")
        if loss.isnan():
            raise ValueError(f"the loss of {self.name} is not a number for {self.pictures or 1}; {several}")


class LucentObjective(Objective):
    """Minus a loss, of each picture alone, or of a group in which this picture has a number."""

    def __init__(self, loss: Loss, number: int = 0, layers: Mapping[str, str] | None = None) -> None:
        self.loss, self.number, self.layers = loss, number, dict(layers or {})
        self.sites = tuple(dict.fromkeys(self.layers.values()))
        together = loss.pictures is not None
        self.groups: frozenset[Hashable] = frozenset({loss}) if together else frozenset()
        self.name = self.formula = loss.name + (f", {number + 1} of {loss.pictures}" if together else "")
        self.members: tuple[LucentObjective, ...] = (self,)

    def bind(self, model: Model) -> Objective:
        return LucentObjective(self.loss, self.number, self.loss.layers(model))

    def signature(self) -> Hashable:
        return LucentObjective, self.groups, self.sites

    def stack(self, members: Sequence[LucentObjective]) -> Objective:
        changed = copy.copy(self)
        changed.members = tuple(members)
        return changed

    def __call__(self, acts: Mapping[str, Tensor]) -> Tensor:
        maps = {site: acts[site] for site in self.sites}
        return self._of_each(maps) if self.loss.pictures is None else self._of_all(maps, self.loss.pictures)

    def _of_each(self, maps: Mapping[str, Tensor]) -> Tensor:
        parts = {site: values.split(1) for site, values in maps.items()}
        count = len(parts[self.sites[0]])
        members = self.members if len(self.members) > 1 else self.members * count
        each = [{site: values[row] for site, values in parts.items()} for row in range(count)]
        return -torch.stack([m.loss.of(m.layers, one) for m, one in zip(members, each, strict=True)])

    def _of_all(self, maps: Mapping[str, Tensor], count: int) -> Tensor:
        views = self._rows(count)
        losses = [
            self.loss.of(self.layers, {site: values[rows] for site, values in maps.items()}) for rows in views
        ]
        order = torch.tensor([row for rows in views for row in rows]).argsort()
        return -torch.stack(losses).repeat_interleave(count)[order.to(losses[0].device)] / count

    def _rows(self, count: int) -> list[list[int]]:
        """The rows of the group's pictures, in their order, for each view."""
        rows: dict[int, dict[int, list[int]]] = {number: {} for number in range(count)}
        for row, member in enumerate(self.members):
            rows[member.number].setdefault(id(member), []).append(row)
        if wrong := [str(number + 1) for number, owners in rows.items() if len(owners) != 1]:
            raise ValueError(
                f"{self.loss.name} belongs to {count} pictures, but of {', '.join(wrong)} there is none, or "
                "more than one: draw all objectives that from_lucent gave in one call, each once"
            )
        return [list(view) for view in zip(*(next(iter(o.values())) for o in rows.values()), strict=True)]


def find_layer(model: Model, layer: str) -> str:
    """The site of a layer: a module path joined by underscores, or a site of neurolab.

    Raises UnknownSiteError where the model has no such layer, and where it may be two modules.
    """
    if layer == "input":
        return PICTURE
    if layer == "labels":  # of the module that ends last: the network, or its part that sees images
        last = max(trace_image(model).items(), key=lambda item: item[1][-1].ended)[0]
        return find_site(model, f"{last}:out").name
    paths = _joined_paths(model)
    found = paths.get(layer, [])
    if len(found) > 1:
        both = " or ".join(f"{path}:out" for path in found)
        raise UnknownSiteError(f"layer {layer!r} of {model.name} may be {both}: write that instead")
    if found:
        return find_site(model, f"{found[0]}:out").name
    if any(mark in layer for mark in ".:#") or full_name(model, layer) != layer:
        return find_site(model, layer).name
    close = ", ".join(difflib.get_close_matches(layer, paths, 4, 0.3)) or "none"
    raise UnknownSiteError(f"{model.name} has no layer {layer!r}; the closest are {close}")


def _joined_paths(model: Model) -> dict[str, list[str]]:
    """The paths of the modules that see images, by what Lucent calls them.

    Where the image tower is a part of the network, Lucent's users hook that part: its paths count as well.
    """
    root, tower = model.module, image_tower(model.module)
    ran = {id(root.get_submodule(path)) for path in trace_image(model)}
    inside = next(f"{path}." for path, module in root.named_modules() if module is tower)
    found: dict[str, list[str]] = {}
    for path, module in root.named_modules(remove_duplicate=False):
        if path and id(module) in ran:
            for name in {path, path.removeprefix(inside)}:
                found.setdefault(name.replace(".", "_"), []).append(path)
    return found


def _as_loss(objective: Any, pictures: int | None) -> Loss:
    if pictures is not None and pictures < 1:
        raise ValueError(f"pictures must be at least 1, not {pictures}")
    if isinstance(objective, str):
        layer, unit = _parse(objective)
        return Loss(lambda T: -T(layer)[:, unit].mean(), objective, pictures)
    function = getattr(objective, "objective_func", objective)
    if not callable(function):
        kind = type(objective).__name__
        raise TypeError(f'from_lucent takes an Objective of Lucent, "layer:n" or a function of T, not {kind}')
    kinds = str(getattr(objective, "name", ""))
    name = getattr(objective, "description", "") or kinds or getattr(function, "__name__", repr(function))
    name = " ".join(name.split())
    if pictures is None and COMPARE & set(kinds.split(", ")):
        raise ValueError(f"{name} compares pictures: say how many with from_lucent(..., pictures=n)")
    return Loss(function, name, pictures)


def _parse(text: str) -> tuple[str, int]:
    layer, _, unit = (part.strip() for part in text.rpartition(":"))
    if not (layer and unit.isascii() and unit.isdecimal()):
        raise UnknownSiteError(f'{text!r} names no channel: write LAYER:NUMBER, as "layer4_1:89"')
    return layer, int(unit)
