"""Written words: fonts that every machine has, words wholly inside the picture, and legible."""

from __future__ import annotations

import itertools
import string
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from neurolab.data.canvas import backdrop, contrast, luminance
from neurolab.data.text import (
    FONT_NAMES,
    Plate,
    fonts,
    load_font,
    render_word,
    split_lines,
    word_picture,
)
from neurolab.errors import SourceError

WHITE = (255, 255, 255)
words = st.text(string.ascii_letters + string.digits + "&-", min_size=1, max_size=14)
phrases = st.lists(words, min_size=1, max_size=4).map(" ".join)


def ink(image: Image.Image, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """Where a picture differs from its background."""
    return np.abs(np.asarray(image.convert("RGB")).astype(int) - background).max(axis=2) > 40


def glyph_mask(image: Image.Image, size: tuple[int, int] = (24, 72)) -> np.ndarray:
    """The ink of a picture, cut out and brought to one size."""
    mask = ink(image)
    rows, columns = np.nonzero(mask)
    cut = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    resized = Image.fromarray((cut * 255).astype(np.uint8)).resize(size[::-1], Image.Resampling.BOX)
    return np.asarray(resized).astype(float).ravel()


def test_fonts_come_with_matplotlib_and_have_the_letters() -> None:
    paths = fonts()
    assert 8 <= len(paths) <= 12 and [path.stem for path in paths] == list(FONT_NAMES)
    package = Path(matplotlib.__file__).parent
    for path in paths:
        assert path.is_relative_to(package)
        assert {ord(c) for c in string.ascii_letters + string.digits} <= set(TTFont(path).getBestCmap())


def test_faces_differ() -> None:
    pictures = {name: render_word("Quagmire", font=name).tobytes() for name in FONT_NAMES}
    assert len(set(pictures.values())) == len(FONT_NAMES)
    assert render_word("Quagmire", font=fonts()[3]).tobytes() == pictures[FONT_NAMES[3]]


@settings(max_examples=60, deadline=None)
@given(
    phrases, st.sampled_from(FONT_NAMES), st.none() | st.integers(12, 300), st.tuples(*[st.floats(0, 1)] * 2)
)
def test_words_lie_wholly_inside(
    word: str, font: str, font_size: int | None, position: tuple[float, float]
) -> None:
    mask = ink(render_word(word, (120, 160), font=font, font_size=font_size, position=position))
    assert mask.any()
    border = np.ones_like(mask)
    border[1:-1, 1:-1] = False
    assert not (mask & border).any()


@settings(max_examples=40, deadline=None)
@given(phrases, st.sampled_from(FONT_NAMES), st.floats(-20, 20))
def test_plates_lie_wholly_inside(word: str, font: str, angle: float) -> None:
    plate = Plate((200, 0, 0), WHITE, 0.5)
    mask = ink(render_word(word, (140, 140), font=font, plate=plate, colour=WHITE, angle=angle), WHITE)
    assert mask.any()
    assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()


@settings(max_examples=150, deadline=None)
@given(phrases, st.integers(1, 4))
def test_split_lines_is_the_best_split(phrase: str, most: int) -> None:
    parts = phrase.split()
    best = min(
        max(len(" ".join(parts[a:b])) for a, b in itertools.pairwise((0, *cuts, len(parts))))
        for count in range(min(most, len(parts)))
        for cuts in itertools.combinations(range(1, len(parts)), count)
    )
    lines = split_lines(phrase, most)
    assert " ".join(lines) == " ".join(parts)
    assert len(lines) <= most and max(map(len, lines)) == best


def test_font_size_is_in_pixels_per_em() -> None:
    heights = []
    for size in (20, 40, 80):
        rows = np.nonzero(ink(render_word("H", font="DejaVuSans", font_size=size)))[0]
        heights.append(rows.max() - rows.min() + 1)
    face = TTFont(fonts()[0])
    capital = face["glyf"]["H"].yMax / face["head"].unitsPerEm
    assert np.abs(np.array(heights) - capital * np.array([20, 40, 80])).max() <= 1.5


def test_position_moves_the_word() -> None:
    corners = {}
    for x, y in itertools.product((0.0, 0.5, 1.0), repeat=2):
        rows, columns = np.nonzero(ink(render_word("cat", font_size=30, position=(x, y))))
        corners[x, y] = (columns.min(), 223 - columns.max(), rows.min(), 223 - rows.max())
    assert all(corners[0.0, y][0] < 20 for y in (0.0, 0.5, 1.0))
    assert all(corners[1.0, y][1] < 20 for y in (0.0, 0.5, 1.0))
    assert all(corners[x, 0.0][2] < 24 and corners[x, 1.0][3] < 24 for x in (0.0, 0.5, 1.0))
    left, right, _, _ = corners[0.5, 0.5]
    assert abs(left - right) <= 2


def test_angle_is_counterclockwise() -> None:
    rows, columns = np.nonzero(ink(render_word("mmmmmm", font_size=30, angle=20)))
    assert np.corrcoef(rows, columns)[0, 1] < -0.8  # up towards the right


def test_colours_plate_and_outline() -> None:
    image = np.asarray(
        render_word("III", colour=(0, 0, 250), background=(9, 9, 9), plate=Plate((240, 240, 0)), font_size=60)
    )
    assert tuple(image[0, 0]) == (9, 9, 9)
    seen = {tuple(c) for c in image.reshape(-1, 3)}
    assert {(240, 240, 0), (0, 0, 250)} <= seen
    outlined = np.asarray(render_word("III", outline=(255, 0, 0), background=(0, 90, 0), font_size=60))
    assert {(255, 0, 0), (0, 0, 0), (0, 90, 0)} <= {tuple(c) for c in outlined.reshape(-1, 3)}


def read_words(font: str, font_size: int, vocabulary: list[str]) -> int:
    """How many words, written small and halved, are nearest to their own large picture in the same face."""
    templates = np.stack([glyph_mask(render_word(word, font=font)) for word in vocabulary])
    right = 0
    for i, word in enumerate(vocabulary):
        small = render_word(word, font=font, font_size=font_size).resize((112, 112), Image.Resampling.BOX)
        right += int(((templates - glyph_mask(small)) ** 2).sum(axis=1).argmin()) == i
    return right


@pytest.mark.parametrize("font", FONT_NAMES)
def test_small_words_can_be_told_apart(font: str) -> None:
    """The smallest words of the demo set stay legible at half size; much smaller ones would not."""
    vocabulary = ["house", "mouse", "horse", "noise", "train", "brain", "drain", "grain", "queen", "green"]
    vocabulary += ["river", "liver", "zebra", "cobra"]
    assert read_words(font, 30, vocabulary) == len(vocabulary)
    assert read_words(font, 5, vocabulary) < len(vocabulary) - 2


def test_errors_say_what_to_do() -> None:
    with pytest.raises(SourceError, match="DejaVuSans-Bold"):
        render_word("cat", font="Comic Sans")
    with pytest.raises(SourceError, match="No font"):
        load_font(Path("no/such.ttf"), 20)
    for empty in ("", "   "):
        with pytest.raises(SourceError, match="nothing to write"):
            render_word(empty)


def test_word_picture_is_tight_and_transparent() -> None:
    picture = word_picture("cat", font_size=40)
    alpha = np.asarray(picture)[..., 3]
    assert picture.mode == "RGBA" and alpha[0, 0] == 0 and alpha.max() == 255
    columns = np.nonzero(alpha)[1]
    assert columns.min() < 10 and alpha.shape[1] - columns.max() < 10


def test_backdrop_and_contrast() -> None:
    graded = np.asarray(backdrop((50, 20), ((255, 255, 255), (0, 0, 0)))).astype(int)
    assert graded.shape == (50, 20, 3) and (np.diff(graded[:, 0, 0]) <= 0).all()
    assert graded[0].min() > 245 and graded[-1].max() < 10
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((255, 0, 0), WHITE) == contrast(WHITE, (255, 0, 0)) == pytest.approx(3.998, abs=0.01)
    assert luminance((119, 119, 119)) == pytest.approx(0.1845, abs=0.001)
