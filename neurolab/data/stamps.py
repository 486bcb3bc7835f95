"""Hashes of files that were read before: to read a large source takes as long as to mine it.

A stamp is over what a file system says of files, and not over their content: it changes when one of them is
written, replaced or touched, and when it lies elsewhere. Under the stamp of some files their hash is kept, in
``~/.cache/neurolab`` or where NEUROLAB_CACHE says (empty: nowhere). What cannot be kept is computed again.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

RECIPE = 1  # goes up when hashes are made in another way
YOUNG_SECONDS = 60.0
"""A file that was changed no longer ago may be changed again without a trace in its times: a page that is
written through a memory map leaves none until the system has put it on the disk, half a minute later."""


def stamp(kind: str, files: Iterable[tuple[str, Path]]) -> str | None:
    """SHA-256 over the names, numbers, sizes and times of change of files; None where one is not there, or
    too young to be told apart from itself."""
    digest = hashlib.sha256(f"{kind} {RECIPE}".encode())
    now = time.time_ns()
    for name, path in files:
        try:
            status = path.stat()
        except (OSError, ValueError):
            return None
        times = status.st_mtime_ns, status.st_ctime_ns
        if max(times) > now - YOUNG_SECONDS * 1e9:
            return None
        numbers = status.st_dev, status.st_ino, status.st_size, *times
        digest.update(repr((name, numbers)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def remembered(stamp: Callable[[], str | None], compute: Callable[[], str]) -> str:
    """The hash that was computed when the stamp was the same, or else what `compute` gives, which is kept for
    the next time where the stamp stays the same meanwhile."""
    folder = _folder()
    before = None if folder is None else stamp()
    if before is None or folder is None:
        return compute()
    path = folder / before
    with suppress(OSError, UnicodeDecodeError):
        if re.fullmatch(r"[0-9a-f]{64}", kept := path.read_text("ascii")):
            return kept
    found = compute()
    if stamp() == before:
        with suppress(OSError):
            _write(path, found)
    return found


def _folder() -> Path | None:
    given = os.environ.get("NEUROLAB_CACHE")
    if given is not None:
        return Path(given, "sources") if given else None
    try:
        return Path.home() / ".cache" / "neurolab" / "sources"
    except RuntimeError:
        return None


def _write(path: Path, text: str) -> None:
    """Write a file whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(number, "w") as stream:
            stream.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
