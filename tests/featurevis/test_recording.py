"""Recorded steps on a CPU are the steps themselves: to the byte, and up to rounding where rewritten."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurolab
from neurolab.featurevis import ascent, recording
from neurolab.featurevis.methods import METHODS, Method
from neurolab.featurevis.objectives import Direction, Objective, Unit
from neurolab.featurevis.parametrizations.fourier import FourierImage
from neurolab.featurevis.picture import Picture
from neurolab.featurevis.regularizers import TotalVariation
from neurolab.featurevis.render import render
from neurolab.featurevis.together import Diversity
from neurolab.featurevis.whole import DeepDream
from neurolab.models.zoo import Model, wrap_model

UNITS = ["layer4.0/3", "layer4.0/200", "layer3.0/7"]
STEPS = 24  # of which the last 8 are recorded


def draw(model: Model, units: object = UNITS, **settings: object) -> list[Picture]:
    return render(model, units, **{"steps": STEPS, "progress": False} | settings)  # type: ignore[arg-type]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[recording.Recording]:
    """The recordings that are made in a test."""
    found: list[recording.Recording] = []
    usual = recording.record

    def noted(*what: Any) -> recording.Recording:
        found.append(usual(*what))
        return found[-1]

    monkeypatch.setattr(ascent, "record", noted)
    return found


def same(one: Picture, other: Picture) -> bool:
    return bool(
        one.history.tobytes() == other.history.tobytes() and one.image.tobytes() == other.image.tobytes()
    )


@pytest.mark.parametrize("method", [method for method in METHODS if method != "vit"])
def test_a_trace_does_what_was_done(
    tiny_clip: Model, method: str, made: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte: what is recorded needs nothing but the maps, and leaves nothing undone."""
    monkeypatch.setattr(recording, "fuse", lambda trace, is_fixed: None)
    taken, recorded = (draw(tiny_clip, method=method, record=choice) for choice in (False, True))
    assert len(made) == 1
    assert all(map(same, taken, recorded))


def test_a_step_that_does_not_follow_the_maps_would_be_seen(
    tiny_clip: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "fuse", lambda trace, is_fixed: None)
    replay = recording.Trace.__call__
    first: list[Tensor] = []

    def stuck(self: recording.Trace, maps: Tensor) -> Tensor:
        first.append(maps)
        return replay(self, first[0])

    taken = draw(tiny_clip, record=False)
    monkeypatch.setattr(recording.Trace, "__call__", stuck)
    assert not any(map(same, taken, draw(tiny_clip, record=True)))


@pytest.mark.parametrize("method", [method for method in METHODS if method != "vit"])
def test_rewritten_steps_are_the_same_up_to_rounding(tiny_clip: Model, method: str) -> None:
    taken, recorded = (draw(tiny_clip, method=method, record=choice) for choice in (False, True))
    for one, other in zip(taken, recorded, strict=True):
        assert near(one, other)
        assert len(set(other.history[16:].tolist())) == 8  # each from places of its own
        assert np.abs(one.image.astype(int) - other.image).mean() < 1


def test_objectives_and_facets_of_every_kind(tiny_clip: Model, made: list[object]) -> None:
    vector = torch.randn(256, generator=torch.Generator().manual_seed(0))
    objectives: list[Objective] = [
        Unit("layer4.0", 3) - 0.5 * Unit("layer3.0", 7) - 0.01 * TotalVariation(),
        Direction("layer4.0", vector, power=2),
        DeepDream("layer2.0"),
        Unit("layer4.0", 5, "center") + Diversity("layer3.0"),
    ]
    agree(tiny_clip, objectives)
    pocket = neurolab.load_model("pocket")
    agree(pocket, ["layer4.1/3", "layer4.1/5"], facet="text", strength=[1.0, 3.0])
    assert len(made) == 2


def agree(model: Model, units: object, **settings: object) -> None:
    taken, recorded = (draw(model, units, record=choice, **settings) for choice in (False, True))
    assert all(map(near, taken, recorded))


def near(one: Picture, other: Picture, share: float = 0.01) -> bool:
    """Whether the objectives differ by no more than a share of what they change by."""
    return bool(np.abs(one.history - other.history).max() <= share * np.ptp(one.history))


def test_transformers_and_lower_precision(tiny_vit: Model, tiny_clip: Model, made: list[object]) -> None:
    agree(tiny_vit, ["block2.mlp/3", "block1.mlp/70"])
    for model, units in ((tiny_vit, ["block2.mlp/3", "block1.mlp/70"]), (tiny_clip, UNITS)):
        taken, recorded = (
            draw(model, units, record=choice, precision="bfloat16") for choice in (False, True)
        )
        assert all(near(one, other, share=0.2) for one, other in zip(taken, recorded, strict=True))
    assert len(made) == 3


class Mobile(nn.Module):
    """What mobile networks are made of: ReLU6 in place, depthwise convolutions, sums."""

    def __init__(self) -> None:
        super().__init__()

        def layer(given: int, out: int, side: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
            convolution = nn.Conv2d(given, out, side, stride, side // 2, groups=groups, bias=False)
            return [convolution, nn.BatchNorm2d(out), nn.ReLU6(inplace=True)]

        self.stem = nn.Sequential(*layer(3, 8, 3, 2))
        self.block = nn.Sequential(*layer(8, 24, 1), *layer(24, 24, 3, 1, 24), *layer(24, 8, 1)[:2])
        self.last = nn.Sequential(*layer(8, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.last(x + self.block(x)).mean((2, 3))


def test_a_mobile_network_is_left_without_plain_convolutions(made: list[recording.Trace]) -> None:
    torch.manual_seed(0)
    model = wrap_model(Mobile().eval(), image_size=32)
    agree(model, ["last.1:out/3", "last.1:out/9"])
    (trace,) = made
    targets = [str(node.target) for node in trace.operations.graph.nodes]
    assert sum("mkldnn" in target for target in targets) == 10
    assert not any("aten.convolution" in target or "aten.hardtanh_." in target for target in targets)


def test_only_what_is_alike_and_long_is_recorded(
    tiny_clip: Model, made: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recording.WORTH_IT, "cpu", 20)
    unlike: list[dict[str, object]] = [{"method": "vit"}, {"alpha": True}, {"transforms": "crops"}]
    for settings in (*({**setting, "record": True} for setting in unlike), {"steps": 19}, {"record": False}):
        draw(tiny_clip, UNITS[:1], **settings)
    assert not made
    draw(tiny_clip, UNITS[:1], steps=20)
    assert len(made) == 1
    draw(tiny_clip, UNITS[:1], steps=17, record=True)
    assert len(made) == 2
    draw(tiny_clip, UNITS[:1], steps=16, record=True)  # which is over before there is anything to repeat
    assert len(made) == 2


def test_a_step_that_cannot_be_recorded_says_what_to_do(
    tiny_clip: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Looking(Unit):
        def at_places(self, activation: Tensor) -> Tensor:
            return super().at_places(activation) * (1 + 0 * activation.mean().item())

    with pytest.raises(RuntimeError, match=r"cannot be recorded .*: record=False"):
        draw(tiny_clip, Looking("layer4.0", 3), record=True)
    (taken,) = draw(tiny_clip, Looking("layer4.0", 3), record=False)
    monkeypatch.setitem(recording.WORTH_IT, "cpu", 20)
    with pytest.warns(UserWarning, match="cannot be recorded .* taken operation by operation"):
        (tried,) = draw(tiny_clip, Looking("layer4.0", 3))
    assert same(taken, tried)


class Chooses(nn.Module):
    """What it does depends on the image: on how often it was called, on a number that it looks at."""

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self.first, self.second, self.looks, self.calls = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), looks, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        other = bool(x.mean() > 100) if self.looks else self.calls % 2 == 1
        return (self.second if other else self.first)(x).mean((2, 3))


@pytest.mark.parametrize("looks", [True, False])
def test_a_network_that_chooses_is_not_recorded(looks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = wrap_model(Chooses(looks).eval(), image_size=32)
    monkeypatch.setitem(recording.WORTH_IT, "cpu", 20)
    why = "cannot be recorded" if looks else r"gradient that is \d+% off"
    with pytest.warns(UserWarning, match=why):
        (picture,) = draw(model, ":out/3", transforms="none")
    assert len(picture.history) == STEPS


def test_what_is_recorded_goes_with_the_run(tiny_clip: Model, made: list[recording.Trace]) -> None:
    gc.disable()
    try:
        draw(tiny_clip, UNITS[:1], record=True)
        gone = weakref.ref(made.pop().operations)
        assert gone() is None
    finally:
        gc.enable()


def test_threads_may_draw_at_once(tiny_clip: Model) -> None:
    (alone,) = draw(tiny_clip, UNITS[:1], record=True)
    models = [dataclasses.replace(tiny_clip, module=copy.deepcopy(tiny_clip.module)) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda model: draw(model, UNITS[:1], record=True)[0], models))
    assert all(near(alone, other) for other in found)


def test_a_parametrization_with_convolutions_of_its_own(tiny_clip: Model, made: list[object]) -> None:
    """They are what is drawn, and change at every step: not to be packed once."""

    class Convolved(FourierImage):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.wide, self.back = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 1)

        def forward(self) -> Tensor:
            colours = super().forward().contiguous(memory_format=torch.channels_last)
            return torch.sigmoid(self.back(self.wide(colours).relu()))

    maker: Callable[..., Any] = functools.partial(Convolved)
    agree(tiny_clip, UNITS, method=Method(maker))
    assert len(made) == 1


def test_a_choice_is_written_down(tiny_clip: Model) -> None:
    asked, left = (draw(tiny_clip, UNITS[:1], steps=2, record=choice)[0] for choice in (False, None))
    assert asked.settings["record"] is False and "record" not in left.settings
