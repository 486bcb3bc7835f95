"""What the commands have in common: the app, and options that many of them take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from neurolab.atlas import Atlas
    from neurolab.models.zoo import Model

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="The command line: one thin command per job. The logic lives in the rooms.",
    pretty_exceptions_enable=False,
)
train = typer.Typer(no_args_is_help=True, help="Train models of the project's own.")
app.add_typer(train, name="train")
facet_app = typer.Typer(no_args_is_help=True, help="Themes to draw units in: as text, as photos, as faces.")
app.add_typer(facet_app, name="facet")
console = Console()

MODEL_HELP = 'An open_clip architecture, "pocket", "torchvision:NAME" or "timm:NAME".'
ATLAS_MODEL_HELP = f"The atlas's model, where it is not found by itself. {MODEL_HELP}"
ModelName = Annotated[str, typer.Argument(help=MODEL_HELP)]
Weights = Annotated[
    Path | None, typer.Option(help="A checkpoint: safetensors, or a state dict saved by torch.")
]
Pretrained = Annotated[str | None, typer.Option(help='A tag of the model hub, as "openai".')]
Device = Annotated[str, typer.Option(help='Where to compute: "cpu", "cuda", "cuda:1", "mps".')]
AtlasFolder = Annotated[Path, typer.Argument(help="The atlas's folder.")]
AtlasModel = Annotated[str | None, typer.Option("--model", help=ATLAS_MODEL_HELP)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def load(name: str, weights: Path | None, pretrained: str | None, device: str = "cpu") -> Model:
    from neurolab.models.zoo import load_model

    return load_model(name, weights=weights, pretrained=pretrained, device=device)


def load_model_of(
    atlas: Atlas, name: str | None, weights: Path | None, pretrained: str | None, device: str = "cpu"
) -> Model:
    """The model that an atlas was made of, as it says itself, or as it is told here."""
    about = atlas.manifest["model"]
    if pretrained is None and name is None and weights is None:
        pretrained = about.get("pretrained")
    return load(name or about["name"], weights, pretrained, device)
