"""Files under failing disks: what passes is waited for, what is the disk's own is no image's fault."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import neurolab.data.files
import neurolab.data.parquet
from neurolab.data import patience
from neurolab.data.decode import ImageTransform, decode_image
from neurolab.data.files import ListedFile, is_file
from neurolab.data.folder import FolderSource
from neurolab.data.loader import load_batches
from neurolab.data.parquet import ParquetSource
from neurolab.data.sources import Unreadable
from neurolab.data.tars import TarSource
from neurolab.errors import BadImageError, SourceError
from tests.data.making import encoded, samples, write_tar

PASSING = [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOTCONN, errno.ENOENT]
SMALL = ImageTransform((8, 8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "photos"
    place.mkdir()
    for number in range(6):
        (place / f"{number}.jpg").write_bytes(encoded(number))
    return place


class Disk:
    """Lets files be opened, but those named, which fail so many times with an error."""

    def __init__(self, code: int, names: set[str], times: int = 10**9) -> None:
        self.code, self.names, self.left = code, names, times

    def open(self, path: Path, *arguments: Any, **more: Any) -> Any:
        if path.name in self.names and self.left > 0:
            self.left -= 1
            raise OSError(self.code, os.strerror(self.code), str(path))
        return open(path, *arguments, **more)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Disk]:
    def fail(code: int, *names: str, times: int = 10**9) -> Disk:
        disk = Disk(code, set(names), times)
        monkeypatch.setattr(Path, "open", lambda path, *a, **k: disk.open(path, *a, **k))
        monkeypatch.setattr(Path, "read_bytes", lambda path: disk.open(path, "rb").read())
        return disk

    return fail


@pytest.mark.parametrize("code", PASSING)
def test_what_passes_is_waited_for(
    folder: Path, failing: Callable[..., Disk], waits: list[float], code: int
) -> None:
    whole = FolderSource(folder).content_hash()
    failing(code, "2.jpg", times=2)
    source = FolderSource(folder)
    assert source.content_hash() == whole
    assert waits == [0.2, 0.8]
    failing(code, "2.jpg", times=3)
    (batch,) = load_batches(source, SMALL)
    assert len(batch.items) == 6 and not batch.skipped


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EMFILE, errno.ENOMEM, errno.ETIMEDOUT])
def test_what_is_the_systems_own_is_no_images_fault(
    folder: Path, failing: Callable[..., Disk], code: int
) -> None:
    source = FolderSource(folder)
    failing(code, "2.jpg")
    with pytest.raises(SourceError, match=r"2\.jpg cannot be read: .*the same command again"):
        list(load_batches(source, SMALL))
    with pytest.raises(SourceError, match=r"2\.jpg cannot be read"):
        source.content_hash()


def test_a_bad_spot_on_the_disk_is_a_bad_image_and_a_bad_disk_is_not(
    folder: Path, failing: Callable[..., Disk]
) -> None:
    source = FolderSource(folder)
    failing(errno.EIO, "2.jpg")
    (batch,) = load_batches(source, SMALL)
    assert [skip.key for skip in batch.skipped] == ["2.jpg"]
    assert "Input/output error" in batch.skipped[0].reason
    failing(errno.EIO, *(f"{number}.jpg" for number in range(6)))
    with pytest.raises(SourceError, match=r"0\.jpg cannot be read .*, nor can others of .*photos"):
        list(load_batches(source, SMALL))


def test_a_folder_of_bad_spots_beside_a_good_one(folder: Path, failing: Callable[..., Disk]) -> None:
    (folder / "bad").mkdir()
    for name in ("x.jpg", "y.jpg"):
        (folder / "bad" / name).write_bytes(encoded(1))
    source = FolderSource(folder)
    failing(errno.EIO, "x.jpg", "y.jpg")
    (batch,) = load_batches(source, SMALL)
    assert [skip.key for skip in batch.skipped] == ["bad/x.jpg", "bad/y.jpg"]


def test_images_in_folders_of_their_own_are_neighbours(tmp_path: Path, failing: Callable[..., Disk]) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.jpg").write_bytes(encoded(1))
    failing(errno.EIO, "a.jpg", "b.jpg")
    with pytest.raises(SourceError, match="nor can others"):
        ListedFile(tmp_path / "a/a.jpg", tmp_path).read()
    failing(errno.EIO, "a.jpg")
    with pytest.raises(OSError, match="Input/output"):
        ListedFile(tmp_path / "a/a.jpg", tmp_path).read()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_goes_away_ends_the_reading(folder: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "DISK_WAITS", (0.0,))
    source = FolderSource(folder)
    (folder / "4.jpg").unlink()
    batches = load_batches(source, SMALL, batch_size=2, workers=workers)
    assert [len(next(batches).items) for _ in range(2)] == [2, 2]
    with pytest.raises(SourceError, match=r"4\.jpg is gone, .*Bring it back"):
        next(batches)
    folder.rename(folder.with_name("unmounted"))
    with pytest.raises(SourceError, match=r"0\.jpg is gone"):
        next(load_batches(source, SMALL, workers=workers))


def test_a_folder_that_can_no_longer_be_listed(
    folder: Path, failing: Callable[..., Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FolderSource(folder)
    failing(errno.EACCES, "2.jpg")
    (batch,) = load_batches(source, SMALL)
    assert "Permission denied" in batch.skipped[0].reason
    monkeypatch.setattr(neurolab.data.files, "problem_of_listing", lambda folder: "Key has expired")
    with pytest.raises(SourceError, match=r"photos cannot be listed any more \(Key has expired\)"):
        list(load_batches(source, SMALL))


def test_a_link_that_was_broken_before_is_a_bad_image(folder: Path) -> None:
    (folder / "m.jpg").symlink_to("nowhere.jpg")
    source = FolderSource(folder)
    before = source.content_hash()
    (record,) = [record for record in source if record.key == "m.jpg"]
    with pytest.raises(BadImageError, match="does not exist"):
        decode_image(record.payload)
    shutil.copy(folder / "1.jpg", folder / "nowhere.jpg")
    assert FolderSource(folder).content_hash() != before


def test_captions_under_a_failing_disk(folder: Path, failing: Callable[..., Disk]) -> None:
    (folder / "1.txt").write_text("a cat")
    source = FolderSource(folder)
    failing(errno.ESTALE, "1.txt")
    with pytest.raises(SourceError, match=r"1\.txt cannot be read"):
        list(source)
    failing(errno.EACCES, "1.txt")
    assert [record.notes for record in source if record.notes] == [
        ("1.txt: cannot be read (Permission denied)",)
    ]


def test_whether_there_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_file(tmp_path) and not is_file(tmp_path / "x") and not is_file(Path("a\0b"))
    assert not is_file(tmp_path / ("x" * 300))
    real, codes = Path.stat, [errno.ESTALE] * 4 + [errno.EIO] * 4

    def stat(path: Path, **options: Any) -> os.stat_result:
        if path.name == "asked" and codes:
            raise OSError(codes.pop(0), "no answer", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(SourceError, match=r"cannot look at .*asked: no answer"):
        is_file(tmp_path / "asked")
    assert is_file(tmp_path / "asked"), "reading it will tell"
    assert not codes and not is_file(tmp_path / "asked")


class FailingStream:
    """A file that fails at a place, so many times."""

    def __init__(self, stream: Any, disk: Disk, place: int) -> None:
        self.stream, self.disk, self.place = stream, disk, place

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __enter__(self) -> FailingStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stream.close()

    def read(self, size: int = -1) -> bytes:
        if self.disk.left > 0 and self.stream.tell() >= self.place:
            self.disk.left -= 1
            raise OSError(self.disk.code, os.strerror(self.disk.code))
        return bytes(self.stream.read(size))


def test_a_tar_under_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "x.tar", samples(9))
    whole = list(TarSource([path]))
    disk = Disk(errno.EIO, set(), 0)
    monkeypatch.setattr(TarSource, "_open", lambda *_: FailingStream(path.open("rb"), disk, 5000))
    source = TarSource([path])
    for _ in range(2):  # first in reading the headers, then the samples
        disk.left = 3
        assert len(source) == 9
        assert list(source) == whole
    records, disk.left = [], 99
    with pytest.raises(SourceError, match=r"shard .*x\.tar: Input/output error.*same command again"):
        records += source
    monkeypatch.undo()


def test_a_tar_that_goes_away(tmp_path: Path, waits: list[float]) -> None:
    path = write_tar(tmp_path / "x.tar", samples(3))
    source = TarSource([path])
    source.shards()
    path.unlink()
    with pytest.raises(SourceError, match=r"x\.tar: No such file"):
        list(source)
    assert waits == [0.2, 0.8, 2.0]


def test_a_table_under_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [{"bytes": encoded(i), "path": f"{i}.jpg"} for i in range(200)]
    pq.write_table(pa.table({"image": images}), tmp_path / "t.parquet")
    whole = list(ParquetSource([tmp_path / "t.parquet"]))
    real, disk = neurolab.data.parquet._open, Disk(errno.EIO, set(), 2)

    class Failing:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Failing:
            return self

        def __exit__(self, *exception: object) -> None:
            self.file.close()

        def iter_batches(self, *arguments: Any, **more: Any) -> Any:
            for number, batch in enumerate(self.file.iter_batches(*arguments, **more)):
                if number == 2 and disk.left > 0:
                    disk.left -= 1
                    raise OSError(errno.EIO, "Input/output error")
                yield batch

    monkeypatch.setattr(neurolab.data.parquet, "_open", lambda path: Failing(real(path)))
    source = ParquetSource([tmp_path / "t.parquet"])
    assert list(source) == whole
    disk.left = 99
    with pytest.raises(SourceError, match=r"t\.parquet cannot be read: Input/output error"):
        list(source)


def test_a_table_that_goes_away_with_what_lies_beside_it(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    (place / "beside.jpg").write_bytes(encoded(3))
    images = [{"bytes": None, "path": name} for name in ("beside.jpg", "missing.jpg")]
    pq.write_table(pa.table({"image": images}), place / "t.parquet")
    source = ParquetSource([place / "t.parquet"])
    beside, missing = source
    assert beside.payload == ListedFile(place / "beside.jpg", place)
    assert isinstance(missing.payload, Unreadable)
    (shard,) = source.shards()
    records = source.read(shard)
    next(records)
    place.rename(tmp_path / "unmounted")
    with pytest.raises(SourceError, match="disk cannot be listed any more"):
        next(records)
    with pytest.raises(SourceError, match=r"t\.parquet cannot be read"):
        list(source)
