"""Name the places of a network where activations are read.

A site is a module's path and a port, `visual.layer4.2.act3:in`: `in` is the module's input, `out` (the
default) its output, `heads` the outputs of an attention module's heads before they are mixed. Where a module
runs several times in one pass (torchvision's blocks share one ReLU), the site means its last run, and
`layer4.2.relu#0:in` the first.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from neurolab.errors import UnknownSiteError
from neurolab.models.attention import HEADS, head_input, is_attention
from neurolab.models.zoo import Model

PORTS = ("in", "out", HEADS)


@dataclass(frozen=True)
class Site:
    """A place in a network whose activations are read.

    name: full name. short: what people type. kind: residual, preact, mlp, heads, embedding or module. units:
    channels or features. shape: of the activation map: (height, width), (tokens,), or () for one vector per
    image. layout: map, tokens or vector. prefix_tokens: CLS and register tokens before the patches. calls:
    runs of its module in a pass.
    """

    name: str
    short: str
    kind: str
    units: int
    shape: tuple[int, ...]
    layout: str
    prefix_tokens: int = 0
    calls: int = 1


@dataclass(frozen=True)
class SitePath:
    """A site's name taken apart; run is None for the last run of the module in a pass."""

    path: str
    port: str
    run: int | None = None


@dataclass
class Traced:
    """What one pass showed of a module: runs, place in the order of execution, shapes of its last run."""

    calls: int = 0
    order: int = 0
    shape_in: tuple[int, ...] | None = None
    shape_out: tuple[int, ...] | None = None


_TRACES: WeakKeyDictionary[nn.Module, dict[str, Traced]] = WeakKeyDictionary()
_NAME = re.compile(r"(?P<path>[^:#]*)(#(?P<run>\d+))?(:(?P<port>\w+))?")


def parse_site(name: str) -> SitePath:
    """Take a full name apart; raises UnknownSiteError for one that is not of the form PATH[#RUN][:PORT]."""
    match = _NAME.fullmatch(name)
    port = (match["port"] or "out") if match else None
    if match is None or port not in PORTS:
        raise UnknownSiteError(
            f"{name!r} is no site: write MODULE.PATH:PORT, with the port one of {', '.join(PORTS)}"
        )
    return SitePath(match["path"], port, int(match["run"]) if match["run"] else None)


def parse_unit(text: str) -> tuple[str, int]:
    """ "SITE/89" to ("SITE", 89); UnknownSiteError where there is no unit number."""
    site, slash, unit = text.rpartition("/")
    if not (slash and site and unit.isdecimal()):
        raise UnknownSiteError(f'{text!r} names no unit: write SITE/NUMBER, as "layer4.1/89"')
    return site, int(unit)


def trace(model: Model) -> dict[str, Traced]:
    """Every module's runs and shapes, from one black image sent through the network; remembered."""
    if model.module not in _TRACES:
        found: dict[str, Traced] = {}
        handles = []
        for path, module in model.module.named_modules():
            handles.append(module.register_forward_hook(_tracer(found, path)))
        try:
            with torch.inference_mode():
                model.encode_image(torch.zeros(1, 3, *model.image_size))
        finally:
            for handle in handles:
                handle.remove()
        _TRACES[model.module] = found
    return _TRACES[model.module]


def _tracer(found: dict[str, Traced], path: str) -> Callable[..., None]:
    def note(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        traced = found.setdefault(path, Traced())
        traced.calls += 1
        traced.order = len(found)
        traced.shape_in = _shape(inputs[0]) if inputs else None
        traced.shape_out = _shape(output[0] if isinstance(output, tuple) and output else output)

    return note


def _shape(value: object) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) and value.is_floating_point() else None


def list_sites(model: Model, pattern: str | None = None, all_modules: bool = False) -> list[Site]:
    """The sites of a model in the order of execution.

    For CLIP's ResNets: the inputs of all ReLUs, the residual sums of the blocks among them (the article reads
    these), and the attention pool. For its ViTs: residual stream, MLP before the GELU, attention heads. For
    other networks: the inputs of activation functions and the outputs of the other modules without children.
    all_modules: every module's output. pattern: only sites whose full or short name contains it.
    """
    chosen = _everything(model) if all_modules else _usual(model)
    return [site for site in chosen if pattern is None or pattern in site.name or pattern in site.short]


_RESNET = [
    (re.compile(r"visual\.act(\d)"), "in", "stem.act{}", "preact"),
    (re.compile(r"visual\.layer(\d)\.(\d+)\.act([12])"), "in", "layer{}.{}.act{}", "preact"),
    (re.compile(r"visual\.layer(\d)\.(\d+)\.act3"), "in", "layer{}.{}", "residual"),
    (re.compile(r"visual\.attnpool"), "out", "attnpool", "embedding"),
]
_VIT = [
    (re.compile(r"visual\.transformer\.resblocks\.(\d+)\.attn"), HEADS, "block{}.heads", "heads"),
    (re.compile(r"visual\.transformer\.resblocks\.(\d+)\.mlp\.gelu"), "in", "block{}.mlp", "mlp"),
    (re.compile(r"visual\.transformer\.resblocks\.(\d+)"), "out", "block{}", "residual"),
]
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.Mish)


def _usual(model: Model) -> list[Site]:
    named = list(_by_pattern(model, _RESNET + _VIT))
    return named or list(_by_type(model))


def _by_pattern(model: Model, patterns: list[tuple[re.Pattern[str], str, str, str]]) -> Iterator[Site]:
    for path in trace(model):
        for pattern, port, short, kind in patterns:
            if match := pattern.fullmatch(path):
                yield _site(model, SitePath(path, port), short.format(*match.groups()), kind)


def _by_type(model: Model) -> Iterator[Site]:
    modules = dict(model.module.named_modules())
    for path, traced in trace(model).items():
        module = modules[path]
        if isinstance(module, _ACTIVATIONS) and traced.shape_in:
            yield _site(model, SitePath(path, "in"), f"{path}:in", "preact")
        elif is_attention(module):
            yield _site(model, SitePath(path, HEADS), f"{path}:{HEADS}", "heads")
        elif not list(module.children()) and traced.shape_out and len(traced.shape_out) > 1:
            yield _site(model, SitePath(path, "out"), path, "module")


def _everything(model: Model) -> list[Site]:
    found = {parse_site(site.name): site for site in _usual(model)}
    for path, traced in trace(model).items():
        where = SitePath(path, "out")
        if path and where not in found and traced.shape_out and len(traced.shape_out) > 1:
            found[where] = _site(model, where, path, "module")
    return list(found.values())


def _site(model: Model, where: SitePath, short: str, kind: str) -> Site:
    traced = trace(model)[where.path]
    name = f"{where.path}#{where.run}:{where.port}" if where.run is not None else f"{where.path}:{where.port}"
    if where.port == HEADS:
        shape = head_input(model.module.get_submodule(where.path), traced.shape_in)
    else:
        shape = traced.shape_in if where.port == "in" else traced.shape_out
    if shape is None or len(shape) not in (2, 3, 4):
        raise UnknownSiteError(
            f"{name} carries no activation map but {shape or 'no tensor'}: choose another module or port"
        )
    if len(shape) == 4:
        return Site(name, short, kind, shape[1], shape[2:], "map", 0, traced.calls)
    if len(shape) == 2:
        return Site(name, short, kind, shape[1], (), "vector", 0, traced.calls)
    return Site(
        name,
        short,
        kind,
        shape[2],
        (shape[1],),
        "tokens",
        prefix_tokens(model.module, shape[1]),
        traced.calls,
    )


def prefix_tokens(module: nn.Module, tokens: int) -> int:
    """How many of a transformer's tokens stand before its patches: class token, registers."""
    visual = getattr(module, "visual", module)
    trunk = getattr(visual, "trunk", visual)
    number = getattr(trunk, "num_prefix_tokens", None)
    if isinstance(number, int):
        return min(number, tokens)
    return int(any(hasattr(trunk, name) for name in ("class_embedding", "class_token", "cls_token")))


def find_site(model: Model, name: str) -> Site:
    """The site of a full or short name, or of any module and port; UnknownSiteError names the closest."""
    usual = _usual(model)
    for site in usual:
        if name in (site.name, site.short):
            return site
    where = parse_site(name) if _NAME.fullmatch(name) else None
    traced = trace(model).get(where.path) if where else None
    if where and traced and (where.run is None or where.run < traced.calls):
        if where.port == HEADS and not is_attention(model.module.get_submodule(where.path)):
            raise UnknownSiteError(f"{where.path} is no attention module, so it has no port {HEADS!r}")
        found = _site(model, where, name, "module")
        return next((replace(site, short=site.short) for site in usual if site.name == found.name), found)
    known = [text for site in usual for text in (site.short, site.name)] + list(trace(model))
    close = difflib.get_close_matches(name, known, 4, 0.3) or [site.short for site in usual[-4:]]
    raise UnknownSiteError(
        f"{model.name} has no site {name!r}; the closest are {', '.join(close)} (`neurolab sites` lists all)"
    )


def default_sites(model: Model) -> list[str]:
    """What is mined where nobody says: the last residual sum or stream, and a ViT's last MLP."""
    sites = _usual(model)
    last = {
        kind: next((s.name for s in reversed(sites) if s.kind == kind), None) for kind in ("mlp", "residual")
    }
    return [name for name in last.values() if name] or [sites[-1].name]


def split_tokens(activation: Tensor, site: Site) -> tuple[Tensor, Tensor]:
    """A transformer's activations [batch, tokens, units] as (prefix tokens, patch tokens)."""
    return activation[:, : site.prefix_tokens], activation[:, site.prefix_tokens :]
