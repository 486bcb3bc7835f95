"""A feature visualization: the picture, and how it came about."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neurolab.atlas.writing import atomic_path
from neurolab.data.decode import resize_crop


def seen_at(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """An image as a picture of that size shows it, reduced, its middle: uint8 [height, width, 3]."""
    return resize_crop(image, size, "shortest", "bicubic")


@dataclass(eq=False)
class Picture:
    """What excites a unit.

    name: "SITE/89", with the site's full name; for other objectives their name. image: RGB uint8 [height,
    width, 3]. kind: the parametrization. settings: all that the picture depends on besides model and seed.
    rgba: a transparent picture, uint8 [height, width, 4]; `image` shows it on white then.
    history: the objective at every step, under the transforms of that step, float32 [steps].
    """

    name: str
    image: np.ndarray
    kind: str = "fourier"
    facet: str | None = None
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    rgba: np.ndarray | None = None
    history: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    def to_pil(self) -> Image.Image:
        """The picture as RGB; as RGBA where it is transparent."""
        return Image.fromarray(self.image if self.rgba is None else self.rgba)

    @property
    def file_name(self) -> str:
        """A name for its file that tells it from the unit's other pictures, as "layer4.1-89.maco.text.png".

        The unit's, its kind and facet, "transparent" and the seed where it is not 0.
        """
        unit = self.name.replace("/", "-").replace(":", ".")
        seed = f"seed{self.seed}" if self.seed else ""
        parts = [unit, self.kind, self.facet, "transparent" * (self.rgba is not None), seed, "png"]
        return ".".join(filter(None, parts))

    def save(self, path: str | Path) -> Path:
        """Write an image file, atomically; the name's ending is the format. Makes its folder.

        Formats without transparency get a transparent picture on white.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        kind = Image.registered_extensions()[target.suffix.lower() or ".png"]
        shown = Image.fromarray(self.image) if kind in ("JPEG", "PPM", "BMP") else self.to_pil()
        with atomic_path(target) as temporary:
            shown.save(temporary, kind)
        return target

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows."""
        return self.to_pil()._repr_png_()
