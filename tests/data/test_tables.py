"""Tables of images: Parquet and saved datasets by random access, and streaming as from the hub."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import datasets
import fsspec
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Sequence, Value

from neurolab.data.decode import decode_image
from neurolab.data.hub import SPEC, open_hub
from neurolab.data.parquet import ParquetSource, SavedSource
from neurolab.data.remote import fetched
from neurolab.data.sources import Record, Source, Unreadable, open_source
from neurolab.data.tables import find_columns
from neurolab.errors import SourceError
from tests.data.making import encoded

FEATURES = Features(
    {
        "id": Value("int64"),
        "image": Image(),
        "label": ClassLabel(names=["cat", "dog"]),
        "coarse": ClassLabel(names=["pet"]),
        "captions": Sequence(Value("string")),
    }
)


def hf_dataset(count: int = 10, first: int = 0) -> Dataset:
    rows = range(first, first + count)
    return Dataset.from_dict(
        {
            "id": list(rows),
            "image": [{"bytes": encoded(i), "path": f"picture-{i}.jpg"} for i in rows],
            "label": [i % 2 if i % 5 else -1 for i in rows],
            "coarse": [0 for _ in rows],
            "captions": [[f"picture {i}", "a picture"] for i in rows],
        },
        features=FEATURES,
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same ten rows as a Parquet file, a saved dataset, and a folder that load_dataset reads."""
    folder = tmp_path_factory.mktemp("tables")
    hf_dataset().to_parquet(folder / "rows.parquet", batch_size=3)
    hf_dataset().save_to_disk(folder / "saved")
    (folder / "repository/data").mkdir(parents=True)
    shutil.copy(folder / "rows.parquet", folder / "repository/data/train-00000-of-00001.parquet")
    return {
        "parquet": folder / "rows.parquet",
        "saved": folder / "saved",
        "hub": folder / "repository",
    }


def opened(kind: str, path: Path) -> Source:
    return open_source(f"hf:{path}" if kind == "hub" else path)


@pytest.mark.parametrize("kind", ["parquet", "saved", "hub"])
def test_rows_become_records(stored: dict[str, Path], kind: str) -> None:
    records = list(opened(kind, stored[kind]))
    assert [record.key for record in records] == [f"picture-{i}.jpg" for i in range(10)]
    assert [record.payload for record in records] == [encoded(i) for i in range(10)]
    assert records[3].captions == ("picture 3", "a picture")
    assert records[3].labels == {"label": "dog", "coarse": "pet"}
    assert records[5].labels == {"coarse": "pet"}, "-1 stands for: not labelled"
    assert all(not record.notes for record in records)


@pytest.mark.parametrize("kind", ["parquet", "saved", "hub"])
def test_ranges_equal_slices(stored: dict[str, Path], kind: str) -> None:
    source = opened(kind, stored[kind])
    (shard,) = source.shards()
    whole = list(source.read(shard))
    for start, stop in [(0, 4), (2, 3), (3, None), (7, 99), (4, 4), (10, None), (11, 12)]:
        assert list(source.read(shard, start, stop)) == whole[start:stop], (start, stop)


@pytest.mark.parametrize("kind", ["parquet", "saved", "hub"])
def test_ranges_equal_slices_where_keys_repeat(tmp_path: Path, kind: str) -> None:
    """And where there are none: suffixes and numbers are those of the whole, wherever a range starts."""
    paths = ["a.jpg", None, "b.jpg", "a.jpg", None, "a.jpg", "b.jpg", None]
    images = [{"bytes": encoded(i), "path": path} for i, path in enumerate(paths)]
    rows = Dataset.from_dict({"image": images}, features=Features({"image": Image()}))
    if kind == "saved":
        rows.save_to_disk(tmp_path)
    else:
        rows.to_parquet(tmp_path / "train.parquet", batch_size=3)
    source = opened(kind, tmp_path)
    (shard,) = source.shards()
    whole = list(source.read(shard))
    keys = ["a.jpg", "000001", "b.jpg", "a.jpg~2", "000004", "a.jpg~3", "b.jpg~2", "000007"]
    assert [record.key for record in whole] == keys
    for start in range(9):
        for stop in (start + 1, start + 4, None):
            assert list(source.read(shard, start, stop)) == whole[start:stop], (start, stop)


def test_several_files_prefix_their_keys(tmp_path: Path) -> None:
    for i in range(2):
        hf_dataset(3, 3 * i).to_parquet(tmp_path / f"train-{i}.parquet")
    source = open_source(tmp_path)
    assert [record.key for record in source][2:4] == ["train-0/picture-2.jpg", "train-1/picture-3.jpg"]
    streamed = open_source(f"hf:{tmp_path}:train")
    assert [shard.name for shard in streamed.shards()] == ["train-00000", "train-00001"]
    assert [record.payload for record in streamed] == [record.payload for record in source]
    assert [record.key for record in streamed][3] == "train-00001/picture-3.jpg"


def write(path: Path, columns: dict[str, Any], row_group_size: int | None = None) -> Path:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, path, row_group_size=row_group_size, compression="none")
    return path


COLUMNS: dict[str, tuple[dict[str, Any], str, str]] = {
    "HF image": ({"image": [{"bytes": b"x", "path": "p"}]}, "image", "p"),
    "other name": ({"foto": [{"bytes": b"x", "path": None}]}, "foto", "000000"),
    "plain binary": ({"label": ["a"], "image": [b"x"]}, "image", "000000"),
    "webdataset names": ({"jpg": [b"x"], "__key__": ["k"]}, "jpg", "k"),
    "the best name of two": ({"mask": [{"bytes": b"y"}], "image": [{"bytes": b"x"}]}, "image", "000000"),
    "a struct before bytes": ({"bytes": [b"y"], "picture": [{"bytes": b"x"}]}, "picture", "000000"),
    "large binary": ({"image": pa.array([b"x"], pa.large_binary())}, "image", "000000"),
    "absolute path": ({"image": [{"bytes": b"x", "path": "/home/someone/p.jpg"}]}, "image", "p.jpg"),
    "URL": ({"image": [{"bytes": b"x", "path": "zip://a/p.jpg::hf://x"}]}, "image", "p.jpg"),
    "upward path": ({"image": [{"bytes": b"x", "path": "../../p.jpg"}]}, "image", "p.jpg"),
}


@pytest.mark.parametrize("columns, image, key", COLUMNS.values(), ids=COLUMNS.keys())
def test_columns_are_found(tmp_path: Path, columns: dict[str, Any], image: str, key: str) -> None:
    path = write(tmp_path / "t.parquet", columns)
    assert find_columns(pq.read_schema(path), "t").image == image
    (record,) = ParquetSource([path])
    assert (record.payload, record.key) == (b"x", key)


def test_no_image_column_names_the_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"text": ["a"], "data": [b"x"], "number": [1]})
    with pytest.raises(SourceError, match="no image column among text, data, number"):
        open_source(path)


def test_odd_rows(tmp_path: Path) -> None:
    (tmp_path / "beside.jpg").write_bytes(encoded(3))
    images = [
        *({"bytes": encoded(1), "path": "a.jpg"}, {"bytes": encoded(2), "path": "a.jpg"}, None),
        *({"bytes": None, "path": "beside.jpg"}, {"bytes": None, "path": "gone.jpg"}),
        *({"bytes": None, "path": None}, {"bytes": b"", "path": "empty.jpg"}),
    ]
    captions = ["a", None, "", "b", "c", "d", "e"]
    path = write(tmp_path / "t.parquet", {"image": images, "caption": captions, "label": list(range(7))})
    records = list(ParquetSource([path]))
    keys = ["a.jpg", "a.jpg~2", "000002", "beside.jpg", "gone.jpg", "000005", "empty.jpg"]
    assert [record.key for record in records] == keys
    assert [record.captions for record in records][:4] == [("a",), (), (), ("b",)]
    assert records[6].labels == {"label": "6"}
    assert decode_image(records[3].payload).size == (24, 20)
    reasons = [r.payload.reason for r in records if isinstance(r.payload, Unreadable)]
    assert [reason.split("row has no ")[1][:5] for reason in reasons] == ["image", "bytes", "image"]
    (shard,) = ParquetSource([path]).shards()
    assert list(ParquetSource([path]).read(shard, 1, 2)) == records[1:2], (
        "a suffix does not depend on the range"
    )


def test_label_and_caption_columns_of_wrong_types_are_noted(tmp_path: Path) -> None:
    columns = {"image": [b"x"], "label": [{"a": 1}], "captions": [3.5], "names": [["x", "y"]], "wnid": [True]}
    (record,) = ParquetSource([write(tmp_path / "t.parquet", columns)])
    assert record.captions == ()
    assert record.labels == {"names": "x, y", "wnid": "True"}
    assert len(record.notes) == 2


def test_a_class_number_out_of_range_is_noted(tmp_path: Path) -> None:
    table = hf_dataset(2).data.table.drop_columns(["label"])
    table = table.append_column("label", pa.array([1, 9])).replace_schema_metadata(
        hf_dataset().data.schema.metadata
    )
    first, second = ParquetSource([write(tmp_path / "t.parquet", table)])
    assert first.labels["label"] == "dog"
    assert "label" not in second.labels
    assert "class 9 of 2" in second.notes[0]


def test_a_damaged_row_group_costs_its_rows_only(tmp_path: Path) -> None:
    images = [{"bytes": encoded(i), "path": f"{i}.jpg"} for i in range(9)]
    path = tmp_path / "t.parquet"
    pq.write_table(
        pa.table({"image": images}), path, row_group_size=3, compression="zstd", use_dictionary=False
    )
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + 40] = b"\xff" * 40
    path.write_bytes(data)
    source = ParquetSource([path])
    records = list(source)
    assert len(records) == len(source) == 9
    bad = [isinstance(record.payload, Unreadable) for record in records]
    assert bad == [False] * 3 + [True] * 3 + [False] * 3
    (shard,) = source.shards()
    assert list(source.read(shard, 4, 8)) == records[4:8]


def test_broken_and_empty_files(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"image": [b"x"] * 50})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"t\.parquet cannot be read as Parquet"):
        open_source(path)
    with pytest.raises(SourceError, match="no rows"):
        open_source(write(tmp_path / "e.parquet", {"image": pa.array([], pa.binary())}))
    hf_dataset().save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    arrow.write_bytes(b"")
    with pytest.raises(SourceError, match="cannot be read as an Arrow table"):
        open_source(tmp_path / "saved")
    arrow.unlink()
    with pytest.raises(SourceError, match="lacks"):
        open_source(tmp_path / "saved")


def test_hashes_are_of_content(stored: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("parquet", "saved", "hub"):
        copy = tmp_path / stored[kind].name
        (shutil.copytree if stored[kind].is_dir() else shutil.copy)(stored[kind], copy)
        assert opened(kind, copy).content_hash() == opened(kind, stored[kind]).content_hash()
    hf_dataset(9).to_parquet(tmp_path / "rows.parquet")
    assert (
        open_source(tmp_path / "rows.parquet").content_hash() != open_source(stored["parquet"]).content_hash()
    )


def test_splits_must_be_named_where_it_matters(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    DatasetDict({"a": hf_dataset(2), "b": hf_dataset(3)}).save_to_disk(saved)
    with pytest.raises(SourceError, match=r"several splits: name one of .*saved/a, .*saved/b"):
        open_source(saved)
    assert isinstance(open_source(saved / "b"), SavedSource)
    for split in ("test", "validation"):
        hf_dataset(2).to_parquet(tmp_path / f"repository/{split}.parquet")
    with pytest.raises(SourceError, match="has the splits validation, test"):
        open_source(f"hf:{tmp_path / 'repository'}")
    assert len(list(open_source(f"hf:{tmp_path / 'repository'}:test"))) == 2
    with pytest.raises(SourceError, match="has the splits"):
        open_source(f"hf:{tmp_path / 'repository'}:train")


def test_hub_names() -> None:
    parts = [SPEC.match(text) for text in ("a/b", "a/b:train", "a/b@v1#cfg:test", "a-b_c#x.y")]
    found = [match.groupdict() if match else {} for match in parts]
    assert [f["name"] for f in found] == ["a/b", "a/b", "a/b", "a-b_c"]
    assert [f["split"] for f in found] == [None, "train", "test", None]
    assert (found[2]["revision"], found[2]["config"], found[3]["config"]) == ("v1", "cfg", "x.y")


def test_no_way_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(
        SourceError, match=r"cannot be reached for 'someone/pictures'.*Check the network.*Parquet"
    ):
        open_source("hf:someone/pictures")


def test_the_hubs_commit_is_pinned_and_hashed(
    stored: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    commits = iter(["c0ffee", "c0ffee", "decade"])

    class Info:
        def __init__(self) -> None:
            self.sha = next(commits)

    def load(name: str, config: str | None, **options: object) -> Any:
        asked.append((name, config, options["revision"], options["streaming"]))
        return real_load(str(stored["hub"]), streaming=True)

    real_load = datasets.load_dataset
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: Info())
    monkeypatch.setattr(datasets, "load_dataset", load)
    hashes = [open_hub("someone/pictures#small").content_hash() for _ in range(3)]
    assert asked[0] == ("someone/pictures", "small", "c0ffee", True)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_stream_that_stops(stored: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = open_hub(str(stored["hub"]))

    class Stops:
        def shard(self, **_: object) -> Any:
            yield {"image": {"bytes": b"x", "path": "a"}}
            raise TimeoutError("read timed out")

    monkeypatch.setattr(source, "_dataset", Stops())
    records: list[Record] = []
    with pytest.raises(SourceError, match=r"stopped at row 1 .*read timed out.*Start again"):
        records.extend(source)
    assert [record.key for record in records] == ["a"]


def test_streamed_image_folders_and_files_behind_urls(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "f" / label).mkdir(parents=True)
        (tmp_path / "f" / label / "1.jpg").write_bytes(encoded(1))
    records = list(open_source(f"hf:{tmp_path / 'f'}"))
    assert sorted(record.labels["label"] for record in records) == ["cat", "dog"]
    assert all(decode_image(record.payload).size == (24, 20) for record in records)
    with fsspec.open("memory://pictures/1.jpg", "wb") as stream:
        stream.write(encoded(2))
    urls = [{"bytes": None, "path": f"memory://pictures/{i}.jpg"} for i in (1, 2)]
    first, second = fetched(ParquetSource([write(tmp_path / "t.parquet", {"image": urls})]))
    assert first.payload == encoded(2)
    assert isinstance(second.payload, Unreadable)


def test_tiny_imagenet(neurolab_data: Path) -> None:
    source = open_source(neurolab_data / "tiny-imagenet" / "val-00000.parquet")
    records = list(source.read(source.shards()[0], 100, 103))
    assert len(source) == 2000
    keys = np.load(neurolab_data / "clip-b16" / "image-embeddings-tiny-imagenet-val.npz")["keys"]
    assert [record.key for record in records] == list(keys[100:103])
    assert set(records[0].labels) == {"wnid", "label", "names"}
    assert decode_image(records[0].payload).size == (64, 64)


def test_a_large_row_group_is_not_held_in_memory(tmp_path: Path) -> None:
    count, size = 600, 100_000
    images = [{"bytes": os.urandom(size), "path": f"{i}.jpg"} for i in range(count)]
    path = tmp_path / "one.parquet"
    pq.write_table(pa.table({"image": images}), path, row_group_size=count, write_batch_size=8)
    assert pq.ParquetFile(path).num_row_groups == 1
    expected = [image["bytes"] for image in images]
    before, most = pa.total_allocated_bytes(), 0
    for record, data in zip(open_source(path), expected, strict=True):
        assert record.payload == data
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < count * size / 3
