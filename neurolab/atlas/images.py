"""Writing images.parquet: one row per image of an atlas, and row i is image i."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neurolab.atlas.writing import atomic_path, remove_leftovers
from neurolab.errors import AtlasError

ROWS_PER_GROUP = 256  # of images.parquet: one thumbnail costs the reading of one group
ROWS_PER_PART = 512  # held in memory until they are written, with thumbnails and embeddings

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("labels", pa.map_(pa.string(), pa.string())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("thumbnail", pa.binary()),
        ("embedding", pa.list_(pa.float16())),
    ]
)
# Thumbnails are compressed already (WebP) and embeddings hardly compress; the rest is text that does.
_OPTIONS: dict[str, Any] = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": {
        "key": "zstd",
        "captions.list.element": "zstd",
        "labels.key_value.key": "zstd",
        "labels.key_value.value": "zstd",
        "width": "zstd",
        "height": "zstd",
    },
    "use_dictionary": ["captions.list.element", "labels.key_value.key", "labels.key_value.value"],
    "write_statistics": ["key", "width", "height"],
}


class ImageItem(Protocol):
    """What the writer reads of an image; `neurolab.data.loader.Item` is one."""

    @property
    def key(self) -> str: ...
    @property
    def captions(self) -> Sequence[str]: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def thumbnail(self) -> bytes | None: ...


class ImagesWriter:
    """Collects the rows of images.parquet in parts that survive a kill, and joins them in constant memory.

    `flush` before saving a checkpoint, and note `rows` in it; to resume, open the writer with that number as
    `rows`: what was written after the checkpoint is dropped. The joined file's bytes do not depend on the
    parts.
    """

    def __init__(self, folder: str | Path, rows: int = 0) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        self.rows = self._keep_parts(rows)
        self._pending: list[pa.Table] = []
        self._flushed = self.rows

    def append(self, items: Sequence[ImageItem], embeddings: np.ndarray | None = None) -> range:
        """Add one row per item; embeddings [items, D] or None. Returns the image numbers that they got."""
        first = self.rows
        self._pending.append(_table(items, embeddings))
        self.rows += len(items)
        if self.rows - self._flushed >= ROWS_PER_PART:
            self.flush()
        return range(first, self.rows)

    def flush(self) -> int:
        """Put every row so far on the disk; returns their number."""
        if self.rows > self._flushed:
            with atomic_path(self.folder / f"{self._flushed:012d}.parquet") as temporary:
                pq.write_table(
                    pa.concat_tables(self._pending), temporary, row_group_size=ROWS_PER_GROUP, **_OPTIONS
                )
            self._pending, self._flushed = [], self.rows
        return self.rows

    def finish(self, path: str | Path) -> int:
        """Join the parts to `path` in row groups of fixed size; returns how many rows. The parts stay."""
        self.flush()
        with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, **_OPTIONS) as writer:
            for group in _regroup(self._parts(), ROWS_PER_GROUP):
                writer.write_table(group, row_group_size=ROWS_PER_GROUP)
        return self.rows

    def discard(self) -> None:
        """Remove the parts."""
        shutil.rmtree(self.folder)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.parquet"))

    def _keep_parts(self, rows: int) -> int:
        """Drop the parts from row `rows` on; the others must hold exactly the rows before it."""
        held = 0
        for part in self._parts():
            if int(part.stem) >= rows:
                part.unlink()
            elif int(part.stem) == held:
                held += pq.read_metadata(part).num_rows
        if held != rows:
            raise AtlasError(
                f"{self.folder} holds {held} image rows where the checkpoint says {rows}; "
                "remove the unfinished build and start it again"
            )
        return rows


def _table(items: Sequence[ImageItem], embeddings: np.ndarray | None) -> pa.Table:
    columns: dict[str, Any] = {
        "key": [valid_text(item.key) for item in items],
        "captions": [[valid_text(caption) for caption in item.captions] for item in items],
        "labels": [sorted((valid_text(k), valid_text(v)) for k, v in item.labels.items()) for item in items],
        "width": [item.width for item in items],
        "height": [item.height for item in items],
        "thumbnail": [item.thumbnail or None for item in items],
        "embedding": _embedding_column(len(items), embeddings),
    }
    return pa.table([pa.array(columns[f.name], f.type) for f in SCHEMA], schema=SCHEMA)


def valid_text(value: str) -> str:
    """`value`, but for the bytes of a file name that are no UTF-8: those as they are written in Python."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _embedding_column(rows: int, embeddings: np.ndarray | None) -> pa.Array:
    if embeddings is None:
        return pa.nulls(rows, SCHEMA.field("embedding").type)
    if embeddings.ndim != 2 or len(embeddings) != rows:
        raise AtlasError(f"embeddings of shape {embeddings.shape} do not fit {rows} images")
    flat = pa.array(np.ascontiguousarray(embeddings, dtype=np.float16).reshape(-1))
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * embeddings.shape[1])
    return pa.ListArray.from_arrays(offsets, flat)


def _regroup(parts: Sequence[Path], rows: int) -> Iterator[pa.Table]:
    """The rows of all parts in order, in tables of exactly `rows` rows but for the last, one at a time."""
    pending, held = [], 0
    for part in parts:
        with pq.ParquetFile(part) as file:
            for batch in file.iter_batches(batch_size=rows):
                while batch.num_rows:
                    taken = batch.slice(0, rows - held)
                    pending.append(taken)
                    held, batch = held + taken.num_rows, batch.slice(taken.num_rows)
                    if held == rows:
                        yield pa.Table.from_batches(pending).combine_chunks()
                        pending, held = [], 0
    if pending:
        yield pa.Table.from_batches(pending).combine_chunks()
