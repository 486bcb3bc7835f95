"""Commands that ask an atlas: SQL, units of images and texts, like units, images by relevance; and take it
elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from neurolab.analysis.hits import Hit
    from neurolab.atlas import Atlas

Sites = Annotated[
    list[str] | None, typer.Option("--site", help="Only units of this site; may be repeated. Default: all.")
]
Top = Annotated[int, typer.Option(help="How many units.")]


@app.command()
def query(
    atlas: AtlasFolder,
    sql: Annotated[str, typer.Argument(help="One SELECT over units, exemplars, images, pictures.")],
    csv: Annotated[
        Path | None, typer.Option(help="Write the rows to this CSV file instead of a table.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question in SQL, as "SELECT site, avg(max) FROM units GROUP BY site"."""
    from neurolab.atlas import open_atlas
    from neurolab.atlas.plain import json_rows, write_csv

    found = open_atlas(atlas).sql(sql)
    if csv:
        write_csv(csv, found.schema, found.to_batches())
        console.print(f"{found.num_rows} rows written to {csv}", highlight=False)
    if as_json:
        print(json.dumps(json_rows(found), indent=2, ensure_ascii=False))
    elif not csv:
        table = Table(box=None, header_style="bold")
        for name in found.column_names:
            table.add_column(escape(name), overflow="fold")
        for row in found.to_pylist():
            table.add_row(*(escape(cell(value)) for value in row.values()))
        console.print(table)


@app.command()
def units(
    atlas: AtlasFolder,
    image: Annotated[
        str | None, typer.Option(help="An image of the atlas: its key, or else its number.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Any picture, shown to the model.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="What the exemplars are to look like.")] = None,
    site: Sites = None,
    top: Top = 24,
    model: AtlasModel = None,
    weights: Weights = None,
    pretrained: Pretrained = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Find units: which have an image of the atlas as an exemplar, which does a picture excite, which are
    like a text."""
    from neurolab.analysis.holding import units_of_image
    from neurolab.analysis.search import units_excited_by, units_like_text
    from neurolab.atlas import open_atlas

    if [image, file, text].count(None) != 2:
        raise typer.BadParameter("ask by one of --image, --file and --text")
    opened = open_atlas(atlas)
    if image is not None:
        number = opened.find_image(image)
        return show(opened, units_of_image(opened, number, site, top), as_json)
    loaded = load_model_of(opened, model, weights, pretrained, device)
    if text is not None:
        return show(opened, units_like_text(opened, loaded, text, site, top), as_json)
    from neurolab.data.decode import decode_image

    assert file is not None
    picture = decode_image(file.read_bytes())
    show(opened, units_excited_by(opened, loaded, picture, site, top), as_json)


@app.command()
def similar(
    atlas: AtlasFolder,
    unit: Annotated[str, typer.Argument(help='A unit, as "layer4.1/89".')],
    by: Annotated[
        str, typer.Option(help="exemplars, sets, embedding, direction (with the model) or coactivation.")
    ] = "exemplars",
    site: Sites = None,
    top: Top = 24,
    model: AtlasModel = None,
    weights: Weights = None,
    pretrained: Pretrained = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Find the units that are most like a unit: by exemplars, by what these show, by weights, by activity."""
    from neurolab.analysis.similar import similar_units
    from neurolab.atlas import open_atlas

    opened = open_atlas(atlas)
    loaded = load_model_of(opened, model, weights, pretrained, device) if by == "direction" else None
    show(opened, similar_units(opened, unit, by, loaded, site, top), as_json)


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
    from neurolab.data.sources import open_source
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
    about = opened.manifest["source"]
    if not source and about["kind"] == "several":
        raise typer.BadParameter(
            f"the atlas is of several sources: name each by --source ({about['location']})"
        )
    # An atlas may be of the first records of its source only; bad ones count.
    images = open_source(source or about["location"]).limit(about["kept"] + about["skipped"])
    ranking = rank_by_relevance(
        *(loaded, images, site, target),
        units=[int(index)], k=top, method=method, batch_size=batch_size, workers=workers,
    )  # fmt: skip
    # Backwards: of an image that is several exemplars, the first counts.
    ranks = range(len(asked.exemplars), 0, -1)
    places = {asked.exemplars[rank - 1].image: rank for rank in ranks}
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


@app.command()
def export(
    atlas: AtlasFolder,
    out: Annotated[Path, typer.Argument(help="A new or an empty folder.")],
    format: Annotated[
        str, typer.Option(help="parquet, csv, or dataset (for Hugging Face datasets' load_from_disk).")
    ] = "parquet",
    site: Sites = None,
    top: Annotated[int | None, typer.Option(help="Only so many exemplars of each unit.")] = None,
) -> None:
    """Write units, exemplars, images and pictures in a format that other tools read."""
    from neurolab.atlas import open_atlas
    from neurolab.atlas.export import export as write
    from neurolab.progress import status

    with status(True, f"Exporting {atlas}"):
        write(open_atlas(atlas), out, format, sites=site, top=top)
    for path in sorted(out.iterdir()):
        console.print(f"{path}  {path.stat().st_size:,} bytes", highlight=False)


def show(atlas: Atlas, hits: Sequence[Hit], as_json: bool) -> None:
    """Print hits, with the columns that they have something in."""
    rows = [{name: value for name, value in asdict(hit).items() if value is not None} for hit in hits]
    if as_json:
        return print(json.dumps(rows, indent=2))
    if not rows:
        return console.print("no unit")
    table = Table(*rows[0], box=None, header_style="bold")
    for row in rows:
        name, _, index = row["unit"].rpartition("/")
        table.add_row(
            *(cell(value) for value in (row | {"unit": f"{atlas.site(name).short}/{index}"}).values())
        )
    console.print(table)


def cell(value: Any) -> str:
    """A value as it stands in a table."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"({len(value):,} bytes)" if isinstance(value, bytes) else "" if value is None else str(value)
