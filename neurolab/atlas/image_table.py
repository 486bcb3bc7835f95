"""Reading images.parquet: what is known of an image by its number, and its thumbnail."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neurolab.atlas.images import SCHEMA
from neurolab.errors import AtlasError

CACHED_GROUPS = 64  # of thumbnails, about 1 MB each


@dataclass(frozen=True)
class ImageRow:
    """An image of the atlas: its key in the source, captions, labels, and original size in pixels."""

    index: int
    key: str
    captions: tuple[str, ...]
    labels: dict[str, str]
    width: int
    height: int


class ImagesTable:
    """Reads images.parquet: the text columns are read once, thumbnails by row group when asked for.

    May be used from several threads.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = pq.ParquetFile(self.path, memory_map=True)
        except FileNotFoundError as error:
            raise AtlasError(f"{path} is missing; build the atlas again") from error
        except (pa.ArrowException, OSError) as error:
            raise AtlasError(f"{path} cannot be read ({error}); build the atlas again") from error
        if not self._file.schema_arrow.equals(SCHEMA):
            raise AtlasError(f"{path} has other columns than an atlas of version 1; build the atlas again")
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._lock = threading.RLock()
        self._text: pa.Table | None = None
        self._index: dict[str, int] | None = None
        self._embeddings: np.ndarray | None = None
        self._groups: OrderedDict[int, pa.Array] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, images: Sequence[int] | np.ndarray) -> list[ImageRow]:
        """The rows of these images, in the order given."""
        wanted = self._checked(images)
        columns = (column.to_pylist() for column in self.take(wanted).columns)
        return [
            ImageRow(int(i), k, tuple(c or ()), dict(m or ()), w, h)
            for i, k, c, m, w, h in zip(wanted, *columns, strict=True)
        ]

    def take(self, images: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """The columns key, captions, labels, width and height, or some of them, in the order of `images`."""
        table = self._text_columns()
        return table.select(list(columns or table.column_names)).take(pa.array(self._checked(images)))

    def index_of(self, key: str) -> int:
        """The number of the image with this key; AtlasError where there is none."""
        with self._lock:
            if self._index is None:
                keys = self._text_columns().column("key").to_pylist()
                # Backwards, so that of two images with the same key the first is found.
                self._index = {
                    k: i for i, k in zip(range(len(keys) - 1, -1, -1), reversed(keys), strict=True)
                }
        if key not in self._index:
            raise AtlasError(f"no image of {self.path.parent} has the key {key!r}")
        return self._index[key]

    def thumbnails(self, images: Sequence[int] | np.ndarray) -> list[bytes | None]:
        """The thumbnails (WebP bytes) of these images, in the order given; None for one made without."""
        wanted = self._checked(images)
        groups = np.searchsorted(self._starts, wanted, side="right") - 1
        found: list[bytes | None] = [None] * len(wanted)
        with self._lock:
            for place in np.argsort(groups, kind="stable"):
                group = int(groups[place])
                found[place] = self._group(group)[int(wanted[place] - self._starts[group])].as_py()
        return found

    def embeddings(self) -> np.ndarray | None:
        """The images' embeddings, [images, D] float16 (NaN where one has none); None when none has one."""
        with self._lock:
            if self._embeddings is None:
                self._embeddings = self._read_embeddings()
        return self._embeddings if self._embeddings.size else None

    def _checked(self, images: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = np.asarray(images, dtype=np.int64).reshape(-1)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise AtlasError(f"{self.path.parent} has images 0 to {len(self) - 1}, not {wanted.tolist()[:8]}")
        return wanted

    def _text_columns(self) -> pa.Table:
        with self._lock:
            if self._text is None:
                names = ["key", "captions", "labels", "width", "height"]
                self._text = self._file.read(columns=names).combine_chunks()
            return self._text

    def _group(self, group: int) -> pa.Array:
        if group not in self._groups:
            column = self._file.read_row_group(group, columns=["thumbnail"]).column(0)
            self._groups[group] = column.combine_chunks()
            if len(self._groups) > CACHED_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group)
        return self._groups[group]

    def _read_embeddings(self) -> np.ndarray:
        result = np.zeros((len(self), 0), np.float16)
        for group, start in enumerate(self._starts[:-1]):
            column = self._file.read_row_group(group, columns=["embedding"]).column(0).combine_chunks()
            has = np.asarray(column.is_valid())
            flat = np.asarray(column.flatten())
            if flat.size and not result.size:
                result = np.full((len(self), flat.size // int(has.sum())), np.nan, np.float16)
            if flat.size:
                result[start : start + len(has)][has] = flat.reshape(-1, result.shape[1])
        result.flags.writeable = False
        return result
