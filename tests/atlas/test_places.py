"""The cell of a map where a unit fired, as a rectangle in the model's view and in the original image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from neurolab.atlas.arrays import Exemplar, view_to_image
from neurolab.errors import AtlasError


def exemplar(
    row: int | None, column: int | None, grid: tuple[int, int] | None, size: tuple[int, int]
) -> Exemplar:
    return Exemplar(0, "key", 1.0, 0, row, column, grid, (), {}, *size)


def resize_and_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """The usual preparation of a square or other input: scale to just cover it, cut out the centre."""
    scale = min(image.width / width, image.height / height)
    scaled = image.resize((round(image.width / scale), round(image.height / scale)), Image.Resampling.BOX)
    left, top = round((scaled.width - width) / 2), round((scaled.height - height) / 2)
    return scaled.crop((left, top, left + width, top + height))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (256, 256), (640, 100)])
@pytest.mark.parametrize("view", [(64, 64), (64, 96)])
def test_the_box_holds_what_the_cell_saw(size: tuple[int, int], view: tuple[int, int]) -> None:
    """Paint the box white in the original: exactly that cell of the model's view must turn white."""
    grid = (4, 4)
    for row in range(4):
        for column in range(4):
            found = exemplar(row, column, grid, size).box_in_image(view)
            assert found is not None
            x0, y0, x1, y1 = (round(v * size[i % 2]) for i, v in enumerate(found))
            pixels = np.zeros((size[1], size[0]), np.uint8)
            pixels[y0:y1, x0:x1] = 255
            seen = np.asarray(resize_and_crop(Image.fromarray(pixels), *view), np.float64)
            cells = seen.reshape(4, view[0] // 4, 4, view[1] // 4).mean((1, 3)) / 255
            assert cells[row, column] > 0.85
            assert cells.sum() - cells[row, column] < 0.35


def test_the_box_in_the_view() -> None:
    assert exemplar(1, 2, (2, 4), (10, 10)).box() == (0.5, 0.5, 0.75, 1.0)
    assert exemplar(None, None, None, (10, 10)).box() is None
    assert exemplar(None, None, (2, 4), (10, 10)).box_in_image((64, 64)) is None


def test_modes() -> None:
    box = (0.0, 0.25, 0.5, 1.0)
    assert view_to_image(box, (200, 100), (64, 64), "squash") == box
    assert view_to_image(box, (200, 100), (64, 64), "shortest") == (0.25, 0.25, 0.5, 1.0)
    # Padded above and below: the view spans twice the image's height, and is cut to the image.
    assert view_to_image(box, (200, 100), (64, 64), "longest") == (0.0, 0.0, 0.5, 1.0)
    with pytest.raises(AtlasError, match="resize mode"):
        view_to_image(box, (200, 100), (64, 64), "shortset")


@given(st.integers(1, 2000), st.integers(1, 2000), st.sampled_from(["shortest", "longest", "squash"]))
def test_the_whole_view_is_centred_and_inside_the_image(width: int, height: int, mode: str) -> None:
    x0, y0, x1, y1 = view_to_image((0, 0, 1, 1), (width, height), (64, 96), mode)
    assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
    assert x0 + x1 == pytest.approx(1) and y0 + y1 == pytest.approx(1)
    assert max(x1 - x0, y1 - y0) == pytest.approx(1)  # nothing is lost along one of the axes


@given(st.integers(2, 60), st.integers(2, 60))
def test_neighbouring_cells_touch(width: int, height: int) -> None:
    assume(width != height)
    cells = [exemplar(0, column, (1, 3), (width, height)).box_in_image((9, 9)) for column in range(3)]
    for left, right in itertools.pairwise(cells):
        assert left is not None and right is not None and left[2] == pytest.approx(right[0])
