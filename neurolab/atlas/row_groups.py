"""Row groups of a Parquet file that are read when they are asked for, and kept for a while."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from neurolab.errors import AtlasError


class RowGroups:
    """Some columns of a Parquet file, by row group; those used last are kept, up to `limit` bytes.

    May be used from several threads. lock: whoever reads `file` holds it, for two may not read at once.
    """

    def __init__(self, path: Path, file: pq.ParquetFile, lock: threading.RLock, limit: int) -> None:
        self.path, self.limit = path, limit
        self._file, self._lock, metadata = file, lock, file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])  # of each group, and the end
        self._kept: OrderedDict[tuple[int, str], pa.Array] = OrderedDict()
        self._bytes = 0

    def groups_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the group in which each row is."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def take(
        self, rows: NDArray[np.int64], columns: Sequence[str]
    ) -> Iterator[tuple[NDArray[np.int64], list[pa.Array]]]:
        """By group, in the order of the file: places in `rows`, and the columns of what is there."""
        groups = self.groups_of(rows)
        order = np.argsort(groups, kind="stable")
        bounds = np.flatnonzero(np.diff(groups[order])) + 1
        for places in np.split(order, bounds) if len(order) else []:
            group = int(groups[places[0]])
            inside, found = rows[places] - self.starts[group], self.read(group, columns)
            if len(inside) == 1:  # as it is for most groups of a large atlas; a slice costs a tenth
                yield places, [column.slice(int(inside[0]), 1) for column in found]
            else:
                chosen = pa.array(inside)
                yield places, [column.take(chosen) for column in found]

    def read(self, group: int, columns: Sequence[str]) -> list[pa.Array]:
        """The columns of a row group."""
        with self._lock:
            missing = [name for name in columns if (group, name) not in self._kept]
            if missing:
                self._load(group, missing)
            for name in columns:
                self._kept.move_to_end((group, name))
            found = [self._kept[group, name] for name in columns]
            while self._bytes > self.limit:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return found

    def _load(self, group: int, columns: list[str]) -> None:
        try:
            table = self._file.read_row_group(group, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise AtlasError(f"{self.path} cannot be read ({error}); build the atlas again") from error
        for name in columns:
            array = table.column(name).combine_chunks()
            self._kept[group, name] = array
            self._bytes += array.nbytes
