"""What a build will take, before it is begun: memory and disk from its settings, time from a short probe."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from neurolab.data.decode import ImageTransform
from neurolab.data.items import Batch, Item
from neurolab.data.loader import load_batches
from neurolab.data.sources import Source, open_source
from neurolab.errors import SourceError
from neurolab.mining.checkpoint import fresh_state
from neurolab.mining.concepts import Concepts
from neurolab.mining.forward import Forward
from neurolab.mining.miner import check_counts, default_workers, torch_threads
from neurolab.mining.observations import check_number, count_per_image
from neurolab.mining.precision import PrecisionEffect, effect_of_precision
from neurolab.mining.remembered import Kept, at_most, bytes_per_unit
from neurolab.mining.selection import find_units
from neurolab.models.sites import Site
from neurolab.models.zoo import Model

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Plan:
    """What a build will take.

    units: that are mined; the others of their sites take room on the disk alone. images: of the source, bad
    ones included; None for a stream, and with it what depends on it. memory: bytes of the summaries, at most,
    and saving: about so many more while the state is saved, site by site. activations: bytes, on the device,
    of the largest map of one batch, for maps are not kept; with the reduction `token` of the tokens of all
    sites, which are. disk: bytes of the atlas. images_per_second: of the probe, so `seconds` are what is left
    if it goes on like that; on a GPU that of decoding and the network alone: the host has more to do than
    these in the first some ten thousand images of a pass, and less later. effect: of a precision other than
    float32, on the probe's images.
    """

    sites: int
    units: int
    images: int | None
    memory: int
    saving: int
    activations: int
    disk: int | None
    images_per_second: float
    seconds: float | None
    effect: PrecisionEffect | None = None


def plan(
    model: Model,
    source: str | Path | Source | Sequence[str | Path | Source],
    sites: str | Sequence[str],
    *,
    units: Sequence[str] = (),
    kept: Kept | None = None,
    concepts: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    threads: int | None = None,
    limit: int | None = None,
    reduction: str = "max",
    thumbnail: int | None = 160,
    precision: str = "float32",
    probe: int = 3,
) -> Plan:
    """What `mine` with these settings, named as there, will take.

    The first `probe` batches are mined for it, one more before them, and nothing is written. SourceError
    where these hold no readable image.
    """
    check_counts(batch_size, workers, threads, thumbnail)
    sorts = Concepts.of(concepts, model)
    kept = kept or Kept()
    kept = replace(kept, concepts=len(sorts.names)) if sorts else kept
    opened = open_source(source)
    opened = opened if limit is None else opened.limit(limit)
    chosen, only = find_units(model, sites, units, reduction)
    transform = ImageTransform(model.image_size, model.resize_mode, model.interpolation, thumbnail)
    workers = default_workers() if workers is None else workers
    forward = Forward(model, chosen, reduction, precision, only)
    per_image = count_per_image(chosen, reduction)
    check_number(opened.size() or 0, per_image)
    state = fresh_state(forward.sites, kept, per_image=per_image)
    batches = load_batches(opened, transform, batch_size=batch_size, workers=workers)
    row_bytes: list[int] = []
    probed: list[Batch] = []
    with torch_threads(threads), forward, closing(batches):  # type: ignore[type-var]
        clock = [(time.perf_counter(), 0)]  # and how many records were done
        for batch in islice(batches, probe + 1):
            reduced, embeddings = forward(batch) if batch.items else ({}, None)
            numbers = sorts.numbers(batch.items, embeddings) if sorts else None
            # On a GPU the host takes in what there is for it while the next batch is computed.
            state.take(batch, {} if forward.runs_ahead else reduced, numbers)
            row_bytes += [_row_bytes(item) for item in batch.items]
            clock.append((time.perf_counter(), state.records))
            if precision != "float32":
                probed.append(batch)
    if not row_bytes:
        raise SourceError(f"the first images of {opened.location} cannot be read: nothing to plan by")
    effect = None
    if probed:
        with torch_threads(threads):
            effect = effect_of_precision(model, chosen, probed, reduction, precision)
    # The first batch warms up, unless there is no other.
    (began, before), (ended, done) = clock[min(1, len(clock) - 2)], clock[-1]
    rate = (done - before) / (ended - began)
    images, mined, written = opened.size(), *(sum(s.units for s in of) for of in (forward.sites, chosen))
    embedding = 2 * (forward.embedding_dim or 0)
    most = max(per_image.values())
    in_memory, on_disk = bytes_per_unit(at_most(kept, images, most), most)
    image_bytes = float(np.mean(row_bytes)) + embedding
    return Plan(
        sites=len(chosen),
        units=mined,
        images=images,
        memory=mined * in_memory,
        saving=max(site.units for site in forward.sites) * in_memory,
        activations=batch_size * FLOAT * _held(chosen, reduction),
        disk=None if images is None else round(written * (on_disk + embedding) + images * image_bytes),
        images_per_second=rate,
        seconds=None if images is None else images / rate,
        effect=effect,
    )


def _held(sites: Sequence[Site], reduction: str) -> int:
    """How many values of an image are held at a time."""
    if reduction == "token":
        return sum(site.units * (site.shape[0] - site.prefix_tokens) for site in sites)
    return max(site.units * int(np.prod(site.shape)) for site in sites)


def _row_bytes(item: Item) -> int:
    """Of an image's row in the atlas, without its embedding."""
    return len(item.thumbnail) + sum(len(text) for text in (item.key, *item.captions, *item.labels.values()))
