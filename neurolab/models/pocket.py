"""The pocket: the small CLIP that ships with neurolab, an ordinary open_clip model in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurolab.errors import UnknownModelError
from neurolab.shipped import shipped

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

    from neurolab.models.zoo import Model

CONFIG, WEIGHTS, TOKENIZER = "config.json", "weights.safetensors", "bpe.txt.gz"


def pocket_folder() -> Path:
    """Where the pocket lies: in the installed package, or in assets/ of a checkout."""
    try:
        return shipped(f"pocket/{CONFIG}").parent
    except FileNotFoundError as error:
        raise UnknownModelError(f"{error}, or make the pocket with `neurolab train pocket`") from error


def read_config(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / CONFIG).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UnknownModelError(f"{folder / CONFIG} cannot be read: {error}") from error


def tokenizer_from(folder: Path) -> SimpleTokenizer:
    """open_clip's byte-pair tokenizer with the folder's own, shorter list of merges."""
    from open_clip.tokenizer import SimpleTokenizer

    context = read_config(folder)["model_cfg"]["text_cfg"]["context_length"]
    return SimpleTokenizer(str(folder / TOKENIZER), context_length=context)


def load_pocket(folder: str | Path | None = None, *, weights: Path | None = None) -> Model:
    """The pocket, or a model of the same format in another folder; `weights` replaces the folder's own."""
    from neurolab.models.checkpoints import fit, read_state_dict
    from neurolab.models.loading import build, pair
    from neurolab.models.zoo import Model

    folder = pocket_folder() if folder is None else Path(folder)
    config = read_config(folder)
    shape, seen = config["model_cfg"], config["preprocess_cfg"]
    path = weights or folder / WEIGHTS
    module = build(shape, "the pocket")
    fit(module, read_state_dict(path), str(path), "the pocket")
    return Model(
        module,
        "pocket",
        pair(module.visual.image_size),
        mean=tuple(seen["mean"]),
        std=tuple(seen["std"]),
        resize_mode=seen["resize_mode"],
        interpolation=seen["interpolation"],
        tokenizer=tokenizer_from(folder),
    )
