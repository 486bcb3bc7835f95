"""manifest.json: what an atlas was made from, and the one file whose presence says that it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from neurolab.atlas.writing import json_bytes, sha256_file, site_folder
from neurolab.errors import AtlasError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_SITE_FIELDS = (
    "order", "short", "units", "shape", "layout", "prefix_tokens",
    "reduction", "grid", "folder", "embedding_dim",
)  # fmt: skip
BUILDING = ".building"  # holds an unfinished build's parts and checkpoint


def describe_model(
    model: Any, *, pretrained: str | None = None, weights: str | Path | None = None
) -> dict[str, Any]:
    """What the manifest says of a `neurolab.Model`: enough to know it, and to load it again.

    pretrained, weights: as they were given to `load_model`, where the model does not carry them itself; of a
    weights file only the name is kept, for where it lay is this machine's affair, and `weights_hash` tells if
    another is it.
    """
    given = {"pretrained": pretrained, "weights": weights}
    for name, value in given.items():
        given[name] = value or getattr(model, name, None) or getattr(model, "settings", {}).get(name)
    return {
        "name": model.name,
        "weights_hash": model.weights_hash,
        "image_size": list(model.image_size),
        "mean": list(model.mean),
        "std": list(model.std),
        "resize_mode": model.resize_mode,
        "interpolation": model.interpolation,
        "embedding_dim": model.embedding_dim,
        "has_text": bool(model.has_text),
        "pretrained": given["pretrained"],
        "weights": Path(given["weights"]).name if given["weights"] else None,
    }


def describe_files(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the manifest says of files in the atlas `folder`: by name, their `sha256` and size in `bytes`."""
    return {
        name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
        for name in names
    }


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its own SHA-256, which is over everything else in it, as `json_bytes` writes it."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return rest | {"sha256": hashlib.sha256(json_bytes(rest)).hexdigest()}


class OpenedManifest:
    """The manifest that an atlas was opened by, and whether the folder still has it.

    A build removes its predecessor's manifest first and writes its own last, so what was read between two
    looks at the same manifest is of the same build.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stamp = _stamp(folder)
        data = _manifest_bytes(folder)
        self._hash = hashlib.sha256(data).digest()
        self.content = _parsed(folder / MANIFEST, data)

    def check(self) -> None:
        """AtlasError where the folder has another manifest by now, or none; costs a stat where it has not."""
        stamp = _stamp(self._folder)
        if stamp is not None and stamp == self._stamp:
            return
        with contextlib.suppress(AtlasError):
            if hashlib.sha256(_manifest_bytes(self._folder)).digest() == self._hash:
                self._stamp = stamp  # it was copied, or the same was built again
                return
        what = "replaced" if stamp else "moved away, or is being replaced,"
        raise AtlasError(f"the atlas at {self._folder} was {what} since it was opened; open it again")

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Around what reads the folder's files: AtlasError where they may be of another build."""
        self.check()
        try:
            yield
        finally:
            self.check()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the atlas in `folder`; an AtlasError says what is wrong with it and what to do."""
    return _parsed(folder / MANIFEST, _manifest_bytes(folder))


def _stamp(folder: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(folder / MANIFEST)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _manifest_bytes(folder: Path) -> bytes:
    check_folder(folder)
    if not folder.is_dir():
        raise AtlasError(f"there is no atlas at {folder}; build one with `neurolab build --out {folder}`")
    path = folder / MANIFEST
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        if (folder / BUILDING).is_dir():
            raise AtlasError(
                f"the atlas at {folder} is incomplete: its build was interrupted or is still going on; "
                "run the same `neurolab build` again and it goes on where it was"
            ) from error
        raise AtlasError(
            f"{folder} is no atlas, for it has no {MANIFEST}; build one with `neurolab build`"
        ) from error
    except OSError as error:
        raise AtlasError(f"{path} cannot be read ({error}); build the atlas again") from error


def _parsed(path: Path, data: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(data.decode("utf-8"))
    except ValueError as error:
        raise AtlasError(f"{path} cannot be read ({error}); build the atlas again") from error
    _check(path, manifest)
    return dict(manifest)


def check_folder(folder: Path) -> None:
    """AtlasError where the system does not even look whether there is such a folder."""
    try:
        folder.exists()
    except OSError as error:
        shown = str(folder) if len(str(folder)) < 100 else f"{str(folder)[:100]}..."
        raise AtlasError(f"{shown} cannot be looked up: {error.strerror}; choose another folder") from error


def _check(path: Path, manifest: Any) -> None:
    version = manifest.get("format_version") if isinstance(manifest, Mapping) else None
    if not isinstance(version, int) or version < 1:
        raise AtlasError(f"{path} is not the manifest of an atlas; build the atlas again")
    if version > FORMAT_VERSION:
        raise AtlasError(
            f"{path} is of format version {version}, newer than this neurolab reads ({FORMAT_VERSION}); "
            "upgrade neurolab, or build the atlas again with this one"
        )
    missing = [
        name
        for name in ("model", "source", "settings", "sites")
        if not isinstance(manifest.get(name), Mapping)
    ]
    if not isinstance(manifest.get("files", {}), Mapping):  # which the first atlases do not have
        missing.append("files")
    if missing or manifest.get("complete") is not True:
        raise AtlasError(f"{path} is damaged (no {', '.join(missing) or 'complete'}); build the atlas again")
    for name, about in manifest["sites"].items():
        lacking = [field for field in _SITE_FIELDS if not isinstance(about, Mapping) or field not in about]
        # The folder is checked, too, so that no manifest sends a reader out of its atlas.
        if lacking or about["folder"] != f"sites/{site_folder(name)}":
            raise AtlasError(f"{path} is damaged (site {name!r}); build the atlas again")
    for name, about in manifest.get("files", {}).items():
        if not _describes_file(name, about):
            raise AtlasError(f"{path} is damaged (file {name!r}); build the atlas again")


def _describes_file(name: str, about: Any) -> bool:
    inside = PurePosixPath(name)
    return (
        isinstance(about, Mapping)
        and isinstance(about.get("bytes"), int)
        and re.fullmatch(r"[0-9a-f]{64}", str(about.get("sha256"))) is not None
        and not inside.is_absolute()
        and ".." not in inside.parts
    )
