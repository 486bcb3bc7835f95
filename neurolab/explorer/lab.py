"""What every page holds: an open atlas, what is read of it once, and the model where a page runs it."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st
from PIL import Image

from neurolab.atlas import Atlas, open_atlas
from neurolab.atlas.arrays import Exemplar
from neurolab.atlas.manifest import MANIFEST
from neurolab.atlas.pictures import read_picture
from neurolab.errors import UnknownModelError
from neurolab.explorer.spotlight import Box, mark
from neurolab.explorer.tables import ImageTexts, read_texts

if TYPE_CHECKING:
    from neurolab.models.zoo import Model

CARD_PIXELS = 320  # a card shows its picture at half of this, sharp on a screen of double density


@dataclass
class Lab:
    """An open atlas, and where the weights of its model are (as for `load_model`)."""

    atlas: Atlas
    weights: str | None = None
    pretrained: str | None = None
    texts: ImageTexts = field(init=False)

    def __post_init__(self) -> None:
        self.texts = read_texts(self.atlas)
        self._thumbnails = functools.lru_cache(maxsize=4096)(self._read_thumbnail)
        self._marks = functools.lru_cache(maxsize=4096)(self._mark)
        self._cards = functools.lru_cache(maxsize=1024)(_card_picture)

    def short(self, site: str) -> str:
        """The short name of a site."""
        return self.atlas.site(site).short

    def thumbnail(self, image: int) -> bytes | None:
        """An image's thumbnail, or None where the atlas was built without."""
        return self._thumbnails(image)

    def caption(self, image: int) -> str:
        """An image's first caption, else what it shows, else its key."""
        return self.texts.title[image]

    def picture(self, site: str, unit: int) -> bytes | None:
        """A unit's first feature visualization at the size of a card, or None where it has none."""
        pictures = self.atlas.pictures(f"{site}/{unit}")
        return self._cards(pictures[0].path) if pictures else None

    def marked(self, exemplar: Exemplar, style: str) -> bytes | None:
        """An exemplar's thumbnail with the place that excites marked, as `spotlight.mark` does."""
        model = self.atlas.manifest["model"]
        place = exemplar.box_in_image(model["image_size"], model.get("resize_mode", "shortest"))
        return self._marks(exemplar.image, place, style)

    def model(self) -> Model:
        """The atlas's model, loaded once; UnknownModelError where it cannot be had, or is another."""
        about = self.atlas.manifest["model"]
        pretrained = self.pretrained or (None if self.weights else about.get("pretrained"))
        return load_model_once(about["name"], pretrained, self.weights, about["weights_hash"])

    def _read_thumbnail(self, image: int) -> bytes | None:
        return self.atlas.thumbnails([image])[0]

    def _mark(self, image: int, place: Box | None, style: str) -> bytes | None:
        data = self.thumbnail(image)
        return None if data is None else mark(data, place, style)


def open_lab(path: str | Path, weights: str | None = None, pretrained: str | None = None) -> Lab:
    """The atlas at `path`, opened once, and again when built anew; AtlasError where it cannot be opened."""
    manifest = Path(path) / MANIFEST
    built = manifest.stat().st_mtime_ns if manifest.is_file() else 0
    return _open_lab(str(path), built, weights, pretrained)


@st.cache_resource(show_spinner=False, max_entries=4)
def _open_lab(path: str, built: int, weights: str | None, pretrained: str | None) -> Lab:
    return Lab(open_atlas(path), weights, pretrained)


@st.cache_resource(show_spinner=False, max_entries=2)
def load_model_once(name: str, pretrained: str | None, weights: str | None, weights_hash: str) -> Model:
    """A model, loaded once for all sessions; UnknownModelError where its weights are not the atlas's."""
    import neurolab

    model = neurolab.load_model(name, pretrained=pretrained, weights=weights)
    if model.weights_hash != weights_hash:
        raise UnknownModelError(
            f"the atlas was mined with other weights of {name} ({weights_hash[:12]}) than those found here "
            f"({model.weights_hash[:12]}); name the right ones with --weights FILE"
        )
    return model


def _card_picture(path: Path) -> bytes:
    small = read_picture(path)
    small.thumbnail((CARD_PIXELS, CARD_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=88, method=0)
    return buffer.getvalue()
