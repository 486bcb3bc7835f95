"""Constants are made once, and gradients go through what is computed with them."""

from __future__ import annotations

import torch

from neurolab.models.constants import constant

CPU = torch.device("cpu")


def test_one_for_all_who_ask() -> None:
    found = constant((0.5, 2.0), torch.float32, CPU)
    assert found.tolist() == [0.5, 2.0] and found is constant((0.5, 2.0), torch.float32, CPU)
    assert constant((0.5, 2.0), torch.float64, CPU).dtype == torch.float64
    assert constant(((1.0, 2.0),), torch.float32, CPU).shape == (1, 2)


def test_first_asked_for_where_no_gradients_are_wanted() -> None:
    with torch.inference_mode():
        divisor = constant((3.0, 7.0), torch.float32, CPU)
    x = torch.ones(2, requires_grad=True)
    (x / divisor).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, torch.tensor([1 / 3, 1 / 7]))
