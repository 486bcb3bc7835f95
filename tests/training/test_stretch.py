from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurolab.errors import TrainingError
from neurolab.training.dataset import Prepared
from neurolab.training.distil import build_tower
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
    with torch.inference_mode():
        pixels = prepared.pictures(prepared.mirrored.nonzero()[:, 0].tolist()).permute(0, 3, 1, 2).float()
        small = F.interpolate(pixels / 255, size=32, mode="bilinear", antialias=True)
        mean, std = (
            torch.tensor([0.48145466, 0.4578275, 0.40821073]),
            torch.tensor([0.26862954, 0.26130258, 0.27577711]),
        )
        norms = tower((small - mean[:, None, None]) / std[:, None, None]).norm(dim=-1)
    assert mean_length(tower, prepared, 32, seed=0) == pytest.approx(norms.mean().item(), rel=1e-4)


def test_a_recipe_stretches_by_something() -> None:
    with pytest.raises(TrainingError, match="stretch"):
        dataclasses.replace(TINY, stretch=0.0)
