"""Measure the pocket on data that it was never trained on, each number with a bootstrap interval."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from neurolab.atlas.writing import atomic_write_bytes
from neurolab.data.decode import ImageTransform
from neurolab.data.loader import load_batches
from neurolab.data.sources import Record, open_source
from neurolab.data.text import UNSEEN_FONT, render_word
from neurolab.measure import Measure, measure_table
from neurolab.models.pocket import CONFIG, TOKENIZER, WEIGHTS, load_pocket, pocket_folder
from neurolab.models.zoo import Model
from neurolab.training.parts import known_embeddings, last_name, word_list
from neurolab.training.prepare import Embed
from neurolab.training.typographic import attacks, flips

READ_WORDS = 1000
ATTACKED_PHOTOS = 400
MODEL_FILES = (CONFIG, WEIGHTS, TOKENIZER, "recipe.json")


@dataclass(frozen=True)
class Embedded:
    """A source's unit-norm image embeddings [images, D] with its keys, captions and labels."""

    keys: list[str]
    embeddings: Tensor
    captions: list[tuple[str, ...]]
    labels: list[dict[str, str]]


def embed_source(model: Model, spec: str | Path, workers: int = 0) -> Embedded:
    transform = ImageTransform(model.image_size, model.resize_mode, model.interpolation, thumbnail=None)
    items, rows = [], []
    with torch.inference_mode():
        for batch in load_batches(open_source(spec), transform, batch_size=64, workers=workers):
            images = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float() / 255
            embedded = model.encode_image(images, normalize=True)
            assert embedded is not None  # no capture is active here
            rows.append(embedded.cpu())
            items += batch.items
    return Embedded(
        [i.key for i in items], torch.cat(rows), [i.captions for i in items], [i.labels for i in items]
    )


def embed_pictures(model: Model, pictures: Iterable[Image.Image]) -> Tensor:
    """Unit-norm embeddings [pictures, D] of PIL images."""
    pictures = list(pictures)
    with torch.inference_mode():
        chunks = [
            model.encode_image(
                torch.stack([model.preprocess(p) for p in pictures[i : i + 64]]), normalize=True
            )
            for i in range(0, len(pictures), 64)
        ]
    return torch.cat([chunk.cpu() for chunk in chunks if chunk is not None])


def embed_texts(model: Model, texts: Iterable[str]) -> Tensor:
    texts = list(texts)
    with torch.inference_mode():
        chunks = [model.encode_text(texts[i : i + 256]).cpu() for i in range(0, len(texts), 256)]
    return torch.cat(chunks)


def zero_shot_top1(images: Embedded, names: Sequence[str], texts: Tensor, label: str = "label") -> Measure:
    """Top-1 of the images' class among the names, whose texts' embeddings are [names, D]."""
    predicted = (images.embeddings @ texts.T).argmax(dim=1).tolist()
    right = [names[p] == labels[label] for p, labels in zip(predicted, images.labels, strict=True)]
    return Measure.of("tiny_imagenet_top1", np.array(right, dtype=float), 1 / len(names))


def text_to_image_recall(model: Model, images: Embedded, at: int = 10) -> Measure:
    """Recall at `at` of each image by its first caption, among all images."""
    texts = embed_texts(model, (captions[0] for captions in images.captions))
    similarity = texts @ images.embeddings.T
    # Others as near as the own image come before it: a tower that gives one embedding for all finds nothing.
    better = (similarity >= similarity.diagonal()[:, None]).sum(dim=1) - 1
    return Measure.of("flickr8k_text_to_image_r10", (better < at).numpy().astype(float), at / len(texts))


def centred_cosine(student: Tensor, teacher: Tensor, mean: Tensor) -> np.ndarray:
    """Cosine of each student and teacher embedding, unit norm, after `mean` is subtracted from both."""
    return F.cosine_similarity(
        F.normalize(student, dim=-1) - mean, F.normalize(teacher, dim=-1) - mean
    ).numpy()


def student_teacher_cosine(images: Embedded, known: dict[str, np.ndarray], mean: Tensor) -> Measure:
    teacher = torch.from_numpy(np.stack([known[last_name(key)] for key in images.keys])).float()
    return Measure.of("student_teacher_cosine", centred_cosine(images.embeddings, teacher, mean), 0.0)


def names_in(text: str, names: Sequence[str]) -> list[int]:
    """Which of the names are in a text as whole words: "sports_car" holds "car", "carton" does not."""
    words = re.sub(r"[^a-z0-9]+", " ", text.lower())
    return [
        i
        for i, name in enumerate(names)
        if re.search(rf"\b{re.escape(name.replace('-', ' ').lower())}\b", words)
    ]


def named_in_top(embeddings: Tensor, texts: Tensor, wanted: Sequence[Sequence[int]], at: int) -> np.ndarray:
    """Whether one of an image's wanted texts is among its nearest `at`: [images] of 0 and 1."""
    top = (embeddings @ texts.T).topk(at, dim=1).indices.tolist()
    return np.array([bool(set(t) & set(w)) for t, w in zip(top, wanted, strict=True)], dtype=float)


def known_text_ratio(
    images: Embedded, teacher: Tensor, names: Sequence[str], texts: Tensor, at: int = 5
) -> Measure:
    """The image tower's top-5 with the teacher's own text embeddings, over the teacher's on the same photos.

    Of the photos those count whose class name holds one of the names as a whole word.
    """
    wanted = [names_in(labels["label"], names) for labels in images.labels]
    kept = [i for i, found in enumerate(wanted) if found]
    rows = [wanted[i] for i in kept]
    pocket = named_in_top(images.embeddings[kept], texts, rows, at)
    base = named_in_top(F.normalize(teacher[kept], dim=-1), texts, rows, at)
    # A model that guesses holds one of `at` of all names; most photos have one wanted name.
    chance = 1 - float(np.mean([(1 - at / len(names)) ** len(row) for row in rows]))
    return Measure.of_ratio("known_text_top5_ratio", pocket, base, chance / float(base.mean()))


def word_reading(model: Model, words: Sequence[str]) -> Measure:
    """Top-1 of a picture of each word, in a face that nothing was trained with, among the words' texts."""
    pictures = embed_pictures(model, (render_word(word, font=UNSEEN_FONT, font_size=48) for word in words))
    texts = embed_texts(model, (f'the word "{word}"' for word in words))
    right = (pictures @ texts.T).argmax(dim=1) == torch.arange(len(words))
    return Measure.of("word_reading_top1", right.numpy().astype(float), 1 / len(words))


def text_tower_cosine(model: Model, names: Sequence[str], known: Tensor) -> Measure:
    """Cosine of the model's "a photo of a NAME" and the teacher's, each after its own mean over the names.

    The teacher's texts and images have means of their own (the modality gap), and the pocket's texts were
    placed among images.
    """
    own = embed_texts(model, (f"a photo of a {name}" for name in names))
    cosine = F.cosine_similarity(own - own.mean(dim=0), known - known.mean(dim=0))
    return Measure.of("text_tower_cosine", cosine.numpy(), 0.0)


def images_per_second(model: Model, batch_size: int = 64, batches: int = 40) -> Measure:
    """The rate of whole embeddings of images in memory, batch by batch, after a warm-up."""
    images = torch.rand(batch_size, 3, *model.image_size)
    rates = []
    with torch.inference_mode():
        for number in range(batches + 2):
            began = time.perf_counter()
            model.encode_image(images)
            if number >= 2:
                rates.append(batch_size / (time.perf_counter() - began))
    return Measure.of("images_per_second", np.array(rates))


def assets_megabytes(folder: Path) -> Measure:
    """Everything in assets/ where the pocket is the one that ships, else the model's own files."""
    ships = folder.parent.name == "assets"
    paths = folder.parent.rglob("*") if ships else (folder / name for name in MODEL_FILES)
    return Measure("assets_megabytes", sum(path.stat().st_size for path in paths if path.is_file()) / 1e6)


class HeldOut:
    """The held-out data under `data` (the layout of NEUROLAB_DATA), embedded by the model when asked for."""

    def __init__(self, model: Model, data: Path) -> None:
        self.model, self.data = model, data

    def known(self, name: str) -> dict[str, np.ndarray]:
        return known_embeddings([self.data / "clip-b16" / f"image-embeddings-{name}.npz"])

    @cached_property
    def tiny_records(self) -> list[Record]:
        return list(open_source(self.data / "tiny-imagenet" / "val-00000.parquet"))

    @cached_property
    def tiny(self) -> Embedded:
        return embed_source(self.model, self.data / "tiny-imagenet" / "val-00000.parquet")

    @cached_property
    def class_names(self) -> list[str]:
        return sorted({labels["label"] for labels in self.tiny.labels})

    @cached_property
    def class_texts(self) -> Tensor:
        return embed_texts(self.model, (f"a photo of a {name}" for name in self.class_names))

    @cached_property
    def known_texts(self) -> tuple[list[str], Tensor]:
        """The names whose text embeddings by the teacher are known, each once, and those, unit norm."""
        with np.load(self.data / "clip-b16" / "text-embeddings.npz", allow_pickle=False) as archive:
            rows = {
                name.strip(): row for name, row in zip(archive["names"], archive["embeddings"], strict=True)
            }
        return list(rows), F.normalize(torch.from_numpy(np.stack(list(rows.values()))).float(), dim=-1)

    def student_teacher(self, flickr: Embedded) -> Measure:
        train = torch.from_numpy(np.stack(list(self.known("flickr8k-train").values()))).float()
        mean = F.normalize(train, dim=-1).mean(dim=0)
        return student_teacher_cosine(flickr, self.known("flickr8k-test"), mean)

    def known_text(self) -> Measure:
        photos = embed_source(self.model, self.data / "imagenet-samples")
        known = self.known("imagenet-samples")
        teacher = torch.from_numpy(np.stack([known[last_name(key)] for key in photos.keys])).float()
        return known_text_ratio(photos, teacher, *self.known_texts)

    def typographic(self, teacher: Embed | None, most: int) -> list[Measure]:
        """The flip rates of pocket and teacher and their gap; the pocket's text tower serves both."""
        planned = attacks(self.tiny_records, self.class_names)
        names, texts = self.class_names, self.class_texts
        own = flips(
            planned, self.tiny.embeddings, lambda p: embed_pictures(self.model, p), names, texts, most
        )
        measures = [Measure.of("typographic_flip_pocket", own, 0.0)]
        if teacher is None:
            why = "the teacher's flips need its image tower: pass --teacher FILE"
            return [*measures, Measure("typographic_flip_teacher", None, note=why),
                    Measure("typographic_flip_gap", None, note=why)]  # fmt: skip
        known = self.known("tiny-imagenet-val")
        clean = torch.from_numpy(np.stack([known[last_name(attack.record.key)] for attack in planned]))
        theirs = flips(planned, clean, lambda p: torch.from_numpy(teacher(p)), names, texts, most)
        gap = Measure.of_gap("typographic_flip_gap", own, theirs)
        return [*measures, Measure.of("typographic_flip_teacher", theirs, 0.0), gap]


def evaluate(
    model: Model,
    data: Path,
    *,
    teacher: Embed | None = None,
    folder: Path | None = None,
    attacked: int = ATTACKED_PHOTOS,
) -> list[Measure]:
    """Every measure of the pocket on held-out data under `data` (the layout of NEUROLAB_DATA).

    Shares are fractions of 1, and so is the gap between two shares. `teacher` embeds pictures for the
    typographic attack, of which `attacked` photos at most are made for each model; without it the gap is not
    measured. `folder`: the pocket's, for its size.
    """
    held = HeldOut(model, data)
    flickr = embed_source(model, data / "flickr8k" / "flickr8k-test-000.tar")
    return [
        held.student_teacher(flickr),
        zero_shot_top1(held.tiny, held.class_names, held.class_texts),
        text_to_image_recall(model, flickr),
        held.known_text(),
        word_reading(model, word_list(data, shortest=3)[:READ_WORDS]),
        text_tower_cosine(model, *held.known_texts),
        *held.typographic(teacher, attacked),
        images_per_second(model),
        assets_megabytes(folder or pocket_folder()),
    ]


def measure_pocket(folder: Path, data: Path, teacher: Embed | None = None) -> list[Measure]:
    """Measure the pocket in `folder`, the one that ships or a run's, on held-out data."""
    return evaluate(load_pocket(folder), data, teacher=teacher, folder=folder)


def write_measures(measures: list[Measure], path: Path) -> None:
    """Keep the numbers as a Markdown table, as the model card has them."""
    atomic_write_bytes(path, (measure_table(measures) + "\n").encode())
