"""How fast a large atlas answers: a unit's page, and the units that an image excites."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurolab.analysis.hits import Hit
from neurolab.analysis.holding import units_of_image
from neurolab.atlas import Atlas, AtlasWriter
from neurolab.atlas.arrays import Level, Unit
from neurolab.data.items import Item
from neurolab.models.sites import Site

ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Size:
    """Of an atlas; the defaults: the MLPs of a ViT-B/32 on ImageNet's 50,000 validation images."""

    sites: int = 12
    units: int = 3072
    images: int = 50_000
    k: int = 100
    bins: int = 66
    buckets: int = 16
    drawn: int = 16


def build(folder: Path, size: Size) -> Atlas:
    """An atlas of made-up numbers, but of the real size in every respect but its thumbnails'."""
    rng = np.random.default_rng(0)
    model = {"name": "made up", "weights_hash": "00" * 32, "image_size": [224, 224]}
    source = {"kind": "made up", "location": "nowhere", "hash": "00" * 32, "size": size.images}
    with AtlasWriter(folder, model=model, source=source, settings={"k": size.k}) as writer:
        for first in range(0, size.images, ROWS_AT_ONCE):
            rows = range(first, min(first + ROWS_AT_ONCE, size.images))
            writer.append_images([_item(row, rng) for row in rows])
        for block in range(size.sites):
            name = f"visual.transformer.resblocks.{block}.mlp.c_fc"
            site = Site(name, f"block{block}.mlp", "mlp", size.units, (50,), "tokens", 1, grid=(7, 7))
            writer.write_site(site, reduction="max", **_arrays(size, rng))
        return writer.finish()


def _item(row: int, rng: np.random.Generator) -> Item:
    name = f"n{row // 50:08d}"
    caption = f"a photo of thing {row % 997}"
    return Item(f"{name}/{name}_{row:08d}.JPEG", (caption,), {"class": name}, 500, 375, rng.bytes(200))


def _arrays(size: Size, rng: np.random.Generator) -> dict[str, Any]:
    units, shape = size.units, (size.units, size.buckets, size.drawn)
    values = -np.sort(-rng.exponential(1, (units, size.k)).astype(np.float32), axis=1) + 2
    top = values[:, 0].astype(np.float64)
    return {
        "exemplars": {
            "values": values,
            "images": np.stack([rng.choice(size.images, size.k, replace=False) for _ in range(units)]),
            "position": rng.integers(0, 49, (units, size.k)).astype(np.int32),
        },
        "statistics": {
            "count": np.full(units, size.images),
            "mean": rng.normal(size=units),
            "sd": rng.uniform(0.5, 2, units),
            "min": np.full(units, -3, np.float32),
            "max": values[:, 0],
            "histogram": rng.integers(0, 2000, (units, size.bins)),
            "edges": np.linspace(-3, top, size.bins + 1, axis=1),
        },
        "others": {
            "buckets": {
                "edges": np.linspace(-3, top, size.buckets + 1, axis=1),
                "counts": rng.integers(0, 9000, shape[:2]),
                "concepts": np.zeros((*shape[:2], 0), np.int64),
                "images": rng.integers(0, size.images, shape),
                "values": rng.normal(size=shape).astype(np.float32),
            }
        },
    }


def open_page(atlas: Atlas, name: str) -> tuple[Unit, list[Level]]:
    """What a unit's page shows: exemplars with their keys, captions and labels, histogram, levels."""
    unit = atlas.unit(name)
    return unit, atlas.site(unit.site).levels(unit.index)


def open_image(atlas: Atlas, image: int) -> list[Hit]:
    """The units that have an image among their exemplars."""
    return units_of_image(atlas, image)


def milliseconds(call: Callable[[Any], object], arguments: Iterable[Any]) -> np.ndarray:
    """How long the call takes for each of some arguments, once it has been made for all of them."""
    given = list(arguments)
    for argument in given:
        call(argument)
    times = []
    for argument in given:
        began = time.perf_counter()
        call(argument)
        times.append((time.perf_counter() - began) * 1000)
    return np.array(times)
