"""Hashes of what a source holds: SHA-256, blind to where it lies and when it was written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from neurolab.data import patience
from neurolab.data.files import AGAIN, ListedFile, says_nothing_of_the_file
from neurolab.data.patience import patiently
from neurolab.data.remote import Remote
from neurolab.data.sources import Record, Unreadable
from neurolab.data.stamps import remembered, stamp
from neurolab.errors import SourceError

CHUNK = 1 << 20
MISSING = b"missing"


class ContentHash:
    """SHA-256 over a sequence of parts, each preceded by its length, so that no two sequences collide.

    missing: whether a file among them could not be read.
    """

    def __init__(self, kind: str) -> None:
        self.missing = False
        self._digest = hashlib.sha256()
        self.add_text(kind)

    def add_bytes(self, data: bytes) -> None:
        self._digest.update(len(data).to_bytes(8, "little"))
        self._digest.update(data)

    def add_text(self, text: str) -> None:
        self.add_bytes(text.encode("utf-8", "surrogatepass"))

    def add_file(self, file: Path | ListedFile) -> None:
        """The content of a file, read in pieces; one that alone cannot be read counts as missing."""
        try:
            digest = file_hash(file) if isinstance(file, Path) else file.apply(file_hash)
        except OSError:
            self.missing, digest = True, MISSING
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


def files_hash(kind: str, files: Mapping[str, Path]) -> str:
    """SHA-256 over names and full contents of files that must be there: shards, tables. They are not read
    again while their sizes and times stay as they were (`neurolab.data.stamps`)."""
    return remembered(lambda: stamp(kind, files.items()), lambda: _hash_files(kind, files))


def _hash_files(kind: str, files: Mapping[str, Path]) -> str:
    total = ContentHash(kind)
    for name, path in files.items():
        total.add_text(name)
        try:
            digest = patiently(partial(file_hash, path), says_nothing_of_the_file, patience.DISK_WAITS)
        except OSError as error:
            what = f"cannot read {path}: {error.strerror}. Was it moved or removed?"
            raise SourceError(f"{what} Bring it back, and {AGAIN}") from error
        total.add_bytes(digest)
    return total.hexdigest()


def records_hash(kind: str, records: Iterable[Record]) -> str | None:
    """SHA-256 over keys, captions, labels and image bytes of records; None when one is drawn by a call.

    Of an image behind a URL, over that: it would be fetched twice.
    """
    total = ContentHash(kind)
    for record in records:
        for text in (record.key, repr(record.captions), repr(sorted(record.labels.items()))):
            total.add_text(text)
        if isinstance(record.payload, bytes):
            total.add_bytes(record.payload)
        elif isinstance(record.payload, Path | ListedFile):
            total.add_file(record.payload)
        elif isinstance(record.payload, Unreadable):
            total.add_text("unreadable")
            total.add_text(record.payload.reason)
        elif isinstance(record.payload, Remote):
            total.add_text("behind a URL")
            total.add_text(record.payload.url)
        else:
            return None
    return total.hexdigest()
