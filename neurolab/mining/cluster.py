"""Mining on a Ray cluster: runs of spans of the source go out to actors, and parts come back in order.

A part has the summaries of all units, so it is large: some 10 KB of a unit, however many images it is of.
Runs are long where there are many images, for their activations would be larger than that.
"""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurolab.data.sources import Shard
from neurolab.errors import NeurolabError
from neurolab.mining.checkpoint import MiningState
from neurolab.mining.forward import Forward
from neurolab.mining.parts import Part, Span, Task, runs, spans
from neurolab.models.sites import find_site
from neurolab.models.zoo import Model

Edges = Mapping[str, NDArray[np.float64]]
GROUPS_OF_RUN = 16, 256  # at least and at most: what is lost where an actor dies, and read again
RETRIES = 3  # of a run whose actor died
RUNS_OF_ACTOR = 8  # if there are enough groups: so that all actors end at about the same time


@dataclass(frozen=True)
class Cluster:
    """Where to mine: the address of a Ray cluster ("auto": the one that this machine belongs to; None: one
    is started here), and how many actors, each with a model of its own (None: as many as there is room for).
    """

    address: str | None = None
    actors: int | None = None


def require_ray() -> Any:
    """The module ray; NeurolabError that says how to get it where it is not installed."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise NeurolabError(
            f"mining on a cluster needs Ray ({error}): pip install 'neurolab[ray]' on every machine of it"
        ) from error
    return ray


@dataclass(frozen=True)
class Order:
    """What an actor is told: which runs of spans of a source there are, and how to mine them."""

    model: Any  # a reference to it in Ray's store
    sites: tuple[str, ...]
    only: Mapping[str, NDArray[np.int64]]
    task: Task
    settings: Mapping[str, Any]
    runs: tuple[Sequence[Span], ...]
    edges: Edges | None


class Miner:
    """The actor: a model, loaded once, that mines the runs it is given the numbers of."""

    def __init__(self, order: Order) -> None:
        import ray

        torch.set_num_threads(order.settings["threads"])
        model: Model = ray.get(order.model).to(order.settings["device"])
        sites = [find_site(model, site) for site in order.sites]
        reduction, precision = order.settings["reduction"], order.settings["precision"]
        self.order = order
        self.forward = Forward(model, sites, reduction, precision, order.only).__enter__()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part: Part | NeurolabError
        try:
            part = self.order.task.mine(self.forward, self.order.runs[row["id"]], self.order.edges)
        except NeurolabError as error:
            part = error  # of what is raised here, Ray Data would leave the text only
        # Both ends are processes of one program; what is unpickled comes from no file.
        return {"part": pickle.dumps(part, pickle.HIGHEST_PROTOCOL)}


def mine_on_ray(
    cluster: Cluster,
    forward: Forward,
    task: Task,
    settings: Mapping[str, Any],
    state: MiningState,
) -> Iterator[Part]:
    """The parts of all that `state` leaves of a source, in its order, mined by actors on a Ray cluster.

    forward: what each of them does, with a copy of its model; it is not entered here. Each part must be taken
    into `state` before the next is asked for. The first images are mined before the others, group by group:
    they tell the edges of the histograms, which all must share. An actor that dies is started again and its
    run mined anew; what Ray sends back of a run are its summaries and the rows of its images. Raises
    NeurolabError where Ray is not installed, or no node of its cluster has room for an actor; what an actor
    raises of neurolab's own errors is raised here.
    """
    ray = require_ray()
    with _connected(ray, cluster.address):
        yield from _mine(ray, cluster.actors, forward, task, settings, state)


def _mine(
    ray: Any,
    actors: int | None,
    forward: Forward,
    task: Task,
    settings: Mapping[str, Any],
    state: MiningState,
) -> Iterator[Part]:
    needs = {
        "num_cpus": settings["threads"] + task.workers,
        "num_gpus": 1 if settings["device"] == "cuda" else 0,
    }
    count = _room(ray, needs, actors)
    order = Order(
        model=ray.put(replace(_on_cpu(forward.model), tokenizer=None)),
        sites=tuple(site.name for site in forward.sites),
        only=forward.only,
        task=task,
        settings=dict(settings),
        runs=(),
        edges=None,
    )
    shards = task.source.shards()

    def mined(chosen: Sequence[Sequence[Span]], edges: Edges | None) -> Iterator[Part]:
        pool = ray.data.ActorPoolStrategy(size=min(count, len(chosen)))
        told = {"order": replace(order, runs=tuple(chosen), edges=edges)}
        with _ordered(ray):
            # Rows that are there already: to make them, as `ray.data.range` does, takes a CPU that actors may
            # have taken all.
            rows = [{"id": number} for number in range(len(chosen))]
            numbers = ray.data.from_items(rows, override_num_blocks=len(rows))
            parts = numbers.map(
                Miner,
                fn_constructor_kwargs=told,
                compute=pool,
                ray_remote_args_fn=lambda: {"max_task_retries": RETRIES},
                **needs,
            )
            came = 0
            try:
                for row in parts.iter_rows():
                    part = pickle.loads(row["part"])
                    if isinstance(part, NeurolabError):
                        raise part
                    yield part
                    came += 1
            except ray.exceptions.RayError as error:
                if not _is_death(ray, error):
                    raise
                raise _lost(chosen[came:], error) from error

    while state.edges() is None and (chosen := _first(shards, state, task)):
        yield from mined([[span] for span in chosen], None)
    rest = list(spans(shards, state.done, task.batch_size, GROUPS_OF_RUN[0]))
    if rest:
        yield from mined(list(runs(rest, _groups_of_run(rest, count))), state.edges())


def _is_death(ray: Any, error: BaseException | None) -> bool:
    """Whether an actor, its worker or its node died, and not a call in it."""
    names = ("RayActorError", "WorkerCrashedError", "OutOfMemoryError", "NodeDiedError")
    kinds = tuple(getattr(ray.exceptions, name) for name in names if hasattr(ray.exceptions, name))
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__
    return error is not None


def _lost(left: Sequence[Sequence[Span]], error: Exception) -> NeurolabError:
    """What to say when Ray has given up on some of the runs that are left."""
    first = left[0][0] if left else None
    where = f"at or behind batch {first.first} of {first.shard.name}" if first else "at the end"
    why = (str(error).strip() or repr(error)).splitlines()[0]
    return NeurolabError(
        f"actors died {RETRIES + 1} times over the same images, {where}: {why}. What came before is kept: "
        "see to the machines (is their memory short?), or look for the image without --ray, and start the "
        "same build again"
    )


def _groups_of_run(rest: Sequence[Span], actors: int) -> int:
    """How many groups an actor is given at once."""
    least, most = GROUPS_OF_RUN
    return min(max(sum(span.groups for span in rest) // (actors * RUNS_OF_ACTOR), least), most)


def _first(shards: Sequence[Shard], state: MiningState, task: Task) -> list[Span]:
    """The next groups, as many as the edges of the histograms still need, if no image of them is bad."""
    per_image = min(state.per_image.values(), default=1)  # the sample is of observations
    wanted = max(1, -(-(task.kept.sample - state.images * per_image) // (task.batch_size * per_image)))
    chosen: list[Span] = []
    for span in islice(spans(shards, state.done, task.batch_size, 1, wanted), wanted):
        chosen.append(span)
        if span.shard.size is None:
            break  # whether the next shard comes next is not known before this one was read
    return chosen


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Inside, Ray runs; a connection or cluster that was not there before ends with the block."""
    if ray.is_initialized():
        yield
        return
    ray.init(address=address, log_to_driver=False, configure_logging=False, include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


def _on_cpu(model: Model) -> Model:
    if model.device.type == "cpu":
        return model
    return replace(model, module=copy.deepcopy(model.module).to("cpu"))


def _room(ray: Any, needs: Mapping[str, int], asked: int | None) -> int:
    """How many actors there is room for, each on one node, up to those asked for."""
    units = {"num_cpus": "CPU", "num_gpus": "GPU"}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(
        min(int(node.get(units[name], 0) // count) for name, count in needs.items() if count)
        for node in nodes
    )
    if room < 1:
        has = "; ".join(
            ", ".join(f"{node.get(unit, 0):g} {unit}" for unit in units.values()) for node in nodes
        )
        raise NeurolabError(
            f"no node of the Ray cluster has room: they have {has}; an actor needs {needs['num_cpus']} CPU "
            f"(threads and decode workers) and {needs['num_gpus']} GPU: give fewer threads or workers, or a "
            "larger node"
        )
    return room if asked is None else min(asked, room)


@contextmanager
def _ordered(ray: Any) -> Iterator[None]:
    """Ray Data gives rows in the order they were asked for, and draws no bars of its own, inside."""
    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        context.execution_options.preserve_order, context.enable_progress_bars = before
