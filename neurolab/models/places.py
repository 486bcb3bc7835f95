"""From a site's name to the module that is hooked, its runs, and the layout of its tensors."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from neurolab.errors import UnknownSiteError
from neurolab.models.attention import hides_heads, is_attention, output_projection, projection_name
from neurolab.models.layouts import TOKENS, Layout, layout_of
from neurolab.models.naming import HEADS, INPUT, SitePath, parse_site
from neurolab.models.tracing import Run, trace_image, trace_text
from neurolab.models.zoo import Model

Closest = Callable[[str], list[str]]


@dataclass(frozen=True)
class Place:
    """Where a site is read. hooked: the path and port that are hooked (for the heads of attention that calls
    its projection: the projection's input). runs: of the hooked module in a pass; empty where it was not seen
    to run. of_text: it runs when texts are encoded, not images."""

    where: SitePath
    hooked: SitePath
    runs: tuple[Run, ...] = ()
    of_text: bool = False

    @property
    def calls(self) -> int | None:
        """How often the module runs in a pass; None where that is not known."""
        return len(self.runs) or None

    @property
    def run(self) -> Run:
        """The run that the site means."""
        return self.runs[-1 if self.where.run is None else self.where.run]

    @property
    def order(self) -> tuple[int, int]:
        """Its place in the order of execution."""
        if self.hooked.port == INPUT:
            return self.run.began, 0
        return (self.run.began, 1) if self.hooked.port == HEADS else (self.run.ended, 2)


def place_in(root: nn.Module, name: str, closest: Closest | None = None) -> Place:
    """The place of a full name in any network, which is not run for it; UnknownSiteError if there is none."""
    try:
        where = parse_site(name)
        module = root.get_submodule(where.path)
    except UnknownSiteError as error:
        if ":" in name or "/" in name:
            raise
        raise _unknown(root, name, closest) from error
    except AttributeError as error:
        raise _unknown(root, name, closest) from error
    parent = where.path.rpartition(".")[0]
    owner = root.get_submodule(parent)
    if where.path and hides_heads(owner) and projection_name(owner) == where.path.rpartition(".")[2]:
        raise UnknownSiteError(
            f"{where.path} is never called: {type(owner).__name__} uses its weights directly. Its input are "
            f"the heads, {parent}:{HEADS}, and its output is that of {parent}"
        )
    if where.port != HEADS or hides_heads(module):
        return Place(where, where)
    if not is_attention(module):
        raise UnknownSiteError(f"{where.path} ({type(module).__name__}) is no attention module with heads")
    return Place(where, SitePath(f"{where.path}.{projection_name(module)}".lstrip("."), INPUT, where.run))


def _unknown(root: nn.Module, name: str, closest: Closest | None) -> UnknownSiteError:
    paths = [path for path, _ in root.named_modules() if path]
    close = closest(name) if closest else difflib.get_close_matches(name, paths, 4, 0.3)
    return UnknownSiteError(f"there is no site {name!r}; the closest are {', '.join(close) or 'none'}")


def locate(model: Model, name: str, closest: Closest) -> Place:
    """The place of a full name in a model, with its runs; UnknownSiteError for what does not exist."""
    place = place_in(model.module, name, closest)
    trace, key = trace_image(model), place.hooked.path
    if key not in trace:
        key = _first_path(model.module, key)
    runs = trace.get(key, ())
    of_text = not runs and model.has_text
    if of_text:
        runs = trace_text(model).get(key, ())
    if runs and place.where.run is not None and place.where.run >= len(runs):
        times = "once" if len(runs) == 1 else f"{len(runs)} times"
        raise UnknownSiteError(f"{place.where.path} runs {times} in a pass, so there is no {place.where}")
    return Place(place.where, place.hooked, runs, of_text)


def layout_at(model: Model, place: Place) -> Layout | None:
    """The layout of the activations at a place; None where they are no activation map, or never come."""
    if not place.runs:
        return None
    module = model.module.get_submodule(place.hooked.path)
    if place.hooked.port == HEADS:
        return _layout_of_heads(module, place.run)
    shape = place.run.shape_in if place.hooked.port == INPUT else place.run.shape_out
    layout = layout_of(shape, module, model.image_size)
    if place.where.port == HEADS and layout is not None and layout.kind != TOKENS:
        return None  # windows and channels-last attention: heads of a part of the image
    return layout


def _layout_of_heads(module: nn.Module, run: Run) -> Layout | None:
    if run.shape_in is None:
        return None
    units = output_projection(module).in_features
    if not isinstance(module, nn.MultiheadAttention):
        return Layout(TOKENS, units, (1,))  # the pooled token
    batch, tokens = run.shape_in[:2] if module.batch_first else (run.shape_in[1], run.shape_in[0])
    return Layout(TOKENS, units, (tokens,)) if batch == 1 and len(run.shape_in) == 3 else None


def _first_path(root: nn.Module, path: str) -> str:
    """The path under which named_modules lists a module: the first, where it has several."""
    module = root.get_submodule(path)
    return next(name for name, other in root.named_modules() if other is module)
