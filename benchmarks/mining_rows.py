"""The rows of the benchmark of mining, each from the times and the memory that it compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mining_atlas as atlases
import mining_child as child
import mining_memory as memory
import mining_peers as engines
import mining_speed as speed
import mining_traffic as traffic
import numpy as np
import torch
from mining_pictures import write_shards
from mining_plan import Plan
from mining_state import SETTLING
from report import Row

from neurolab.measure import Measure
from neurolab.models.sites import Site, find_site, list_sites

GPU_BATCH, GPU_BATCHES, GPU_LAST = 256, 196, 40  # in all about as many as ImageNet's validation set has
GPU_PLAN = {"network": "ViT-B-32", "batch": GPU_BATCH, "images": GPU_BATCH * GPU_BATCHES}
JPEG_SIZE, TINY_SIZE, PER_SHARD = (375, 500), (16, 16), 250
FEW = 1000  # images, of the smaller pass whose memory is measured


def row(found: Row, measured: Measure, **more: Any) -> Row:
    """A row with what was measured; of one item there is no interval."""
    low, high = (measured.low, measured.high) if measured.items > 1 else (None, None)
    return replace(found, value=measured.value, low=low, high=high, **more)


def ratio(of: Sequence[float] | np.ndarray, over: Sequence[float] | np.ndarray) -> Measure:
    return Measure.of_ratio("ratio", np.asarray(of, dtype=float), np.asarray(over, dtype=float))


def beside_bare(plan: Plan) -> Iterator[Row]:
    """All sites of a ResNet, images in memory, over the bare forward pass."""
    sites = list_sites(child.load(plan.resnet))
    times = in_turns(plan, plan.resnet, "cpu", None, plan.batch, plan.batches)
    what = f"mining {len(sites)} sites, {units_of(sites):,} units, of {plan.resnet}, over the bare network"
    rows = (
        ("bare_rate_fraction", "share of its rate", ">= 0.95", "bare", "later"),
        ("bare_rate_start_fraction", "the same, from the first image on", "", "bare", "start"),
        ("bare_rate_kept_fraction", "the same, freed memory kept for both", "", "bare_kept", "later"),
    )
    for key, whose, goal, bare, when in rows:
        yield share(Row(key, f"{what}: {whose}", goal), times, bare, when, plan.batch)


def gpu() -> Iterator[Row]:
    """A pass on a GPU, over the bare network: the MLPs of all blocks of CLIP's ViT-B/32."""
    images, late = GPU_BATCH * GPU_BATCHES, GPU_BATCH * GPU_LAST
    what = "mining the MLPs of all blocks of ViT-B-32 on a GPU, over the bare network: share of its rate"
    rows = {
        "gpu_bare_rate_fraction": (what, ">= 0.90", "float32", GPU_LAST),
        "gpu_bare_rate_whole_fraction": ("the same, the whole pass", "", "float32", GPU_BATCHES),
        "gpu_bfloat16_fraction": ("both in bfloat16", "", "bfloat16", GPU_LAST),
        "gpu_bfloat16_whole_fraction": ("both in bfloat16, the whole pass", "", "bfloat16", GPU_BATCHES),
    }
    times = None
    if torch.cuda.is_available():
        settings = {"size": GPU_BATCH, "batches": GPU_BATCHES, "last": GPU_LAST, "sites": "block*.mlp"}
        times = child.run("time_ahead", network="ViT-B-32", **settings)
    for key, (measure, goal, precision, count) in rows.items():
        found = Row(key, measure, goal, note="needs a GPU")
        if times is None:
            yield found
            continue
        bare, mined = (np.array(times[precision][name][-count:]) for name in ("bare", "mined"))
        rates = {"ours": GPU_BATCH / mined.mean(), "theirs": GPU_BATCH / bare.mean()}
        note = f"the last {late:,} of {images:,} images" if count == GPU_LAST else f"all {images:,} images"
        if count == GPU_LAST:
            yield row(found, ratio(bare, mined), note=note, **rates)
        else:  # of one pass, over the rate of the network on its last batches
            yield beside(replace(found, note=note), **rates)


def in_turns(
    plan: Plan, network: str, device: str, sites: str | None, size: int, batches: int
) -> dict[str, np.ndarray]:
    """Seconds for each batch of the bare network and of mining, in processes that run one after the other."""
    found: dict[str, list[float]] = {"bare": [], "bare_kept": []}
    of: dict[str, Any] = {"network": network, "device": device, "size": size, "batches": batches}
    for _ in range(plan.repeats):
        for name in ("bare", "bare_kept"):
            found[name] += child.run("time_bare", keep=name == "bare_kept", **of)
        for name, seconds in child.run("time_mining", sites=sites, warm=plan.warm, **of).items():
            found.setdefault(name, []).extend(seconds)
    return {name: np.array(seconds) for name, seconds in found.items()}


def share(found: Row, times: dict[str, np.ndarray], bare: str, when: str, size: int) -> Row:
    """Of the rate of the bare network, what mining reaches."""
    mined = times["forward"] + times[when]
    network, taking = (1000 * times[part].mean() / size for part in ("forward", when))
    note = f"network {network:.1f} ms, then {taking:.2f} ms an image"
    ours, theirs = size / mined.mean(), size / times[bare].mean()
    return row(found, ratio(times[bare], mined), ours=ours, theirs=theirs, note=note)


def pipeline(plan: Plan, folder: Path) -> Iterator[Row]:
    """From WebDataset shards to the atlas: what decoding and the network take alone, over the whole."""
    shards = write_shards(folder / "photos", plan.pipeline_images, JPEG_SIZE, per_shard=PER_SHARD)
    settings = {"network": plan.resnet, "shards": str(shards), "size": plan.batch}
    times = [child.run("time_pipeline", **settings) for _ in range(plan.pipeline_repeats)]
    parts = {name: np.array([one[name] for one in times]) for name in times[0]}
    seconds = {name: f"{of.mean():.1f} s" for name, of in parts.items()}
    measure = f"from shards to the atlas, all sites of {plan.resnet}: (decoding + network) / whole"
    for found, network in (
        (Row("pipeline_efficiency", measure, ">= 0.90"), "network"),
        (Row("pipeline_kept_efficiency", "the same, freed memory kept for both"), "network_kept"),
    ):
        note = f"({seconds['decode']} + {seconds[network]}) / {seconds['whole']}"
        note += f" for {plan.pipeline_images} JPEGs"
        yield row(found, ratio(parts["decode"] + parts[network], parts["whole"]), note=note)


def peers(plan: Plan) -> Iterator[Row]:
    """Images a second over those of others in the middle of a pass, pictures of the network's own size."""
    seconds: dict[str, list[float]] = {}
    settings = {"network": plan.peer, "pixels": plan.peer_pixels, "images": plan.peer_images, "k": plan.k}
    for turn in range(plan.peer_repeats):
        for key in ("ours", *engines.PEERS):
            # One turn is enough for what is reported only, and takes long.
            package = engines.PEERS[key][1] if key in engines.PEERS else ""
            if engines.missing(package) or (key == "crp_run" and turn):
                continue
            warm = plan.warm if key == "ours" else 0
            spent = child.run("time_engine", engine=key, warm=warm, **settings)
            # Neither the first batches, which ask for memory, nor the last, which ends with what ends a pass.
            seconds.setdefault(key, []).extend(spent[SETTLING:-1])
    for key, (_, package, name) in engines.PEERS.items():
        measure = f"images/s over {name}, the blocks of {plan.peer}, {plan.peer_pixels} px"
        found = Row(f"{key}_rate_ratio", measure, "" if key == "crp_run" else "> 1")
        if why := engines.missing(package):
            yield replace(found, note=why)
            continue
        ours, size = seconds["ours"][: len(seconds[key])], engines.Task.batch_size
        rates = {"ours": size / np.mean(ours), "theirs": size / np.mean(seconds[key])}
        yield row(found, ratio(seconds[key], ours), **rates)


def long_pass(plan: Plan) -> Iterator[Row]:
    """Peak memory and rate over many small pictures."""
    model = child.resnet(plan.peer, plan.long_pixels)
    units = units_of([find_site(model, f"{path}:out") for path in child.blocks(model)])
    settings = {"network": plan.peer, "pixels": plan.long_pixels, "k": plan.k}
    why, many = memory.missing(), plan.long_images
    ours = None if why else child.run("mine_engine", engine="ours", images=many, **settings)
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
        images = many if base else many // 5
        theirs = child.run("mine_engine", engine=key, images=images, **settings)
        note = f"{many:,} images, theirs {images:,}; {units:,} units, k {plan.k}"
        megabytes = ours["megabytes"], theirs["megabytes"]
        yield beside(replace(least, note=f"MB; {note}"), *megabytes)
        yield beside(replace(rate, note=note), many / ours["seconds"], images / theirs["seconds"])


def beside(found: Row, ours: float, theirs: float) -> Row:
    """A ratio that was measured once."""
    return replace(found, value=ours / theirs, ours=ours, theirs=theirs)


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
            child.run("mine_shards", pattern=f"{shards}/*.tar", k=plan.k, threads=1)
            for _ in range(3 if count == FEW else 1)
        ]
        peaks.append(float(np.median([use["megabytes"] for use in uses])))
        index.append(child.run("write_index", images=count, threads=1)["megabytes"])
        seconds = uses[-1]["seconds"]
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


def device_memory() -> Row:
    """What finding and counting ask of a device's memory: on any machine the same."""
    measure = "bytes of a device's memory that finding and counting read or write, a value"
    units, rows = traffic.UNITS, traffic.ROWS
    seen = traffic.WARM + (traffic.BATCHES - 1) * rows
    note = f"a batch of {rows} with {units:,} units, {seen:,} images in"
    return Row("device_bytes_per_value", measure, value=traffic.bytes_per_value(), note=note)


def cost(plan: Plan) -> Iterator[Row]:
    """What more sites and more units cost."""
    model = child.load(plan.vit)
    sites = list_sites(model, "block*.mlp")
    choices = [sites[-count:] for count in plan.sites]
    batches = child.in_memory(model, plan.batch, plan.batches)
    one, *others = speed.by_sites(model, choices, batches, plan.warm, plan.site_repeats)
    for chosen, seconds in zip(choices[1:], others, strict=True):
        measure = f"extra time for {len(chosen)} sites over 1, {plan.vit}"
        extra = Measure.of_ratio("extra", seconds - one, one)
        ours, theirs = (plan.batch / spent.mean() for spent in (seconds, one))
        note = f"{units_of(chosen):,} units over {units_of(choices[0]):,}"
        found = Row(f"sites_{len(chosen)}_extra", measure)
        if len(chosen) == 12:
            found = replace(found, key="twelve_sites_extra", goal="< 0.10")
        yield row(found, extra, ours=ours, theirs=theirs, note=note)
    for count in plan.units:
        times = speed.by_units(count, plan.warm, batches=4) * 1000 / 64
        found = Row(f"take_{count}_units_ms", f"ms an image to take in {count:,} units")
        mean, low, high = (float(of()) for of in (times.mean, times.min, times.max))
        yield replace(found, value=mean, low=low, high=high)


def units_of(sites: Sequence[Site]) -> int:
    return sum(site.units for site in sites)
