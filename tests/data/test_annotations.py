"""Captions and labels beside images: every usual form is read, every other one is noted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurolab.data.annotations import CAPTION_KEYS, LABEL_KEYS, Annotation

JSONS = {
    "the usual": ({"captions": ["a", "b"]}, ["a", "b"], {}),
    "one caption": ({"caption": "a cat "}, ["a cat"], {}),
    "COCO": ({"captions": [{"raw": "a", "id": 1}, {"text": "b"}]}, ["a", "b"], {}),
    "labels": (
        {"label": 3, "wnid": "n01", "names": ["x", "y"]},
        [],
        {"label": "3", "wnid": "n01", "names": "x, y"},
    ),
    "a list": (["a", "b"], ["a", "b"], {}),
    "a string": ("a", ["a"], {}),
    "null and empty": ({"captions": None, "caption": "  ", "label": None}, [], {}),
    "other keys": ({"width": 3, "url": "x"}, [], {}),
    "half a surrogate pair": ({"caption": "a\ud800b"}, ["a?b"], {}),
}


@pytest.mark.parametrize("value, captions, labels", JSONS.values(), ids=JSONS.keys())
def test_json(value: object, captions: list[str], labels: dict[str, str]) -> None:
    known = Annotation()
    known.add_json(json.dumps(value).encode(), "x.json")
    assert (known.captions, known.labels, known.notes) == (captions, labels, [])


WRONG = {
    "not JSON": b"{'captions': []}",
    "not UTF-8": b'{"caption": "\xff"}',
    "nested too deep": b"[" * 100_000,
    "a number": b"3",
    "captions of numbers": b'{"captions": [1]}',
    "captions of a wrong type": b'{"captions": 5}',
    "a label of a wrong type": b'{"label": {"a": 1}}',
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_read_is_noted(data: bytes) -> None:
    known = Annotation()
    known.add_json(data, "x.json")
    assert not known.captions
    assert not known.labels
    assert len(known.notes) == 1
    assert known.notes[0].startswith("x.json")


def test_text_and_class() -> None:
    known = Annotation()
    known.add_text("\ufefffirst\r\n\r\n second \n".encode(), "x.txt")
    known.add_class(b" 12\n", "x.cls")
    assert (known.captions, known.labels, known.notes) == (["first", "second"], {"label": "12"}, [])
    known.add_text(b"caf\xe9", "x.txt")
    known.add_class(b"\xe9", "x.cls")
    assert [note.split(":")[0] for note in known.notes] == ["x.txt", "x.cls"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(CAPTION_KEYS + LABEL_KEYS), inner)
    ),
    max_leaves=10,
)


@given(json_values)
def test_any_json_gives_text_that_utf8_can_hold(value: object) -> None:
    known = Annotation()
    known.add_json(json.dumps(value).encode("utf-8", "surrogatepass"), "x.json")
    "".join([*known.captions, *known.labels, *known.labels.values()]).encode("utf-8")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_only_line_ends_part_captions(end: str) -> None:
    odd = "one\u2028two\u2029three\x0bfour\x0cfive\x1csix\x1dseven\x1eeight\x85nine"
    known = Annotation()
    known.add_text(f"first{end}{end}{odd}{end} last {end}".encode(), "x.txt")
    assert (known.captions, known.notes) == (["first", odd, "last"], [])
