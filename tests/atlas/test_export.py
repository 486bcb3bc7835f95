"""What is exported is what the atlas has, to the byte, in whatever format."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from neurolab.atlas import Atlas, export_tables
from neurolab.atlas.export import export
from neurolab.atlas.plain import flat_schema, json_rows, write_csv
from neurolab.atlas.writing import TEMPORARY_PREFIX, locked
from neurolab.data.sources import open_source
from neurolab.errors import AtlasError, UnknownSiteError
from tests.atlas.making import (
    TOKEN_SITE,
    FakeItem,
    FakePicture,
    finish,
    folder_bytes,
    make_atlas,
    make_embeddings,
    open_writer,
)

HOSTILE = (
    'a,"b"',
    "two\nlines\r\nand\rmore",
    "nul\0nul",
    "ключ 鍵 🗝",
    "=1+1",
    " ",
    "",
    "'; DROP --",
    "\ufeffbom",
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def webp(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (colour, 200 - colour, 90)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def build(out: Path, images: int = 32, thumbnails: bool = True) -> Atlas:
    """An atlas of two sites with real thumbnails, hostile keys and captions, and two pictures."""
    items = [
        FakeItem(
            key=f"{HOSTILE[i % len(HOSTILE)]}/{i}",
            captions=tuple(HOSTILE[: i % 4]),
            labels={"kind": HOSTILE[i % 3], "n": str(i)} if i % 2 else {},
            width=6 + i,
            thumbnail=webp(i) if thumbnails and i != 5 else None,
        )
        for i in range(images)
    ]
    writer = open_writer(out)
    writer.append_images(items, make_embeddings(images))
    atlas = finish(writer, images)
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    atlas.add_pictures(
        [
            FakePicture("layer4.2/2", image, seed=1, settings={"a": HOSTILE[0]}, scores={"s": 0.5}),
            FakePicture("block1/0", image + 1, kind="maco", facet="tëxt\n", history=np.ones(3)),
        ]
    )
    return atlas


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return build(tmp_path_factory.mktemp("export") / "atlas")


def table_of(atlas: Atlas, name: str) -> list[dict[str, Any]]:
    return atlas.sql(f"SELECT * FROM {name}").to_pylist()


def test_parquet_holds_all_tables(atlas: Atlas, tmp_path: Path) -> None:
    out = export(atlas, tmp_path / "new" / "out")
    names = ("exemplars", "images", "pictures", "units")
    assert sorted(path.name for path in out.iterdir()) == [f"{name}.parquet" for name in names]
    for name in ("units", "exemplars"):
        table = pq.read_table(out / f"{name}.parquet")
        assert table.to_pylist() == table_of(atlas, name)
        assert not any(pa.types.is_dictionary(kind) for kind in table.schema.types)
    images = pq.read_table(out / "images.parquet").to_pylist()
    for row, own in zip(images, table_of(atlas, "images"), strict=True):
        thumbnail = own["thumbnail"]
        assert row["thumbnail"] == (None if thumbnail is None else {"bytes": thumbnail, "path": None})
        assert json.loads(row["labels"]) == dict(own["labels"])
        for name in ("image", "key", "captions", "width", "height", "embedding"):
            assert row[name] == own[name]
    pictures = pq.read_table(out / "pictures.parquet").to_pylist()
    for row, picture in zip(pictures, atlas.pictures(), strict=True):
        assert row["picture"]["bytes"] == picture.path.read_bytes()
        assert json.loads(row["settings"]) == picture.settings
        assert json.loads(row["scores"]) == picture.scores
        assert (row["unit"], row["facet"], row["history"]) == (
            picture.unit,
            picture.facet,
            list(picture.history),
        )
    query = f"SELECT labels->>'n' AS n FROM read_parquet('{out}/images.parquet') WHERE image = 7"
    assert duckdb.sql(query).fetchall() == [("7",)]


def test_parquet_has_image_features(atlas: Atlas, tmp_path: Path) -> None:
    from datasets import load_dataset

    out = export(atlas, tmp_path / "out")
    loaded = {
        name: load_dataset(
            "parquet", data_files=str(out / f"{name}.parquet"), split="train", cache_dir=str(tmp_path)
        )
        for name in ("images", "pictures", "exemplars")
    }
    thumbnail = loaded["images"][3]["thumbnail"]
    assert isinstance(thumbnail, Image.Image) and thumbnail.getpixel((0, 0)) == (3, 197, 90)
    assert loaded["images"][5]["thumbnail"] is None
    picture = loaded["pictures"][1]["picture"]
    assert np.array_equal(np.asarray(picture), np.asarray(atlas.pictures()[1].to_pil()))
    assert len(loaded["exemplars"]) == 31
    # What was exported can be mined in its turn.
    source = open_source(out / "images.parquet")
    record = next(iter(source.read(source.shards()[0], start=7)))
    assert record.captions == atlas.image(7).captions


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_comes_back_equal(atlas: Atlas, tmp_path: Path) -> None:
    out = export(atlas, tmp_path / "out", "csv")
    names = ("exemplars", "images", "pictures", "units")
    assert sorted(path.name for path in out.iterdir()) == [f"{name}.csv" for name in names]
    for name in ("units", "exemplars"):
        assert_equal_as_text(rows_of(out / f"{name}.csv"), table_of(atlas, name))
    images = rows_of(out / "images.csv")
    assert list(images[0]) == ["image", "key", "captions", "labels", "width", "height"]
    for i, row in enumerate(images):
        known = atlas.image(i)
        assert (int(row["image"]), row["key"]) == (i, known.key)
        assert tuple(json.loads(row["captions"])) == known.captions
        assert json.loads(row["labels"]) == known.labels
    for row, picture in zip(rows_of(out / "pictures.csv"), atlas.pictures(), strict=True):
        assert row["file"] == picture.file and row["facet"] == (picture.facet or "")
        assert json.loads(row["settings"]) == picture.settings
        assert json.loads(row["history"]) == list(picture.history)
        assert "picture" not in row


def assert_equal_as_text(found: Sequence[dict[str, str]], expected: Sequence[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for row, known in zip(found, expected, strict=True):
        assert list(row) == list(known)
        for name, value in known.items():
            if value is None:
                assert row[name] == ""
            elif isinstance(value, float):
                assert np.float32(row[name]) == np.float32(value), name
            else:
                assert row[name] == str(value), name


@given(st.lists(st.tuples(texts, st.one_of(st.none(), texts), st.lists(texts, max_size=3)), max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_text_survives_csv(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = tmp_path_factory.mktemp("csv") / "texts.csv"
    kinds = [("a,\n", pa.string()), ("b", pa.string()), ("c", pa.list_(pa.string()))]
    schema = pa.schema(kinds)
    columns = [pa.array([row[i] for row in rows], kind) for i, (_, kind) in enumerate(kinds)]
    write_csv(path, schema, [pa.RecordBatch.from_arrays(columns, schema=schema)])
    with open(path, encoding="utf-8", newline="") as file:
        header, *found = csv.reader(file)
    assert header == ["a,\n", "b", "c"]
    assert [(a, b, json.loads(c)) for a, b, c in found] == [(a, b or "", c) for a, b, c in rows]


def test_values_that_csv_and_json_do_not_know() -> None:
    table = duckdb.sql(
        """SELECT 1::HUGEINT AS big, 2.5::DECIMAL(4, 2) AS money, DATE '2024-02-03' AS day,
        'x'::BLOB AS bytes, MAP {'a': [1, NULL]} AS map, {'u': 0.5, 'v': 'w'} AS struct,
        [NULL, 'NaN'::DOUBLE] AS list, true AS yes, 'inf'::DOUBLE AS inf, INTERVAL 3 DAY AS time,
        UUID '00000000-0000-0000-0000-000000000001' AS id"""
    ).to_arrow_table()
    (row,) = json_rows(table)
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row | {"time": ""} == {
        "big": 1, "money": 2.5, "day": "2024-02-03", "bytes": "eA==", "map": {"a": [1, None]},
        "struct": {"u": 0.5, "v": "w"}, "list": [None, None], "yes": True, "inf": None, "time": "",
        "id": "00000000-0000-0000-0000-000000000001",
    }  # fmt: skip
    assert "3" in row["time"]
    kinds = dict(zip(table.column_names, flat_schema(table.schema).types, strict=True))
    assert [name for name, kind in kinds.items() if pa.types.is_string(kind)] == [
        "bytes", "map", "struct", "list", "time", "id",
    ]  # fmt: skip


@pytest.mark.parametrize("shard_bytes", [1, 1 << 20])
def test_a_dataset_of_exemplars(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int
) -> None:
    from datasets import load_from_disk

    monkeypatch.setattr(export_tables, "_SHARD_BYTES", shard_bytes)
    monkeypatch.setattr(export_tables, "_EXEMPLARS_AT_ONCE", 10)
    out = export(atlas, tmp_path / "out", "dataset")
    shards = sorted(path.name for path in out.glob("*.arrow"))
    assert len(shards) == (1 if shard_bytes > 1 else 4)  # two units at a time
    loaded = load_from_disk(str(out))
    expected = table_of(atlas, "exemplars")
    assert len(loaded) == len(expected)
    for row, known in zip(loaded, expected, strict=True):
        image = known.pop("image")
        thumbnail = atlas.thumbnails([image])[0]
        assert row.pop("number") == image
        assert tuple(row.pop("captions")) == atlas.image(image).captions
        shown = row.pop("image")
        if thumbnail is None:
            assert shown is None
        else:
            assert shown.size == (6, 4) and shown.getpixel((2, 2)) == (image, 200 - image, 90)
        assert row == known
    assert open_source(out).shards()  # and neurolab reads it as a source


def test_the_same_export_gives_the_same_bytes(atlas: Atlas, tmp_path: Path) -> None:
    for format in ("parquet", "csv", "dataset"):
        one, other = (export(atlas, tmp_path / f"{format}{i}", format) for i in range(2))
        assert folder_bytes(one) == folder_bytes(other)


def test_some_sites_and_the_strongest(atlas: Atlas, tmp_path: Path) -> None:
    from datasets import load_from_disk

    for format in ("parquet", "dataset"):
        export(atlas, tmp_path / format, format, sites=["block1"], top=2)
    exemplars = pq.read_table(tmp_path / "parquet" / "exemplars.parquet").to_pylist()
    everything = table_of(atlas, "exemplars")
    assert exemplars == [r for r in everything if r["site"] == TOKEN_SITE.name and r["rank"] < 3]
    assert len(load_from_disk(str(tmp_path / "dataset"))) == len(exemplars) == 6
    assert pq.read_metadata(tmp_path / "parquet" / "units.parquet").num_rows == 3
    (picture,) = pq.read_table(tmp_path / "parquet" / "pictures.parquet").to_pylist()
    assert picture["unit"] == f"{TOKEN_SITE.name}/0"


def test_nothing_is_overwritten(atlas: Atlas, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export(atlas, out)  # an empty folder will do
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~_umask()
    before = folder_bytes(tmp_path)
    (tmp_path / "file").write_text("x")
    for target in (out, tmp_path / "file", atlas.path):
        with pytest.raises(AtlasError, match="a new or an empty folder"):
            export(atlas, target)
    (tmp_path / "file").unlink()
    assert folder_bytes(tmp_path) == before


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    atlas = build(tmp_path / "atlas", images=8)
    atlas.pictures()[0].path.unlink()
    with pytest.raises(AtlasError, match="cannot export"):
        export(atlas, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["atlas"]
    export(atlas, tmp_path / "out", "csv")  # which needs no picture's file


KILLED = """
import os, signal, sys
from pathlib import Path
from neurolab.atlas import Atlas, export
write = export._write_tables
def killed(*arguments):
    write(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
export._write_tables = killed
export.export(Atlas.open(sys.argv[1]), Path(sys.argv[2]))
"""


def test_what_a_killed_export_left_goes_with_the_next_one(atlas: Atlas, tmp_path: Path) -> None:
    """But not what another export to the same folder is just writing, and not what others left."""
    out = tmp_path / "out[1]"
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(atlas.path), str(out)], cwd=Path(__file__).parents[2]
    )
    assert run.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(TEMPORARY_PREFIX) and (left / "units.parquet").exists()
    others = [left.with_name(left.name[:-1]), left.with_name(f"{left.name}s"), tmp_path / ".writing-7-out[1]"]
    for other in others:
        other.mkdir()
    busy = left.with_name(f"{TEMPORARY_PREFIX}{'0' * 16}-out[1]")
    busy.mkdir()
    with locked(busy / ".lock"):
        export(atlas, out)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (*others, busy, out)}
    assert not (out / ".lock").exists()


def test_tables_without_rows_are_not_written(tmp_path: Path) -> None:
    atlas = make_atlas(tmp_path / "atlas")
    for format in ("parquet", "csv"):
        out = export(atlas, tmp_path / format, format)
        names = ("exemplars", "images", "units")  # and no pictures
        assert sorted(path.name for path in out.iterdir()) == [f"{name}.{format}" for name in names]
    from datasets import load_dataset

    for path in sorted((tmp_path / "parquet").iterdir()):
        loaded = load_dataset(
            "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert len(loaded) == pq.read_metadata(path).num_rows > 0


def test_what_cannot_be_exported_says_so(atlas: Atlas, tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match="choose one of parquet, csv, dataset"):
        export(atlas, tmp_path / "out", "excel")
    with pytest.raises(AtlasError, match="at least 1 exemplar"):
        export(atlas, tmp_path / "out", top=0)
    with pytest.raises(UnknownSiteError):
        export(atlas, tmp_path / "out", sites=["layer9"])
    blind = build(tmp_path / "blind", images=8, thumbnails=False)
    with pytest.raises(AtlasError, match="without thumbnails"):
        export(blind, tmp_path / "out", "dataset")
    assert not (tmp_path / "out").exists()
    images = pq.read_table(export(blind, tmp_path / "out") / "images.parquet")
    assert images["thumbnail"].null_count == 8
