"""Removing what a build has left in a folder, so that a kill in between leaves nothing for the next build."""

from __future__ import annotations

import shutil
from pathlib import Path

from neurolab.atlas.manifest import BUILDING, MANIFEST
from neurolab.atlas.writing import atomic_write_bytes, locked
from neurolab.errors import AtlasError

LABELS = "labels.sqlite"
CLEARING = "clearing"  # lies in BUILDING from before the first file goes until after the last


def clear(out: Path, *, before: str, after: str) -> None:
    """Remove what a build has left in `out`, the manifest first; AtlasError while another writes there.

    before, after: the hashes of the weights whose units it was of, and of those that come next; empty where
    nobody knows. People's labels stay, and are a reason to refuse where the two differ. A clearing that is
    killed is finished by the writer that comes next. Until the manifest is gone the old atlas is whole, and
    stays.
    """
    _check_labels(out, before, after)
    building = out / BUILDING
    if not (building.is_dir() or (out / MANIFEST).exists()):
        raise AtlasError(f"{out} holds no atlas that could be overwritten; choose another folder")
    try:
        building.mkdir(exist_ok=True)
        with locked(building / "lock", wait=False):
            finish_clearing(out, after)
            atomic_write_bytes(building / CLEARING, before.encode())
            (out / MANIFEST).unlink(missing_ok=True)
            finish_clearing(out, after)
    except OSError as error:
        raise AtlasError(f"{out} cannot be overwritten: {error}") from error


def is_half_cleared(out: Path) -> bool:
    """Whether what lies in `out` is the rest of a clearing that was killed."""
    return (out / BUILDING / CLEARING).exists() and not (out / MANIFEST).exists()


def finish_clearing(out: Path, after: str) -> None:
    """Remove what a killed clearing left, if there was one; only who holds the lock may call this. after: as
    for `clear`."""
    if not is_half_cleared(out):
        return
    building = out / BUILDING
    _check_labels(out, (building / CLEARING).read_text("utf-8"), after)
    for path in [*out.glob("*.parquet"), out / "report.json", out / "sites", out / "pictures"]:
        _remove(path)
    for path in building.iterdir():
        if path.name not in ("lock", CLEARING):
            _remove(path)
    (building / CLEARING).unlink()


def _check_labels(out: Path, before: str, after: str) -> None:
    if before and after and before != after and (out / LABELS).exists():
        raise AtlasError(
            f"{out} holds labels that people gave to the units of another model ({LABELS}); "
            "choose another folder, or move them away"
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
