"""Measure the pocket on data that it was never trained on, each number with a bootstrap interval."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neurolab.data.decode import ImageTransform
from neurolab.data.loader import load_batches
from neurolab.data.sources import open_source
from neurolab.models.zoo import Model
from neurolab.training.prepare import known_embeddings, last_name


@dataclass(frozen=True)
class Measure:
    """A mean over independent items with its 95 % percentile-bootstrap interval."""

    name: str
    value: float
    low: float
    high: float
    items: int
    chance: float

    @classmethod
    def of(cls, name: str, per_item: np.ndarray, chance: float, draws: int = 1000, seed: int = 0) -> Measure:
        rng = np.random.default_rng(seed)
        means = per_item[rng.integers(0, len(per_item), (draws, len(per_item)))].mean(axis=1)
        low, high = np.percentile(means, [2.5, 97.5])
        return cls(name, float(per_item.mean()), float(low), float(high), len(per_item), chance)


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
            rows.append(embedded)
            items += batch.items
    return Embedded(
        [i.key for i in items], torch.cat(rows), [i.captions for i in items], [i.labels for i in items]
    )


def embed_texts(model: Model, texts: Iterable[str]) -> Tensor:
    texts = list(texts)
    with torch.inference_mode():
        chunks = [model.encode_text(texts[i : i + 256]) for i in range(0, len(texts), 256)]
    return torch.cat(chunks)


def zero_shot_top1(model: Model, images: Embedded, label: str = "label") -> Measure:
    """Top-1 of "a photo of a NAME" over the classes that occur in the source."""
    truth = [labels[label] for labels in images.labels]
    names = sorted(set(truth))
    texts = embed_texts(model, (f"a photo of a {name}" for name in names))
    predicted = (images.embeddings @ texts.T).argmax(dim=1)
    right = np.array([names[p] == t for p, t in zip(predicted.tolist(), truth, strict=True)], dtype=float)
    return Measure.of("tiny_imagenet_top1", right, 1 / len(names))


def text_to_image_recall(model: Model, images: Embedded, at: int = 10) -> Measure:
    """Recall at `at` of each image by its first caption, among all images."""
    texts = embed_texts(model, (captions[0] for captions in images.captions))
    similarity = texts @ images.embeddings.T
    better = (similarity > similarity.diagonal()[:, None]).sum(dim=1)
    return Measure.of("flickr8k_text_to_image_r10", (better < at).numpy().astype(float), at / len(texts))


def centred_cosine(student: Tensor, teacher: Tensor, mean: Tensor) -> np.ndarray:
    """Cosine of each student and teacher embedding, unit norm, after `mean` is subtracted from both."""
    return F.cosine_similarity(
        F.normalize(student, dim=-1) - mean, F.normalize(teacher, dim=-1) - mean
    ).numpy()


def student_teacher_cosine(images: Embedded, known: dict[str, np.ndarray], mean: Tensor) -> Measure:
    teacher = torch.from_numpy(np.stack([known[last_name(key)] for key in images.keys])).float()
    return Measure.of("student_teacher_cosine", centred_cosine(images.embeddings, teacher, mean), 0.0)


def images_per_second(model: Model, batch_size: int = 64, seconds: float = 5.0) -> float:
    """The rate of whole embeddings of images in memory, after a warm-up."""
    images = torch.rand(batch_size, 3, *model.image_size)
    with torch.inference_mode():
        model.encode_image(images)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            model.encode_image(images)
            count += batch_size
    return count / (time.perf_counter() - began)


def evaluate(
    model: Model, data: Path, report: Callable[[Measure], None] = lambda measure: None
) -> list[Measure]:
    """Every measure of the pocket on held-out data under `data` (the layout of NEUROLAB_DATA)."""
    known = data / "clip-b16"
    train = known_embeddings([known / "image-embeddings-flickr8k-train.npz"])
    mean = F.normalize(torch.from_numpy(np.stack(list(train.values()))).float(), dim=-1).mean(dim=0)
    flickr = embed_source(model, data / "flickr8k" / "flickr8k-test-000.tar")
    tiny = embed_source(model, data / "tiny-imagenet" / "val-00000.parquet")
    measures = [
        student_teacher_cosine(
            flickr, known_embeddings([known / "image-embeddings-flickr8k-test.npz"]), mean
        ),
        zero_shot_top1(model, tiny),
        text_to_image_recall(model, flickr),
    ]
    for measure in measures:
        report(measure)
    return measures
