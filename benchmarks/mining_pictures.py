"""Pictures to mine: any number of different ones from the memory of a few, and shards of encoded ones."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from neurolab.data.items import Batch, Item
from neurolab.models.zoo import Model

BANK = 64
Pixels = NDArray[np.uint8]


def smooth(count: int, size: tuple[int, int], seed: int = 0) -> Pixels:
    """Pictures of coloured blobs and some grain, each with its own contrast: [count, height, width, 3]."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.standard_normal((count, 3, 7, 7), dtype=np.float32))
    blobs = F.interpolate(coarse, size, mode="bicubic", align_corners=False).permute(0, 2, 3, 1).numpy()
    contrast = rng.uniform(8, 70, (count, 1, 1, 1))
    grain = rng.standard_normal(blobs.shape, dtype=np.float32) * rng.uniform(0, 12, (count, 1, 1, 1))
    return np.clip(128 + contrast * blobs + grain, 0, 255).astype(np.uint8)


class Pictures(Dataset[tuple[Tensor, int]]):
    """`count` different pictures for a model: a bank of a few, each shifted again and again.

    As a dataset it gives what torch's loaders need, (normalized [3, height, width], label 0). held: all are
    made ready beforehand, so that engines find them in memory; else each is made when asked for, and their
    number costs no memory.
    """

    def __init__(self, model: Model, count: int, *, held: bool, seed: int = 0) -> None:
        height, width = model.image_size
        if count > (most := BANK * height * width):
            raise ValueError(f"{BANK} pictures of {height} x {width} can be shifted to {most}, not {count}")
        self.model, self.count, self.bank = model, count, smooth(BANK, (height, width), seed)
        self._tensors = [self._tensor(number) for number in range(count)] if held else None
        self._batches: dict[int, list[Batch]] | None = {} if held else None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        if not 0 <= number < self.count:
            raise IndexError(number)
        return (self._tensor(number) if self._tensors is None else self._tensors[number]), 0

    def pixels(self, number: int) -> Pixels:
        """A picture, uint8 [height, width, 3]."""
        down, across = divmod(number // BANK, self.bank.shape[2])
        return np.roll(self.bank[number % BANK], (down, across), axis=(0, 1))

    def _tensor(self, number: int) -> Tensor:
        pixels = torch.from_numpy(self.pixels(number)).permute(2, 0, 1).contiguous()
        return self.model.normalize(pixels / 255)

    def batches(self, size: int) -> Iterator[Batch]:
        """All pictures as the loader gives them."""
        if self._batches is None:
            yield from self._made(size)
        else:
            if size not in self._batches:
                self._batches[size] = list(self._made(size))
            yield from self._batches[size]

    def _made(self, size: int) -> Iterator[Batch]:
        for number, start in enumerate(range(0, self.count, size)):
            rows = range(start, min(start + size, self.count))
            items = [Item(f"{row:08d}", (), {}, *self.model.image_size[::-1], b"") for row in rows]
            yield Batch(
                "pictures", number, np.stack([self.pixels(row) for row in rows]), items, [], start, rows.stop
            )


def encode(picture: Pixels, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return stream.getvalue()


def write_shards(
    folder: Path, count: int, size: tuple[int, int], *, per_shard: int, kind: str = "JPEG"
) -> Path:
    """`count` pictures of a (height, width) as WebDataset shards, each with a class; returns the folder.

    The bank's pictures are encoded once and written under other keys again and again: for an engine that
    reads and decodes each record they are as good as different ones.
    """
    folder.mkdir(parents=True)
    suffix = {"JPEG": "jpg", "PNG": "png"}[kind]
    encoded = [encode(picture, kind) for picture in smooth(min(BANK, count), size)]
    for first in range(0, count, per_shard):
        with tarfile.open(folder / f"{first // per_shard:05d}.tar", "w") as archive:
            for number in range(first, min(first + per_shard, count)):
                members = ((suffix, encoded[number % len(encoded)]), ("cls", b"%d" % (number % 10)))
                for ending, data in members:
                    member = tarfile.TarInfo(f"{number:08d}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return folder
