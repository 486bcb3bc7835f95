"""pictures.parquet and pictures/: the feature visualizations of an atlas's units."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from neurolab.atlas.writing import atomic_path, atomic_write_bytes, json_bytes, locked
from neurolab.errors import AtlasError

SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("kind", pa.string()),
        ("facet", pa.string()),
        ("seed", pa.int64()),
        ("settings", pa.string()),  # JSON
        ("settings_hash", pa.string()),
        ("scores", pa.map_(pa.string(), pa.float64())),
        ("file", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("history", pa.list_(pa.float32())),
    ]
)
_Identity = tuple[str, str, str, int, str]


class PictureLike(Protocol):
    """What is read of a picture; `neurolab.render` returns such."""

    name: str
    image: np.ndarray
    kind: str
    facet: str | None
    seed: int
    settings: dict[str, Any]
    scores: dict[str, float]
    history: np.ndarray

    @property
    def rgba(self) -> np.ndarray | None: ...


@dataclass(frozen=True)
class PictureRow(Mapping[str, Any]):
    """A feature visualization in the atlas; `row["kind"]` is `row.kind`."""

    unit: str
    kind: str
    facet: str | None
    seed: int
    settings: dict[str, Any]
    settings_hash: str
    scores: dict[str, float]
    file: str  # relative to the atlas folder
    path: Path
    width: int
    height: int
    history: tuple[float, ...]  # the objective, step by step

    def to_pil(self) -> Image.Image:
        """The picture, RGB, on white where it is transparent; AtlasError where its file cannot be read."""
        return read_picture(self.path)

    @property
    def rgba(self) -> np.ndarray | None:
        """A transparent picture, uint8 [height, width, 4]; None of others."""
        opened = _opened(self.path)
        return np.asarray(opened) if opened.mode == "RGBA" else None

    def __getitem__(self, name: str) -> Any:
        if name not in {f.name for f in fields(self)}:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter([f.name for f in fields(self)])

    def __len__(self) -> int:
        return len(fields(self))


class Pictures:
    """The pictures in an atlas folder. A unit has one picture for each (kind, facet, seed, settings)."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "pictures.parquet"
        self._lock = threading.RLock()
        self._stamp: tuple[int, int, int] | None = None
        self._table = SCHEMA.empty_table()
        self._by_unit: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return self._current()[0].num_rows

    def of(self, unit: str | None = None) -> list[PictureRow]:
        """The pictures of a unit, or of all; ordered by kind, facet, seed and settings within a unit."""
        table, by_unit = self._current()
        if unit is not None:
            chosen = by_unit.get(unit, [])
            table = table.take(pa.array(chosen, pa.int64())) if chosen else table.slice(0, 0)
        return [self._row(row) for row in table.to_pylist()]

    def add(self, pictures: Sequence[PictureLike], canonical: Callable[[str], str] = str) -> list[PictureRow]:
        """Keep pictures, in place of those with the same unit, kind, facet, seed and settings.

        Images are written first and the table last, at once, so a reader finds either all of them or none.
        `canonical` gives a unit's full name. Raises AtlasError where the folder cannot be written to.
        """
        rows = {_identity(row): (row, png) for row, png in (_encode(p, canonical) for p in pictures)}
        try:
            with locked(self.folder / ".pictures.lock"):
                self._replace(rows)
        except OSError as error:
            raise AtlasError(f"cannot add pictures to {self.folder}: {error}") from error
        files = {row["file"] for row, _ in rows.values()}
        return [picture for picture in self.of() if picture.file in files]

    def _replace(self, rows: dict[_Identity, tuple[dict[str, Any], bytes]]) -> None:
        (self.folder / "pictures").mkdir(exist_ok=True)
        for row, png in rows.values():
            target = self.folder / row["file"]
            if not target.exists():  # the name tells the content
                atomic_write_bytes(target, png)
        kept = {_identity(row): row for row in self._current()[0].to_pylist()}
        kept |= {identity: row for identity, (row, _) in rows.items()}
        ordered = [kept[identity] for identity in sorted(kept, key=_order)]
        with atomic_path(self.path) as temporary:
            table = pa.Table.from_pylist(ordered, schema=SCHEMA)
            pq.write_table(table, temporary, compression="zstd", version="2.6", row_group_size=4096)
        used = {row["file"] for row in ordered}
        for path in (self.folder / "pictures").iterdir():
            if f"pictures/{path.name}" not in used:
                path.unlink()

    def _current(self) -> tuple[pa.Table, dict[str, list[int]]]:
        """The table as it is on the disk now, and its rows by unit; another process may have replaced it."""
        with self._lock:
            try:
                status = self.path.stat()
                stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            except FileNotFoundError:
                return SCHEMA.empty_table(), {}
            if stamp != self._stamp:
                self._table = _read(self.path)
                self._by_unit = {}
                for i, unit in enumerate(self._table.column("unit").to_pylist()):
                    self._by_unit.setdefault(unit, []).append(i)
                self._stamp = stamp
            return self._table, self._by_unit

    def _row(self, row: dict[str, Any]) -> PictureRow:
        return PictureRow(
            **row
            | {
                "settings": json.loads(row["settings"]),
                "scores": dict(row["scores"]),
                "path": self.folder / "pictures" / Path(row["file"]).name,  # never out of the folder
                "history": tuple(row["history"]),
            }
        )


def read_picture(path: Path) -> Image.Image:
    """A picture's file, RGB, on white where it is transparent; AtlasError where it cannot be read."""
    picture = _opened(path)
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            opened.load()
            return opened
    except OSError as error:
        raise AtlasError(f"{path} cannot be read ({error}); draw the picture again") from error


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise AtlasError(f"{path} cannot be read ({error}); remove it and draw the pictures again") from error
    if not table.schema.equals(SCHEMA):
        raise AtlasError(f"{path} has other columns than an atlas of version 1; draw the pictures again")
    return table.combine_chunks()


def _encode(picture: PictureLike, canonical: Callable[[str], str]) -> tuple[dict[str, Any], bytes]:
    image = np.asarray(picture.image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise AtlasError(f"the picture of {picture.name} is {image.dtype} {image.shape}, not uint8 [H, W, 3]")
    buffer = io.BytesIO()
    Image.fromarray(image if picture.rgba is None else picture.rgba).save(buffer, "PNG")
    settings = json_bytes(_plain(picture.settings))
    row = {
        "unit": canonical(picture.name),
        "kind": picture.kind,
        "facet": picture.facet,
        "seed": int(picture.seed),
        "settings": json.dumps(json.loads(settings), sort_keys=True, ensure_ascii=False),
        "settings_hash": hashlib.sha256(settings).hexdigest()[:16],
        "scores": sorted((str(k), float(v)) for k, v in picture.scores.items()),
        "width": image.shape[1],
        "height": image.shape[0],
        "history": np.asarray(picture.history, np.float32).reshape(-1),
    }
    return row | {"file": file_name(row, buffer.getvalue())}, buffer.getvalue()


def file_name(row: Mapping[str, Any], png: bytes) -> str:
    """The file of a picture in the atlas: its name is the hash of what picture it is, and of its bytes."""
    digest = hashlib.sha256(repr(_identity(row)).encode() + png).hexdigest()
    return f"pictures/{digest[:32]}.png"


def _identity(row: Mapping[str, Any]) -> _Identity:
    return row["unit"], row["kind"], row["facet"] or "", row["seed"], row["settings_hash"]


def _order(identity: _Identity) -> tuple[str, int, tuple[Any, ...]]:
    site, _, index = identity[0].rpartition("/")
    return site, int(index) if index.isdecimal() else -1, identity[1:]


def _plain(value: Any) -> Any:
    """A settings value as JSON knows it: NumPy numbers as numbers, tuples as lists, others as text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
