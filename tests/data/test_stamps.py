"""Hashes that are remembered: right after every change of a file, and nothing read where there was none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import sleep

import pytest

from neurolab.data import hashing, stamps
from neurolab.data.sources import open_source
from neurolab.data.stamps import remembered, stamp
from tests.data.making import encoded, samples, write_tar

TICK = 0.02  # seconds, in which the clock of any file system goes on


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read to be hashed. Hashes are kept, and files are soon old enough."""
    read: list[Path] = []
    whole = hashing.file_hash
    monkeypatch.setattr(hashing, "file_hash", lambda path: (read.append(path), whole(path))[1])
    monkeypatch.setattr(stamps, "YOUNG_SECONDS", TICK / 2)
    monkeypatch.setenv("NEUROLAB_CACHE", str(tmp_path / "cache"))
    return read


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(encoded(1))
    (folder / "a.txt").write_text("a caption")
    (folder / "deep/b.jpg").write_bytes(encoded(2))
    (folder / "nowhere.jpg").symlink_to(folder / "absent")
    sleep(TICK)
    return folder


def hash_of(spec: Path, *, remember: bool = True) -> str:
    with pytest.MonkeyPatch.context() as patch:
        if not remember:
            patch.setenv("NEUROLAB_CACHE", "")
        return open_source(str(spec)).content_hash()


def change_in_place(photos: Path) -> None:
    """Of the same length, and with the time of the last change set back."""
    path, status = photos / "a.jpg", (photos / "a.jpg").stat()
    path.write_bytes(encoded(1)[:-1] + b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        change_in_place,
        lambda photos: (photos / "a.txt").write_text("b caption"),
        lambda photos: (photos / "a.txt").unlink(),
        lambda photos: (photos / "a.json").write_text('{"caption": "more"}'),
        lambda photos: (photos / "a.jpg").rename(photos / "c.jpg"),
        lambda photos: (photos / "deep/b.jpg").replace(photos / "a.jpg"),
        lambda photos: (photos / "absent").write_bytes(encoded(3)),
        lambda photos: (photos / "z.jpg").write_bytes(encoded(3)),
    ],
)
def test_every_change_of_a_folder_is_noticed(
    photos: Path, reads: list[Path], change: Callable[[Path], object]
) -> None:
    before = hash_of(photos)
    change(photos)
    sleep(TICK)
    after = hash_of(photos)
    assert after != before and after == hash_of(photos, remember=False)


def test_what_did_not_change_is_not_read_again(photos: Path, tmp_path: Path, reads: list[Path]) -> None:
    tar = write_tar(tmp_path / "x.tar", samples(3))
    sleep(TICK)
    for source in (photos, tar):
        before = hash_of(source)
        assert reads
        reads.clear()
        assert hash_of(source) == before and not reads
        assert hash_of(source, remember=False) == before and reads
        reads.clear()
    write_tar(tar, samples(4))
    assert hash_of(tar) != before and reads == [tar]


def test_a_file_that_is_young_or_could_not_be_read_is_read_again(
    photos: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "YOUNG_SECONDS", 3600.0)
    assert hash_of(photos) == hash_of(photos) and len(reads) == 6
    monkeypatch.setattr(stamps, "YOUNG_SECONDS", TICK / 2)

    def forbid(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "file_hash", forbid)
        without = hash_of(photos)
    assert hash_of(photos) != without


def test_what_changes_while_it_is_read_is_not_remembered(tmp_path: Path, reads: list[Path]) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    sleep(TICK)

    def compute() -> str:
        path.write_text("after")
        sleep(TICK)
        return "0" * 64

    def of_file() -> str | None:
        return stamp("kind", [("file", path)])

    assert remembered(of_file, compute) == "0" * 64
    assert remembered(of_file, lambda: "1" * 64) == "1" * 64
    assert remembered(of_file, lambda: "2" * 64) == "1" * 64
    assert remembered(lambda: stamp("other", [("file", path)]), lambda: "3" * 64) == "3" * 64


@pytest.mark.parametrize("damage", [b"", b"0" * 63, b"\xff" * 64], ids=["empty", "short", "no text"])
def test_a_damaged_or_forbidden_cache_costs_time_alone(
    photos: Path, tmp_path: Path, reads: list[Path], damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hash_of(photos)
    (kept,) = (tmp_path / "cache/sources").iterdir()
    kept.write_bytes(damage)
    assert hash_of(photos) == before
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("NEUROLAB_CACHE", str(tmp_path / "file"))
    assert hash_of(photos) == before
    monkeypatch.delenv("NEUROLAB_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert hash_of(photos) == before
    assert len(list((tmp_path / "home/.cache/neurolab/sources").iterdir())) == 1
