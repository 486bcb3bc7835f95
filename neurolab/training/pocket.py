"""The whole recipe of the pocket: prepare, distil the image tower, fit the text tower, write, measure."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from neurolab.atlas.writing import atomic_write_bytes
from neurolab.errors import SourceError
from neurolab.models.pocket import CONFIG, TOKENIZER, WEIGHTS, load_pocket, tokenizer_from
from neurolab.models.zoo import Model, load_model
from neurolab.training.distil import Prepared, train_image_tower
from neurolab.training.evaluate import Measure, evaluate
from neurolab.training.export import measure_table, write_config, write_tokenizer, write_weights
from neurolab.training.prepare import prepare
from neurolab.training.recipe import Recipe
from neurolab.training.text_tower import train_text_tower

log = logging.getLogger(__name__)

TEACHER = "ViT-B-16-quickgelu"
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


def new_clip(recipe: Recipe) -> CLIP:
    """An untrained CLIP of the recipe, the same for the same seed."""
    torch.manual_seed(recipe.seed)
    return CLIP(
        embed_dim=recipe.embed_dim,
        vision_cfg=CLIPVisionCfg(**recipe.vision),
        text_cfg=CLIPTextCfg(**recipe.text),
        quick_gelu=False,
    )


def train_pocket(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    teacher: Path | None = None,
    device: str = "cpu",
    limit: int | None = None,
) -> Path:
    """Run the recipe on `data` (the layout of NEUROLAB_DATA) and write the model to the folder `out`.

    What is finished is not done again: prepared parts, epochs of the image tower. `teacher` is a checkpoint
    of the CLIP ViT-B/16 image tower and is read only where images have no known embedding yet.
    Raises SourceError where it is needed and missing.
    """

    @cache
    def load_teacher() -> Model:
        if teacher is None:
            raise SourceError("part of the training images has no teacher embedding: pass --teacher FILE")
        return load_model(TEACHER, weights=teacher)

    folders = prepare(data, out / "prepared", recipe.prepared_size, load_teacher, limit)
    prepared = Prepared(folders)
    log.info("%d images in %s", len(prepared), ", ".join(prepared.names))
    write_config(out / CONFIG, recipe)
    write_tokenizer(out / TOKENIZER, recipe.text["vocab_size"])
    clip = new_clip(recipe)
    clip.visual.load_state_dict(train_image_tower(recipe, prepared, out, MEAN, STD, device))
    tokenizer = tokenizer_from(out)
    train_text_tower(clip, tokenizer, recipe, prepared, folders, device)
    write_weights(out / WEIGHTS, clip.state_dict())
    atomic_write_bytes(out / "recipe.json", (recipe.to_json() + "\n").encode())
    return out


def measure_pocket(folder: Path, data: Path) -> list[Measure]:
    """Measure the pocket in `folder` on held-out data; the numbers are kept beside it as measures.md."""
    measures = evaluate(load_pocket(folder), data)
    atomic_write_bytes(folder / "measures.md", (measure_table(measures) + "\n").encode())
    return measures
