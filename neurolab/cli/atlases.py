"""Commands about models and atlases: what sites there are, mining, looking at what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from neurolab.cli.options import (
    MODEL_HELP,
    AsJson,
    Device,
    ModelName,
    Pretrained,
    Weights,
    app,
    console,
    load,
)


@app.command()
def sites(
    model: ModelName = "pocket",
    pattern: Annotated[str | None, typer.Option(help="Show only sites whose name contains this.")] = None,
    all_modules: Annotated[
        bool, typer.Option("--all", help="Every module, not only the usual sites.")
    ] = False,
    weights: Weights = None,
    pretrained: Pretrained = None,
    as_json: AsJson = False,
) -> None:
    """List the sites of a model: short name, units and map shape, in the order they are computed."""
    from neurolab.models.sites import list_sites

    if weights is None and pretrained is None and model != "pocket":
        pretrained = "random"  # names and shapes do not depend on the weights
    found = list_sites(load(model, weights, pretrained), pattern, all_modules=all_modules)
    if as_json:
        rows = [
            {"name": s.name, "short": s.short, "kind": s.kind, "units": s.units, "shape": s.shape}
            for s in found
        ]
        return print(json.dumps(rows, indent=2))
    table = Table("short name", "site", "kind", "units", "map", box=None, header_style="bold")
    for site in found:
        shape = " x ".join(map(str, site.shape)) + (" tokens" if site.layout == "tokens" else "")
        table.add_row(site.short, site.name, site.kind, str(site.units), shape)
    console.print(table)


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="The atlas's folder; a build that was stopped goes on there.")],
    source: Annotated[
        list[str], typer.Option(help='A folder, tar shards, Parquet, "hf:NAME" or "demo"; may be repeated.')
    ],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "pocket",
    weights: Weights = None,
    pretrained: Pretrained = None,
    site: Annotated[
        list[str] | None,
        typer.Option(help="A site by its short or full name; may be repeated. Default: the last ones."),
    ] = None,
    top: Annotated[int, typer.Option(help="Exemplars kept per unit.")] = 100,
    reduction: Annotated[str, typer.Option(help="max, mean, cls or center.")] = "max",
    batch_size: Annotated[
        int, typer.Option(help="Images per batch; part of what makes the bytes repeatable.")
    ] = 64,
    workers: Annotated[int | None, typer.Option(help="Decode processes.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the model.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first images of the source.")] = None,
    device: Device = "cpu",
    checkpoint_seconds: Annotated[float, typer.Option(help="Time between checkpoints.")] = 30.0,
    overwrite: Annotated[
        bool, typer.Option(help="Throw away what another build left in the folder.")
    ] = False,
) -> None:
    """Mine the dataset examples of every unit of some sites into an atlas, in one pass over the source."""
    from neurolab.mining.miner import mine
    from neurolab.models.sites import default_sites

    loaded = load(model, weights, pretrained, device)
    atlas = mine(
        loaded,
        source if len(source) > 1 else source[0],
        site or default_sites(loaded),
        out,
        k=top,
        reduction=reduction,
        batch_size=batch_size,
        workers=workers,
        threads=threads,
        limit=limit,
        checkpoint_seconds=checkpoint_seconds,
        overwrite=overwrite,
    )
    print_summary(atlas.summary())


@app.command()
def info(
    atlas: Annotated[Path, typer.Argument(help="The atlas's folder.")],
    as_json: AsJson = False,
) -> None:
    """Say what an atlas holds: model, weights hash, source hash, images, units, exemplars, pictures."""
    from neurolab.atlas import open_atlas

    summary = open_atlas(atlas).summary()
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        print_summary(summary)


def print_summary(summary: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in summary.items():
        shown = "\n".join(f"{k}  {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(key.replace("_", " "), shown)
    console.print(table)


@app.command()
def explore(
    atlas: Annotated[Path, typer.Argument(help="The atlas's folder.")],
    port: Annotated[int | None, typer.Option(help="Port of the web server.")] = None,
    headless: Annotated[bool, typer.Option(help="Do not open a browser.")] = False,
    weights: Weights = None,
    pretrained: Pretrained = None,
) -> None:
    """Browse an atlas in a web browser."""
    from neurolab.explorer import launch

    raise typer.Exit(launch(atlas, port=port, headless=headless, weights=weights, pretrained=pretrained))
