"""Hashes of what a source holds: SHA-256, blind to where it lies and when it was written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from neurolab.data.sources import Record, Unreadable
from neurolab.errors import SourceError

CHUNK = 1 << 20


class ContentHash:
    """SHA-256 over a sequence of parts, each preceded by its length, so that no two sequences collide."""

    def __init__(self, kind: str) -> None:
        self._digest = hashlib.sha256()
        self.add_text(kind)

    def add_bytes(self, data: bytes) -> None:
        self._digest.update(len(data).to_bytes(8, "little"))
        self._digest.update(data)

    def add_text(self, text: str) -> None:
        self.add_bytes(text.encode("utf-8", "surrogatepass"))

    def add_file(self, path: Path) -> None:
        """The content of a file, read in pieces; a file that cannot be opened counts as missing."""
        try:
            digest = file_hash(path)
        except OSError:
            digest = b"missing"
        self.add_bytes(digest)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def file_hash(path: Path) -> bytes:
    """SHA-256 of a file's bytes, in constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.digest()


def files_hash(kind: str, files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 over names and full contents of files that must be there: shards, tables."""
    total = ContentHash(kind)
    for name, path in files:
        total.add_text(name)
        try:
            total.add_bytes(file_hash(path))
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}. Was it moved or removed?") from error
    return total.hexdigest()


def records_hash(kind: str, records: Iterable[Record]) -> str | None:
    """SHA-256 over keys, captions, labels and image bytes of records; None when one is drawn by a call."""
    total = ContentHash(kind)
    for record in records:
        for text in (record.key, repr(record.captions), repr(sorted(record.labels.items()))):
            total.add_text(text)
        if isinstance(record.payload, bytes):
            total.add_bytes(record.payload)
        elif isinstance(record.payload, Path):
            total.add_file(record.payload)
        elif isinstance(record.payload, Unreadable):
            total.add_text("unreadable")
            total.add_text(record.payload.reason)
        else:
            return None
    return total.hexdigest()
