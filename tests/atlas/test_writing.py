"""Files are written once or not at all, under names that any file system keeps apart."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurolab.atlas import writing
from neurolab.errors import AtlasError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_error_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    writing.atomic_write_bytes(target, b"old")
    with pytest.raises(RuntimeError, match="disk full"), writing.atomic_path(target) as temporary:
        temporary.write_bytes(b"half of the new")
        raise RuntimeError("disk full")
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


def test_a_reader_sees_the_old_file_until_the_end(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    with writing.atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
        assert temporary.parent == target.parent  # else the rename would not be atomic
    assert target.read_bytes() == b"new"


def test_an_open_reader_keeps_the_file_it_opened(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    writing.atomic_write_bytes(target, b"old")
    with open(target, "rb") as file:
        writing.atomic_write_bytes(target, b"new!")
        assert file.read() == b"old"


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    code = f"""
import os, signal
from neurolab.atlas.writing import atomic_path
with atomic_path({str(target)!r}) as temporary:
    temporary.write_bytes(b"half of the new")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    assert len(names(tmp_path)) == 2  # the leftover does not pass for a file of the atlas ...
    writing.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["file.bin"]  # ... and the next writer clears it


def test_a_failing_rename_is_reported_and_cleaned_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        writing.atomic_write_bytes(tmp_path / "file.bin", b"new")
    assert names(tmp_path) == []


def test_the_bytes_are_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace

    def record(name: str, function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            calls.append(name)
            function(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", record("fsync", sync))
    monkeypatch.setattr(os, "replace", record("replace", replace))
    writing.atomic_write_bytes(tmp_path / "file.bin", b"new")
    assert calls == ["fsync", "replace", "fsync"]  # the file, the rename, the folder


def test_json_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    writing.write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": {"ü": None, "c": True}})
    writing.write_json(tmp_path / "b.json", {"a": {"c": True, "ü": None}, "b": [1, 2.5]})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert "ü".encode() in (tmp_path / "a.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        writing.write_json(tmp_path / "a.json", {"a": float("nan")})


def test_sha256_of_a_file(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "file.bin").write_bytes(data)
    assert writing.sha256_file(tmp_path / "file.bin") == hashlib.sha256(data).hexdigest()


def test_a_held_lock_makes_others_wait_or_refuses_them(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with writing.locked(tmp_path / "lock"):
            order.append("second")

    with writing.locked(tmp_path / "lock"):
        with (
            pytest.raises(AtlasError, match="another process"),
            writing.locked(tmp_path / "lock", wait=False),
        ):
            raise AssertionError("two hold one lock")
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


HOSTILE = [
    "visual.layer4.2.act3:in", "a", "A", "aA", "Aa", ".", "..", "...", "../../etc/passwd", "/", "\\", "a/b",
    "a b", "con", "CON", "nul.out:in", "com1:in", "trailing.", "trailing ", "%41", "%", "@", ":", "#0:in",
    "ü", "u\u0308", "\x00", "~",
    "name\nline", "-rf", "*?\"<>|", "\udcff", "😀" * 10,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_site_names_have_safe_folders(name: str, tmp_path: Path) -> None:
    folder = writing.site_folder(name)
    assert writing.site_name(folder) == name
    assert folder == folder.lower() and folder.isascii() and folder.isprintable()
    assert not set(folder) & set('/\\:*?"<>| \0') and folder[0] != "." and folder[-1] not in ". "
    assert folder.split(".")[0] not in {"con", "nul", "com1"}
    (tmp_path / folder).mkdir()
    assert names(tmp_path) == [folder]


def test_hostile_site_names_stay_apart() -> None:
    assert len({writing.site_folder(name) for name in HOSTILE}) == len(HOSTILE)


@given(st.text(min_size=1, max_size=15))
def test_any_site_name_comes_back(name: str) -> None:
    assert writing.site_name(writing.site_folder(name)) == name


@given(st.text("aA.:%@é", min_size=1, max_size=6), st.text("aA.:%@é", min_size=1, max_size=6))
def test_folders_that_a_file_system_confuses_are_of_one_site(first: str, second: str) -> None:
    if writing.site_folder(first).lower() == writing.site_folder(second).lower():
        assert first == second


@pytest.mark.parametrize("name", ["", "x" * 241, "X" * 81])
def test_names_that_no_folder_can_have_are_refused(name: str) -> None:
    with pytest.raises(AtlasError, match="cannot have a folder"):
        writing.site_folder(name)
