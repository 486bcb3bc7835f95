from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from neurolab.errors import TrainingError
from neurolab.training import distil
from neurolab.training.distil import Prepared, augment, distillation_loss, learning_rate, resize_positions
from neurolab.training.prepare import TEXT_SCHEMA
from neurolab.training.recipe import Recipe, Stage

TINY = Recipe(
    vision={"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 64},
    stages=(Stage(32, 1), Stage(64, 2)),
    batch_size=8,
    prepared_size=64,
)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    rng = np.random.default_rng(0)
    folders = []
    for name, count in (("flickr8k", 20), ("words", 13)):
        folder = tmp_path / name
        folder.mkdir()
        np.save(folder / "images.npy", rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8))
        np.save(folder / "embeddings.npy", rng.normal(size=(count, 512)).astype(np.float16))
        pq.write_table(pa.Table.from_pylist([], schema=TEXT_SCHEMA), folder / "texts.parquet")
        folders.append(folder)
    return Prepared(folders)


def test_batches_come_from_the_right_part(prepared: Prepared) -> None:
    batch = prepared.batch(torch.tensor([19, 20, 32]))
    expected = np.stack([prepared.images[0][19], prepared.images[1][0], prepared.images[1][12]])
    np.testing.assert_allclose(batch.permute(0, 2, 3, 1).numpy() * 255, expected, atol=1e-4)
    assert prepared.flippable.tolist() == [True] * 20 + [False] * 13


def test_loss_is_that_of_a_plain_computation() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(6, 16, generator=generator), torch.randn(6, 16, generator=generator) + 1
    teacher = F.normalize(teacher, dim=-1)
    mean = teacher.mean(dim=0)
    s = student.numpy() / np.linalg.norm(student.numpy(), axis=1, keepdims=True)
    t, m = teacher.numpy(), mean.numpy()
    sc = (s - m) / np.linalg.norm(s - m, axis=1, keepdims=True)
    tc = (t - m) / np.linalg.norm(t - m, axis=1, keepdims=True)
    logits = sc @ tc.T / TINY.affinity_temperature
    affinity = -np.mean(np.diag(logits) - np.log(np.exp(logits).sum(axis=1)))
    expected = np.mean(1 - (s * t).sum(1)) + np.mean(1 - (sc * tc).sum(1)) + TINY.affinity_weight * affinity
    assert distillation_loss(student, teacher, mean, TINY).item() == pytest.approx(expected, rel=1e-4)


def test_loss_prefers_the_right_order_to_a_student_that_gives_the_mean() -> None:
    """Raw cosine alone would praise a student that answers every image with the mean."""
    teacher = F.normalize(torch.randn(32, 16, generator=torch.Generator().manual_seed(1)) + 3, dim=-1)
    mean = teacher.mean(dim=0)
    lazy = mean.expand(32, -1) + 1e-4 * torch.randn(32, 16, generator=torch.Generator().manual_seed(2))
    assert (F.normalize(lazy, dim=-1) * teacher).sum(-1).mean() > 0.9
    assert (
        distillation_loss(teacher, teacher, mean, TINY) < 0.2 < distillation_loss(lazy, teacher, mean, TINY)
    )


def test_words_are_never_mirrored() -> None:
    images = torch.zeros(64, 3, 32, 32)
    images[..., 16:] = 1.0  # dark left, bright right
    flippable = torch.arange(64) < 32
    views = augment(images, 32, flippable, torch.Generator().manual_seed(0))
    mirrored = views[..., :8].mean(dim=(1, 2, 3)) > views[..., -8:].mean(dim=(1, 2, 3))
    assert mirrored[:32].any() and not mirrored[:32].all()
    assert not mirrored[32:].any()


def test_views_are_seeded_and_differ_within_a_batch() -> None:
    image = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1, -1)
    first, again = (
        augment(image, 32, torch.ones(4, dtype=torch.bool), torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first[0], first[1])
    assert first.shape == (4, 3, 32, 32) and first.min() >= 0 and first.max() <= 1


def test_positions_of_the_same_size_stay_and_the_mean_token_always_does() -> None:
    positions = torch.randn(5, 8)
    assert torch.allclose(resize_positions(positions, 2), positions)
    assert torch.equal(resize_positions(positions, 3)[0], positions[0])
    assert resize_positions(positions, 3).shape == (10, 8)


def test_learning_rate_warms_up_peaks_and_ends_near_zero() -> None:
    rates = [learning_rate(step, 200, 1.0) for step in range(200)]
    assert max(rates) == 1.0 and rates.index(1.0) <= 10
    assert rates[0] < 0.2 and rates[-1] < 0.01
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize("finished", [1, 2])
def test_training_stopped_after_any_epoch_goes_on_to_the_same_weights(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    """Stopped between two sizes, and between two epochs of one size."""
    mean, std = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)
    whole = distil.train_image_tower(TINY, prepared, make(tmp_path / "whole"), mean, std)
    real, started = distil.epoch_batches, []

    def interrupted(count: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        if len(started) == finished:
            raise KeyboardInterrupt
        started.append(count)
        return real(count, batch_size, generator)

    monkeypatch.setattr(distil, "epoch_batches", interrupted)
    stopped = make(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        distil.train_image_tower(TINY, prepared, stopped, mean, std)
    monkeypatch.setattr(distil, "epoch_batches", real)
    resumed = distil.train_image_tower(TINY, prepared, stopped, mean, std)
    assert resumed.keys() == whole.keys()
    for name in whole:
        assert torch.equal(resumed[name], whole[name]), name


def test_a_run_is_not_gone_on_with_by_another_recipe(prepared: Prepared, tmp_path: Path) -> None:
    mean, std = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)
    run = make(tmp_path / "run")
    distil.train_image_tower(dataclasses.replace(TINY, stages=(Stage(32, 1),)), prepared, run, mean, std)
    with pytest.raises(TrainingError, match="recipe"):
        distil.train_image_tower(TINY, prepared, run, mean, std)


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder
