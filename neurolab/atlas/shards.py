"""shards.parquet: what each shard of the source gave, in the order of the source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from neurolab.atlas.images import valid_text
from neurolab.atlas.writing import atomic_path
from neurolab.errors import AtlasError

SHARDS = "shards.parquet"
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("records", pa.int64()),
        ("images", pa.int64()),
        ("skipped", pa.int64()),
        ("first", pa.int64()),
    ]
)


class ShardRow(NamedTuple):
    """A shard of the source: how many records it had, how many images were kept of them and how many skipped.

    Its images are numbers `first` to `first + images - 1` of the atlas.
    """

    name: str
    records: int
    images: int
    skipped: int
    first: int

    def joined(self, after: ShardRow) -> ShardRow:
        """With what was read of the same shard behind it."""
        return self._replace(
            records=self.records + after.records,
            images=self.images + after.images,
            skipped=self.skipped + after.skipped,
        )


def write_shards(path: Path, rows: Sequence[ShardRow]) -> None:
    """Write the table, atomically."""
    columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
    names, *numbers = (list(column) for column in columns)
    table = pa.table([[valid_text(name) for name in names], *numbers], schema=SCHEMA)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", version="2.6", data_page_version="1.0")


def read_shards(path: Path) -> list[ShardRow]:
    """The rows of the table; AtlasError where it cannot be read or is another."""
    try:
        table = pq.read_table(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise AtlasError(f"{path} cannot be read ({error}); build the atlas again") from error
    if not table.schema.equals(SCHEMA):
        raise AtlasError(f"{path} has other columns than {', '.join(SCHEMA.names)}; build the atlas again")
    return [ShardRow(**row) for row in table.to_pylist()]


def shard_problems(rows: Sequence[ShardRow], images: int, skipped: int) -> Iterator[str]:
    """What does not hold of the rows of an atlas with so many images, and so many records skipped."""
    if len({row.name for row in rows}) < len(rows):
        yield "names a shard twice"
    following = 0
    for row in rows:
        if min(row.records, row.images, row.skipped) < 0 or row.records != row.images + row.skipped:
            yield (
                f"has {row.records} records of {row.name}, and {row.images} images and {row.skipped} skipped"
            )
        if row.first != following:
            yield f"has image {row.first} as the first of {row.name}, where {following} is next"
        following = row.first + row.images
    for what, found, there in (
        ("images", sum(row.images for row in rows), images),
        ("skipped records", sum(row.skipped for row in rows), skipped),
    ):
        if found != there:
            yield f"adds up to {found} {what}, and the atlas has {there}"
