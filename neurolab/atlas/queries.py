"""SQL over the tables of an atlas: DuckDB in memory, over the Parquet files, reading only."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from neurolab.atlas import pictures
from neurolab.atlas.tables import MadeTable
from neurolab.errors import AtlasError

_SETTINGS = (
    "python_enable_replacements = false",
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    "enable_external_access = false",
    "lock_configuration = true",
)


def query(
    folder: Path,
    text: str,
    parameters: Sequence[Any] | Mapping[str, Any] | None = None,
    made: Mapping[str, MadeTable] | None = None,
) -> pa.Table:
    """Answer one SELECT over the views `images` and `pictures`, and every other Parquet file by its name.

    `images` has its rows' numbers as the column `image`. made: tables that lie in no file, by name; a file
    of the same name comes first. They cost nothing unless the query reads them. Parameters fill `?`, or
    `$name` when they are a mapping. Nothing but the atlas's own tables can be read, nothing can be written,
    and no extension is loaded. Raises AtlasError for anything but one SELECT, and for queries that DuckDB
    refuses, with its reason.
    """
    with contextlib.closing(duckdb.connect(":memory:")) as connection:
        try:
            tables = _views(connection, folder, made or {})
            allowed = ", ".join(f"{_quoted(path)}, {_literal(path)}" for path in tables)
            connection.execute(f"SET allowed_paths = [{allowed}]")
            for setting in _SETTINGS:
                connection.execute(f"SET {setting}")
            statements = connection.extract_statements(text)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise AtlasError(
                    f"an atlas answers one SELECT at a time, and is not written to by SQL: {text[:200]}"
                )
            return connection.sql(statements[0], params=parameters).to_arrow_table()
        except duckdb.Error as error:
            raise AtlasError(f"the query failed: {error}") from error


def _views(connection: duckdb.DuckDBPyConnection, folder: Path, made: Mapping[str, MadeTable]) -> list[Path]:
    # A hidden file is one that is being written.
    paths = [path for path in sorted(folder.glob("*.parquet")) if not path.name.startswith(".")]
    files = {path.stem: path.resolve() for path in paths}
    if "pictures" not in files:
        connection.register("pictures", pictures.SCHEMA.empty_table())
    for name, table in made.items():
        if name not in files:
            connection.register(name, table)
    for name, path in files.items():
        view, source = '"' + name.replace('"', '""') + '"', f"read_parquet({_literal(path)})"
        columns = "*"
        if name == "images":
            columns = "file_row_number AS image, * EXCLUDE (file_row_number)"
            source = f"read_parquet({_literal(path)}, file_row_number = true)"
        connection.execute(f"CREATE VIEW {view} AS SELECT {columns} FROM {source}")
    return list(files.values())


def _quoted(path: Path | str) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _literal(path: Path) -> str:
    """The path for `read_parquet`, which else takes `run[1]` for a pattern and reads its sibling `run1`."""
    return _quoted("".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path)))
