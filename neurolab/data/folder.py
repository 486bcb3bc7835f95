"""A folder of images: every image file below it, labelled by the folder it lies in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from neurolab.data.annotations import Annotation
from neurolab.data.hashing import ContentHash
from neurolab.data.sources import Record, Shard, Source
from neurolab.errors import SourceError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif"),
    *(".bmp", ".tif", ".tiff", ".ppm", ".pgm"),
)
SIDECAR_SUFFIXES = (".txt", ".json")
SHARD_SIZE = 1000


class FolderSource(Source):
    """The image files below a folder in sorted order, in shards of 1,000.

    Keys are POSIX paths relative to the folder; bytes of a name that are not UTF-8 are written as ``\\xNN``.
    The labels ``folder`` and ``label`` are the relative path of a file's folder; files at the top have none.
    Captions and more labels come from NAME.txt and NAME.json beside NAME.jpg. Hidden files and folders are
    skipped. Links are followed; a folder that several links lead to is read once, so loops end.
    """

    kind = "folder"

    def __init__(
        self, folder: str | Path, location: str | None = None, files: Iterable[str] | None = None
    ) -> None:
        """files: what `files_below` found there, where somebody has looked already."""
        self.folder = Path(folder)
        self.location = location if location is not None else str(folder)
        found = files_below(self.folder, IMAGE_SUFFIXES) if files is None else files
        self._files = sorted(found, key=_sort_key)
        if not self._files:
            raise SourceError(
                f"{folder} has no images below it: neurolab reads {', '.join(sorted(IMAGE_SUFFIXES))}, "
                "tar shards (.tar, .tar.gz, ...) and Parquet tables (.parquet)"
            )
        self._hash: str | None = None

    def shards(self) -> list[Shard]:
        count = len(self._files)
        return [
            Shard(f"images-{start // SHARD_SIZE:06d}", min(SHARD_SIZE, count - start))
            for start in range(0, count, SHARD_SIZE)
        ]

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        first = int(shard.name.rpartition("-")[2]) * SHARD_SIZE
        files = self._files[first : min(first + SHARD_SIZE, len(self._files))]
        for name in files[start:stop]:
            yield self._record(name)

    def content_hash(self) -> str:
        """SHA-256 over the relative names and full contents of images and sidecars, read once."""
        if self._hash is None:
            total = ContentHash(self.kind)
            for name in self._files:
                total.add_text(_key(name))
                total.add_file(self.folder / name)
                for sidecar in self._sidecars(name):
                    total.add_text(sidecar.suffix)
                    total.add_file(sidecar)
            self._hash = total.hexdigest()
        return self._hash

    def _sidecars(self, name: str) -> list[Path]:
        path = self.folder / name
        sidecars = (path.with_suffix(suffix) for suffix in SIDECAR_SUFFIXES)
        # Path.is_file raises where the name is too long for a file.
        return [sidecar for sidecar in sidecars if os.path.isfile(sidecar)]

    def _record(self, name: str) -> Record:
        known = Annotation()
        parent = _key(name).rpartition("/")[0]
        if parent:
            known.labels = {"folder": parent, "label": parent}
        for sidecar in self._sidecars(name):
            try:
                data = sidecar.read_bytes()
            except OSError as error:
                known.notes.append(f"{_key(sidecar.name)}: cannot be read ({error.strerror})")
                continue
            add = known.add_text if sidecar.suffix == ".txt" else known.add_json
            add(data, _key(sidecar.name))
        captions, notes = tuple(known.captions), tuple(known.notes)
        return Record(_key(name), self.folder / name, captions, known.labels, notes)


def _key(name: str) -> str:
    """A file name as text that UTF-8 can hold, whatever bytes it has on disk."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _sort_key(name: str) -> tuple[bytes, ...]:
    """Folder by folder, and the same on every file system and in every locale."""
    return tuple(os.fsencode(name).split(b"/"))


def files_below(folder: Path, suffixes: Sequence[str]) -> Iterator[str]:
    """POSIX paths of the files below a folder whose names end in one of some suffixes, relative to it.

    Real folders are walked first and linked ones after them, each real folder once: a loop of links ends, and
    what can be reached without a link is named without it.
    """
    wanted = tuple(suffixes)
    seen: set[tuple[int, int]] = set()
    linked: list[str] = []
    pending = [""]
    while pending or linked:
        relative = pending.pop() if pending else linked.pop(0)
        for entry in _entries(folder / relative, seen):
            if entry.name.startswith("."):
                continue
            name = f"{relative}/{entry.name}" if relative else entry.name
            if _is_folder(entry):
                (linked if entry.is_symlink() else pending).append(name)
            elif entry.name.lower().endswith(wanted) and _is_file_or_broken(entry):
                yield name


def _entries(folder: Path, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    """What lies in a folder, in order; nothing if the folder was seen before."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return []
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise SourceError(f"cannot list {folder}: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file_or_broken(entry: os.DirEntry[str]) -> bool:
    """A file, or a link that leads nowhere: a bad image, which the report names. Pipes are neither."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True
