"""Tables on disk: Parquet files, and folders written by Hugging Face's ``datasets.save_to_disk``."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from neurolab.data import patience
from neurolab.data.files import AGAIN, may_come_back, says_nothing_of_the_file
from neurolab.data.hashing import files_hash
from neurolab.data.patience import patiently, read_on
from neurolab.data.sources import Record, Shard, Source
from neurolab.data.tables import BrokenRow, Columns, RowReader, find_columns
from neurolab.data.tarfiles import shard_names
from neurolab.errors import SourceError

ROWS_AT_ONCE = 64
BUFFER = 2**20  # bytes read at a time of a column
Row = dict[str, Any] | BrokenRow


class TableSource(Source):
    """Table files with an image column, one shard each, read by random access.

    A row's key is the ``path`` in its image struct, else its number; with several files, FILE/KEY.
    """

    def __init__(self, paths: Sequence[str | Path], location: str | None = None) -> None:
        files = [Path(path) for path in paths]
        self.files = dict(zip(shard_names([str(path) for path in files]), files, strict=True))
        self.location = location if location is not None else ", ".join(str(path) for path in files)
        self._columns: dict[str, Columns] = {}
        self._sizes: dict[str, int] = {}
        for name, path in self.files.items():
            schema, self._sizes[name] = self._inspect(path)
            self._columns[name] = find_columns(schema, str(path))
        if not sum(self._sizes.values()):
            raise SourceError(f"{self.location} has no rows")
        self._hash: str | None = None

    @abstractmethod
    def _inspect(self, path: Path) -> tuple[Any, int]:
        """The pyarrow schema of a file and its number of rows; SourceError if it cannot be read."""

    @abstractmethod
    def _rows(self, path: Path, names: list[str], start: int, stop: int) -> Iterator[Row]:
        """Rows start to stop of a file, only the named columns of them."""

    def shards(self) -> list[Shard]:
        return [Shard(name, size) for name, size in self._sizes.items()]

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        path, columns, size = self.files[shard.name], self._columns[shard.name], self._sizes[shard.name]
        reader = RowReader(columns, f"{shard.name}/" if len(self.files) > 1 else "", path.parent)
        stop = size if stop is None else min(stop, size)
        # Keys are unique by the keys before them: these are read without their images.
        for row in self._rows(path, columns.key_names, 0, min(start, stop)):
            reader.skip(row)
        for row in self._rows(path, columns.names, start, stop):
            yield reader.read(row)

    def content_hash(self) -> str:
        """SHA-256 over the names and bytes of the files."""
        if self._hash is None:
            self._hash = files_hash(self.kind, self.files)
        return self._hash


class ParquetSource(TableSource):
    """Parquet files. A row group that cannot be decompressed gives unreadable records for its rows; what the
    disk does is tried again, and then ends the reading with SourceError.

    Memory is for three pages of the image column (and what the allocator keeps, one or two more) and for
    ROWS_AT_ONCE rows, however large the row groups are. How large pages are is up to who wrote the file:
    pyarrow puts 1,024 images into a page if not told otherwise (``write_batch_size``).
    """

    kind = "parquet"

    def _inspect(self, path: Path) -> tuple[Any, int]:
        try:
            with patiently(partial(_open, path), says_nothing_of_the_file, patience.DISK_WAITS) as file:
                return file.schema_arrow, file.metadata.num_rows
        except OSError as error:
            raise _unreadable(path, error) from error

    def _rows(self, path: Path, names: list[str], start: int, stop: int) -> Iterator[Row]:
        try:
            once = partial(_rows_once, path, names, stop=stop)
            yield from read_on(once, start, may_come_back, patience.DISK_WAITS)
        except OSError as error:
            raise _unreadable(path, error) from error


class SavedSource(TableSource):
    """A folder written by ``Dataset.save_to_disk``: its Arrow files, memory-mapped by ``datasets``.

    So they take the memory of ROWS_AT_ONCE rows.
    """

    kind = "huggingface"

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            files = [folder / data["filename"] for data in state["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{folder} is not a folder of datasets.save_to_disk: {error}") from error
        if missing := [str(file) for file in files if not file.is_file()]:
            raise SourceError(f"{folder} lacks {', '.join(missing)}, which its state.json names")
        super().__init__(files, location=str(folder))

    def _inspect(self, path: Path) -> tuple[Any, int]:
        table = _arrow_table(path)
        return table.schema, table.num_rows

    def _rows(self, path: Path, names: list[str], start: int, stop: int) -> Iterator[Row]:
        # "image.path" is Parquet's way to name a part of a column; here columns are cheap to name whole.
        table = _arrow_table(path).select(list(dict.fromkeys(name.split(".")[0] for name in names)))
        for first in range(start, stop, ROWS_AT_ONCE):
            count = min(ROWS_AT_ONCE, stop - first)
            yield from table.slice(first, count).to_pylist() if table.num_columns else [{}] * count


def _arrow_table(path: Path) -> Any:
    import pyarrow as pa
    from datasets import Dataset

    try:
        return Dataset.from_file(str(path)).data.table
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read as an Arrow table: {_first_line(error)}") from error


def _open(path: Path) -> Any:
    """A Parquet file; SourceError where it is none, OSError where the system keeps it from being read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Else pyarrow holds a whole row group, or each of its columns, before it gives the first row.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER)
    except (pa.ArrowException, OSError) as error:
        if _is_of_the_system(error):
            raise
        raise SourceError(f"{path} cannot be read as Parquet: {_first_line(error)} Is it whole?") from error


def _is_of_the_system(error: Exception) -> bool:
    """Of pyarrow's OSErrors, many say that the content is damaged; those of the system have its number."""
    return isinstance(error, OSError) and error.errno is not None


def _unreadable(path: Path, error: OSError) -> SourceError:
    return SourceError(f"{path} cannot be read: {error.strerror}. Bring it back, and {AGAIN}")


def _rows_once(path: Path, names: list[str], start: int, stop: int) -> Iterator[Row]:
    with _open(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if start < first + rows and first < stop:
                yield from _group_rows(file, group, names, max(start - first, 0), min(stop - first, rows))
            first += rows


def _group_rows(file: Any, group: int, names: list[str], start: int, stop: int) -> Iterator[Row]:
    """Rows start to stop of a row group; from a place on that cannot be read, broken rows."""
    import pyarrow as pa

    row = 0
    try:
        batches = file.iter_batches(ROWS_AT_ONCE, [group], columns=names, use_threads=False) if names else ()
        for batch in batches:
            values = batch.slice(max(start - row, 0), max(0, stop - max(row, start))).to_pylist()
            row += batch.num_rows
            yield from values
            if row >= stop:
                return
    except (pa.ArrowException, OSError) as error:
        if _is_of_the_system(error):
            raise
        broken = BrokenRow(f"row group {group} cannot be read: {_first_line(error)}")
        yield from [broken] * (stop - max(row, start))
        return
    yield from [{} for _ in range(stop - max(row, start))]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
