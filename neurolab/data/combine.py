"""Sources made of sources: several one after another, and the first records of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import PurePath

from neurolab.data.hashing import ContentHash, records_hash
from neurolab.data.samples import UniqueKeys
from neurolab.data.sources import Record, Shard, Source
from neurolab.errors import SourceError


class ConcatSource(Source):
    """The records of several sources, one source after another.

    Keys and shard names get the name of their part before them, NAME/KEY, where NAME is the last folder or
    file stem of its location (NAME-2, NAME-3 for parts of the same name), so that they stay unique.
    """

    kind = "several"

    def __init__(self, parts: Sequence[Source]) -> None:
        if not parts:
            raise SourceError("no sources were given: name at least one")
        unique = UniqueKeys("-")
        self.parts = {unique(_stem(part.location)): part for part in parts}
        self.location = ", ".join(part.location for part in parts)
        self.remote = any(part.remote for part in parts)

    def shards(self) -> list[Shard]:
        return [
            replace(shard, name=f"{name}/{shard.name}")
            for name, part in self.parts.items()
            for shard in part.shards()
        ]

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        # Part names hold no slash, so the first slash ends them.
        name, _, inner = shard.name.partition("/")
        for record in self.parts[name].read(replace(shard, name=inner), start, stop):
            yield replace(record, key=f"{name}/{record.key}", labels=_prefixed(record.labels, name))

    def content_hash(self) -> str:
        total = ContentHash(self.kind)
        for name, part in self.parts.items():
            total.add_text(name)
            total.add_text(part.content_hash())
        return total.hexdigest()


class LimitedSource(Source):
    """The first ``count`` records of a source.

    Its content hash is over these records alone, whatever follows them; for records that are drawn, and for
    sources behind a network, which would be fetched twice, over the whole source's hash and the count.
    """

    def __init__(self, source: Source, count: int) -> None:
        if count < 1:
            raise SourceError(f"the limit of a source is at least 1 image, not {count}")
        self.source, self.count = source, count
        self.kind, self.location, self.remote = source.kind, source.location, source.remote
        self._counted: dict[str, int] = {}
        # What is left of the limit before each shard, as far as that was asked.
        self._left = {0: count}
        self._begun: dict[str, int] = {}
        self._hash: str | None = None

    def shards(self) -> list[Shard]:
        taken: list[Shard] = []
        left: int | None = self.count
        for shard in self._every:
            if left == 0:
                break
            # Behind a stream of unknown length nobody knows what is left before it is read.
            known = None if left is None or shard.size is None else min(shard.size, left)
            left = None if left is None or known is None else left - known
            taken.append(replace(shard, size=known))
        return taken

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        end = self._records_of(shard)
        if stop is not None:
            end = min(end, stop)
        if start >= end:
            return
        number = start
        for record in self.source.read(shard, start, end):
            yield record
            number += 1
        # Where nothing was read, the start may lie past the shard's end, and then says nothing of its length.
        ended = number < end and (number > start or start <= self._begun.get(shard.name, 0))
        if ended or (stop is None and number == end):
            self._counted[shard.name] = number

    def content_hash(self) -> str:
        if self._hash is None:
            found = None if self.remote else records_hash(self.kind, self)
            if found is None:
                total = ContentHash(f"the first {self.count}")
                total.add_text(self.source.content_hash())
                found = total.hexdigest()
            self._hash = found
        return self._hash

    @cached_property
    def _every(self) -> list[Shard]:
        return self.source.shards()

    @cached_property
    def _places(self) -> dict[str, int]:
        return {shard.name: place for place, shard in enumerate(self._every)}

    def recall(self, counted: Mapping[str, int], begun: Mapping[str, int]) -> None:
        self._counted |= counted
        self._begun |= begun

    def _records_of(self, shard: Shard) -> int:
        """How many records of a shard lie within the limit, at most; streams before it are counted."""
        if shard.name not in self._places:
            raise SourceError(f"{self.location} has no shard {shard.name!r}")
        place = self._places[shard.name]
        for before in range(len(self._left) - 1, place):
            left = self._left[before]
            self._left[before + 1] = left and max(0, left - self._count(self._every[before], left))
        size = self._every[place].size
        return self._left[place] if size is None else min(self._left[place], size)

    def _count(self, shard: Shard, most: int) -> int:
        if shard.size is not None:
            return shard.size
        if shard.name not in self._counted:
            self._counted[shard.name] = sum(1 for _ in islice(self.source.read(shard, 0, most), most))
        return self._counted[shard.name]


def _stem(location: str) -> str:
    location = location.removeprefix("folder:")
    name = PurePath(location.rstrip("/")).name or location
    return PurePath(name).stem.replace("/", "-") or "source"


def _prefixed(labels: dict[str, str], name: str) -> dict[str, str]:
    """Labels that hold the key of another record (`clean` of a typographic pair) go on naming it."""
    return {**labels, "clean": f"{name}/{labels['clean']}"} if "clean" in labels else labels
