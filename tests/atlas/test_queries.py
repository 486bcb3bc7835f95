"""SQL answers questions across units and images, and can do nothing else."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neurolab.atlas import Atlas
from neurolab.atlas.arrays import Unit, write_site_arrays
from neurolab.atlas.distribution import selectivity, share_below, skewness
from neurolab.atlas.tables import exemplars_table
from neurolab.atlas.writing import atomic_path
from neurolab.errors import AtlasError
from tests.atlas.making import MAP_SITE, TOKEN_SITE, FakePicture, folder_bytes, make_items, site_arrays


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


def units_of(atlas: Atlas) -> list[Unit]:
    return [atlas.unit(f"{site}/{i}") for site in atlas.sites for i in range(atlas.site(site).units)]


def test_units_are_a_table(atlas: Atlas) -> None:
    atlas.add_pictures([FakePicture("block1/2", np.zeros((4, 4, 3), np.uint8), seed=i) for i in range(3)])
    rows = atlas.sql("SELECT * FROM units").to_pylist()
    units = units_of(atlas)
    assert [row["unit"] for row in rows] == [unit.name for unit in units]
    for row, unit in zip(rows, units, strict=True):
        site, one = atlas.site(unit.site), np.array([unit.index])
        assert row == {
            "unit": unit.name,
            "site": unit.site,
            "short": site.short,
            "index": unit.index,
            "count": unit.count,
            "mean": unit.mean,
            "sd": unit.sd,
            "min": unit.min,
            "max": unit.max,
            "positive": 1.0 - share_below(site, 0.0, one)[0],
            "skew": skewness(site, one)[0],
            "selectivity": selectivity(site)[unit.index],
            "exemplars": len(unit.exemplars),
            "top": unit.exemplars[0].value,
            "pictures": 3 if unit.name.endswith("Blocks.1:out/2") else 0,
        }


def test_exemplars_are_a_table(atlas: Atlas) -> None:
    expected = [
        {"unit": unit.name, "site": unit.site, "index": unit.index, "rank": rank, "image": exemplar.image,
         "key": exemplar.key, "value": exemplar.value, "position": exemplar.position, "row": exemplar.row,
         "column": exemplar.column}
        for unit in units_of(atlas)
        for rank, exemplar in enumerate(unit.exemplars, start=1)
    ]  # fmt: skip
    assert atlas.sql("SELECT * FROM exemplars").to_pylist() == expected
    assert len(expected) == 7 * 5 - 4  # the last unit of each site has fewer


def test_questions_across_units(atlas: Atlas) -> None:
    found = atlas.sql("SELECT site, avg(max) AS m FROM units GROUP BY site").to_pylist()
    for row in found:
        assert row["m"] == pytest.approx(np.mean(atlas.site(row["site"]).max, dtype=np.float64))
    assert len(found) == 2
    pairs = atlas.sql(
        """SELECT a.unit AS one, b.unit AS other, count(*) AS n FROM exemplars a
        JOIN exemplars b ON a.image = b.image AND a.unit < b.unit GROUP BY ALL"""
    ).to_pylist()
    shown = {unit.name: {e.image for e in unit.exemplars} for unit in units_of(atlas)}
    expected = {
        (a, b): len(shown[a] & shown[b]) for a in shown for b in shown if a < b and shown[a] & shown[b]
    }
    assert {(row["one"], row["other"]): row["n"] for row in pairs} == expected
    assert atlas.sql("SELECT count(*) AS n FROM exemplars WHERE unit LIKE ?", ["%/0"])["n"][0].as_py() == 10


def test_large_sites_come_in_batches(atlas: Atlas) -> None:
    whole = pa.Table.from_batches([*exemplars_table(atlas).batches()])
    assert len([*exemplars_table(atlas).batches()]) == 2
    for rows in (1, 7, 12):
        parts = pa.Table.from_batches([*exemplars_table(atlas, rows=rows).batches()])
        assert parts.to_pylist() == whole.to_pylist()
    strongest = exemplars_table(atlas, [TOKEN_SITE.name], top=2).reader().read_all().to_pylist()
    assert strongest == [
        row for row in whole.to_pylist() if row["site"] == TOKEN_SITE.name and row["rank"] <= 2
    ]


def test_what_has_no_value_is_null(atlas: Atlas) -> None:
    folder = atlas.path / atlas.manifest["sites"][MAP_SITE.name]["folder"]
    arrays = site_arrays(MAP_SITE, 32)
    arrays["statistics"]["sd"][1] = 0.0
    for name in ("mean", "sd", "min", "max"):
        arrays["statistics"][name][2] = np.nan
    arrays["exemplars"]["images"][2] = -1
    arrays["exemplars"]["values"][2] = -np.inf
    arrays["exemplars"]["position"][:2] = -1
    write_site_arrays(folder, 4, arrays["exemplars"], arrays["statistics"], arrays["embedding"])
    changed = Atlas.open(atlas.path)
    still, unseen = changed.sql(
        "SELECT * FROM units WHERE site LIKE '%act3%' AND \"index\" IN (1, 2)"
    ).to_pylist()
    assert still["skew"] is None and still["selectivity"] == 0 and still["top"] is not None
    for name in ("mean", "sd", "min", "max", "positive", "skew", "top"):
        assert unseen[name] is None, name
    assert unseen["exemplars"] == 0
    places = changed.sql(
        'SELECT position, row, "column" FROM exemplars WHERE "index" = 0 AND site LIKE \'%act3%\''
    )
    assert places.to_pylist() == [{"position": None, "row": None, "column": None}] * 5


def test_arrays_are_read_only_where_the_question_is_about_units(atlas: Atlas) -> None:
    (atlas.path / atlas.manifest["sites"][MAP_SITE.name]["folder"] / "statistics.npz").unlink()
    damaged = Atlas.open(atlas.path)
    assert damaged.sql("SELECT count(*) AS n FROM images")["n"][0].as_py() == 32
    for table in ("units", "exemplars"):
        with pytest.raises(AtlasError, match=r"statistics\.npz is missing; build the atlas again"):
            damaged.sql(f"SELECT * FROM {table}")


def test_a_file_comes_before_a_table_that_would_be_made(atlas: Atlas) -> None:
    pq.write_table(pa.table({"unit": ["a/1"]}), atlas.path / "units.parquet")
    assert atlas.sql("SELECT * FROM units").to_pylist() == [{"unit": "a/1"}]


def test_threads_ask_at_once(atlas: Atlas) -> None:
    query = "SELECT count(*) AS n, sum(value) AS s FROM exemplars JOIN units USING (unit)"
    expected = atlas.sql(query).to_pylist()
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda _: Atlas.open(atlas.path).sql(query).to_pylist(), range(8))
        assert all(answer == expected for answer in answers)


def test_a_file_that_is_being_written_does_not_matter(atlas: Atlas) -> None:
    with atomic_path(atlas.path / "pictures.parquet") as temporary:
        temporary.write_bytes(b"half")
        assert atlas.sql("SELECT * FROM pictures").num_rows == 0
        tables = atlas.sql("SHOW TABLES").column("name").to_pylist()
        assert tables == ["exemplars", "images", "pictures", "units"]
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


@pytest.mark.parametrize(
    ("name", "sibling"),
    [
        ('it\'s a "folder" [1] *?', "other"),
        ("run[1]", "run1"),
        ("atl*s", "atlas"),
        ("a?b", "acb"),
        ("b[!a]", "bc"),
        ("**", "zz"),
        ("{a,b}", "a"),
    ],
)
def test_a_folder_whose_name_is_a_pattern_is_read_itself(tmp_path: Path, name: str, sibling: str) -> None:
    from tests.atlas.making import make_atlas

    make_atlas(tmp_path / sibling, images=8)
    atlas = make_atlas(tmp_path / name)
    assert atlas.sql("SELECT count(*) AS n FROM images")["n"][0].as_py() == 32
    atlas.add_pictures([FakePicture("layer4.2/2", np.zeros((4, 4, 3), np.uint8))])
    assert atlas.sql("SELECT count(*) AS n FROM pictures")["n"][0].as_py() == 1
    with pytest.raises(AtlasError, match="disabled"):
        atlas.sql(f"SELECT * FROM '{tmp_path / sibling}/images.parquet'")
