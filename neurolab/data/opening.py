"""From the words that name a source to the source: what is there decides the kind."""

from __future__ import annotations

import difflib
import errno
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from neurolab.data.combine import ConcatSource
from neurolab.data.files import ListedFile
from neurolab.data.folder import IMAGE_SUFFIXES, FolderSource, files_below
from neurolab.data.parquet import ParquetSource, SavedSource
from neurolab.data.selected import SelectedSource, split_selection
from neurolab.data.sources import Source
from neurolab.data.streams import TarStreamSource
from neurolab.data.tars import TarSource
from neurolab.data.web import local_path
from neurolab.errors import SourceError

COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SHARD_SUFFIXES = (".tar", ".parquet", *COMPRESSED_TARS)
FOLDER = "folder:"
KINDS = (
    "a folder of images, .tar shards, .parquet files, a folder of datasets.save_to_disk, a URL of shards, "
    'hf:NAME[:SPLIT], or "demo"'
)


def open_any(spec: str | Path | Source | Sequence[str | Path | Source]) -> Source:
    """See neurolab.data.sources.open_source."""
    if isinstance(spec, Source):
        return spec
    # A folder may be called as a selection is written.
    if isinstance(spec, str) and (selected := split_selection(spec)) and not _is_there(_at_home(spec)):
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
        if spec.startswith(FOLDER):
            return _open_images(spec)
        if spec.startswith("pipe:"):
            raise SourceError(f"{spec!r} would run a command: neurolab reads URLs, not pipes")
        spec = local_path(spec)
        if re.match(r"^\w+(::\w+)*://", spec):
            return _open_urls(spec)
    path = _at_home(spec)
    if _is_there(path):
        return _open_folder(path) if path.is_dir() else _open_files([path], str(spec))
    return _open_files(_expand(str(path)), str(spec))


def _at_home(spec: str | Path) -> Path:
    """The path that is meant, with the user's folder for ``~``."""
    try:
        return Path(spec).expanduser()
    except RuntimeError as error:
        user = Path(spec).parts[0]
        raise SourceError(f"{spec}: this machine knows no home of {user}: give the whole path") from error


def _is_there(path: Path) -> bool:
    """Whether there is such a file or folder; SourceError where the system does not even look."""
    try:
        os.stat(path)
    except ValueError:  # a null character
        return False
    except OSError as error:
        # A pattern may well be longer than any name.
        pattern = glob.has_magic(str(path)) or "{" in str(path)
        if error.errno not in (errno.ENAMETOOLONG, errno.EACCES) or pattern:
            return False
        shown = str(path) if len(str(path)) < 100 else f"{str(path)[:100]}..."
        raise SourceError(f"{shown} cannot be looked up: {error.strerror}. A source is {KINDS}") from error
    return True


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
    found = _found_in(folder)
    images = [name for name in found if name.lower().endswith(IMAGE_SUFFIXES)]
    shards = _shards_by_pattern(folder, sorted(set(found) - set(images)))
    if len(shards) + bool(images) > 1 and not _are_tables_of_files(shards):
        raise SourceError(_several_kinds(folder, images, shards))
    for files in shards.values():
        return _open_files(files, str(folder))
    return FolderSource(folder, files=[(name, found[name]) for name in images])


def _found_in(folder: Path) -> dict[str, bool]:
    """Images and shards below a folder, and which are links to nowhere; only those in it where there are
    shards and a deeper folder cannot be listed, as `lost+found` on a disk of its own."""
    try:
        return dict(files_below(folder, (*IMAGE_SUFFIXES, *SHARD_SUFFIXES)))
    except SourceError:
        names = [entry.name for entry in folder.iterdir() if entry.is_file() and entry.name[0] != "."]
        shards = [name for name in names if name.lower().endswith(SHARD_SUFFIXES)]
        if not shards or any(name.lower().endswith(IMAGE_SUFFIXES) for name in names):
            raise
        return dict.fromkeys(shards, False)


def _are_tables_of_files(shards: dict[str, list[Path]]) -> bool:
    """Whether it is Parquet files alone whose first row names a file for its image: those lie beside them."""
    if len(shards) != 1:
        return False
    (files,) = shards.values()
    if not all(file.name.lower().endswith(".parquet") for file in files):
        return False
    first = next(iter(ParquetSource(files)), None)
    return first is not None and isinstance(first.payload, Path | ListedFile)


def _open_images(spec: str) -> Source:
    """The images below a folder, whatever lies beside them."""
    folder = _at_home(spec.removeprefix(FOLDER))
    if not _is_there(folder):
        raise SourceError(_nothing_at(str(folder), str(folder)))
    if not folder.is_dir():
        raise SourceError(f"{folder} is no folder: {FOLDER} stands before a folder of images")
    return FolderSource(folder, spec)


def _shards_by_pattern(folder: Path, names: list[str]) -> dict[str, list[Path]]:
    """Tar shards and Parquet files by the pattern that names those of their kind.

    Shards lie at the top; deeper ones count only where there are none (repositories of Parquet files).
    """
    top = [name for name in names if "/" not in name]
    found: dict[str, list[Path]] = {}
    paths = sorted(folder / name for name in top or names)
    for end in SHARD_SUFFIXES:
        for path in (path for path in paths if path.name.lower().endswith(end)):
            pattern = f"{glob.escape(str(folder))}/{'' if top else '**/'}*{path.name[-len(end) :]}"
            found.setdefault(pattern, []).append(path)
    return found


def _several_kinds(folder: Path, images: list[str], shards: dict[str, list[Path]]) -> str:
    """What to say where it cannot be told which files of a folder are meant: what is there, and its names."""
    spellings = {f"{FOLDER}{folder}": (len(images), "image", min(images))} if images else {}
    for pattern, files in shards.items():
        kind = f"*{pattern.rpartition('*')[2]} file"
        spellings[pattern] = (len(files), kind, files[0].relative_to(folder).as_posix())
    there = (f"{count} {kind}{'s' * (count > 1)} (as {name})" for count, kind, name in spellings.values())
    return f"{folder} holds {' and '.join(there)}: give {' or '.join(spellings)}"


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
        found = (
            sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name] * os.path.exists(name)
        )
        if not found:
            raise SourceError(_nothing_at(name, pattern))
        files += [Path(file) for file in found]
    return list(dict.fromkeys(files))


def _nothing_at(name: str, pattern: str) -> str:
    """What to say when nothing is there: the closest names that are."""
    path = Path(name)
    folder = next((parent for parent in path.parents if os.path.isdir(parent)), Path())
    wanted = path.relative_to(folder).parts[0]
    around = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    close = difflib.get_close_matches(wanted, [*around, "demo"], 3, 0.6)
    of = "" if name == pattern else f" (of the pattern {pattern})"
    hint = f"did you mean {', '.join(close)}? " if close else ""
    where = "this folder" if folder == Path() else str(folder)
    there = f"{where} has {', '.join(around[:8]) or 'nothing'}{' ...' if len(around) > 8 else ''}. "
    return f"there is nothing at {name}{of}: {hint}{there}A source is {KINDS}"
