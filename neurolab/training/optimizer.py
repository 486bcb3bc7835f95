"""The optimizer of both towers and the course of its learning rate."""

from __future__ import annotations

import math

import torch
from timm.optim.muon import Muon
from torch import nn

# The residual blocks of open_clip's ModifiedResNet (layer1 ... layer4) and of its text transformer.
BLOCKS = ("layer", "transformer.")


def optimizer_for(module: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """Muon (Jordan et al. 2024) for the kernels and matrices of the residual blocks, NAdamW for the rest.

    Muon orthogonalizes each update, so that directions with small gradients move as far as those with
    large ones; a step costs a quarter more on a CPU and far fewer are needed. A kernel [out, in, height,
    width] is taken as the matrix [out, in * height * width]. The learning rate is Muon's; NAdamW's is a
    tenth of it. NAdamW keeps the stem, the embeddings and the projections, as Muon's authors advise, and
    the attention pool, whose square matrices would cost more than all the blocks. Weight decay on matrices
    and kernels, none on biases, gains and positions.
    """
    named = list(module.named_parameters())
    matrices = [(n, p) for n, p in named if p.ndim > 1 and "positional" not in n]
    inside = [p for n, p in matrices if n.startswith(BLOCKS)]
    outside = [p for n, p in matrices if not n.startswith(BLOCKS)]
    others = [p for n, p in named if p.ndim <= 1 or "positional" in n]
    groups = [
        {"params": inside, "weight_decay": weight_decay},
        {"params": outside, "weight_decay": weight_decay, "use_fallback": True},
        {"params": others, "weight_decay": 0.0, "use_fallback": True},
    ]
    return Muon(groups, betas=(0.9, 0.98), nesterov=True, adjust_lr_fn="original", fallback_lr_scale=0.1)


def learning_rate(step: int, total: int, peak: float) -> float:
    """Linear warm-up over the first 5 % of the steps, then a cosine to zero."""
    warm = max(1, total // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
