from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from neurolab.errors import TrainingError
from neurolab.training import distil
from neurolab.training.dataset import Batches, Prepared
from neurolab.training.distil import (
    Distillation,
    Geometry,
    build_tower,
    distillation_loss,
    planned_epochs,
    resize_positions,
)
from neurolab.training.recipe import PartPlan, Recipe, Stage
from tests.training.conftest import TINY

WEIGHTS = TINY.loss_weights
BOTH = {"photos": PartPlan(), "words": PartPlan()}


def embeddings(count: int, seed: int, offset: float = 1.0) -> torch.Tensor:
    values = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
    return F.normalize(values + offset, dim=-1)


def flat(teacher: torch.Tensor) -> Geometry:
    """One part, no whitening."""
    mean = teacher.mean(dim=0)
    return Geometry(mean, mean[None], torch.eye(len(mean)))


def test_loss_is_that_of_a_plain_computation() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(6, 16, generator=generator), embeddings(6, 1)
    parts = torch.tensor([0, 0, 0, 1, 1, 1])
    means = torch.stack([teacher[:3].mean(dim=0), teacher[3:].mean(dim=0)])
    whitening = torch.randn(16, 16, generator=generator)
    geometry = Geometry(teacher.mean(dim=0), means, whitening)

    s = student.numpy() / np.linalg.norm(student.numpy(), axis=1, keepdims=True)
    t, m, w, g = teacher.numpy(), means.numpy()[parts.numpy()], whitening.numpy(), geometry.mean.numpy()

    def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    queries, keys = (s - g) @ w, (t - g) @ w
    queries, keys = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, keys))
    logits = queries @ keys.T / 0.05
    affinity = -np.mean(np.diag(logits) - np.log(np.exp(logits).sum(axis=1)))
    terms = {
        "raw": np.mean(1 - (s * t).sum(1)),
        "centred": np.mean(1 - cosine(s - m, t - m)),
        "whitened": np.mean(1 - cosine((s - m) @ w, (t - m) @ w)),
        "affinity": affinity,
    }
    for weights in (
        {"raw": 1.0, "centred": 0.5, "whitened": 2.0, "affinity": 0.1},
        dict.fromkeys(terms, 1.0),
    ):
        expected = sum(weights[name] * terms[name] for name in terms)
        found = distillation_loss(student, teacher, parts, geometry, weights, temperature=0.05).item()
        assert found == pytest.approx(expected, rel=1e-4)


def test_shares_of_a_batch_have_the_loss_of_the_whole() -> None:
    student, teacher, parts = embeddings(8, 0, 0.0), embeddings(8, 1), torch.zeros(8, dtype=torch.long)
    loss = partial(distillation_loss, weights=WEIGHTS, temperature=0.05)
    whole = loss(student, teacher, parts, flat(teacher))
    halves = [
        loss(student[own], teacher, parts, flat(teacher), own=own) for own in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(torch.stack(halves).mean(), whole)


def test_loss_prefers_the_right_order_to_a_student_that_gives_the_mean() -> None:
    """Raw cosine alone would praise a student that answers every image with the mean."""
    teacher, parts = embeddings(32, 1, 3.0), torch.zeros(32, dtype=torch.long)
    lazy = teacher.mean(dim=0) + 1e-4 * torch.randn(32, 16, generator=torch.Generator().manual_seed(2))
    assert (F.normalize(lazy, dim=-1) * teacher).sum(-1).mean() > 0.9
    loss = partial(distillation_loss, weights=WEIGHTS, temperature=0.05)
    assert loss(teacher, teacher, parts, flat(teacher)) < 0.3 < loss(lazy, teacher, parts, flat(teacher))


def test_whitened_embeddings_have_no_preferred_direction(prepared: Prepared) -> None:
    whitening = Geometry.of(prepared, floor=1e-6).whitening
    centred = (prepared.embeddings - prepared.part_means[prepared.part_of]) @ whitening
    spectrum = torch.linalg.svdvals(centred)
    rank = len(prepared) - 2  # the two means that were subtracted
    assert spectrum[:rank].max() / spectrum[:rank].min() < 1.1
    raw = torch.linalg.svdvals(prepared.embeddings - prepared.part_means[prepared.part_of])
    assert raw[:rank].max() / raw[:rank].min() > 1.1


def test_positions_of_the_same_size_stay_and_the_mean_token_always_does() -> None:
    positions = torch.randn(5, 8)
    assert torch.allclose(resize_positions(positions, 2), positions)
    assert torch.equal(resize_positions(positions, 3)[0], positions[0])
    assert resize_positions(positions, 3).shape == (10, 8)


def at_32(epochs: int, **settings: object) -> Recipe:
    vision = {**TINY.vision, "image_size": 32}
    return dataclasses.replace(TINY, vision=vision, stages=(Stage(32, epochs),), **settings)  # type: ignore[arg-type]


def run_in(folder: Path, prepared: Prepared, recipe: Recipe = TINY) -> Distillation:
    folder.mkdir(exist_ok=True)
    return Distillation(recipe, prepared, folder, Accelerator(cpu=True))


@pytest.mark.parametrize("finished", [1, 2])
def test_training_stopped_after_any_epoch_goes_on_to_the_same_weights(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    """Stopped between two sizes, and between two epochs of one size."""
    whole = run_in(tmp_path / "whole", prepared).train()
    real, started = distil.loader, []

    def interrupted(*arguments: object) -> object:
        if len(started) == finished:
            raise KeyboardInterrupt
        started.append(1)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(distil, "loader", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path / "stopped", prepared).train()
    monkeypatch.setattr(distil, "loader", real)
    resumed = run_in(tmp_path / "stopped", prepared).train()
    assert resumed.keys() == whole.keys()
    for name in whole:
        assert torch.equal(resumed[name], whole[name]), name


def test_a_run_learns_what_it_is_shown(prepared: Prepared, tmp_path: Path) -> None:
    """Twenty epochs over 33 pictures: the student is nearer to its own target than an untrained one."""
    recipe = at_32(20, least_crop=0.95)
    trained = build_tower(recipe, 32)
    trained.load_state_dict(run_in(tmp_path / "run", prepared, recipe).train())
    torch.manual_seed(0)

    def nearness(tower: torch.nn.Module) -> float:
        pixels = prepared.pictures(range(33)).permute(0, 3, 1, 2).float() / 255
        small = F.interpolate(pixels, size=32, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v)[:, None, None] for v in (distil.MEAN, distil.STD))
        with torch.inference_mode():
            embedded = F.normalize(tower.eval()((small - mean) / std), dim=-1)
        return F.cosine_similarity(embedded, prepared.embeddings).mean().item()

    assert nearness(trained) > nearness(build_tower(recipe, 32)) + 0.3


def test_stages_share_a_cycle_until_one_begins_its_own(prepared: Prepared) -> None:
    stages = (Stage(32, 2), Stage(64, 1), Stage(64, 2, learning_rate=1e-4, repeats={"words": 3}))
    epochs = planned_epochs(dataclasses.replace(TINY, stages=stages, parts=BOTH), prepared)
    steps, more = 33 // 8, (20 + 3 * 13) // 8
    assert [(e.first_step, e.cycle_steps) for e in epochs] == [
        (0, 3 * steps), (steps, 3 * steps), (2 * steps, 3 * steps), (0, 2 * more), (more, 2 * more),
    ]  # fmt: skip
    assert [e.peak for e in epochs] == [TINY.learning_rate] * 3 + [1e-4] * 2
    assert epochs[0].rows.tolist() == list(range(33))
    shown = epochs[-1].rows.tolist()
    assert [shown.count(i) for i in (0, 19, 20, 32)] == [1, 1, 3, 3] and len(shown) == 59


def test_another_text_tower_goes_on_from_the_same_image_tower(prepared: Prepared, tmp_path: Path) -> None:
    weights = run_in(tmp_path / "run", prepared).train()
    other = dataclasses.replace(TINY, text_epochs=7, text={**TINY.text, "layers": 3})
    at = (tmp_path / "run" / "image-tower.pt").stat().st_mtime_ns
    again = run_in(tmp_path / "run", prepared, other).train()
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert (tmp_path / "run" / "image-tower.pt").stat().st_mtime_ns == at


def test_a_run_is_not_gone_on_with_on_other_pictures(prepared: Prepared, tmp_path: Path) -> None:
    run_in(tmp_path / "run", prepared).train()
    prepared.embeddings[0] = prepared.embeddings[1]
    with pytest.raises(TrainingError, match="embeddings"):
        run_in(tmp_path / "run", prepared).train()


@pytest.mark.parametrize(
    "settings, differs",
    [
        ({"weight_decay": 0.1}, "recipe"),
        ({"learning_rate": 1e-3}, "epochs"),
        ({"stages": (Stage(32, 1, loss_weights={"raw": 0.0}), Stage(32, 1))}, "epochs"),
        ({"stages": (Stage(32, 1),)}, "epochs"),
        ({"stages": (Stage(32, 3),)}, "epochs"),  # the cycle is longer, so its steps lie elsewhere in it
    ],
)
def test_a_run_is_not_gone_on_with_by_another_recipe(
    prepared: Prepared, tmp_path: Path, settings: dict[str, Any], differs: str
) -> None:
    run_in(tmp_path / "run", prepared, at_32(2)).train()
    with pytest.raises(TrainingError, match=rf"what differs: {differs}\)"):
        run_in(tmp_path / "run", prepared, dataclasses.replace(at_32(2), **settings)).train()


def test_a_run_goes_on_with_a_stage_that_begins_a_cycle(prepared: Prepared, tmp_path: Path) -> None:
    longer = dataclasses.replace(TINY, stages=(*TINY.stages, Stage(64, 1, learning_rate=1e-3)))
    ended = run_in(tmp_path / "run", prepared).train()
    extended = run_in(tmp_path / "run", prepared, longer).train()
    whole = run_in(tmp_path / "whole", prepared, longer).train()
    assert not torch.equal(ended["conv1.weight"], whole["conv1.weight"])
    assert all(torch.equal(extended[name], whole[name]) for name in whole)


def test_data_that_do_not_fill_a_batch_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="do not fill"):
        run_in(tmp_path / "run", prepared, dataclasses.replace(TINY, batch_size=64))


@pytest.mark.slow
def test_two_processes_train_one_tower(prepared: Prepared, tmp_path: Path) -> None:
    """Started as accelerate launch starts several: each takes half of every batch, both end alike."""
    run = tmp_path / "run"
    run.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command += ["-m", "tests.training.distil_alone", str(tmp_path), str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((run / f"{number}-of-2").read_text()) for number in range(2))
    assert first["weights"] == second["weights"]
    assert len(first["shown"]) == len(second["shown"]) == 3 * (33 // 8)
    for epoch in range(3):
        batches = Batches(torch.arange(33), 8, seed=epoch)
        for number, (indices, _) in enumerate(batches, epoch * len(batches)):
            assert first["shown"][number] + second["shown"][number] == indices.tolist()
    assert (run / "image-tower.pt").is_file()
