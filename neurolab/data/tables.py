"""Images in tables: which columns hold the image, its captions and labels, and a row as a record.

The columns are found by the Hugging Face features in the schema's metadata where there are some, else by
their names and Arrow types.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurolab.data.annotations import CAPTION_KEYS, LABEL_KEYS, Annotation
from neurolab.data.files import AGAIN, ListedFile, is_file, problem_of_listing
from neurolab.data.remote import Remote
from neurolab.data.samples import UniqueKeys
from neurolab.data.sources import Payload, Record, Unreadable
from neurolab.errors import SourceError

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "bytes")
KEY_NAMES = ("__key__", "key", "file_name", "filename")


@dataclass(frozen=True)
class Columns:
    """The columns of a table that neurolab reads; ``classes`` are the names behind ClassLabel numbers."""

    image: str
    path_in_image: bool
    key: str | None = None
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    classes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """All of them, as pyarrow's readers take them."""
        key = [self.key] if self.key else []
        return list(dict.fromkeys([self.image, *key, *self.captions, *self.labels]))

    @property
    def key_names(self) -> list[str]:
        """Those that a row's key is made of: to read keys without the images."""
        return ([f"{self.image}.path"] if self.path_in_image else []) + ([self.key] if self.key else [])


def find_columns(schema: Any, where: str) -> Columns:
    """The columns of a pyarrow schema; SourceError, naming the columns, where none holds images."""
    features = _features(schema)
    image = _image_column(schema, features)
    if image is None:
        raise SourceError(
            f"{where} has no image column among {', '.join(schema.names) or 'no columns'}: neurolab reads "
            f"columns of Hugging Face Image type (a struct of bytes and path), or of bytes named "
            f"{', '.join(IMAGE_NAMES)}"
        )
    rest = [name for name in schema.names if name != image]
    classes = {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and "names" in feature
    }
    return Columns(
        image,
        path_in_image=_struct_has(schema.field(image).type, "path"),
        key=next((name for name in KEY_NAMES if name in rest and _is_text(schema.field(name).type)), None),
        captions=tuple(name for name in CAPTION_KEYS if name in rest),
        labels=tuple(name for name in rest if name in LABEL_KEYS or name in classes),
        classes=classes,
    )


def _features(schema: Any) -> dict[str, Any]:
    """The Hugging Face features that the schema's metadata declares, as JSON."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _image_column(schema: Any, features: Mapping[str, Any]) -> str | None:
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    def is_image(kind: Any) -> bool:
        # Where all images are behind their paths, the type of the bytes is null.
        part = kind.field("bytes").type if _struct_has(kind, "bytes") else pa.string()
        return holds_bytes(part) or (pa.types.is_null(part) and _struct_has(kind, "path"))

    declared, structs, named = [], [], []
    for column in schema:
        feature = features.get(column.name)
        if isinstance(feature, dict) and feature.get("_type") == "Image":
            declared.append(column.name)
        elif is_image(column.type):
            structs.append(column.name)
        elif holds_bytes(column.type) and column.name in IMAGE_NAMES:
            named.append(column.name)
    found = declared or structs or named
    return min(found, key=lambda name: _rank(name, found), default=None)


def _rank(name: str, found: list[str]) -> tuple[int, int]:
    """Of several image columns the best named one, else the first."""
    return IMAGE_NAMES.index(name) if name in IMAGE_NAMES else len(IMAGE_NAMES), found.index(name)


def _struct_has(kind: Any, name: str) -> bool:
    import pyarrow as pa

    return pa.types.is_struct(kind) and kind.get_field_index(name) >= 0


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


@dataclass(frozen=True)
class BrokenRow:
    """A row of a table that cannot be read."""

    reason: str


class RowReader:
    """Turns the rows of a shard into records with unique keys; must see its keys from its first row on.

    A row's key is its image's ``path``, else a text column of KEY_NAMES, else its number.
    """

    def __init__(self, columns: Columns, prefix: str, folder: Path | None) -> None:
        self.columns, self.prefix, self.folder = columns, prefix, folder
        self._unique = UniqueKeys()
        self._row = 0

    def skip(self, row: Mapping[str, Any] | BrokenRow) -> str:
        """Count a row (only its key columns are needed) and give its key."""
        if isinstance(row, BrokenRow):
            row = {}
        image = row.get(self.columns.image)
        path = image.get("path") if isinstance(image, Mapping) else None
        named = row.get(self.columns.key) if self.columns.key else None
        key = _key_of(path) or (str(named) if named else f"{self._row:06d}")
        self._row += 1
        return self.prefix + self._unique(key)

    def read(self, row: Mapping[str, Any] | BrokenRow) -> Record:
        """The record of a row."""
        key = self.skip(row)
        if isinstance(row, BrokenRow):
            return Record(key, Unreadable(row.reason))
        known = Annotation()
        for name in self.columns.captions:
            if row.get(name) is not None:
                known.add_captions(row[name], f"column {name}")
        for name in self.columns.labels:
            if row.get(name) is not None:
                self._add_label(known, name, row[name])
        payload = self._payload(row.get(self.columns.image))
        return Record(key, payload, tuple(known.captions), known.labels, tuple(known.notes))

    def _add_label(self, known: Annotation, name: str, value: Any) -> None:
        classes = self.columns.classes.get(name)
        if classes is not None and isinstance(value, int):
            if value == -1:
                return  # Hugging Face's sign for "not labelled"
            if not 0 <= value < len(classes):
                known.notes.append(f"column {name}: class {value} of {len(classes)} is left out")
                return
            value = classes[value]
        known.add_label(name, value, f"column {name}")

    def _payload(self, image: Any) -> Payload:
        data = image.get("bytes") if isinstance(image, Mapping) else image
        path = image.get("path") if isinstance(image, Mapping) else None
        if isinstance(data, bytes):
            return data
        if data is None and isinstance(path, str) and path:
            return self._file(path)
        if data is None:
            return Unreadable("the row has no image (null)")
        return Unreadable(f"the image column holds {type(data).__name__}, not bytes")

    def _file(self, path: str) -> Payload:
        """The image of a row that has only its path: a file beside the table, or behind a URL."""
        if "://" in path:
            return Remote(path)
        file = Path(path) if self.folder is None else self.folder / path
        folder = file.parent if self.folder is None else self.folder
        if is_file(file):
            return ListedFile(file, folder)
        if self.folder is not None and (problem := problem_of_listing(folder)):
            raise SourceError(f"{folder} cannot be listed any more ({problem}). Bring it back, and {AGAIN}")
        return Unreadable(f"the row has no bytes, and there is no file {path}")


def _key_of(path: Any) -> str:
    """A key from an image's path: relative paths as they are, of others only the file name."""
    if not isinstance(path, str):
        return ""
    path = path.split("::")[0].replace("\\", "/").removeprefix("./")
    if "://" in path or path.startswith("/") or path[1:2] == ":" or ".." in path.split("/"):
        path = path.rpartition("/")[2]
    return path
