"""Builds that are thrown away: wholly, whenever the throwing away is killed."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neurolab.atlas import Atlas, AtlasWriter
from neurolab.atlas.checking import check
from neurolab.atlas.clearing import clear
from neurolab.atlas.manifest import BUILDING, MANIFEST
from neurolab.errors import AtlasError
from tests.atlas.making import MODEL, SETTINGS, SOURCE, FakePicture
from tests.mining.small_build import NoiseSource, small_build, small_model
from tests.mining.test_resume import digests


class Killed(BaseException):
    """What stands for a kill: nobody catches it, and nothing is written or removed any more."""


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished atlas with a picture and what an analysis has found."""
    atlas = small_build(tmp_path_factory.mktemp("old") / "atlas")
    atlas.add_pictures([FakePicture(f"{atlas.sites[0]}/1", np.zeros((4, 4, 3), np.uint8))])
    (atlas.path / ".pictures.lock").unlink()
    pq.write_table(pa.table({"concept": ["of the old build"]}), atlas.path / "concepts.parquet")
    return atlas.path


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unfinished") / "atlas"
    with pytest.raises(KeyboardInterrupt):
        small_build(out, NoiseSource(fail_at=40))
    return out


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of another build, of one site less, in a folder of its own."""
    return digests(small_build(tmp_path_factory.mktemp("new") / "atlas", k=3, sites=["0"]).path)


def kill_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """From step number `step` on nothing is moved or removed."""
    steps = itertools.count()

    def mortal(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(steps) >= step:
                raise Killed
            return function(*arguments, **named)

        return call

    for name in ("unlink", "rmdir", "replace"):
        patch.setattr(os, name, mortal(getattr(os, name)))


@pytest.mark.parametrize("before", ["old", "unfinished"])
def test_a_clearing_killed_at_any_step_is_finished_by_the_next_build(
    before: str, tmp_path: Path, new: dict[str, str], request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(before)
    model, whole = small_model(), digests(folder)
    for step in itertools.count():
        out = Path(shutil.copytree(folder, tmp_path / f"{step}"))
        with pytest.MonkeyPatch.context() as patch:
            kill_at(step, patch)
            try:
                clear(out, before="", after="")
                break
            except Killed:
                pass
        if (out / MANIFEST).exists():
            shutil.rmtree(out / BUILDING)
            assert digests(out) == whole
            continue
        begun = before == "old" or (out / BUILDING / "clearing").exists()
        small_build(out, k=3, sites=["0"], model=model, overwrite=not begun)
        assert digests(out) == new, step
        assert check(out).sound and check(out).notes == ()
    assert step > (20 if before == "old" else 4)


def test_a_writer_of_its_own_finishes_the_clearing_too(old: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(old, tmp_path / "atlas"))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(5, patch)
        clear(out, before="", after="")
    AtlasWriter(out, model=MODEL, source=SOURCE, settings=SETTINGS).close()
    assert [path.name for path in out.iterdir()] == [BUILDING]


@pytest.mark.parametrize("overwrite", [False, True])
def test_labels_are_not_adopted_by_another_model_after_a_kill(
    old: Path, tmp_path: Path, overwrite: bool
) -> None:
    out = Path(shutil.copytree(old, tmp_path / "atlas"))
    atlas = Atlas.open(out)
    atlas.labels.add(f"{atlas.sites[0]}/1", "stripes", author="a person")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(5, patch)
        small_build(out, k=3, sites=["0"], overwrite=True)
    assert not (out / MANIFEST).exists()
    with pytest.raises(AtlasError, match="labels that people gave to the units of another model"):
        small_build(out, model=small_model(seed=1), overwrite=overwrite)
    again = small_build(out, k=3, sites=["0"])
    assert [label.text for label in again.labels.of(f"{again.sites[0]}/1")] == ["stripes"]


def test_what_cannot_be_removed_is_told_and_tried_again(
    old: Path, tmp_path: Path, new: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(old, tmp_path / "atlas"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", lambda *_, **__: (_ for _ in ()).throw(OSError(16, "Device busy")))
        with pytest.raises(AtlasError, match=r"cannot be overwritten.*Device busy"):
            small_build(out, k=3, sites=["0"], overwrite=True)
    with pytest.raises(AtlasError, match="incomplete"):
        Atlas.open(out)
    small_build(out, k=3, sites=["0"])
    assert digests(out) == new


def test_a_clearing_that_never_began_leaves_the_old_atlas(old: Path, tmp_path: Path) -> None:
    """Killed before the manifest is gone, and then the old settings are asked for again."""
    out, whole = Path(shutil.copytree(old, tmp_path / "atlas")), digests(old)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(1, patch)
        clear(out, before="", after="")
    assert (out / BUILDING / "clearing").exists()
    assert len(small_build(out).pictures()) == 1
    shutil.rmtree(out / BUILDING)
    assert digests(out) == whole
