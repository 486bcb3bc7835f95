"""How long mining takes beside the network alone: over batches in memory, from shards, by sites and units.

Mining is taken apart into its two halves, `Forward` and `MiningState.take`, which follow each other in every
batch. So one pass tells what a batch costs at the start of a long pass and what it costs later.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mining_state import KEPT, SETTLING, in_the_corner, no_pixels, started, warm_up
from numpy.typing import NDArray

import neurolab
from neurolab.atlas.reductions import Reduced
from neurolab.data.decode import ImageTransform
from neurolab.data.items import Batch
from neurolab.data.loader import load_batches
from neurolab.data.sources import open_source
from neurolab.memory import freed_memory_kept
from neurolab.mining.checkpoint import fresh_state
from neurolab.mining.forward import Forward
from neurolab.mining.passes import computed
from neurolab.models.sites import Site
from neurolab.models.zoo import Model

Seconds = NDArray[np.float64]
THUMBNAIL = 160  # pixels, as `mine` makes them


def run_bare(model: Model, batch: Batch) -> None:
    """The network on a batch of bytes, and nothing else."""
    with torch.inference_mode():
        pixels = torch.from_numpy(batch.images).to(model.device)
        model.encode_image(pixels.permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255)
    synchronize(model)


def synchronize(model: Model) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def timed(call: Callable[..., object], *arguments: Any, **settings: Any) -> float:
    """The seconds that a call takes."""
    began = time.perf_counter()
    call(*arguments, **settings)
    return time.perf_counter() - began


def bare(model: Model, batches: Sequence[Batch], keep: bool) -> list[float]:
    """Seconds for each batch of the network alone; keep: with freed memory kept, as mining keeps it."""
    on_cpu = model.device.type == "cpu"
    with freed_memory_kept() if keep and on_cpu else nullcontext():
        for _ in range(SETTLING if keep else 1):
            run_bare(model, batches[0])
        return [timed(run_bare, model, batch) for batch in batches]


def mined(model: Model, sites: Sequence[Site], batches: Sequence[Batch], warm: int) -> dict[str, list[float]]:
    """Seconds for each batch of mining's network, and of taking in what it says: at the start, and later."""
    found: dict[str, list[float]] = {"forward": [], "start": [], "later": []}
    begun, seen = fresh_state(sites, KEPT), started(sites, warm)
    with Forward(model, sites, "max") as forward:
        warm_up(seen, settled(forward, batches[0]), warm)
        for batch in batches:
            began = time.perf_counter()
            reduced, _ = forward(batch)
            synchronize(model)
            found["forward"].append(time.perf_counter() - began)
            for name, state in (("start", begun), ("later", seen)):
                found[name].append(timed(state.take, batch, reduced))
    return found


def mined_ahead(
    model: Model, sites: Sequence[Site], batches: Sequence[Batch], precision: str = "float32"
) -> list[float]:
    """Seconds for each batch of a whole pass on a GPU, where taking in one and computing the next go on at
    once. What the first batches ask for is asked for beforehand."""
    state, seconds = fresh_state(sites, KEPT), []
    with Forward(model, sites, "max", precision) as forward:
        settled(forward, batches[0])
        began = time.perf_counter()
        for ready in computed(forward, batches, state):
            state.take(ready.batch, ready.found)
            seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
        synchronize(model)
        seconds[-1] += time.perf_counter() - began
    return seconds


def settled(forward: Forward, batch: Batch) -> dict[str, Reduced]:
    """What a batch gives, once memory is where it will be in a long pass."""
    for _ in range(SETTLING):
        reduced, _ = forward(batch)
    return reduced


def by_sites(
    model: Model, choices: Sequence[Sequence[Site]], batches: Sequence[Batch], warm: int, repeats: int
) -> list[Seconds]:
    """Seconds for each batch of mining each choice of sites, later in a pass; they take turns."""
    found: list[list[float]] = [[] for _ in choices]
    states = [started(sites, warm) for sites in choices]
    with freed_memory_kept():
        for sites, state in zip(choices, states, strict=True):
            with Forward(model, sites, "max") as forward:
                warm_up(state, settled(forward, batches[0]), warm)
        for batch in [*batches] * repeats:
            for sites, state, seconds in zip(choices, states, found, strict=True):
                with Forward(model, sites, "max") as forward:
                    began = time.perf_counter()
                    state.take(batch, forward(batch)[0])
                    seconds.append(time.perf_counter() - began)
    return [np.array(seconds) for seconds in found]


def by_units(units: int, warm: int, batches: int, size: int = 64) -> Seconds:
    """Seconds for each batch of taking in values of so many units, later in a pass; no network is run."""
    site = Site("units", "units", "linear", units, (), "vector")
    state = started([site], warm)
    spread = in_the_corner(np.array([[-1.0], [1.0]], np.float32).repeat(units, axis=1))
    warm_up(state, {"units": spread}, warm)
    rng, seconds = np.random.default_rng(1), []
    for number in range(batches):
        values = in_the_corner(rng.standard_normal((size, units), dtype=np.float32))
        batch = no_pixels(number, warm + number * size, size)
        seconds.append(timed(state.take, batch, {"units": values}))
    return np.array(seconds)


def pipeline(model: Model, sites: Sequence[Site], shards: Path, batch_size: int) -> dict[str, float]:
    """Seconds for decoding alone, for the network alone (as it is, and with freed memory kept), and for
    `mine` from the shards to the atlas.

    One process decodes, as `mine` has it on two cores, while the network runs on torch's threads.
    """
    source = open_source(f"{shards}/*.tar")
    transform = ImageTransform(model.image_size, model.resize_mode, model.interpolation, THUMBNAIL)
    run_bare(model, next(load_batches(source, transform, batch_size=batch_size)))
    batches: list[Batch] = []
    decode = timed(batches.extend, load_batches(source, transform, batch_size=batch_size, workers=1))
    network = sum(timed(run_bare, model, batch) for batch in batches)
    kept = sum(bare(model, batches, keep=True))
    del batches
    names = [site.name for site in sites]
    settings: dict[str, Any] = {"batch_size": batch_size, "workers": 1, "progress": False}
    with tempfile.TemporaryDirectory() as out:
        whole = timed(neurolab.mine, model, source, names, f"{out}/atlas", **settings)
    return {"decode": decode, "network": network, "network_kept": kept, "whole": whole}
