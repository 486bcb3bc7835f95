"""The whole recipes on a handful of the real data, from pictures to a model that loads and is measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from neurolab.cli import app
from neurolab.errors import SourceError
from neurolab.models.pocket import load_pocket
from neurolab.training.parts import TrainingData
from neurolab.training.pocket import train_pocket
from neurolab.training.prepare import read_plan
from neurolab.training.recipe import PartPlan, Recipe, Stage
from tests.training.conftest import TINY

EACH = 12
# Every part of the real data that needs no package beside those of the project, and two views of one.
PARTS = {
    "flickr8k": PartPlan(), "tiny-imagenet": PartPlan(views=2), "words": PartPlan(), "demo": PartPlan(),
    "written": PartPlan(), "restyled": PartPlan(), "pasted": PartPlan(), "sentences": PartPlan(),
}  # fmt: skip
SMALL = dataclasses.replace(TINY, name="small", parts=PARTS, stages=(Stage(64, 1),), batch_size=16)


@pytest.fixture(scope="module")
def run(neurolab_data: Path, clip_b16_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    return train_pocket(SMALL, neurolab_data, out, teacher=clip_b16_weights, limit=EACH)


def test_every_part_is_prepared_with_the_teachers_embeddings(run: Path, neurolab_data: Path) -> None:
    parts = TrainingData(neurolab_data).parts()
    for name, plan in PARTS.items():
        shard, count = run / "prepared" / name / "00000", EACH * plan.views
        images, embeddings = np.load(shard / "images.npy"), np.load(shard / "embeddings.npy")
        assert images.shape == (count, 64, 64, 3) and images.std(axis=(1, 2, 3)).min() > 1
        assert embeddings.shape == (count, 512) and np.abs(embeddings).max(axis=1).min() > 0
        texts = pq.read_table(shard / "texts.parquet").to_pylist()
        assert {row["image"] for row in texts} <= set(range(0, count, plan.views))
        assert bool(texts) == (name not in ("pasted", "sentences"))
        assert read_plan(run / "prepared" / name)["mirrored"] == parts[name].mirrored


def test_the_teacher_sees_each_view(run: Path) -> None:
    """A whole photo has its known embedding; its crop has another, the nearest among all crops."""
    embeddings = np.load(run / "prepared" / "tiny-imagenet" / "00000" / "embeddings.npy").astype(np.float32)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    whole, crops = unit[::2], unit[1::2]
    similarity = whole @ crops.T
    assert not np.allclose(whole, crops, atol=1e-3)
    assert (similarity.argmax(axis=1) == np.arange(EACH)).mean() > 0.5


def test_what_comes_out_is_a_clip_that_loads(run: Path) -> None:
    model = load_pocket(run)
    with torch.inference_mode():
        image = model.encode_image(torch.rand(2, 3, *model.image_size))
        text = model.encode_text(["a dog", "the word home"])
    assert image is not None and image.shape == text.shape == (2, 512)
    assert torch.isfinite(image).all() and torch.isfinite(text).all()
    cut = {name: PartPlan(EACH, plan.views) for name, plan in PARTS.items()}
    assert Recipe.load(run / "recipe.json") == dataclasses.replace(SMALL, parts=cut)


def test_a_finished_run_is_not_prepared_or_distilled_again(run: Path, neurolab_data: Path) -> None:
    watched = [*run.glob("prepared/*/*/*"), run / "image-tower.pt"]
    assert len(watched) == 4 * len(PARTS) + 1
    before = {path: path.stat().st_mtime_ns for path in watched}
    weights = (run / "weights.safetensors").read_bytes()
    train_pocket(SMALL, neurolab_data, run, limit=EACH)  # no teacher: nothing is left for it to do
    assert {path: path.stat().st_mtime_ns for path in watched} == before
    assert (run / "weights.safetensors").read_bytes() == weights


def test_without_a_teacher_the_missing_embeddings_are_named(neurolab_data: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--teacher"):
        train_pocket(SMALL, neurolab_data, tmp_path, limit=2)


def test_the_full_recipe_runs_for_a_few_steps(
    neurolab_data: Path, clip_b16_weights: Path, tmp_path: Path
) -> None:
    """The recipe for a GPU with its own towers, sizes and parts, cut to few pictures and epochs."""
    full = Recipe.load("full")
    few = dataclasses.replace(
        full,
        stages=tuple(Stage(stage.image_size, 1) for stage in full.stages),
        batch_size=8,
        text_epochs=1,
        text_batch_size=8,
    )
    out = train_pocket(few, neurolab_data, tmp_path / "full", teacher=clip_b16_weights, limit=1)
    model = load_pocket(out)
    assert model.image_size == (128, 128)
    with torch.inference_mode():
        embedded = model.encode_image(torch.rand(1, 3, 128, 128))
    assert embedded is not None and torch.isfinite(embedded).all()


def command(*arguments: object) -> str:
    whole = [str(a) for a in ("train", "pocket", *arguments)]
    result = CliRunner().invoke(app, whole, catch_exceptions=False, env={"NEUROLAB_CLIP_B16": ""})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_command_trains_from_a_recipes_file_and_measures(neurolab_data: Path, tmp_path: Path) -> None:
    known = {name: PartPlan(images=EACH) for name in ("flickr8k", "tiny-imagenet", "words")}
    recipe, out, numbers = tmp_path / "few.json", tmp_path / "run", tmp_path / "numbers.json"
    recipe.write_text(dataclasses.replace(SMALL, parts=known).to_json())
    common = ("--data", neurolab_data, "--out", out)
    said = command(*common, "--recipe", recipe, "--json", numbers)
    found = json.loads(numbers.read_text())
    assert found.keys() >= {
        "student_teacher_cosine", "tiny_imagenet_top1", "flickr8k_text_to_image_r10", "known_text_top5_ratio",
        "word_reading_top1", "text_tower_cosine", "typographic_flip_gap", "images_per_second",
        "assets_megabytes",
    }  # fmt: skip
    assert found["typographic_flip_gap"] is None and "--teacher" in said
    assert all(value is None or np.isfinite(value) for value in found.values())
    assert found["tiny_imagenet_top1"] < 0.05  # one epoch over a handful of pictures
    assert found["assets_megabytes"] < 5  # the model, not what it was prepared from
    assert all(f"| {name} |" in (out / "measures.md").read_text() for name in found)

    again = tmp_path / "again.json"
    command(*common, "--evaluate", "--json", again)
    same = set(found) - {"images_per_second"}
    assert {name: json.loads(again.read_text())[name] for name in same} == {
        name: found[name] for name in same
    }
