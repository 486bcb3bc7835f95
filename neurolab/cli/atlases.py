"""Commands about models and atlases: what sites there are, looking at what was found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from neurolab.cli.options import (
    AsJson,
    AtlasFolder,
    ModelName,
    Pretrained,
    Weights,
    app,
    console,
    load,
)

if TYPE_CHECKING:
    from neurolab.atlas.findings import Report


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
def info(
    atlas: AtlasFolder,
    as_json: AsJson = False,
) -> None:
    """Say what an atlas holds: model, weights hash, source hash, images, units, exemplars, pictures."""
    from neurolab.atlas import open_atlas

    summary = open_atlas(atlas).summary()
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        print_summary(summary)


@app.command()
def check(
    atlas: AtlasFolder,
    as_json: AsJson = False,
) -> None:
    """Read an atlas from end to end and say what is damaged, missing or foreign in it; exit code 1 if so."""
    from neurolab.atlas.checking import check as examine
    from neurolab.progress import status

    with status(not as_json, f"Checking {atlas}"):
        report = examine(atlas)
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print_report(report)
    raise typer.Exit(0 if report.sound else 1)


def print_report(report: Report) -> None:
    if report.findings:
        table = Table("file", "what is wrong", "what to do", box=None, header_style="bold")
        for finding in report.findings:
            table.add_row(*(escape(text) for text in (finding.file, finding.problem, finding.remedy)))
        console.print(table)
    for note in report.notes:
        console.print(f"note: {escape(note)}", highlight=False)
    wrong = "nothing is wrong" if report.sound else f"{len(report.findings)} things are wrong"
    console.print(
        f"{wrong}; {report.files} files of {report.bytes:,} bytes are as they were written", highlight=False
    )


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
    atlas: AtlasFolder,
    port: Annotated[int | None, typer.Option(help="Port of the web server.")] = None,
    headless: Annotated[bool, typer.Option(help="Do not open a browser.")] = False,
    weights: Weights = None,
    pretrained: Pretrained = None,
) -> None:
    """Browse an atlas in a web browser."""
    from neurolab.explorer import launch

    raise typer.Exit(launch(atlas, port=port, headless=headless, weights=weights, pretrained=pretrained))
