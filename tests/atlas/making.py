"""Small atlases for the tests, with every number known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from neurolab.atlas import Atlas, AtlasWriter

MODEL = {"name": "tiny", "weights_hash": "ab" * 32, "image_size": [64, 64]}
SOURCE = {"kind": "folder", "location": "pictures", "hash": "cd" * 32, "size": 32}
SETTINGS = {"k": 5, "bins": 8}


@dataclass(frozen=True)
class FakeItem:
    key: str
    captions: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    width: int = 64
    height: int = 64
    thumbnail: bytes | None = b"webp"


@dataclass(frozen=True)
class FakeSite:
    name: str
    short: str
    units: int = 4
    shape: tuple[int, ...] = (3, 5)
    layout: str = "map"
    prefix_tokens: int = 0
    grid: tuple[int, int] | None = (3, 5)


@dataclass
class FakePicture:
    name: str
    image: np.ndarray
    kind: str = "fourier"
    facet: str | None = None
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    history: np.ndarray = field(default_factory=lambda: np.zeros(0))
    rgba: np.ndarray | None = None


MAP_SITE = FakeSite("visual.layer4.2.act3:in", "layer4.2")
TOKEN_SITE = FakeSite("visual.Blocks.1:out", "block1", 3, (17,), "tokens", prefix_tokens=1, grid=(4, 4))


def make_items(count: int, first: int = 0) -> list[FakeItem]:
    return [
        FakeItem(
            key=f"folder/{i:04d}.jpg",
            captions=tuple(f"caption {j} of {i}" for j in range(i % 3)),
            labels={"kind": "photo", "concept": f"thing {i % 4}"} if i % 2 else {},
            width=100 + i,
            height=200 - i,
            thumbnail=bytes([i % 256]) * (i % 7 + 1),
        )
        for i in range(first, first + count)
    ]


def make_embeddings(count: int, first: int = 0) -> np.ndarray:
    return np.stack([np.arange(6) + i for i in range(first, first + count)]).astype(np.float16) / 8


def site_arrays(site: FakeSite, images: int, k: int = 5, bins: int = 8, seed: int = 0) -> dict[str, Any]:
    """Arrays from a plain sort of made-up activations [images, units]; the last unit saw too few for k."""
    rng = np.random.default_rng(seed)
    cells = int(np.prod(site.shape)) - site.prefix_tokens
    activations = rng.standard_normal((images, site.units)).astype(np.float32)
    places = rng.integers(0, cells, (images, site.units)).astype(np.int32)
    order = np.argsort(-activations, axis=0, kind="stable")[:k].T
    exemplars: dict[str, np.ndarray] = {
        "values": np.take_along_axis(activations.T, order, 1),
        "images": order.astype(np.int64),
        "position": np.take_along_axis(places.T, order, 1),
    }
    exemplars["images"][-1, k - 2 :] = -1
    exemplars["values"][-1, k - 2 :] = -np.inf
    exemplars["position"][-1, k - 2 :] = -1
    histograms = [np.histogram(column, bins) for column in activations.T]
    statistics = {
        "count": np.full(site.units, images, np.int64),
        "mean": activations.astype(np.float64).mean(0),
        "sd": activations.astype(np.float64).std(0),
        "min": activations.min(0),
        "max": activations.max(0),
        "histogram": np.stack([counts for counts, _ in histograms]),
        "edges": np.stack([edges for _, edges in histograms]).astype(np.float64),
    }
    embedding = rng.standard_normal((site.units, 6)).astype(np.float16)
    return {"exemplars": exemplars, "statistics": statistics, "embedding": embedding}


def open_writer(out: Path, image_rows: int = 0, **changes: Any) -> AtlasWriter:
    about: dict[str, Any] = {"model": MODEL, "source": SOURCE, "settings": SETTINGS} | changes
    return AtlasWriter(out, image_rows=image_rows, **about)


def finish(writer: AtlasWriter, images: int) -> Atlas:
    for number, site in enumerate((MAP_SITE, TOKEN_SITE)):
        writer.write_site(site, reduction="max", **site_arrays(site, images, seed=number))
    return writer.finish(skipped=[("folder/broken.jpg", "truncated file")])


def make_atlas(out: Path, images: int = 32) -> Atlas:
    writer = open_writer(out)
    for first in range(0, images, 8):
        count = min(8, images - first)
        writer.append_images(make_items(count, first), make_embeddings(count, first))
    return finish(writer, images)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def percentile_by_interp(
    activation: float, histogram: np.ndarray, edges: np.ndarray, low: float, high: float
) -> float:
    """NumPy's interpolation of one unit's cumulated histogram between its extremes, 0 to 100."""
    if not low < activation < high:
        return 100.0 if activation >= high else 0.0
    below = np.concatenate([[0], np.cumsum(histogram)])
    return float(100 * np.interp(activation, np.clip(edges, low, high), below) / below[-1])
