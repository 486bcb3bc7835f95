"""Paper labels: wholly on the picture, the original untouched, the blank one the same paper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from neurolab.data.labels import INK, PAPER, paper_label, paste_label
from neurolab.errors import SourceError

GREEN = Image.new("RGB", (150, 110), (0, 160, 60))


def test_a_label_is_paper_with_ink_and_a_shadow() -> None:
    label = paper_label("pizza", 120)
    pixels = np.asarray(label).astype(int)
    assert label.mode == "RGBA" and 120 <= label.width <= 140
    solid = pixels[pixels[..., 3] == 255][:, :3]
    assert np.abs(solid.max(axis=0) - PAPER).max() <= 2
    assert np.abs(solid.min(axis=0) - INK).max() <= 12
    alpha = pixels[..., 3]
    assert alpha[0, 0] == 0 and ((alpha > 0) & (alpha < 120)).sum() > 50
    # The light comes from above left: below the paper there is more shadow than above it.
    shadow = np.where(alpha < 120, alpha, 0)
    assert shadow[-10:].sum() > 2 * shadow[:10].sum()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["ox", "fire truck", "extraordinarily", "I"]),
    st.floats(0.2, 0.8),
    st.tuples(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5)),
    st.floats(-30, 30),
)
def test_blank_is_the_same_paper(word: str, width: float, centre: tuple[float, float], angle: float) -> None:
    before = GREEN.tobytes()
    written = np.asarray(paste_label(GREEN, word, width=width, centre=centre, angle=angle)).astype(int)
    blank = np.asarray(paste_label(GREEN, word, width=width, centre=centre, angle=angle, blank=True)).astype(
        int
    )
    assert GREEN.tobytes() == before
    assert written.shape == blank.shape == (110, 150, 3)
    ink = (written != blank).any(axis=2)
    assert ink.any() and (blank[ink].min(axis=1) > 190).mean() > 0.95  # what the ink hides is paper
    assert (blank != (0, 160, 60)).any(axis=2).sum() >= 1.5 * ink.sum()


def test_a_label_grows_with_its_width_and_lies_at_its_centre() -> None:
    areas = []
    for width in (0.3, 0.5, 0.8):
        image = np.asarray(paste_label(GREEN, "cat", width=width, centre=(0.5, 0.5)))
        rows, columns = np.nonzero((image != (0, 160, 60)).any(axis=2))
        areas.append(len(rows))
        assert abs(columns.mean() - 75) < 4 and abs(rows.mean() - 55) < 4
    assert areas[0] < areas[1] < areas[2]
    corner = np.asarray(paste_label(GREEN, "cat", width=0.3, centre=(0.0, 0.0)))
    assert (np.nonzero((corner != (0, 160, 60)).any(axis=2))[0]).max() < 40


def test_other_modes_and_errors() -> None:
    assert paste_label(Image.new("L", (60, 60)), "cat").mode == "RGB"
    with pytest.raises(SourceError, match="blank=True"):
        paste_label(GREEN, " ")
    with pytest.raises(SourceError, match="No font"):
        paste_label(GREEN, "cat", font="Comic Sans")
