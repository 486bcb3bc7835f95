"""A folder of images: every image file below it, labelled by the folder it lies in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from neurolab.data.annotations import Annotation
from neurolab.data.files import ListedFile, ask, is_file
from neurolab.data.hashing import MISSING, ContentHash
from neurolab.data.sources import Payload, Record, Shard, Source, Unreadable
from neurolab.data.stamps import remembered, stamp
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
    skipped. Links are followed; a folder that several links lead to is read once, so loops end. A link that
    leads nowhere when the folder is listed is an unreadable record; a file that is gone later, SourceError.
    """

    kind = "folder"

    def __init__(
        self, folder: str | Path, location: str | None = None, files: Iterable[tuple[str, bool]] | None = None
    ) -> None:
        """files: what `files_below` found there, where somebody has looked already."""
        self.folder = Path(folder)
        self.location = location if location is not None else str(folder)
        found = dict(files_below(self.folder, IMAGE_SUFFIXES) if files is None else files)
        self._files = sorted(found, key=_sort_key)
        self._broken = frozenset(name for name, broken in found.items() if broken)
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
        """SHA-256 over the relative names and full contents of images and sidecars, read once, and not again
        while their sizes and times stay as they were (`neurolab.data.stamps`)."""
        if self._hash is None:
            total = ContentHash(self.kind)

            def stamped() -> str | None:
                # What could not be read may be read another time.
                return None if total.missing else stamp(self.kind, self._to_hash())

            self._hash = remembered(stamped, lambda: self._hash_all(total))
        return self._hash

    def _hash_all(self, total: ContentHash) -> str:
        for name in self._files:
            total.add_text(_key(name))
            if name in self._broken:
                total.add_bytes(MISSING)
            else:
                total.add_file(self._listed(self.folder / name))
            for sidecar in self._sidecars(name):
                total.add_text(sidecar.suffix)
                total.add_file(self._listed(sidecar))
        return total.hexdigest()

    def _to_hash(self) -> Iterator[tuple[str, Path]]:
        """What the hash depends on, by name; of links that lead nowhere, the folder in which they do."""
        for name in self._files:
            broken = name in self._broken
            yield f"{_key(name)} {broken}", (self.folder / name).parent if broken else self.folder / name
            yield from ((sidecar.suffix, sidecar) for sidecar in self._sidecars(name))

    def _sidecars(self, name: str) -> list[Path]:
        path = self.folder / name
        return [sidecar for suffix in SIDECAR_SUFFIXES if is_file(sidecar := path.with_suffix(suffix))]

    def _listed(self, path: Path) -> ListedFile:
        return ListedFile(path, self.folder)

    def _record(self, name: str) -> Record:
        known = Annotation()
        parent = _key(name).rpartition("/")[0]
        if parent:
            known.labels = {"folder": parent, "label": parent}
        for sidecar in self._sidecars(name):
            try:
                data = self._listed(sidecar).read()
            except OSError as error:
                known.notes.append(f"{_key(sidecar.name)}: cannot be read ({error.strerror})")
                continue
            add = known.add_text if sidecar.suffix == ".txt" else known.add_json
            add(data, _key(sidecar.name))
        captions, notes = tuple(known.captions), tuple(known.notes)
        payload: Payload = self._listed(self.folder / name)
        if name in self._broken:
            payload = Unreadable("the file does not exist (a broken link)")
        return Record(_key(name), payload, captions, known.labels, notes)


def _key(name: str) -> str:
    """A file name as text that UTF-8 can hold, whatever bytes it has on disk."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _sort_key(name: str) -> tuple[bytes, ...]:
    """Folder by folder, and the same on every file system and in every locale."""
    return tuple(os.fsencode(name).split(b"/"))


def files_below(folder: Path, suffixes: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """POSIX paths of the files below a folder whose names end in one of some suffixes, relative to it, and
    whether each is a link to nowhere.

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
            elif entry.name.lower().endswith(wanted):
                broken = _leads_nowhere(entry)
                if broken or _is_file(entry):
                    yield name, broken


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
        return ask(entry.is_dir, entry.path)
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A file, or what cannot be looked at: a bad image, which the report names. Pipes are neither."""
    try:
        return ask(entry.is_file, entry.path)
    except OSError:
        return True


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """A link to what is not there: a bad image, too."""
    return entry.is_symlink() and not _is_file(entry) and not os.path.exists(entry.path)
