import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurolab.featurevis.parametrizations.base import frequencies
from neurolab.featurevis.parametrizations.fourier import FourierImage, spectrum_scale
from tests.featurevis.test_colour import numpy_to_rgb

SIZES = st.tuples(st.integers(1, 23), st.integers(1, 23))


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
    expected = numpy_fourier(spectrum[..., 0] + 1j * spectrum[..., 1], size, decay)
    shown = image().detach().numpy()
    assert shown.shape == (2, 3, *size)
    # Float32 rounds in proportion to what is squashed into colours, which grows with the size and the decay.
    rounding = 1e-6 + 3e-6 * np.abs(expected).max()
    np.testing.assert_allclose(shown, numpy_to_rgb(expected), atol=rounding)


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


def test_fourier_gradient_is_that_of_finite_differences() -> None:
    image = FourierImage([0], (4, 5)).double()
    weights = torch.randn(1, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def value(spectrum: torch.Tensor) -> torch.Tensor:
        return (torch.func.functional_call(image, {"spectrum": spectrum}, ()) * weights).sum()

    assert torch.autograd.gradcheck(value, image.spectrum.detach().requires_grad_())
