"""Fit the pocket's text tower to the teacher's image space (locked-image tuning, Zhai et al. 2022)."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from open_clip.model import CLIP
from torch import Tensor, nn

from neurolab.training.distil import Geometry
from neurolab.training.optimizer import learning_rate, optimizer_for
from neurolab.training.recipe import Recipe
from neurolab.training.text_pairs import TextPairs

log = logging.getLogger(__name__)


def encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """open_clip's CLIP.encode_text on tokens cut to the batch's longest text; attention is causal and the
    embedding is read at the end token, so the padding that is cut changes nothing but the time."""
    length = int(tokens.argmax(dim=1).max()) + 1
    tokens = tokens[:, :length]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ model.text_projection


class TextTower(nn.Module):
    """The text side of a CLIP alone: what is trained, and nothing of the image side."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.transformer, self.ln_final, self.token_embedding = (
            clip.transformer, clip.ln_final, clip.token_embedding,
        )  # fmt: skip
        self.positional_embedding, self.text_projection = clip.positional_embedding, clip.text_projection
        self.register_buffer("attn_mask", clip.attn_mask, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.normalize(encode_text(self, tokens).float(), dim=-1)


def text_loss(texts: Tensor, targets: Tensor, centres: Tensor, whitening: Tensor, recipe: Recipe) -> Tensor:
    """InfoNCE in both directions at a fixed temperature, and two cosines after the kind's mean is subtracted.

    texts, targets: [batch, D], unit norm; centres: [batch, D], the mean of each target's kind; whitening:
    [D, D], of the image side's Geometry. InfoNCE is content when a text is nearer to its image than the
    batch's others are; the cosines, as they are and whitened, tie it to what the image side says, which is
    what an image tower that sees less than the teacher can be compared with.
    """
    logits = texts @ targets.T / recipe.text_temperature
    own = torch.arange(len(logits), device=logits.device)
    contrast = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    said, shown = texts - centres, targets - centres
    cosines = F.cosine_similarity(said, shown) + F.cosine_similarity(said @ whitening, shown @ whitening)
    return contrast + recipe.text_cosine_weight * (2 - cosines).mean()


def train_text_tower(
    model: CLIP,
    tokenizer: Callable[[list[str]], Tensor],
    recipe: Recipe,
    pairs: TextPairs,
    accelerator: Accelerator,
) -> None:
    """Train the text tower of an open_clip CLIP in place; the image side is never touched.

    The embeddings keep their mean: a text's dot product with it is that text's bias, which zero-shot
    classification with the plain cosine needs to be calibrated. Of several processes each runs the same
    batches; it takes minutes.
    """
    whitening = Geometry.of(pairs.data, recipe.whitening_floor).whitening.to(accelerator.device)
    tower = TextTower(model).requires_grad_(True).to(accelerator.device).train()
    optimizer = optimizer_for(tower, recipe.text_weight_decay)
    rng = random.Random(recipe.seed)
    per_epoch = pairs.batches(recipe.text_batch_size, recipe.text_repeats)
    total, step = per_epoch * recipe.text_epochs, 0
    for epoch in range(recipe.text_epochs):
        began, losses = time.perf_counter(), []
        for batch in pairs.epoch(recipe.text_batch_size, rng, recipe.text_repeats):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, total, recipe.text_learning_rate)
            tokens = tokenizer([pair.text for pair in batch]).to(accelerator.device)
            targets, centres = (t.to(accelerator.device) for t in pairs.targets(batch))
            with accelerator.autocast():
                embedded = tower(tokens)
            loss = text_loss(embedded.float(), targets, centres, whitening, recipe)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            step += 1
        shown = float(torch.stack(losses).mean()) if losses else float("nan")
        log.info(
            "text epoch %d, step %d of %d, loss %.4f, %.0f s",
            epoch,
            step,
            total,
            shown,
            time.perf_counter() - began,
        )
    model.eval()
