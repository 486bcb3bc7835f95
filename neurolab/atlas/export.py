"""An atlas in other formats: Parquet or CSV, one file per table, or a Hugging Face dataset of exemplars."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from neurolab.atlas.atlas import Atlas
from neurolab.atlas.export_tables import images_table, pictures_table, write_dataset
from neurolab.atlas.plain import write_csv
from neurolab.atlas.tables import MadeTable, exemplars_table, units_table
from neurolab.atlas.writing import TEMPORARY_PREFIX, atomic_path, locked
from neurolab.errors import AtlasError

FORMATS = ("parquet", "csv", "dataset")
_LOCK = ".lock"  # in a folder that is being written


def export(
    atlas: Atlas,
    out: str | Path,
    format: str = "parquet",
    *,
    sites: Sequence[str] | None = None,
    top: int | None = None,
) -> Path:
    """Write the atlas to the folder `out`, which must be new or empty, in another format; returns it.

    - `parquet`: units, exemplars (`neurolab.atlas.tables`), images and pictures, a .parquet file each.
      Thumbnails and pictures are in there as Image features for `datasets.load_dataset("parquet", ...)`.
    - `csv`: the same without thumbnails, embeddings and the pictures themselves (`neurolab.atlas.plain`).
    - `dataset`: what `datasets.load_from_disk` opens: one row per unit and exemplar, as in the table
      exemplars, with the thumbnail as an Image feature, and captions. A thumbnail is in there once for every
      unit whose exemplar it is, for such a dataset's rows are read in place and share nothing: 20 exemplars
      of each of 1,000 units weigh as much as 20,000 thumbnails. `parquet` has every image once; its tables
      are joined by `image`.

    In all of them labels, settings and scores are JSON; a table without rows is not written. sites: only
    units of these; top: only so many exemplars of each unit. Memory does not grow with the atlas. The folder
    appears when it is whole; what a killed export to the same folder left is removed by the next. Raises
    AtlasError where the folder holds something or cannot be written, and for a dataset of an atlas without
    thumbnails.
    """
    if format not in FORMATS:
        raise AtlasError(f"an atlas is not exported as {format!r}; choose one of {', '.join(FORMATS)}")
    if top is not None and top < 1:
        raise AtlasError(f"an export has at least 1 exemplar of each unit, not {top}")
    names = atlas.sites if sites is None else [atlas.site_name(site) for site in sites]
    target = Path(out)
    try:
        with _new_folder(target) as folder, atlas.unchanged():
            if format == "dataset":
                write_dataset(atlas, folder, names, top)
            else:
                _write_tables(atlas, folder, format, names, top)
    except (OSError, pa.ArrowException) as error:
        raise AtlasError(f"cannot export {atlas.path} to {target}: {error}") from error
    return target


def _write_tables(atlas: Atlas, folder: Path, format: str, sites: Sequence[str], top: int | None) -> None:
    tables = {
        "units": units_table(atlas, sites),
        "exemplars": exemplars_table(atlas, sites, top),
        "images": images_table(atlas, thumbnails=format == "parquet"),
        "pictures": pictures_table(atlas, sites, files=format == "parquet"),
    }
    for name, table in tables.items():
        if not any(batch.num_rows for batch in table.batches()):
            continue  # `load_dataset` refuses a file without rows
        path = folder / f"{name}.{format}"
        if format == "csv":
            write_csv(path, table.schema, table.batches())
        else:
            _write_parquet(path, table)


def _write_parquet(path: Path, table: MadeTable) -> None:
    plain = table.decoded()
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, plain.schema, compression="zstd") as file,
    ):
        for batch in plain.batches():
            file.write_batch(batch)


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` on leaving without error."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise AtlasError(f"{target} holds something already; an export needs a new or an empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}-{target.name[-48:]}"
    temporary.mkdir()
    try:
        with locked(temporary / _LOCK, wait=False):
            yield temporary
        (temporary / _LOCK).unlink()
        if target.exists():
            target.rmdir()  # fails where somebody has put something there meanwhile
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _remove_leftovers(target: Path) -> None:
    """Remove what killed exports to `target` left; one that is still at work holds its lock, and stays."""
    for path in target.parent.glob(f"{TEMPORARY_PREFIX}*"):
        if path.name[len(TEMPORARY_PREFIX) + 17 :] == target.name[-48:] and path.is_dir():
            with contextlib.suppress(AtlasError, OSError), locked(path / _LOCK, wait=False):
                shutil.rmtree(path)
