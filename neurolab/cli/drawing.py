"""Commands that draw units: pictures, spectra, facets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

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

Number = TypeVar("Number", int, float)


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
    out: Annotated[
        Path,
        typer.Option(help="Where PNG files go without an atlas; each method, facet and seed has its own."),
    ] = Path("pictures"),
    method: Annotated[
        str,
        typer.Option(help='How to draw: "fourier", "maco", "pyramid", "cppn", "shared", "vit" or "pixels".'),
    ] = "fourier",
    facet: Annotated[
        str | None,
        typer.Option(help='The theme to draw in: "text", "photo", ... for the pocket, or a facet\'s file.'),
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="How strongly the facet pulls; repeated, for each unit in turn. Default: 1."),
    ] = None,
    rectified: Annotated[
        bool,
        typer.Option(help="Let the facet see only what raises the objective, as the article's code does."),
    ] = True,
    alpha: Annotated[bool, typer.Option("--alpha", help="Draw with transparency.")] = False,
    spectrum: Annotated[
        Path | None, typer.Option(help="For maco: what `neurolab spectrum` wrote. Default: the demo set's.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of gradient ascent.")] = 256,
    size: Annotated[
        str | None,
        typer.Option(help="Pixels of the picture: a side, or HEIGHTxWIDTH; default: the model's input."),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(help="Seed of every picture; repeated, for each unit in turn. Default: 0."),
    ] = None,
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
        share = max(1, count // len(opened.sites))
        units = [unit for site in opened.sites for unit in most_selective(opened, site, share)]
    elif opened:
        for unit in units:
            opened.unit(unit)  # which says so before anything is drawn for it
    pictures = draw(
        loaded,
        units,
        method=chosen,
        size=as_size(size),
        seed=one_or_each("seed", seed or [0], units),
        steps=steps,
        facet=facet,
        strength=one_or_each("strength", strength or [1.0], units),
        rectified=rectified,
        alpha=alpha,
        precision=precision,
        record=record,
    )
    if opened:
        opened.add_pictures(pictures)
        console.print(f"{len(pictures)} pictures added to {atlas}")
    for picture in [] if opened else pictures:
        console.print(str(picture.save(out / picture.file_name)))


def as_size(given: str | None) -> int | tuple[int, int] | None:
    """A size as `render` has it, of "224" or "200x300"."""
    if given is None:
        return None
    sides = given.lower().split("x")
    if not all(side.isdecimal() and int(side) for side in sides) or len(sides) > 2:
        raise typer.BadParameter(f'size is a number of pixels, or HEIGHTxWIDTH as "200x300", not {given!r}')
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def one_or_each(what: str, given: Sequence[Number], units: Sequence[str]) -> Number | Sequence[Number]:
    """One number for all units, or one for each."""
    if len(given) not in (1, len(units)):
        raise typer.BadParameter(
            f"{len(given)} times --{what} for {len(units)} units: give one, or one for each"
        )
    return given[0] if len(given) == 1 else given


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
