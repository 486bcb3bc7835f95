import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurolab.featurevis.colour import from_rgb
from neurolab.featurevis.parametrizations.maco import MacoImage
from neurolab.featurevis.spectrum import Spectrum
from tests.featurevis.test_colour import numpy_to_rgb

SIZES = st.tuples(st.integers(1, 17), st.integers(1, 17))


def small_spectrum(side: int = 16, seed: int = 0) -> Spectrum:
    rng = np.random.default_rng(seed)
    rows, columns = np.abs(np.fft.fftfreq(side))[:, None], np.fft.rfftfreq(side)[None]
    magnitude = rng.uniform(0.5, 1, (3, side, side // 2 + 1)) / np.maximum(np.hypot(rows, columns), 1 / side)
    return Spectrum((magnitude / 100).astype(np.float32), 5, "made")


@given(SIZES, st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_the_magnitudes_are_those_of_the_spectrum(size: tuple[int, int], seed: int) -> None:
    """Of the finished picture, whatever the phases: those of the real coefficients are at most so."""
    image = MacoImage([seed], size, spectrum=small_spectrum())
    with torch.no_grad():
        image.phase.copy_(torch.randn(image.phase.shape, generator=torch.Generator().manual_seed(seed)) * 9)
    found = np.abs(np.fft.rfft2(from_rgb(image().detach().permute(0, 2, 3, 1).numpy()), norm="ortho"))[0]
    wanted = image.magnitude.numpy()
    real = np.zeros(wanted.shape[1:], bool)
    rows = [0, size[0] // 2] if size[0] % 2 == 0 else [0]
    columns = [0, size[1] // 2] if size[1] % 2 == 0 else [0]
    real[np.ix_(rows, columns)] = True
    np.testing.assert_allclose(found[:, ~real], wanted[:, ~real], atol=1e-3, rtol=1e-3)
    assert (found[:, real] <= wanted[:, real] * 1.001 + 1e-3).all()
    np.testing.assert_allclose(found[:, 0, 0], 0, atol=1e-3)  # no mean: as bright as dark


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (8, 5)])
def test_it_agrees_with_numpy(size: tuple[int, int]) -> None:
    """A full spectrum, built coefficient by coefficient with its mirror images, through the plain ifft2."""
    height, width = size
    image = MacoImage([3], size, spectrum=small_spectrum())
    phase, magnitude = image.phase.detach()[0].double().numpy(), image.magnitude.double().numpy()
    full = np.zeros((3, height, width), complex)
    for i in range(height):
        for j in range(width // 2 + 1):
            edge, mirror = j == 0 or 2 * j == width, (-i % height, -j % width)
            angle = phase[:, i, j]
            if edge and mirror != (i, j):
                angle = angle - phase[:, mirror[0], j]
            value = magnitude[:, i, j] * np.exp(1j * angle)
            full[:, i, j] = value.real if mirror == (i, j) else value
            if not edge:
                full[:, mirror[0], mirror[1]] = value.conj()
    expected = np.fft.ifft2(full, norm="ortho")
    assert np.abs(expected.imag).max() < 1e-9
    np.testing.assert_allclose(image().detach()[0], numpy_to_rgb(expected.real[None])[0], atol=2e-5)


def test_phases_start_uniform() -> None:
    from scipy import stats

    values = MacoImage(list(range(4)), (48, 48), spectrum=small_spectrum()).phase.detach().flatten().numpy()
    assert stats.kstest(values, "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-6


def test_its_gradient_is_that_of_finite_differences() -> None:
    image = MacoImage([0], (4, 6), spectrum=small_spectrum()).double()
    weights = torch.randn(1, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def value(phase: torch.Tensor) -> torch.Tensor:
        return (torch.func.functional_call(image, {"phase": phase}, ()) * weights).sum()

    assert torch.autograd.gradcheck(value, image.phase.detach().requires_grad_())


def test_the_settings_name_the_spectrum() -> None:
    one, other = (MacoImage([0], (4, 4), spectrum=small_spectrum(seed=seed)) for seed in (0, 1))
    assert one.settings() != other.settings()
