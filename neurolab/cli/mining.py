"""Commands that mine: an atlas of a source, and what it would take."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from neurolab.cli.atlases import print_summary
from neurolab.cli.options import MODEL_HELP, AsJson, Device, Pretrained, Weights, app, load

if TYPE_CHECKING:
    from neurolab.mining.plan import Plan
    from neurolab.mining.precision import PrecisionEffect

Sources = Annotated[
    list[str], typer.Option(help='A folder, tar shards, Parquet, "hf:NAME" or "demo"; may be repeated.')
]
MinedModel = Annotated[str, typer.Option(help=MODEL_HELP)]
Sites = Annotated[
    list[str] | None,
    typer.Option(help="A site by its short or full name; may be repeated. Default: the last ones."),
]
Top = Annotated[int, typer.Option(help="Exemplars kept per unit.")]
Bottom = Annotated[int, typer.Option(help="Images kept per unit that excite it least.")]
Drawn = Annotated[
    int, typer.Option(help="Images drawn at random from each level of activation of a unit; 0 for none.")
]
CoActivation = Annotated[
    int, typer.Option(help="Random projections kept per unit, to correlate any two: 0, or 512.")
]
Units = Annotated[
    list[str] | None, typer.Option(help="Mine only this unit of its site, SITE/12; may be repeated.")
]
ConceptTexts = Annotated[
    list[str] | None,
    typer.Option(help="A text: images are counted by the one that fits best; to be repeated."),
]
Threads = Annotated[int | None, typer.Option(help="Threads of the model.")]
Limit = Annotated[int | None, typer.Option(help="Use only the first images of the source.")]
Reduction = Annotated[str, typer.Option(help="max, mean, cls, center, or token (every patch by itself).")]
BatchSize = Annotated[int, typer.Option(help="Images per batch; part of what makes the bytes repeatable.")]
Workers = Annotated[int | None, typer.Option(help="Decode processes.")]
Precision = Annotated[str, typer.Option(help="What the network computes in: float32, bfloat16 or float16.")]


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="The atlas's folder; a build that was stopped goes on there.")],
    source: Sources,
    model: MinedModel = "pocket",
    weights: Weights = None,
    pretrained: Pretrained = None,
    site: Sites = None,
    unit: Units = None,
    top: Top = 100,
    bottom: Bottom = 9,
    drawn: Drawn = 16,
    coactivation: CoActivation = 0,
    concept: ConceptTexts = None,
    reduction: Reduction = "max",
    batch_size: BatchSize = 64,
    workers: Workers = None,
    threads: Threads = None,
    precision: Precision = "float32",
    limit: Limit = None,
    device: Device = "cpu",
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help='Mine on a Ray cluster: "auto" for the one of this machine, "local" to start one here.',
        ),
    ] = None,
    actors: Annotated[int | None, typer.Option(help="Models on the cluster. Default: all that fit.")] = None,
    checkpoint_seconds: Annotated[float, typer.Option(help="Time between checkpoints.")] = 30.0,
    overwrite: Annotated[
        bool, typer.Option(help="Throw away what another build left in the folder.")
    ] = False,
) -> None:
    """Mine the dataset examples of every unit of some sites into an atlas, in one pass over the source."""
    from neurolab.mining.cluster import Cluster
    from neurolab.mining.miner import mine
    from neurolab.models.sites import default_sites

    if actors is not None and ray is None:
        raise typer.BadParameter("actors are those of a Ray cluster: name it with --ray")
    loaded = load(model, weights, pretrained, device)
    atlas = mine(
        loaded,
        source,
        site or ([] if unit else default_sites(loaded)),
        out,
        units=unit or (),
        k=top,
        bottom=bottom,
        bucket_images=drawn,
        coactivation=coactivation,
        concepts=concept,
        reduction=reduction,
        batch_size=batch_size,
        workers=workers,
        threads=threads,
        precision=precision,
        limit=limit,
        cluster=None if ray is None else Cluster(ray, actors),
        checkpoint_seconds=checkpoint_seconds,
        overwrite=overwrite,
    )
    print_summary(atlas.summary())


@app.command()
def plan(
    source: Sources,
    model: MinedModel = "pocket",
    weights: Weights = None,
    pretrained: Pretrained = None,
    site: Sites = None,
    unit: Units = None,
    top: Top = 100,
    bottom: Bottom = 9,
    drawn: Drawn = 16,
    coactivation: CoActivation = 0,
    concept: ConceptTexts = None,
    reduction: Reduction = "max",
    batch_size: BatchSize = 64,
    workers: Workers = None,
    threads: Threads = None,
    precision: Precision = "float32",
    limit: Limit = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Say what a build would take, in memory, on the disk and in time, from a short probe; writes nothing."""
    from neurolab.mining import plan as planning
    from neurolab.mining.remembered import Kept
    from neurolab.models.sites import default_sites

    loaded = load(model, weights, pretrained, device)
    found = planning.plan(
        loaded,
        source,
        site or ([] if unit else default_sites(loaded)),
        units=unit or (),
        kept=Kept(k=top, bottom=bottom, bucket_images=drawn, coactivation=coactivation),
        concepts=concept,
        batch_size=batch_size,
        workers=workers,
        threads=threads,
        reduction=reduction,
        precision=precision,
        limit=limit,
    )
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    else:
        print_summary(plan_rows(found))


def plan_rows(found: Plan) -> dict[str, Any]:
    """A plan as people read it."""
    unknown = "unknown: a stream"
    return {
        "sites": found.sites,
        "units": f"{found.units:,}",
        "images": unknown if found.images is None else f"{found.images:,}",
        "memory": f"{decimal(found.memory)} for what is remembered, {decimal(found.saving)} more to save it",
        "activations": f"{decimal(found.activations)} for what is held of a batch's maps",
        "disk": unknown if found.disk is None else decimal(found.disk),
        "speed": f"{found.images_per_second:.1f} images/s",
        "time": unknown if found.seconds is None else str(timedelta(seconds=round(found.seconds))),
    } | ({"precision": effect_text(found.effect)} if found.effect else {})


def effect_text(effect: PrecisionEffect) -> str:
    """What a precision changes, in a sentence."""
    return (
        f"{effect.precision} runs the network {effect.speed:.2f} times as fast as float32; values are off by "
        f"{effect.error:.3f} sd (95 % of the units: by less than {effect.error_95:.3f}), and of the tenth of "
        f"{effect.images} images that excites a unit most {100 * effect.same:.1f} % is the same"
    )
