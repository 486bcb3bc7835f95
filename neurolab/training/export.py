"""Write the pocket's folder: configuration, weights, tokenizer."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from neurolab.atlas.writing import atomic_write_bytes
from neurolab.training.distil import MEAN, STD
from neurolab.training.recipe import Recipe


def write_tokenizer(path: Path, vocab_size: int) -> None:
    """CLIP's byte-pair encoding cut to its first merges, in the format of open_clip's SimpleTokenizer.

    Merges are learned in order of frequency, so their beginning is itself the byte-pair encoding of a
    smaller vocabulary: 512 byte symbols, the merges, and the start and end tokens.
    """
    from open_clip.tokenizer import default_bpe

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    kept = lines[: 1 + vocab_size - 512 - 2]  # the first line is a version header
    atomic_write_bytes(path, gzip.compress("\n".join(kept).encode(), mtime=0))


def write_weights(path: Path, state: dict[str, Tensor]) -> None:
    """The state dict as float16 safetensors, names sorted, so that the same weights give the same bytes."""
    half = {
        name: value.detach().cpu().to(torch.float16).contiguous() if value.is_floating_point() else value
        for name, value in sorted(state.items())
        if name != "attn_mask" and not name.endswith("num_batches_tracked")
    }
    atomic_write_bytes(path, save(half))


def write_config(path: Path, recipe: Recipe) -> None:
    config: dict[str, Any] = {
        "model_cfg": recipe.model_config(),
        "preprocess_cfg": {
            "mean": list(MEAN),
            "std": list(STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    atomic_write_bytes(path, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
