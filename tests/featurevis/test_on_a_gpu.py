"""Drawing on a GPU: what the CPU draws, up to rounding; each picture its own; in bfloat16 as well."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import neurolab
from neurolab.featurevis import ascent
from neurolab.featurevis.methods import METHODS
from neurolab.featurevis.objectives import Direction, Unit
from neurolab.featurevis.picture import Picture
from neurolab.featurevis.render import render
from neurolab.featurevis.together import Diversity
from neurolab.featurevis.whole import DeepDream
from neurolab.models.zoo import Model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

UNITS = ["layer4.0/3", "layer4.0/200", "layer3.0/7"]
ON_DEVICE = {"vit"}  # whose noise is drawn on the device, so that it is another one there


@pytest.fixture(scope="module")
def on_gpu(tiny_clip: Model) -> Model:
    return replace(tiny_clip, module=copy.deepcopy(tiny_clip.module)).to("cuda")


def draw(model: Model, units: object = UNITS, **settings: object) -> list[Picture]:
    return render(model, units, **{"steps": 6, "progress": False} | settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_the_objectives_rise_as_on_the_cpu(tiny_clip: Model, on_gpu: Model, method: str) -> None:
    still = draw(on_gpu, method=method, transforms="none", steps=20)
    assert all(np.isfinite(p.history).all() and p.image.shape == (64, 64, 3) for p in still)
    assert all(p.history[-1] > p.history[0] for p in still)
    found = draw(on_gpu, method=method)
    if method not in ON_DEVICE:
        for here, there in zip(draw(tiny_clip, method=method), found, strict=True):
            assert np.allclose(here.history, there.history, rtol=0.02, atol=2e-3)


def test_a_picture_does_not_depend_on_its_batch(on_gpu: Model) -> None:
    alone, among = draw(on_gpu, UNITS[:1])[0], draw(on_gpu)[0]
    assert np.allclose(alone.history, among.history, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_recorded_steps_are_the_steps_themselves(on_gpu: Model, method: str) -> None:
    """Up to the order in which a GPU adds up, which differs from run to run."""
    recorded, taken = (draw(on_gpu, method=method, steps=40, record=graph) for graph in (True, False))
    for one, other in zip(recorded, taken, strict=True):
        assert np.allclose(one.history[:20], other.history[:20], rtol=0.02, atol=2e-3)
        assert len(set(one.history[20:].tolist())) == 20  # each from places of its own
        assert one.history[-5:].mean() > one.history[:5].mean() - 0.01


def test_what_is_not_alike_is_not_recorded(on_gpu: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(ascent, "record", lambda *what: made.append(what))
    for settings in ({"method": "vit"}, {"alpha": True}, {"transforms": "crops"}, {"record": False}):
        draw(on_gpu, steps=40, **settings)
    assert not made


def test_a_step_that_cannot_be_recorded_says_what_to_do(on_gpu: Model) -> None:
    class Looking(Unit):
        def at_places(self, activation: torch.Tensor) -> torch.Tensor:
            return super().at_places(activation) * (1 + 0 * activation.mean().item())

    with pytest.raises(RuntimeError, match="record=False"):
        draw(on_gpu, Looking("layer4.0", 3), steps=40, record=True)
    with pytest.warns(UserWarning, match="taken operation by operation"):
        draw(on_gpu, Looking("layer4.0", 3), steps=40)
    (picture,) = draw(on_gpu, Looking("layer4.0", 3), steps=40, record=False)
    assert len(picture.history) == 40
    draw(on_gpu, steps=40)  # and the GPU is as it was


def test_facets_are_recorded() -> None:
    pocket = neurolab.load_model("pocket").to("cuda")
    units = [f"{sites.short}/{unit}" for sites in neurolab.list_sites(pocket)[-3:-2] for unit in (1, 5)]
    recorded, taken = (
        render(pocket, units, facet="text", steps=40, progress=False, record=graph) for graph in (True, False)
    )
    for one, other in zip(recorded, taken, strict=True):
        # Adam's first steps are as long for small gradients as for large ones: rounding is seen at once.
        assert np.isclose(one.history[0], other.history[0], rtol=1e-3)
        assert np.isclose(one.history[-10:].mean(), other.history[-10:].mean(), rtol=0.3)


@pytest.mark.parametrize("steps", [6, 40])
def test_mixed_objectives_in_bfloat16(on_gpu: Model, steps: int) -> None:
    vector = torch.randn(256, generator=torch.Generator().manual_seed(0))
    objectives = [
        Unit("layer4.0", 3) - 0.5 * Unit("layer3.0", 7),
        Direction("layer4.0", vector, power=2),
        DeepDream("layer2.0"),
        Unit("layer4.0", 5, "center") + Diversity("layer3.0"),
    ]
    for picture in draw(on_gpu, objectives, precision="bfloat16", steps=steps):
        assert np.isfinite(picture.history).all()


def test_transparent_and_larger_pictures(on_gpu: Model) -> None:
    for picture in draw(on_gpu, size=(90, 120), alpha=True, views=3):
        assert picture.rgba is not None and picture.rgba.shape == (90, 120, 4)
