"""The texts that the text tower learns, and where in the teacher's image space each is to lie."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from neurolab.errors import TrainingError
from neurolab.training.dataset import Prepared
from neurolab.training.pictures import LOOSE
from neurolab.training.recipe import Recipe

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
SPOKEN_OF_AS_PHOTO = {"drawing": 0.4, "word": 0.7}
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

    def targets(self, pairs: list[Pair]) -> tuple[Tensor, Tensor]:
        """What the pairs' texts are to be near: unit-norm embeddings [pairs, D], and the mean [pairs, D] of
        each one's kind.

        A text that speaks of the thing itself gets its images' embeddings as they would lie among the photos.
        """
        targets, centres = [], []
        for pair in pairs:
            if pair.as_photo:
                targets.append(self.moved[pair.images].mean(dim=0))
                centres.append(self.photos)
            else:
                targets.append(self.data.embeddings[pair.images].mean(dim=0))
                centres.append(self.data.part_means[self.data.part_of[pair.images]].mean(dim=0))
        return F.normalize(torch.stack(targets), dim=-1), torch.stack(centres)


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
