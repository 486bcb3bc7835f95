"""One decode worker: a process that reads groups of records from stdin and writes pixels to stdout.

It is a plain child process and not one of multiprocessing's, whose spawned children import the parent's main
module again: under Streamlit that would run the page, and a script without a main guard would start itself.
A message is its length (8 bytes, little endian) and a pickle. Both ends are processes of one user and
program; nothing that is unpickled here comes from a file.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

import numpy as np
from PIL import Image

from neurolab.data import patience
from neurolab.data.decode import ImageTransform, decode_image, make_thumbnail
from neurolab.data.items import Decoded, Item, Skip
from neurolab.data.sources import Record
from neurolab.errors import BadImageError, SourceError

READY = "ready"


def decode_record(record: Record, transform: ImageTransform) -> tuple[Item, np.ndarray]:
    """One record decoded: what is kept of it beside the pixels, and uint8 [height, width, 3]."""
    image = decode_image(record.payload)
    try:
        thumbnail = b"" if transform.thumbnail is None else make_thumbnail(image, transform.thumbnail)
        pixels = transform(image)
    except (OSError, ValueError) as error:
        raise BadImageError(f"cannot be resized ({image.width} x {image.height}): {error}") from error
    return Item(record.key, record.captions, record.labels, image.width, image.height, thumbnail), pixels


def decode_group(records: Sequence[Record], transform: ImageTransform) -> Decoded:
    """A group of records decoded; bad images drop out of the pixels and are listed with their reasons.

    SourceError where it is not the images that are bad, but where they lie."""
    items: list[Item] = []
    skipped: list[Skip] = []
    pixels = np.empty((len(records), *transform.size, 3), np.uint8)
    for record in records:
        try:
            item, image = decode_record(record, transform)
        except BadImageError as error:
            skipped.append(Skip(record.key, str(error)))
            continue
        pixels[len(items)] = image
        items.append(item)
    notes = [Skip(record.key, note) for record in records for note in record.notes]
    return Decoded(pixels[: len(items)], items, skipped, notes)


def send(stream: IO[bytes], value: Any) -> None:
    """Write one message."""
    write(stream, pickle.dumps(value, pickle.HIGHEST_PROTOCOL))


def write(stream: IO[bytes], data: bytes) -> None:
    """Write one message that is pickled already."""
    stream.write(len(data).to_bytes(8, "little"))
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message; EOFError where the other end has closed or died."""
    header = stream.read(8)
    if len(header) < 8:
        raise EOFError
    size = int.from_bytes(header, "little")
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)


def send_decoded(stream: IO[bytes], decoded: Decoded) -> None:
    """Write decoded images: their pixels go raw behind the message, so that nobody copies them twice."""
    pixels = decoded.images
    send(stream, (pixels.shape, decoded.items, decoded.skipped, decoded.notes))
    stream.write(np.ascontiguousarray(pixels).data.cast("B") if pixels.size else b"")
    stream.flush()


def receive_decoded(stream: IO[bytes]) -> Decoded | SourceError | str:
    """Read decoded images, or what kept a worker from them: its source, or a task that it could not take."""
    message = receive(stream)
    if isinstance(message, SourceError | str):
        return message
    shape, items, skipped, notes = message
    pixels = np.empty(shape, np.uint8)
    view = pixels.data.cast("B") if pixels.size else memoryview(b"")
    while len(view):
        count = stream.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        view = view[count:]
    return Decoded(pixels, items, skipped, notes)


def main() -> None:
    """Serve until stdin closes, which it also does when the parent is killed."""
    with suppress(EOFError, BrokenPipeError):  # a killed parent may leave in the middle of a message
        serve()


def serve() -> None:
    """Decode groups from stdin to stdout, one after the other."""
    # What libraries print must not get between the messages.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Ctrl-C is the parent's affair.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    source = sys.stdin.buffer
    Image.MAX_IMAGE_PIXELS, patience.DISK_WAITS, transform = receive(source)
    send(output, READY)
    while True:
        try:
            records = receive(source)
        except EOFError:
            return
        except Exception as error:
            send(output, f"{type(error).__name__}: {error}")
            continue
        try:
            decoded = decode_group(records, transform)
        except SourceError as error:
            send(output, error)
            continue
        send_decoded(output, decoded)
