"""How much memory a process needs to mine, each measured in a process of its own.

A child process loads the model and what the engine imports, notes the memory that it has, mines, and notes
the most that it had meanwhile; what counts is the difference. Both come from Linux's /proc: the maximum that
getrusage gives of a child begins with the memory of the process that started it.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mining_peers import ENGINES, Task
from mining_pictures import Pictures, smooth
from peers import quiet
from PIL import Image
from torch import nn

import neurolab
from neurolab.atlas.image_table import ImagesTable
from neurolab.atlas.images import ImagesWriter
from neurolab.data.decode import make_thumbnail
from neurolab.data.items import Item
from neurolab.models.zoo import Model, wrap_model

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Use:
    """What a child needed beyond what it began with: the peak in megabytes, and the seconds."""

    megabytes: float
    seconds: float


def missing() -> str:
    """Why memory cannot be measured here; empty where it can."""
    return "" if STATUS.exists() and RESET.exists() else "needs Linux's /proc"


def measure(what: str, **settings: Any) -> Use:
    """Do one of CHILDREN in a process of its own. RuntimeError with what it said where it fails."""
    command = [sys.executable, __file__, json.dumps({"what": what, **settings})]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what} with {settings} failed: {done.stderr.strip()[-2000:]}")
    return Use(**json.loads(done.stdout.splitlines()[-1]))


def megabytes(field: str) -> float:
    """VmRSS, the memory now, or VmHWM, the most since it was last reset."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None, f"{STATUS} has no {field}"
    return int(found[1]) / 1024


def resnet(name: str, pixels: int) -> Model:
    """A ResNet of torchvision's with random weights, for pictures of so many pixels."""
    model = neurolab.load_model(f"torchvision:{name}", pretrained="random")
    return dataclasses.replace(model, image_size=(pixels, pixels))


def blocks(model: Model) -> tuple[str, ...]:
    """The paths of a ResNet's blocks, whose outputs are mined."""
    return tuple(path for path, _ in model.module.named_modules() if re.fullmatch(r"layer\d\.\d+", path))


def tiny() -> Model:
    """A network of 5,056 weights for pictures of 16 pixels; its 80 units are in two layers."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 64, 2, stride=2), nn.ReLU()]
    return wrap_model(nn.Sequential(*layers), image_size=16, name="tiny")


def mine_engine(engine: str, network: str, pixels: int, images: int, k: int, batch_size: int) -> Use:
    """Mine a ResNet's blocks over pictures that are made as they are needed; gives the seconds."""
    model = resnet(network, pixels)
    task = Task(model, blocks(model), Pictures(model, images, held=False), k, batch_size)
    # A pass over one small batch imports what the engine needs, and finds the sites.
    ENGINES[engine](dataclasses.replace(task, pictures=Pictures(model, 2, held=False), k=1, batch_size=2))
    return watched(lambda: ENGINES[engine](task))


def mine_shards(pattern: str, k: int) -> Use:
    """Mine the tiny network over shards, from encoded images to an atlas; gives the seconds."""
    model = tiny()
    with tempfile.TemporaryDirectory() as out:
        return watched(
            lambda: neurolab.mine(
                model, pattern, ["0", "2"], f"{out}/atlas", k=k, workers=1, threads=1, progress=False
            )
        )


def write_index(images: int) -> Use:
    """Write and open the image table of an atlas of so many such images, and nothing else."""
    tiny()
    thumbnail = make_thumbnail(Image.fromarray(smooth(1, (16, 16))[0]))

    def write(folder: str) -> None:
        writer, path = ImagesWriter(Path(folder, "parts")), Path(folder, "images.parquet")
        for start in range(0, images, 64):
            numbers = range(start, min(start + 64, images))
            writer.append(
                [Item(f"00000/{i:08d}", (), {"label": str(i % 10)}, 16, 16, thumbnail) for i in numbers]
            )
        writer.finish(path)
        ImagesTable(path)

    with tempfile.TemporaryDirectory() as folder:
        return watched(lambda: write(folder))


def watched(mining: Callable[[], object]) -> Use:
    """What some mining needs beyond what the process has before."""
    gc.collect()
    before = megabytes("VmRSS")
    RESET.write_text("5")
    began = time.perf_counter()
    mining()
    seconds = time.perf_counter() - began
    return Use(megabytes("VmHWM") - before, seconds)


CHILDREN: dict[str, Callable[..., Use]] = {
    "mine_engine": mine_engine,
    "mine_shards": mine_shards,
    "write_index": write_index,
}


def main() -> None:
    """What a child does: one of these, as its argument says."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(given.pop("threads"))
    with quiet():
        use = CHILDREN[given.pop("what")](**given)
    print(json.dumps(dataclasses.asdict(use)))


if __name__ == "__main__":
    main()
