"""What the benchmark of mining runs in a process of its own, so that nothing of one engine reaches another.

Memory that one engine has freed would be there for the next, which would be faster then than it is alone.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mining_memory as memory
import mining_speed as speed
import torch
from mining_peers import ENGINES, Task, seconds_per_batch
from mining_pictures import Pictures
from peers import quiet

import neurolab
from neurolab.data.items import Batch
from neurolab.models.sites import list_sites
from neurolab.models.zoo import Model


def run(what: str, *, threads: int | None = None, **settings: Any) -> Any:
    """What one of CHILDREN gives, in a process of its own. RuntimeError with what it said where it fails.

    threads: of torch; default: as many as here.
    """
    given = {"what": what, "threads": threads or torch.get_num_threads(), **settings}
    done = subprocess.run([sys.executable, __file__, json.dumps(given)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what} with {settings} failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def load(network: str, device: str = "cpu") -> Model:
    """A network of `neurolab.load_model` with random weights."""
    return neurolab.load_model(network, pretrained="random", device=device)


def resnet(name: str, pixels: int) -> Model:
    """A ResNet of torchvision's with random weights, for pictures of so many pixels."""
    return replace(load(f"torchvision:{name}"), image_size=(pixels, pixels))


def blocks(model: Model) -> tuple[str, ...]:
    """The paths of a ResNet's blocks, whose outputs are mined."""
    return tuple(path for path, _ in model.module.named_modules() if re.fullmatch(r"layer\d\.\d+", path))


def in_memory(model: Model, size: int, count: int) -> list[Batch]:
    """So many batches of pictures."""
    return list(Pictures(model, size * count, held=False).batches(size))


def time_bare(network: str, device: str, size: int, batches: int, keep: bool) -> list[float]:
    """Seconds for each batch of the network alone, as it is or with freed memory kept."""
    model = load(network, device)
    return speed.bare(model, in_memory(model, size, batches), keep)


def time_mining(
    network: str, device: str, size: int, batches: int, sites: str | None, warm: int
) -> dict[str, list[float]]:
    """`speed.mined` over the sites that match a pattern; None: all."""
    model = load(network, device)
    return speed.mined(model, list_sites(model, sites), in_memory(model, size, batches), warm)


def time_ahead(
    network: str, size: int, batches: int, last: int, sites: str | None
) -> dict[str, dict[str, list[float]]]:
    """Of each precision, seconds for each batch of a whole pass on a GPU, and for the last of them of the
    network alone."""
    model = load(network, "cuda")
    pictures, found = in_memory(model, size, batches), {}
    for precision, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
        mined = speed.mined_ahead(model, list_sites(model, sites), pictures, precision)
        with torch.autocast("cuda", dtype) if dtype else nullcontext():
            found[precision] = {"mined": mined, "bare": speed.bare(model, pictures[-last:], keep=True)}
    return found


def time_pipeline(network: str, shards: str, size: int) -> dict[str, float]:
    """`speed.pipeline` of all sites."""
    model = load(network)
    return speed.pipeline(model, list_sites(model), Path(shards), size)


def time_engine(engine: str, network: str, pixels: int, images: int, k: int, warm: int) -> list[float]:
    """Seconds for each batch of mining a ResNet's blocks over pictures in memory."""
    model = resnet(network, pixels)
    pictures = Pictures(model, images, held=True)
    task = Task(model, blocks(model), pictures, k, warm=warm)
    list(pictures.batches(task.batch_size))  # made now, so that no engine's time is spent on it
    try_out(engine, task)
    return seconds_per_batch(ENGINES[engine], task)


def mine_engine(engine: str, network: str, pixels: int, images: int, k: int) -> dict[str, float]:
    """Memory and seconds of mining a ResNet's blocks over pictures that are made as they are needed."""
    model = resnet(network, pixels)
    task = Task(model, blocks(model), Pictures(model, images, held=False), k)
    try_out(engine, task)
    return asdict(memory.watched(lambda: ENGINES[engine](task)))


def try_out(engine: str, task: Task) -> None:
    """Import what an engine needs, and find the sites, in a pass over two pictures."""
    pictures = Pictures(task.model, 2, held=False)
    ENGINES[engine](replace(task, pictures=pictures, k=1, batch_size=2, warm=0))


def mine_shards(pattern: str, k: int) -> dict[str, float]:
    """Memory and seconds of mining a tiny network from encoded images to an atlas."""
    model = memory.tiny()
    settings: dict[str, Any] = {"k": k, "workers": 1, "progress": False}
    with tempfile.TemporaryDirectory() as out:
        return asdict(
            memory.watched(lambda: neurolab.mine(model, pattern, ["0", "2"], f"{out}/atlas", **settings))
        )


def write_index(images: int) -> dict[str, float]:
    """Memory and seconds of writing and opening the image table of an atlas of so many such images."""
    memory.tiny()
    with tempfile.TemporaryDirectory() as folder:
        return asdict(memory.watched(lambda: memory.write_index(Path(folder), images)))


CHILDREN: dict[str, Callable[..., Any]] = {
    child.__name__: child
    for child in (
        time_bare,
        time_mining,
        time_ahead,
        time_pipeline,
        time_engine,
        mine_engine,
        mine_shards,
        write_index,
    )
}


def main() -> None:
    """What a child does: one of these, as its argument says."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(given.pop("threads"))
    with quiet():
        found = CHILDREN[given.pop("what")](**given)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
