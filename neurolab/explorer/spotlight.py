"""Mark on a thumbnail the place that excites a unit.

The place is a cell of the activation map as `Exemplar.box_in_image` gives it: a part of what the model sees
(its centre crop), in fractions of the whole image. The receptive field behind the cell is wider.
"""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFilter

Box = tuple[float, float, float, float]  # left, top, right, bottom

STYLES = ("spotlight", "outline", "plain")
DIM = 0.42  # how dark it is outside the place
RINGS = {"spotlight": (255, 255, 255), "outline": (255, 84, 46)}
SMALLEST = 22  # pixels: one cell of a 14 x 14 map would be lost on a thumbnail


def mark(thumbnail: bytes, place: Box | None, style: str = "spotlight") -> bytes:
    """The thumbnail (WebP bytes) with `place` (fractions) ringed, and under "spotlight" the rest dimmed.

    Nothing is marked without a place, under "plain", or where the place is the whole picture.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}: choose one of {', '.join(STYLES)}")
    if place is None or style == "plain" or (place[2] - place[0] >= 1 and place[3] - place[1] >= 1):
        return thumbnail
    with Image.open(io.BytesIO(thumbnail)) as opened:
        picture = opened.convert("RGB")
    box = _pixels(place, picture.size)
    if style == "spotlight":
        picture = _dim_outside(picture, box)
    _ring(picture, box, RINGS[style])
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=86, method=0)
    return buffer.getvalue()


def _pixels(place: Box, size: tuple[int, int]) -> Box:
    """The place in pixels, at least SMALLEST wide and high, inside the picture."""
    spans = []
    for low, high, length in ((place[0], place[2], size[0]), (place[1], place[3], size[1])):
        middle = (low + high) / 2 * length
        half = min(max((high - low) * length, SMALLEST), length) / 2
        middle = min(max(middle, half), length - half)
        spans.append((middle - half, middle + half - 1))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def _dim_outside(picture: Image.Image, box: Box) -> Image.Image:
    """The picture darkened outside the box, with a soft edge."""
    # A mask at a quarter of the size, blurred and enlarged, is as soft and several times cheaper.
    small = picture.width // 4 + 1, picture.height // 4 + 1
    mask = Image.new("L", small, 0)
    left, top, right, bottom = (value / 4 for value in box)
    ImageDraw.Draw(mask).rounded_rectangle((left, top, right, bottom), radius=2, fill=255)
    soft = mask.filter(ImageFilter.BoxBlur(1)).resize(picture.size, Image.Resampling.BILINEAR)
    dark = Image.blend(picture, Image.new("RGB", picture.size, (38, 36, 44)), DIM)
    return Image.composite(picture, dark, soft)


def _ring(picture: Image.Image, box: Box, colour: tuple[int, int, int]) -> None:
    """A bright ring around the box with a dark edge, inside the picture, visible on any."""
    draw = ImageDraw.Draw(picture)
    right, bottom = picture.width - 1, picture.height - 1
    for grown, radius, line, width in ((2, 5, (30, 28, 34), 1), (1, 4, colour, 2)):
        room = 2 - grown  # the edge stays outside the ring where the picture ends
        corners = (
            max(box[0] - grown, room),
            max(box[1] - grown, room),
            min(box[2] + grown, right - room),
            min(box[3] + grown, bottom - room),
        )
        draw.rounded_rectangle(corners, radius=radius, outline=line, width=width)
