"""Convolutions over patches as products: the same numbers, and afterwards the modules as they were."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neurolab.models.patches import patches_by_product

sizes = st.integers(1, 5)


@settings(deadline=None)
@given(sizes, sizes, sizes, sizes, st.integers(0, 4), st.booleans(), st.booleans())
def test_a_product_is_the_convolution(
    high: int, wide: int, rows: int, columns: int, more: int, bias: bool, last: bool
) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(3, 7, (high, wide), (high, wide), bias=bias).double()
    images = torch.randn(2, 3, rows * high + more % high, columns * wide + more % wide).double()
    images = images.contiguous(memory_format=torch.channels_last) if last else images
    expected = module(images)
    with patches_by_product(module) as count:
        found = module(images)
    assert count == ((high, wide) != (1, 1)) and "forward" not in vars(module)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(module(images), expected)


def test_others_are_left_alone() -> None:
    others = [
        nn.Conv2d(4, 4, 3, 2), nn.Conv2d(4, 4, 2, 2, padding=1), nn.Conv2d(4, 4, 2, 2, groups=2),
        nn.Conv2d(4, 4, 2, 2, dilation=2), nn.Conv2d(4, 4, 1), nn.Conv1d(4, 4, 2, 2),
    ]  # fmt: skip
    with patches_by_product(nn.ModuleList([*others, nn.Conv2d(4, 4, 2, 2, padding="valid")])) as count:
        assert count == 1


def test_hooks_see_it_and_errors_leave_nothing() -> None:
    module, seen = nn.Conv2d(1, 2, 2, 2), []
    module.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    with pytest.raises(ZeroDivisionError), patches_by_product(module):
        module(torch.zeros(1, 1, 4, 6))
        raise ZeroDivisionError
    assert seen == [(1, 2, 2, 3)] and "forward" not in vars(module)
