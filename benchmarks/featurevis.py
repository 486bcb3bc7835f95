"""Feature visualization: speed and strength beside Lucent and others, in one run (see README.md beside it).

python benchmarks/featurevis.py [--model mobilenet] [--weights FILE] [--quick] [--json FILE] [--out TABLE.md]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import held_out
import peers
import torch
from peers import Engine, Task
from report import Row, as_json, table

import neurolab
from neurolab.models.zoo import Model

# The site lies two thirds into the network, counted in blocks.
NETS = {
    "mobilenet": ("torchvision:mobilenet_v2", "features.12"),
    "resnet18": ("torchvision:resnet18", "layer3.0"),
    "rn50": ("RN50", "layer3.3"),
}
GPU_NET, GPU_SITE, GPU_STEPS, GPU_BATCH = "RN50x4", "layer4", 256, 64
GPU_FEW = 40  # steps of a run, of which ours are recorded by then
PACKAGES = ("neurolab", "torch", "torchvision", "torch-lucent", "kornia", "horama")


@dataclass(frozen=True)
class Plan:
    """How much is measured. warm: untimed steps, in which ours rescues dead units and is recorded."""

    warm: int = 24
    timed: int = 8
    repeats: int = 3
    batch: int = 8
    units: int = 20
    steps: int = 128
    run: int = 256
    looks: int = 16
    growth: tuple[int, ...] = (1, 2, 4, 8, 16)
    horama_size: int = peers.HORAMA_SIZE


QUICK = Plan(warm=18, timed=3, repeats=2, units=4, steps=16, run=64, looks=4, growth=(1, 4), horama_size=448)


Seconds = Callable[[Plan, Task, Engine], float]  # what a step takes


def compare(
    plan: Plan, row: Row, task: Task, ours: Engine, theirs: Engine, seconds: Seconds | None = None
) -> Row:
    """How long ours takes for a step against theirs, one after the other again and again."""
    for engine in (ours, theirs):
        engine(replace(task, steps=2))
    seconds = seconds or step_seconds
    pairs = [[seconds(plan, task, engine) for engine in (ours, theirs)] for _ in range(plan.repeats)]
    ratios = [one / other for one, other in pairs]
    one, other = (statistics.median(times) * 1000 / len(task.units) for times in zip(*pairs, strict=True))
    middle = statistics.median(ratios)
    return replace(row, value=middle, low=min(ratios), high=max(ratios), ours=one, theirs=other)


def step_seconds(plan: Plan, task: Task, engine: Engine) -> float:
    """How long a step takes, once an engine is at work."""
    if task.model.device.type == "cuda":
        engine(replace(task, steps=GPU_FEW))  # which asks for memory
        return peers.seconds_between(engine, task, GPU_FEW)
    task = replace(task, steps=plan.warm + plan.timed + 1)
    return statistics.median(peers.seconds_per_step(engine, task, plan.timed))


def run_seconds(plan: Plan, task: Task, engine: Engine) -> float:
    """What a step takes of a whole run, with all that comes before, between and after the steps."""
    task.synchronize()
    began = time.perf_counter()
    engine(replace(task, steps=plan.run))
    task.synchronize()
    return (time.perf_counter() - began) / plan.run


def speed(plan: Plan, task: Task) -> Iterator[Row]:
    """Steps of ours over steps of others, one picture and several."""
    one, many = replace(task, units=task.units[:1]), replace(task, units=task.units[: plan.batch])
    count, frozen = len(many.units), partial(peers.lucent, frozen=True)
    beside: list[tuple[str, str, str, Task, Engine, Engine]] = [
        ("lucent_single", "1 picture, over Lucent", "<= 1/3", one, peers.ours, peers.lucent),
        ("lucent_batch", f"{count} pictures, over Lucent", "<= 1/2", many, peers.ours, peers.lucent),
        ("lucent_frozen_single", "1 picture, over Lucent, frozen", "", one, peers.ours, frozen),
        ("lucent_frozen_batch", f"{count} pictures, over Lucent, frozen", "", many, peers.ours, frozen),
        ("lucent_bound_single", "1 picture, bare network over Lucent", "", one, peers.floor, peers.lucent),
        ("lucent_bound_batch", f"{count} pictures, the same", "", many, peers.floor, peers.lucent),
        ("horama", "1 picture, its crops, over Horama", "", one, peers.ours_as_horama, peers.horama),
        ("captum_style", "1 picture, over a loop as captum's", "", one, peers.ours, peers.captum_style),
    ]
    for name, measure, goal, what, ours, theirs in beside:
        row, package = Row(f"{name}_ratio", f"step, {measure}", goal), name.partition("_")[0]
        if package in ("lucent", "horama") and not peers.is_installed(package):
            yield replace(row, note=f"{package} is not installed")
        else:
            yield compare(plan, row, what, ours, theirs)
            if name in ("lucent_single", "lucent_batch"):
                whole = Row(f"{name}_run_ratio", f"the same, by a whole run of {plan.run} steps")
                yield compare(plan, whole, what, ours, theirs, run_seconds)
    on_gpu = task.model.device.type == "cuda"
    goal = "<= 1.10" if on_gpu else "<= 1.15"
    batch = Row("floor_ratio", f"step, {count} pictures, over the bare network", goal)
    alone = Row("floor_single_ratio", "step, 1 picture, over the bare network")
    yield over_floor(plan, batch, many)
    yield over_floor(plan, alone, one)


def over_floor(plan: Plan, row: Row, task: Task) -> Row:
    """Over the bare network, in the memory format in which that is faster."""
    formats = {"channels last": True, "channels first": False}
    rows = [
        compare(plan, replace(row, note=name), task, peers.ours, partial(peers.floor, channels_last=last))
        for name, last in formats.items()
    ]
    return min(rows, key=lambda row: row.theirs or 0)


def strength(plan: Plan, task: Task) -> Iterator[Row]:
    """What pictures excite after equal steps, every engine with its own defaults."""
    task = replace(task, steps=plan.steps)
    engines: dict[str, tuple[str, str, Engine]] = {
        "objective_ratio": ("", ">= 1", partial(peers.ours, transforms=None)),
        "objective_ratio_decay_1": (", ours with decay 1", "", partial(peers.with_decay_1, transforms=None)),
        "objective_ratio_lucid": (", ours with decay 1 and lucid's transforms", "", peers.with_decay_1),
    }
    theirs = None
    for key, (what, goal, engine) in engines.items():
        measure = f"activation after {plan.steps} steps, mean of {len(task.units)} units, over Lucent{what}"
        if not peers.is_installed("lucent"):
            yield Row(key, measure, goal, note="lucent is not installed")
            continue
        if theirs is None:
            theirs = held_out.strengths(peers.lucent, task, plan.batch, plan.looks)
        ours = held_out.strengths(engine, task, plan.batch, plan.looks)
        if theirs.mean() <= 0:
            yield Row(key, measure, goal, note="Lucent's units are not excited, so there is no ratio")
            continue
        found = held_out.ratio(ours.tolist(), theirs.tolist())
        wins = f"larger for {int((ours > theirs).sum())} of {len(ours)} units"
        means = ours.mean().item(), theirs.mean().item()
        yield Row(key, measure, goal, found.value, found.low, found.high, *means, wins)


def growth(plan: Plan, task: Task) -> Iterator[Row]:
    """How the time for a picture and step changes with the batch, and what memory it takes."""
    cuda = task.model.device.type == "cuda"
    sizes = (1, 4, 16, GPU_BATCH) if cuda else plan.growth
    times, memory = {}, 0
    for size in sizes:
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        units = tuple(unit % 16 for unit in range(size))
        times[size] = step_seconds(plan, replace(task, units=units), peers.ours) * 1000 / size
        memory = torch.cuda.max_memory_allocated() if cuda else 0
    note = ", ".join(f"{size}: {ms:.1f} ms" for size, ms in times.items())
    found = times[sizes[-1]] / times[sizes[0]]
    what = f"time for a picture and step, {sizes[-1]} at once over 1 alone"
    for device in ("cpu", "gpu"):
        row = Row(f"{device}_growth", f"{what}, {device.upper()}")
        yield replace(row, value=found, note=note) if cuda == (device == "gpu") else row
    peak = Row("gpu_peak_gigabytes", f"peak memory at a batch of {GPU_BATCH}")
    yield replace(peak, value=memory / 2**30) if cuda else peak


def gpu(task: Task) -> Row:
    """Pictures in a minute on a GPU, whole runs with all that comes before and after the steps."""
    row = Row("gpu_lucent_speedup", f"pictures a minute, {GPU_STEPS} steps, {GPU_NET} at 288 px", ">= 20")
    if task.model.device.type != "cuda":
        return replace(row, note="needs a GPU")
    if not peers.is_installed("lucent"):
        return replace(row, note="lucent is not installed")
    model = neurolab.load_model(GPU_NET, pretrained="random", device=task.model.device)
    many = Task(model, GPU_SITE, tuple(range(GPU_BATCH)), GPU_STEPS)
    fast = partial(peers.ours, precision="bfloat16")
    rates = []
    for engine, what in ((fast, many), (peers.lucent, replace(many, units=(0,)))):
        engine(replace(what, steps=4))
        began = time.perf_counter()
        engine(what)
        what.synchronize()
        rates.append(60 * len(what.units) / (time.perf_counter() - began))
    note = f"ours: {GPU_BATCH} at once, bfloat16; Lucent: one at a time"
    return replace(row, value=rates[0] / rates[1], ours=rates[0], theirs=rates[1], note=note)


def measure(plan: Plan, task: Task) -> Iterator[Row]:
    """All rows, each as soon as it is there."""
    yield from speed(plan, task)
    yield from strength(plan, task)
    yield from growth(plan, task)
    yield gpu(task)


def setting(plan: Plan, task: Task, weights: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    device = task.model.device
    return {
        "network": task.model.name,
        "weights": weights,
        "site": task.site,
        "pixels": task.size,
        **asdict(plan),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "versions": {package: peers.version(package) for package in PACKAGES},
    }


def load(name: str, weights: str | None, device: str) -> Model:
    chosen: dict[str, Any] = {"weights": weights} if weights else {"pretrained": "random"}
    return neurolab.load_model(NETS[name][0], device=device, **chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=NETS, default="mobilenet")
    parser.add_argument(
        "--weights", help="a checkpoint of the network; without, random weights, always the same"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a look in a few minutes, with wide spreads")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--out", type=Path, help="where to write the table")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    plan = QUICK if given.quick else Plan()
    if given.device == "cuda":  # where times differ less from run to run
        plan = replace(plan, repeats=2)
    model = load(given.model, given.weights, given.device)
    units = tuple(range(plan.units))
    task = Task(model, NETS[given.model][1], units, plan.steps, horama_size=plan.horama_size)
    rows = []
    for row in measure(plan, task):
        rows.append(row)
        print(f"{row.key:26} {row.value}  {row.note}", flush=True)
    settings = setting(plan, task, Path(given.weights).name if given.weights else "random, seeded")
    print(table(rows, settings))
    if given.json:
        given.json.write_text(json.dumps(as_json(rows, settings), indent=2) + "\n")
    if given.out:
        given.out.write_text("# Feature visualization beside its peers\n\n" + table(rows, settings))


if __name__ == "__main__":
    main()
