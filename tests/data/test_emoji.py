"""OpenMoji's drawings: each is there, shows what it is called, and comes out as Pillow itself draws it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from neurolab.data.emoji import (
    Emoji,
    _font,
    _glyphs,
    draw_emoji,
    emoji_drawings,
    emoji_font_path,
    emoji_picture,
)
from neurolab.errors import SourceError

GROUPS = {
    "smileys-emotion", "people-body", "animals-nature", "food-drink", "travel-places", "activities",
    "objects", "symbols", "flags",
}  # fmt: skip


@pytest.fixture(scope="module")
def by_name() -> dict[str, Emoji]:
    return {emoji.name: emoji for emoji in emoji_drawings()}


def cover(text: str, pixels: int = 32) -> float:
    """Share of the canvas that a drawing covers."""
    return float((np.asarray(emoji_picture(text, pixels))[..., 3] > 127).mean())


def pillow_drawing(
    text: str, pixels: int, background: tuple[int, int, int], layout: ImageFont.Layout
) -> Image.Image:
    """The oracle: the package's font as it is, drawn straight onto the background."""
    canvas = Image.new("RGB", (pixels, pixels), background)
    font = ImageFont.truetype(str(emoji_font_path()), pixels * 1024 / 1320, layout_engine=layout)
    left = (pixels - font.getlength(text)) / 2
    ImageDraw.Draw(canvas).text((left, 0), text, font=font, anchor="la", embedded_color=True)
    return canvas


def shown(emoji: Emoji, pixels: int, background: tuple[int, int, int]) -> np.ndarray:
    canvas = Image.new("RGB", (pixels, pixels), background)
    picture = emoji_picture(emoji, pixels)
    canvas.paste(picture, (0, 0), picture)
    return np.asarray(canvas).astype(int)


def test_there_are_many_and_each_has_its_own_name() -> None:
    drawings = emoji_drawings()
    assert len(drawings) >= 1500
    assert len({emoji.name for emoji in drawings}) == len(drawings)
    assert len({emoji.text for emoji in drawings}) == len(drawings)
    assert {emoji.group for emoji in drawings} == GROUPS
    assert all(emoji.concept == emoji.concept.lower().strip() != "" for emoji in drawings)


def test_the_list_is_a_copy() -> None:
    emoji_drawings().clear()
    assert emoji_drawings()


@pytest.mark.parametrize(
    ("name", "concept", "group"),
    [
        ("red apple", "apple", "food-drink"),
        ("dog face", "dog", "animals-nature"),
        ("dog", "dog", "animals-nature"),
        ("angry face", "angry", "smileys-emotion"),
        ("flag of France", "france", "flags"),
        ("flag of the United States", "united states", "flags"),
        ("astronaut", "astronaut", "people-body"),
        ("person swimming", "swimming", "people-body"),
        ("three o'clock", "clock", "travel-places"),
        ("jellyfish", "jellyfish", "animals-nature"),  # Unicode 15: Python 3.11 does not know it
    ],
)
def test_names_concepts_groups(by_name: dict[str, Emoji], name: str, concept: str, group: str) -> None:
    assert (by_name[name].concept, by_name[name].group) == (concept, group)


def test_no_variants_of_tone_hair_or_direction(by_name: dict[str, Emoji]) -> None:
    for emoji in by_name.values():
        assert not any(0x1F3FB <= code <= 0x1F3FF or 0x1F9B0 <= code <= 0x1F9B3 for code in emoji.codepoints)
        assert "facing right" not in emoji.name


def test_every_drawing_shows_something_and_not_the_missing_glyph() -> None:
    size = 32
    font = _font(2 * size * 1024 / 1320)
    missing = Image.new("RGBA", (2 * size, 2 * size))
    ImageDraw.Draw(missing).text((0, 0), "\U0010ffff", font=font, anchor="la", embedded_color=True)
    absent = missing.resize((size, size)).tobytes()
    # A dash covers least; what the font does not have covers nothing and is refused.
    assert all(cover(emoji.text, size) > 0.01 for emoji in emoji_drawings())
    assert all(emoji_picture(emoji, size).tobytes() != absent for emoji in emoji_drawings()[::5])
    for text in ("\U0010ffff", "\u200d", "\ufe0f", "\ue0ff\ue0ff", "apple", ""):
        with pytest.raises(SourceError, match="no drawing"):
            emoji_picture(text, size)


@pytest.mark.parametrize("name", ["red apple", "zebra", "snowman", "right arrow", "guitar"])
def test_single_drawings_agree_with_pillow(by_name: dict[str, Emoji], name: str) -> None:
    pixels, background = 96, (250, 120, 60)
    oracle = pillow_drawing(by_name[name].text, 2 * pixels, background, ImageFont.Layout.BASIC)
    expected = np.asarray(oracle.resize((pixels, pixels), Image.Resampling.BOX)).astype(int)
    assert np.abs(shown(by_name[name], pixels, background) - expected).max() <= 4


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow forms ligatures only with libraqm and fribidi")
@pytest.mark.parametrize("name", ["flag of Brazil", "astronaut", "service dog", "heart on fire", "keycap 7"])
def test_sequences_agree_with_pillow_and_raqm(by_name: dict[str, Emoji], name: str) -> None:
    pixels, background = 96, (255, 255, 255)
    assert len(by_name[name].codepoints) > 1
    oracle = pillow_drawing(by_name[name].text, 2 * pixels, background, ImageFont.Layout.RAQM)
    expected = np.asarray(oracle.resize((pixels, pixels), Image.Resampling.BOX)).astype(int)
    assert np.abs(shown(by_name[name], pixels, background) - expected).max() <= 4


def test_edges_have_no_dark_fringe(by_name: dict[str, Emoji]) -> None:
    """Taking premultiplied colours for plain ones is far off at the edges of a drawing without outline."""
    emoji, pixels, background = by_name["COOL button"], 96, (255, 255, 255)
    oracle = pillow_drawing(emoji.text, 2 * pixels, background, ImageFont.Layout.BASIC)
    expected = np.asarray(oracle.resize((pixels, pixels), Image.Resampling.BOX)).astype(int)
    right = emoji_picture(emoji, pixels)
    naive = Image.frombytes("RGBA", right.size, right.convert("RGBa").tobytes())
    canvas = Image.new("RGB", right.size, background)
    canvas.paste(naive, (0, 0), naive)
    assert np.abs(shown(emoji, pixels, background) - expected).max() <= 4
    assert np.abs(np.asarray(canvas).astype(int) - expected).max() > 30


def test_flags_have_their_colours(by_name: dict[str, Emoji]) -> None:
    france = np.asarray(draw_emoji(by_name["flag of France"])).astype(int)
    left, middle, right = (france[112, x] for x in (40, 112, 184))
    assert left.argmax() == 2 and right.argmax() == 0 and middle.min() > 240
    japan = np.asarray(draw_emoji(by_name["flag of Japan"])).astype(int)
    assert japan[112, 112].argmax() == 0 and japan[90, 60].min() > 240


@pytest.mark.parametrize("size", [(224, 224), (64, 100), (101, 63)])
def test_centred_on_its_background(by_name: dict[str, Emoji], size: tuple[int, int]) -> None:
    background = (10, 200, 90)
    image = draw_emoji(by_name["glasses"], size, background=background)
    assert image.mode == "RGB" and image.size == size[::-1]
    differs = (np.asarray(image) != background).any(axis=2)
    rows, columns = np.nonzero(differs)
    assert abs((rows.min() + rows.max() + 1) / 2 - size[0] / 2) <= 1.5
    assert abs((columns.min() + columns.max() + 1) / 2 - size[1] / 2) <= 1.5
    assert tuple(np.asarray(image)[0, 0]) == background


def test_scale_centre_and_backgrounds(by_name: dict[str, Emoji]) -> None:
    emoji = by_name["red apple"]
    small = np.asarray(draw_emoji(emoji, scale=0.4, centre=(0.25, 0.75))).astype(int)
    rows, columns = np.nonzero((small < 200).any(axis=2))
    assert rows.min() > 112 and columns.max() < 112
    graded = np.asarray(draw_emoji(emoji, background=((255, 0, 0), (0, 0, 255)))).astype(int)
    assert graded[0, 0].argmax() == 0 and graded[-1, 0].argmax() == 2
    photo = Image.new("RGB", (50, 20), (1, 2, 3))
    assert tuple(np.asarray(draw_emoji(emoji, background=photo))[0, 0]) == (1, 2, 3)


def test_pictures_are_the_callers_own(by_name: dict[str, Emoji]) -> None:
    first = emoji_picture(by_name["cat"], 40)
    expected = first.tobytes()
    first.paste((0, 0, 0, 0), (0, 0, 40, 40))
    assert emoji_picture(by_name["cat"], 40).tobytes() == expected


def test_the_patched_font_keeps_the_drawings() -> None:
    data, drawn = _glyphs()
    assert len(data) > 1_000_000
    assert drawn["🍎"] == "🍎"
    assert ord(drawn["🇫🇷"]) >= 0xF0000
