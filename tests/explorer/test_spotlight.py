"""The mark lies on the place that excites, also where the model sees only a part of the picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from neurolab.atlas.arrays import Exemplar
from neurolab.data.decode import resize_crop
from neurolab.explorer.spotlight import STYLES, mark
from tests.explorer.sample_atlas import SampleImage

GRID = (8, 8)
MODEL = (64, 64)


def picture_with_spot(size: tuple[int, int], spot: tuple[int, int]) -> Image.Image:
    """A grey picture with a red square of 10 pixels around `spot`."""
    picture = Image.new("RGB", size, (150, 150, 150))
    ImageDraw.Draw(picture).rectangle((spot[0] - 5, spot[1] - 5, spot[0] + 5, spot[1] + 5), fill=(255, 0, 0))
    return picture


def redness(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 0].astype(int) - pixels[..., 1]


def exemplar_of(picture: Image.Image) -> Exemplar:
    """An exemplar whose place is the reddest cell of what a model sees after its own preprocessing."""
    seen = redness(resize_crop(picture, MODEL))
    cells = seen.reshape(GRID[0], MODEL[0] // GRID[0], GRID[1], MODEL[1] // GRID[1]).sum(axis=(1, 3))
    row, column = np.unravel_index(cells.argmax(), GRID)
    place = int(row) * GRID[1] + int(column)
    return Exemplar(0, "k", 1.0, place, int(row), int(column), GRID, (), {}, *picture.size)


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def distance_of_brightest_from_spot(thumbnail: bytes, marked: bytes) -> float:
    """Between the middle of what was not darkened and the middle of the red square, in pixels."""
    before, after = pixels(thumbnail), pixels(marked)
    kept = after.sum(axis=2) >= before.sum(axis=2) - 40
    middle = np.argwhere(kept).mean(axis=0)
    spot = np.argwhere(redness(before) > 100).mean(axis=0)
    return float(np.abs(middle - spot).max())


CASES = [((200, 100), (70, 30)), ((200, 100), (140, 80)), ((90, 180), (20, 60)), ((120, 120), (100, 20))]


@pytest.mark.parametrize(("size", "spot"), CASES)
def test_the_mark_lies_on_what_excites(size: tuple[int, int], spot: tuple[int, int]) -> None:
    picture = picture_with_spot(size, spot)
    thumbnail = SampleImage("k", picture).thumbnail
    exemplar = exemplar_of(picture)
    marked = mark(thumbnail, exemplar.box_in_image(MODEL), "spotlight")
    assert distance_of_brightest_from_spot(thumbnail, marked) <= 14  # a cell is at most 20 pixels here


@pytest.mark.parametrize(("size", "spot"), CASES[:3])
def test_taking_the_whole_picture_for_the_view_would_miss_it(
    size: tuple[int, int], spot: tuple[int, int]
) -> None:
    picture = picture_with_spot(size, spot)
    thumbnail = SampleImage("k", picture).thumbnail
    marked = mark(thumbnail, exemplar_of(picture).box_in_image(MODEL, "squash"), "spotlight")
    assert distance_of_brightest_from_spot(thumbnail, marked) > 14


def test_an_outline_leaves_the_rest_alone_and_the_size_stays() -> None:
    thumbnail = SampleImage("k", picture_with_spot((160, 100), (80, 50))).thumbnail
    before, after = pixels(thumbnail), pixels(mark(thumbnail, (0.4, 0.4, 0.6, 0.6), "outline"))
    assert before.shape == after.shape
    changed = np.abs(before - after).max(axis=2) > 60
    rows, columns = np.nonzero(changed)
    assert rows.min() >= 30 and rows.max() <= 70 and columns.min() >= 55 and columns.max() <= 105
    assert changed.sum() > 50
    assert np.abs(before - after)[:20].max() <= 24  # only the compression differs


@pytest.mark.parametrize("place", [(0.0, 0.0, 0.02, 0.02), (0.98, 0.98, 1.0, 1.0), (0.49, 0.0, 0.5, 0.01)])
def test_a_tiny_place_at_the_edge_is_ringed_inside_the_picture(
    place: tuple[float, float, float, float],
) -> None:
    thumbnail = SampleImage("k", Image.new("RGB", (100, 60), (10, 60, 10))).thumbnail
    after = pixels(mark(thumbnail, place, "spotlight"))
    white = np.argwhere((after > 200).all(axis=2))
    assert len(white) > 30
    assert (white.max(axis=0) - white.min(axis=0)).min() >= 10


def test_without_a_place_nothing_is_marked() -> None:
    thumbnail = SampleImage("k", picture_with_spot((100, 100), (30, 30))).thumbnail
    assert mark(thumbnail, None) == thumbnail
    assert mark(thumbnail, (0.1, 0.1, 0.3, 0.3), "plain") == thumbnail
    assert mark(thumbnail, (0.0, 0.0, 1.0, 1.0), "spotlight") == thumbnail


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(ValueError, match=", ".join(STYLES)):
        mark(b"", None, "glow")
