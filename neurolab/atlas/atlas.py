"""Reading an atlas: the folder that holds everything recorded of one model on one source."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from neurolab.atlas import queries
from neurolab.atlas.arrays import Exemplar, SiteArrays, Unit, read_site_arrays
from neurolab.atlas.image_table import ImageRow, ImagesTable
from neurolab.atlas.labels import Labels
from neurolab.atlas.manifest import OpenedManifest
from neurolab.atlas.pictures import PictureLike, PictureRow, Pictures
from neurolab.atlas.shards import SHARDS, ShardRow, read_shards
from neurolab.atlas.tables import made_tables
from neurolab.errors import AtlasError, UnknownSiteError


class Atlas:
    """A finished atlas. Arrays are mapped into memory and read when used; may be shared between threads.

    path: the folder, from the root. manifest: what it was made from (`format_version`, `model`, `source`,
    `sites`, `settings`). sites: full names, in the order mined. labels: what people said of units.

    Where another build has taken the folder since it was opened, whatever would be read of that one raises
    AtlasError, so that the two are never mixed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()  # so that it is found from another working folder, too
        self._opened = OpenedManifest(self.path)
        self.manifest: dict[str, Any] = self._opened.content
        about = self.manifest["sites"]
        self.sites: list[str] = sorted(about, key=lambda name: about[name]["order"])
        self.labels = Labels(self.path / "labels.sqlite", self.unit_name, self._opened.check)
        self._short = {about[name]["short"]: name for name in self.sites}
        with self.unchanged():
            self._table = ImagesTable(self.path / "images.parquet")
        self._pictures = Pictures(self.path)
        self._arrays: dict[str, SiteArrays] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | Path) -> Atlas:
        """Open the atlas in a folder; AtlasError where it is missing, incomplete, damaged or newer."""
        return cls(path)

    def __repr__(self) -> str:
        return f"Atlas({str(self.path)!r}, {self.manifest['model'].get('name')}, {len(self.sites)} sites)"

    def site_name(self, name: str) -> str:
        """The full name of a site, from the full or the short one; UnknownSiteError names the closest."""
        full = self._short.get(name, name)
        if full not in self.manifest["sites"]:
            known = [*self._short, *self.sites]
            close = difflib.get_close_matches(name, known, 3, 0.3) or sorted(self._short)[:8]
            raise UnknownSiteError(f"{self.path} has no site {name!r}; it has, e.g., {', '.join(close)}")
        return full

    def unit_name(self, name: str) -> str:
        """The full name of a unit, `SITE/12`; UnknownSiteError where the atlas does not have it."""
        site, index = self._parse(name)
        return f"{site}/{index}"

    def site(self, name: str) -> SiteArrays:
        """What is recorded of a site, by full or short name."""
        full = self.site_name(name)
        with self._lock:
            if full not in self._arrays:
                with self.unchanged():
                    arrays = self._map(full)
                self._arrays[full] = arrays
            return self._arrays[full]

    def unit(self, name: str) -> Unit:
        """The page of one unit, `SITE/12`: exemplars from the strongest, statistics, pictures."""
        full, index = self._parse(name)
        site = self.site(full)
        pictures = self._pictures.of(f"{full}/{index}")  # before the images, which look for another build
        return Unit(
            site=full,
            index=index,
            name=f"{full}/{index}",
            exemplars=self._exemplars(site, index),
            mean=float(site.mean[index]),
            sd=float(site.sd[index]),
            min=float(site.min[index]),
            max=float(site.max[index]),
            count=int(site.count[index]),
            histogram=site.histogram[index],
            edges=site.edges[index],
            pictures=pictures,
        )

    def __len__(self) -> int:
        """The number of images."""
        return len(self._table)

    def image(self, index: int) -> ImageRow:
        """What is known of image `index`."""
        return self._images.rows([index])[0]

    def images(self, indices: Sequence[int] | np.ndarray) -> list[ImageRow]:
        """What is known of several images, in the order given."""
        return self._images.rows(indices)

    def image_table(
        self, images: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """What `images` gives, as a table: key, captions, labels, width, height, or some of these columns."""
        return self._images.take(images, columns)

    def image_index(self, key: str) -> int:
        """The number of the image with this key; AtlasError where there is none."""
        return self._images.index_of(key)

    def find_image(self, name: str) -> int:
        """The number of the image that a person means: its key or else its number, as text; AtlasError."""
        try:
            return self.image_index(name)
        except AtlasError:
            if name.isascii() and name.isdecimal() and int(name) < len(self):
                return int(name)
            raise

    def thumbnail(self, index: int) -> bytes:
        """The thumbnail of an image, WebP; AtlasError where the atlas was built without."""
        data = self._images.thumbnails([index])[0]
        if data is None:
            raise AtlasError(f"image {index} of {self.path} has no thumbnail; the atlas was built without")
        return data

    def thumbnails(self, indices: Sequence[int] | np.ndarray) -> list[bytes | None]:
        """The thumbnails of several images in the order given: much faster than one by one."""
        return self._images.thumbnails(indices)

    def embeddings(self, site: str) -> np.ndarray | None:
        """[units, D] float16: the mean embedding of each unit's exemplars; None if the model gives none."""
        return self.site(site).embedding

    def image_embeddings(self) -> np.ndarray | None:
        """[images, D] float16: what the model's image tower says of each image; None where it gives none."""
        return self._images.embeddings()

    def shards(self) -> list[ShardRow] | None:
        """What each shard of the source gave, in the order of the source: records, images, skipped, and the
        number of its first image. Shards without a record are left out. None where the atlas is from before
        they were counted."""
        path = self.path / SHARDS
        with self.unchanged():
            return read_shards(path) if path.exists() else None

    def pictures(self, unit: str | None = None) -> list[PictureRow]:
        """The feature visualizations of a unit, or of all."""
        with self.unchanged():
            return self._pictures.of(None if unit is None else self.unit_name(unit))

    def add_pictures(self, pictures: Sequence[PictureLike]) -> list[PictureRow]:
        """Keep pictures, in place of those with the same unit, kind, facet, seed and settings."""
        with self.unchanged():
            return self._pictures.add(pictures, self.unit_name)

    def sql(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        """Answer a SELECT over `units`, `exemplars`, `images`, `pictures` and, if there are any, `shards`.

        See `neurolab.atlas.queries.query`, and `neurolab.atlas.tables` for the columns of the first two.
        """
        with self.unchanged():
            return queries.query(self.path, query, parameters, made_tables(self))

    def unchanged(self) -> AbstractContextManager[None]:
        """For `with`, around what reads the folder's files itself: AtlasError where another build has
        replaced this one since it was opened, before or meanwhile."""
        return self._opened.unchanged()

    def summary(self) -> dict[str, Any]:
        """What `neurolab info` prints: the model, the source, and how many of everything there are."""
        model, source = self.manifest["model"], self.manifest["source"]
        sites = [self.site(name) for name in self.sites]
        return {
            "path": str(self.path),
            "format_version": self.manifest["format_version"],
            "model": model.get("name"),
            "weights_hash": model.get("weights_hash"),
            "source": source.get("kind"),
            "source_location": source.get("location"),
            "source_hash": source.get("hash"),
            "images": len(self),
            "skipped": source.get("skipped"),
            "sites": len(sites),
            "units": sum(site.units for site in sites),
            "exemplars": sum(int(np.count_nonzero(site.images >= 0)) for site in sites),
            "pictures": len(self._pictures),
        }

    @property
    def _images(self) -> ImagesTable:
        self._opened.check()
        return self._table

    def _parse(self, name: str) -> tuple[str, int]:
        site, slash, index = name.rpartition("/")
        if not slash or not (index.isascii() and index.isdigit()):
            raise UnknownSiteError(
                f"{name!r} names no unit; write SITE/12, e.g. {next(iter(self._short), 'SITE')}/12"
            )
        full = self.site_name(site)
        units = int(self.manifest["sites"][full]["units"])
        if int(index) >= units:
            raise UnknownSiteError(f"{site} has units 0 to {units - 1}, not {index}")
        return full, int(index)

    def _map(self, name: str) -> SiteArrays:
        about = self.manifest["sites"][name]
        arrays = read_site_arrays(self.path / about["folder"], about["units"], bool(about["embedding_dim"]))
        return SiteArrays(
            name=name,
            short=about["short"],
            units=about["units"],
            layout=about["layout"],
            shape=tuple(about["shape"]),
            prefix_tokens=about["prefix_tokens"],
            reduction=about["reduction"],
            grid=about["grid"] and (about["grid"][0], about["grid"][1]),
            **arrays,
        )

    def _exemplars(self, site: SiteArrays, index: int) -> list[Exemplar]:
        chosen = np.flatnonzero(site.images[index] >= 0)
        values = site.values[index][chosen].tolist()
        positions = site.position[index][chosen].tolist()
        rows = self._images.rows(site.images[index][chosen])
        return [
            Exemplar.of(image, value, position, site.grid)
            for image, value, position in zip(rows, values, positions, strict=True)
        ]


def open_atlas(path: str | Path) -> Atlas:
    """Open the atlas in a folder; see `Atlas.open`."""
    return Atlas.open(path)
