"""Whether an atlas on the disk still is what was written: bit rot, cut, lost and foreign files."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from neurolab.atlas.arrays import SiteArrays, read_site_arrays
from neurolab.atlas.findings import Findings, Report
from neurolab.atlas.image_table import ImagesTable
from neurolab.atlas.labels import Labels
from neurolab.atlas.manifest import BUILDING, MANIFEST, read_manifest, sealed
from neurolab.atlas.pictures import PictureRow, Pictures, file_name
from neurolab.atlas.shards import SHARDS, read_shards, shard_problems
from neurolab.atlas.soundness import array_problems, missing_images
from neurolab.atlas.writing import TEMPORARY_PREFIX, read_npz, sha256_file
from neurolab.errors import AtlasError

OTHER_CONTENT = "does not hold what was written: its SHA-256 is another"
REDRAW = "remove it and draw the picture again"
ANALYSE = "run the analysis that wrote it again"
RESTORE = "restore it from a copy: people's labels cannot be made again"
_LABEL_FILES = ("labels.sqlite", "labels.sqlite-wal", "labels.sqlite-shm", "labels.sqlite-journal")

Manifest = Mapping[str, Any]


def check(path: str | Path) -> Report:
    """Read a finished atlas from end to end and report what is wrong with it; damage raises nothing.

    Every file that the manifest names must be there with the size and SHA-256 that it had when the atlas was
    finished, and the manifest with its own; pictures must be those that their names are hashes of; the
    labels must pass SQLite's own check. What the arrays say must hold together (see
    `neurolab.atlas.soundness`). Atlases from before there were hashes are checked by the checksums inside
    their arrays, and `notes` says so. Raises AtlasError only where there is no folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise AtlasError(f"there is no atlas at {folder}; build one with `neurolab build --out {folder}`")
    check = _Check(folder)
    check.run()
    return check.findings.report()


class _Check:
    """A check at work, and what it has found so far."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.findings = folder, Findings(folder)

    def run(self) -> None:
        manifest = self._manifest()
        if manifest is not None:
            self._recorded(manifest)
            self._contents(manifest)
        self._pictures(manifest)
        with self.findings.reading("labels.sqlite", RESTORE):
            if problems := Labels(self.folder / "labels.sqlite").damage():
                self.findings.add("labels.sqlite", ", ".join(problems), RESTORE)
        if manifest is not None:
            self._leftovers()
            self._other_files(manifest)

    def _manifest(self) -> Manifest | None:
        """The manifest, if it is whole."""
        with self.findings.reading(MANIFEST):
            manifest = read_manifest(self.folder)
            if sealed(manifest) == manifest:
                self.findings.verified(MANIFEST)
                return manifest
            if not manifest.keys() & {"sha256", "files"}:  # as they were before there were hashes
                return manifest
            self.findings.add(MANIFEST, OTHER_CONTENT)
        self.findings.notes.append("what the manifest says of the other files was not compared with them")
        return None

    def _recorded(self, manifest: Manifest) -> None:
        """The files that the manifest has hashes of; of an older atlas, those that it must have."""
        recorded = manifest.get("files", {})
        for name, about in recorded.items():
            with self.findings.reading(name):
                self._compare(name, about)
        if not recorded:
            self.findings.notes.append(
                "this atlas was built before hashes were kept: damage that leaves a table readable, as in "
                "thumbnails, is not found. Build it again to have hashes"
            )
            self._without_hashes(manifest)

    def _compare(self, name: str, about: Mapping[str, Any]) -> None:
        path = self.folder / name
        if not path.is_file():
            return self.findings.add(name, "is missing")
        size = path.stat().st_size
        if size != about["bytes"]:
            return self.findings.add(name, f"is {size} bytes long, and was written with {about['bytes']}")
        if sha256_file(path) != about["sha256"]:
            return self.findings.add(name, OTHER_CONTENT)
        self.findings.verified(name)

    def _without_hashes(self, manifest: Manifest) -> None:
        with self.findings.reading("report.json"):
            json.loads((self.folder / "report.json").read_bytes())
        with self.findings.reading("images.parquet"):
            _read_table(self.folder / "images.parquet")
        for about in manifest["sites"].values():
            for name in self._array_files(about["folder"], manifest):
                with self.findings.reading(name), zipfile.ZipFile(self.folder / name) as archive:
                    if (bad := archive.testzip()) is not None:
                        array = bad.removesuffix(".npy")
                        self.findings.add(name, f"the array {array!r} does not have its checksum")

    def _array_files(self, folder: str, manifest: Manifest) -> list[str]:
        """A site's array files: those that the manifest names, or that are there."""
        if recorded := manifest.get("files"):
            return [name for name in recorded if name.startswith(f"{folder}/")]
        return sorted(f"{folder}/{path.name}" for path in (self.folder / folder).glob("[!.]*.npz"))

    def _contents(self, manifest: Manifest) -> None:
        """Whether the files that are whole agree with each other."""
        images = kept = manifest["source"].get("kept")
        if not self.findings.about("images.parquet"):
            with self.findings.reading("images.parquet"):
                images = len(ImagesTable(self.folder / "images.parquet"))
                if images != kept:
                    problem = f"has {images} images, and the manifest says {kept}"
                    self.findings.add("images.parquet", problem)
        self._shards(images, manifest["source"].get("skipped"))
        for name, about in manifest["sites"].items():
            files = self._array_files(about["folder"], manifest)
            for file in files:
                if not self.findings.about(file):
                    with self.findings.reading(file):
                        self._images_named(file, images)
            if not any(map(self.findings.about, files)):  # else it would only be said again
                self._site(name, about, images)

    def _shards(self, images: int, skipped: int) -> None:
        """The table of shards, which older atlases do not have."""
        if (self.folder / SHARDS).exists() and not self.findings.about(SHARDS):
            with self.findings.reading(SHARDS):
                for problem in shard_problems(read_shards(self.folder / SHARDS), images, skipped):
                    self.findings.add(SHARDS, problem)

    def _images_named(self, file: str, images: int) -> None:
        numbers = read_npz(self.folder / file).get("images")
        if numbers is not None and (problem := missing_images(numbers, images)):
            self.findings.add(file, problem)

    def _site(self, name: str, about: Mapping[str, Any], images: int) -> None:
        folder = about["folder"]
        with self.findings.reading(folder):
            arrays = read_site_arrays(self.folder / folder, about["units"], bool(about["embedding_dim"]))
            told = {key: about[key] for key in ("short", "units", "layout", "prefix_tokens", "reduction")}
            grid = about["grid"] and (about["grid"][0], about["grid"][1])
            site = SiteArrays(name=name, shape=tuple(about["shape"]), grid=grid, **told, **arrays)
            for file, problem in array_problems(site, images):
                self.findings.add(f"{folder}/{file}", problem)

    def _pictures(self, manifest: Manifest | None) -> None:
        rows: list[PictureRow] = []
        with self.findings.reading("pictures.parquet", "remove it and draw the pictures again"):
            rows = Pictures(self.folder).of()
        for row in rows:
            with self.findings.reading(row.file, REDRAW):
                self._picture(row)
        if manifest is not None:
            self._units_named("pictures.parquet", [row.unit for row in rows], manifest)
        kept = {row.path.name for row in rows}
        unused = [path.name for path in self.folder.glob("pictures/[!.]*") if path.name not in kept]
        if unused and not self.findings.about("pictures.parquet"):
            self.findings.notes.append(f"files in pictures/ that the table does not name: {len(unused)}")

    def _picture(self, row: PictureRow) -> None:
        name = f"the picture of {row.unit}"
        if not row.path.is_file():
            return self.findings.add(row.file, f"{name} is missing", "draw the picture again")
        if file_name(row, row.path.read_bytes()) != row.file:
            return self.findings.add(row.file, f"{name} is not the one that was written", REDRAW)
        if row.to_pil().size != (row.width, row.height):
            return self.findings.add(row.file, f"{name} is not {row.width} x {row.height}", REDRAW)
        self.findings.verified(row.file)

    def _leftovers(self) -> None:
        if (self.folder / BUILDING).exists():
            self.findings.notes.append(f"{BUILDING} is left of a build that was killed at its end: it may go")
        if count := sum(1 for _ in self.folder.rglob(f"{TEMPORARY_PREFIX}*")):
            self.findings.notes.append(f"files left of a killed writer, {TEMPORARY_PREFIX}*: {count}")

    def _other_files(self, manifest: Manifest) -> None:
        """Tables of analyses must be readable, and of this atlas as far as they tell; others are told."""
        known = {MANIFEST, "pictures.parquet", *_LABEL_FILES, *manifest.get("files", _names(self.folder))}
        tables: list[str] = []
        for name in _names(self.folder):
            if name in known or name.startswith("pictures/"):
                continue
            if "/" not in name and name.endswith(".parquet"):
                with self.findings.reading(name, ANALYSE):
                    self._units_named(name, _read_table(self.folder / name), manifest)
                tables.append(name)
            else:
                self.findings.add(name, "is no file of this atlas", "move it away, if it is yours")
        if tables:
            self.findings.notes.append(
                f"tables that the manifest has no hash of, as analyses write them: {', '.join(tables)}"
            )

    def _units_named(self, file: str, units: Collection[str], manifest: Manifest) -> None:
        """What was found of units that the atlas does not have was left here by another build."""
        sizes = {about["short"]: about["units"] for about in manifest["sites"].values()}
        sizes |= {name: about["units"] for name, about in manifest["sites"].items()}
        foreign = []
        for unit in sorted(units):
            site, _, index = unit.rpartition("/")
            if site not in sizes or not index.isdecimal() or int(index) >= sizes[site]:
                foreign.append(unit)
        if foreign:
            more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            remedy = REDRAW if file == "pictures.parquet" else ANALYSE
            self.findings.add(file, f"names units that this atlas does not have: {foreign[0]}{more}", remedy)


def _read_table(path: Path) -> set[str]:
    """Read all of a Parquet file, a row group at a time; returns the units that it names, if any."""
    units: set[str] = set()
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            if "unit" in table.column_names:
                units.update(u for u in table.column("unit").unique().to_pylist() if isinstance(u, str))
    return units


def _names(folder: Path) -> Iterator[str]:
    """The files below a folder, by POSIX paths; hidden ones (locks, and what is being written) left out."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()
