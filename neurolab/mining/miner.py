"""Mining: one pass over a source that finds what excites every unit of some sites."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal

from neurolab.atlas import Atlas
from neurolab.atlas.clearing import clear
from neurolab.atlas.manifest import MANIFEST, check_folder, describe_model
from neurolab.data.decode import ImageTransform
from neurolab.data.loader import load_batches
from neurolab.data.sources import Source, open_source
from neurolab.errors import AtlasError
from neurolab.memory import installed_memory
from neurolab.mining.cluster import Cluster, mine_on_ray
from neurolab.mining.concepts import Concepts
from neurolab.mining.identity import Identity, same_build, unfinished
from neurolab.mining.job import Job
from neurolab.mining.observations import check_number, count_per_image
from neurolab.mining.parts import Task
from neurolab.mining.remembered import Kept, at_most, bytes_per_unit
from neurolab.mining.selection import find_units
from neurolab.models.sites import Site
from neurolab.models.zoo import Model
from neurolab.progress import reporting, say, status


def mine(
    model: Model,
    source: str | Path | Source | Sequence[str | Path | Source],
    sites: str | Sequence[str],
    out: str | Path,
    *,
    units: Sequence[str] = (),
    k: int = Kept.k,
    batch_size: int = 64,
    workers: int | None = None,
    reduction: str = "max",
    bins: int = Kept.bins,
    sample: int = Kept.sample,
    limit: int | None = None,
    thumbnail: int | None = 160,
    device: str | torch.device | None = None,
    threads: int | None = None,
    precision: str = "float32",
    bottom: int = Kept.bottom,
    buckets: int = Kept.buckets,
    bucket_images: int = Kept.bucket_images,
    concepts: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    coactivation: int = Kept.coactivation,
    cluster: Cluster | None = None,
    progress: bool = True,
    checkpoint_seconds: float = 30,
    overwrite: bool = False,
) -> Atlas:
    """Find the `k` images of a source that excite each unit of some sites most, and how it fires otherwise.

    One pass over the source for all sites. Nothing is stored of an image but its row in the atlas; memory
    does not grow with their number. The state of the pass is saved every `checkpoint_seconds` and on Ctrl-C:
    called again after a kill, it goes on from there, and the files are the same to the byte as without the
    kill. Batches are fixed groups of the source, so the same device, precision and number of threads give the
    same bytes each time. A finished atlas of the same model, source and settings is returned as it is.

    source: what `neurolab.open_source` takes; limit: only its first records. sites: full or short names.
    units: "SITE/12", of sites of which only some are mined (sites may then be empty): others are in the atlas
    as if nothing had been seen of them. reduction: `max`, `mean`, `cls` or `center`, one number per image and
    unit, or `token`: of a transformer every patch token is an observation of its own, and where images are
    spoken of here, it is tokens that are kept, drawn and counted, with their places
    (`neurolab.atlas.reductions`). bins: of the histogram, between edges that the first `sample` images tell,
    and two more for what falls outside. bottom: how many images that excite a unit least are kept. buckets:
    levels of activation, of each of which `bucket_images` images are drawn at random (0: none;
    `neurolab.mining.buckets`). concepts: what the images of each level are counted by: texts, one of which
    the model itself takes an image for (zero-shot), or {label: values}. coactivation: how many random
    projections are kept of each unit, by which any two are correlated (0: none, else a multiple of 64; 512 is
    usual). thumbnail: longest side in pixels, None for none.

    device: where the model is moved first; threads: of torch, on the CPU (default: those of the build that is
    gone on with, or as torch is set, on a cluster less the workers). precision: what the network computes in,
    "float32", "bfloat16" or "float16"; values are float32. workers: decode processes (default: one less than
    there are processors, at most 8; for each actor of a cluster, 1). cluster: mine on Ray
    (`neurolab.mining.cluster`); the files are the same to the byte. overwrite: throw away what another build
    has left in `out`. Where the model gives image embeddings, they are kept as well, and each unit gets the
    mean of its exemplars'.

    Raises UnknownSiteError; SourceError when the source cannot be read or holds no readable image; AtlasError
    when `out` holds something else or is being written by another process, and for settings that cannot be.
    """
    sorts = Concepts.of(concepts, model)
    kept = Kept(
        k, bins, sample, bottom, buckets, bucket_images, len(sorts.names) if sorts else 0, coactivation
    )
    check_counts(batch_size, workers, threads, thumbnail)
    out = Path(out)
    check_folder(out)
    model = model if device is None else model.to(device)
    opened = open_source(source)
    opened = opened if limit is None else opened.limit(limit)
    chosen, only = find_units(model, sites, units, reduction)
    count = sum(len(only.get(site.name, range(site.units))) for site in chosen)
    if workers is None:
        workers = default_workers() if cluster is None else 1
    with status(progress, f"Hashing {opened.location}"):
        about = opened.describe()
    per_image = count_per_image(chosen, reduction)
    check_number(about["size"] or 0, per_image)
    memory = count * bytes_per_unit(at_most(kept, about["size"], max(per_image.values())))[0]
    if overwrite or not (out / MANIFEST).exists():  # what is finished needs none any more
        _check_memory(count, memory, kept)
    settings = {"batch_size": batch_size, "reduction": reduction, "thumbnail": thumbnail} | asdict(kept)
    if only:
        settings["units"] = {name: of.tolist() for name, of in only.items()}
    if sorts is not None:
        settings |= {"concept_label": sorts.column, "concept_names": list(sorts.names)}
    # An actor of a cluster has workers beside its threads: on a machine like this one there is room for both.
    usual = torch.get_num_threads() if cluster is None else max(1, torch.get_num_threads() - workers)
    identity = _identity(
        model, about, chosen, settings | {"precision": precision}, threads or _begun(out) or usual
    )
    atlas = same_build(out, identity, overwrite=overwrite)
    if atlas is not None:
        return atlas
    # What is gone on with keeps the names that it began with: its model and source may have been moved since.
    identity = unfinished(out) or identity
    by_name = {site.name: site for site in chosen}
    chosen = [by_name[name] for name in identity["settings"]["sites"]]
    transform = ImageTransform(model.image_size, model.resize_mode, model.interpolation, thumbnail)
    say(progress, f"{len(chosen)} sites, {count:,} units: {decimal(memory)} of memory for what is remembered")
    with ExitStack() as stack:
        stack.enter_context(torch_threads(identity["settings"]["threads"]))
        job = Job(model, chosen, out, identity, checkpoint_seconds, sorts, only)
        try:
            stack.enter_context(job)
        except AtlasError:
            if not overwrite:
                raise
            # It is the same build, but damaged.
            clear(out, before=model.weights_hash, after=model.weights_hash)
            stack.enter_context(job)
        what, behind = f"Mining {model.name}", job.state.records
        if behind:
            ready, every = len(job.state.finished), len(opened.shards())
            say(progress, f"Going on behind {behind:,} images: {ready:,} of {every:,} shards are finished")
        whole, begun = job.state.finished, job.state.shards
        opened.recall({row.name: row.records for row in whole}, {row.name: row.records for row in begun})
        reporter = stack.enter_context(reporting(progress, what, about["size"], behind))
        if cluster is None:
            done = job.state.done
            job.run(
                load_batches(opened, transform, batch_size=batch_size, workers=workers, done=done), reporter
            )
        else:
            task = Task(opened, transform, batch_size, kept, workers, sorts)
            job.run_parts(mine_on_ray(cluster, job.forward, task, identity["settings"], job.state), reporter)
        return job.finish()


def _check_memory(units: int, needed: int, kept: Kept) -> None:
    """AtlasError where the machine has not so many bytes as so many units need."""
    there = installed_memory()
    if there is not None and needed > there:
        raise AtlasError(
            f"{units:,} units need {decimal(needed)} of memory for what is remembered of them, and this "
            f"machine has {decimal(there)}: keep less of each (k is {kept.k:,}, sample {kept.sample:,}, "
            f"bucket_images {kept.bucket_images:,}, coactivation {kept.coactivation:,}), or mine fewer units "
            "at a time"
        )


def _identity(
    model: Model, source: dict[str, Any], sites: Sequence[Site], settings: dict[str, Any], threads: int
) -> Identity:
    """What the build is made from."""
    engine = {"device": model.device.type, "threads": threads, "torch": torch.__version__}
    return {
        "model": describe_model(model),
        "source": source,
        "settings": settings | {"sites": [site.name for site in sites]} | engine,
    }


def _begun(out: Path) -> int | None:
    """The number of threads of the build that is gone on with; None where there is none."""
    threads = (unfinished(out) or {}).get("settings", {}).get("threads")
    return None if threads is None else int(threads)


def check_counts(batch_size: int, workers: int | None, threads: int | None, thumbnail: int | None) -> None:
    """AtlasError for numbers with which nothing can be mined."""
    least = {"batch_size": (batch_size, 1), "threads": (threads, 1), "thumbnail": (thumbnail, 1)}
    for name, (count, bound) in {**least, "workers": (workers, 0)}.items():
        if count is not None and count < bound:
            raise AtlasError(f"{name} is at least {bound}, not {count}; leave it out for what is usual")


def default_workers() -> int:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, count - 1))


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Inside, torch has so many threads; as many as before where that is None."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
