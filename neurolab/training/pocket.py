"""The whole recipe of the pocket: prepare, distil the image tower, fit the text tower, write, measure."""

from __future__ import annotations

import dataclasses
import logging
import os
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from neurolab.atlas.writing import atomic_write_bytes
from neurolab.errors import SourceError, TrainingError
from neurolab.memory import keep_freed_memory
from neurolab.models.devices import find_device
from neurolab.models.pocket import CONFIG, TOKENIZER, WEIGHTS, tokenizer_from
from neurolab.models.zoo import Model, load_model
from neurolab.training.dataset import Prepared
from neurolab.training.distil import Distillation
from neurolab.training.export import write_config, write_tokenizer, write_weights
from neurolab.training.parts import TrainingData
from neurolab.training.prepare import Teacher, prepare_part
from neurolab.training.recipe import PartPlan, Recipe
from neurolab.training.stretch import stretch
from neurolab.training.text_pairs import TextPairs
from neurolab.training.text_tower import train_text_tower
from neurolab.training.whitening import whiten_texts

log = logging.getLogger(__name__)

TEACHER = "ViT-B-16-quickgelu"


def new_clip(recipe: Recipe) -> CLIP:
    """An untrained CLIP of the recipe, the same for the same seed."""
    torch.manual_seed(recipe.seed)
    return CLIP(
        embed_dim=recipe.embed_dim,
        vision_cfg=CLIPVisionCfg(**recipe.vision),
        text_cfg=CLIPTextCfg(**recipe.text),
        quick_gelu=False,
    )


def teacher_for(weights: Path | None, device: str | torch.device) -> Teacher:
    """The CLIP ViT-B/16 image tower, loaded when it is asked; SourceError then, without its checkpoint."""

    def load() -> Model:
        if weights is None:
            raise SourceError("some pictures have no teacher embedding yet: pass --teacher FILE")
        return load_model(TEACHER, weights=weights, device=device)

    return Teacher(load)


def accelerator_for(device: str, mixed_precision: str) -> Accelerator:
    """accelerate's handle on the device; TrainingError where it is not the one that was asked for.

    Processes wait for each other for up to three hours, as one may have more shards left to prepare.
    """
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=3))
    asked = find_device(device)
    cpu = asked.type == "cpu"
    accelerator = Accelerator(mixed_precision=mixed_precision, cpu=cpu, kwargs_handlers=[patience])
    found = accelerator.device
    if asked.type != found.type or (asked.index is not None and asked.index != found.index):
        raise TrainingError(
            f"{device} was asked for, and accelerate gives {found}: check that it is there, and choose among "
            "several with CUDA_VISIBLE_DEVICES or accelerate launch"
        )
    return accelerator


def prepare(recipe: Recipe, data: Path, folder: Path, teacher: Teacher, accelerator: Accelerator) -> Prepared:
    """Prepare every part of the recipe that is not there yet, shared out among the processes."""
    parts = TrainingData(data).parts()
    if unknown := recipe.parts.keys() - parts.keys():
        raise TrainingError(f"no part is called {', '.join(unknown)}: there are {', '.join(parts)}")
    write = partial(
        prepare_part,
        folder=folder,
        size=recipe.prepared_size,
        embed=teacher,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
        threads=max(1, (os.cpu_count() or 1) // accelerator.num_processes),
    )
    folders = [write(parts[name], plan) for name, plan in recipe.parts.items()]
    accelerator.wait_for_everyone()
    return Prepared([folder for folder in folders if folder])


def train_pocket(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    teacher: Path | None = None,
    device: str = "cpu",
    limit: int | None = None,
    workers: int | None = None,
) -> Path:
    """Run the recipe on `data` (the layout of NEUROLAB_DATA) and write the model to the folder `out`.

    What is finished is not done again: prepared shards, epochs of the image tower. `teacher` is a checkpoint
    of the CLIP ViT-B/16 image tower and is read only where pictures have no known embedding yet. `limit` cuts
    every part, for a trial run. `workers` processes read pictures ahead (default: 8 for a GPU, none for the
    CPU). Started by `accelerate launch`, every process takes its share.
    Raises SourceError where the teacher is needed and missing, TrainingError where `out` holds another run.
    """
    if limit is not None:
        cut = {
            name: PartPlan(min(limit, plan.images or limit), plan.views)
            for name, plan in recipe.parts.items()
        }
        recipe = dataclasses.replace(recipe, parts=cut)
    accelerator = accelerator_for(device, recipe.mixed_precision)
    on_cpu = accelerator.device.type == "cpu"
    if on_cpu:
        keep_freed_memory()
    if workers is None:
        workers = 0 if on_cpu else 8
    clip = new_clip(recipe)  # here, so that a misspelt setting of a tower is known before hours of training
    embed = teacher_for(teacher, accelerator.device)
    prepared = prepare(recipe, data, out / "prepared", embed, accelerator)
    log.info("%d images in %s", len(prepared), ", ".join(prepared.names))
    pairs = TextPairs(prepared, recipe)
    state = Distillation(recipe, prepared, out, accelerator, workers).train()
    clip.visual.load_state_dict(state)
    stretch(clip.visual, prepared, recipe.vision["image_size"], recipe.stretch, recipe.seed)
    if accelerator.is_main_process:
        write_config(out / CONFIG, recipe)
        write_tokenizer(out / TOKENIZER, recipe.text["vocab_size"])
    accelerator.wait_for_everyone()
    train_text_tower(clip, tokenizer_from(out), recipe, pairs, accelerator)
    whiten_texts(clip, prepared, recipe.text_whitening)
    if accelerator.is_main_process:
        write_weights(out / WEIGHTS, clip.state_dict())
        atomic_write_bytes(out / "recipe.json", (recipe.to_json() + "\n").encode())
    accelerator.wait_for_everyone()
    return out
