"""Commands that train models of the project's own."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from neurolab.cli.options import (
    Device,
    console,
    train,
)

if TYPE_CHECKING:
    from neurolab.measure import Measure


@train.command("pocket")
def train_pocket(
    data: Annotated[
        Path, typer.Option(help="The training data (the README says which).", envvar="NEUROLAB_DATA")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder; a run that was stopped goes on there. Default: runs/RECIPE."),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help='"reduced" (2 CPU cores), "full" (a GPU), or a recipe in a JSON file.')
    ] = "reduced",
    teacher: Annotated[
        Path | None, typer.Option(help="The CLIP ViT-B/16 image tower.", envvar="NEUROLAB_CLIP_B16")
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Only measure: the pocket that ships, or the one in --out.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the measured numbers to this file.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Train the pocket by distilling CLIP ViT-B/16, or measure the one that there is.

    On several GPUs: accelerate launch -m neurolab train pocket --recipe full --device cuda
    """
    from accelerate import PartialState

    from neurolab.models.pocket import pocket_folder
    from neurolab.training.evaluate import measure_pocket, write_measures
    from neurolab.training.pocket import teacher_for, train_pocket
    from neurolab.training.recipe import Recipe

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if evaluate:
        folder = out or pocket_folder()
    else:
        chosen = Recipe.load(recipe)
        folder = train_pocket(chosen, data, out or Path("runs") / chosen.name, teacher=teacher, device=device)
        if not PartialState().is_main_process:
            return
    measures = measure_pocket(folder, data, teacher=teacher_for(teacher, device) if teacher else None)
    if not evaluate:
        write_measures(measures, folder / "measures.md")
    console.print(measures_table(measures))
    if json_file:
        json_file.write_text(json.dumps({m.name: m.value for m in measures}, indent=2) + "\n")


def measures_table(measures: Sequence[Measure]) -> Table:
    from neurolab.measure import interval, shown

    table = Table("measure", "value", "95 % interval", "chance", "items", box=None, header_style="bold")
    for m in measures:
        table.add_row(m.name, shown(m.value), interval(m), shown(m.chance), str(m.items or "–"))
    table.caption = "\n".join(dict.fromkeys(f"not measured: {m.note}" for m in measures if m.note))
    return table
