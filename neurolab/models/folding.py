"""Run convolutions with the batch normalization behind them as one operation.

A network in eval mode normalizes by fixed numbers, so a convolution and its normalization are one affine map,
and a third of the time that a pass and its gradient take can be saved. PyTorch's own fusion changes the
modules; here they are as before after the block, and their weights all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from neurolab.models import passes
from neurolab.models.exact_float import full_float32
from neurolab.models.zoo import Model


class Pair(NamedTuple):
    """A convolution and the batch normalization that gets its output."""

    convolution: nn.Conv2d
    norm: nn.BatchNorm2d


_PAIRS: WeakKeyDictionary[nn.Module, list[Pair]] = WeakKeyDictionary()
TOLERANCE = 1e-3  # of what folding may change in the network's output, in its standard deviations


@contextmanager
def folded_norms(model: Model) -> Iterator[int]:
    """In this block all pairs of the network run as one; gives how many there are.

    Modules with hooks, as those that a `capture` reads, are left alone with their partners: enter the capture
    first. So is whatever runs several times in a pass. The results are the same up to rounding. A network
    that uses a convolution's output for something else, too, is left as it is: its output on a trial image
    tells.
    """
    pairs = [pair for pair in pairs_of(model) if not _is_watched(pair)]
    try:
        for pair in pairs:
            _fold(pair)
        yield len(pairs)
    finally:
        _unfold(pairs)


def pairs_of(model: Model) -> list[Pair]:
    """The pairs of a network's image side, found by running it once on an image, and tried on it."""
    if model.module not in _PAIRS:
        random = torch.Generator().manual_seed(0)
        image = torch.rand(1, 3, *model.image_size, generator=random).to(model.device)
        # TensorFloat-32 would differ by more than the two ways of computing do.
        with torch.no_grad(), passes.suspended(), full_float32():
            found = _find(model.module, lambda: model.encode_image(image))
            _PAIRS[model.module] = found if found and _agree(model, found, image) else []
    return _PAIRS[model.module]


def _agree(model: Model, pairs: Sequence[Pair], image: Tensor) -> bool:
    """Whether the network gives the same for an image, folded and not."""
    before = model.encode_image(image)
    try:
        for pair in pairs:
            _fold(pair)
        after = model.encode_image(image)
    finally:
        _unfold(pairs)
    assert before is not None and after is not None
    spread = (before - before.mean()).square().mean().sqrt()
    return bool((after - before).abs().max() <= TOLERANCE * spread)


def _find(root: nn.Module, forward: Callable[[], object]) -> list[Pair]:
    """The pairs that run in `forward()`: a normalization gets the very tensor that a convolution gave."""
    given: list[tuple[Tensor, nn.Conv2d]] = []  # the tensors are held, so that none takes another's place
    taken: list[Pair] = []
    runs: dict[nn.Module, int] = {}

    def after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        runs[module] = runs.get(module, 0) + 1
        given.append((output, module))  # type: ignore[arg-type]

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        runs[module] = runs.get(module, 0) + 1
        source = next((conv for tensor, conv in given if args and tensor is args[0]), None)
        if source is not None:
            taken.append(Pair(source, module))  # type: ignore[arg-type]

    handles = [m.register_forward_hook(after) for m in root.modules() if type(m) is nn.Conv2d]
    handles += [
        m.register_forward_pre_hook(before) for m in root.modules() if type(m) is nn.BatchNorm2d and _fixed(m)
    ]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in taken if runs[pair.convolution] == 1 == runs[pair.norm]]


def _fixed(norm: nn.BatchNorm2d) -> bool:
    return not norm.training and norm.running_mean is not None and norm.running_var is not None


def _is_watched(pair: Pair) -> bool:
    return any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in pair
    )


def _fold(pair: Pair) -> None:
    """The convolution with the norm's scale and shift in its weights; the norm hands on what it gets.

    w' = w s and b' = (b - mean) s + beta, with s = gamma / sqrt(var + eps), computed in float64.
    """
    convolution, norm = pair
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.weight is not None:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double()
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if convolution.bias is not None:
        shift = shift + convolution.bias.double() * scale
    weight = (convolution.weight.double() * scale[:, None, None, None]).to(convolution.weight).detach()
    bias = shift.to(convolution.weight).detach()
    if weight.is_cuda:  # as the images are: cuDNN would rearrange it in every pass
        weight = weight.contiguous(memory_format=torch.channels_last)
    vars(convolution)["forward"] = lambda x: convolution._conv_forward(x, weight, bias)
    vars(norm)["forward"] = lambda x: x


def _unfold(pairs: Sequence[Pair]) -> None:
    for module in (module for pair in pairs for module in pair):
        vars(module).pop("forward", None)
