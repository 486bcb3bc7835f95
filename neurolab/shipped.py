"""What ships beside the code: the files of assets/."""

from __future__ import annotations

from pathlib import Path


def shipped(name: str) -> Path:
    """The file or folder `name` of assets/: in the installed package, or in a checkout beside it.

    Raises FileNotFoundError, naming both places, where it is in neither.
    """
    package = Path(__file__).resolve().parent
    candidates = [package / "assets" / name, package.parent / "assets" / name]
    for path in candidates:
        if path.exists():
            return path
    raise FileNotFoundError(f"{name} is neither {candidates[0]} nor {candidates[1]}: reinstall neurolab")
