"""How much memory a process needs to mine beyond what it has once the model is loaded.

It is read from Linux's /proc: the maximum that getrusage gives of a child begins with the memory of the
process that started it.
"""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from mining_pictures import smooth
from PIL import Image
from torch import nn

from neurolab.atlas.image_table import ImagesTable
from neurolab.atlas.images import ImagesWriter
from neurolab.data.decode import make_thumbnail
from neurolab.data.items import Item
from neurolab.models.zoo import Model, wrap_model

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Use:
    """What some mining needed beyond what the process had before: the peak in megabytes, and the seconds."""

    megabytes: float
    seconds: float


def missing() -> str:
    """Why memory cannot be measured here; empty where it can."""
    return "" if STATUS.exists() and RESET.exists() else "needs Linux's /proc"


def megabytes(field: str) -> float:
    """VmRSS, the memory now, or VmHWM, the most since it was last reset."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None, f"{STATUS} has no {field}"
    return int(found[1]) / 1024


def tiny() -> Model:
    """A network of 5,056 weights for pictures of 16 pixels; its 80 units are in two layers."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 64, 2, stride=2), nn.ReLU()]
    return wrap_model(nn.Sequential(*layers), image_size=16, name="tiny")


def write_index(folder: Path, images: int) -> None:
    """Write and open the image table of an atlas of so many small images."""
    thumbnail = make_thumbnail(Image.fromarray(smooth(1, (16, 16))[0]))
    writer, path = ImagesWriter(folder / "parts"), folder / "images.parquet"
    for start in range(0, images, 64):
        numbers = range(start, min(start + 64, images))
        writer.append(
            [Item(f"00000/{i:08d}", (), {"label": str(i % 10)}, 16, 16, thumbnail) for i in numbers]
        )
    writer.finish(path)
    ImagesTable(path)


def watched(mining: Callable[[], object]) -> Use:
    """What some mining needs beyond what the process has before."""
    gc.collect()
    before = megabytes("VmRSS")
    RESET.write_text("5")
    began = time.perf_counter()
    mining()
    seconds = time.perf_counter() - began
    return Use(megabytes("VmHWM") - before, seconds)
