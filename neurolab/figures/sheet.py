"""A contact sheet: units with their exemplars and what every method draws of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

from neurolab.analysis.selectivity import most_selective
from neurolab.atlas import Atlas
from neurolab.atlas.arrays import Exemplar
from neurolab.atlas.pictures import PictureRow
from neurolab.data.decode import resize_crop
from neurolab.data.text import load_font
from neurolab.errors import AtlasError
from neurolab.figures.methods import method_name

CELL, GAP, BETWEEN, MARGIN = 128, 6, 22, 28  # pixels: an image, between two, between groups, at the edge
TITLE, NAME, CAPTION = 28, 20, 17  # pixels per em
HEAD, FOOT, BELOW = 29, 42, 18  # pixels: for a unit's name, for captions, between units
INK, FAINT, EMPTY = "#222222", "#6b6b6b", "#f1f1f1"


@dataclass(frozen=True)
class Row:
    """One unit of the sheet. pictures: by method, the first of each."""

    name: str
    exemplars: Sequence[Exemplar]
    pictures: dict[str, PictureRow]


def units_sheet(
    atlas: Atlas,
    site: str | None = None,
    *,
    count: int = 24,
    kinds: Sequence[str] | None = None,
    exemplars: int = 4,
    columns: int = 2,
) -> Image.Image:
    """A sheet of a site's units: exemplars, and one picture of each method, with its scores.

    Nobody picks the units: of those that have pictures they are the `count` most selective
    (`neurolab.analysis.selectivity`), from the left to the right. site: default, the deepest with pictures.
    kinds: only pictures of these. Of several pictures of a unit by one method it is the one of the lowest
    seed. Under each, where it was scored, the activation percentile and the selectivity. AtlasError where the
    atlas has no such pictures or no thumbnails.
    """
    if min(count, columns) < 1 or exemplars < 0:
        raise ValueError(f"a sheet has at least one unit and column, not {count} and {columns}")
    pictures = chosen_pictures(atlas, site, kinds)
    where = pictures[0].unit.rpartition("/")[0]
    short = atlas.site(where).short
    units = {picture.unit for picture in pictures}
    ranked = [unit for unit in most_selective(atlas, where, atlas.site(where).units) if unit in units]
    rows = [unit_row(atlas, unit, short, pictures, exemplars) for unit in ranked[:count]]
    methods = sorted({method for row in rows for method in row.pictures})
    title = f"{atlas.manifest['model'].get('name')}, {short}: the {len(rows)} most selective units drawn"
    return Sheet(atlas, rows, methods, exemplars, columns).draw(title)


def chosen_pictures(atlas: Atlas, site: str | None, kinds: Sequence[str] | None) -> list[PictureRow]:
    """The pictures of one site; AtlasError where there are none."""
    found = [row for row in atlas.pictures() if kinds is None or row.kind in kinds]
    drawn = {row.unit.rpartition("/")[0] for row in found}
    deepest = next((name for name in reversed(atlas.sites) if name in drawn), None)
    wanted = deepest if site is None else atlas.site_name(site)
    chosen = [row for row in found if row.unit.rpartition("/")[0] == wanted]
    if not chosen:
        what = f" of {site}" * (site is not None) + f" of the kinds {', '.join(kinds or ())}" * bool(kinds)
        raise AtlasError(f"{atlas.path} has no pictures{what}; draw some with `neurolab render --atlas`")
    return chosen


def unit_row(atlas: Atlas, unit: str, short: str, pictures: Sequence[PictureRow], exemplars: int) -> Row:
    """A unit's row: of each method the picture of the lowest seed."""
    first: dict[str, PictureRow] = {}
    for picture in sorted((p for p in pictures if p.unit == unit), key=lambda p: p.seed):
        first.setdefault(method_name(picture), picture)
    return Row(f"{short}/{unit.rpartition('/')[2]}", atlas.unit(unit).exemplars[:exemplars], first)


class Sheet:
    """Draws rows of units in blocks, so many beside each other."""

    def __init__(
        self, atlas: Atlas, rows: Sequence[Row], methods: Sequence[str], exemplars: int, columns: int
    ) -> None:
        self.atlas, self.rows, self.methods, self.exemplars = atlas, rows, methods, exemplars
        self.columns = min(columns, len(rows))
        self.across = exemplars * (CELL + GAP) + BETWEEN * bool(exemplars) + len(methods) * (CELL + GAP) - GAP
        self.down = HEAD + CELL + FOOT + BELOW

    def draw(self, title: str) -> Image.Image:
        """The sheet, RGB."""
        head = TITLE + CAPTION + 34
        width = self.columns * self.across + (self.columns - 1) * 2 * BETWEEN + 2 * MARGIN
        lines = -(-len(self.rows) // self.columns)
        canvas = Image.new("RGB", (width, head + lines * self.down + MARGIN), "white")
        draw = ImageDraw.Draw(canvas)
        room = width - 2 * MARGIN
        draw.text((MARGIN, MARGIN - 8), title, INK, fitting(title, room, "DejaVuSans-Bold", TITLE))
        draw.text((MARGIN, MARGIN + TITLE), self.legend(), FAINT, fitting(self.legend(), room))
        for place, row in enumerate(self.rows):
            line, column = divmod(place, self.columns)
            corner = MARGIN + column * (self.across + 2 * BETWEEN), head + MARGIN // 2 + line * self.down
            self.draw_row(canvas, draw, row, corner)
        return canvas

    def legend(self) -> str:
        """What is to be seen, and what the numbers are."""
        scored = any(caption(picture) for row in self.rows for picture in row.pictures.values())
        numbers = (
            "; below: percentile of its activation among all images, share of other units it excites less"
        )
        first = "The images that excite each most; " if self.exemplars else ""
        drawn = "what each method draws" if first else "What each method draws"
        return first + drawn + (numbers if scored else "")

    def draw_row(
        self, canvas: Image.Image, draw: ImageDraw.ImageDraw, row: Row, corner: tuple[int, int]
    ) -> None:
        """One unit, its upper left corner at `corner`."""
        left, top = corner
        draw.text((left, top), row.name, INK, load_font("DejaVuSans-Bold", NAME))
        top += HEAD
        shown = self.atlas.thumbnails([exemplar.image for exemplar in row.exemplars])
        for place, data in enumerate(shown):
            canvas.paste(self.exemplar(data), (left + place * (CELL + GAP), top))
        left += self.exemplars * (CELL + GAP) + BETWEEN * bool(self.exemplars)
        for place, method in enumerate(self.methods):
            x = left + place * (CELL + GAP)
            picture = row.pictures.get(method)
            if picture is None:
                draw.rectangle((x, top, x + CELL - 1, top + CELL - 1), fill=EMPTY)
                continue
            canvas.paste(picture_cell(picture), (x, top))
            draw.text((x, top + CELL + 3), method, INK, fitting(method, CELL))
            below = top + CELL + 3 + CAPTION + 2
            draw.text((x, below), caption(picture), FAINT, load_font("DejaVuSans", CAPTION - 2))

    def exemplar(self, data: bytes | None) -> Image.Image:
        """An exemplar's thumbnail, its middle as a square."""
        if data is None:
            raise AtlasError(f"{self.atlas.path} has no thumbnails; draw the sheet with no exemplars")
        return Image.fromarray(resize_crop(Image.open(io.BytesIO(data)), (CELL, CELL)))


def fitting(text: str, width: int, font: str = "DejaVuSans", pixels: int = CAPTION) -> ImageFont.FreeTypeFont:
    """A font in so many pixels per em, or fewer where the text would be wider than `width` pixels."""
    while pixels > 8 and load_font(font, pixels).getlength(text) > width:
        pixels -= 1
    return load_font(font, pixels)


def picture_cell(picture: PictureRow) -> Image.Image:
    """A picture, whole, in a square."""
    return ImageOps.pad(picture.to_pil(), (CELL, CELL), Image.Resampling.BICUBIC, "white")


def caption(picture: PictureRow) -> str:
    """The percentile and the selectivity; what was not scored is left out."""
    scores = picture.scores
    percentile, selective = scores.get("activation_percentile"), scores.get("selectivity")
    parts = [
        "" if percentile is None else f"{percentile:.4g} %",
        "" if selective is None else f"{selective:.3f}",
    ]
    return " · ".join(part for part in parts if part)
