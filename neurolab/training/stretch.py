"""Give the student's embeddings back the spread that regression takes from them."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurolab.training.dataset import Prepared
from neurolab.training.distil import MEAN, STD
from neurolab.training.text_pairs import photo_mean

SAMPLE, BATCH = 1024, 64


def mean_length(tower: nn.Module, data: Prepared, image_size: int, seed: int) -> float:
    """The mean norm of the tower's embeddings, before they are normalised, over some of the photos."""
    photos = data.mirrored.nonzero()[:, 0].tolist()
    rows = random.Random(seed).sample(photos, min(SAMPLE, len(photos)))
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    norms: list[Tensor] = []
    with torch.inference_mode():
        for first in range(0, len(rows), BATCH):
            pixels = data.pictures(rows[first : first + BATCH]).permute(0, 3, 1, 2).float() / 255
            pixels = F.interpolate(pixels, size=image_size, mode="bilinear", antialias=True)
            norms.append(tower((pixels - mean) / std).norm(dim=-1))
    return float(torch.cat(norms).mean())


def stretch(tower: nn.Module, data: Prepared, image_size: int, factor: float, seed: int = 0) -> None:
    """Move the embeddings of a ModifiedResNet away from the photos' mean, in place: by `factor` for one of
    mean length.

    What a student is unsure of it places near the mean, and there the dot product with a text is mostly the
    text's own with the mean: zero-shot classification names what is near to every photo. An embedding
    z of length c, for the teacher's mean m over the photos, becomes factor * z - (factor - 1) * c * m. With c
    the mean length it is an affine map, and goes into the attention pool's last projection; an embedding
    shorter than that is moved further.
    """
    if factor == 1:
        return
    length = mean_length(tower.eval(), data, image_size, seed)
    projection = tower.get_submodule("attnpool.c_proj")
    assert isinstance(projection, nn.Linear)
    with torch.no_grad():
        projection.weight.mul_(factor)
        projection.bias.mul_(factor).sub_((factor - 1) * length * photo_mean(data))
