from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurolab.errors import TrainingError
from neurolab.training.dataset import Prepared
from neurolab.training.distil import MEAN, STD, build_tower
from neurolab.training.stretch import mean_length, stretch
from neurolab.training.text_pairs import photo_mean
from tests.training.conftest import TINY


@pytest.fixture
def tower() -> nn.Module:
    torch.manual_seed(0)
    return build_tower(TINY, 32).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_it_is_the_map_that_it_says(tower: nn.Module, images: Tensor, prepared: Prepared) -> None:
    with torch.inference_mode():
        before = tower(images)
        length = mean_length(tower, prepared, 32, seed=0)
        stretch(tower, prepared, 32, 1.5)
        expected = 1.5 * before - 0.5 * length * photo_mean(prepared)
        torch.testing.assert_close(tower(images), expected, rtol=1e-4, atol=1e-5)


def test_a_factor_of_one_leaves_the_weights_alone(tower: nn.Module, prepared: Prepared) -> None:
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    stretch(tower, prepared, 32, 1.0)
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


def test_the_length_is_that_of_the_photos(tower: nn.Module, prepared: Prepared) -> None:
    """Not of the written words, which have a length of their own."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    with torch.inference_mode():
        pixels = prepared.pictures(range(len(prepared))).permute(0, 3, 1, 2).float() / 255
        small = F.interpolate(pixels, size=32, mode="bilinear", antialias=True)
        norms = tower((small - mean) / std).norm(dim=-1)
    length = mean_length(tower, prepared, 32, seed=0)
    assert length == pytest.approx(norms[prepared.mirrored].mean().item(), rel=1e-6)
    assert length != pytest.approx(norms.mean().item(), rel=1e-6)


def test_a_recipe_stretches_by_something() -> None:
    with pytest.raises(TrainingError, match="stretch"):
        dataclasses.replace(TINY, stretch=0.0)
