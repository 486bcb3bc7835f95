"""Paper labels with a word on them, pasted over pictures: the typographic attack of the article.

"Multimodal Neurons in Artificial Neural Networks" (Goh et al., Distill 2021) fools CLIP by putting a sheet of
paper with a handwritten word on a thing. No package here brings a handwriting font, so the words are printed.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

from neurolab.data.canvas import Colour
from neurolab.data.text import fitting_size, load_font, split_lines
from neurolab.errors import SourceError

PAPER: Colour = (251, 249, 241)
INK: Colour = (28, 28, 34)
_SUPERSAMPLING = 2
# Shares of the label's width: the border around the word, and how far the shadow falls and fades.
_BORDER = 0.07
_SHADOW = 0.022


@lru_cache(maxsize=64)
def paper_label(
    word: str,
    width: int,
    *,
    font: str | Path = "DejaVuSans-Bold",
    ink: Colour = INK,
    paper: Colour = PAPER,
    angle: float = 0.0,
    blank: bool = False,
) -> Image.Image:
    """A paper label, `width` pixels wide before it is turned by `angle` degrees: RGBA with its shadow.

    The word fills the width, on up to two lines. With `blank` the paper is the same but nothing is written on
    it: the control for what the paper alone does. Raises SourceError for an unknown font or an empty word.
    """
    large = width * _SUPERSAMPLING
    border = round(_BORDER * large)
    lines = split_lines(word, most=2)
    if not lines[0]:
        raise SourceError(f"There is nothing to write in {word!r}: for paper without a word, use blank=True.")
    size = fitting_size(lines, font, (large - 2 * border, 0.55 * large), 0.34 * large)
    face = load_font(font, size)
    top, bottom = face.getbbox("Ahg", anchor="ls")[1::2]
    step = 1.12 * (bottom - top)
    height = round(bottom - top + step * (len(lines) - 1)) + 2 * border
    sheet = Image.linear_gradient("L").resize((large, height)).point(lambda v: 255 - v // 16)
    label = Image.composite(Image.new("RGB", sheet.size, paper), Image.new("RGB", sheet.size), sheet)
    draw = ImageDraw.Draw(label)
    if not blank:
        for i, line in enumerate(lines):
            draw.text((large / 2, border - top + i * step), line, fill=ink, font=face, anchor="ms")
    return _laid_down(label, round(_SHADOW * large), angle)


def _laid_down(label: Image.Image, reach: int, angle: float) -> Image.Image:
    """The label turned, with a soft shadow below and to the right of it."""
    room = 3 * reach + 2
    size = (label.width + 2 * room, label.height + 2 * room)
    shape = Image.new("L", size, 0)
    shape.paste(255, (room, room, room + label.width, room + label.height))
    sheet = Image.new("RGBA", size, (*PAPER, 0))
    sheet.paste(label, (room, room))
    sheet.putalpha(shape)
    sheet = sheet.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    shape = sheet.getchannel("A")
    shadow = Image.new("L", sheet.size, 0)
    shadow.paste(shape.point(lambda v: v * 110 // 255), (reach // 2, reach))
    dark = Image.new("RGBA", sheet.size, (0, 0, 0, 0))
    dark.putalpha(shadow.filter(ImageFilter.GaussianBlur(reach)))
    out = Image.alpha_composite(dark, sheet)
    return out.reduce(_SUPERSAMPLING)


def paste_label(
    image: Image.Image,
    word: str,
    *,
    width: float = 0.6,
    centre: tuple[float, float] = (0.5, 0.68),
    font: str | Path = "DejaVuSans-Bold",
    ink: Colour = INK,
    paper: Colour = PAPER,
    angle: float = 0.0,
    blank: bool = False,
) -> Image.Image:
    """A copy of a picture (as RGB) with a paper label on it.

    `width` is the label's, as a share of the picture's shorter side; `centre` (x, y) its place, fractions of
    width and height, moved inwards as far as the label needs to lie wholly on the picture. The rest as in
    paper_label.
    """
    out = image.convert("RGB")
    out = out.copy() if out is image else out
    pixels = max(8, round(width * min(out.size)))
    label = paper_label(word, pixels, font=font, ink=ink, paper=paper, angle=angle, blank=blank)
    left = round(centre[0] * out.width - label.width / 2)
    top = round(centre[1] * out.height - label.height / 2)
    left = max(0, min(left, out.width - label.width))
    top = max(0, min(top, out.height - label.height))
    out.paste(label, (left, top), label)
    return out
