"""The benchmarks run, and say what they have not measured; how fast anything is, no test asserts."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from neurolab.models.zoo import Model, wrap_model

FOLDER = Path(__file__).parents[1] / "benchmarks"
KEYS = {
    "lucent_single_ratio",
    "lucent_batch_ratio",
    "floor_ratio",
    "objective_ratio",
    "gpu_lucent_speedup",
    "gpu_growth",
    "cpu_growth",
    "horama_ratio",
    "captum_style_ratio",
}


@pytest.fixture(scope="module")
def featurevis() -> Iterator[ModuleType]:
    """The script, with its folder on the path as it is when it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("featurevis")


@pytest.fixture(scope="module")
def small() -> Model:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Conv2d(8, 20, 3), nn.Tanh(), nn.Conv2d(20, 4, 1)]
    nn.init.ones_(parts[2].bias)  # type: ignore[arg-type]  # activations above 0, as a ratio of them needs
    return wrap_model(nn.Sequential(*parts), image_size=32, name="small")


@pytest.fixture(scope="module")
def plan(featurevis: ModuleType) -> Any:
    return replace(
        featurevis.QUICK, warm=1, timed=1, repeats=1, batch=2, units=3, steps=2, looks=1, growth=(1, 2)
    )


def test_every_row_is_there(featurevis: ModuleType, plan: Any, small: Model, tmp_path: Path) -> None:
    task = featurevis.Task(small, "2", (0, 1, 2), plan.steps, horama_size=64)
    rows = list(featurevis.measure(plan, task))
    settings = featurevis.setting(plan, task, "random")
    text = json.dumps(featurevis.as_json(rows, settings))
    numbers = json.loads(text)
    assert set(numbers) >= KEYS
    measured = {"floor_ratio", "captum_style_ratio", "cpu_growth"}
    if featurevis.peers.is_installed("lucent"):
        measured |= {"lucent_single_ratio", "lucent_batch_ratio", "objective_ratio"}
    for key in measured:
        assert math.isfinite(numbers[key]) and numbers[key] > 0
    assert numbers["gpu_lucent_speedup"] is numbers["gpu_growth"] is None
    assert numbers["settings"]["network"] == "small"
    table = featurevis.table(rows, settings)
    assert table.count("not measured") == sum(row.value is None for row in rows)
    assert len({row.key for row in rows}) == len(rows)


def test_peers_that_are_missing_are_named(
    featurevis: ModuleType, plan: Any, small: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(featurevis.peers, "is_installed", lambda package: False)
    task = featurevis.Task(small, "2", (0, 1, 2), plan.steps)
    rows = {row.key: row for row in featurevis.measure(plan, task)}
    assert set(rows) >= KEYS
    for key in ("lucent_single_ratio", "lucent_batch_ratio", "objective_ratio"):
        assert (rows[key].value, rows[key].note) == (None, "lucent is not installed")
    assert (rows["horama_ratio"].value, rows["horama_ratio"].note) == (None, "horama is not installed")


def test_there_is_no_ratio_to_units_that_are_not_excited(
    featurevis: ModuleType, plan: Any, small: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(featurevis.held_out, "strengths", lambda *_: torch.tensor([-1.0, 0.5]))
    monkeypatch.setattr(featurevis.peers, "is_installed", lambda package: True)
    for row in featurevis.strength(plan, featurevis.Task(small, "2", (0, 1), 2)):
        assert (row.value, row.note) == (None, "Lucent's units are not excited, so there is no ratio")


def test_engines_draw_what_they_are_asked_for(featurevis: ModuleType, small: Model) -> None:
    """Pictures of the units' own: each is excited more than a grey picture excites it, by every engine."""
    peers, task = featurevis.peers, featurevis.Task(small, "2", (4, 9), 12)
    engines = [peers.ours, peers.with_decay_1, peers.captum_style]
    engines += [peers.lucent] if peers.is_installed("lucent") else []
    grey = featurevis.held_out.excitation(task, torch.full((2, 3, 32, 32), 0.5), 4)
    for engine in engines:
        pictures = engine(task)
        assert pictures.shape == (2, 3, 32, 32)
        assert 0 <= pictures.min() < pictures.max() <= 1
        assert (featurevis.held_out.excitation(task, pictures, 4) > grey).all()


def test_the_floor_is_cut_at_the_layer(featurevis: ModuleType, small: Model) -> None:
    ran: list[int] = []
    handles = [
        module.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, module in enumerate(small.module)
    ]
    featurevis.peers.floor(featurevis.Task(small, "2", (0, 1), 1))
    for handle in handles:
        handle.remove()
    assert ran == [0, 1, 2]


def test_a_ratio_of_means_has_an_interval(featurevis: ModuleType) -> None:
    found = featurevis.held_out.ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    value, low, high = found.value, found.low, found.high
    assert value == low == high == 2
    found = featurevis.held_out.ratio([1.0, 2.0, 9.0], [2.0, 2.0, 2.0])
    value, low, high = found.value, found.low, found.high
    assert low < value == 2 < high


def test_the_command_writes_both_files(
    featurevis: ModuleType, plan: Any, small: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(featurevis, "QUICK", replace(plan, horama_size=64))
    monkeypatch.setattr(featurevis, "load", lambda *given: small)
    monkeypatch.setattr(featurevis, "NETS", {"small": ("small", "2")})
    monkeypatch.setattr(featurevis, "measure", lambda plan, task: iter([featurevis.gpu(task)]))
    threads = torch.get_num_threads()
    out = [str(tmp_path / name) for name in ("numbers.json", "table.md")]
    featurevis.main(["--model", "small", "--quick", "--device", "cpu", "--json", out[0], "--out", out[1]])
    assert torch.get_num_threads() == threads
    assert json.loads(Path(out[0]).read_text())["gpu_lucent_speedup"] is None
    assert "| not measured |" in Path(out[1]).read_text()


def test_what_comes_before_the_steps_is_not_in_their_time(
    featurevis: ModuleType, small: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    now = 0.0

    def engine(task: Any) -> torch.Tensor:
        nonlocal now
        steps.append(task.steps)
        now += 0.2 + 0.002 * task.steps
        return torch.empty(0)

    monkeypatch.setattr(featurevis.peers, "time", SimpleNamespace(perf_counter=lambda: now))
    task = featurevis.Task(small, "2", (0,), 5)
    found = featurevis.peers.seconds_between(engine, task, 20)
    assert steps == [20, 20 + 83]  # as many more as a second holds, all that comes before included
    assert found == pytest.approx(0.002)
