from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neurolab.data.sources import Record
from neurolab.data.text import FONT_NAMES, UNSEEN_FONT, load_font
from neurolab.training import pictures
from neurolab.training.pictures import (
    PACKAGED_FACES,
    PIXELS,
    frequent_phrases,
    pasted_records,
    training_faces,
    written_records,
)


class Blue:
    def __call__(self) -> Image.Image:
        return Image.new("RGB", (100, 80), (20, 60, 200))


def test_the_face_of_the_reading_test_is_never_trained_with() -> None:
    families = {load_font(face, 20).getname()[0] for face in training_faces()}
    assert load_font(UNSEEN_FONT, 20).getname()[0] == "Aileron" not in families
    assert len(families) >= 5


def test_faces_of_the_extra_are_used_where_they_are_installed() -> None:
    pytest.importorskip("font_lato", reason="the extra `train` is not installed")
    packaged = [face for face in training_faces() if isinstance(face, Path)]
    assert len(packaged) == sum(map(len, PACKAGED_FACES.values()))


def test_without_the_extra_the_faces_are_matplotlibs(monkeypatch: pytest.MonkeyPatch) -> None:
    training_faces.cache_clear()
    monkeypatch.setattr(pictures, "find_spec", lambda package: None)
    try:
        assert training_faces() == FONT_NAMES
    finally:
        training_faces.cache_clear()


def test_words_are_written_in_many_ways_and_each_is_legible() -> None:
    words = [f"{word}{ending}" for word in ("harbor", "seven", "lamp") for ending in "abcdefghijklmnopqrst"]
    records = list(written_records(words))
    assert [record.captions for record in records] == [(word,) for word in words]
    drawings = [record.payload for record in records]
    assert len({drawing.font for drawing in drawings}) > 15  # type: ignore[union-attr]
    assert len({(drawing.colour, drawing.background) for drawing in drawings}) > 30  # type: ignore[union-attr]
    drawn = [drawing() for drawing in drawings]  # type: ignore[operator]
    for picture in drawn:
        grey = np.asarray(picture.convert("L")).astype(int)
        assert picture.size == (PIXELS, PIXELS) and grey.max() - grey.min() > 60


def test_pasted_words_change_part_of_the_picture() -> None:
    photos = [Record(f"photo/{i}", Blue()) for i in range(40)]
    words = ["fork", "mountain"]
    covered = []
    for record in pasted_records(photos, words):
        assert record.key.rpartition("/")[2] in words
        picture = np.asarray(record.payload()).astype(int)  # type: ignore[operator]
        assert picture.shape == (PIXELS, PIXELS, 3)
        covered.append((np.abs(picture - (20, 60, 200)).max(axis=2) > 40).mean())
    assert min(covered) > 0.005 and max(covered) < 0.6


def test_frequent_phrases_neither_begin_nor_end_loosely() -> None:
    captions = ["A brown dog runs on the beach", "The brown dog on the beach", "A dog on a red bike"]
    phrases = frequent_phrases(captions, 100)
    assert phrases[0] == "brown dog" and "red bike" in phrases and "dog on the" not in phrases
    assert frequent_phrases(captions, 1) == ["brown dog"]
