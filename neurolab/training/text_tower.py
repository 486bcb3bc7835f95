"""Fit the pocket's text tower to the teacher's image space (locked-image tuning, Zhai et al. 2022)."""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn

from neurolab.training.distil import Prepared, learning_rate, parameter_groups
from neurolab.training.recipe import Recipe

log = logging.getLogger(__name__)

# A name alone, and in the phrases that people classify with (CLIP's own templates among them).
TEMPLATES = {
    "name": ["a photo of a {}", "a photo of the {}", "a photo of a {}.", "a picture of a {}", "{}", "a {}"],
    "drawing": ["a drawing of a {}", "a drawing of {}", "an emoji of a {}", "{}", "a cartoon {}"],
    "word": [
        "{}",
        'the word "{}"',
        'the word "{}" written on a sign',
        "text that says {}",
        'a label that says "{}"',
    ],
    "photo": ["{}"],
    "caption": ["{}"],
}


class TextPairs:
    """Texts with the image each belongs to, grouped by what the text names.

    Two rows of one batch never share a text: InfoNCE would push one picture of an albatross away from the
    word albatross because another is in the batch.
    """

    def __init__(self, folders: list[Path], starts: np.ndarray):
        self.rows: list[tuple[str, list[str], list[int]]] = []
        for folder, start in zip(folders, starts, strict=False):
            table = pq.read_table(folder / "texts.parquet").to_pylist()
            by_text: dict[tuple[str, str], list[int]] = defaultdict(list)
            by_image: dict[int, list[str]] = defaultdict(list)
            for row in table:
                by_text[row["kind"], row["text"]].append(row["image"] + int(start))
                by_image[row["image"]].append(row["text"])
            kinds = {kind for kind, _ in by_text}
            if kinds == {"caption"}:
                self.rows += [("caption", texts, [image + int(start)]) for image, texts in by_image.items()]
            else:
                self.rows += [(kind, [text], images) for (kind, text), images in by_text.items()]

    def epoch(
        self, batch_size: int, rng: random.Random, repeats: dict[str, int]
    ) -> Iterator[tuple[list[str], list[int]]]:
        """Batches of (texts, image indices); `repeats` says how often a row of a kind comes in an epoch."""
        order = [row for row in self.rows for _ in range(repeats.get(row[0], 1))]
        rng.shuffle(order)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            chosen: dict[str, int] = {}
            for kind, texts, images in order[start : start + batch_size]:
                text = rng.choice(TEMPLATES[kind]).format(rng.choice(texts))
                chosen.setdefault(text, rng.choice(images))
            yield list(chosen), list(chosen.values())


def encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """open_clip's CLIP.encode_text on tokens cut to the batch's longest text; attention is causal and the
    embedding is read at the end token, so the padding that is cut changes nothing but the time."""
    length = int((tokens != 0).sum(dim=1).max())
    tokens = tokens[:, :length]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ model.text_projection


def train_text_tower(
    model: CLIP,
    tokenizer: Callable[[list[str]], Tensor],
    recipe: Recipe,
    data: Prepared,
    folders: list[Path],
    device: str = "cpu",
) -> None:
    """Train the text tower of an open_clip CLIP in place; the image side is never touched.

    The loss is InfoNCE in both directions between texts and the teacher's image embeddings, at a fixed
    temperature. The embeddings keep their mean: a text's dot product with it is that text's bias, which
    zero-shot classification with the plain cosine needs to be calibrated.
    """
    pairs = TextPairs(folders, data.starts)
    repeats = {"caption": 2, "name": 8, "drawing": 2, "photo": 2, "word": 1}
    parameters = [p for name, p in model.named_parameters() if not name.startswith("visual.")]
    for parameter in parameters:
        parameter.requires_grad_(True)
    rng = random.Random(recipe.seed)
    per_epoch = sum(repeats.get(kind, 1) for kind, _, _ in pairs.rows) // recipe.text_batch_size
    total, step = per_epoch * recipe.text_epochs, 0
    text_side = nn.ModuleDict(
        {"transformer": model.transformer, "ln": model.ln_final, "tokens": model.token_embedding}
    )
    groups = parameter_groups(text_side, recipe.weight_decay)
    groups[1]["params"] = [*groups[1]["params"], model.positional_embedding, model.text_projection]  # type: ignore[misc]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    model.to(device).train()
    for epoch in range(recipe.text_epochs):
        began, losses = time.perf_counter(), []
        for texts, images in pairs.epoch(recipe.text_batch_size, rng, repeats):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, total, recipe.text_learning_rate)
            embedded = F.normalize(encode_text(model, tokenizer(texts).to(device)), dim=-1)
            keys = data.embeddings[images].to(device)
            logits = embedded @ keys.T / recipe.text_temperature
            target = torch.arange(len(logits), device=device)
            loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
            if step % 20 == 0:
                log.info("text step %d of %d, loss %.4f", step, total, np.mean(losses[-20:]))
        log.info("text epoch %d, loss %.4f, %.0f s", epoch, np.mean(losses), time.perf_counter() - began)
    model.eval()
