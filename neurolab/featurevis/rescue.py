"""Let a gradient through where every path to the picture is blocked by a ReLU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

HIGHEST: dict[type[nn.Module], float] = {nn.ReLU: float("inf"), nn.ReLU6: 6.0}


class RedirectedReLU(torch.autograd.Function):
    """min(max(x, 0), highest), with a gradient for those `items` whose own is zero everywhere (lucid's
    redirected_relu_grad).

    Such an item's gradient passes except where it would push further into the blocked side. An item of the
    batch that has a gradient keeps it, and hinders no other: Lucent and captum look at the whole batch, so
    that one live item leaves the dead ones dead. items: bool [batch].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, highest: float, items: Tensor) -> Tensor:
        ctx.save_for_backward(x, items)
        ctx.highest = highest
        return x.clamp(0, highest)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x, items), (gradient,) = ctx.saved_tensors, gradients
        below, above = x <= 0, x >= ctx.highest
        own = gradient.masked_fill(below | above, 0)
        # The gradient is that of a loss: where it is positive, a step makes x smaller.
        redirected = gradient.masked_fill((below & (gradient > 0)) | (above & (gradient < 0)), 0)
        kept = own.flatten(1).any(1) | ~items
        return torch.where(kept.view(-1, *[1] * (x.ndim - 1)), own, redirected), None, None


@contextmanager
def redirected_relus(module: nn.Module, items: Tensor) -> Iterator[None]:
    """All nn.ReLU and nn.ReLU6 inside `module` have the gradient of `RedirectedReLU` in this block, for those
    `items` of the batch, bool [batch].

    They do not work in place meanwhile. ReLUs that are called as functions stay as they are.
    """
    changed: list[nn.Module] = []
    try:
        for part in module.modules():
            if type(part) in HIGHEST and "forward" not in vars(part):
                part.forward = _forward(HIGHEST[type(part)], items)
                changed.append(part)
        yield
    finally:
        for part in changed:
            del part.forward


def _forward(highest: float, items: Tensor) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        return RedirectedReLU.apply(x, highest, items)

    return forward
