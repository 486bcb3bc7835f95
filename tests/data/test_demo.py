"""The demo set: enough of everything, the same everywhere, legible; triads and pairs are what they claim."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurolab.data.demo import SECTIONS, DemoSource, is_plain, slug, triads
from neurolab.data.drawings import LabelledDrawing, WordDrawing
from neurolab.data.sources import Record, Shard, Source, open_source
from neurolab.errors import SourceError

# Prints the content hash and a hash of every 97th picture, in a fresh interpreter.
FRESH = """
import hashlib, sys
from neurolab.data.demo import DemoSource
source = DemoSource()
print(source.content_hash())
for record in list(source)[::97]:
    print(record.key, hashlib.sha256(record.payload().tobytes()).hexdigest())
assert "torch" not in sys.modules and "open_clip" not in sys.modules, "the demo set must not import torch"
"""


class Listed(Source):
    """A source of given records, to try what triads() accepts."""

    kind, location = "list", "list"

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def shards(self) -> list[Shard]:
        return [Shard("all", len(self.records))]

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        yield from self.records[start:stop]

    def content_hash(self) -> str:
        return ""


@pytest.fixture(scope="module")
def source() -> DemoSource:
    return DemoSource()


@pytest.fixture(scope="module")
def records(source: DemoSource) -> list[Record]:
    return list(source)


@pytest.fixture(scope="module")
def by_key(records: list[Record]) -> dict[str, Record]:
    return {record.key: record for record in records}


def of_kind(records: list[Record], kind: str) -> list[Record]:
    return [record for record in records if record.labels["kind"] == kind]


def test_enough_of_everything_in_order(source: DemoSource, records: list[Record]) -> None:
    assert [shard.name for shard in source.shards()] == list(SECTIONS)
    kinds = Counter(record.labels["kind"] for record in records)
    assert kinds["drawing"] >= 1500 and kinds["word"] >= 1500 and kinds["photo"] >= 60
    assert kinds["typographic"] >= 600
    assert len(source) == len(records) == sum(kinds.values())
    order = list(dict.fromkeys(record.labels["kind"] for record in records))
    assert order == ["drawing", "word", "photo", "typographic"]


def test_keys_are_unique_and_plain(records: list[Record]) -> None:
    assert len({record.key for record in records}) == len(records)
    assert all(re.fullmatch(r"[\w-]+(/[\w-]+)+", record.key) for record in records)
    keys = {record.key for record in records}
    assert {
        "drawing/red-apple",
        "drawing/flag-of-france",
        "word/apple/00",
        "word/apple/01",
        "photo/cat",
    } <= keys


def test_records_carry_captions_and_labels(records: list[Record]) -> None:
    for record in records:
        assert record.captions and all(caption.strip() for caption in record.captions)
        assert all(isinstance(v, str) for v in record.labels.values())
        assert record.labels["concept"]
    apple = next(record for record in records if record.key == "drawing/red-apple")
    assert apple.captions == ("red apple",) and apple.labels["group"] == "food-drink"
    word = next(record for record in records if record.key == "word/apple/00")
    assert word.captions == ('the word "apple"',) and word.labels["font"]


def test_ranges_are_slices(source: DemoSource) -> None:
    for shard in source.shards():
        whole = list(source.read(shard))
        assert list(source.read(shard, 7, 19)) == whole[7:19]
        assert list(source.read(shard, len(whole) - 2)) == whole[-2:]
    with pytest.raises(SourceError, match="typographic"):
        list(source.read(Shard("faces", 1)))


def test_opens_by_name(source: DemoSource) -> None:
    opened = open_source("demo")
    assert isinstance(opened, DemoSource)
    assert opened.describe() == {
        "kind": "demo", "location": "demo", "hash": source.content_hash(), "size": len(source)
    }  # fmt: skip


def test_payloads_are_small_picklable_values(records: list[Record]) -> None:
    for record in records[::53]:
        data = pickle.dumps(record)
        assert len(data) < 2000
        copy = pickle.loads(data)
        assert copy == record and repr(copy.payload) == repr(record.payload)
        assert "0x" not in repr(record.payload)


def test_the_same_in_a_fresh_process(source: DemoSource, records: list[Record]) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", FRESH]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == source.content_hash()
    here = [f"{r.key} {hashlib.sha256(r.payload().tobytes()).hexdigest()}" for r in records[::97]]  # type: ignore[operator]
    assert lines[1:] == here


def test_content_hash_depends_on_every_record(source: DemoSource, monkeypatch: pytest.MonkeyPatch) -> None:
    import neurolab.data.demo as demo

    expected = source.content_hash()
    sections = {name: demo._section(name) for name in SECTIONS}
    changed = Record(**{**vars(sections["words"][5]), "captions": ("something else",)})
    sections["words"] = (*sections["words"][:5], changed, *sections["words"][6:])
    monkeypatch.setattr(demo, "_section", sections.__getitem__)
    assert demo._content_hash.__wrapped__() != expected
    monkeypatch.undo()
    assert demo._content_hash.__wrapped__() == expected


def test_written_words_are_the_concepts(records: list[Record]) -> None:
    for record in of_kind(records, "word"):
        assert isinstance(record.payload, WordDrawing)
        assert record.payload.word.lower() == record.labels["concept"]
        assert record.payload.font == record.labels["font"]
        assert is_plain(record.labels["concept"])


def test_every_plain_concept_is_written(records: list[Record]) -> None:
    written = {record.labels["concept"] for record in of_kind(records, "word")}
    plain = {r.labels["concept"] for r in of_kind(records, "drawing") if is_plain(r.labels["concept"])}
    assert plain <= written and len(plain) > 1000
    assert {"happy", "london", "blue", "sunday", "jesus"} <= written - plain
    assert is_plain("fire truck")
    assert not any(
        map(is_plain, ("st. lucia", "atm 2", "up arrow", "statue of liberty", "côte", "play button"))
    )


def test_triads_agree_with_the_labels(source: DemoSource, by_key: dict[str, Record]) -> None:
    found = triads(source)
    assert len(found) > 1000 and sum("photo" in kinds for kinds in found.values()) >= 20
    for concept, kinds in found.items():
        assert {"drawing", "word"} <= set(kinds) <= {"drawing", "word", "photo"}
        for kind, keys in kinds.items():
            for key in keys:
                labels = by_key[key].labels
                assert (labels["kind"], labels["concept"], labels["triad"]) == (kind, concept, concept)
    assert found["cat"]["photo"] and "drawing/cat-face" in found["cat"]["drawing"]
    # Nothing that belongs to a triad is left unmarked, and nothing pasted over is a member.
    for record in by_key.values():
        labels = record.labels
        member = labels["kind"] != "typographic" and labels["concept"] in found
        assert ("triad" in labels) == member


def test_a_concept_without_word_or_drawing_is_no_triad() -> None:
    def record(kind: str, concept: str) -> Record:
        return Record(f"{kind}/{concept}", b"", (), {"kind": kind, "concept": concept, "triad": concept})

    given = [
        record("drawing", "cat"),
        record("photo", "cat"),
        record("drawing", "dog"),
        record("word", "dog"),
    ]
    given += [record("word", "sun"), record("photo", "sun"), Record("x", b"", (), {"kind": "word"})]
    assert triads(Listed(given)) == {"dog": {"drawing": ["drawing/dog"], "word": ["word/dog"]}}


def test_typographic_pairs(records: list[Record], by_key: dict[str, Record]) -> None:
    pairs = of_kind(records, "typographic")
    groups = {r.labels["concept"]: r.labels["group"] for r in of_kind(records, "drawing")}
    attacks, controls = pairs[::2], pairs[1::2]
    assert len(attacks) >= 300
    for attack, control in zip(attacks, controls, strict=True):
        labels, clean = attack.labels, by_key[attack.labels["clean"]]
        assert labels["concept"] == clean.labels["concept"] == control.labels["concept"]
        assert control.labels["written"] == "" and control.labels["clean"] == clean.key
        assert labels["written"] not in ("", labels["concept"])
        assert groups[labels["written"]] != labels["group"]
        assert isinstance(attack.payload, LabelledDrawing) and attack.payload.clean == clean.payload
        assert attack.payload.word == labels["written"] and not attack.payload.blank
        assert f'"{labels["written"]}"' in attack.captions[0]
    words = Counter(attack.labels["written"] for attack in attacks)
    assert max(words.values()) == 1 and set(words) <= set(groups)


def test_slugs() -> None:
    assert slug("Flag of Côte d'Ivoire") == "flag-of-côte-d-ivoire"
    assert slug("red  apple!") == "red-apple"
