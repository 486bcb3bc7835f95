"""The records of a source that carry certain labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice

from neurolab.data.hashing import ContentHash
from neurolab.data.sources import Record, Shard, Source

_SELECTION = re.compile(r"(?P<source>.+)\[(?P<label>[\w .-]+?)(?P<sign>!?=)(?P<patterns>[^\[\]]+)\]")


@dataclass(frozen=True)
class Selection:
    """What a label, or "key", must be: one of `patterns` (* and ? stand for anything), or none of them."""

    label: str
    patterns: tuple[str, ...]
    wanted: bool = True

    def fits(self, record: Record) -> bool:
        """Whether a record is meant. One without the label is like none of the patterns."""
        value = record.key if self.label == "key" else record.labels.get(self.label)
        found = value is not None and any(fnmatchcase(value, pattern) for pattern in self.patterns)
        return found == self.wanted

    def __str__(self) -> str:
        return f"[{self.label}{'=' if self.wanted else '!='}{'|'.join(self.patterns)}]"


def split_selection(spec: str) -> tuple[str, Selection] | None:
    """ "demo[kind=word|photo]" as ("demo", its selection); None where nothing is selected."""
    found = _SELECTION.fullmatch(spec)
    if found is None:
        return None
    patterns = tuple(part.strip() for part in found["patterns"].split("|"))
    return found["source"], Selection(found["label"], patterns, found["sign"] == "=")


class SelectedSource(Source):
    """The records of a source that a selection fits, in their order; their shards are those of the source.

    How many there are is known only after reading.
    """

    def __init__(self, source: Source, selection: Selection) -> None:
        self.source, self.selection = source, selection
        self.kind, self.location = source.kind, f"{source.location}{selection}"
        self.remote = source.remote

    def shards(self) -> list[Shard]:
        return [replace(shard, size=None) for shard in self.source.shards()]

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        records = self.source.read(replace(shard, size=None))
        yield from islice(filter(self.selection.fits, records), start, stop)

    def content_hash(self) -> str:
        total = ContentHash(f"selected {self.selection}")
        total.add_text(self.source.content_hash())
        return total.hexdigest()
