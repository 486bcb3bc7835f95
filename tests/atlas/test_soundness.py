"""What the arrays of an atlas say must hold together, whatever the hashes say: each thing that may not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurolab.atlas import Atlas
from neurolab.atlas.checking import check
from neurolab.atlas.manifest import describe_files, sealed
from neurolab.atlas.writing import read_npz, write_json, write_npz
from tests.atlas.making import make_atlas

SITE = "sites/visual.layer4.2.act3@in"


def put(array: str, place: Any, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[array][place] = value

    return change


LOWEST = {
    "values": np.array([[-9, -8, np.inf]] * 4, np.float32),
    "images": np.array([[4, 7, -1]] * 4),
    "position": np.zeros((4, 3), np.int32),
}
BUCKETS = {
    "edges": np.array([[-2.0, 0, 2]] * 4),
    "counts": np.array([[20, 12]] * 4),
    "concepts": np.zeros((4, 2, 3), np.int64),
    "images": np.array([[[0, 1], [2, -1]]] * 4),
    "values": np.array([[[-2, -1], [0, np.nan]]] * 4, np.float32),
}
ARRAYS: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], Any], str]] = {
    "no such image": ("exemplars", put("images", (2, 1), 32), r"names image 32.*0 to 31 \(unit 2\)"),
    "a negative image": ("exemplars", put("images", (0, 0), -2), "names image -2"),
    "unsorted": ("exemplars", lambda a: a["values"][1].sort(), r"not sorted \(unit 1\)"),
    "not a number": ("exemplars", put("values", (slice(1, 3), 1), np.nan), r"sorted \(unit 1 and 1 more\)"),
    "an image twice": ("exemplars", lambda a: put("images", (0, 1), a["images"][0, 0])(a), "an image twice"),
    "a gap": ("exemplars", put("images", (0, 1), -1), "behind an empty place"),
    "off the grid": ("exemplars", put("position", (0, 0), 15), "outside the grid of 3 x 5"),
    "another maximum": ("exemplars", put("values", (3, 0), 99), "not the maximum"),
    "a lost image": ("statistics", put("histogram", (1, 3), 0), r"does not add up to the count \(unit 1"),
    "too many images": ("statistics", put("count", 1, 33), "more than 32 images"),
    "a negative count": ("statistics", put("histogram", (0, 0), -1), "negative counts"),
    "falling edges": ("statistics", put("edges", (0, 4), -99), "edges that do not rise"),
    "a mean outside": ("statistics", put("mean", 2, 99), "not between minimum and maximum"),
    "a negative sd": ("statistics", put("sd", 2, -1), "negative standard deviation"),
    "lowest unsorted": ("lowest", put("values", (0, 1), -99), "not sorted"),
    "lowest not the least": ("lowest", put("values", (0, 0), -10), "not the minimum"),
    "lowest without image": ("lowest", put("images", (0, 1), 77), "names image 77"),
    "drawn without image": ("buckets", put("images", (0, 1, 0), 77), "names image 77"),
    "in the wrong bucket": ("buckets", put("values", (3, 1, 0), -1), r"outside their bucket \(unit 3\)"),
    "on its bucket's right edge": (
        "buckets",
        put("values", (2, 0, 1), 0),
        r"outside their bucket \(unit 2\)",
    ),
    "more drawn than counted": ("buckets", put("counts", (0, 0), 1), "counts fewer images"),
    "counted twice": ("buckets", put("counts", (0, 0), 21), "counts more images"),
    "an array of another shape": ("statistics", lambda a: a.update(mean=np.zeros(3)), "mean is float64"),
    "an array too few": ("statistics", lambda a: a.pop("mean"), "needs the arrays"),
}


def reseal(folder: Path) -> None:
    """Hash everything anew, as if it had been written as it is."""
    manifest = json.loads((folder / "manifest.json").read_text())
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*.npz")]
    manifest["files"] = describe_files(folder, ["images.parquet", "report.json", *names])
    write_json(folder / "manifest.json", sealed(manifest))


def without_hashes(folder: Path) -> None:
    """As atlases were before there were hashes."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"], manifest["sha256"]
    write_json(folder / "manifest.json", manifest)


@pytest.fixture
def full(atlas: Atlas) -> Path:
    """An atlas with the arrays that one may lack, too."""
    folder = atlas.path / SITE
    change_arrays(folder / "statistics.npz", lambda arrays: arrays["min"].fill(-9))
    write_npz(folder / "lowest.npz", **LOWEST)
    write_npz(folder / "buckets.npz", **BUCKETS)
    reseal(atlas.path)
    return atlas.path


def change_arrays(path: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    arrays = {name: array.copy() for name, array in read_npz(path).items()}
    change(arrays)
    write_npz(path, **arrays)


@pytest.mark.parametrize("damage", ARRAYS)
@pytest.mark.parametrize("hashed", [True, False])
def test_arrays_that_do_not_hold_together_are_found(full: Path, damage: str, hashed: bool) -> None:
    """Whatever wrote them: the hashes are right, or there are none."""
    file, change, message = ARRAYS[damage]
    assert check(full).sound
    change_arrays(full / SITE / f"{file}.npz", change)
    reseal(full)
    if not hashed:
        without_hashes(full)
    findings = check(full).findings
    assert any(finding.file.startswith(SITE) for finding in findings)
    assert re.search(message, "\n".join(finding.problem for finding in findings))


@pytest.mark.parametrize("images", [24, 40])
def test_a_table_of_another_length_is_found(images: int, atlas: Atlas, tmp_path: Path) -> None:
    make_atlas(tmp_path / "other", images)
    shutil.copy(tmp_path / "other" / "images.parquet", atlas.path / "images.parquet")
    reseal(atlas.path)
    problems = [finding.problem for finding in check(atlas.path).findings]
    assert f"has {images} images, and the manifest says 32" in problems
    assert any("but there are images 0 to 23" in problem for problem in problems) == (images == 24)
