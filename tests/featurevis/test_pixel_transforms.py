from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from neurolab.featurevis.pixel_transforms import Blur, ColourJitter, ColourNoise, Noise, PixelTransform
from neurolab.featurevis.seeds import generator
from neurolab.featurevis.transforms import Frame, Jitter
from neurolab.featurevis.views import Views
from tests.featurevis.test_transforms import SURE, assert_uniform


def noisy(seeds: list[int], steps: int = 1, count: int = 1, level: float = 0.1) -> np.ndarray:
    views = Views([Noise(level)], seeds, Frame((32, 32), (32, 32)), steps=steps, count=count)
    grey = torch.full((len(seeds), 3, 32, 32), 0.5)
    return np.stack([views(grey, step).numpy() for step in range(steps)]) - 0.5


def test_noise_is_uniform_and_of_every_pixel_view_and_step_alone() -> None:
    noise = noisy([1, 2], steps=3, count=2)
    assert noise.shape == (3, 4, 3, 32, 32)
    assert_uniform(noise.flatten(), -0.1, 0.1)
    parts = noise.reshape(12, -1)
    close = np.corrcoef(parts) - np.eye(12)
    assert np.abs(close).max() < 0.12
    assert np.abs(np.corrcoef(noise.transpose(2, 0, 1, 3, 4).reshape(3, -1)) - np.eye(3)).max() < 0.06


def test_noise_is_that_of_the_pictures_own_seed() -> None:
    alone, among = noisy([7], steps=2, count=2), noisy([3, 7, 9], steps=2, count=2)
    np.testing.assert_array_equal(alone, among[:, 2:4])


def coloured(change: PixelTransform, steps: int = 1, seeds: Sequence[int] = range(400)) -> np.ndarray:
    """What black and white become: [steps, pictures, 2, 3]."""
    views = Views([change], list(seeds), Frame((1, 2), (1, 2)), steps=steps)
    picture = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(len(seeds), 3, 1, 2)
    return np.stack([views(picture, step).numpy()[:, :, 0].swapaxes(1, 2) for step in range(steps)])


def test_colour_jitter_shifts_and_stretches_every_channel_alone() -> None:
    found = coloured(ColourJitter(0.8, 0.5), steps=4)
    stretch = found[:, :, 1] - found[:, :, 0]
    assert_uniform(np.log(stretch).flatten(), -0.5, 0.5)
    assert_uniform((-found[:, :, 0] / stretch).flatten(), -0.8, 0.8)
    assert np.abs(np.corrcoef(stretch.reshape(-1, 3).T) - np.eye(3)).max() < 0.15


def test_colour_noise_moves_whole_channels_and_dies_away() -> None:
    found = coloured(ColourNoise(0.5), steps=4)
    np.testing.assert_allclose(found[:, :, 1] - found[:, :, 0], 1, atol=1e-5)
    moved = found[:, :, 0]
    assert stats.kstest(moved[0].flatten() / 0.5, "norm").pvalue > SURE
    np.testing.assert_allclose(moved.std((1, 2)), 0.5 * (1 - np.arange(4) / 4), rtol=0.08)
    assert np.abs(np.corrcoef(moved[0].T) - np.eye(3)).max() < 0.25


def test_views_without_noise_are_those_with_noise_of_no_level() -> None:
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    frame = Frame((32, 32), (32, 32))
    plain = Views([Jitter(4)], [1], frame, steps=1)(picture, 0)
    assert torch.equal(Views([Jitter(4), Noise(0.0)], [1], frame, steps=1)(picture, 0), plain)


def blurred(images: torch.Tensor, blur: Blur, seeds: Sequence[int] = (0,)) -> torch.Tensor:
    return blur(images, [generator(seed, "colours") for seed in seeds], 0.0)


def test_a_blur_of_one_width_is_scipys() -> None:
    images = torch.rand(1, 2, 3, 24, 30, generator=torch.Generator().manual_seed(0))
    expected = ndimage.gaussian_filter(images.double().numpy(), (0, 0, 0, 1.5, 1.5), mode="nearest", radius=5)
    np.testing.assert_allclose(blurred(images, Blur(1.5, 1.5)), expected, atol=1e-5)
    torch.testing.assert_close(blurred(images, Blur(0, 0)), images)


def test_the_widths_of_a_blur_are_uniform_and_each_views_own() -> None:
    """A single bright pixel: what is left of it in the middle tells the width."""
    points = torch.zeros(2, 4000, 3, 13, 13)
    points[..., 6, 6] = 1
    shown = blurred(points, Blur(0.8, 1.6), (0, 1))
    assert torch.equal(shown[:, :, 0], shown[:, :, 2])  # all channels alike
    places = torch.arange(-5, 6)
    widths = torch.linspace(0.79, 1.61, 4000)
    peaks = torch.softmax(-places.square() / (2 * widths[:, None].square()), 1)[:, 5].square()
    found = np.interp(-shown[:, :, 0, 6, 6].numpy().ravel(), -peaks.numpy(), widths.numpy())
    assert_uniform(found, 0.8, 1.6)
    assert stats.pearsonr(found[:4000], found[4000:]).pvalue > SURE
    with pytest.raises(ValueError, match="low <= high"):
        Blur(2, 1)
