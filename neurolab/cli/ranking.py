"""The command that ranks a unit's images by what it did in them, beside by how strongly it fired."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from neurolab.cli.options import (
    AsJson,
    AtlasFolder,
    AtlasModel,
    Device,
    Pretrained,
    Weights,
    app,
    console,
    load_model_of,
)


@app.command()
def relevant(
    atlas: AtlasFolder,
    unit: Annotated[str, typer.Argument(help='A unit, as "layer4.1/89".')],
    text: Annotated[str | None, typer.Option(help="Relevance to this text, by the text tower.")] = None,
    logit: Annotated[
        int | None, typer.Option(help="Relevance to a classifier's class, by its number.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Where the atlas's images are now; may be repeated.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="gradient: gradient x activation; integrated: integrated gradients.")
    ] = "gradient",
    top: Annotated[int, typer.Option(help="How many images.")] = 24,
    batch_size: Annotated[int, typer.Option(help="Images computed together.")] = 32,
    workers: Annotated[int, typer.Option(help="Decode processes.")] = 0,
    model: AtlasModel = None,
    weights: Weights = None,
    pretrained: Pretrained = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Rank images by how much a unit did in them for a text or a class, and not by how strongly it fired."""
    from neurolab.atlas import open_atlas
    from neurolab.mining.relevance import METHODS, rank_by_relevance
    from neurolab.mining.targets import Logit, Target, Text

    if (text is None) == (logit is None):
        raise typer.BadParameter("relevant to what? Say --text or --logit, one of them")
    if method not in METHODS:
        raise typer.BadParameter(f"--method is one of {', '.join(METHODS)}, not {method}")
    opened = open_atlas(atlas)
    asked = opened.unit(unit)
    site, _, index = asked.name.rpartition("/")
    loaded = load_model_of(opened, model, weights, pretrained, device)
    target: Target = Text(text) if text is not None else Logit(int(logit or 0))
    ranking = rank_by_relevance(
        *(loaded, source or opened.manifest["source"]["location"], site, target),
        units=[int(index)], k=top, method=method, batch_size=batch_size, workers=workers,
    )  # fmt: skip
    places = {exemplar.image: place for place, exemplar in enumerate(asked.exemplars, 1)}
    rows = [
        {"image": image.key, "relevance": image.value, "exemplar": places.get(image.image)}
        for image in ranking.exemplars(opened, int(index))
    ]
    if as_json:
        return print(json.dumps(rows, indent=2, ensure_ascii=False))
    table = Table("image", "relevance", "exemplar", box=None, header_style="bold")
    for row in rows:
        place = "–" if row["exemplar"] is None else f"no. {row['exemplar']}"
        table.add_row(escape(str(row["image"])), f"{row['relevance']:.4g}", place)
    table.caption = f"relevance of {unit} to {target}, and each image's place among the unit's exemplars"
    console.print(table)
