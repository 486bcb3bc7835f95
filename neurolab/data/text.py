"""Written words as pictures: posters, signs and labels in the fonts that the package matplotlib brings.

No font of the system is used, so a word looks the same on every machine. The fonts: DejaVu (a free licence
derived from Bitstream Vera's), STIX (SIL Open Font License) and Computer Modern (BaKoMa).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from neurolab.data.canvas import Background, Colour, backdrop
from neurolab.errors import SourceError

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)

# Upright and slanted, sans and serif, proportional and typewriter: each has all ASCII letters and digits.
FONT_NAMES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralBolIta",
    "cmr10",
    "cmss10",
)
# Aileron, the face inside Pillow. Nothing is drawn or trained with it, so it tests reading in a new face.
UNSEEN_FONT = "Aileron"
_SUPERSAMPLING = 2
# Shares of the picture: the margin kept free beside a word, the largest font size where none is asked for,
# how much of either side a word with its plate may take, and how near to the edge it may be placed.
_MARGIN = 0.06
_LARGEST = 0.34
_REACH = 0.97
_EDGE = 0.03


def fonts() -> list[Path]:
    """The files of the twelve text faces, in the order of FONT_NAMES; a face's name is its file's stem."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise SourceError("The fonts come with the package matplotlib, which is not installed.")
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    paths = [folder / f"{name}.ttf" for name in FONT_NAMES]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise SourceError(f"matplotlib lacks {', '.join(missing)} in {folder}: reinstall it.")
    return paths


@lru_cache(maxsize=1)
def _font_files() -> dict[str, Path]:
    return {path.stem: path for path in fonts()}


@lru_cache(maxsize=256)
def load_font(font: str | Path, pixels: int) -> ImageFont.FreeTypeFont:
    """A face by name (FONT_NAMES, UNSEEN_FONT) or file, in pixels per em. SourceError if there is none."""
    if font == UNSEEN_FONT:
        face = ImageFont.load_default(pixels)
        assert isinstance(
            face, ImageFont.FreeTypeFont
        )  # Pillow gives a bitmap only where FreeType is lacking
        return face
    path = Path(font) if isinstance(font, Path) else _font_files().get(font)
    if path is None or not path.is_file():
        raise SourceError(f"No font {str(font)!r}: use {', '.join(FONT_NAMES)}, or the path of a font file.")
    return ImageFont.truetype(str(path), pixels, layout_engine=ImageFont.Layout.BASIC)


@dataclass(frozen=True)
class Plate:
    """A board behind a word: its `colour`, the line at its `edge` (None: none), how round it is (0 to 1)."""

    colour: Colour
    edge: Colour | None = None
    roundness: float = 0.0


def split_lines(word: str, most: int = 3) -> list[str]:
    """`word` on up to `most` lines, broken at spaces such that the longest line is as short as can be."""
    parts = word.split()
    if len(parts) < 2 or most < 2:
        return [" ".join(parts)]
    best = [" ".join(parts)]
    for i in range(1, len(parts)):
        tail = split_lines(" ".join(parts[i:]), most - 1)
        lines = [" ".join(parts[:i]), *tail]
        if max(map(len, lines)) < max(map(len, best)):
            best = lines
    return best


def _block(lines: list[str], font: ImageFont.FreeTypeFont) -> tuple[int, int, int]:
    """Width and height of lines set in `font`, from the tallest letter's top, and the step between lines."""
    top, bottom = font.getbbox("Ahg", anchor="ls")[1::2]
    step = round(1.12 * (bottom - top))
    boxes = [font.getbbox(line, anchor="ls") for line in lines]
    width = max(box[2] - min(0, box[0]) for box in boxes)
    return round(width), round(bottom - top) + step * (len(lines) - 1), step


def fitting_size(lines: list[str], font: str | Path, room: tuple[float, float], largest: float) -> int:
    """The largest font size, at most `largest`, with which `lines` fit into `room` (width, height) pixels."""
    reference = 100
    width, height, _ = _block(lines, load_font(font, reference))
    return max(1, int(min(largest, reference * room[0] / width, reference * room[1] / height)))


def word_picture(
    word: str, font: str | Path = "DejaVuSans-Bold", font_size: int = 48, colour: Colour = BLACK,
    *, plate: Plate | None = None, outline: Colour | None = None, angle: float = 0.0,
) -> Image.Image:  # fmt: skip
    """A word alone, tightly cut: RGBA, transparent around it; to paste on other pictures.

    Spaces become line breaks where that makes the word more compact. `outline` is a colour drawn around the
    letters, `angle` turns the whole counterclockwise, in degrees. Raises SourceError for an empty word.
    """
    lines = split_lines(word)
    if not lines[0]:
        raise SourceError(f"There is nothing to write in {word!r}: give a word with a visible character.")
    face = load_font(font, font_size * _SUPERSAMPLING)
    stroke = max(1, round(0.05 * face.size)) if outline else 0
    pad = round((0.42 if plate else 0.10) * face.size) + stroke
    width, height, step = _block(lines, face)
    out = Image.new("RGBA", (width + 2 * pad, height + 2 * pad), (*(plate.colour if plate else colour), 0))
    draw = ImageDraw.Draw(out)
    if plate:
        _draw_plate(draw, out.size, plate, face.size)
    baseline = pad - face.getbbox("Ahg", anchor="ls")[1]
    for i, line in enumerate(lines):
        place = (out.width / 2, baseline + i * step)
        draw.text(place, line, fill=colour, font=face, anchor="ms", stroke_width=stroke, stroke_fill=outline)
    if angle:
        out = out.rotate(angle, resample=Image.Resampling.BILINEAR, expand=True)
    return out.reduce(_SUPERSAMPLING)


def _draw_plate(draw: ImageDraw.ImageDraw, size: tuple[int, int], plate: Plate, em: float) -> None:
    box = (0, 0, size[0] - 1, size[1] - 1)
    edge = round(0.07 * em)
    radius = plate.roundness * min(0.8 * em, min(size) / 2)  # no rounder than a single line allows
    draw.rounded_rectangle(box, radius, fill=plate.colour)
    if plate.edge:
        inner = (edge, edge, box[2] - edge, box[3] - edge)
        draw.rounded_rectangle(inner, max(0.0, radius - edge), outline=plate.edge, width=edge)


def render_word(
    word: str,
    size: tuple[int, int] = (224, 224),
    *,
    font: str | Path = "DejaVuSans-Bold",
    colour: Colour = BLACK,
    background: Background = WHITE,
    font_size: int | None = None,
    position: tuple[float, float] = (0.5, 0.5),
    plate: Plate | None = None,
    outline: Colour | None = None,
    angle: float = 0.0,
) -> Image.Image:
    """Write a word on a background: RGB of `size` (height, width), the word always wholly inside.

    `font_size` is in pixels per em; None, or a size with which the word would not fit, takes one that fits.
    `position` (x, y) says where the free room goes: 0 is left or top, 0.5 the middle, 1 right or bottom.
    Raises SourceError for an unknown font or an empty word.
    """
    height, width = size
    lines = split_lines(word)
    room = ((1 - 2 * _MARGIN) * width, (1 - 2 * _MARGIN) * height)
    wanted = font_size if font_size is not None else round(_LARGEST * min(size))
    fitted = fitting_size(lines, font, room, wanted) if lines[0] else wanted
    picture = word_picture(word, font, fitted, colour, plate=plate, outline=outline, angle=angle)
    shrink = min(1.0, _REACH * width / picture.width, _REACH * height / picture.height)
    if shrink < 1.0:  # plate, outline and turning need room of their own
        fitted = max(1, int(fitted * shrink))
        picture = word_picture(word, font, fitted, colour, plate=plate, outline=outline, angle=angle)
    out = backdrop(size, background)
    left, top = (
        _place(p, whole, part) for p, whole, part in zip(position, out.size, picture.size, strict=True)
    )
    out.paste(picture, (left, top), picture)
    return out


def _place(position: float, whole: int, part: int) -> int:
    """Where `part` pixels of `whole` begin: at `position` of the free room, at the margin at 0 and at 1."""
    margin = min(_EDGE * whole, (whole - part) / 2)
    return round(margin + position * (whole - part - 2 * margin))
