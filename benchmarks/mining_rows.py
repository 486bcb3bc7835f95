"""The rows of the benchmark of mining, each from the times and the memory that it compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mining_atlas as atlases
import mining_memory as memory
import mining_peers as engines
import mining_speed as speed
import numpy as np
import torch
from mining_pictures import Pictures, write_shards
from mining_plan import Plan
from mining_state import SETTLING
from report import Row

import neurolab
from neurolab.data.items import Batch
from neurolab.measure import Measure
from neurolab.models.sites import Site, find_site, list_sites
from neurolab.models.zoo import Model

GPU_BATCH, GPU_BATCHES = 256, 12
JPEG_SIZE, TINY_SIZE, PER_SHARD = (375, 500), (16, 16), 250
FEW = 1000  # images, of the smaller pass whose memory is measured


def row(key: str, measure: str, goal: str, found: Measure, **more: Any) -> Row:
    """A row of a measure; of one item there is no interval."""
    low, high = (found.low, found.high) if found.items > 1 else (None, None)
    return Row(key, measure, goal, found.value, low, high, **more)


def ratio(of: Sequence[float] | np.ndarray, over: Sequence[float] | np.ndarray) -> Measure:
    return Measure.of_ratio("ratio", np.asarray(of, dtype=float), np.asarray(over, dtype=float))


def beside_bare(plan: Plan, model: Model) -> Iterator[Row]:
    """All sites of a ResNet, images in memory, over the bare forward pass."""
    sites, batches = list_sites(model), in_memory(model, plan.batch, plan.batches)
    times = speed.beside_bare(model, sites, batches, plan.warm, plan.repeats)
    what = f"mining {len(sites)} sites, {units_of(sites):,} units, of {model.name}, over the bare network"
    mined = {"later": times.forward + times.later, "start": times.forward + times.start}
    rows = (
        ("bare_rate_fraction", "share of its rate", ">= 0.95", times.bare, "later"),
        ("bare_rate_start_fraction", "the same, from the first image on", "", times.bare, "start"),
        ("bare_rate_kept_fraction", "the same, freed memory kept for both", "", times.bare_kept, "later"),
    )
    network = f"network {1000 * times.forward.mean() / plan.batch:.1f} ms, then"
    for key, whose, goal, bare, when in rows:
        ours, theirs = (plan.batch / seconds.mean() for seconds in (mined[when], bare))
        note = f"{network} {1000 * getattr(times, when).mean() / plan.batch:.2f} ms an image"
        found = ratio(bare, mined[when])
        yield row(key, f"{what}: {whose}", goal, found, ours=ours, theirs=theirs, note=note)


def gpu(plan: Plan) -> Row:
    """The same on a GPU: the MLPs of all blocks of CLIP's ViT-B/32."""
    measure = "mining the MLPs of all blocks of ViT-B-32 on a GPU, over the bare network: share of its rate"
    found = Row("gpu_bare_rate_fraction", measure, ">= 0.90", note="needs a GPU")
    if not torch.cuda.is_available():
        return found
    model = neurolab.load_model("ViT-B-32", pretrained="random", device="cuda")
    batches = in_memory(model, GPU_BATCH, GPU_BATCHES)
    times = speed.beside_bare(model, list_sites(model, "block*.mlp"), batches, plan.warm, plan.repeats)
    mined = times.forward + times.later
    ours, theirs = (GPU_BATCH / seconds.mean() for seconds in (mined, times.bare))
    note = (
        f"taking in: {1e3 * times.later.mean() / GPU_BATCH:.2f} ms an image; {torch.cuda.get_device_name()}"
    )
    return row(found.key, measure, found.goal, ratio(times.bare, mined), ours=ours, theirs=theirs, note=note)


def pipeline(plan: Plan, model: Model, folder: Path) -> Row:
    """From WebDataset shards to the atlas: what decoding and the network take alone, over the whole."""
    shards = write_shards(folder / "photos", plan.pipeline_images, JPEG_SIZE, per_shard=PER_SHARD)
    sites = list_sites(model)
    times = np.array(
        list(speed.pipeline(model, sites, shards, plan.batch, plan.pipeline_repeats)), dtype=float
    )
    decode, forward, whole = times.T
    seconds = " + ".join(f"{part.mean():.1f} s" for part in (decode, forward))
    note = f"({seconds}) / {whole.mean():.1f} s for {plan.pipeline_images} JPEGs, one process decodes"
    measure = f"from shards to the atlas, {len(sites)} sites of {model.name}: (decode + network) / whole"
    return row("pipeline_efficiency", measure, ">= 0.90", ratio(decode + forward, whole), note=note)


def peers(plan: Plan) -> Iterator[Row]:
    """Images a second over those of others in the middle of a pass, pictures of the network's own size."""
    model = memory.resnet(plan.peer, plan.peer_pixels)
    pictures = Pictures(model, plan.peer_images, held=True)
    task = engines.Task(model, memory.blocks(model), pictures, plan.k, warm=plan.warm)
    list(pictures.batches(task.batch_size))  # made now, so that no engine's time is spent on it
    available = {key: peer for key, peer in engines.PEERS.items() if not engines.missing(peer[1])}
    seconds: dict[str, list[float]] = {key: [] for key in ("ours", *available)}
    few = replace(task, pictures=Pictures(model, 2, held=True), k=1, batch_size=2, warm=0)
    for key in seconds:
        engines.ENGINES[key](few)
    for _ in range(plan.peer_repeats):
        for key, spent in seconds.items():
            # Neither the first batches, which ask for memory, nor the last, which ends with what ends a pass.
            spent += engines.seconds_per_batch(engines.ENGINES[key], task)[SETTLING:-1]
    for key, (_, package, name) in engines.PEERS.items():
        measure = f"images/s over {name}, the blocks of {plan.peer}, {plan.peer_pixels} px"
        found = Row(f"{key}_rate_ratio", measure, "" if key == "crp_run" else "> 1")
        if key not in available:
            yield replace(found, note=engines.missing(package))
            continue
        ours, theirs = (task.batch_size / np.mean(seconds[which]) for which in ("ours", key))
        yield row(
            found.key, measure, found.goal, ratio(seconds[key], seconds["ours"]), ours=ours, theirs=theirs
        )


def long_pass(plan: Plan) -> Iterator[Row]:
    """Peak memory and rate over many small pictures, each engine in a process of its own."""
    model = memory.resnet(plan.peer, plan.long_pixels)
    units = units_of([find_site(model, f"{path}:out") for path in memory.blocks(model)])
    why = memory.missing()
    ours = None if why else child(plan, "ours", plan.long_images)
    for key, (_, package, name) in engines.PEERS.items():
        if key == "crp_run":
            continue
        base = key == "save_all"
        least = Row("baseline_memory_ratio" if base else f"{key}_memory_ratio", f"peak memory over {name}")
        least = replace(least, goal="<= 0.5" if base else "")
        rate = Row(f"{key}_long_rate_ratio", f"images/s over {name}, {plan.long_pixels} px, a long pass")
        if ours is None or engines.missing(package):
            yield from (replace(found, note=why or engines.missing(package)) for found in (least, rate))
            continue
        # Only what saves everything needs more time and memory for an image, the more there are.
        images = plan.long_images if base else plan.long_images // 5
        theirs = child(plan, key, images)
        mb, rates = (
            (ours.megabytes, theirs.megabytes),
            (plan.long_images / ours.seconds, images / theirs.seconds),
        )
        about = f"{plan.long_images:,} images, theirs {images:,}; {units:,} units, k {plan.k}"
        yield replace(least, value=mb[0] / mb[1], ours=mb[0], theirs=mb[1], note=f"MB; {about}")
        yield replace(rate, value=rates[0] / rates[1], ours=rates[0], theirs=rates[1], note=about)


def child(plan: Plan, engine: str, images: int) -> memory.Use:
    return memory.measure(
        "mine_engine",
        engine=engine,
        network=plan.peer,
        pixels=plan.long_pixels,
        images=images,
        k=plan.k,
        batch_size=32,
        threads=torch.get_num_threads(),
    )


def growth(plan: Plan, folder: Path) -> Row:
    """Peak memory over many images over that over few, but for what their table needs."""
    found = Row("memory_growth", f"peak memory, {plan.many:,} images over {FEW:,}", "<= 1.05")
    if memory.missing():
        return replace(found, note=memory.missing())
    peaks, index, seconds = [], [], 0.0
    for count in (FEW, plan.many):
        shards = write_shards(folder / str(count), count, TINY_SIZE, per_shard=PER_SHARD, kind="PNG")
        # What a small pass needs differs by some percent from time to time.
        uses = [
            memory.measure("mine_shards", pattern=f"{shards}/*.tar", k=plan.k, threads=1)
            for _ in range(3 if count == FEW else 1)
        ]
        peaks.append(float(np.median([use.megabytes for use in uses])))
        index.append(memory.measure("write_index", images=count, threads=1).megabytes)
        seconds = uses[-1].seconds
    grown = index[1] - index[0]
    note = f"MB beyond the loaded model; their table's {grown:.1f} MB more are taken off; {seconds:.0f} s"
    return replace(found, value=(peaks[1] - grown) / peaks[0], ours=peaks[1], theirs=peaks[0], note=note)


def queries(plan: Plan, folder: Path) -> Iterator[Row]:
    """Milliseconds that an atlas of 36,864 units takes to answer, warm."""
    atlas, size, rng = atlases.build(folder / "atlas", plan.atlas), plan.atlas, np.random.default_rng(1)
    units = [f"block{rng.integers(size.sites)}.mlp/{rng.integers(size.units)}" for _ in range(plan.pages)]
    images = rng.integers(0, size.images, plan.pages).tolist()
    asked = (
        ("unit_page_ms", "a unit's page: exemplars, histogram, levels", "< 5", atlases.open_page, units),
        ("image_to_units_ms", "the units that an image excites", "< 20", atlases.open_image, images),
    )
    for key, measure, goal, call, names in asked:
        times = atlases.milliseconds(lambda name, call=call: call(atlas, name), names)
        low, middle, high = np.percentile(times, [5, 50, 95])
        what = f"ms, {measure}, of {size.sites * size.units:,} units, median"
        yield Row(key, what, goal, float(middle), float(low), float(high), note="5th to 95th percentile")


def cost(plan: Plan) -> Iterator[Row]:
    """What more sites and more units cost."""
    model = neurolab.load_model(plan.vit, pretrained="random")
    sites = list_sites(model, "block*.mlp")
    choices = [sites[-count:] for count in plan.sites]
    batches = in_memory(model, plan.batch, plan.batches)
    one, *others = speed.by_sites(model, choices, batches, plan.warm, plan.repeats)
    for chosen, seconds in zip(choices[1:], others, strict=True):
        measure = f"extra time for {len(chosen)} sites over 1, {plan.vit}"
        extra = Measure.of_ratio("extra", seconds - one, one)
        ours, theirs = (plan.batch / spent.mean() for spent in (seconds, one))
        note = f"{units_of(chosen):,} units over {units_of(choices[0]):,}"
        key, goal = f"sites_{len(chosen)}_extra", ""
        if len(chosen) == 12:
            key, goal = "twelve_sites_extra", "< 0.10"
        yield row(key, measure, goal, extra, ours=ours, theirs=theirs, note=note)
    for count in plan.units:
        times = speed.by_units(count, plan.warm, batches=4) * 1000 / 64
        low, high = float(times.min()), float(times.max())
        yield Row(
            f"take_{count}_units_ms", f"ms an image to take in {count:,} units", "", times.mean(), low, high
        )


def in_memory(model: Model, size: int, count: int) -> list[Batch]:
    return list(Pictures(model, size * count, held=False).batches(size))


def units_of(sites: Sequence[Site]) -> int:
    return sum(site.units for site in sites)
