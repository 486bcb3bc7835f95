"""What the dimensions of a module's tensor mean."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from neurolab.models.layouts import Layout, layout_of, patch_grid, prefix_tokens
from neurolab.models.zoo import Model

SQUARE, WIDE = (32, 32), (32, 64)
ANY = nn.Identity()


@pytest.mark.parametrize(
    ("shape", "module", "image", "expected"),
    [
        ((1, 7), ANY, SQUARE, Layout("vector", 7, ())),
        ((1, 5, 7), ANY, SQUARE, Layout("tokens", 7, (5,))),
        ((5, 1, 7), ANY, SQUARE, Layout("tokens", 7, (5,), (1, 0, 2))),
        ((1, 1, 7), ANY, SQUARE, Layout("tokens", 7, (1,))),
        ((1, 7, 4, 4), ANY, SQUARE, Layout("map", 7, (4, 4))),
        ((1, 4, 4, 7), ANY, SQUARE, Layout("map", 7, (4, 4), (0, 3, 1, 2))),
        ((1, 7, 1, 1), ANY, SQUARE, Layout("map", 7, (1, 1))),
        ((1, 4, 4, 4), ANY, SQUARE, Layout("map", 4, (4, 4))),
        ((1, 4, 4, 7), ANY, WIDE, Layout("map", 4, (4, 7))),
        ((1, 4, 8, 7), nn.Linear(3, 7), WIDE, Layout("map", 7, (4, 8), (0, 3, 1, 2))),
        ((1, 4, 8, 7), nn.LayerNorm(7), WIDE, Layout("map", 7, (4, 8), (0, 3, 1, 2))),
        ((4, 5, 7), ANY, SQUARE, None),  # windows: several per image
        ((1,), ANY, SQUARE, None),
        ((1, 2, 3, 4, 5), ANY, SQUARE, None),
        ((1, 0), ANY, SQUARE, None),
        (None, ANY, SQUARE, None),
    ],
)
def test_layouts(
    shape: tuple[int, ...] | None, module: nn.Module, image: tuple[int, int], expected: Layout | None
) -> None:
    assert layout_of(shape, module, image) == expected


@given(st.permutations(range(4)))
def test_restoring_undoes_arranging(order: list[int]) -> None:
    layout = Layout("map", 1, (), tuple(order))
    x = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert torch.equal(layout.restore(layout.arrange(x)), x)


def test_tokens_before_the_patches(tiny_vit: Model, tiny_clip: Model) -> None:
    assert (prefix_tokens(tiny_vit.module), prefix_tokens(tiny_clip.module)) == (1, 0)
    assert prefix_tokens(torchvision.models.VisionTransformer(32, 8, 1, 2, 8, 8)) == 1
    small: dict[str, Any] = {"img_size": 32, "depth": 1}
    assert prefix_tokens(timm.create_model("vit_tiny_patch16_224", **small)) == 1
    assert prefix_tokens(timm.create_model("deit_tiny_distilled_patch16_224", **small)) == 2
    assert (
        prefix_tokens(
            timm.create_model("vit_tiny_patch16_224", class_token=False, global_pool="avg", **small)
        )
        == 0
    )


@given(st.integers(1, 12), st.integers(1, 12))
def test_patches_fill_the_image(rows: int, columns: int) -> None:
    assert patch_grid(ANY, (rows * 8, columns * 8), rows * columns) == (rows, columns)


def test_what_fills_no_grid_has_none() -> None:
    assert patch_grid(ANY, SQUARE, 5) is None and patch_grid(ANY, SQUARE, 0) is None
