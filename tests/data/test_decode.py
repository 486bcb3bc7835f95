"""Decoding: bad and odd images are read right or refused with the reason; the pixels are open_clip's."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image

from neurolab.data.decode import ImageTransform, decode_image, make_thumbnail, resize_crop
from neurolab.data.sources import Unreadable
from neurolab.errors import BadImageError

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


class Raising:
    def __call__(self) -> Image.Image:
        raise ZeroDivisionError("inside the drawing")


BAD: dict[str, tuple[object, str]] = {
    "zero bytes": (b"", "0 bytes"),
    "text": (b"<html>404 Not Found</html>", "not an image"),
    "truncated JPEG": (encoded(noise(64, 64), "JPEG")[:900], "truncated"),
    "truncated PNG": (encoded(noise(64, 64), "PNG")[:3000], "truncated|unexpected|broken"),
    "truncated WebP": (encoded(noise(64, 64), "WEBP")[:900], "."),
    "truncated GIF": (encoded(noise(64, 64), "GIF")[:900], "."),
    "truncated TIFF": (encoded(noise(64, 64), "TIFF", compression="tiff_lzw")[:900], "."),
    "truncated BMP": (encoded(noise(64, 64), "BMP")[:900], "truncated"),
    "header only": (encoded(noise(8, 8), "JPEG")[:20], "."),
    "JPEG with a PNG's end": (
        encoded(noise(64, 64), "JPEG")[:500] + encoded(noise(64, 64), "PNG")[500:],
        ".",
    ),
    "PNG with a wrong checksum": (encoded(noise(64, 64), "PNG").replace(b"IDAT", b"IDAX", 1), "."),
    "decompression bomb": (png_claiming(60_000, 60_000), "bomb"),
    "just above the limit": (png_claiming(9_500, 9_500), "bomb"),
    "a missing file": (Path("nowhere/image.jpg"), "does not exist"),
    "a folder": (Path("."), "IsADirectory|Permission"),
    "a drawing that raises": (Raising(), "ZeroDivisionError: inside the drawing"),
    "a drawing of something else": (lambda: "no image", "gave str"),
    "a place that a source could not read": (Unreadable("row 3 is null"), "row 3 is null"),
    "float values beyond 1": (encoded(Image.new("F", (4, 4), 300.0), "TIFF"), "grey values"),
    "negative integers": (encoded(Image.new("I", (4, 4), -5), "TIFF"), "grey values"),
    "NaN": (encoded(Image.new("F", (4, 4), float("nan")), "TIFF"), "grey values"),
}


@pytest.mark.parametrize("payload, reason", BAD.values(), ids=BAD.keys())
def test_bad_images_are_refused_with_the_reason(payload: object, reason: str) -> None:
    with warnings.catch_warnings(), pytest.raises(BadImageError, match=reason) as caught:
        warnings.simplefilter("ignore")
        decode_image(payload)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message
    assert " at 0x" not in message, "an address would make reports differ from run to run"


def flat(mode: str, colour: object, kind: str, **options: object) -> bytes:
    return encoded(Image.new(mode, (6, 4), colour), kind, **options)  # type: ignore[arg-type]


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (6, 4), colour) for colour in (RED, GREEN)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)


def palette_with_alpha() -> bytes:
    image = Image.new("P", (6, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 0] + [0] * 762)
    return encoded(image, "PNG", transparency=bytes([255, 0]))


ODD: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "grey": (flat("L", 128, "PNG"), (128, 128, 128)),
    "one bit": (flat("1", 1, "PNG"), WHITE),
    "palette": (flat("P", 0, "PNG"), (0, 0, 0)),
    "16-bit grey PNG": (flat("I;16", 32768, "PNG"), (128, 128, 128)),
    "16-bit grey TIFF": (flat("I;16", 65535, "TIFF"), WHITE),
    "16-bit dark": (flat("I;16", 257 * 3, "PNG"), (3, 3, 3)),
    "16-bit PGM": (b"P5 6 4 65535 " + struct.pack(">H", 257 * 100) * 24, (100, 100, 100)),
    "32-bit TIFF": (flat("I", 65535, "TIFF"), WHITE),
    "float TIFF": (flat("F", 0.5, "TIFF"), (128, 128, 128)),
    "CMYK JPEG": (flat("CMYK", (0, 0, 0, 0), "JPEG"), WHITE),
    "CMYK TIFF": (flat("CMYK", (0, 255, 255, 0), "TIFF"), RED),
    "clear RGBA": (flat("RGBA", (255, 0, 0, 0), "PNG"), WHITE),
    "half RGBA": (flat("RGBA", (255, 0, 0, 128), "PNG"), (255, 127, 127)),
    "clear LA": (flat("LA", (0, 0), "PNG"), WHITE),
    "palette with alpha": (palette_with_alpha(), WHITE),
    "RGB with a clear colour": (flat("RGB", RED, "PNG", transparency=RED), WHITE),
    "grey with a clear value": (flat("L", 7, "PNG", transparency=7), WHITE),
    "animated GIF": (animation("GIF"), RED),
    "animated PNG": (animation("PNG"), RED),
    "animated WebP": (animation("WEBP"), RED),
    "one pixel": (encoded(Image.new("RGB", (1, 1), RED), "PNG"), RED),
}


@pytest.mark.parametrize("data, colour", ODD.values(), ids=ODD.keys())
def test_odd_images_are_read_right(data: bytes, colour: tuple[int, int, int]) -> None:
    image = decode_image(data)
    assert image.mode == "RGB"
    pixels = np.asarray(image).astype(int)
    assert np.abs(pixels - colour).max() <= 1
    assert np.asarray(resize_crop(image, (8, 8))).shape == (8, 8, 3)


def test_16_bits_keep_their_range() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(1, 256)
    read = np.asarray(decode_image(encoded(Image.fromarray(ramp), "PNG")))[0, :, 0]
    # Clipped at 255, or only the high or low byte taken, it would be another ramp.
    assert np.array_equal(read, np.rint(ramp[0] / 257))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    """Oracle: the upright view, stored turned as the EXIF standard's table of row 0 and column 0 says."""
    upright = np.zeros((40, 24, 3), np.uint8)
    upright[:20, :12], upright[:20, 12:], upright[20:, :12] = RED, GREEN, (0, 0, 255)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = (
        {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    )
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif.tobytes(), **options)
    read = np.asarray(decode_image(data)).astype(int)
    assert read.shape == upright.shape
    assert np.abs(read - upright).mean() < 3


def test_broken_exif_counts_as_none() -> None:
    data = encoded(noise(8, 8), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert decode_image(data).size == (8, 8)


def test_errors_of_the_process_are_not_put_on_the_image() -> None:
    def out_of_memory() -> Image.Image:
        raise MemoryError

    with pytest.raises(MemoryError):
        decode_image(out_of_memory)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]), st.data())
def test_nothing_but_bad_image_errors(rubbish: bytes, kind: str, data: st.DataObject) -> None:
    """Rubbish written over a real image at any place: an RGB image or BadImageError."""
    whole = bytearray(encoded(noise(20, 20), kind))
    place = data.draw(st.integers(0, len(whole)))
    whole[place : place + len(rubbish)] = rubbish
    try:
        assert decode_image(bytes(whole)).mode == "RGB"
    except BadImageError as error:
        assert str(error)


SIZES = [(64, 48), (48, 64), (32, 32), (31, 200), (500, 37), (224, 224), (7, 3), (1, 1), (33, 32), (225, 224)]


def open_clip_pixels(
    image: Image.Image, size: tuple[int, int], mode: str, interpolation: str
) -> torch.Tensor:
    target = size[0] if size[0] == size[1] and mode != "longest" else size
    transform = image_transform(
        target, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode, interpolation=interpolation
    )
    return transform(image)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(32, 32), (224, 224), (32, 48), (57, 31)])
def test_resize_crop_is_open_clips(size: tuple[int, int], mode: str, interpolation: str) -> None:
    for number, (width, height) in enumerate(SIZES):
        image = noise(width, height, number)
        ours = torch.from_numpy(resize_crop(image, size, mode, interpolation).copy()).permute(2, 0, 1) / 255
        assert torch.equal(ours, open_clip_pixels(image, size, mode, interpolation)), (width, height)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 80))
def test_resize_crop_of_any_shape(width: int, height: int, side: int) -> None:
    if max(width, height) > 24 * min(width, height):
        width = height
    image = noise(width, height)
    ours = torch.from_numpy(resize_crop(image, (side, side)).copy()).permute(2, 0, 1) / 255
    assert torch.equal(ours, open_clip_pixels(image, (side, side), "shortest", "bicubic"))


@pytest.mark.parametrize("width, height", [(1, 400), (400, 1), (900, 30), (30, 900), (3, 77)])
def test_strips_are_cropped_while_they_are_resized(width: int, height: int) -> None:
    ramp = np.linspace(0, 255, width * height).reshape(height, width)
    image = Image.fromarray(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], 2).astype(np.uint8))
    ours = torch.from_numpy(resize_crop(image, (32, 32)).copy()).permute(2, 0, 1) / 255
    theirs = open_clip_pixels(image, (32, 32), "shortest", "bicubic")
    assert (ours - theirs).abs().max() <= 1.01 / 255
    noisy = torch.from_numpy(resize_crop(noise(width, height), (32, 32)).copy()).permute(2, 0, 1) / 255
    theirs = open_clip_pixels(noise(width, height), (32, 32), "shortest", "bicubic")
    # The order of Pillow's two passes differs: under 1 of 255 on average even where neighbours are unrelated.
    assert (noisy - theirs).abs().mean() < 1 / 255


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_a_very_long_strip_stays_small(mode: str) -> None:
    # Resized before it is cropped, this one would take 13 GB.
    assert resize_crop(Image.new("RGB", (1, 90_000), RED), (224, 224), mode).shape == (224, 224, 3)


def test_real_photos_equal_open_clip(neurolab_data: Path) -> None:
    for path in sorted((neurolab_data / "imagenet-samples").rglob("*.jpg"))[::100]:
        image = decode_image(path)
        ours = torch.from_numpy(resize_crop(image, (224, 224)).copy()).permute(2, 0, 1) / 255
        assert torch.equal(ours, open_clip_pixels(Image.open(path), (224, 224), "shortest", "bicubic"))


def test_wrong_settings_are_told_at_once() -> None:
    checks: list[Callable[[], object]] = [
        lambda: ImageTransform((224, 224), mode="fit"),
        lambda: ImageTransform((224, 224), interpolation="lanczos"),
        lambda: ImageTransform((0, 224)),
        lambda: resize_crop(noise(4, 4), (2, 2), "fit"),
    ]
    for check in checks:
        with pytest.raises(ValueError, match=r"not one of|at least one"):
            check()


@pytest.mark.parametrize(
    "size, expected", [((320, 200), (160, 100)), ((40, 20), (40, 20)), ((2000, 1), (160, 1))]
)
def test_thumbnails(size: tuple[int, int], expected: tuple[int, int]) -> None:
    thumbnail = Image.open(io.BytesIO(make_thumbnail(noise(*size))))
    assert (thumbnail.format, thumbnail.size) == ("WEBP", expected)
