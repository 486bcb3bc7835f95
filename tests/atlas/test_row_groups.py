"""Of images.parquet only the row groups are read in which the images are that somebody asks for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neurolab.atlas import images
from neurolab.atlas.image_table import ImagesTable
from neurolab.errors import AtlasError
from tests.atlas.making import make_atlas, make_items
from tests.atlas.test_images import write

ROWS, IMAGES = 8, 200  # of a group, and of the atlas
Read = list[tuple[int, tuple[str, ...]]]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Small groups; what is read of them, as (group, columns). All of a column is (-1, columns).

    Columns of lists are not read whole, as they cannot be where their text is longer than 2 GiB.
    """
    monkeypatch.setattr(images, "ROWS_PER_GROUP", ROWS)
    found: Read = []
    group, whole = pq.ParquetFile.read_row_group, pq.ParquetFile.read

    def read_group(self: pq.ParquetFile, i: int, columns: Sequence[str], **options: Any) -> pa.Table:
        found.append((i, tuple(columns)))
        return group(self, i, columns=columns, **options)

    def read_whole(self: pq.ParquetFile, columns: Sequence[str], **options: Any) -> pa.Table:
        if {"captions", "labels"} & {*columns}:
            raise pa.ArrowNotImplementedError("Nested data conversions for chunked array outputs")
        found.append((-1, tuple(columns)))
        return whole(self, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_group)
    monkeypatch.setattr(pq.ParquetFile, "read", read_whole)
    return found


@pytest.fixture
def table(tmp_path: Path, read: Read) -> ImagesTable:
    return ImagesTable(write(tmp_path, [IMAGES]))


def test_rows_cost_their_groups(table: ImagesTable, read: Read) -> None:
    wanted = [77, 3, 150, 76, 3]
    items = make_items(IMAGES)
    assert [row.captions for row in table.rows(wanted)] == [items[i].captions for i in wanted]
    columns = ("key", "captions", "labels", "width", "height")
    assert read == [(group, columns) for group in (0, 9, 18)]
    table.rows(wanted)
    assert len(read) == 3  # they were kept


def test_a_units_page_costs_the_groups_of_its_exemplars(tmp_path: Path, read: Read) -> None:
    atlas = make_atlas(tmp_path / "atlas", images=IMAGES)
    read.clear()
    unit = atlas.unit("layer4.2/1")
    groups = {exemplar.image // ROWS for exemplar in unit.exemplars}
    assert {group for group, _ in read} == groups and len(read) == len(groups) <= 5


def test_some_columns_cost_only_themselves(table: ImagesTable, read: Read) -> None:
    wanted, items = [77, 3, 76], make_items(IMAGES)
    found = table.take(wanted, ["width", "key"])
    assert found.to_pydict() == {"width": [177, 103, 176], "key": [items[i].key for i in wanted]}
    assert read == [(0, ("width", "key")), (9, ("width", "key"))]
    table.take(wanted, ["key", "captions"])
    assert read[2:] == [(0, ("captions",)), (9, ("captions",))]


@pytest.mark.parametrize("columns", [["key"], ["captions"], ["labels", "key"], None])
@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_what_is_taken_is_in_the_order_asked_for(
    table: ImagesTable, columns: list[str] | None, count: int
) -> None:
    wanted = np.random.default_rng(0).integers(0, IMAGES, count)
    whole = pq.read_table(table.path)
    for order in (wanted, np.sort(wanted)):
        found = table.take(order, columns)
        expected = whole.select(columns or list(found.column_names)).take(pa.array(order))
        assert found.schema.equals(expected.schema) and found.to_pylist() == expected.to_pylist()


def test_keys_of_many_images_are_read_at_once_and_kept(
    table: ImagesTable, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurolab.atlas.image_table.MANY_GROUPS", 10)
    keys = [item.key for item in make_items(IMAGES)]
    for step in (1, 2):
        found = table.take(range(0, IMAGES, step), ["key"]).column("key")
        assert found.type == pa.string() and found.to_pylist() == keys[::step]
    assert table.index_of(keys[31]) == 31
    assert read == [(-1, ("key",))]
    table.take(range(0, IMAGES, 2), ["captions"])
    assert len(read) == 1 + IMAGES // ROWS


def test_what_is_kept_is_limited(tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurolab.atlas.image_table.CACHED_TEXTS", 3000)
    table, items = ImagesTable(write(tmp_path, [IMAGES])), make_items(IMAGES)
    for _ in range(2):
        assert [row.key for row in table.rows(range(IMAGES))] == [item.key for item in items]
        assert sum(array.nbytes for array in table._texts._kept.values()) <= 3000
    assert len(read) == 2 * IMAGES // ROWS  # each a second time, for it was not kept
    table.rows([IMAGES - 1])
    assert len(read) == 2 * IMAGES // ROWS  # but the last one was


def test_more_text_than_one_answer_can_hold_says_what_to_do(
    table: ImagesTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise pa.ArrowNotImplementedError("offset overflow")

    monkeypatch.setattr(pa, "concat_tables", fail)
    with pytest.raises(AtlasError, match=r"offset overflow.*ask for fewer images at a time"):
        table.take(range(IMAGES))


def test_a_damaged_group_is_an_error_of_the_atlas(tmp_path: Path, read: Read) -> None:
    path = write(tmp_path, [IMAGES])
    column = pq.read_metadata(path).row_group(3).column(0)
    content = bytearray(path.read_bytes())
    start = column.data_page_offset
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    table = ImagesTable(path)
    assert table.rows([0])[0].key == "folder/0000.jpg"
    with pytest.raises(AtlasError, match=r"(?s)images\.parquet cannot be read.*build the atlas again"):
        table.rows([3 * ROWS])


def test_two_threads_never_read_the_file_at_once(
    table: ImagesTable, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Parquet reader is not made for it, whatever columns they read."""
    group, whole = pq.ParquetFile.read_row_group, pq.ParquetFile.read
    reading, together = threading.Lock(), []

    def alone(function: Callable[..., pa.Table]) -> Callable[..., pa.Table]:
        def call(*arguments: Any, **named: Any) -> pa.Table:
            if not reading.acquire(blocking=False):
                together.append(arguments)
                return function(*arguments, **named)
            time.sleep(0.001)
            try:
                return function(*arguments, **named)
            finally:
                reading.release()

        return call

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", alone(group))
    monkeypatch.setattr(pq.ParquetFile, "read", alone(whole))
    numbers = range(0, IMAGES, ROWS)
    ways = [table.rows, table.thumbnails, table.take, lambda _: table.embeddings()]
    with ThreadPoolExecutor(5) as pool:
        [*pool.map(lambda way: way(numbers), ways), table.index_of("folder/0000.jpg")]
    assert together == [] and len(read) == 3 * len(numbers) + 1
