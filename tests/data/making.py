"""Small images, tar shards and tables for the tests of sources; drawings that workers can import."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from neurolab.data.sources import Record, Shard, Source

Members = Sequence[tuple[str, bytes]]


def picture(seed: int, width: int = 24, height: int = 20) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def encoded(seed: int, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    picture(seed).save(stream, kind)
    return stream.getvalue()


def write_tar(path: Path, members: Members, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(count: int, first: int = 0) -> list[tuple[str, bytes]]:
    """Members of ``count`` whole samples: image, captions, class."""
    members = []
    for i in range(first, first + count):
        captions = json.dumps({"captions": [f"picture {i}", f"number {i}"]}).encode()
        members += [
            (f"{i:04d}.jpg", encoded(i)),
            (f"{i:04d}.json", captions),
            (f"{i:04d}.cls", str(i % 3).encode()),
        ]
    return members


class MemorySource(Source):
    """Records given in memory, shard by shard."""

    kind = "memory"
    location = "memory"

    def __init__(self, shards: Mapping[str, Sequence[Record]], sized: bool = True) -> None:
        self.records, self.sized = dict(shards), sized
        self.reads: list[tuple[str, int]] = []

    def shards(self) -> list[Shard]:
        return [Shard(name, len(records) if self.sized else None) for name, records in self.records.items()]

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        self.reads.append((shard.name, start))
        yield from self.records[shard.name][start:stop]

    def content_hash(self) -> str:
        return "0" * 64


@dataclass(frozen=True)
class Square:
    """A drawing of one colour."""

    grey: int

    def __call__(self) -> Image.Image:
        return Image.new("RGB", (10, 8), (self.grey,) * 3)


@dataclass(frozen=True)
class Killer:
    """A drawing that ends its process, as a crash in a C library would."""

    status: int = 7

    def __call__(self) -> Image.Image:
        os._exit(self.status)


@dataclass(frozen=True)
class Signalled:
    """A drawing whose process gets a signal, the first so many times that it is drawn; a file counts them."""

    number: int
    times: int
    counter: Path

    def __call__(self) -> Image.Image:
        with self.counter.open("ab") as file:
            file.write(b"x")
        if self.counter.stat().st_size <= self.times:
            os.kill(os.getpid(), self.number)
            time.sleep(10)
        return Image.new("RGB", (10, 8))


@dataclass(frozen=True)
class Greedy:
    """A drawing that runs out of memory."""

    def __call__(self) -> Image.Image:
        raise MemoryError


@dataclass(frozen=True)
class Slow:
    """A drawing that takes its time."""

    seconds: float

    def __call__(self) -> Image.Image:
        time.sleep(self.seconds)
        return Image.new("RGB", (10, 8))


@dataclass(frozen=True)
class Chatty:
    """A drawing that prints, which must not get between the messages of its worker."""

    def __call__(self) -> Image.Image:
        print("hello from a drawing", flush=True)
        os.write(1, b"and from below\n")
        return Image.new("RGB", (10, 8))


@dataclass(frozen=True)
class NeedsNoTorch:
    """A drawing that is bad wherever torch is imported."""

    def __call__(self) -> Image.Image:
        heavy = {"torch", "webdataset", "datasets", "streamlit", "pytest"} & set(sys.modules)
        if heavy:
            raise RuntimeError(f"the worker imported {heavy}")
        return Image.new("RGB", (10, 8))
