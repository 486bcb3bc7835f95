"""Builds that are killed, interrupted, and started twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from neurolab.atlas import Atlas
from neurolab.atlas.manifest import BUILDING, MANIFEST
from neurolab.atlas.shards import ShardRow
from neurolab.errors import AtlasError, SourceError
from neurolab.mining import miner
from neurolab.mining.identity import differences
from neurolab.mining.job import CHECKPOINT
from neurolab.mining.moments import Moments
from tests.mining.small_build import NoiseSource, Unmeasured, small_build, small_model

ROOT = Path(__file__).parents[2]


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it wrote, synced or not; only a power cut would."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a build that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "atlas"
    small_build(out, checkpoint_seconds=1e9)
    found = digests(out)
    assert len(found) == 4 + 2 * 5  # images, manifest, report, shards; and five files of each site
    return found


class Builder:
    """Starts builds as processes of their own."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.mining.small_build"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _line(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline()

    def start(self, out: Path, seconds: float, workers: int = 0) -> int:
        """Begin a build; returns its process's number once it has written a checkpoint."""
        assert self.server.stdin is not None
        begun = time.time()
        self.server.stdin.write(f"{out} {seconds} {workers}\n")
        self.server.stdin.flush()
        process = int(self._line())
        path = out / BUILDING / CHECKPOINT
        while not (path.exists() and path.stat().st_mtime > begun):
            assert time.time() < begun + 120 and not (out / MANIFEST).exists()
            time.sleep(0.005)
        return process

    def end(self, process: int, signal_number: int | None = None) -> int:
        """Wait for the build, after a signal; returns its exit status."""
        if signal_number is not None:
            os.kill(process, signal_number)
        return int(self._line())


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    found = Builder()
    yield found
    found.server.communicate()


@pytest.mark.parametrize("workers", [0, 1])
def test_killed_at_several_moments_the_files_are_the_same(
    tmp_path: Path, whole: dict[str, str], builder: Builder, workers: int
) -> None:
    out, log = tmp_path / "atlas", tmp_path / "atlas.log"
    read = []
    for seconds in (0.0, 0.13, 0.27):
        process = builder.start(out, 0.2, workers)
        time.sleep(seconds)
        assert builder.end(process, signal.SIGKILL) == -signal.SIGKILL
        with pytest.raises(AtlasError, match="incomplete"):
            Atlas.open(out)
        read.append(log.read_text().split())
        log.unlink()
    begun = [lines[0] for lines in read]
    assert begun[0] == "first/0" and "first/0" not in begun[1:]  # it went on where it was
    small_build(out)
    assert digests(out) == whole


def test_ctrl_c_saves_and_goes_on(tmp_path: Path, whole: dict[str, str], builder: Builder) -> None:
    out = tmp_path / "atlas"
    process = builder.start(out, 0.1)
    assert builder.end(process, signal.SIGINT) == 1
    assert (tmp_path / "atlas.error").read_text() == "KeyboardInterrupt()"
    source = NoiseSource()
    small_build(out, source)
    assert source.count < 63
    assert digests(out) == whole


@pytest.mark.parametrize(
    ("fail_at", "error"),
    [
        (1, KeyboardInterrupt),
        (8, KeyboardInterrupt),
        (9, SourceError),
        (39, MemoryError),
        (63, KeyboardInterrupt),
    ],
)
def test_what_was_done_before_an_error_is_kept(
    tmp_path: Path, whole: dict[str, str], fail_at: int, error: type[BaseException]
) -> None:
    out, source = tmp_path / "atlas", NoiseSource(fail_at=fail_at)
    source.error = error
    with pytest.raises(error):
        small_build(out, source, checkpoint_seconds=1e9)
    again = NoiseSource()
    small_build(out, again)
    groups = (fail_at - 1) // 8 if fail_at <= 37 else 5 + (fail_at - 38) // 8
    left = 63 - (8 * groups if groups < 5 else 37 + 8 * (groups - 5))
    assert again.count == left
    assert digests(out) == whole


def test_a_batch_taken_in_by_half_is_not_saved(
    tmp_path: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third batch has reached one of the two sites when memory runs out."""
    update, calls = Moments.update, []

    def failing(self: Moments, *arguments: object) -> None:
        calls.append(self)
        if len(calls) == 6:
            raise MemoryError
        update(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Moments, "update", failing)
        small_build(tmp_path / "atlas")
    again = NoiseSource()
    small_build(tmp_path / "atlas", again)
    assert again.count == 63 - 2 * 8
    assert digests(tmp_path / "atlas") == whole


def test_every_moment_between_two_files_can_be_gone_on_from(
    tmp_path: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder as it is before each rename of a file into its place, as a kill there would leave it."""
    out, moments = tmp_path / "atlas", tmp_path / "moments"
    replace = os.replace

    def copying(source: str | Path, target: str | Path) -> None:
        shutil.copytree(out, moments / f"{len(list(moments.iterdir())):03d}")
        replace(source, target)

    moments.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", copying)
        small_build(out)
    folders = sorted(moments.iterdir())
    # The identity; an images part and a state for each of 9 batches, and the state at the end; the atlas.
    assert len(folders) == 1 + 2 * 9 + 1 + 14
    model = small_model()
    for folder in folders:
        small_build(folder, model=model)
        assert digests(folder) == whole, folder.name


def test_rows_written_after_the_checkpoint_are_dropped(tmp_path: Path, whole: dict[str, str]) -> None:
    """Parts and embeddings of later batches lie there; the checkpoint is that of an earlier one."""
    out, earlier = tmp_path / "atlas", tmp_path / "earlier.npz"
    for fail_at in (20, 25):
        with pytest.raises(KeyboardInterrupt):
            small_build(out, NoiseSource(fail_at=fail_at), checkpoint_seconds=1e9)
        if not earlier.exists():
            shutil.copy(out / BUILDING / CHECKPOINT, earlier)
    shutil.copy(earlier, out / BUILDING / CHECKPOINT)
    small_build(out)
    assert digests(out) == whole


def test_what_is_gone_on_with_says_how_many_shards_are_finished(
    tmp_path: Path, whole: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "atlas"
    with pytest.raises(KeyboardInterrupt):
        small_build(out, NoiseSource(fail_at=50))
    atlas = small_build(out, progress=True)
    assert "Going on behind 45 images: 1 of 2 shards are finished" in capsys.readouterr().err
    assert atlas.shards() == [ShardRow("first", 37, 36, 1, 0), ShardRow("second", 26, 25, 1, 36)]
    assert digests(out) == whole


def test_shards_of_unknown_size_have_rows_too(tmp_path: Path, whole: dict[str, str]) -> None:
    """Killed anywhere; a stream that is finished is not read again, not even to its end."""
    for fail_at in range(7, 63, 11):
        out = tmp_path / str(fail_at)
        with pytest.raises(KeyboardInterrupt):
            small_build(out, Unmeasured(fail_at=fail_at))
        again = Unmeasured(tmp_path / f"{fail_at}.log")
        small_build(out, again)
        assert digests(out)["shards.parquet"] == whole["shards.parquet"]
        read = (tmp_path / f"{fail_at}.log").read_text().split()
        assert fail_at < 38 or not any(key.startswith("first") for key in read)


def test_workers_and_checkpoints_leave_no_trace(tmp_path: Path, whole: dict[str, str]) -> None:
    small_build(tmp_path / "atlas", workers=2)
    assert digests(tmp_path / "atlas") == whole


def test_a_second_writer_is_refused(tmp_path: Path, whole: dict[str, str], builder: Builder) -> None:
    out = tmp_path / "atlas"
    process = builder.start(out, 0.3)
    for overwrite in (False, True):
        with pytest.raises(AtlasError, match="written by another process"):
            small_build(out, overwrite=overwrite, **({"k": 3} if overwrite else {}))
    assert builder.end(process) == 0  # and the first was not disturbed
    assert digests(out) == whole


def test_other_settings_are_refused_while_unfinished(tmp_path: Path, whole: dict[str, str]) -> None:
    out = tmp_path / "atlas"
    with pytest.raises(KeyboardInterrupt):
        small_build(out, NoiseSource(fail_at=40))
    with pytest.raises(AtlasError, match=r"unfinished build.*k was 5, is 7.*overwrite=True"):
        small_build(out, k=7)
    with pytest.raises(AtlasError, match=r"threads was 1, is 2"):
        small_build(out, threads=2)
    with pytest.raises(AtlasError, match=r"the model was small \(\w{12}\), is small \(\w{12}\)"):
        small_build(out, model=small_model(seed=1))
    changed = NoiseSource()
    changed.content_hash = lambda: "51" * 32  # type: ignore[method-assign]
    with pytest.raises(AtlasError, match=r"the source was noise \(5050.*\), is noise \(5151"):
        small_build(out, changed)
    small_build(out, threads=None)  # the number of threads, if not given, is that of the build
    assert digests(out) == whole


def test_names_that_differ_are_told_and_not_the_others(tmp_path: Path) -> None:
    names = [f"concept {number}" for number in range(1000)]
    settings: dict[str, Any] = {"concept_names": names, "units": {"0": list(range(1000)), "1": [0]}, "k": 5}

    def told(**now: Any) -> str:
        parts: dict[str, dict[str, Any]] = {"model": {}, "source": {}}
        before, after = ({**parts, "settings": found} for found in (settings, settings | now))
        (difference,) = differences(before, after, engine=True)
        return difference

    assert told(units={"0": list(range(1, 1000)), "1": [0, 7]}) == (
        "units was 1,001 names, is 1,001: without 0/0, with 1/7"
    )
    assert told(concept_names=names[::-1]) == "concept_names was 1,000 names, is 1,000: in another order"
    assert told(concept_names=names[10:]) == (
        f"concept_names was 1,000 names, is 990: without {', '.join(names[:8])} and 2 more"
    )
    assert told(concept_names=None) == f"concept_names was {', '.join(names[:8])} and 992 more, is None"
    assert told(k=7) == "k was 5, is 7"


def test_with_overwrite_another_build_is_thrown_away(tmp_path: Path, whole: dict[str, str]) -> None:
    out = tmp_path / "atlas"
    with pytest.raises(KeyboardInterrupt):
        small_build(out, NoiseSource(fail_at=40), k=7)
    source = NoiseSource()
    small_build(out, source, overwrite=True)
    assert source.count == 63
    assert digests(out) == whole


def test_a_finished_atlas_is_returned_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "atlas"
    small_build(out)
    before = digests(out)

    def never(*arguments: object, **named: object) -> None:
        raise AssertionError("the build was begun again")

    monkeypatch.setattr(miner, "Job", never)
    for overwrite in (False, True):
        again = small_build(out, overwrite=overwrite, threads=2)
        assert again.path == out and again.manifest["complete"] is True
    with pytest.raises(AtlasError, match=r"finished atlas.*reduction was 'max', is 'mean'.*overwrite=True"):
        small_build(out, reduction="mean")
    assert digests(out) == before


@pytest.mark.parametrize("name", ["exemplars.npz", "lowest.npz", "report.json", "images.parquet"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_finished_atlas_that_lost_a_file_is_not_returned(
    tmp_path: Path, whole: dict[str, str], name: str, cut: bool
) -> None:
    out = small_build(tmp_path / "atlas").path
    path = next(out.rglob(name))
    path.unlink()
    if cut:
        path.write_bytes(b"PAR1")
    with pytest.raises(AtlasError, match=rf"(?s){name}.*(overwrite=True|build the atlas again)"):
        small_build(out)
    small_build(out, overwrite=True)
    assert digests(out) == whole


def test_overwriting_a_finished_atlas_keeps_labels_of_the_same_model(tmp_path: Path) -> None:
    out = tmp_path / "atlas"
    atlas = small_build(out)
    atlas.labels.add(f"{atlas.sites[0]}/1", "stripes", "somebody")
    with pytest.raises(AtlasError, match="labels"):
        small_build(out, model=small_model(seed=1), overwrite=True)
    again = small_build(out, k=3, overwrite=True)
    assert again.site(atlas.sites[0]).k == 3
    assert [label.text for label in again.labels.of(f"{atlas.sites[0]}/1")] == ["stripes"]


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, whole: dict[str, str]) -> None:
    out = tmp_path / "atlas"
    with pytest.raises(KeyboardInterrupt):
        small_build(out, NoiseSource(fail_at=40))
    path = out / BUILDING / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AtlasError, match=r"checkpoint\.npz.*overwrite=True"):
        small_build(out)
    small_build(out, overwrite=True)
    assert digests(out) == whole


def test_the_number_of_threads_is_put_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        small_build(tmp_path / "atlas", threads=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    for overwrite in (False, True):
        with pytest.raises(AtlasError):
            small_build(tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert not (tmp_path / MANIFEST).exists()
