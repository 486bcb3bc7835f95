"""Image files that are no good or unusual, one kind each, and what an unusual one shows."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from tests.data.making import encoded, picture


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG of one bit a pixel, its checksums right whatever it claims."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", head, *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(9).integers(0, 256, (height, width, 3), np.uint8))


JPEG, PNG = saved(noise(64, 48), "JPEG"), saved(noise(64, 48))
SIDE = 9_500  # squared, a little more than Pillow's limit of 89 million pixels

UNREADABLE: dict[str, tuple[str, bytes, str]] = {
    "an empty file": ("m.jpg", b"", "empty: 0 bytes"),
    "text named .jpg": ("m.jpg", b"<html>404 Not Found</html>", "not an image"),
    "a JPEG cut in the middle": ("m.jpg", JPEG[: len(JPEG) // 2], "truncated"),
    "a JPEG of which only the header came": ("m.jpg", JPEG[:30], "Truncated File Read"),
    "a PNG cut in the middle": ("m.png", PNG[: len(PNG) // 2], "truncated"),
    "a PNG with a flipped bit": ("m.png", flipped(PNG, PNG.index(b"IDAT") + 900), "broken data stream"),
    "a WebP cut in the middle": ("m.webp", saved(noise(64, 48), "WEBP")[:900], "could not create decoder"),
    "a GIF cut in the middle": ("m.gif", saved(noise(64, 48), "GIF")[:900], "truncated"),
    "an image of no pixels": ("m.png", png(0, 5, b""), "not an image"),
    "a decompression bomb": (
        "m.png",
        png(SIDE, SIDE, bytes((1 + -(-SIDE // 8)) * SIDE)),
        "bomb: 9500 x 9500",
    ),
    "a bomb of text": (
        "m.png",
        png(8, 8, bytes(16), chunk(b"zTXt", b"t\0\0" + zlib.compress(bytes(90_000_000), 1))),
        "too large",
    ),
    "grey values without a white": ("m.tif", saved(Image.new("F", (4, 4), 300.0), "TIFF"), "grey values"),
}


def with_palette(clear: int) -> Image.Image:
    image = picture(1).quantize(8)
    image.info["transparency"] = clear
    return image


def on_white(image: Image.Image) -> Image.Image:
    """What a picture of a palette with one clear colour shows on a white page, pixel by pixel."""
    indices, palette = np.asarray(image), np.array(image.getpalette()).reshape(-1, 3)
    pixels = palette[indices].astype(np.uint8)
    pixels[indices == image.info["transparency"]] = 255
    return Image.fromarray(pixels)


def cmyk() -> Image.Image:
    return picture(2).convert("CMYK")


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.asarray(picture(3).convert("L")).astype(np.uint16) * 257)


def animated(kind: str) -> bytes:
    return saved(picture(4), kind, save_all=True, append_images=[picture(5)], lossless=True)


def turned() -> bytes:
    """Stored a quarter turn to the left, with the mark that says to turn it back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(picture(6).transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


def shown(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


ODD: dict[str, tuple[str, bytes, Image.Image]] = {
    "a single pixel": (
        "m.png",
        saved(Image.new("RGB", (1, 1), (9, 8, 7))),
        Image.new("RGB", (1, 1), (9, 8, 7)),
    ),
    "a strip of 20,000 x 2": ("m.png", saved(noise(20_000, 2)), noise(20_000, 2)),
    "a CMYK JPEG": ("m.jpg", saved(cmyk(), "JPEG"), shown(saved(cmyk(), "JPEG"))),
    "16-bit grey": ("m.png", saved(sixteen_bits()), picture(3).convert("L")),
    "a palette with a clear colour": ("m.png", saved(with_palette(2)), on_white(with_palette(2))),
    "an animated GIF": ("m.gif", animated("GIF"), shown(animated("GIF"))),
    "an animated WebP": ("m.webp", animated("WEBP"), picture(4)),
    "a PNG named .jpg": ("m.jpg", saved(picture(7)), picture(7)),
    "a suffix in capitals": ("m.JPEG", encoded(8), shown(encoded(8))),
    "a PNG whose checksum alone is wrong": ("m.png", flipped(PNG, len(PNG) - 14), noise(64, 48)),
    "a picture lying on its side": ("m.png", turned(), picture(6)),
    "EXIF that cannot be read": ("m.png", saved(picture(7), exif=b"Exif\0\0rubbish"), picture(7)),
}
