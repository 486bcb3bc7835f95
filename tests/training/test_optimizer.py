from __future__ import annotations

import itertools

import pytest
import torch
from timm.optim import NAdamW
from torch import Tensor, nn

from neurolab.training.distil import build_tower
from neurolab.training.optimizer import learning_rate, optimizer_for
from neurolab.training.pocket import new_clip
from neurolab.training.text_tower import TextTower
from tests.training.conftest import TINY


def test_learning_rate_warms_up_peaks_and_ends_near_zero() -> None:
    rates = [learning_rate(step, 200, 1.0) for step in range(200)]
    assert max(rates) == 1.0 and rates.index(1.0) <= 10
    assert rates[0] < 0.2 and rates[-1] < 0.01
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


class Blocks(nn.Module):
    """A kernel inside the blocks, a matrix and a gain outside of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Conv2d(8, 16, 3, bias=False)
        self.projection = nn.Linear(16, 4)


def stepped(
    module: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1, rate: float = 0.01
) -> dict[str, Tensor]:
    """How far `steps` steps of fixed gradients move each parameter."""
    generator = torch.Generator().manual_seed(1)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for p in module.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    for group in optimizer.param_groups:
        group["lr"] = rate
    for _ in range(steps):
        optimizer.step()
    return {name: p.detach() - before[name] for name, p in module.named_parameters()}


def test_a_kernel_moves_equally_far_in_every_direction() -> None:
    torch.manual_seed(0)
    module = Blocks()
    moved = stepped(module, optimizer_for(module, weight_decay=0.0))["layer1.weight"].flatten(1)
    assert module.layer1.weight.grad is not None
    gradient = torch.linalg.svdvals(module.layer1.weight.grad.flatten(1))
    spread = torch.linalg.svdvals(moved)
    assert gradient.max() / gradient.min() > 1.5
    assert spread.max() / spread.min() < 1.2
    # Jordan et al. 2024: every singular value of an update is the learning rate, for a wide matrix.
    assert spread.mean().item() == pytest.approx(0.01, rel=0.2)


def test_what_is_outside_the_blocks_moves_as_under_nadamw_at_a_tenth_of_the_rate() -> None:
    torch.manual_seed(0)
    ours = Blocks()
    theirs = Blocks()
    theirs.load_state_dict(ours.state_dict())
    reference = NAdamW(
        [
            {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    moved = stepped(ours, optimizer_for(ours, 0.05), 3)
    expected = stepped(theirs, reference, 3, rate=0.001)
    for name in ("projection.weight", "projection.bias"):
        torch.testing.assert_close(moved[name], expected[name], rtol=1e-4, atol=1e-7)
    assert not torch.allclose(moved["layer1.weight"], 10 * expected["layer1.weight"], rtol=0.1)


def test_every_parameter_of_both_towers_is_trained_once_and_only_matrices_decay() -> None:
    for tower in (build_tower(TINY, 32), TextTower(new_clip(TINY))):
        names = {id(p): name for name, p in tower.named_parameters()}
        groups = optimizer_for(tower, 0.05).param_groups
        grouped = [names[id(p)] for group in groups for p in group["params"]]
        assert sorted(grouped) == sorted(names.values())
        blocks = [names[id(p)] for g in groups if not g.get("use_fallback") for p in g["params"]]
        assert blocks and all(name.startswith(("layer", "transformer.resblocks")) for name in blocks)
        for group in groups:
            if group["weight_decay"]:
                assert all(p.ndim > 1 and "positional" not in names[id(p)] for p in group["params"])
