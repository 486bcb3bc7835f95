"""Writing figures to files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from neurolab.atlas.writing import atomic_path

IMAGES = (".png", ".jpg", ".jpeg", ".webp")
DRAWINGS = (".png", ".pdf", ".svg")


def check_ending(path: str | Path, endings: tuple[str, ...]) -> str:
    """The ending of a file's name, in small letters; ValueError where it is none of these."""
    suffix = Path(path).suffix.lower()
    if suffix not in endings:
        raise ValueError(f"{Path(path).name} should end in one of {', '.join(endings)}")
    return suffix


def save_figure(figure: Figure | Image.Image, path: str | Path) -> Path:
    """Write a figure to a file, atomically; makes its folder.

    The name's ending is the format: one of DRAWINGS for matplotlib's figures, of IMAGES for images.
    ValueError for another ending.
    """
    target = Path(path)
    suffix = check_ending(target, DRAWINGS if isinstance(figure, Figure) else IMAGES)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        if isinstance(figure, Figure):
            figure.savefig(temporary, format=suffix[1:], facecolor="white")
        else:
            figure.save(temporary, Image.registered_extensions()[suffix])
    return target
