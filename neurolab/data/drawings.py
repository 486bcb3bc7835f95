"""The pictures of the demo set as small picklable values: calling one draws it.

Styles are chosen by neurolab.data.chance from the picture's name alone, so that they are the same on every
machine and do not change when other pictures come or go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from neurolab.data.canvas import Background, Colour, contrast
from neurolab.data.chance import between, fraction, pick
from neurolab.data.emoji import Emoji, draw_emoji
from neurolab.data.labels import INK, PAPER, paste_label
from neurolab.data.text import FONT_NAMES, Plate, render_word

PIXELS = 224
# Contrast by WCAG 2 that normal text needs to be easy to read.
LEAST_CONTRAST = 4.5

_WHITE: Colour = (255, 255, 255)
_PASTELS: tuple[Colour, ...] = (
    (253, 243, 219), (226, 240, 252), (228, 246, 228), (252, 230, 234), (240, 232, 250), (238, 238, 238),
    (255, 249, 205), (222, 244, 242), (250, 234, 220), (232, 232, 220),
)  # fmt: skip
_DEEP: tuple[Colour, ...] = (
    (24, 24, 28), (22, 60, 122), (150, 26, 34), (18, 92, 66), (88, 36, 110), (120, 62, 20), (40, 66, 80),
    (196, 84, 16), (0, 104, 150), (170, 24, 96),
)  # fmt: skip
_BRIGHT: tuple[Colour, ...] = (
    (255, 214, 10), (250, 166, 60), (126, 206, 100), (110, 198, 240), (255, 150, 170), (240, 240, 90),
)  # fmt: skip
_INKS: tuple[Colour, ...] = (
    (0, 0, 0), (255, 255, 255), (20, 24, 60), (150, 20, 30), (16, 70, 150), (0, 90, 50), (255, 226, 60),
    (255, 245, 225), (96, 30, 110), (110, 50, 10), (180, 230, 255),
)  # fmt: skip
# Sturdy faces, which stay legible when they are small.
_LABEL_FONTS = ("DejaVuSans-Bold", "DejaVuSansMono-Bold", "DejaVuSerif-Bold", "STIXGeneralBol", "DejaVuSans")


@dataclass(frozen=True)
class EmojiDrawing:
    """An OpenMoji drawing (its `text`) on a plain or softly graded background."""

    text: str
    background: Colour | tuple[Colour, Colour] = _WHITE

    def __call__(self) -> Image.Image:
        return draw_emoji(self.text, (PIXELS, PIXELS), background=self.background)


@dataclass(frozen=True)
class WordDrawing:
    """A written word; the fields are those of neurolab.data.text.render_word."""

    word: str
    font: str | Path = "DejaVuSans-Bold"
    colour: Colour = (0, 0, 0)
    background: Colour | tuple[Colour, Colour] = _WHITE
    font_size: int | None = None
    position: tuple[float, float] = (0.5, 0.5)
    plate: Plate | None = None
    outline: Colour | None = None
    angle: float = 0.0

    def __call__(self) -> Image.Image:
        return render_word(
            self.word, (PIXELS, PIXELS), font=self.font, colour=self.colour, background=self.background,
            font_size=self.font_size, position=self.position, plate=self.plate, outline=self.outline,
            angle=self.angle,
        )  # fmt: skip


@dataclass(frozen=True)
class LabelledDrawing:
    """A drawing with a paper label on it that says `word`; if `blank`, the label without the word."""

    clean: EmojiDrawing
    word: str
    font: str
    ink: Colour = INK
    width: float = 0.62
    centre: tuple[float, float] = (0.5, 0.66)
    angle: float = 0.0
    blank: bool = False

    def __call__(self) -> Image.Image:
        return paste_label(
            self.clean(), self.word, width=self.width, centre=self.centre, font=self.font, ink=self.ink,
            angle=self.angle, blank=self.blank,
        )  # fmt: skip


def style_emoji(emoji: Emoji) -> EmojiDrawing:
    """The drawing of an emoji on white (three in five), a pastel colour, or two graded into each other."""
    kind = fraction("backdrop", emoji.name)
    if kind < 0.6:
        return EmojiDrawing(emoji.text)
    first = pick(_PASTELS, "pastel", emoji.name)
    if kind < 0.82:
        return EmojiDrawing(emoji.text, first)
    second = pick([_WHITE, *(p for p in _PASTELS if p != first)], "second pastel", emoji.name)
    return EmojiDrawing(emoji.text, (first, second))


def style_word(word: str, number: int, faces: Sequence[str | Path] = FONT_NAMES) -> WordDrawing:
    """The `number`th picture of a word: a poster, a sign with a plate, or a small word anywhere on it.

    `faces` are the names or files of the fonts to choose from. Of a quarter of the words, number 0 is plain:
    black on white, in the middle.
    """
    name = (word, number)
    font = pick(faces, "font", *name)
    if number == 0 and fraction("plain", word) < 0.25:
        return WordDrawing(word, font)
    written = _cased(word, name)
    background, ground = _ground(name)
    style = fraction("style", *name)
    angle = round(between(-14, 14, "angle", *name), 1) if fraction("turned", *name) < 0.12 else 0.0
    if style < 0.2:
        plate = _plate(background, name)
        ink = _ink((plate.colour,), name)
        return WordDrawing(written, font, ink, background, None, (0.5, 0.5), plate, None, angle)
    ink = _ink(ground, name)
    if style < 0.3 and "Bold" in str(font):
        edge = (255, 255, 255) if contrast(ink, (0, 0, 0)) < contrast(ink, _WHITE) else (0, 0, 0)
        return WordDrawing(written, font, ink, background, None, (0.5, 0.5), None, edge, angle)
    if style < 0.55:
        place = (round(fraction("x", *name), 3), round(fraction("y", *name), 3))
        size = round(between(30, 48, "size", *name))
        return WordDrawing(written, font, ink, background, size, place, None, None, angle)
    height = round(between(0.25, 0.75, "height", *name), 3)
    return WordDrawing(written, font, ink, background, None, (0.5, height), None, None, angle)


def style_label(clean: EmojiDrawing, name: str, word: str, *, blank: bool = False) -> LabelledDrawing:
    """A label with `word` on the drawing of the emoji `name`; with `blank` the same without the word."""
    choice = (name, word)
    font = pick(_LABEL_FONTS, "label font", *choice)
    ink = pick((INK, INK, INK, (150, 20, 26), (20, 50, 130)), "label ink", *choice)
    width = round(between(0.54, 0.72, "label width", *choice), 3)
    centre = (
        round(between(0.42, 0.58, "label x", *choice), 3),
        round(between(0.66, 0.8, "label y", *choice), 3),
    )
    angle = round(between(-9, 9, "label angle", *choice), 1)
    return LabelledDrawing(clean, word, font, ink, width, centre, angle, blank)


def _cased(word: str, name: tuple[str, int]) -> str:
    kind = fraction("case", *name)
    return word if kind < 0.5 else word.title() if kind < 0.75 else word.upper()


def _ground(name: tuple[str, int]) -> tuple[Colour | tuple[Colour, Colour], tuple[Colour, ...]]:
    """A background, and the colours that a word on it may lie on."""
    kind = fraction("ground", *name)
    if kind < 0.4:
        return _WHITE, (_WHITE,)
    family = _PASTELS if kind < 0.65 else _DEEP if kind < 0.85 else _BRIGHT
    first = pick(family, "colour", *name)
    if fraction("graded", *name) < 0.7:
        return first, (first,)
    # Deep colours fade to black, others to white: the word stays legible all the way down.
    end = 0 if family is _DEEP else 255
    red, green, blue = (round(0.6 * channel + 0.4 * end) for channel in first)
    second = (red, green, blue)
    return (first, second), (first, second)


def _ink(ground: tuple[Colour, ...], name: tuple[str, int]) -> Colour:
    legible = [ink for ink in _INKS if min(contrast(ink, colour) for colour in ground) >= LEAST_CONTRAST]
    return pick(legible, "ink", *name)


def _plate(background: Background, name: tuple[str, int]) -> Plate:
    colours = [c for c in (_WHITE, PAPER, *_DEEP, *_BRIGHT) if c != background]
    colour = pick(colours, "plate", *name)
    edge = _ink((colour,), (f"edge of {name[0]}", name[1])) if fraction("edged", *name) < 0.6 else None
    return Plate(colour, edge, pick((0.0, 0.3, 1.0), "round", *name))
