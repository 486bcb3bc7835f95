"""Reading images.parquet: what is known of an image by its number, and its thumbnail."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from neurolab.atlas.images import SCHEMA
from neurolab.atlas.row_groups import RowGroups
from neurolab.errors import AtlasError

TEXTS = ("key", "captions", "labels", "width", "height")
CACHED_TEXTS = 64 << 20  # bytes
CACHED_THUMBNAILS = 64 << 20
MANY_GROUPS = 64  # from which on all keys are read at once, and kept


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
    """Reads images.parquet: of texts and thumbnails the row groups that are asked for, of keys also all.

    So a few images cost the same of an atlas of any size. May be used from several threads.
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
        self._lock = threading.RLock()
        self._texts = RowGroups(self.path, self._file, self._lock, CACHED_TEXTS)
        self._thumbnails = RowGroups(self.path, self._file, self._lock, CACHED_THUMBNAILS)
        self._keys: pa.Array | None = None
        self._index: dict[str, int] | None = None
        self._embeddings: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self._texts.starts[-1])

    def rows(self, images: Sequence[int] | np.ndarray) -> list[ImageRow]:
        """The rows of these images, in the order given."""
        wanted = self._checked(images)
        found: dict[int, ImageRow] = {}
        for places, columns in self._texts.take(wanted, TEXTS):
            values = zip(places.tolist(), *(column.to_pylist() for column in columns), strict=True)
            for place, k, c, m, w, h in values:
                found[place] = ImageRow(int(wanted[place]), k, tuple(c or ()), dict(m or ()), w, h)
        return [found[place] for place in range(len(wanted))]

    def take(self, images: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """The columns key, captions, labels, width and height, or some of them, in the order of `images`."""
        wanted, names = self._checked(images), list(columns or TEXTS)
        schema = pa.schema([SCHEMA.field(name) for name in names])
        try:
            if names == ["key"] and self._wants_many(wanted):
                return pa.table([self._all_keys().take(pa.array(wanted)).cast(pa.string())], schema=schema)
            order, parts = [np.zeros(0, np.int64)], [schema.empty_table()]
            for places, arrays in self._texts.take(wanted, names):
                order.append(places)
                parts.append(pa.table(arrays, schema=schema))
            found, back = pa.concat_tables(parts), np.argsort(np.concatenate(order))
            return found if (np.diff(back) > 0).all() else found.take(pa.array(back))
        except pa.ArrowException as error:
            few = "ask for fewer images at a time"
            raise AtlasError(f"{len(wanted)} rows of {self.path} are too much ({error}); {few}") from error

    def index_of(self, key: str) -> int:
        """The number of the image with this key; AtlasError where there is none."""
        with self._lock:
            if self._index is None:
                keys = self._all_keys().to_pylist()
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
        found: list[bytes | None] = [None] * len(wanted)
        for places, (column,) in self._thumbnails.take(wanted, ["thumbnail"]):
            for place, data in zip(places.tolist(), column.to_pylist(), strict=True):
                found[place] = data
        return found

    def embeddings(self) -> np.ndarray | None:
        """The images' embeddings, [images, D] float16 (NaN where one has none); None when none has one."""
        with self._lock:
            if self._embeddings is None:
                self._embeddings = self._read_embeddings()
        return self._embeddings if self._embeddings.size else None

    def _checked(self, images: Sequence[int] | np.ndarray) -> NDArray[np.int64]:
        wanted = np.asarray(images, dtype=np.int64).reshape(-1)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise AtlasError(f"{self.path.parent} has images 0 to {len(self) - 1}, not {wanted.tolist()[:8]}")
        return wanted

    def _wants_many(self, images: NDArray[np.int64]) -> bool:
        """Whether the keys of all images are there, or take less time than those of these."""
        if self._keys is not None or 2 * len(images) >= len(self):
            return True
        return len(np.unique(self._texts.groups_of(images))) > MANY_GROUPS

    def _all_keys(self) -> pa.Array:
        """The keys of all images. Together they may be longer than the 2 GiB that `string` can count."""
        with self._lock:
            if self._keys is None:
                column = self._file.read(columns=["key"]).column(0)
                self._keys = column.cast(pa.large_string()).combine_chunks()
            return self._keys

    def _read_embeddings(self) -> np.ndarray:
        result = np.zeros((len(self), 0), np.float16)
        for group, start in enumerate(self._texts.starts[:-1]):
            column = self._file.read_row_group(group, columns=["embedding"]).column(0).combine_chunks()
            has = np.asarray(column.is_valid())
            flat = np.asarray(column.flatten())
            if flat.size and not result.size:
                result = np.full((len(self), flat.size // int(has.sum())), np.nan, np.float16)
            if flat.size:
                result[start : start + len(has)][has] = flat.reshape(-1, result.shape[1])
        result.flags.writeable = False
        return result
