"""What is one sample of a WebDataset shard: from the members that share a key to a record.

Members are grouped by the webdataset library's own rules (``webdataset.tariterators``): consecutive members
whose names agree up to the first dot of the last path component are one sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from neurolab.data.annotations import Annotation
from neurolab.data.sources import Record, Unreadable

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "img", "ppm", "pgm")
ANNOTATION_EXTENSIONS = ("json", "txt", "cls")


def group_members(members: Iterable[dict[str, Any]], problems: list[str]) -> Iterator[dict[str, Any]]:
    """Samples from members ``{"fname", "data", "__url__"}``, ``{}`` between shards, by webdataset's rules.

    ``data`` may be anything; a member that webdataset refuses (an extension twice in a sample) is left out
    and named in ``problems``.
    """
    from webdataset.tariterators import group_by_keys

    def note(error: Exception) -> bool:
        problems.append(str(error.args[0]) if error.args else type(error).__name__)
        return True

    return group_by_keys(members, handler=note)


def sample_record(
    sample: Mapping[str, Any], key: str, load: Callable[[Any], bytes], notes: Iterable[str] = ()
) -> Record:
    """The record of a sample: KEY.jpg (or another image), captions of KEY.json and KEY.txt, label of KEY.cls.

    ``load`` turns the value of a member into its bytes. A sample without image gives an unreadable record.
    """
    known = Annotation(notes=list(notes))
    if "txt" in sample:
        known.add_text(load(sample["txt"]), f"{key}.txt")
    if "json" in sample:
        known.add_json(load(sample["json"]), f"{key}.json")
    if "cls" in sample:
        known.add_class(load(sample["cls"]), f"{key}.cls")
    found = [extension for extension in IMAGE_EXTENSIONS if extension in sample]
    if len(found) > 1:
        known.notes.append(f"it has several images, {', '.join(found)}: the first is taken")
    if found:
        payload: bytes | Unreadable = load(sample[found[0]])
    else:
        members = ", ".join(name for name in sample if not name.startswith("__")) or "none"
        payload = Unreadable(f"the sample has no image (its members: {members})")
    return Record(key, payload, tuple(known.captions), known.labels, tuple(known.notes))


class UniqueKeys:
    """Gives each key of a shard once: a key that comes again gets ``~2``, ``~3``, ... (or another `mark`).

    Holds about 100 bytes per key, however long it is. Deterministic only if it sees the shard from its first
    record on.
    """

    def __init__(self, mark: str = "~") -> None:
        self.mark = mark
        self._seen: set[bytes] = set()
        # Of keys that came again, the last number given: what was taken once stays taken.
        self._numbers: dict[bytes, int] = {}

    def __call__(self, key: str) -> str:
        digest = own = _short_hash(key)
        number, candidate = self._numbers.get(own, 1), key
        while digest in self._seen:
            number += 1
            candidate = f"{key}{self.mark}{number}"
            digest = _short_hash(candidate)
        if number > 1:
            self._numbers[own] = number
        self._seen.add(digest)
        return candidate


def _short_hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def printable(name: str) -> str:
    """A member name as text that UTF-8 can hold (tar names may be any bytes), without ``./`` before it."""
    name = name.removeprefix("./")
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
