"""The mean Fourier magnitudes of natural images, which MACO draws with."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor

from neurolab.atlas.writing import read_npz, write_npz
from neurolab.errors import SourceError
from neurolab.featurevis.colour import decorrelate
from neurolab.shipped import shipped

if TYPE_CHECKING:
    from neurolab.data.sources import Source

LEAST_SIDE = 8
DEMO = "spectra/demo.npz"


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Mean magnitudes of square images, in decorrelated colours (`near_grey`).

    magnitude: float32 [3, side, side // 2 + 1], of rfft2 with norm="ortho"; images: how many they are the
    mean of; source: the hash of their source's content.
    """

    magnitude: np.ndarray
    images: int
    source: str

    @property
    def side(self) -> int:
        return self.magnitude.shape[1]

    @property
    def digest(self) -> str:
        """The SHA-256 of the magnitudes."""
        return hashlib.sha256(np.ascontiguousarray(self.magnitude).tobytes()).hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write an .npz, atomically; makes its folder."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_npz(
            target, magnitude=self.magnitude, images=np.array(self.images), source=np.array(self.source)
        )
        return target

    @classmethod
    def load(cls, path: str | Path) -> Spectrum:
        """What `save` wrote. Raises AtlasError for a file that is missing or no .npz, SourceError for one
        that holds no spectrum."""
        arrays = read_npz(path)
        if missing := {"magnitude", "images", "source"} - arrays.keys():
            raise SourceError(f"{path} holds no spectrum: it lacks {', '.join(sorted(missing))}")
        magnitude = np.array(arrays["magnitude"], dtype=np.float32)
        if magnitude.ndim != 3 or magnitude.shape != (3, side := magnitude.shape[1], side // 2 + 1):
            raise SourceError(f"{path} holds no spectrum: its magnitudes are {magnitude.shape}")
        return cls(magnitude, int(arrays["images"]), str(arrays["source"]))

    def resampled(self, size: tuple[int, int]) -> Tensor:
        """The magnitudes of pictures of another size, float32 [3, height, width // 2 + 1], norm="ortho".

        The picture shows what the images showed along its longer side, with more pixels or fewer: a wave of
        so many cycles per longer side keeps its height. Frequencies that the images were too small for go on
        falling as those of the last octave do.
        """
        height, width = size
        longer, half = max(size), self.side / 2
        rows = np.fft.fftfreq(height)[:, None] * longer  # cycles per longer side
        columns = np.fft.rfftfreq(width)[None] * longer
        rows, columns = np.broadcast_arrays(rows, columns)
        beyond = np.maximum(np.maximum(np.abs(rows), columns) / half, 1)
        places = np.stack([rows / beyond, columns / beyond], axis=-1)
        found = [
            read(places) * beyond**-slope for read, slope in zip(self._readers(), self._slopes(), strict=True)
        ]
        return torch.from_numpy(np.stack(found) * longer / self.side).float()

    def _readers(self) -> list[RegularGridInterpolator]:
        """The magnitudes of each colour between the coefficients: of (rows, columns) in cycles per side."""
        half = self.side // 2
        rows = np.arange(-half, half + 1)
        columns = np.arange(half + 1)
        # An even side has one row for both signs of its highest frequency.
        ordered = self.magnitude[:, rows % self.side]
        return [
            RegularGridInterpolator((rows, columns), colour, bounds_error=False, fill_value=None)
            for colour in ordered
        ]

    def _slopes(self) -> list[float]:
        """By which power of the frequency the magnitudes of each colour fall over the last octave."""
        rows = np.abs(np.fft.fftfreq(self.side))[:, None]
        highest = np.maximum(rows, np.fft.rfftfreq(self.side)[None])  # cycles per pixel
        low, high = (highest > 0.2) & (highest < 0.3), highest > 0.4
        step = np.log(highest[high].mean() / highest[low].mean())
        tiny = np.finfo(np.float32).tiny  # a source of plain images has no magnitudes
        falls = [np.log((m[low].mean() + tiny) / (m[high].mean() + tiny)) for m in self.magnitude]
        return [float(fall / step) for fall in falls]


def near_grey(images: np.ndarray) -> np.ndarray:
    """RGB in [0, 1] [batch, height, width, 3] in decorrelated colours [batch, 3, height, width].

    They are what `to_rgb` makes it of where its sigmoid is straight, M^-1 4 (rgb - 1/2). The sigmoid's own
    inverse would blow up what is nearly black or white, the paper of drawings above all.
    """
    return decorrelate(4 * (images - 0.5))


def mean_spectrum(
    source: str | Path | Source, *, side: int = 128, limit: int | None = None, workers: int = 0
) -> Spectrum:
    """The mean magnitudes of a source's images, each reduced to `side` pixels and cropped to a square.

    limit: use the first so many images. Images that cannot be read drop out.
    Raises SourceError where none can be read, or the source is not there; ValueError for too small a side.
    """
    from neurolab.data.decode import ImageTransform
    from neurolab.data.loader import load_batches
    from neurolab.data.sources import open_source

    if side < LEAST_SIDE:
        raise ValueError(f"a spectrum is taken of images of at least {LEAST_SIDE} pixels, not {side}")
    opened = open_source(source)
    if limit is not None:
        opened = opened.limit(limit)
    total, count = np.zeros((3, side, side // 2 + 1)), 0
    for batch in load_batches(opened, ImageTransform((side, side), thumbnail=None), workers=workers):
        total += np.abs(np.fft.rfft2(near_grey(batch.images / 255), norm="ortho")).sum(axis=0)
        count += len(batch.images)
    if not count:
        raise SourceError(f"no image of {opened.location} could be read")
    return Spectrum((total / count).astype(np.float32), count, opened.content_hash())


@functools.cache
def demo_spectrum() -> Spectrum:
    """The spectrum that ships: of the demo set's images."""
    return Spectrum.load(shipped(DEMO))
