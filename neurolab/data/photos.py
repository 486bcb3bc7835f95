"""The photographs that come with scikit-image, scikit-learn and matplotlib, and cuts of them, with labels.

Only files inside the installed packages are used; nothing is downloaded. Their licences are given in the
packages' own documentation: most are in the public domain, CC0 or CC BY.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from neurolab.errors import SourceError

_FOLDERS = {
    "skimage": "data",
    "sklearn": "datasets/images",
    "matplotlib": "mpl-data/sample_data",
}

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class PhotoCut:
    """A part of a packaged photograph; calling it gives the picture (RGB).

    `box` is (left, top, right, bottom) in fractions of width and height.
    """

    package: str
    file: str
    box: Box = WHOLE

    def path(self) -> Path:
        """The photograph's file. Raises SourceError when the installed package lacks it."""
        spec = find_spec(self.package)  # finds the package without importing it
        if spec is None or spec.origin is None:
            raise SourceError(
                f"The photograph {self.file} comes with {self.package}, which is not installed."
            )
        path = Path(spec.origin).parent / _FOLDERS[self.package] / self.file
        if not path.is_file():
            raise SourceError(f"The installed {self.package} lacks the photograph {path}: reinstall it.")
        return path

    def __call__(self) -> Image.Image:
        image = _load(self.path())
        left, top, right, bottom = self.box
        width, height = image.size
        pixels = (round(left * width), round(top * height), round(right * width), round(bottom * height))
        return image.crop(pixels)


@lru_cache(maxsize=4)
def _load(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


@dataclass(frozen=True)
class Photo:
    """One photograph of the demo set: its key's last part, concept, caption and where it is cut from."""

    name: str
    concept: str
    caption: str
    cut: PhotoCut


@lru_cache(maxsize=1)
def _photos() -> tuple[Photo, ...]:
    table = files("neurolab.data").joinpath("photos.tsv").read_text(encoding="utf-8")
    found = []
    for line in table.splitlines():
        if line.startswith("#"):
            continue
        package, file, box, name, concept, caption = line.split("\t")
        left, top, right, bottom = map(float, box.split())
        found.append(Photo(name, concept, caption, PhotoCut(package, file, (left, top, right, bottom))))
    return tuple(found)


def photos() -> list[Photo]:
    """The photographs and their cuts (photos.tsv), in a fixed order; names are unique."""
    return list(_photos())
