"""Builds whose process, disk or source fails them: nothing is torn, and they go on where they were.

| fault | shown by |
|---|---|
| bad input of many kinds | `test_faults.py` |
| twenty kills at random moments of one build | here |
| a kill between any two files, kills with decode workers, Ctrl-C, errors in a batch | `test_resume.py` |
| a full disk | here; at each file of the end also `tests/atlas/test_builder.py` |
| a read-only atlas | here; its labels also `tests/atlas/test_labels.py` |
| two writers on one atlas | `test_resume.py`; of pictures, labels: `tests/atlas/test_{pictures,labels}.py` |
| a newer format version | here; on opening `tests/atlas/test_atlas.py` |
| bit rot, lost and cut files | `tests/atlas/test_checking.py` |
| a source, model or settings that changed in between | here; by their hashes `test_resume.py` |
| a damaged checkpoint | `test_resume.py` |
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from neurolab.atlas import Atlas
from neurolab.atlas.checking import check
from neurolab.atlas.manifest import BUILDING, MANIFEST
from neurolab.atlas.writing import TEMPORARY_PREFIX, write_json
from neurolab.cli import app
from neurolab.data.folder import FolderSource
from neurolab.data.sources import Record, Shard
from neurolab.errors import AtlasError
from neurolab.explorer.lab import Lab
from neurolab.mining.checkpoint import MiningState
from neurolab.mining.job import CHECKPOINT
from tests.atlas.making import FakePicture
from tests.data.making import encoded
from tests.mining.long_build import BATCH, KEYS, long_build
from tests.mining.mounts import read_only, small_disk
from tests.mining.small_build import NoiseSource, small_build
from tests.mining.test_resume import digests

KILLS = 20


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small build, to which nothing happened."""
    return small_build(tmp_path_factory.mktemp("whole") / "atlas", checkpoint_seconds=1e9).path


def records_saved(out: Path) -> int:
    """How many records the checkpoint vouches for; fails where it is torn."""
    path = out / BUILDING / CHECKPOINT
    return MiningState.load(path).records if path.exists() else 0


def lines(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def killed_at_random(out: Path, log: Path, rng: np.random.Generator) -> None:
    """Begin or go on with the long build, and kill it: soon, or some time after its next checkpoint."""
    servers = multiprocessing.get_context("forkserver")
    servers.set_forkserver_preload(["tests.mining.long_build", "pandas"])  # which pyarrow imports late
    path, begun = out / BUILDING / CHECKPOINT, time.time()
    process = servers.Process(target=long_build, args=(out, log, 0.01))
    process.start()
    if rng.random() < 0.75:
        while not (path.exists() and path.stat().st_mtime > begun):
            assert process.is_alive() and time.time() < begun + 120
            time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.06))
    process.kill()
    process.join()
    assert process.exitcode == -9


def test_twenty_kills_at_random_moments_of_one_build(tmp_path: Path) -> None:
    out, log, rng = tmp_path / "atlas", tmp_path / "log", np.random.default_rng(0)
    saved, read = [0], 0
    for _ in range(KILLS):
        killed_at_random(out, log, rng)
        with pytest.raises(AtlasError, match=r"incomplete|no atlas"):
            Atlas.open(out)
        now = lines(log)[read:]
        assert now[:1] in ([], [KEYS[saved[-1]]])  # it went on behind what was saved
        read += len(now)
        saved.append(records_saved(out))
    assert saved == sorted(saved) and len(set(saved)) > KILLS // 2
    long_build(out, log, checkpoint_seconds=1e9)
    read_again = len(lines(log)) - len(KEYS)
    assert set(lines(log)) == set(KEYS) and 0 < read_again <= KILLS * BATCH
    assert digests(out) == digests(long_build(tmp_path / "unkilled", checkpoint_seconds=1e9).path)
    assert check(out).sound


def assert_untorn(out: Path) -> int:
    """Nothing is there by half; returns how many records are saved."""
    assert not list(out.rglob(f"{TEMPORARY_PREFIX}*"))
    with pytest.raises(AtlasError, match=r"incomplete|no atlas"):
        Atlas.open(out)
    return records_saved(out)


NO_SPACE = r"No space left|full"


def test_full_disks(tmp_path: Path, whole: Path) -> None:
    """With more and more room until it is enough; after each failure the rest of the disk is made free."""
    size, saved = 2 << 20, []
    for room in range(8 << 10, size, 36 << 10):
        with small_disk(tmp_path / f"{room}", size) as disk:
            out, ballast = disk / "atlas", disk / "ballast"
            ballast.write_bytes(bytes(size - room))
            try:
                small_build(out)
                break
            except AtlasError as error:
                assert re.search(NO_SPACE, str(error))
            saved.append(assert_untorn(out))
            ballast.unlink()
            source = NoiseSource()
            small_build(out, source)
            assert source.count == 63 - saved[-1] and digests(out) == digests(whole)
    # It has failed before the first checkpoint, and after several others.
    assert saved == sorted(saved) and saved[0] == 0 and len(set(saved)) > 2


def test_a_disk_that_is_full_from_any_moment_on(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the file system says it when what was written is to be put on the disk."""
    calls = 0

    def counting(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > allowed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", counting)
    allowed = 10**9
    small_build(tmp_path / "counted", checkpoint_seconds=0)
    last, saved = calls, []
    # The last call is of the folder, when the manifest has its place and the atlas is whole.
    for allowed in range(0, last - 1, 11):
        calls, out = 0, tmp_path / f"{allowed}"
        with pytest.raises(AtlasError, match=NO_SPACE):
            small_build(out)
        saved.append(assert_untorn(out))
        calls = -(10**9)
        small_build(out)
        assert digests(out) == digests(whole)
    assert saved == sorted(saved) and saved[-1] == 63 and len(saved) > 5


def test_a_read_only_atlas(tmp_path: Path) -> None:
    out = tmp_path / "atlas"
    atlas = small_build(out)
    unit = f"{atlas.sites[0]}/1"
    atlas.add_pictures([FakePicture(unit, np.zeros((8, 8, 3), np.uint8))])
    atlas.labels.add(unit, "stripes", "somebody")
    with read_only(out):
        atlas = Atlas.open(out)
        lab, page = Lab(atlas), atlas.unit(unit)
        assert len(page.exemplars) == 5 and page.pictures[0].to_pil().size == (8, 8)
        assert lab.marked(page.exemplars[0], "outline") and lab.picture(atlas.sites[0], 1)
        assert lab.caption(page.exemplars[0].image).startswith("noise")
        assert atlas.sql("SELECT count(*) AS n FROM images").to_pylist() == [{"n": 61}]
        assert [label.text for label in atlas.labels.of(unit)] == ["stripes"]
        assert check(out).sound and CliRunner().invoke(app, ["check", str(out)]).exit_code == 0
        assert small_build(out).path == out  # what is built is not built again
        with pytest.raises(AtlasError, match=r"cannot write labels to .*read-only: use a copy"):
            atlas.labels.add(unit, "dots")
        with pytest.raises(AtlasError, match="cannot add pictures"):
            atlas.add_pictures([FakePicture(unit, np.ones((8, 8, 3), np.uint8))])
        with pytest.raises(AtlasError, match="cannot write an atlas to"):
            small_build(out / "inner")
    assert check(out).sound


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path, whole: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "atlas"))
    manifest = json.loads((out / MANIFEST).read_text())
    write_json(out / MANIFEST, manifest | {"format_version": 2})
    before = digests(out)
    with pytest.raises(AtlasError, match=r"of format version 2, newer than .* \(1\); upgrade neurolab"):
        small_build(out)
    assert digests(out) == before


class Interrupted(FolderSource):
    """A folder during whose reading Ctrl-C is pressed."""

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        yield from super().read(shard, start, 9)
        raise KeyboardInterrupt


def renamed(folder: Path) -> None:
    (folder / "03.jpg").rename(folder / "3.jpg")


CHANGES: dict[str, Callable[[Path], object]] = {
    "an image replaced": lambda folder: (folder / "03.jpg").write_bytes(encoded(99)),
    "an image more": lambda folder: (folder / "99.jpg").write_bytes(encoded(99)),
    "an image less": lambda folder: (folder / "03.jpg").unlink(),
    "an image renamed": renamed,
    "a caption": lambda folder: (folder / "03.txt").write_text("a cat"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changed_in_between_is_refused(tmp_path: Path, change: str) -> None:
    folder, out = tmp_path / "photos", tmp_path / "atlas"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02d}.jpg").write_bytes(encoded(number))
    with pytest.raises(KeyboardInterrupt):
        small_build(out, Interrupted(folder), batch_size=4)
    kept = Path(shutil.copytree(folder, tmp_path / "copy"))
    CHANGES[change](folder)
    refusal = (
        rf"holds {{}} of something else: the source was {folder} \(\w+\), is {folder} \(\w+\).*another folder"
    )
    before = digests(out)
    with pytest.raises(AtlasError, match=refusal.format("an unfinished build")):
        small_build(out, FolderSource(folder), batch_size=4)
    assert digests(out) == before and records_saved(out) == 8
    small_build(out, FolderSource(kept), batch_size=4)  # the same images, wherever they lie, are gone on with
    with pytest.raises(AtlasError, match=refusal.format("a finished atlas")):
        small_build(out, FolderSource(folder), batch_size=4)
    assert check(out).sound
