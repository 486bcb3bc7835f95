"""Damage of every kind is found, named, and raises nothing; an atlas that is whole is found whole."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from neurolab.atlas import Atlas
from neurolab.atlas.checking import check
from neurolab.atlas.findings import Report
from neurolab.atlas.pictures import Pictures
from neurolab.atlas.writing import write_json
from neurolab.cli import app
from neurolab.errors import AtlasError
from tests.atlas.making import MAP_SITE, FakePicture, make_atlas
from tests.atlas.test_soundness import without_hashes

SITE = "sites/visual.layer4.2.act3@in"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas with pictures and labels. What a test does to it, it undoes."""
    atlas = make_atlas(tmp_path_factory.mktemp("whole") / "atlas")
    for seed in (0, 1):
        image = np.full((6, 8, 3), 40 * seed, np.uint8)
        atlas.add_pictures([FakePicture(f"{MAP_SITE.name}/1", image, seed=seed)])
    atlas.labels.add(f"{MAP_SITE.name}/1", "spider", "somebody")
    return atlas.path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The same, for a test to do with what it likes."""
    return Path(shutil.copytree(whole, tmp_path / "atlas"))


def recorded(folder: Path) -> list[str]:
    return [*json.loads((folder / "manifest.json").read_text())["files"], "manifest.json"]


@contextmanager
def spoiled(path: Path, data: bytes) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def only_finding(report: Report) -> tuple[str, str, str]:
    (finding,) = report.findings
    assert not report.sound
    return finding.file, finding.problem, finding.remedy


def test_an_atlas_that_is_whole_is_found_whole(whole: Path) -> None:
    report = check(whole)
    assert report.sound and report.findings == () and report.notes == ()
    verified = [whole / name for name in recorded(whole)] + list((whole / "pictures").iterdir())
    assert report.files == len(verified) == 2 + 2 * 3 + 1 + 2
    assert report.bytes == sum(path.stat().st_size for path in verified)
    assert json.loads(json.dumps(report.to_json()))["sound"] is True


@settings(max_examples=70, deadline=None)
@given(st.data())
def test_one_bit_anywhere_is_found(whole: Path, data: st.DataObject) -> None:
    """Of every file that was written with the atlas: arrays, tables, report, manifest."""
    name = data.draw(st.sampled_from(recorded(whole)))
    content = bytearray((whole / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with spoiled(whole / name, bytes(content)):
        report = check(whole)
    assert [finding.file for finding in report.findings] == [name]


def test_one_bit_of_the_manifest_is_found(whole: Path) -> None:
    """At places all over it: names, numbers, hashes, quotes."""
    content = (whole / "manifest.json").read_bytes()
    for place in range(0, len(content), 29):
        flipped = content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
        with spoiled(whole / "manifest.json", flipped):
            assert only_finding(check(whole))[0] == "manifest.json"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_file_cut_anywhere_is_found(whole: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(recorded(whole)))
    content = (whole / name).read_bytes()
    needed = len(content.rstrip()) if name == "manifest.json" else len(content)  # it ends with an empty line
    with spoiled(whole / name, content[: data.draw(st.integers(0, needed - 1))]):
        file, problem, remedy = only_finding(check(whole))
    assert file == name and "build the atlas again" in remedy
    assert name == "manifest.json" or f"was written with {len(content)}" in problem


@settings(max_examples=70, deadline=None)
@given(st.data())
def test_nothing_is_raised_whatever_is_damaged(whole: Path, data: st.DataObject) -> None:
    """Rubbish over any place of any file, those without a hash too, and with or without hashes of others."""
    files = sorted(p for p in whole.rglob("*") if p.is_file() and p.name[0] != "." and p.stat().st_size)
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    rubbish = data.draw(st.binary(min_size=1, max_size=300))
    manifest = json.loads((whole / "manifest.json").read_text())
    older = {name: value for name, value in manifest.items() if name not in ("files", "sha256")}
    with spoiled(whole / "manifest.json", json.dumps(data.draw(st.sampled_from([manifest, older]))).encode()):
        content[start : start + len(rubbish)] = rubbish
        with spoiled(path, bytes(content)):
            assert isinstance(check(whole), Report)


def test_missing_and_foreign_files_are_found(copy: Path) -> None:
    for name in recorded(copy)[:-1]:
        data = (copy / name).read_bytes()
        (copy / name).unlink()
        assert only_finding(check(copy))[:2] == (name, "is missing")
        (copy / name).write_bytes(data)
    for name in (f"{SITE}/surplus.npz", "sites/other/exemplars.npz", "notes.txt"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes(b"")
        assert only_finding(check(copy))[:2] == (name, "is no file of this atlas")
        (copy / name).unlink()
    (copy / ".DS_Store").write_bytes(b"")
    assert check(copy).sound and check(copy).notes == ()


def test_tables_that_the_manifest_does_not_know_are_told(copy: Path) -> None:
    """What analyses have found, of units of this atlas or, left by another build, of others."""
    for unit in (f"{MAP_SITE.name}/1", f"{MAP_SITE.short}/3", None):
        pq.write_table(pa.table({"unit": [unit], "word": ["spider"]}), copy / "words.parquet")
        report = check(copy)
        assert report.sound and "no hash of" in report.notes[0] and "words.parquet" in report.notes[0]
    pq.write_table(pa.table({"word": ["spider"]}), copy / "words.parquet")
    assert check(copy).sound
    for unit in (f"{MAP_SITE.name}/4", "visual.layer9:out/1", "a/1", "spider"):
        pq.write_table(pa.table({"unit": [f"{MAP_SITE.name}/0", unit, unit]}), copy / "words.parquet")
        file, problem, _ = only_finding(check(copy))
        assert file == "words.parquet" and problem == f"names units that this atlas does not have: {unit}"
    (copy / "words.parquet").write_bytes(b"PAR1")
    assert only_finding(check(copy))[0] == "words.parquet"


def test_what_killed_writers_leave_is_noted(copy: Path) -> None:
    (copy / ".building").mkdir()
    (copy / SITE / ".writing-0-exemplars.npz").write_bytes(b"half")
    report = check(copy)
    assert report.sound
    assert [".building" in note for note in report.notes] == [True, False]
    assert report.notes[1].endswith(".writing-*: 1")


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "newer": (lambda m: m.update(format_version=2), r"newer than this neurolab reads.*\| upgrade"),
    "a letter changed": (lambda m: m["model"].update(name="tinx"), "another.*restore"),
    "a hash taken out": (lambda m: m.pop("sha256"), "another"),
    "a file leads elsewhere": (lambda m: m["files"].update({"../x": m["files"]["report.json"]}), "damaged"),
    "files is a list": (lambda m: m.update(files=[]), "damaged"),
    "a hash too short": (lambda m: m["files"]["report.json"].update(sha256="00"), "damaged"),
    "unfinished": (lambda m: m.update(complete=False), "damaged.*build the atlas again"),
}


@pytest.mark.parametrize("damage", MANIFESTS)
def test_a_damaged_manifest_is_found(copy: Path, damage: str) -> None:
    change, message = MANIFESTS[damage]
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    write_json(copy / "manifest.json", manifest)
    file, problem, remedy = only_finding(check(copy))
    assert file == "manifest.json"
    assert re.search(message, f"{problem} | {remedy}")


def test_where_there_is_no_atlas(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(AtlasError, match=r"no atlas at .*neurolab build"):
        check(tmp_path / "nowhere")
    (copy / "manifest.json").unlink()
    assert "is no atlas" in only_finding(check(copy))[1]
    (copy / ".building").mkdir()
    assert "is incomplete" in only_finding(check(copy))[1]


def test_damaged_pictures_are_found(copy: Path) -> None:
    first, second = Atlas.open(copy).pictures()
    other = second.path.read_bytes()
    damages: dict[str, Callable[[], Any]] = {
        "not the one": lambda: first.path.write_bytes(other),  # a whole picture, but not this one
        "is not the one": lambda: first.path.write_bytes(first.path.read_bytes()[:-20]),
        "is missing": first.path.unlink,
    }
    data = first.path.read_bytes()
    for problem, damage in damages.items():
        damage()
        file, found, remedy = only_finding(check(copy))
        assert file == first.file and problem in found and "draw the picture again" in remedy
        first.path.write_bytes(data)
    Image.new("RGB", (4, 4)).save(copy / "pictures" / "unused.png")
    report = check(copy)
    assert report.sound and report.notes == ("files in pictures/ that the table does not name: 1",)
    (copy / "pictures.parquet").write_bytes((copy / "pictures.parquet").read_bytes()[:-9])
    assert only_finding(check(copy))[0] == "pictures.parquet"


@pytest.mark.parametrize("side", ["width", "height"])
def test_a_picture_of_another_size_than_the_table_says_is_found(copy: Path, side: str) -> None:
    path = copy / "pictures.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[1][side] += 1
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    file, problem, remedy = only_finding(check(copy))
    assert file == rows[1]["file"] and "draw the picture again" in remedy
    assert problem.endswith(f"is not {rows[1]['width']} x {rows[1]['height']}")


def test_pictures_of_another_build_are_found(copy: Path) -> None:
    """As an atlas of other sites would have them, whose pictures were not removed."""
    image = np.zeros((4, 4, 3), np.uint8)
    Pictures(copy).add([FakePicture(f"visual.layer9:out/{i}", image, seed=i) for i in range(2)])
    file, problem, remedy = only_finding(check(copy))
    assert file == "pictures.parquet" and "draw the picture again" in remedy
    assert problem == "names units that this atlas does not have: visual.layer9:out/0 and 1 more"


def test_damaged_labels_are_found(copy: Path) -> None:
    path = copy / "labels.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute(
        "DELETE FROM sqlite_schema WHERE name = 'labels_by_unit'"
    )  # its page belongs to nobody
    connection.commit()
    connection.close()
    file, problem, remedy = only_finding(check(copy))
    assert file == "labels.sqlite" and "never used" in problem.lower() and "cannot be made again" in remedy
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    assert "not a database" in only_finding(check(copy))[1]


def test_an_atlas_from_before_there_were_hashes(copy: Path) -> None:
    without_hashes(copy)
    report = check(copy)
    assert report.sound and report.files == 2  # the pictures
    assert "before hashes were kept" in report.notes[0]
    assert len(Atlas.open(copy)) == 32
    path = copy / SITE / "exemplars.npz"
    content = bytearray(path.read_bytes())
    content[content.index(b"\x93NUMPY") + 200] ^= 1
    path.write_bytes(content)
    file, problem, _ = only_finding(check(copy))
    assert file == f"{SITE}/exemplars.npz" and "checksum" in problem
    path.unlink()
    assert "is missing" in only_finding(check(copy))[1]
    (copy / "report.json").write_text("{")
    assert "report.json" in [finding.file for finding in check(copy).findings]


def test_from_the_shell(copy: Path) -> None:
    run = CliRunner().invoke(app, ["check", str(copy)])
    assert run.exit_code == 0 and "nothing is wrong; 11 files" in run.stdout
    (copy / "report.json").write_text("{}")
    (copy / "[red]notes.txt").write_text("")
    run = CliRunner().invoke(app, ["check", str(copy)])
    assert run.exit_code == 1 and "2 things are wrong" in run.stdout
    assert "[red]notes.txt" in run.stdout and "report.json" in run.stdout
    run = CliRunner().invoke(app, ["check", str(copy), "--json"])
    found = json.loads(run.stdout)
    assert run.exit_code == 1 and found["sound"] is False
    assert [finding["file"] for finding in found["findings"]] == ["report.json", "[red]notes.txt"]
