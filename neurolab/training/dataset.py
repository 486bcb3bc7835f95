"""The prepared shards as one training set: pictures by index, the teacher's embeddings, and the texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from neurolab.errors import TrainingError
from neurolab.training.prepare import is_whole, read_plan, shard_folders


class Text(NamedTuple):
    """A text, its kind, and the index of the picture it belongs to."""

    kind: str
    text: str
    image: int


class Share(NamedTuple):
    """One process's share of a batch: indices [batch] of the whole batch, which of them are its own, and
    their pictures, uint8 [own, size, size, 3]."""

    indices: Tensor
    own: slice
    images: Tensor


class Prepared(Dataset[Share]):
    """Every picture of some prepared parts, in the order of the parts.

    embeddings: [images, D], the teacher's, unit norm. part_of: [images], the number of a picture's part.
    part_means: [parts, D], the mean embedding of each part. mean: [D], of all. mirrored: [images], whether
    the mirror image is as good. The pictures stay on the disk and are mapped into memory.
    Raises TrainingError for a part that is not whole.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        if unfinished := [folder.name for folder in folders if not is_whole(folder)]:
            raise TrainingError(f"{', '.join(unfinished)} is not wholly prepared: start the run again")
        self.names = [folder.name for folder in folders]
        shards = [(number, shard) for number, folder in enumerate(folders) for shard in shard_folders(folder)]
        self.images = [np.load(shard / "images.npy", mmap_mode="r") for _, shard in shards]
        counts = [len(images) for images in self.images]
        self.starts = np.cumsum([0, *counts])
        raw = np.concatenate([np.load(shard / "embeddings.npy") for _, shard in shards])
        self.embeddings = F.normalize(torch.from_numpy(raw).float(), dim=-1)
        self.part_of = torch.repeat_interleave(
            torch.tensor([number for number, _ in shards]), torch.tensor(counts)
        )
        self.mean = self.embeddings.mean(dim=0)
        self.part_means = torch.stack(
            [self.embeddings[self.part_of == number].mean(dim=0) for number in range(len(folders))]
        )
        mirrored = torch.tensor([bool(read_plan(folder)["mirrored"]) for folder in folders])
        self.mirrored = mirrored[self.part_of]
        self._shards = [shard for _, shard in shards]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def pictures(self, indices: Sequence[int]) -> Tensor:
        """uint8 [pictures, size, size, 3]."""
        rows = []
        for index in indices:
            shard = int(np.searchsorted(self.starts, index, side="right")) - 1
            rows.append(self.images[shard][index - self.starts[shard]])
        return torch.from_numpy(np.stack(rows))

    def __getitem__(self, share: tuple[Tensor, slice]) -> Share:
        indices, own = share
        return Share(indices, own, self.pictures(indices[own].tolist()))

    def rows(self, repeats: dict[str, int]) -> Tensor:
        """Every picture's index, those of a part as often as `repeats` says (default: once)."""
        often = torch.tensor([repeats.get(name, 1) for name in self.names])
        return torch.arange(len(self)).repeat_interleave(often[self.part_of])

    def digest(self) -> str:
        """SHA-256 of the teacher's embeddings in their order, which other pictures change."""
        return hashlib.sha256(self.embeddings.numpy().tobytes()).hexdigest()

    def texts(self) -> list[Text]:
        found = []
        for shard, start in zip(self._shards, self.starts, strict=False):
            for row in pq.read_table(shard / "texts.parquet").to_pylist():
                found.append(Text(row["kind"], row["text"], row["image"] + int(start)))
        return found


class Batches(Sampler[tuple[Tensor, slice]]):
    """The batches of one epoch over `rows`, the indices of pictures, as (indices, the own of them).

    Their order depends on the seed alone.

    Of several processes each takes an equal run of every batch, so their number does not change the batches.
    A last batch that is not full is left out.
    """

    def __init__(
        self, rows: Tensor, batch_size: int, seed: int, process: int = 0, processes: int = 1
    ) -> None:
        if batch_size % processes:
            raise TrainingError(f"a batch of {batch_size} cannot be shared evenly by {processes} processes")
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        share = batch_size // processes
        self.own = slice(process * share, (process + 1) * share)

    def __len__(self) -> int:
        return len(self.rows) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, slice]]:
        order = self.rows[torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(self.seed))]
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size], self.own


def loader(data: Prepared, batches: Batches, workers: int) -> DataLoader[Share]:
    """Shares in order; `workers` processes read pictures ahead, 0 reads them in this one."""
    ahead = 4 if workers else None
    return DataLoader(data, sampler=batches, batch_size=None, num_workers=workers, prefetch_factor=ahead)
