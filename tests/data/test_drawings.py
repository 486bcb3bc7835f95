"""The demo set's pictures: not blank, legible, varied, all different."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from neurolab.data.canvas import contrast
from neurolab.data.decode import decode_image
from neurolab.data.demo import DemoSource
from neurolab.data.drawings import LEAST_CONTRAST, EmojiDrawing, WordDrawing
from neurolab.data.photos import PhotoCut
from neurolab.data.sources import Record
from neurolab.errors import SourceError


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(DemoSource())


@pytest.fixture(scope="module")
def by_key(records: list[Record]) -> dict[str, Record]:
    return {record.key: record for record in records}


def of_kind(records: list[Record], kind: str) -> list[Record]:
    return [record for record in records if record.labels["kind"] == kind]


def pixels(record: Record) -> np.ndarray:
    return np.asarray(decode_image(record.payload)).astype(int)


def test_pictures_are_what_they_should_be(records: list[Record]) -> None:
    for record in records[::23]:
        image = pixels(record)
        assert image.std() > 2, record.key
        if record.labels["kind"] != "photo":
            assert image.shape == (224, 224, 3)
    for record in of_kind(records, "photo"):
        image = pixels(record)
        assert min(image.shape[:2]) >= 48 and image.std() > 5, record.key


def test_most_drawings_are_on_white(records: list[Record]) -> None:
    drawings = [record.payload for record in of_kind(records, "drawing")]
    white = [d for d in drawings if isinstance(d, EmojiDrawing) and d.background == (255, 255, 255)]
    assert 0.5 < len(white) / len(drawings) < 0.7


def test_words_are_varied_and_their_colours_legible(records: list[Record]) -> None:
    styles = [record.payload for record in of_kind(records, "word")]
    for style in styles:
        assert isinstance(style, WordDrawing)
        grounds = [style.background] if isinstance(style.background[0], int) else list(style.background)
        under = [style.plate.colour] if style.plate else grounds
        assert min(contrast(style.colour, ground) for ground in under) >= LEAST_CONTRAST
        assert style.font_size is None or style.font_size >= 30
    for attribute in ("font", "colour", "background", "font_size", "position", "angle"):
        assert len({getattr(style, attribute) for style in styles}) >= 10
    plates = sum(style.plate is not None for style in styles)  # type: ignore[union-attr]
    assert 0.05 < plates / len(styles) < 0.4
    assert {style.word[:2].isupper() for style in styles} == {True, False}  # type: ignore[union-attr]


def test_labels_cover_a_part_and_controls_differ_by_the_word_only(
    records: list[Record], by_key: dict[str, Record]
) -> None:
    pairs = of_kind(records, "typographic")
    for attack, control in list(zip(pairs[::2], pairs[1::2], strict=True))[::16]:
        clean, written, blank = pixels(by_key[attack.labels["clean"]]), pixels(attack), pixels(control)
        covered = (written != clean).any(axis=2)
        assert 0.05 < covered.mean() < 0.35
        rows, columns = np.nonzero(covered)
        outside = np.ones_like(covered)
        outside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = False
        assert outside.mean() > 0.4
        ink = (written != blank).any(axis=2)
        assert 0.005 < ink.mean() < 0.15
        assert not (ink & outside).any()
        assert (blank.sum(axis=2)[ink] >= written.sum(axis=2)[ink]).mean() > 0.99  # ink only darkens paper


def test_photos_are_cut_from_installed_packages(records: list[Record]) -> None:
    photos = of_kind(records, "photo")
    files = {record.payload.path() for record in photos if isinstance(record.payload, PhotoCut)}
    assert len(files) >= 18 and all(path.is_file() for path in files)
    assert len({pixels(record).tobytes() for record in photos}) == len(photos)
    with pytest.raises(SourceError, match="lacks the photograph"):
        PhotoCut("skimage", "unicorn.png")()
    with pytest.raises(SourceError, match="not installed"):
        PhotoCut("no_such_package", "cat.png").path()


@pytest.mark.slow
def test_all_pictures_can_be_drawn_and_differ(records: list[Record]) -> None:
    seen = Counter(hashlib.sha256(decode_image(r.payload).tobytes()).hexdigest() for r in records)
    assert sum(seen.values()) - len(seen) < 10
