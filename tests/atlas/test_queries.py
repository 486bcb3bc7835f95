"""SQL answers questions across units and images, and can do nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neurolab.atlas import Atlas
from neurolab.atlas.writing import atomic_path
from neurolab.errors import AtlasError
from tests.atlas.making import FakePicture, folder_bytes, make_items


def test_images_are_a_table(atlas: Atlas) -> None:
    items = make_items(32)
    found = atlas.sql("SELECT labels['concept'] AS concept, count(*) AS n FROM images GROUP BY 1 ORDER BY 1")
    expected = Counter(item.labels.get("concept") for item in items)
    assert isinstance(found, pa.Table)
    assert {row["concept"]: row["n"] for row in found.to_pylist()} == expected
    first = atlas.sql(
        "SELECT image AS i, key, embedding[2]::DOUBLE AS e FROM images WHERE image = 9"
    ).to_pylist()
    assert first == [{"i": 9, "key": items[9].key, "e": 10 / 8}]


def test_parameters_are_values_and_not_sql(atlas: Atlas) -> None:
    key = make_items(32)[3].key
    assert atlas.sql("SELECT width FROM images WHERE key = ?", [key]).to_pylist() == [{"width": 103}]
    assert atlas.sql("SELECT width FROM images WHERE key = $k", {"k": key}).num_rows == 1
    assert atlas.sql("SELECT width FROM images WHERE key = ?", ["' OR 1=1 --"]).num_rows == 0


def test_pictures_are_a_table_before_and_after_there_are_any(atlas: Atlas) -> None:
    query = "SELECT unit, seed, scores['a'] AS a, len(history) AS steps FROM pictures"
    assert atlas.sql(query).num_rows == 0
    image = np.zeros((4, 4, 3), np.uint8)
    atlas.add_pictures([FakePicture("layer4.2/2", image, seed=5, scores={"a": 1.5}, history=np.zeros(7))])
    unit = atlas.unit_name("layer4.2/2")
    assert atlas.sql(query).to_pylist() == [{"unit": unit, "seed": 5, "a": 1.5, "steps": 7}]


def test_what_analyses_wrote_is_a_table_too(atlas: Atlas) -> None:
    pq.write_table(pa.table({"unit": ["a/1"], "word": ["spider"]}), atlas.path / "words.parquet")
    assert atlas.sql("SELECT word FROM words").to_pylist() == [{"word": "spider"}]


def test_a_file_that_is_being_written_does_not_matter(atlas: Atlas) -> None:
    with atomic_path(atlas.path / "pictures.parquet") as temporary:
        temporary.write_bytes(b"half")
        assert atlas.sql("SELECT * FROM pictures").num_rows == 0
        assert len(atlas.sql("SHOW TABLES")) == 2
        temporary.write_bytes(b"PAR1 whole, but damaged PAR1")
    with pytest.raises(AtlasError, match="query failed"):
        atlas.sql("SELECT * FROM pictures")


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO 'stolen.csv'",
        "COPY (SELECT * FROM images LIMIT 0) TO '{atlas}/images.parquet' (FORMAT parquet)",
        "CREATE TABLE t AS SELECT 1",
        "DELETE FROM images",
        "ATTACH '{atlas}/new.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SELECT 1; SELECT 2",
        "",
        "SELECT * FROM read_text('{atlas}/manifest.json')",
        "SELECT * FROM '{outside}'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM 'https://example.org/a.parquet'",
        "SELECT * FROM nothing",
        "SELEC 1",
        "SELECT * FROM secret_variable",
    ],
)
def test_nothing_else_is_answered(atlas: Atlas, query: str, tmp_path: Path) -> None:
    secret_variable = pa.table({"a": [1]})  # DuckDB would find Python's variables by their names
    pq.write_table(secret_variable, tmp_path / "outside.parquet")
    before = folder_bytes(tmp_path)
    with pytest.raises(AtlasError):
        atlas.sql(query.format(atlas=atlas.path, outside=tmp_path / "outside.parquet"))
    assert folder_bytes(tmp_path) == before


def test_odd_folder_names(tmp_path: Path) -> None:
    from tests.atlas.making import make_atlas

    assert (
        make_atlas(tmp_path / 'it\'s a "folder" [1] *?')
        .sql("SELECT count(*) AS n FROM images")["n"][0]
        .as_py()
        == 32
    )
