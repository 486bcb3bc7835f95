"""From the words that name a source to the source: what is there decides the kind."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Sequence
from pathlib import Path

from neurolab.data.combine import ConcatSource
from neurolab.data.folder import IMAGE_SUFFIXES, FolderSource
from neurolab.data.parquet import ParquetSource, SavedSource
from neurolab.data.selected import SelectedSource, split_selection
from neurolab.data.sources import Source
from neurolab.data.streams import TarStreamSource
from neurolab.data.tars import TarSource
from neurolab.errors import SourceError

COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
KINDS = (
    "a folder of images, .tar shards, .parquet files, a folder of datasets.save_to_disk, a URL of shards, "
    'hf:NAME[:SPLIT], or "demo"'
)


def open_any(spec: str | Path | Source | Sequence[str | Path | Source]) -> Source:
    """See neurolab.data.sources.open_source."""
    if isinstance(spec, Source):
        return spec
    if isinstance(spec, str) and (selected := split_selection(spec)):
        return SelectedSource(open_any(selected[0]), selected[1])
    if isinstance(spec, str | Path):
        return _open_one(spec)
    if not isinstance(spec, Sequence):
        raise SourceError(f"{spec!r} is not a source: give {KINDS}")
    parts = [open_any(part) for part in spec]
    return parts[0] if len(parts) == 1 else ConcatSource(parts)


def _open_one(spec: str | Path) -> Source:
    if isinstance(spec, str):
        if not spec.strip():
            raise SourceError(f"the source has an empty name: give {KINDS}")
        if spec == "demo":
            from neurolab.data.demo import DemoSource

            return DemoSource()
        if spec.startswith("hf:") and not spec.startswith("hf://"):
            from neurolab.data.hub import open_hub

            return open_hub(spec.removeprefix("hf:"))
        if spec.startswith("pipe:"):
            raise SourceError(f"{spec!r} would run a command: neurolab reads URLs, not pipes")
        if re.match(r"^\w+(::\w+)*://", spec):
            return _open_urls(spec)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_folder(path)
    if path.exists():
        return _open_files([path], str(spec))
    return _open_files(_expand(str(path)), str(spec))


def _open_urls(spec: str) -> Source:
    urls = _braces(spec)
    bare = [url.partition("?")[0] for url in urls]
    if all(url.endswith((".tar", *COMPRESSED_TARS)) for url in bare):
        return TarStreamSource(urls, spec)
    raise SourceError(
        f"{spec} names no tar shards: of URLs neurolab reads .tar files (for datasets see hf:NAME)"
    )


def _open_folder(folder: Path) -> Source:
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        names = ", ".join(str(folder / split) for split in splits)
        raise SourceError(f"{folder} holds several splits: name one of {names or 'them (none is there)'}")
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return SavedSource(folder)
    # Shards lie at the top; deeper ones count only where there are no images (repositories of Parquet files).
    if found := _open_shards(folder, ""):
        return found
    images = FolderSource(folder, empty=True)
    return images if images.shards() else _open_shards(folder, "**/") or FolderSource(folder)


def _open_shards(folder: Path, depth: str) -> Source | None:
    """The tar shards or Parquet files in a folder, if there are any."""
    tars, tables = (
        sorted(path for path in folder.glob(f"{depth}*{suffix}") if path.name[0] != "." and path.is_file())
        for suffix in (".tar", ".parquet")
    )
    if tars and tables:
        raise SourceError(
            f"{folder} holds tar shards and Parquet files: give {folder}/*.tar or {folder}/*.parquet"
        )
    if tars:
        return TarSource(tars, str(folder))
    return ParquetSource(tables, str(folder)) if tables else None


def _open_files(files: Sequence[Path], spec: str) -> Source:
    names = [file.name.lower() for file in files]
    if special := [file for file in files if not file.is_file()]:
        raise SourceError(f"{special[0]} is no regular file, and would be waited for: give {KINDS}")
    if all(name.endswith(".parquet") for name in names):
        return ParquetSource(files, spec)
    if all(name.endswith(".tar") for name in names):
        return TarSource(files, spec)
    if all(name.endswith((".tar", *COMPRESSED_TARS)) for name in names):
        return TarStreamSource([str(file) for file in files], spec)
    if any(file.suffix.lower() in IMAGE_SUFFIXES for file in files):
        raise SourceError(f"{spec} is an image: a source is a folder of images, give {files[0].parent}")
    kinds = ", ".join(sorted({file.suffix or file.name for file in files}))
    raise SourceError(f"{spec} is of no known kind ({kinds}): give {KINDS}")


def _braces(pattern: str) -> list[str]:
    import braceexpand

    try:
        return list(braceexpand.braceexpand(pattern))
    except ValueError as error:
        raise SourceError(f"{pattern}: its braces do not match") from error


def _expand(pattern: str) -> list[Path]:
    """The files of a glob and brace pattern, in its order; every alternative must be there."""
    files: list[Path] = []
    for name in _braces(pattern):
        found = sorted(glob.glob(name)) if glob.has_magic(name) else [name] * Path(name).exists()
        if not found:
            raise SourceError(_nothing_at(name, pattern))
        files += [Path(file) for file in found]
    return list(dict.fromkeys(files))


def _nothing_at(name: str, pattern: str) -> str:
    """What to say when nothing is there: the closest names that are."""
    path = Path(name)
    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    wanted = path.relative_to(folder).parts[0]
    around = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    close = difflib.get_close_matches(wanted, [*around, "demo"], 3, 0.6)
    of = "" if name == pattern else f" (of the pattern {pattern})"
    hint = f"did you mean {', '.join(close)}? " if close else ""
    where = "this folder" if folder == Path() else str(folder)
    there = f"{where} has {', '.join(around[:8]) or 'nothing'}{' ...' if len(around) > 8 else ''}. "
    return f"there is nothing at {name}{of}: {hint}{there}A source is {KINDS}"
