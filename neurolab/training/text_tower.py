"""Fit the pocket's text tower to the teacher's image space (locked-image tuning, Zhai et al. 2022)."""

from __future__ import annotations

import logging
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from open_clip.model import CLIP
from torch import Tensor, nn

from neurolab.errors import TrainingError
from neurolab.training.dataset import Prepared
from neurolab.training.distil import Geometry
from neurolab.training.optimizer import learning_rate, optimizer_for
from neurolab.training.pictures import LOOSE
from neurolab.training.recipe import Recipe

log = logging.getLogger(__name__)

# The phrases that a text of a kind is put in, CLIP's own templates among them. `AS_PHOTO` speak of a thing,
# whatever picture of it is at hand; the others speak of that picture: its being drawn or written, too.
AS_PHOTO = ("a photo of a {}", "a photo of the {}", "a photo of a {}.", "a picture of a {}", "a {}")
TEMPLATES = {
    "name": (*AS_PHOTO, "{}"),
    "drawing": ("a drawing of a {}", "a drawing of {}", "an emoji of a {}", "{}", "a cartoon {}"),
    "word": (
        "{}",
        'the word "{}"',
        'the word "{}" written on a sign',
        "text that says {}",
        'a label that says "{}"',
    ),
    "mention": AS_PHOTO,
    "photo": ("{}",),
    "caption": ("{}",),
}
# How often a drawing or a written word stands for the thing itself in place of its being drawn or written.
SPOKEN_OF_AS_PHOTO = {"drawing": 0.4, "word": 0.5}


# So many batches are drawn together and sorted by length.
POOL = 16
# A thing counts as mentioned where so many photos are captioned with it.
LEAST_MENTIONS = 8
LOOSE_ENDS = tuple(f" {word}" for word in LOOSE)
# A text that belongs to many images is placed near the mean of so many of them, drawn anew each time: what
# they have in common is what it says.
AVERAGED = 8


class Row(NamedTuple):
    """Texts of which any one belongs to any one of the images."""

    kind: str
    texts: list[str]
    images: list[int]


class Pair(NamedTuple):
    """A text, the images whose mean it is to be near, whether it speaks of a photo of what they show, and the
    row that it is of."""

    text: str
    images: list[int]
    as_photo: bool
    row: Row


class TextPairs:
    """Texts with the image each belongs to, grouped by what the text names.

    No two texts of a batch name the same, in whatever phrase: InfoNCE would push one picture of an albatross
    away from the word albatross because another is in the batch. Synonyms of a class have the same pictures
    and count as the same name. Raises TrainingError where the texts do not fill one batch, or there are no
    photos to place them among.
    """

    def __init__(self, data: Prepared, recipe: Recipe) -> None:
        self.data, self.photos, self.moved = data, photo_mean(data), as_photos(data)
        by_text: dict[tuple[str, str], list[int]] = defaultdict(list)
        captions: dict[int, list[str]] = defaultdict(list)
        for kind, text, image in data.texts():
            if kind == "caption":
                captions[image].append(text)
            else:
                by_text[kind, text].append(image)
        self.rows = [Row("caption", texts, [image]) for image, texts in captions.items()]
        self.rows += [Row(kind, [text], images) for (kind, text), images in by_text.items()]
        self.rows += [Row("mention", [thing], images) for thing, images in mentions(captions).items()]
        if not self.batches(recipe.text_batch_size, recipe.text_repeats):
            raise TrainingError(f"{len(self.rows)} texts do not fill one batch of {recipe.text_batch_size}")

    def epoch(self, batch_size: int, rng: random.Random, repeats: dict[str, int]) -> Iterator[list[Pair]]:
        """Batches of pairs; `repeats` says how often a row of a kind comes in an epoch (default: once).

        Texts of like length share a batch: the padding of words to captions would cost three times the time.
        """
        order = [row for row in self.rows for _ in range(repeats.get(row.kind, 1))]
        rng.shuffle(order)
        whole = len(order) // batch_size * batch_size
        for start in range(0, whole, POOL * batch_size):
            pool = [phrase(row, rng) for row in order[start : min(start + POOL * batch_size, whole)]]
            pool.sort(key=lambda pair: len(pair.text))
            firsts = list(range(0, len(pool), batch_size))
            rng.shuffle(firsts)
            for first in firsts:
                yield distinct(pool[first : first + batch_size])

    def batches(self, batch_size: int, repeats: dict[str, int]) -> int:
        """How many batches an epoch has."""
        return sum(repeats.get(row.kind, 1) for row in self.rows) // batch_size


def mentions(captions: dict[int, list[str]]) -> dict[str, list[int]]:
    """The photos that each thing is mentioned of: one to three words that follow an article in a caption.

    A caption says everything at once; a thing that many photos share is told apart by what they share.
    """
    found: dict[str, list[int]] = defaultdict(list)
    for image, texts in captions.items():
        after = (re.findall(r"\b(?:an?|the) ([a-z]+(?: [a-z]+){0,2})", text.lower()) for text in texts)
        words = [things.split() for caption in after for things in caption]
        for thing in sorted(
            {" ".join(said[:length]) for said in words for length in range(1, len(said) + 1)}
        ):
            found[thing].append(image)
    return {
        thing: images
        for thing, images in found.items()
        if len(images) >= LEAST_MENTIONS and not thing.endswith(LOOSE_ENDS)
    }


def phrase(row: Row, rng: random.Random) -> Pair:
    """One of a row's texts in one of its kind's phrases, with some of its images."""
    as_photo = rng.random() < SPOKEN_OF_AS_PHOTO.get(row.kind, 0.0)
    template = rng.choice(AS_PHOTO if as_photo else TEMPLATES[row.kind])
    images = rng.sample(row.images, min(AVERAGED, len(row.images)))
    return Pair(template.format(rng.choice(row.texts)), images, as_photo, row)


def distinct(pairs: list[Pair]) -> list[Pair]:
    """The pairs without those that name, or are shown by, the same as one before them."""
    kept: list[Pair] = []
    seen: set[str | int] = set()
    for pair in pairs:
        # The first image stands for all of a row's: synonyms have the same ones.
        own: set[str | int] = {pair.row.texts[0].lower(), pair.row.images[0]}
        if not own & seen:
            kept.append(pair)
            seen |= own
    return kept


def photo_mean(data: Prepared) -> Tensor:
    """The mean embedding [D] of the photos: of the parts whose pictures may be mirrored."""
    if not data.mirrored.any():
        raise TrainingError("the text tower needs photos: the recipe has none among its parts")
    return data.embeddings[data.mirrored].mean(dim=0)


def covariance_power(rows: Tensor, power: float) -> Tensor:
    """The `power` of the rows' covariance [D, D], after its mean variance is added to each variance: a part
    may have fewer pictures than there are dimensions."""
    centred = (rows - rows.mean(dim=0)).double()
    variance, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    scale = (variance.clamp(min=0) + variance.mean()) ** power
    return ((axes * scale) @ axes.T).float()


def as_photos(data: Prepared) -> Tensor:
    """Where each picture's embedding would lie among the photos: [images, D]; a photo's stays.

    CLIP gives drawings, written words and photos each a mean and a spread of their own, and what a picture
    shows is about the same difference from it: the written word "fork" lies from the words' mean as the
    photo of a fork lies from the photos'. The mean of the picture's part is exchanged for that of the
    photos, and so is the covariance (CORAL, Sun et al. 2016): written words differ most in their length and
    their letters, which says nothing of the thing.
    """
    mean, moved = photo_mean(data), data.embeddings.clone()
    colour = covariance_power(data.embeddings[data.mirrored], 0.5)
    for number, own in enumerate(data.part_means):
        rows = (data.part_of == number) & ~data.mirrored
        if rows.any():
            whiten = covariance_power(data.embeddings[rows], -0.5)
            moved[rows] = (data.embeddings[rows] - own) @ whiten @ colour + mean
    return moved


def text_targets(pairs: list[Pair], data: Prepared, photos: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    """What the texts [batch] are to be near: unit-norm embeddings [batch, D], and the mean [batch, D] of each
    one's kind.

    A text that speaks of the thing itself gets its images' embeddings as they would lie among the photos,
    `moved` by as_photos, whose mean is `photos`.
    """
    targets, centres = [], []
    for pair in pairs:
        if pair.as_photo:
            targets.append(moved[pair.images].mean(dim=0))
            centres.append(photos)
        else:
            targets.append(data.embeddings[pair.images].mean(dim=0))
            centres.append(data.part_means[data.part_of[pair.images]].mean(dim=0))
    return F.normalize(torch.stack(targets), dim=-1), torch.stack(centres)


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
    data = pairs.data
    whitening = Geometry.of(data, recipe.whitening_floor).whitening.to(accelerator.device)
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
            placed = text_targets(batch, data, pairs.photos, pairs.moved)
            targets, centres = (t.to(accelerator.device) for t in placed)
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
