"""Colour decorrelation: pictures are optimised in a space whose three channels vary independently.

In photographs the red, green and blue of a pixel are almost the same number. Gradient ascent on them spends
its steps on brightness and leaves colours faint; in a space where natural colours are uncorrelated, one step
moves brightness and the two colour contrasts alike (Olah et al., "Feature Visualization", Distill 2017).
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from neurolab.models.constants import constant

# Lucid's square root of the correlations of ImageNet's colours. Rows are red, green, blue; columns are
# brightness, red against blue, and green against both.
SQRT_CORRELATION = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


@functools.cache
def colour_matrix() -> Tensor:
    """The matrix M [3, 3] of `to_rgb`, rows for R, G, B: lucid's, divided by its largest column norm."""
    matrix = torch.tensor(SQRT_CORRELATION, dtype=torch.float64)
    return matrix / matrix.norm(dim=0).max()


def correlate(decorrelated: Tensor) -> Tensor:
    """Decorrelated colours [batch, 3, height, width] as correlated ones, of any range: M z at every pixel."""
    rows = tuple(map(tuple, colour_matrix().tolist()))
    matrix = constant(rows, decorrelated.dtype, decorrelated.device)
    return (matrix @ decorrelated.flatten(2)).view_as(decorrelated)


def to_rgb(image: Tensor, decorrelated: bool = True) -> Tensor:
    """Any real numbers [batch, 3, height, width] as RGB in (0, 1): sigmoid(M z).

    With `decorrelated=False`, sigmoid(z): the channels are red, green and blue themselves. Zero is a medium
    grey either way. (Lucid adds the mean colour of ImageNet only where it leaves out the sigmoid; so do we,
    and never leave it out.)
    """
    return torch.sigmoid(correlate(image) if decorrelated else image)


def from_rgb(images: np.ndarray) -> np.ndarray:
    """What `to_rgb` makes images of: [batch, 3, height, width] of RGB in [0, 1] [batch, height, width, 3].

    Colours are moved to 0.02 to 0.98 first: the sigmoid gives no 0 and no 1.
    """
    clipped = np.clip(images.astype(np.float64), 0.02, 0.98)
    return decorrelate(np.log(clipped / (1 - clipped)))


def decorrelate(correlated: np.ndarray) -> np.ndarray:
    """The inverse of `correlate`, of colours [batch, height, width, 3]: [batch, 3, height, width]."""
    return np.einsum("cr,bhwr->bchw", np.linalg.inv(colour_matrix().numpy()), correlated)
