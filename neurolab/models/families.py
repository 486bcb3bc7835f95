"""Which places of a network are worth listing: chosen for CLIP's ResNets and for ViTs, by type elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from neurolab.models.attention import is_attention
from neurolab.models.naming import HEADS, INPUT, OUTPUT, SitePath
from neurolab.models.tracing import Trace

# By name: timm and open_clip have activation functions of their own (QuickGELU) that are none of torch's.
_ACTIVATION = re.compile(
    r"\w*(ReLU6?|GELU(Tanh)?|[SCP]?ELU|SiLU|Swish|Mish|HardSwish|HardSigmoid|HardMish|Sigmoid|Tanh|Softplus)(Me)?",
    re.IGNORECASE,
)
NO_ACTIVATIONS = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

# A ViT's blocks, their attention and their MLP's activation function in open_clip, timm and torchvision.
_VITS = (
    (r"(?P<prefix>(?:.*\.)?)transformer\.resblocks\.(?P<n>\d+)", "attn", "mlp.gelu"),
    (r"(?P<prefix>(?:.*\.)?)blocks\.(?P<n>\d+)", "attn", "mlp.act"),
    (r"(?P<prefix>(?:.*\.)?)encoder\.layers\.encoder_layer_(?P<n>\d+)", "self_attention", "mlp.1"),
)


@dataclass(frozen=True)
class Candidate:
    """A place that may be listed, if there is an activation map."""

    where: SitePath
    short: str
    kind: str


def curated(root: nn.Module, trace: Trace) -> list[Candidate]:
    """The usual places of CLIP's ResNets and of ViTs; empty for other networks."""
    found = list(_modified_resnet(root)) or list(_vit(root, trace))
    if found and "visual" in trace and not any(c.kind == "embedding" for c in found):
        found.append(Candidate(SitePath("visual", OUTPUT), "embedding", "embedding"))
    return found


def by_type(root: nn.Module, trace: Trace) -> Iterator[Candidate]:
    """The inputs of activation functions, attention heads, and the outputs of modules without children and of
    the blocks that sequences are made of. A module that runs several times has one place for each run."""
    modules = dict(root.named_modules())
    for path, runs in trace.items():
        in_sequence = bool(path) and isinstance(modules[path.rpartition(".")[0]], nn.Sequential)
        for port, kind in _ports(modules[path], in_sequence):
            for run in (*range(len(runs) - 1), None):
                where = SitePath(path, port, run)
                yield Candidate(where, str(where).removesuffix(f":{OUTPUT}"), kind)


def all_outputs(trace: Trace) -> Iterator[Candidate]:
    """Every module's output."""
    for path in trace:
        if path:
            yield Candidate(SitePath(path, OUTPUT), path, "module")


def _ports(module: nn.Module, in_sequence: bool) -> list[tuple[str, str]]:
    """The ports of a module that are listed, and their kinds."""
    if isinstance(module, NO_ACTIVATIONS):
        return []
    is_leaf = next(module.children(), None) is None
    if is_leaf and _ACTIVATION.fullmatch(type(module).__name__):
        return [(INPUT, "preact"), (OUTPUT, "module")]
    if is_attention(module):
        return [(HEADS, "heads")]
    if isinstance(module, CONVOLUTIONS):
        return [(OUTPUT, "conv")]
    if isinstance(module, nn.Linear):
        return [(OUTPUT, "linear")]
    return [(OUTPUT, "module")] if is_leaf or in_sequence else []


def _modified_resnet(root: nn.Module) -> Iterator[Candidate]:
    for path, module in root.named_modules():
        if type(module).__name__ != "ModifiedResNet":
            continue
        dot = f"{path}." if path else ""
        for name, _ in module.named_modules():
            if match := re.fullmatch(r"act(\d)", name):
                yield Candidate(SitePath(dot + name, INPUT), f"stem.act{match[1]}", "preact")
            elif match := re.fullmatch(r"(layer\d\.\d+)\.act(\d)", name):
                is_sum = match[2] == "3"
                short = match[1] if is_sum else name
                yield Candidate(SitePath(dot + name, INPUT), short, "residual" if is_sum else "preact")
            elif name == "attnpool":
                yield Candidate(SitePath(dot + name, HEADS), "attnpool.heads", "heads")
                yield Candidate(SitePath(dot + name, OUTPUT), "attnpool", "embedding")


def _vit(root: nn.Module, trace: Trace) -> Iterator[Candidate]:
    modules = dict(root.named_modules())
    for pattern, attention, activation in _VITS:
        blocks = [match for path in trace if (match := re.fullmatch(pattern, path))]
        if len({match["prefix"] for match in blocks}) != 1:
            continue  # no such blocks, or several stacks of them (Swin), which numbers would not tell apart
        for match in blocks:
            path, short = match[0], f"block{match['n']}"
            if is_attention(modules.get(f"{path}.{attention}", nn.Identity())):
                yield Candidate(SitePath(f"{path}.{attention}", HEADS), f"{short}.heads", "heads")
            if f"{path}.{activation}" in trace:
                yield Candidate(SitePath(f"{path}.{activation}", INPUT), f"{short}.mlp", "mlp")
            yield Candidate(SitePath(path, OUTPUT), short, "residual")
        return
