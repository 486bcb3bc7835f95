"""The command line: one thin command per job. The logic lives in the rooms."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from neurolab.errors import NeurolabError

if TYPE_CHECKING:
    from neurolab.measure import Measure
    from neurolab.models.zoo import Model

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help=__doc__,
    pretty_exceptions_enable=False,
)
train = typer.Typer(no_args_is_help=True, help="Train models of the project's own.")
app.add_typer(train, name="train")
facet_app = typer.Typer(no_args_is_help=True, help="Themes to draw units in: as text, as photos, as faces.")
app.add_typer(facet_app, name="facet")
console = Console()

MODEL_HELP = 'An open_clip architecture, "pocket", "torchvision:NAME" or "timm:NAME".'
ModelName = Annotated[str, typer.Argument(help=MODEL_HELP)]
Weights = Annotated[
    Path | None, typer.Option(help="A checkpoint: safetensors, or a state dict saved by torch.")
]
Pretrained = Annotated[str | None, typer.Option(help='A tag of the model hub, as "openai".')]
Device = Annotated[str, typer.Option(help='Where to compute: "cpu", "cuda", "cuda:1", "mps".')]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def load(name: str, weights: Path | None, pretrained: str | None, device: str = "cpu") -> Model:
    from neurolab.models.zoo import load_model

    return load_model(name, weights=weights, pretrained=pretrained, device=device)


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
def render(
    model: ModelName = "pocket",
    units: Annotated[list[str] | None, typer.Argument(help='Units, as "layer4.1/89".')] = None,
    weights: Weights = None,
    pretrained: Pretrained = None,
    atlas: Annotated[
        Path | None,
        typer.Option(help="Keep the pictures in this atlas; without units, draw its most selective ones."),
    ] = None,
    count: Annotated[int, typer.Option(help="How many units to draw where none is named.")] = 48,
    out: Annotated[Path, typer.Option(help="Where PNG files go without an atlas.")] = Path("pictures"),
    method: Annotated[
        str, typer.Option(help='How to draw: "fourier", "maco", "pyramid", "cppn", "vit" or "pixels".')
    ] = "fourier",
    facet: Annotated[
        str | None,
        typer.Option(help='The theme to draw in: "text", "photo", ... for the pocket, or a facet\'s file.'),
    ] = None,
    strength: Annotated[float, typer.Option(help="How strongly the facet pulls.")] = 1.0,
    alpha: Annotated[bool, typer.Option("--alpha", help="Draw with transparency.")] = False,
    spectrum: Annotated[
        Path | None, typer.Option(help="For maco: what `neurolab spectrum` wrote. Default: the demo set's.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of gradient ascent.")] = 256,
    size: Annotated[
        int | None, typer.Option(help="Side of the picture in pixels; default: the model's input.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every picture.")] = 0,
    device: Device = "cpu",
) -> None:
    """Draw what excites units, by gradient ascent on an image (feature visualization)."""
    from neurolab.analysis.selectivity import most_selective
    from neurolab.atlas import open_atlas
    from neurolab.atlas.matching import require_model
    from neurolab.featurevis.methods import find_method, maco
    from neurolab.featurevis.render import render as draw
    from neurolab.featurevis.spectrum import Spectrum

    if spectrum and method != "maco":
        raise typer.BadParameter("only maco draws with a spectrum")
    try:
        chosen = maco(Spectrum.load(spectrum)) if spectrum else find_method(method)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    opened = open_atlas(atlas) if atlas else None
    loaded = load(model, weights, pretrained, device)
    if opened:
        require_model(opened, loaded)
    if not units:
        if opened is None:
            raise typer.BadParameter("name units to draw, or an atlas whose most selective units to draw")
        units = [
            unit for site in opened.sites for unit in most_selective(opened, site, count // len(opened.sites))
        ]
    pictures = draw(
        loaded,
        units,
        method=chosen,
        size=size,
        seed=seed,
        steps=steps,
        facet=facet,
        strength=strength,
        alpha=alpha,
    )
    if opened:
        opened.add_pictures(pictures)
        console.print(f"{len(pictures)} pictures added to {atlas}")
    for picture in [] if opened else pictures:
        path = out / (picture.name.replace("/", "-").replace(":", ".") + ".png")
        picture.save(path)
        console.print(str(path))


@app.command()
def spectrum(
    source: Annotated[str, typer.Argument(help='A folder, tar shards, Parquet, "hf:NAME" or "demo".')],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("spectrum.npz"),
    side: Annotated[int, typer.Option(help="Images are reduced to squares of so many pixels.")] = 128,
    limit: Annotated[int | None, typer.Option(help="Use only the first images of the source.")] = None,
    workers: Annotated[int, typer.Option(help="Decode processes.")] = 0,
) -> None:
    """Measure the mean Fourier spectrum of a source's images, which `render --method maco` draws with."""
    from neurolab.featurevis.spectrum import mean_spectrum

    found = mean_spectrum(source, side=side, limit=limit, workers=workers)
    found.save(out)
    console.print(f"{out}: the mean of {found.images} images, {found.side} x {found.side} pixels")


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


@app.command()
def score(
    atlas: Annotated[Path, typer.Argument(help="The atlas's folder.")],
    model: Annotated[
        str | None, typer.Option(help=f"The atlas's model, where it is not found by itself. {MODEL_HELP}")
    ] = None,
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
    about = opened.manifest["model"]
    found = pretrained or (about.get("pretrained") if model is None and weights is None else None)
    own = load(model or about["name"], weights, found, device)
    other = load(second, second_weights, second_pretrained, device) if second else None
    rows = score_atlas(opened, own, second=other, kinds=kind, draws=draws, seed=seed)
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
    atlas: Annotated[Path, typer.Argument(help="The atlas's folder.")],
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


@facet_app.command("train")
def facet_train(
    name: Annotated[str, typer.Argument(help="What the facet is called.")],
    positive: Annotated[
        list[str],
        typer.Option(
            help='Images of the theme: a source, as "photos/" or "demo[kind=word]"; may be repeated.'
        ),
    ],
    negative: Annotated[list[str], typer.Option(help="Images of anything else; may be repeated.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "pocket",
    weights: Weights = None,
    pretrained: Pretrained = None,
    site: Annotated[
        list[str] | None,
        typer.Option(help="Where the probes read; may be repeated. Default: the middle of the network."),
    ] = None,
    spatial: Annotated[
        int, typer.Option(help="0: the theme may be anywhere; n: probes of n x n places.")
    ] = 0,
    limit: Annotated[
        int | None, typer.Option(help="Use only the first images of the theme, and of the others.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which images are held out.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The file to write; default: facets/NAME.npz.")] = None,
    device: Device = "cpu",
) -> None:
    """Train a facet: probes that tell images of a theme from others, which `render --facet` draws with."""
    from neurolab.featurevis.facet_probes import train_facet

    loaded = load(model, weights, pretrained, device)
    facet = train_facet(name, loaded, positive, negative, sites=site, spatial=spatial, limit=limit, seed=seed)
    path = facet.save(out or Path("facets") / f"{name}.npz")
    table = Table("site", "held-out accuracy", box=None, header_style="bold")
    for where, accuracy in facet.accuracy.items():
        table.add_row(where, f"{accuracy:.3f}")
    theme, others = facet.about["images"]
    table.caption = (
        f"{path}: {theme} images of the theme, {others} others, {facet.about['held_out']} held out"
    )
    console.print(table)


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


def main() -> None:
    """Run the command line; errors of neurolab's own end with their message and exit code 1."""
    try:
        app()
    except NeurolabError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", highlight=False, markup=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
