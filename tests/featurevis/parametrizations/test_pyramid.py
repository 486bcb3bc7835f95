import numpy as np
import pytest

from neurolab.featurevis.parametrizations.pyramid import PyramidImage, levels_of
from tests.featurevis.test_colour import numpy_to_rgb


def keys_kernel(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys' cubic convolution kernel (1981), with torch's a."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def enlarging(small: int, large: int) -> np.ndarray:
    """[large, small]: the weights of a bicubic enlargement; beyond the border its last value goes on."""
    places = (np.arange(large) + 0.5) * small / large - 0.5
    weights = np.zeros((large, small))
    for row, place in enumerate(places):
        for near in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            weights[row, min(max(near, 0), small - 1)] += keys_kernel(np.array(place - near))
    return weights


@pytest.mark.parametrize("size", [(9, 9), (7, 12), (16, 5)])
def test_it_agrees_with_numpy(size: tuple[int, int]) -> None:
    image = PyramidImage([1, 2], size, levels=4, sd=1.0)
    total = np.zeros((2, 3, *size))
    for level in image.levels:
        values = level.detach().double().numpy()
        rows, columns = enlarging(values.shape[2], size[0]), enlarging(values.shape[3], size[1])
        total += np.einsum("yi,bcij,xj->bcyx", rows, values, columns)
    np.testing.assert_allclose(image().detach(), numpy_to_rgb(total), atol=2e-5)


def test_levels_run_from_one_pixel_to_the_picture() -> None:
    sizes = levels_of((64, 64), 7)
    assert sizes == [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (64, 64)]
    assert levels_of((64, 64), 1) == [(64, 64)]
    tall = levels_of((64, 16), 5)
    assert tall[0] == (1, 1) and tall[-1] == (64, 16) and len(set(tall)) == len(tall)


def test_small_pictures_have_fewer_levels() -> None:
    assert levels_of((2, 2), 12) == [(1, 1), (2, 2)]
    with pytest.raises(ValueError, match="at least one level"):
        PyramidImage([0], (4, 4), levels=0)
