"""Commands that judge pictures and show them together: scores, sheets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from neurolab.cli.options import (
    MODEL_HELP,
    AsJson,
    AtlasFolder,
    AtlasModel,
    Device,
    Pretrained,
    Weights,
    app,
    console,
    load,
    load_model_of,
)

if TYPE_CHECKING:
    from neurolab.measure import Measure


@app.command()
def score(
    atlas: AtlasFolder,
    model: AtlasModel = None,
    weights: Weights = None,
    pretrained: Pretrained = None,
    second: Annotated[
        str | None, typer.Option(help=f"Another model, to tell whether pictures transfer. {MODEL_HELP}")
    ] = None,
    second_weights: Annotated[Path | None, typer.Option(help="A checkpoint of the second model.")] = None,
    second_pretrained: Annotated[str | None, typer.Option(help="A tag of the hub for it.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help='Only pictures of this kind, as "maco"; may be repeated.')
    ] = None,
    draws: Annotated[int, typer.Option(help="Random views of each picture.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the views, and of what pictures are compared with.")] = 0,
    noise: Annotated[bool, typer.Option(help="Score white noise, too, to compare with.")] = True,
    device: Device = "cpu",
    figure: Annotated[
        Path | None, typer.Option(help="Draw the methods side by side into this file (png, pdf, svg).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how well an atlas's pictures show what excites their units, and keep the scores with them."""
    from neurolab.atlas import open_atlas
    from neurolab.featurevis.scores import score_atlas
    from neurolab.figures.methods import method_scores, methods_figure
    from neurolab.figures.saving import DRAWINGS, save_figure

    if figure:
        require_ending(figure, DRAWINGS)  # before minutes of work
    if second is None and (second_weights or second_pretrained):
        raise typer.BadParameter("weights of a second model, but no model: name it with --second")
    opened = open_atlas(atlas)
    own = load_model_of(opened, model, weights, pretrained, device)
    other = load(second, second_weights, second_pretrained, device) if second else None
    rows = score_atlas(opened, own, second=other, kinds=kind, noise=noise, draws=draws, seed=seed)
    if figure:
        save_figure(methods_figure(rows), figure)
    scores = method_scores(rows)
    if as_json:
        numbers = {
            method: {m.name: {"mean": m.value, "low": m.low, "high": m.high, "units": m.items} for m in every}
            for method, every in ((method, of_method.values()) for method, of_method in scores.items())
        }
        return print(json.dumps(numbers, indent=2))
    console.print(scores_table(scores))


def require_ending(path: Path, endings: tuple[str, ...]) -> None:
    from neurolab.figures.saving import check_ending

    try:
        check_ending(path, endings)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def scores_table(scores: Mapping[str, Mapping[str, Measure]]) -> Table:
    """One row per method, one column per score: the mean over units and its interval."""
    from neurolab.figures.methods import panels_of

    names = [panel.score for panel in panels_of(scores)]
    heads = [name.replace("_", "\n") for name in names]
    table = Table("method", *heads, box=None, header_style="bold", padding=(0, 1, 0, 0))

    def cell(m: Measure) -> str:
        digits = 2 if m.high is not None and m.high < 10 else 1
        return f"{m.value:.{digits + 1}f}\n[dim]{m.low:.{digits}f}–{m.high:.{digits}f}[/]"

    for method, row in scores.items():
        units = max(measure.items for measure in row.values())
        cells = [cell(row[name]) if name in row else "–" for name in names]
        table.add_row(f"{method} ({units})", *cells)
    table.caption = "method (units): means over units, with 95 % bootstrap intervals"
    return table


@app.command()
def sheet(
    atlas: AtlasFolder,
    out: Annotated[Path, typer.Option(help="The image to write: png, jpg or webp.")] = Path("sheet.png"),
    site: Annotated[
        str | None, typer.Option(help="By its short or full name. Default: the deepest with pictures.")
    ] = None,
    count: Annotated[int, typer.Option(help="Units, from the most selective.")] = 24,
    kind: Annotated[
        list[str] | None, typer.Option(help='Only pictures of this kind, as "maco"; may be repeated.')
    ] = None,
    exemplars: Annotated[int, typer.Option(help="Exemplars of each unit.")] = 4,
    columns: Annotated[int, typer.Option(help="Units beside each other.")] = 2,
) -> None:
    """Draw a sheet of units: their exemplars, and what every method draws of them."""
    from neurolab.atlas import open_atlas
    from neurolab.figures.saving import IMAGES, save_figure
    from neurolab.figures.sheet import units_sheet

    require_ending(out, IMAGES)
    drawn = units_sheet(
        open_atlas(atlas), site, count=count, kinds=kind, exemplars=exemplars, columns=columns
    )
    console.print(str(save_figure(drawn, out)))
