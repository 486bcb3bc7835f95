"""From an encoded image to the pixels that a model takes. Imports no torch: decode workers live on it.

Every way in which an image can be bad ends in BadImageError with the reason; nothing else is raised but
SourceError, MemoryError and RecursionError, which say something about the disk or the process and not about
the image.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from neurolab.data.files import ListedFile
from neurolab.errors import BadImageError, SourceError

ORIENTATION_TAG = 0x0112
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
MODES = ("shortest", "longest", "squash")
# Longer strips are cropped while they are resized: 1 x 10,000 pixels would grow to 1.5 GB first.
STRIP_ASPECT = 24

Encoded = bytes | Path | ListedFile


def decode_image(payload: Encoded | Callable[[], Any] | Image.Image) -> Image.Image:
    """Decode to RGB, upright: EXIF orientation applied, transparency on white, 16 bits scaled to 8.

    Of an animation the first frame is taken. CMYK goes through Pillow's conversion, without ICC profiles.
    Raises BadImageError with the reason for anything that is not one whole image of at most
    ``PIL.Image.MAX_IMAGE_PIXELS`` pixels; SourceError where a listed file is gone or its disk fails.
    """
    try:
        image = open_image(payload)
        _check_size(image)
        image.load()
        return to_rgb(_upright(image))
    except (BadImageError, SourceError, MemoryError, RecursionError):
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(f"decompression bomb: {error}") from error
    except UnidentifiedImageError as error:
        raise BadImageError("not an image in a format that Pillow reads") from error
    except FileNotFoundError as error:
        raise BadImageError("the file does not exist (a broken link, or removed since)") from error
    except Exception as error:
        # Addresses of objects would make the reason differ from run to run.
        text = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the file", str(error))
        raise BadImageError(f"{type(error).__name__}: {text}" if text else type(error).__name__) from error


def open_image(payload: Encoded | Callable[[], Any] | Image.Image) -> Image.Image:
    """The Pillow image of a payload, its pixels not read yet. Raises whatever Pillow does."""
    if isinstance(payload, Image.Image):
        return payload
    if callable(payload):
        image = payload()
        if not isinstance(image, Image.Image):
            raise BadImageError(f"the drawing gave {type(image).__name__}, not a PIL image")
        return image
    data = _bytes_of(payload)
    if not data:
        raise BadImageError("empty: 0 bytes")
    with warnings.catch_warnings():
        # Pillow's warning about large images becomes our error below, with the numbers.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data))


def _bytes_of(payload: Encoded) -> bytes:
    if isinstance(payload, Path):
        return payload.read_bytes()
    return payload.read() if isinstance(payload, ListedFile) else bytes(payload)


def _check_size(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if image.width < 1 or image.height < 1:
        raise BadImageError(f"no pixels: {image.width} x {image.height}")
    if limit is not None and image.width * image.height > limit:
        raise BadImageError(f"decompression bomb: {image.width} x {image.height} pixels, more than {limit}")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION_TAG)
    except (MemoryError, RecursionError):
        raise
    except Exception:
        # The picture is whole; EXIF that cannot be parsed is as good as none.
        return image
    if orientation not in ORIENTATIONS:
        return image
    return image.transpose(ORIENTATIONS[orientation])


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB: transparency composited on white, more than 8 bits a channel scaled, not cut.

    Integer and float images (modes I and F) say no white level: 0..65535 and 0..1 are taken for the whole
    range, and anything outside raises BadImageError.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _scaled(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    return image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """A grey image of 16 or 32 bits as 8 bits."""
    values = np.asarray(image)
    white = 1.0 if image.mode == "F" else 65535.0
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= white):
        raise BadImageError(f"grey values from {low:g} to {high:g} in mode {image.mode}, not 0 to {white:g}")
    return Image.fromarray(np.rint(values.astype(np.float64) * (255.0 / white)).astype(np.uint8))


def resize_crop(
    image: Image.Image, size: tuple[int, int], mode: str = "shortest", interpolation: str = "bicubic"
) -> np.ndarray:
    """Resize to ``size`` = (height, width) as open_clip's eval transform does: uint8 [height, width, 3].

    ``shortest`` resizes the short side and crops the centre, ``longest`` resizes the long side and pads with
    black, ``squash`` ignores the aspect ratio. Equal to open_clip.transform.image_transform before its
    normalisation, byte for byte, with two exceptions: of strips longer than 24 to 1 only the part that is
    kept is resized (where Pillow may round in another order), and a side that would round to 0 pixels is 1.
    As in open_clip, ``shortest`` to a size that is not square is always bicubic.
    """
    _check_settings(mode, interpolation)
    image = image if image.mode == "RGB" else to_rgb(image)
    resample = INTERPOLATIONS[interpolation]
    if mode == "squash":
        resized = _resize(image, size, resample)
    elif mode == "longest":
        resized = _centre(_resize(image, _keep_ratio(image, size, max), resample), size)
    else:
        if size[0] != size[1]:
            resample = Image.Resampling.BICUBIC
        resized = _cover(image, size, resample)
    return np.asarray(resized)


@dataclass(frozen=True)
class ImageTransform:
    """What the decode workers do to every image: RGB to uint8 [height, width, 3] for the model.

    ``size`` is (height, width); ``thumbnail`` the longest side of the thumbnail kept of it, None for none.
    """

    size: tuple[int, int]
    mode: str = "shortest"
    interpolation: str = "bicubic"
    thumbnail: int | None = 160

    def __post_init__(self) -> None:
        # Checked here, once: in a worker it would look as if every image were bad.
        if min(self.size) < 1 or (self.thumbnail is not None and self.thumbnail < 1):
            raise ValueError(f"an image or thumbnail has at least one pixel: {self}")
        _check_settings(self.mode, self.interpolation)

    def __call__(self, image: Image.Image) -> np.ndarray:
        return resize_crop(image, self.size, self.mode, self.interpolation)


def make_thumbnail(image: Image.Image, longest: int = 160, quality: int = 80) -> bytes:
    """A small WebP of an image: its longest side at most ``longest`` pixels."""
    scale = longest / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality, method=2)
    return stream.getvalue()


def _check_settings(mode: str, interpolation: str) -> None:
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation {interpolation!r} is not one of {', '.join(INTERPOLATIONS)}")
    if mode not in MODES:
        raise ValueError(f"resize mode {mode!r} is not one of {', '.join(MODES)}")


def _resize(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """To (height, width), untouched where it has that size already (as torchvision)."""
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), resample)


def _keep_ratio(
    image: Image.Image, size: tuple[int, int], pick: Callable[[float, float], float]
) -> tuple[int, int]:
    """timm's ResizeKeepRatio: the (height, width) at which one side fits ``size``."""
    ratio = pick(image.height / size[0], image.width / size[1])
    return max(1, round(image.height / ratio)), max(1, round(image.width / ratio))


def _covering_size(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) to which ``shortest`` resizes before it crops."""
    if size[0] != size[1]:
        return _keep_ratio(image, size, min)
    short, long = sorted(image.size)
    grown = int(size[0] * long / short)
    return (size[0], grown) if image.height <= image.width else (grown, size[0])


def _cover(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    height, width = _covering_size(image, size)
    if max(image.size) <= STRIP_ASPECT * min(image.size):
        return _centre(_resize(image, (height, width), resample), size)
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    down, across = image.height / height, image.width / width
    box = (left * across, top * down, (left + size[1]) * across, (top + size[0]) * down)
    right, bottom = min(box[2], image.width), min(box[3], image.height)
    return image.resize((size[1], size[0]), resample, box=(max(0.0, box[0]), max(0.0, box[1]), right, bottom))


def _centre(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """torchvision's centre crop, padded with black where the image is smaller."""
    height, width = size
    if image.width < width or image.height < height:
        canvas = Image.new("RGB", (max(width, image.width), max(height, image.height)))
        canvas.paste(image, (max(0, width - image.width) // 2, max(0, height - image.height) // 2))
        image = canvas
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
