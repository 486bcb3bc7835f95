"""Views of the prepared pictures for the student, made on the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(
    images: Tensor,
    size: int,
    mirrored: Tensor,
    generator: torch.Generator,
    *,
    least: float = 0.7,
    own: slice = slice(None),
) -> Tensor:
    """Crops of `least` to 1 of the side, mirrored where allowed, brightness and contrast, each per image.

    images: uint8 [own, height, width, 3], the own part of a batch; mirrored: [batch], whether a picture's
    mirror image is as good. Returns float32 [own, 3, size, size] in [0, 1], channels last.
    Numbers are drawn for the whole batch from the CPU's generator, so that views depend neither on the device
    nor on how many processes share a batch. The teacher saw the whole picture, so the crop is gentle.
    """
    n, device = len(mirrored), images.device

    def uniform(low: float, high: float) -> Tensor:
        return (torch.rand(n, generator=generator) * (high - low) + low)[own].to(device)

    scale = uniform(least, 1.0)
    flip = torch.where((uniform(0, 1) < 0.5) & mirrored[own].to(device), -1.0, 1.0)
    right, down = uniform(-1, 1) * (1 - scale), uniform(-1, 1) * (1 - scale)
    contrast, brightness = uniform(0.8, 1.2)[:, None, None, None], uniform(-0.1, 0.1)[:, None, None, None]
    zero = torch.zeros_like(scale)
    theta = torch.stack([scale * flip, zero, right, zero, scale, down], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(images), 3, size, size], align_corners=False)
    pixels = images.permute(0, 3, 1, 2).float().div_(255)
    views = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    centre = views.mean(dim=(1, 2, 3), keepdim=True)
    return ((views - centre) * contrast + centre + brightness).clamp_(0, 1)
