"""Every kind of bad input through a whole build: nothing good is lost, nothing bad goes unsaid.

A good image gives the same values as in a build of the good images alone, a bad one is in report.json with
the reason, and a source that cannot be mined is refused by a SourceError that names the fault. The kinds are
in `faulty_images`, `faulty_sources`, `faulty_archives` and `faulty_tables`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from neurolab.atlas import Atlas
from neurolab.atlas.checking import check
from neurolab.data import patience
from neurolab.data.sources import Record
from neurolab.errors import SourceError
from neurolab.models.zoo import Model
from tests.data.making import MemorySource
from tests.mining import faulty_archives, faulty_sources, faulty_tables
from tests.mining.faulty_images import UNREADABLE
from tests.mining.faulty_sources import Mined, Refused, good, put
from tests.mining.small_build import small_build, small_model


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(patience, "DISK_WAITS", (0.0,))


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


def mined(out: Path, source: object, model: Model, **settings: object) -> Atlas:
    """Every image is an exemplar of every unit, so the atlas has the value of each."""
    given: dict[str, object] = {"k": 32, "batch_size": 2, "checkpoint_seconds": 1e9}
    return small_build(out, source, model, **given | settings)  # type: ignore[arg-type]


def values_of(atlas: Atlas, site: str) -> np.ndarray:
    """[units, images], from the exemplars."""
    arrays = atlas.site(site)
    used = arrays.images >= 0
    assert (used.sum(axis=1) == len(atlas)).all()
    found = np.full((arrays.units, len(atlas)), np.nan, np.float32)
    found[np.nonzero(used)[0], arrays.images[used]] = arrays.values[used]
    return found


def assert_same(atlas: Atlas, clean: Atlas) -> None:
    """The same images, in the same order, with the same values: in other batches, so not to the last bit."""
    everything = range(len(clean))
    assert len(atlas) == len(clean)
    assert atlas.images(everything) == clean.images(everything)
    assert atlas.thumbnails(everything) == clean.thumbnails(everything)
    np.testing.assert_allclose(atlas.image_embeddings(), clean.image_embeddings(), rtol=2e-3, atol=1e-4)
    for site in clean.sites:
        np.testing.assert_allclose(values_of(atlas, site), values_of(clean, site), rtol=1e-5, atol=1e-6)
        for name in ("count", "mean", "sd", "min", "max"):
            ours, theirs = getattr(atlas.site(site), name), getattr(clean.site(site), name)
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def clean_build(out: Path, records: list[Record], model: Model) -> Atlas:
    return mined(out, MemorySource({"images": records}), model)


FAULTS = faulty_sources.FAULTS | faulty_archives.FAULTS | faulty_tables.FAULTS


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault(name: str, tmp_path: Path, model: Model) -> None:
    place, out = tmp_path / "source", tmp_path / "atlas"
    place.mkdir()
    spoiled = FAULTS[name](place)
    if isinstance(spoiled, Refused):
        with pytest.raises(SourceError, match=spoiled.message):
            mined(out, spoiled.source, model)
        assert not out.exists()
        return
    atlas = mined(out, spoiled.source, model)
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["kept"] == len(spoiled.records)
    assert {skip["key"] for skip in report["skipped"]} == spoiled.skipped.keys()
    for skip in report["skipped"]:
        assert re.search(spoiled.skipped[skip["key"]], skip["reason"])
    assert_same(atlas, clean_build(tmp_path / "clean", list(spoiled.records), model))
    assert check(out).sound


def test_so_many_kinds_of_faults_are_shown() -> None:
    """None of them may get lost unnoticed; 25 are the least."""
    assert len(FAULTS) == 78 > 25


def test_what_is_wrong_beside_an_image_is_in_the_report(tmp_path: Path, model: Model) -> None:
    for number, spoil in enumerate(FAULTS.values()):
        place = tmp_path / f"source-{number}"
        place.mkdir()
        with contextlib.suppress(pytest.skip.Exception):
            spoiled = spoil(place)
            if isinstance(spoiled, Mined) and spoiled.notes:
                atlas = mined(tmp_path / f"atlas-{number}", spoiled.source, model)
                notes = json.loads((atlas.path / "report.json").read_text("utf-8"))["notes"]
                assert {note["key"] for note in notes} == spoiled.notes.keys()
                assert all(re.search(spoiled.notes[note["key"]], note["reason"]) for note in notes)


def test_all_bad_images_at_once_in_any_number_of_processes(tmp_path: Path, model: Model) -> None:
    place = tmp_path / "source"
    place.mkdir()
    records = put(place, *good(*(f"{number:02d}-good.jpg" for number in range(len(UNREADABLE)))))
    for number, (name, data, _) in enumerate(UNREADABLE.values()):
        (place / f"{number:02d}-{name}").write_bytes(data)
    files = []
    for workers in (0, 1):
        atlas = mined(tmp_path / f"atlas-{workers}", place, model, workers=workers)
        files.append(
            {p.relative_to(atlas.path): p.read_bytes() for p in atlas.path.rglob("*") if p.is_file()}
        )
    assert files[0] == files[1]
    assert len(json.loads(files[0][Path("report.json")])["skipped"]) == len(UNREADABLE)
    assert_same(atlas, clean_build(tmp_path / "clean", records, model))


def test_the_comparison_tells_a_build_with_one_wrong_image(tmp_path: Path, model: Model) -> None:
    first, second, third = good("a", "b", "c")
    atlas = clean_build(tmp_path / "right", [first, second, third], model)
    for number, wrong in enumerate(
        ([first, third, second], [first, second], [first, second, Record("c", second.payload)])
    ):
        with pytest.raises(AssertionError):
            assert_same(atlas, clean_build(tmp_path / f"{number}", wrong, model))
