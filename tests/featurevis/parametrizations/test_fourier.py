from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurolab.featurevis.parametrization import (
    FourierImage,
    Parametrization,
    PixelImage,
    find_parametrization,
    frequencies,
    spectrum_scale,
)
from tests.featurevis.test_colour import numpy_to_rgb

SIZES = st.tuples(st.integers(1, 23), st.integers(1, 23))
BOTH = pytest.mark.parametrize("make", [FourierImage, PixelImage])
Make = Callable[..., Parametrization]


def numpy_fourier(coefficients: np.ndarray, size: tuple[int, int], decay: float) -> np.ndarray:
    """Lucid's fft_image written with NumPy: coefficients [..., height, width // 2 + 1] complex."""
    height, width = size
    fx = np.abs(np.fft.fftfreq(width)[: width // 2 + 1])
    fy = np.fft.fftfreq(height)[:, None]
    f = np.sqrt(fx**2 + fy**2)
    scale = 1 / np.maximum(f, 1 / max(width, height)) ** decay * np.sqrt(width * height)
    scale *= (32 / max(width, height)) ** (decay - 1)  # our deviation: all decays agree at 32 cycles
    return np.fft.irfft2(coefficients * scale, s=size) / 4


@given(SIZES, st.floats(0, 2), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_fourier_agrees_with_numpy_at_any_size(size: tuple[int, int], decay: float, seed: int) -> None:
    image = FourierImage([seed, seed + 1], size, decay=decay, sd=0.1)
    spectrum = image.spectrum.detach().double().numpy()
    expected = numpy_to_rgb(numpy_fourier(spectrum[..., 0] + 1j * spectrum[..., 1], size, decay))
    shown = image().detach().numpy()
    assert shown.shape == (2, 3, *size)
    np.testing.assert_allclose(shown, expected, atol=2e-5)


@pytest.mark.parametrize("size", [(5, 7), (6, 8), (1, 4)])
def test_fourier_is_a_sum_of_waves(size: tuple[int, int]) -> None:
    """Without any FFT: every coefficient adds its cosine and sine, twice where it has a mirror image."""
    height, width = size
    image = FourierImage([3], size, decay=1, decorrelated=False, sd=0.2)
    scale = spectrum_scale(size, 1.0).numpy()
    spectrum = image.spectrum[0, 0].detach().double().numpy()
    rows, columns = np.mgrid[:height, :width]
    total = np.zeros(size)
    for i in range(height):
        for j in range(width // 2 + 1):
            twice = 1 if j == 0 or 2 * j == width else 2
            wave = np.exp(2j * np.pi * (i * rows / height + j * columns / width))
            total += twice * scale[i, j] * ((spectrum[i, j, 0] + 1j * spectrum[i, j, 1]) * wave).real
    expected = 1 / (1 + np.exp(-total / (height * width) / 4))
    np.testing.assert_allclose(image()[0, 0].detach(), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (7, 12), (9, 5)])
def test_frequencies_are_those_of_numpy(size: tuple[int, int]) -> None:
    rows, columns = np.fft.fftfreq(size[0]), np.fft.rfftfreq(size[1])
    np.testing.assert_allclose(frequencies(size), np.hypot(rows[:, None], columns[None]))


@given(SIZES)
def test_with_decay_1_the_scale_is_lucids(size: tuple[int, int]) -> None:
    floor = 1 / max(size)
    expected = (size[0] * size[1]) ** 0.5 / np.maximum(frequencies(size).numpy(), floor)
    np.testing.assert_allclose(spectrum_scale(size, 1.0), expected)


@pytest.mark.parametrize("decay", [0.5, 1.0, 1.5, 2.0])
def test_contrast_is_the_same_for_all_sizes(decay: float) -> None:
    """Coarse coefficients of the same value make waves of the same height, whatever the picture's size."""
    heights = [spectrum_scale((n, n), decay)[3, 4] / n**2 for n in (64, 96, 224)]
    np.testing.assert_allclose(heights, heights[0])


@pytest.mark.parametrize(("decay", "slope"), [(1.0, -1.0), (0.0, 0.0), (1.5, -1.5)])
def test_amplitudes_fall_with_frequency_as_promised(decay: float, slope: float) -> None:
    size = (96, 128)
    image = FourierImage(list(range(8)), size, decay=decay, decorrelated=False)
    raw = torch.logit(image().detach().double())
    amplitude = torch.fft.rfft2(raw, norm="ortho").abs().square().mean((0, 1)).sqrt()
    f = frequencies(size)
    inner = (f > 0.03) & (f < 0.5)
    inner[:, 0] = inner[:, -1] = False  # these columns are their own mirror images
    fitted = np.polyfit(f[inner].log().numpy(), amplitude[inner].log().numpy(), 1)[0]
    assert fitted == pytest.approx(slope, abs=0.05)


@BOTH
def test_start_has_the_standard_deviation_asked_for(make: Make) -> None:
    (values,) = make(list(range(4)), (64, 64), sd=0.03).parameters()
    assert values.std().item() == pytest.approx(0.03, rel=0.02)
    assert values.mean().item() == pytest.approx(0, abs=0.001)


@BOTH
def test_start_depends_on_the_items_own_seed_only(make: Make) -> None:
    (alone,) = make([5], (16, 18)).parameters()
    (first,) = make([5, 6, 7], (16, 18)).parameters()
    (last,) = make([9, 5, 5], (16, 18)).parameters()
    assert torch.equal(alone[0], first[0])
    assert torch.equal(alone[0], last[1])
    assert torch.equal(last[1], last[2])
    assert not torch.equal(last[0], last[1])
    one, two = make([5], (16, 18))().detach(), make([9, 5], (16, 18))().detach()
    torch.testing.assert_close(two[1], one[0], atol=1e-7, rtol=0)


@BOTH
def test_global_generator_is_neither_read_nor_moved(make: Make) -> None:
    torch.manual_seed(1)
    (first,) = make([0], (8, 8)).parameters()
    after = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(after, torch.get_rng_state())
    torch.manual_seed(2)
    (second,) = make([0], (8, 8)).parameters()
    assert torch.equal(first, second)


@BOTH
def test_items_do_not_share_gradients(make: Make) -> None:
    image = make([0, 1, 2], (6, 5))
    image()[1].square().sum().backward()
    (values,) = image.parameters()
    assert values.grad is not None
    assert values.grad[1].any()
    assert not values.grad[[0, 2]].any()


def test_fourier_gradient_is_that_of_finite_differences() -> None:
    image = FourierImage([0], (4, 5)).double()
    weights = torch.randn(1, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def value(spectrum: torch.Tensor) -> torch.Tensor:
        return (torch.func.functional_call(image, {"spectrum": spectrum}, ()) * weights).sum()

    assert torch.autograd.gradcheck(value, image.spectrum.detach().requires_grad_())


def test_pixels_agree_with_numpy() -> None:
    image = PixelImage([4], (3, 5), sd=1.0)
    np.testing.assert_allclose(image().detach(), numpy_to_rgb(image.pixels.detach().numpy()), atol=2e-5)


def test_found_by_name_or_as_they_are() -> None:
    assert find_parametrization("fourier") is FourierImage
    assert find_parametrization(PixelImage) is PixelImage
    with pytest.raises(ValueError, match="fourier, pixels"):
        find_parametrization("furrier")
    with pytest.raises(ValueError, match="at least one seed"):
        FourierImage([], (4, 4))
