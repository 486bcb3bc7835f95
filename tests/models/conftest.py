"""Images for the small networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from neurolab.models.zoo import Model


@pytest.fixture
def images(tiny_clip: Model) -> Tensor:
    return torch.rand(3, 3, *tiny_clip.image_size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def patches(tiny_vit: Model) -> Tensor:
    return torch.rand(2, 3, *tiny_vit.image_size, generator=torch.Generator().manual_seed(0))
