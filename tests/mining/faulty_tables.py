"""Parquet tables and saved datasets spoiled in one way each: more FAULTS, as in `faulty_sources`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetDict

from neurolab.data.sources import Record
from tests.data.making import encoded
from tests.data.test_tables import hf_dataset
from tests.mining.faulty_sources import Fault, Mined, Refused, register_in

FAULTS: dict[str, Fault] = {}
fault = register_in(FAULTS)


def table(place: Path, more: dict[str, Any] | None = None, **options: Any) -> Path:
    """Four rows of whole images, and more columns."""
    images = [{"bytes": encoded(i), "path": f"{i}.jpg"} for i in range(4)]
    pq.write_table(pa.table({"image": images} | (more or {})), place / "t.parquet", **options)
    return place / "t.parquet"


def row(number: int, **known: Any) -> Record:
    return Record(f"{number}.jpg", encoded(number), **known)


def columns(more: dict[str, Any], known: dict[str, Any], note: str, place: Path) -> Mined:
    """Beside the images, columns of a wrong type; `known` is what can still be read of each row."""
    notes = {f"{i}.jpg": note for i in range(4)} if note else {}
    return Mined(table(place, more), [row(i, **known) for i in range(4)], notes=notes)


TEXT = {"captions": ("t",)}
NAMES = {"labels": {"names": "x, y"}}
COLUMNS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a label column of structs": ({"label": [{"a": 1}] * 4}, {}, "label 'label' of type dict"),
    "a label column of bytes": ({"label": [b"\xff\0"] * 4}, {}, "label 'label' of type bytes"),
    "a label column of lists": (
        {"names": [["x", "y"]] * 4, "label": [[{"a": 1}]] * 4}, NAMES, "label 'label' of type dict"
    ),
    "a label column of nothing": ({"label": pa.nulls(4)}, {}, ""),
    "a caption column of numbers": ({"caption": [1.5] * 4, "text": ["t"] * 4}, TEXT, "captions of type fl"),
}  # fmt: skip
FAULTS |= {name: partial(columns, *about) for name, about in COLUMNS.items()}


@fault("rows without an image")
def _(place: Path) -> Mined:
    images = [{"bytes": encoded(0), "path": "0.jpg"}, None, {"bytes": None, "path": "gone.jpg"},
              {"bytes": encoded(3), "path": "3.jpg"}]  # fmt: skip
    reasons = {"000001": "no image .null", "gone.jpg": "no bytes, and there is no file gone.jpg"}
    return Mined(table(place, {"image": images}), [row(0), row(3)], reasons)


@fault("rows that come again")
def _(place: Path) -> Mined:
    images = [{"bytes": encoded(i), "path": "../x/p.jpg"} for i in range(3)]
    pq.write_table(pa.table({"image": images}), place / "t.parquet")
    return Mined(place, [Record(key, encoded(i)) for i, key in enumerate(("p.jpg", "p.jpg~2", "p.jpg~3"))])


@fault("no column of images")
def _(place: Path) -> Refused:
    pq.write_table(pa.table({"image": ["a.jpg"], "text": ["a"]}), place / "t.parquet")
    return Refused(place, "no image column among image, text")


@fault("a table without rows")
def _(place: Path) -> Refused:
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), place / "t.parquet")
    return Refused(place, "has no rows")


@fault("a table cut in the middle")
def _(place: Path) -> Refused:
    data = table(place).read_bytes()
    (place / "t.parquet").write_bytes(data[: len(data) // 2])
    return Refused(place, "cannot be read as Parquet.*Is it whole")


@fault("a damaged row group")
def _(place: Path) -> Mined:
    path = table(place, row_group_size=1, compression="zstd", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(2).column(0)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + 40] = b"\xff" * 40
    path.write_bytes(data)
    return Mined(path, [row(0), row(1), row(3)], {"000002": "row group 2 cannot be read"})


def rows_of_dataset(count: int) -> list[Record]:
    labels = [{"coarse": "pet"} | ({"label": ("cat", "dog")[i % 2]} if i % 5 else {}) for i in range(count)]
    return [
        Record(f"picture-{i}.jpg", encoded(i), (f"picture {i}", "a picture"), labels[i]) for i in range(count)
    ]


@fault("a saved dataset of which a file is cut")
def _(place: Path) -> Refused:
    hf_dataset(3).save_to_disk(place / "saved")
    (arrow,) = (place / "saved").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:1000])
    return Refused(place / "saved", "cannot be read as an Arrow table")


@fault("a saved dataset that lacks a file")
def _(place: Path) -> Refused:
    hf_dataset(3).save_to_disk(place / "saved")
    next((place / "saved").glob("*.arrow")).unlink()
    return Refused(place / "saved", "lacks .*arrow, which its state.json names")


@fault("a saved dataset whose description is broken")
def _(place: Path) -> Refused:
    hf_dataset(3).save_to_disk(place / "saved")
    (place / "saved" / "state.json").write_text("{")
    return Refused(place / "saved", "is not a folder of datasets.save_to_disk")


@fault("a saved dataset of several splits")
def _(place: Path) -> Refused:
    DatasetDict({"a": hf_dataset(2), "b": hf_dataset(2)}).save_to_disk(place / "saved")
    return Refused(place / "saved", "several splits: name one of")


@fault("a saved dataset with files of something else beside it")
def _(place: Path) -> Mined:
    hf_dataset(3).save_to_disk(place / "saved")
    (place / "saved" / "image.jpg").write_bytes(b"no image")
    (place / "saved" / "cache-0.arrow").write_bytes(b"rubbish")
    return Mined(place / "saved", rows_of_dataset(3))
