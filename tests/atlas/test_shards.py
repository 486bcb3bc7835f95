"""The table of what each shard gave: written once, read back, and held to the rest of the atlas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from neurolab.atlas import Atlas
from neurolab.atlas.checking import check
from neurolab.atlas.manifest import describe_files, sealed
from neurolab.atlas.shards import SHARDS, ShardRow, read_shards, write_shards
from neurolab.atlas.writing import write_json
from neurolab.errors import AtlasError
from tests.atlas.making import make_embeddings, make_items, open_writer

ROWS = [
    ShardRow("train-0000", 20, 20, 0, 0),
    ShardRow("train-0001", 1, 0, 1, 20),
    ShardRow("train-0002", 12, 12, 0, 20),
]
WRONG: dict[str, tuple[Sequence[ShardRow], str]] = {
    "a lost shard": (ROWS[:2], "adds up to 20 images, and the atlas has 32"),
    "a lost skip": ([ROWS[0], ROWS[2]], "adds up to 0 skipped records, and the atlas has 1"),
    "a shard twice": ([*ROWS, ROWS[1]._replace(first=32)], "names a shard twice"),
    "a gap": ([*ROWS[:2], ROWS[2]._replace(first=21)], "has image 21 as the first of train-0002"),
    "a lost record": ([ROWS[0]._replace(records=21), *ROWS[1:]], "has 21 records of train-0000"),
    "fewer than none": ([*ROWS, ShardRow("x", -1, -1, 0, 32)], "has -1 records of x"),
}


@pytest.fixture
def counted(tmp_path: Path) -> Atlas:
    """An atlas of 32 images in two of three shards, and one that was skipped."""
    writer = open_writer(tmp_path / "atlas")
    writer.append_images(make_items(32), make_embeddings(32))
    return writer.finish([("broken.jpg", "truncated file")], shards=ROWS)


def test_rows_come_back_by_python_and_by_sql(counted: Atlas) -> None:
    assert counted.shards() == ROWS
    found = counted.sql("SELECT name, first + images AS next FROM shards WHERE skipped = 0 ORDER BY name")
    assert found.to_pylist() == [{"name": "train-0000", "next": 20}, {"name": "train-0002", "next": 32}]
    assert SHARDS in counted.manifest["files"] and check(counted.path).sound


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_shards(tmp_path / name, ROWS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    write_shards(tmp_path / "none", [])
    assert read_shards(tmp_path / "none") == []
    write_shards(tmp_path / "odd", [ShardRow("caf\udce9", 0, 0, 0, 0)])  # a file name that is no UTF-8
    assert [row.name for row in read_shards(tmp_path / "odd")] == ["caf\\udce9"]


def test_an_atlas_from_before_opens(atlas: Atlas) -> None:
    assert atlas.shards() is None
    assert check(atlas.path).sound


def test_a_table_that_was_left_is_removed(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "atlas")
    writer.append_images(make_items(3))
    write_shards(tmp_path / "atlas" / SHARDS, ROWS)
    assert writer.finish().shards() is None


@pytest.mark.parametrize("wrong", WRONG)
def test_rows_that_do_not_fit_the_atlas_are_found(counted: Atlas, wrong: str) -> None:
    """Though the hashes are right."""
    rows, message = WRONG[wrong]
    write_shards(counted.path / SHARDS, rows)
    manifest = json.loads((counted.path / "manifest.json").read_text())
    manifest["files"] |= describe_files(counted.path, [SHARDS])
    write_json(counted.path / "manifest.json", sealed(manifest))
    findings = check(counted.path).findings
    assert {finding.file for finding in findings} == {SHARDS}
    assert any(finding.problem.startswith(message) for finding in findings)


def test_a_damaged_table_is_named(counted: Atlas) -> None:
    path = counted.path / SHARDS
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(AtlasError, match=r"shards\.parquet cannot be read"):
        counted.shards()
    (finding,) = check(counted.path).findings
    assert finding.file == SHARDS
    path.write_bytes((counted.path / "images.parquet").read_bytes())
    with pytest.raises(AtlasError, match="other columns"):
        counted.shards()
