"""WebDataset shards on disk, read by random access through an index of their headers."""

from __future__ import annotations

import tarfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from neurolab.data import patience
from neurolab.data.files import AGAIN, may_come_back, says_nothing_of_the_file
from neurolab.data.hashing import files_hash
from neurolab.data.patience import patiently, read_on
from neurolab.data.samples import UniqueKeys, group_members, printable, sample_record
from neurolab.data.sources import Record, Shard, Source
from neurolab.data.tarfiles import broken_shard, shard_names, tar_members
from neurolab.errors import SourceError

INDEXES_KEPT = 4


@dataclass(frozen=True)
class Place:
    """Where a member's bytes lie in its tar file."""

    offset: int
    size: int


@dataclass
class TarIndex:
    """The samples of a tar shard: for each its key and the place of each member; and what was wrong."""

    keys: list[str] = field(default_factory=list)
    samples: list[dict[str, Place]] = field(default_factory=list)
    problems: dict[int, list[str]] = field(default_factory=dict)
    broken: str | None = None

    def __len__(self) -> int:
        return len(self.keys) + (self.broken is not None)


class TarSource(Source):
    """Uncompressed tar shards on disk (for URLs and compressed tars see TarStreamSource).

    A record's key is its sample's key; with several shards, SHARD/KEY. A key that comes again in a shard gets
    ``~2``. The headers of all shards are read once, when the number of records is first asked for. A shard
    that breaks off gives the samples before the break, and behind them one unreadable record that says so.
    What the disk does is tried again, and then ends the reading with SourceError.
    """

    kind = "webdataset"

    def __init__(self, paths: Sequence[str | Path], location: str | None = None) -> None:
        files = [Path(path) for path in paths]
        self.files = dict(zip(shard_names([str(path) for path in files]), files, strict=True))
        self.location = location if location is not None else ", ".join(str(path) for path in files)
        self._indexes: OrderedDict[str, TarIndex] = OrderedDict()
        self._shards: list[Shard] | None = None
        self._hash: str | None = None

    def shards(self) -> list[Shard]:
        if self._shards is None:
            found, samples, reasons = [], 0, []
            for name in self.files:
                index = self._index(name)  # not held: an index has hundreds of bytes for each record
                found.append(Shard(name, len(index)))
                samples += len(index.keys)
                reasons.append(index.broken or "it has no members")
            if not samples:
                raise SourceError(f"{self.location} has no samples: {reasons[0]}")
            self._shards = found
        return list(self._shards)

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        try:
            once = partial(self._read_once, shard.name, stop=stop)
            yield from read_on(once, start, may_come_back, patience.DISK_WAITS)
        except OSError as error:
            raise self._unreadable(shard.name, error) from error

    def _read_once(self, name: str, start: int, stop: int | None) -> Iterator[Record]:
        index = self._index(name)
        end = len(index) if stop is None else min(stop, len(index))
        prefix = f"{name}/" if len(self.files) > 1 else ""
        with self._open(name) as stream:
            load = _loader(stream)
            for number in range(start, end):
                if number == len(index.keys):
                    yield broken_shard(name, number, index.broken or "")
                else:
                    key = prefix + index.keys[number]
                    yield sample_record(index.samples[number], key, load, index.problems.get(number, ()))

    def content_hash(self) -> str:
        """SHA-256 over the shards' names and bytes."""
        if self._hash is None:
            self._hash = files_hash(self.kind, self.files)
        return self._hash

    def _open(self, name: str) -> Any:
        return self.files[name].open("rb")

    def _unreadable(self, name: str, error: OSError) -> SourceError:
        return SourceError(
            f"cannot open or read the shard {self.files[name]}: {error.strerror}. Bring it back, and {AGAIN}"
        )

    def _index(self, name: str) -> TarIndex:
        """The index of a shard; the last few are kept."""
        if name not in self._indexes:
            once = partial(self._read_index, name)
            try:
                self._indexes[name] = patiently(once, says_nothing_of_the_file, patience.DISK_WAITS)
            except OSError as error:
                raise self._unreadable(name, error) from error
        self._indexes.move_to_end(name)
        while len(self._indexes) > INDEXES_KEPT:
            self._indexes.popitem(last=False)
        return self._indexes[name]

    def _read_index(self, name: str) -> TarIndex:
        with self._open(name) as stream:
            return read_index(stream, self.files[name])


def read_index(stream: Any, path: Path) -> TarIndex:
    """Index a tar file by one scan of its headers. What follows a break is lost; ``broken`` says why."""
    size = path.stat().st_size

    def place(_: tarfile.TarFile, member: tarfile.TarInfo) -> Place:
        if member.offset_data + member.size > size:
            raise tarfile.ReadError("the file ends inside a member")
        return Place(member.offset_data, member.size)

    index = TarIndex()
    breaks: list[str] = []
    problems: list[str] = []
    unique = UniqueKeys()
    for sample in group_members(tar_members(stream, "r:", place, breaks), problems):
        if problems:
            index.problems[len(index.keys)] = list(problems)
            problems.clear()
        index.keys.append(unique(printable(sample["__key__"])))
        index.samples.append({name: found for name, found in sample.items() if isinstance(found, Place)})
    index.broken = breaks[0] if breaks else None
    return index


def _loader(stream: Any) -> Callable[[Place], bytes]:
    def load(place: Place) -> bytes:
        stream.seek(place.offset)
        return bytes(stream.read(place.size))

    return load
