"""What an export is made of beside units and exemplars: images, pictures, and the dataset of exemplars."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetInfo, Features, Image, Value
from datasets import Sequence as ListOf

from neurolab.atlas import pictures
from neurolab.atlas.atlas import Atlas
from neurolab.atlas.plain import flatten
from neurolab.atlas.tables import MadeTable, exemplars_table
from neurolab.atlas.writing import atomic_path, json_bytes, write_json
from neurolab.errors import AtlasError

_PICTURES_AT_ONCE = 64
_IMAGES_AT_ONCE = 1 << 12  # with thumbnails and captions
_EXEMPLARS_AT_ONCE = 1 << 14  # with thumbnails of some KB each
_SHARD_BYTES = 500 << 20  # as `datasets` cuts its files
_INTEGERS = ("index", "rank", "position", "row", "column", "width", "height")
_KINDS = dict.fromkeys(_INTEGERS, "int32") | {"image": "int64", "number": "int64", "seed": "int64"}
_KINDS |= {"value": "float32"}


def images_table(atlas: Atlas, thumbnails: bool) -> MadeTable:
    """image (its number), key, captions, labels (JSON), width, height; with thumbnails: these, as an Image
    feature, and embeddings."""
    columns = _features("image", "key", "captions", "labels", "width", "height")
    columns["captions"] = ListOf(Value("string"))
    if thumbnails:
        columns |= {"thumbnail": Image(), "embedding": ListOf(Value("float16"))}
    schema = columns.arrow_schema

    def batches() -> Iterator[pa.RecordBatch]:
        first = 0
        with pq.ParquetFile(atlas.path / "images.parquet", memory_map=True) as file:
            read = [name for name in columns if name != "image"]
            for batch in file.iter_batches(_IMAGES_AT_ONCE, columns=read):
                found = dict(zip(batch.schema.names, batch.columns, strict=True))
                found["image"] = pa.array(range(first, first + batch.num_rows), pa.int64())
                found["labels"] = flatten(batch.select(["labels"])).column(0)
                if thumbnails:
                    found["thumbnail"] = _image_column(found["thumbnail"])
                first += batch.num_rows
                yield _batch(found, schema)

    return MadeTable(schema, batches)


def pictures_table(atlas: Atlas, sites: Sequence[str], files: bool) -> MadeTable:
    """pictures.parquet with settings and scores as JSON; files: and the pictures, as an Image feature."""
    columns = _features(*pictures.SCHEMA.names)
    columns["history"] = ListOf(Value("float32"))
    if files:
        columns["picture"] = Image()
    schema = columns.arrow_schema

    def batches() -> Iterator[pa.RecordBatch]:
        rows = [row for row in atlas.pictures() if row.unit.rpartition("/")[0] in sites]
        for start in range(0, len(rows), _PICTURES_AT_ONCE):
            some = rows[start : start + _PICTURES_AT_ONCE]
            found: dict[str, Any] = {name: [row[name] for row in some] for name in pictures.SCHEMA.names}
            for name in ("settings", "scores"):
                found[name] = [json.dumps(value, ensure_ascii=False) for value in found[name]]
            if files:
                found["picture"] = [{"bytes": row.path.read_bytes(), "path": None} for row in some]
            yield _batch(found, schema)

    return MadeTable(schema, batches)


def write_dataset(atlas: Atlas, folder: Path, sites: Sequence[str], top: int | None) -> None:
    """The files that `Dataset.save_to_disk` would write of all exemplars, which never are in memory at once.

    Columns: image (the thumbnail), those of the table exemplars (where an image's number is `number`), and
    captions. AtlasError for an atlas without thumbnails.
    """
    if all(thumbnail is None for thumbnail in _thumbnails(atlas)):
        raise AtlasError(f"{atlas.path} was built without thumbnails, so a dataset would have no images")
    exemplars = exemplars_table(atlas, sites, top, rows=_EXEMPLARS_AT_ONCE)
    names = ["number" if name == "image" else name for name in exemplars.schema.names]
    columns = Features({"image": Image(), **_features(*names), "captions": ListOf(Value("string"))})
    schema = columns.arrow_schema

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in exemplars.batches():
            found = dict(zip(names, batch.columns, strict=True))
            images = found["number"].to_numpy()
            found["image"] = _image_column(pa.array(atlas.thumbnails(images), pa.binary()))
            found["captions"] = atlas.image_table(images, ["captions"]).column(0).combine_chunks()
            yield _batch(found, schema)

    files = _write_shards(folder, MadeTable(schema, batches))
    DatasetInfo(features=columns).write_to_directory(str(folder))
    # What `datasets` keys its caches of derived data by: the same for the same rows.
    made_of = json_bytes({"manifest": atlas.manifest, "sites": list(sites), "top": top})
    write_json(
        folder / "state.json",
        {
            "_data_files": [{"filename": name} for name in files],
            "_fingerprint": hashlib.sha256(made_of).hexdigest()[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        },
    )


def _write_shards(folder: Path, table: MadeTable) -> list[str]:
    """Write the rows to Arrow files of about `_SHARD_BYTES`, at least one; their names."""
    names: list[str] = []
    batches = table.batches()
    batch = next(batches, None)
    while batch is not None or not names:
        names.append(f"data-{len(names):05d}.arrow")
        with (
            atomic_path(folder / names[-1]) as temporary,
            open(temporary, "wb") as file,
            pa.ipc.new_stream(file, table.schema) as writer,
        ):
            while batch is not None and file.tell() < _SHARD_BYTES:
                writer.write_batch(batch)
                batch = next(batches, None)
    return names


def _thumbnails(atlas: Atlas) -> Iterator[bytes | None]:
    """Every image's thumbnail, read a few at a time."""
    for start in range(0, len(atlas), _EXEMPLARS_AT_ONCE):
        yield from atlas.thumbnails(range(start, min(start + _EXEMPLARS_AT_ONCE, len(atlas))))


def _features(*names: str) -> Features:
    return Features({name: Value(_KINDS.get(name, "string")) for name in names})


def _image_column(data: pa.Array) -> pa.Array:
    """Image files' bytes as an Image feature stores them; null for none."""
    parts = [data, pa.nulls(len(data), pa.string())]
    return pa.StructArray.from_arrays(parts, ["bytes", "path"], mask=data.is_null())


def _batch(columns: dict[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for field in schema:
        values = columns[field.name]
        known = isinstance(values, pa.Array)
        arrays.append(values.cast(field.type) if known else pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
