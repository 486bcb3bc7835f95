"""Float32 convolutions and products keep all their bits, and what was set before comes back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from neurolab.models.exact_float import full_float32

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def settings() -> list[object]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return [cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision, matmul.fp32_precision]


def test_settings_come_back_after_an_error() -> None:
    before = settings()
    with pytest.raises(RuntimeError, match="stop"), full_float32():
        assert settings() == [True, False, "ieee", "ieee"]
        raise RuntimeError("stop")
    assert settings() == before


def test_the_first_to_leave_changes_nothing_for_the_others() -> None:
    before = settings()
    first, second = full_float32(), full_float32()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert settings() == [True, False, "ieee", "ieee"]
    second.__exit__(None, None, None)
    assert settings() == before


@needs_gpu
def test_convolutions_on_a_gpu_are_as_exact_as_on_the_cpu() -> None:
    torch.manual_seed(0)
    images, weights = torch.randn(4, 64, 32, 32), torch.randn(64, 64, 3, 3)
    exact = F.conv2d(images.double(), weights.double())

    def error() -> float:
        found = F.conv2d(images.cuda(), weights.cuda()).cpu().double()
        return float((found - exact).norm() / exact.norm())

    with full_float32():
        assert error() < 1e-6
    if torch.cuda.get_device_capability() >= (8, 0):
        assert error() > 1e-5  # what torch does by itself
