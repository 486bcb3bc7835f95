"""Captions and labels as people write them beside images: .txt, .json and .cls, or columns of a table.

What cannot be read is never dropped in silence: it becomes a note on the record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CAPTION_KEYS = ("captions", "caption", "text", "texts", "sentences")
LABEL_KEYS = (
    *("label", "labels", "class", "cls", "class_name", "category", "wnid", "name", "names", "fine_label"),
    *("coarse_label", "concept", "kind", "triad", "written", "clean", "font", "group"),
)


@dataclass
class Annotation:
    """What is known of an image: captions, labels, and notes on what could not be read."""

    captions: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add_text(self, data: bytes, name: str) -> None:
        """Captions from a text file: one a line, empty lines left out."""
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self.notes.append(f"{name}: not UTF-8 at byte {error.start}, its captions are left out")
            return
        # Not splitlines: it also parts a caption at a form feed or at U+2028, which may stand in any text.
        self.captions += [line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip()]

    def add_class(self, data: bytes, name: str) -> None:
        """The label from a .cls file: its text."""
        try:
            text = data.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            self.notes.append(f"{name}: not UTF-8 at byte {error.start}, its label is left out")
            return
        if text:
            self.labels["label"] = text

    def add_json(self, data: bytes, name: str) -> None:
        """Captions and labels from a JSON object (CAPTION_KEYS, LABEL_KEYS); other keys are left alone."""
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            self.notes.append(f"{name}: not JSON ({type(error).__name__}), it is left out")
            return
        if isinstance(found, Mapping):
            self.add_mapping(found, name)
        elif isinstance(found, str | list):
            self.add_captions(found, name)
        else:
            self.notes.append(f"{name}: a JSON {type(found).__name__}, not an object")

    def add_mapping(self, found: Mapping[str, Any], name: str) -> None:
        """Captions and labels from a mapping, by the names of its keys."""
        for key in CAPTION_KEYS:
            if found.get(key) is not None:
                self.add_captions(found[key], f"{name}, {key}")
        for key in LABEL_KEYS:
            if found.get(key) is not None:
                self.add_label(key, found[key], name)

    def add_captions(self, value: Any, name: str) -> None:
        """Captions from a string, a list of strings, or of objects with ``raw`` or ``text`` (as in COCO)."""
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, Sequence):
            self.notes.append(f"{name}: captions of type {type(value).__name__} are left out")
            return
        for item in values:
            text = item.get("raw", item.get("text")) if isinstance(item, Mapping) else item
            if isinstance(text, str):
                self.captions += [_clean(text)] if text.strip() else []
            else:
                self.notes.append(f"{name}: a caption of type {type(text).__name__} is left out")

    def add_label(self, key: str, value: Any, name: str) -> None:
        """A label from a string or number; a list of them is joined with commas; other types are noted."""
        values = value if isinstance(value, list | tuple) else [value]
        if values and all(isinstance(item, str | int | float) for item in values):
            self.labels[key] = ", ".join(_clean(str(item)) for item in values)
        elif values:
            self.notes.append(f"{name}: label {key!r} of type {type(values[0]).__name__} is left out")


def _clean(text: str) -> str:
    """Text that UTF-8 can hold: JSON may carry halves of surrogate pairs."""
    return text.strip().encode("utf-8", "replace").decode("utf-8")
