import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurolab.featurevis.colour import colour_matrix, correlate, from_rgb, to_rgb

# Rows transposed, as xplique, horama and others print it: an independent source of the same numbers.
PRINTED = [[0.56283, 0.58448, 0.58448], [0.19483, 0.0, -0.19483], [0.04329, -0.10824, 0.06494]]


def numpy_to_rgb(image: np.ndarray) -> np.ndarray:
    flat = np.moveaxis(image, 1, -1).astype(np.float64) @ np.asarray(PRINTED)
    return np.moveaxis(1 / (1 + np.exp(-flat)), -1, 1)


def test_matrix_is_the_one_others_print() -> None:
    np.testing.assert_allclose(colour_matrix().T, PRINTED, atol=5e-6)
    assert np.isclose(np.linalg.norm(colour_matrix(), axis=0).max(), 1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
def test_to_rgb_agrees_with_numpy(seed: int, batch: int, height: int, width: int) -> None:
    image = np.random.default_rng(seed).normal(0, 2, (batch, 3, height, width))
    np.testing.assert_allclose(to_rgb(torch.from_numpy(image)), numpy_to_rgb(image), atol=2e-5)


def test_to_rgb_without_decorrelation_is_a_sigmoid_alone() -> None:
    image = torch.randn(2, 3, 4, 5)
    np.testing.assert_allclose(to_rgb(image, decorrelated=False), 1 / (1 + np.exp(-image.numpy())), atol=1e-6)


def test_first_channel_is_brightness_and_zero_is_grey() -> None:
    image = torch.zeros(1, 3, 2, 2)
    assert (to_rgb(image) == 0.5).all()
    image[:, 0] = 1.0
    lit = to_rgb(image)[0, :, 0, 0]
    assert (lit > 0.6).all()
    assert lit.max() - lit.min() < 0.01


def test_independent_channels_become_correlated_colours() -> None:
    colours = correlate(torch.randn(1, 3, 300, 300, generator=torch.Generator().manual_seed(0)))
    measured = np.corrcoef(colours[0].flatten(1).numpy())
    m = colour_matrix().numpy()
    expected = m @ m.T / np.sqrt(np.outer((m**2).sum(1), (m**2).sum(1)))
    np.testing.assert_allclose(measured, expected, atol=0.02)
    assert measured[0, 1] > 0.8  # the transposed matrix gives far less


def test_from_rgb_is_the_inverse_of_to_rgb() -> None:
    numbers = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(from_rgb(to_rgb(numbers).permute(0, 2, 3, 1).numpy()), numbers, atol=1e-4)
    assert np.isfinite(from_rgb(np.array([0.0, 1.0]).reshape(1, 1, 2, 1).repeat(3, -1))).all()
