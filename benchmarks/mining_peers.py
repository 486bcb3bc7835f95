"""One way to call every engine: find the k pictures that excite each unit of some modules most.

Engines are timed from outside: a hook on the network notes when it is called, once for a batch by every one.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mining_pictures import Pictures
from mining_state import KEPT, started, warm_up
from numpy.typing import NDArray
from peers import is_installed, quiet
from torch import Tensor, nn
from torch.utils.data import DataLoader

from neurolab.mining.forward import Forward
from neurolab.models.sites import find_site
from neurolab.models.zoo import Model


@dataclass(frozen=True)
class Task:
    """Mine the outputs of some modules, which carry maps [batch, units, height, width].

    layers: the modules' paths. warm: images that ours has seen before, made up after its first batch; what
    others do for an image does not depend on how many they have seen. clock: takes the times at which the
    network is called, and that of the end.
    """

    model: Model
    layers: tuple[str, ...]
    pictures: Pictures
    k: int = KEPT.k
    batch_size: int = 32
    warm: int = 0
    clock: list[float] | None = None

    @property
    def network(self) -> nn.Module:
        return self.model.module

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Note the time of every call of the network and of leaving, where there is a clock."""
        if (clock := self.clock) is None:
            yield
            return
        note = self.network.register_forward_pre_hook(lambda *_: clock.append(time.perf_counter()))
        try:
            yield
        finally:
            note.remove()
        clock.append(time.perf_counter())


# For each layer values [units, k] and the pictures' numbers [units, k], best first.
Found = dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]]
Engine = Callable[[Task], Found]


def seconds_per_batch(engine: Engine, task: Task) -> list[float]:
    """How long an engine takes from one call of the network to the next, and after the last to its end."""
    clock: list[float] = []
    engine(replace(task, clock=clock))
    return [after - before for before, after in pairwise(clock)]


def ours(task: Task) -> Found:
    """The loop of neurolab.mine over pictures in memory, with all that it keeps by default."""
    sites = [find_site(task.model, f"{layer}:out") for layer in task.layers]
    with task.timing(), Forward(task.model, sites, "max") as forward:
        kept = replace(KEPT, k=task.k)
        state = started(sites, task.warm or KEPT.sample, kept)
        for batch in task.pictures.batches(task.batch_size):
            reduced, _ = forward(batch)
            if task.warm and not state.images:
                warm_up(state, reduced, task.warm)
            state.take(batch, reduced)
        best = [state.sites[site.name].exemplars() for site in sites]
    return {
        layer: (arrays["values"].astype(np.float32), arrays["images"].astype(np.int64))
        for layer, arrays in zip(task.layers, best, strict=True)
    }


def semanticlens(task: Task) -> Found:
    """SemanticLens as its README has it, with its maximum over the map."""
    with quiet():
        from semanticlens.component_visualization import ActivationComponentVisualizer
        from semanticlens.component_visualization.aggregators import aggregate_conv_max

    known, of_data = vars(task.network).copy(), vars(task.pictures).copy()
    try:
        with tempfile.TemporaryDirectory() as folder, task.timing(), quiet():
            visualizer = ActivationComponentVisualizer(
                task.network,
                task.pictures,
                task.pictures,
                layer_names=list(task.layers),
                num_samples=task.k,
                aggregate_fn=aggregate_conv_max,
                cache_dir=folder,
            )
            visualizer.run(batch_size=task.batch_size)
    finally:  # it names what it is given
        for thing, before in ((task.network, known), (task.pictures, of_data)):
            for name in vars(thing).keys() - before.keys():
                delattr(thing, name)
    found = ((layer, visualizer.actmax_cache[layer]) for layer in task.layers)
    return {layer: (best.activations.float().numpy(), best.sample_ids.numpy()) for layer, best in found}


def crp(task: Task) -> Found:
    """zennit-crp's activation maximization alone, fed by forward hooks: to its favour, without the backward
    pass, the relevances and the statistics that its own run adds."""
    with quiet():
        from crp.concepts import ChannelConcept
        from crp.maximization import Maximization

    with tempfile.TemporaryDirectory() as folder, task.timing():
        best = Maximization("activation", "max", abs_norm=False, path=folder)
        best.SAMPLE_SIZE = task.k
        concept, numbers = ChannelConcept(), np.arange(0)

        def take(layer: str, output: Tensor) -> None:
            best.analyze_layer(output.detach(), concept, layer, numbers, np.zeros(len(numbers)))

        with hooks(task, take), torch.no_grad():
            first = 0
            for images, _ in DataLoader(task.pictures, task.batch_size):
                numbers = np.arange(first, first + len(images))
                task.network(images.to(task.model.device))
                first += len(images)
    return {
        layer: (best.rel_c_sorted[layer].T.cpu().numpy(), best.d_c_sorted[layer].T.cpu().numpy())
        for layer in task.layers
    }


def crp_run(task: Task) -> Found:
    """zennit-crp's FeatureVisualization.run: activations, relevances (here gradients) and statistics."""
    with quiet():
        from crp.attribution import CondAttribution
        from crp.concepts import ChannelConcept
        from crp.visualization import FeatureVisualization

    with tempfile.TemporaryDirectory() as folder, quiet(), contextlib.redirect_stdout(io.StringIO()):
        every = FeatureVisualization(
            CondAttribution(task.network),
            task.pictures,
            dict.fromkeys(task.layers, ChannelConcept()),
            max_target="max",
            abs_norm=False,
            path=folder,
        )
        for part in (every.ActMax, every.RelMax, every.ActStats, every.RelStats):
            part.SAMPLE_SIZE = task.k
        with task.timing():
            every.run(None, 0, len(task.pictures), task.batch_size)
        files = {layer: every.ActMax.PATH / layer for layer in task.layers}
        return {
            layer: (np.load(f"{path}_rel.npy").T.copy(), np.load(f"{path}_data.npy").T.copy())
            for layer, path in files.items()
        }


def save_all(task: Task) -> Found:
    """As CLIP-Dissect does it: keep every activation, save them by layer, and sort what was saved."""
    kept: dict[str, list[Tensor]] = {layer: [] for layer in task.layers}

    def take(layer: str, output: Tensor) -> None:
        kept[layer].append(output.amax(dim=[2, 3]).detach())

    with tempfile.TemporaryDirectory() as folder, task.timing():
        with hooks(task, take), torch.no_grad():
            for images, _ in DataLoader(task.pictures, task.batch_size):
                task.network(images.to(task.model.device))
        for layer in task.layers:
            torch.save(torch.cat(kept[layer]), Path(folder, f"{layer}.pt"))
        kept.clear()
        found: Found = {}
        for layer in task.layers:
            saved = torch.load(Path(folder, f"{layer}.pt"), map_location="cpu", weights_only=True)
            values, numbers = saved.topk(min(task.k, len(saved)), dim=0)
            found[layer] = values.T.numpy(), numbers.T.numpy()
    return found


def bare(task: Task) -> Found:
    """The network alone."""
    with task.timing(), torch.no_grad():
        for images, _ in DataLoader(task.pictures, task.batch_size):
            task.network(images.to(task.model.device))
    return {}


@contextmanager
def hooks(task: Task, take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Give every layer's output to `take`."""

    def hook(layer: str) -> Callable[..., None]:
        return lambda module, inputs, output: take(layer, output)

    handles = [task.network.get_submodule(name).register_forward_hook(hook(name)) for name in task.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# By the key of their row: the engine, the package that it needs, how the table calls it.
PEERS: dict[str, tuple[Engine, str, str]] = {
    "semanticlens": (semanticlens, "semanticlens", "SemanticLens"),
    "crp": (crp, "crp", "zennit-crp's maximization"),
    "crp_run": (crp_run, "crp", "zennit-crp's run"),
    "save_all": (save_all, "", "saving all activations, then sorting"),
}
ENGINES: dict[str, Engine] = {"ours": ours, "bare": bare, **{key: peer[0] for key, peer in PEERS.items()}}


def missing(package: str) -> str:
    """Why a package's engine cannot run; empty where it can."""
    names: Any = {"crp": "zennit-crp"}
    return "" if not package or is_installed(package) else f"{names.get(package, package)} is not installed"
