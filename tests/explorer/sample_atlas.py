"""A small atlas written with the atlas room's own writer: generated pictures, units that like colours."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neurolab.atlas import Atlas, AtlasWriter

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=\"alert('2')\">'\" [a](javascript:alert(3)) $x$ :red[no]"
)


@dataclass(frozen=True)
class SampleImage:
    """An image as the writer takes it."""

    key: str
    picture: Image.Image
    captions: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def width(self) -> int:
        return self.picture.width

    @property
    def height(self) -> int:
        return self.picture.height

    @property
    def thumbnail(self) -> bytes:
        small = self.picture.copy()
        small.thumbnail((160, 160))
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=80)
        return buffer.getvalue()


@dataclass(frozen=True)
class SampleSite:
    """A site as the writer takes it."""

    name: str
    short: str
    units: int
    shape: tuple[int, ...] = (4, 4)
    layout: str = "map"
    prefix_tokens: int = 0
    grid: tuple[int, int] | None = (4, 4)


@dataclass
class SamplePicture:
    """A feature visualization as the atlas takes it."""

    name: str
    image: np.ndarray
    seed: int = 0
    kind: str = "fourier"
    facet: str | None = None
    settings: dict[str, Any] = field(default_factory=lambda: {"steps": 256, "lr": 0.05})
    scores: dict[str, float] = field(default_factory=lambda: {"activation": 12.5})
    history: np.ndarray = field(default_factory=lambda: np.zeros(3, np.float32))
    rgba: np.ndarray | None = None


SITES = (
    SampleSite("visual.layer4.0.act3:in", "layer4.0", 40),
    SampleSite("visual.attnpool:out", "pool", 8, (), "vector", grid=None),
)


def sample_images(count: int = 60) -> list[SampleImage]:
    """Coarse coloured pictures, wide and tall ones among them; every 7th with a hostile caption."""
    rng = np.random.default_rng(0)
    kinds, concepts = ("drawing", "word", "photo", "typographic"), ("star", "apple", "boat", "tree", "moon")
    images = []
    for i in range(count):
        size = ((96, 96), (160, 90), (80, 150))[i % 3]
        coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        captions = (HOSTILE,) if i % 7 == 0 else (f"a picture of a {concepts[i % 5]}",)
        labels = {"kind": kinds[i % 4], "concept": concepts[i % 5]}
        images.append(
            SampleImage(f"image/{i:03d}", coarse.resize(size, Image.Resampling.BICUBIC), captions, labels)
        )
    return images


def write_atlas(
    out: Path,
    images: Sequence[SampleImage],
    sites: Sequence[SampleSite] = SITES,
    *,
    name: str = "tiny",
    has_text: bool = True,
    k: int = 30,
) -> Atlas:
    """An atlas whose units are random filters over the images' colours; unit 0 of a site never varies."""
    model = {
        "name": name, "weights_hash": "0" * 64, "image_size": [64, 64], "resize_mode": "shortest",
        "embedding_dim": 16, "has_text": has_text, "pretrained": None, "weights": None,
    }  # fmt: skip
    source = {"kind": "demo", "location": "demo", "hash": "1" * 64, "size": len(images) + 1}
    colours = np.stack(
        [np.asarray(i.picture.resize((4, 4)).convert("RGB"), np.float64).ravel() for i in images]
    )
    colours = (colours - colours.mean(0)) / (colours.std() + 1e-9)
    rng = np.random.default_rng(1)
    with AtlasWriter(out, model=model, source=source, settings={"k": k, "seed": 0}) as writer:
        embeddings = colours @ rng.normal(size=(colours.shape[1], 16))
        writer.append_images(images, embeddings.astype(np.float32))
        for site in sites:
            filters = rng.normal(size=(colours.shape[1], site.units)) / 8
            filters[:, 0] = 0
            _write_site(writer, site, colours @ filters, embeddings, k)
        return writer.finish([("image/<b>broken</b>", "truncated <file>")])


def _write_site(
    writer: AtlasWriter, site: SampleSite, values: np.ndarray, embeddings: np.ndarray, k: int
) -> None:
    """values [images, units]."""
    order = np.argsort(-values, axis=0, kind="stable")[:k].T
    top = np.take_along_axis(values.T, order, axis=1)
    places = (
        np.random.default_rng(2).integers(0, 16, order.shape)
        if site.layout == "map"
        else np.full(order.shape, -1)
    )
    edges = np.stack([np.linspace(v.min() - 0.1, v.max() + 0.1, 33) for v in values.T])
    counts = np.stack([np.histogram(v, e)[0] for v, e in zip(values.T, edges, strict=True)])
    unit = embeddings[order].mean(axis=1)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    writer.write_site(
        site,
        reduction="max" if site.layout == "map" else "mean",
        exemplars={"values": top.astype(np.float32), "images": order, "position": places.astype(np.int32)},
        statistics={
            "count": np.full(site.units, len(values)), "mean": values.mean(0), "sd": values.std(0),
            "min": values.min(0).astype(np.float32), "max": values.max(0).astype(np.float32),
            "histogram": counts, "edges": edges,
        },
        embedding=unit.astype(np.float16),
    )  # fmt: skip


def sample_picture(name: str, seed: int = 0, size: int = 64) -> SamplePicture:
    """A smooth random picture that stands for a feature visualization."""
    rng = np.random.default_rng([seed, *name.encode()])
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return SamplePicture(name, np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)), seed)
