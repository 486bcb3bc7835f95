"""Folders spoiled in one way each, and what must come of them: FAULTS, by what the fault is.

A fault is a function that spoils a small source in a folder of its own; it comes out `Mined` or `Refused`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from neurolab.data.sources import Record, Source
from tests.data.making import encoded
from tests.mining.faulty_images import ODD, UNREADABLE, saved


@dataclass(frozen=True)
class Mined:
    """These records are mined, as if there were no others; the rest is skipped, for reasons that match.

    notes: by key, a pattern of what is to be said of an image that was mined, but for its captions or labels.
    """

    source: str | Path | Source
    records: Sequence[Record]
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """Nothing is mined, with an error that matches."""

    source: str | Path | Source
    message: str


Fault = Callable[[Path], Mined | Refused]
FAULTS: dict[str, Fault] = {}


def register_in(faults: dict[str, Fault]) -> Callable[[str], Callable[[Fault], Fault]]:
    """A decorator that says what a fault is."""

    def fault(what: str) -> Callable[[Fault], Fault]:
        def register(function: Fault) -> Fault:
            assert what not in faults
            faults[what] = function
            return function

        return register

    return fault


fault = register_in(FAULTS)


def good(*names: str) -> list[Record]:
    """Records of whole images, one for each name; a folder in the name is a label."""
    records = []
    for number, name in enumerate(names):
        parent = name.rpartition("/")[0]
        labels = {"folder": parent, "label": parent} if parent else {}
        records.append(Record(name, encoded(number), labels=labels))
    return records


def put(place: Path, *records: Record) -> list[Record]:
    """Write records into a folder, under their keys."""
    for record in records:
        assert isinstance(record.payload, bytes)
        (place / record.key).parent.mkdir(parents=True, exist_ok=True)
        (place / record.key).write_bytes(record.payload)
    return list(records)


def around(place: Path) -> list[Record]:
    """Whole images before and behind the place of a bad one, m."""
    return put(place, *good("a.jpg", "b.png", "z.jpg"))


def unreadable_image(file: str, data: bytes, reason: str, place: Path) -> Mined:
    (place / file).write_bytes(data)
    return Mined(place, around(place), {file: reason})


def odd_image(file: str, data: bytes, shows: Image.Image, place: Path) -> Mined:
    (place / file).write_bytes(data)
    first, second, last = around(place)
    return Mined(place, [first, second, Record(file, saved(shows)), last])


FAULTS |= {name: partial(unreadable_image, *about) for name, about in UNREADABLE.items()}
FAULTS |= {name: partial(odd_image, *about) for name, about in ODD.items()}


@fault("an empty folder")
def _(place: Path) -> Refused:
    return Refused(place, "no images below it")


@fault("a folder without an image among its files")
def _(place: Path) -> Refused:
    (place / "thesis.tex").write_text("dear")
    return Refused(place, "no images below it")


@fault("a folder of bad images only")
def _(place: Path) -> Refused:
    for name in ("a.jpg", "b.png"):
        (place / name).write_bytes(b"none")
    return Refused(place, r"none of the 2 images of .* can be read \(a.jpg: not an image")


@fault("a link to nothing")
def _(place: Path) -> Mined:
    (place / "m.jpg").symlink_to("nowhere.jpg")
    return Mined(place, around(place), {"m.jpg": "does not exist"})


@fault("links in a circle")
def _(place: Path) -> Mined:
    (place / "m.jpg").symlink_to("n.jpg")
    (place / "n.jpg").symlink_to("m.jpg")
    return Mined(place, around(place), dict.fromkeys(("m.jpg", "n.jpg"), "levels of symbolic links"))


@fault("a folder that holds itself")
def _(place: Path) -> Mined:
    records = put(place, *good("a.jpg", "deep/er/b.jpg"))
    (place / "deep/er/loop").symlink_to(place, target_is_directory=True)
    (place / "again").symlink_to("deep", target_is_directory=True)
    return Mined(place, records)


@fault("a folder named as an image")
def _(place: Path) -> Mined:
    return Mined(place, put(place, *good("m.jpg/in.jpg", "z.jpg")))


@fault("a pipe named as an image, another as its captions")
def _(place: Path) -> Mined:
    os.mkfifo(place / "m.jpg")
    os.mkfifo(place / "a.txt")
    return Mined(place, around(place))


@fault("a disk that fails under a file")
def _(place: Path) -> Mined:
    if sys.platform != "linux":
        pytest.skip("only Linux has a file that is there and always fails to be read")
    (place / "m.jpg").symlink_to("/proc/self/mem")
    return Mined(place, around(place), {"m.jpg": "OSError: .*Input/output error"})


@fault("a file that may not be read")
def _(place: Path) -> Mined:
    if os.getuid() == 0:
        pytest.skip("the superuser may read any file")
    (place / "m.jpg").write_bytes(encoded(5))
    (place / "m.jpg").chmod(0)
    return Mined(place, around(place), {"m.jpg": "Permission denied"})


@fault("names in every script, composed and decomposed, and with signs that change the direction")
def _(place: Path) -> Mined:
    names = [
        "e\u0301.jpg",
        "\u00e9.jpg",
        "日本/語.jpg",
        "שלום.jpg",
        "\u202egpj.jpg",
        "🦊.jpg",
        "🦊\u200d.jpg",
    ]
    records = put(place, *good(*names))
    return Mined(place, sorted(records, key=lambda record: record.key.encode().split(b"/")))


@fault("names made to do harm")
def _(place: Path) -> Mined:
    names = ["-rf.jpg", "a\nb.jpg", "a'; DROP TABLE images; --.jpg", "<script>.jpg", "[red]$(x).jpg", "~.jpg"]
    names += ["%s%n.jpg", "\x1b[2J.jpg"]
    records = put(place, *good(*names))
    return Mined(place, sorted(records, key=lambda record: record.key))


@fault("a name as long as names can be")
def _(place: Path) -> Mined:
    records = put(place, *good("a.jpg", "x" * 251 + ".jpg"))  # too long for a .json beside it
    return Mined(place, records)


@fault("a name that is no UTF-8")
def _(place: Path) -> Mined:
    first, second, last = around(place)
    (place / os.fsdecode(b"caf\xe9.jpg")).write_bytes(encoded(7))
    return Mined(place, [first, second, Record("caf\\xe9.jpg", encoded(7)), last])


def captions(file: str, data: bytes, known: dict[str, object], note: str, place: Path) -> Mined:
    """An image with a spoiled file of captions beside it; `known` is what can still be read."""
    first, *others = around(place)
    (place / file).write_bytes(data)
    notes = {"a.jpg": note} if note else {}
    return Mined(place, [replace(first, **known), *others], notes=notes)  # type: ignore[arg-type]


CAT = {"captions": ("a cat",)}
SIDECARS: dict[str, tuple[str, bytes, dict[str, object], str]] = {
    "captions that are no UTF-8": ("a.txt", b"caf\xe9", {}, "a.txt: not UTF-8 at byte 3"),
    "captions with the mark of their byte order": ("a.txt", "\ufeffa cat".encode(), {**CAT}, ""),
    "captions of nothing": ("a.txt", b" \n\n\t", {}, ""),
    "JSON that breaks off": ("a.json", b'{"captions": ["a', {}, "a.json: not JSON"),
    "JSON that is a list of numbers": ("a.json", b"[1, 2]", {}, "a caption of type int"),
    "JSON without end": ("a.json", b"[" * 100_000, {}, "not JSON .RecursionError"),
    "JSON with a caption of a wrong type": ("a.json", b'{"captions": [1, "a cat"]}', {**CAT}, "of type int"),
    "JSON with a label of a wrong type": ("a.json", b'{"label": {"a": 1}}', {}, "label 'label' of type dict"),
    "half of a surrogate pair": ("a.json", b'{"caption": "a\\ud83e"}', {"captions": ("a?",)}, ""),
}
FAULTS |= {name: partial(captions, *about) for name, about in SIDECARS.items()}
