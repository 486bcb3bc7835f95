"""Removing what a build has left in a folder, so that a kill in between leaves nothing for the next build."""

from __future__ import annotations

import shutil
from pathlib import Path

from neurolab.atlas.manifest import BUILDING, MANIFEST
from neurolab.atlas.writing import atomic_write_bytes, locked
from neurolab.errors import AtlasError

LABELS = "labels.sqlite"
CLEARING = "clearing"  # lies in BUILDING from before the first file goes until after the last


def clear(out: Path, *, keep_labels: bool, weights: str = "") -> None:
    """Remove what a build has left in `out`, the manifest first; AtlasError while another writes there.

    A clearing that is killed is finished by the writer that comes next, if it is of the model with the hash
    `weights` or there are no labels. Until the manifest is gone the old atlas is whole, and stays.
    """
    if not keep_labels and (out / LABELS).exists():
        raise _of_another_model(out)
    building = out / BUILDING
    if not (building.is_dir() or (out / MANIFEST).exists()):
        raise AtlasError(f"{out} holds no atlas that could be overwritten; choose another folder")
    try:
        building.mkdir(exist_ok=True)
        with locked(building / "lock", wait=False):
            finish_clearing(out, weights)
            atomic_write_bytes(building / CLEARING, weights.encode())
            (out / MANIFEST).unlink(missing_ok=True)
            finish_clearing(out)
    except OSError as error:
        raise AtlasError(f"{out} cannot be overwritten: {error}") from error


def is_half_cleared(out: Path) -> bool:
    """Whether what lies in `out` is the rest of a clearing that was killed."""
    return (out / BUILDING / CLEARING).exists() and not (out / MANIFEST).exists()


def finish_clearing(out: Path, weights: str = "") -> None:
    """Remove what a killed clearing left, if there was one; only who holds the lock may call this.

    weights: hash of the model that comes next. AtlasError where labels were kept that are of another.
    """
    if not is_half_cleared(out):
        return
    building = out / BUILDING
    before = (building / CLEARING).read_text("utf-8")
    if before and weights and before != weights and (out / LABELS).exists():
        raise _of_another_model(out)
    for path in [*out.glob("*.parquet"), out / "report.json", out / "sites", out / "pictures"]:
        _remove(path)
    for path in building.iterdir():
        if path.name not in ("lock", CLEARING):
            _remove(path)
    (building / CLEARING).unlink()


def _of_another_model(out: Path) -> AtlasError:
    return AtlasError(
        f"{out} holds labels that people gave to the units of another model ({LABELS}); "
        "choose another folder, or move them away"
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
