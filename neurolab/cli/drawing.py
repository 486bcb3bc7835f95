"""Commands that draw units: pictures, spectra, facets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from neurolab.cli.options import (
    MODEL_HELP,
    Device,
    ModelName,
    Pretrained,
    Weights,
    app,
    console,
    facet_app,
    load,
)


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
    precision: Annotated[
        str, typer.Option(help='What the network computes in: "float32", or "bfloat16" on a GPU.')
    ] = "float32",
    record: Annotated[
        bool | None,
        typer.Option(help="Record a step and repeat it, which is faster; default: in runs of many steps."),
    ] = None,
) -> None:
    """Draw what excites units, by gradient ascent on an image (feature visualization)."""
    from neurolab.analysis.selectivity import most_selective
    from neurolab.atlas import open_atlas
    from neurolab.atlas.matching import require_model
    from neurolab.featurevis.ascent import PRECISIONS
    from neurolab.featurevis.methods import find_method, maco
    from neurolab.featurevis.render import render as draw
    from neurolab.featurevis.spectrum import Spectrum

    if spectrum and method != "maco":
        raise typer.BadParameter("only maco draws with a spectrum")
    try:
        chosen = maco(Spectrum.load(spectrum)) if spectrum else find_method(method)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if precision not in PRECISIONS:
        raise typer.BadParameter(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
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
        precision=precision,
        record=record,
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
