"""images.parquet: row i is image i, and its bytes do not depend on how it was written."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurolab.atlas import images
from neurolab.atlas.image_table import ImagesTable
from neurolab.atlas.images import ImagesWriter
from neurolab.errors import AtlasError
from tests.atlas.making import FakeItem, make_embeddings, make_items


def write(folder: Path, batches: list[int], flush: bool = False, embeddings: bool = True) -> Path:
    writer, first = ImagesWriter(folder / "parts"), 0
    for size in batches:
        numbers = writer.append(
            make_items(size, first), make_embeddings(size, first) if embeddings and size else None
        )
        assert numbers == range(first, first + size)
        first += size
        if flush:
            writer.flush()
    writer.finish(folder / "images.parquet")
    return folder / "images.parquet"


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ROWS_PER_GROUP", 8)
    monkeypatch.setattr(images, "ROWS_PER_PART", 20)


def test_rows_come_back_in_order(tmp_path: Path, small_groups: None) -> None:
    table = ImagesTable(write(tmp_path, [16, 16, 13]))
    items = make_items(45)
    assert len(table) == 45
    wanted = [44, 0, 7, 8, 7]
    for row, number in zip(table.rows(wanted), wanted, strict=True):
        item = items[number]
        assert (row.index, row.key, row.captions, row.labels) == (
            number,
            item.key,
            item.captions,
            dict(item.labels),
        )
        assert (row.width, row.height) == (item.width, item.height)
    assert table.thumbnails(wanted) == [items[number].thumbnail for number in wanted]
    found = table.embeddings()
    assert found is not None and np.array_equal(found, make_embeddings(45))
    assert table.embeddings() is table.embeddings()
    assert all(table.index_of(item.key) == number for number, item in enumerate(items))


def test_groups_have_the_fixed_size(tmp_path: Path, small_groups: None) -> None:
    metadata = pq.read_metadata(write(tmp_path, [16, 16, 13]))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [8] * 5 + [5]


def test_bytes_do_not_depend_on_batches_and_parts(tmp_path: Path, small_groups: None) -> None:
    ways = [([45], False), ([45], True), ([1] * 45, True), ([7, 30, 8], False), ([7, 0, 30, 8], True)]
    written = set()
    for number, (batches, flush) in enumerate(ways):
        (tmp_path / str(number)).mkdir()
        written.add(write(tmp_path / str(number), batches, flush).read_bytes())
    assert len(written) == 1


def test_bytes_do_not_depend_on_batches_where_rows_are_larger_than_pages(tmp_path: Path) -> None:
    rng, written = np.random.default_rng(0), set()
    items = [FakeItem(f"{i}", thumbnail=rng.bytes(150_000)) for i in range(20)]
    for size in (20, 3, 1):
        writer = ImagesWriter(tmp_path / f"parts {size}")
        for first in range(0, 20, size):
            writer.append(items[first : first + size])
            writer.flush()
        writer.finish(tmp_path / f"{size}.parquet")
        written.add((tmp_path / f"{size}.parquet").read_bytes())
    assert len(written) == 1


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 40), max_size=6), checkpoint=st.integers(0, 5))
def test_a_resumed_writer_gives_the_same_bytes(
    cuts: list[int], checkpoint: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    batches = cuts or [5]
    folder = tmp_path_factory.mktemp("resumed")
    (folder / "whole").mkdir()
    whole = write(folder / "whole", batches)
    first = ImagesWriter(folder / "parts")
    rows, vouched = 0, 0
    for number, size in enumerate(batches):  # a first process, killed after its last batch
        first.append(make_items(size, rows), make_embeddings(size, rows))
        rows = first.flush()
        vouched = rows if number < checkpoint else vouched
    second = ImagesWriter(folder / "parts", rows=vouched)
    for size in batches[checkpoint:]:
        second.append(make_items(size, second.rows), make_embeddings(size, second.rows))
    second.finish(folder / "images.parquet")
    assert (folder / "images.parquet").read_bytes() == whole.read_bytes()


def test_parts_that_a_checkpoint_does_not_fit_are_refused(tmp_path: Path) -> None:
    writer = ImagesWriter(tmp_path / "parts")
    writer.append(make_items(10), None)
    writer.flush()
    for rows in (9, 11):
        with pytest.raises(AtlasError, match=f"10 image rows where the checkpoint says {rows}"):
            ImagesWriter(tmp_path / "parts", rows=rows)


def test_a_part_that_begins_elsewhere_is_not_counted(tmp_path: Path) -> None:
    """Though there are as many rows as the checkpoint says: some would be twice or of other images."""
    writer = ImagesWriter(tmp_path / "parts")
    for first in (0, 10):
        writer.append(make_items(10, first), None)
        writer.flush()
    part = tmp_path / "parts" / f"{10:012d}.parquet"
    part = part.rename(part.with_stem(f"{5:012d}"))
    with pytest.raises(AtlasError, match="10 image rows where the checkpoint says 20"):
        ImagesWriter(tmp_path / "parts", rows=20)
    part.rename(part.with_stem(f"{10:012d}"))
    assert ImagesWriter(tmp_path / "parts", rows=20).rows == 20


def test_rows_that_were_not_flushed_do_not_survive(tmp_path: Path) -> None:
    ImagesWriter(tmp_path / "parts").append(make_items(10), None)
    assert list((tmp_path / "parts").iterdir()) == []


def test_images_without_embeddings(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert ImagesTable(write(tmp_path / "none", [10], embeddings=False)).embeddings() is None
    writer = ImagesWriter(tmp_path / "parts")
    writer.append(make_items(3), None)
    writer.append(make_items(2, 3), make_embeddings(2, 3))
    writer.append(make_items(1, 5), None)
    writer.finish(tmp_path / "some.parquet")
    found = ImagesTable(tmp_path / "some.parquet").embeddings()
    assert found is not None and found.dtype == np.float16
    assert np.isnan(found[[0, 1, 2, 5]]).all() and np.array_equal(found[3:5], make_embeddings(2, 3))


def test_no_images_at_all(tmp_path: Path) -> None:
    table = ImagesTable(write(tmp_path, []))
    assert (
        len(table) == 0 and table.rows([]) == [] and table.thumbnails([]) == [] and table.embeddings() is None
    )
    with pytest.raises(AtlasError):
        table.rows([0])


def test_hostile_texts_and_missing_thumbnails(tmp_path: Path) -> None:
    items = [
        FakeItem(
            "bytes \udcff in a name", ("line\nbreak \0", "😀"), {"": "", "ключ": "'; --"}, thumbnail=None
        ),
        FakeItem("twice"),
        FakeItem("twice", thumbnail=b""),
    ]
    writer = ImagesWriter(tmp_path / "parts")
    writer.append(items, None)
    writer.finish(tmp_path / "images.parquet")
    table = ImagesTable(tmp_path / "images.parquet")
    first = table.rows([0])[0]
    assert first.key == "bytes \\udcff in a name" and first.captions == items[0].captions
    assert first.labels == items[0].labels
    assert table.thumbnails([0, 1, 2]) == [None, b"webp", None]
    assert table.index_of("twice") == 1
    with pytest.raises(AtlasError, match="no image"):
        table.index_of("thrice")


@pytest.mark.parametrize("wrong", [[-1], [45], [0, 45]])
def test_images_out_of_range_are_refused(wrong: list[int], tmp_path: Path) -> None:
    table = ImagesTable(write(tmp_path, [45]))
    for read in (table.rows, table.thumbnails):
        with pytest.raises(AtlasError, match="images 0 to 44"):
            read(wrong)


def test_embeddings_of_a_wrong_shape_are_refused(tmp_path: Path) -> None:
    writer = ImagesWriter(tmp_path / "parts")
    with pytest.raises(AtlasError, match="do not fit 3 images"):
        writer.append(make_items(3), make_embeddings(2))


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [10])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(AtlasError, match="cannot be read"):
        ImagesTable(path)
    pq.write_table(pq.read_table(tmp_path / "parts" / f"{0:012d}.parquet").drop_columns(["labels"]), path)
    with pytest.raises(AtlasError, match="other columns"):
        ImagesTable(path)
    path.unlink()
    with pytest.raises(AtlasError, match="missing"):
        ImagesTable(path)


def test_threads_read_the_right_rows(
    tmp_path: Path, small_groups: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cache in ("TEXTS", "THUMBNAILS"):  # so that threads evict each other's
        monkeypatch.setattr(f"neurolab.atlas.image_table.CACHED_{cache}", 2000)
    table, items, wrong = ImagesTable(write(tmp_path, [200])), make_items(200), []

    def read(seed: int) -> None:
        wanted = np.random.default_rng(seed).integers(0, 200, 60)
        for number in wanted.tolist():
            row, thumbnail = table.rows([number])[0], table.thumbnails([number])[0]
            if (row.key, thumbnail) != (items[number].key, items[number].thumbnail):
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
