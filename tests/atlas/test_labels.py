"""People's labels: kept beside the arrays, by many at once, and never lost."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import tempfile
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from neurolab.atlas import Atlas
from neurolab.atlas.labels import Labels
from neurolab.errors import AtlasError, UnknownSiteError
from tests.atlas.making import MAP_SITE

FORK = multiprocessing.get_context("fork")


def test_labels_are_kept_by_unit(atlas: Atlas) -> None:
    first = atlas.labels.add("layer4.2/1", "  spider ", "ada")
    second = atlas.labels.add(f"{MAP_SITE.name}/1", "web'); DROP TABLE labels; --", "grace")
    third = atlas.labels.add("layer4.2/2", "spider")
    assert atlas.labels.of("layer4.2/1") == atlas.labels.of(f"{MAP_SITE.name}/1") == [first, second]
    assert Atlas.open(atlas.path).labels.all() == [first, second, third]
    assert (first.unit, first.text, first.author, third.author) == (f"{MAP_SITE.name}/1", "spider", "ada", "")
    assert datetime.fromisoformat(first.created).utcoffset() is not None
    assert atlas.labels.remove(first.id) and not atlas.labels.remove(first.id)
    assert atlas.labels.of("layer4.2/1") == [second]
    assert atlas.labels.add("layer4.2/1", "new").id > third.id  # a number is not given twice


def test_reading_makes_no_file(atlas: Atlas) -> None:
    assert atlas.labels.all() == [] == atlas.labels.of("layer4.2/0") and not atlas.labels.remove(1)
    assert not list(atlas.path.glob("*labels*"))


def test_wrong_labels_are_refused(atlas: Atlas) -> None:
    with pytest.raises(AtlasError, match="needs a text"):
        atlas.labels.add("layer4.2/0", " \n")
    with pytest.raises(UnknownSiteError):
        atlas.labels.add("layer4.2/99", "spider")
    assert atlas.labels.all() == []


def test_the_file_is_in_wal_mode_and_has_a_version(tmp_path: Path) -> None:
    Labels(tmp_path / "labels.sqlite").add("a/1", "x")
    connection = sqlite3.connect(tmp_path / "labels.sqlite")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    for use in (lambda s: s.all(), lambda s: s.add("a/1", "y")):
        with pytest.raises(AtlasError, match="newer than this neurolab reads"):
            use(Labels(tmp_path / "labels.sqlite"))


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.sqlite").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(AtlasError, match="not a database"):
        Labels(tmp_path / "labels.sqlite").all()


def add_many(labels: Labels, author: str) -> None:
    for i in range(10):
        labels.add(f"a/{i}", f"label {i}", author)


def test_threads_and_processes_write_at_once(tmp_path: Path) -> None:
    labels = Labels(tmp_path / "labels.sqlite")  # one object for all, and none of them has made the file yet
    workers = [FORK.Process(target=add_many, args=(labels, f"process {i}")) for i in range(4)]
    threads = [threading.Thread(target=add_many, args=(labels, f"thread {i}")) for i in range(4)]
    everybody: list[Any] = [*workers, *threads]
    for worker in everybody:
        worker.start()
    for worker in everybody:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    found = labels.all()
    authors = [f"{kind} {i}" for kind in ("process", "thread") for i in range(4)]
    assert sorted((x.author, x.text) for x in found) == [
        (a, f"label {i}") for a in authors for i in range(10)
    ]
    assert len({x.id for x in found}) == 80


def test_a_failed_write_is_rolled_back(tmp_path: Path) -> None:
    labels = Labels(tmp_path / "labels.sqlite")
    kept = labels.add("a/1", "x")
    with pytest.raises(AtlasError, match="cannot write labels"), labels._connect(write=True) as connection:
        connection.execute("DELETE FROM labels")
        connection.execute("INSERT INTO labels (unit) VALUES (NULL)")
    assert labels.all() == [kept]


def read_only_visit(folder: str, results: Any) -> None:
    """In a child that may not write: what reading and writing give."""
    if os.getuid() == 0:
        os.setuid(65534)  # the superuser may write anywhere
    labels = Labels(Path(folder) / "labels.sqlite")
    try:
        labels.add("a/1", "y")
        outcome = "written"
    except AtlasError as error:
        outcome = str(error)
    results.put(([x.text for x in labels.all()], outcome))


@pytest.mark.parametrize("filled", [True, False])
def test_a_read_only_atlas_is_read_and_says_so_when_written_to(filled: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if filled:
            Labels(Path(folder) / "labels.sqlite").add("a/1", "x")
            assert {p.name for p in Path(folder).iterdir()} <= {
                "labels.sqlite",
                ".labels.lock",
            }  # closed for good
        for path in Path(folder).iterdir():
            path.chmod(0o444)
        Path(folder).chmod(0o555)
        results = FORK.Queue()
        child = FORK.Process(target=read_only_visit, args=(folder, results))
        child.start()
        texts, outcome = results.get(timeout=20)
        child.join()
        Path(folder).chmod(0o755)
    assert texts == (["x"] if filled else [])
    assert "cannot write labels to" in outcome and "read-only" in outcome
