"""Name the places of a network where activations are read.

A site is a module's path and a port, `visual.layer4.2.act3:in`: `in` is the module's input, `out` (the
default) its output, `heads` the outputs of an attention module's heads before they are mixed. Where a module
runs several times in one pass (torchvision's blocks share one ReLU), the site means its last run, and
`layer4.2.relu#0:in` the first.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from neurolab.errors import UnknownSiteError
from neurolab.models.families import Candidate, all_outputs, by_type, curated
from neurolab.models.layouts import MAP, TOKENS, Layout, patch_grid, prefix_tokens
from neurolab.models.naming import parse_site, parse_unit
from neurolab.models.places import Place, layout_at, locate
from neurolab.models.tracing import trace_image
from neurolab.models.zoo import Model

__all__ = ["Site", "default_sites", "find_site", "list_sites", "parse_site", "parse_unit", "split_tokens"]


@dataclass(frozen=True)
class Site:
    """A place in a network whose activations are read.

    name: full name. short: what people type. kind: residual (sum or stream), preact (before an activation
    function), mlp (before its activation function), heads, conv, linear, embedding or module. units: channels
    or features. shape: of the activation map: (height, width), (tokens,), or () for one vector per image.
    layout: map, tokens or vector. prefix_tokens: class and register tokens before the patches. calls: runs of
    its module in a pass. grid: (rows, columns) of the map or of the patches; None where there is none.
    """

    name: str
    short: str
    kind: str
    units: int
    shape: tuple[int, ...]
    layout: str
    prefix_tokens: int = 0
    calls: int = 1
    grid: tuple[int, int] | None = None


_Index = dict[str, Site]  # the usual sites by full name, in the order of execution
_INDICES: WeakKeyDictionary[nn.Module, dict[tuple[int, int], _Index]] = WeakKeyDictionary()


def list_sites(model: Model, pattern: str | None = None, all_modules: bool = False) -> list[Site]:
    """The sites of a model's image side in the order of execution.

    For CLIP's ResNets: the inputs of all ReLUs, the residual sums of the blocks among them (the article
    reads these), and the attention pool. For ViTs: residual stream, MLP before its activation function,
    attention heads. For other networks: the inputs of activation functions, attention heads, and the
    outputs of the other modules that carry an activation map. all_modules: every module's output as well.
    pattern: only sites whose full or short name contains it, or matches it where it has wildcards
    ("layer4.*").

    Shapes and order come from a pass with one black image, once for each network.
    """
    found = _index(model)
    if all_modules:
        trace = trace_image(model)
        usual = [Candidate(parse_site(site.name), site.short, site.kind) for site in found.values()]
        found = _describe(model, [*usual, *by_type(model.module, trace), *all_outputs(trace)])
    return [site for site in found.values() if pattern is None or _matches(site, pattern)]


def find_site(model: Model, name: str) -> Site:
    """The site of a full or short name, or of any module's path and port.

    Raises UnknownSiteError, naming the closest sites, where there is no such module or port, and where the
    module carries no activation map.
    """
    index = _index(model)
    place = locate_site(model, name)
    known = index.get(str(place.where))
    if known is not None:
        return known
    layout = layout_at(model, place)
    if layout is None:
        raise UnknownSiteError(
            f"{place.where} of {model.name} carries no activation map that neurolab knows (one of [batch, "
            "units, height, width], [batch, tokens, units] or [batch, units]): choose another module or port"
        )
    return _site(model, place, layout, str(place.where).removesuffix(":out"), "module")


def full_name(model: Model, name: str) -> str:
    """The full name that a short name stands for; other names as they are."""
    return next((site.name for site in _index(model).values() if site.short == name), name)


def locate_site(model: Model, name: str) -> Place:
    """The place that a full or short name means; UnknownSiteError, naming the closest sites."""
    return locate(model, full_name(model, name), lambda text: closest(model, text))


def closest(model: Model, name: str) -> list[str]:
    """The names, full or short, that come closest to a wrong one."""
    sites = _index(model).values()
    known = dict.fromkeys([*(s.short for s in sites), *(s.name for s in sites), *trace_image(model)])
    known.pop("", None)
    return difflib.get_close_matches(name, known, 4, 0.3) or [site.short for site in sites][-4:]


def default_sites(model: Model) -> list[str]:
    """The full names of what is mined where nobody says: the last MLP and the last residual sum or stream;
    without these the last map or tokens before an activation function."""
    sites = list(_index(model).values())
    # Maps of one place are those of squeeze-and-excitation and of what comes after pooling.
    last = {s.kind: s.name for s in sites if s.layout in (MAP, TOKENS) and math.prod(s.shape) > 1}
    chosen = [last[kind] for kind in ("mlp", "residual") if kind in last]
    if not chosen:
        chosen = [last[kind] for kind in ("preact", "module", "conv", "linear") if kind in last][:1]
    if not chosen and not sites:
        raise UnknownSiteError(f"{model.name} has no module that carries an activation map")
    return chosen or [sites[-1].name]


def split_tokens(activation: Tensor, site: Site) -> tuple[Tensor, Tensor]:
    """A transformer's activations [batch, tokens, units] as (prefix, patches).

    prefix: [batch, prefix tokens, units], the class token first. patches: [batch, units, rows, columns].
    Raises UnknownSiteError where the site has no grid of patches.
    """
    if site.layout != TOKENS or site.grid is None:
        raise UnknownSiteError(f"{site.name} has no grid of patch tokens: its {site.layout} is {site.shape}")
    patches = activation[:, site.prefix_tokens :].transpose(1, 2)
    return activation[:, : site.prefix_tokens], patches.unflatten(2, site.grid)


def _matches(site: Site, pattern: str) -> bool:
    if any(character in pattern for character in "*?["):
        return fnmatchcase(site.name, pattern) or fnmatchcase(site.short, pattern)
    return pattern in site.name or pattern in site.short


def _index(model: Model) -> _Index:
    known = _INDICES.setdefault(model.module, {})
    if model.image_size not in known:
        trace = trace_image(model)
        usual = curated(model.module, trace) or by_type(model.module, trace)
        known[model.image_size] = _describe(model, usual)
    return known[model.image_size]


def _describe(model: Model, candidates: Iterable[Candidate]) -> _Index:
    """The candidates that carry an activation map, by full name and in the order of execution.

    Where two would have the same short name or be the same place, the first wins.
    """
    found: dict[str, tuple[tuple[int, int], Site]] = {}
    shorts: set[str] = set()
    for candidate in candidates:
        name = str(candidate.where)
        place = locate(model, name, lambda text: [])
        layout = layout_at(model, place)
        if layout is None or name in found or place.of_text:
            continue
        short = candidate.short if candidate.short not in shorts else name
        shorts.add(short)
        found[name] = place.order, _site(model, place, layout, short, candidate.kind)
    ordered = sorted(found.values(), key=lambda item: item[0])
    return {site.name: site for _, site in ordered}


def _site(model: Model, place: Place, layout: Layout, short: str, kind: str) -> Site:
    prefix, grid = 0, layout.shape if layout.kind == MAP else None
    if layout.kind == TOKENS and not place.of_text:
        prefix, grid = _divide_tokens(model, layout.shape[0])
    return Site(
        name=str(place.where),
        short=short,
        kind=kind,
        units=layout.units,
        shape=layout.shape,
        layout=layout.kind,
        prefix_tokens=prefix,
        calls=place.calls or 1,
        grid=(grid[0], grid[1]) if grid else None,
    )


def _divide_tokens(model: Model, tokens: int) -> tuple[int, tuple[int, int] | None]:
    """How many of a number of tokens are prefix tokens, and the grid of the others, if they fill one."""
    declared = prefix_tokens(model.module)
    for prefix in (declared, 0):
        grid = patch_grid(model.module, model.image_size, tokens - prefix) if tokens > prefix else None
        if grid:
            return prefix, grid
    return min(declared, tokens), None
