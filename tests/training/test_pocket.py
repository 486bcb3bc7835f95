"""The whole recipe on a handful of the real data, from pictures to a model that loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from neurolab.errors import SourceError
from neurolab.models.pocket import load_pocket
from neurolab.training.pocket import train_pocket
from neurolab.training.prepare import known_embeddings, training_parts
from neurolab.training.recipe import Recipe, Stage

SMALL = Recipe(
    name="small",
    vision={"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 64},
    text={"context_length": 32, "vocab_size": 2048, "width": 32, "heads": 2, "layers": 1},
    stages=(Stage(64, 1),),
    batch_size=16,
    text_epochs=1,
    text_batch_size=8,
    prepared_size=64,
)
EACH = 12


@pytest.fixture(scope="module")
def run(neurolab_data: Path, clip_b16_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    return train_pocket(SMALL, neurolab_data, out, teacher=clip_b16_weights, limit=EACH)


def test_every_part_is_prepared_with_the_teachers_embeddings(run: Path, neurolab_data: Path) -> None:
    for part in training_parts(neurolab_data):
        folder = run / "prepared" / part.name
        images, embeddings = np.load(folder / "images.npy"), np.load(folder / "embeddings.npy")
        assert images.shape == (EACH, 64, 64, 3) and images.std(axis=(1, 2, 3)).min() > 1
        assert embeddings.shape == (EACH, 512) and np.abs(embeddings).max(axis=1).min() > 0
        assert set(pq.read_table(folder / "texts.parquet")["image"].to_pylist()) <= set(range(EACH))
        known = known_embeddings(part.embeddings)
        assert (
            all(any(np.array_equal(row, value) for value in known.values()) for row in embeddings)
            or not known
        )


def test_what_comes_out_is_a_clip_that_loads(run: Path) -> None:
    model = load_pocket(run)
    with torch.inference_mode():
        image = model.encode_image(torch.rand(2, 3, *model.image_size))
        text = model.encode_text(["a dog", "the word home"])
    assert image is not None and image.shape == text.shape == (2, 512)
    assert torch.isfinite(image).all() and torch.isfinite(text).all()
    assert Recipe.from_json(run / "recipe.json") == SMALL


def test_a_finished_run_is_not_prepared_or_distilled_again(run: Path, neurolab_data: Path) -> None:
    watched = [*run.glob("prepared/*/*"), run / "image-tower.pt"]
    before = {path: path.stat().st_mtime_ns for path in watched}
    weights = (run / "weights.safetensors").read_bytes()
    train_pocket(SMALL, neurolab_data, run, limit=EACH)  # no teacher: nothing is left for it to do
    assert {path: path.stat().st_mtime_ns for path in watched} == before
    assert (run / "weights.safetensors").read_bytes() == weights


def test_without_a_teacher_the_missing_embeddings_are_named(neurolab_data: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--teacher"):
        train_pocket(SMALL, neurolab_data, tmp_path, limit=2)
