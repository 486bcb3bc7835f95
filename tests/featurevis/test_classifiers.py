"""What classifiers of torchvision and timm are drawn from: their classes, step by step or recorded."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import neurolab
from neurolab.featurevis import ascent
from neurolab.featurevis.recording import Recording
from neurolab.featurevis.render import render
from neurolab.models.zoo import Model, wrap_model


def classifier(name: str) -> Model:
    """A network of random weights for 64 pixels, its norms' statistics such that signals get through."""
    model = neurolab.load_model(name, pretrained="random")
    norms = [part for part in model.module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # statistics are those of the images shown
        norm.train()
    coarse = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.module(F.interpolate(coarse, size=64, mode="bilinear"))
    model.module.eval()
    return wrap_model(model.module, image_size=64, mean=model.mean, std=model.std, name=name)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet10t"])
@pytest.mark.parametrize("site", ["fc:out", ":out"])
def test_the_logit_of_a_class_rises(name: str, site: str) -> None:
    model = classifier(name)
    (picture,) = render(model, f"{site}/7", steps=12, transforms="none", progress=False)
    assert picture.name == f"{site}/7"
    assert picture.history[-1] > picture.history[0] + 1
    shown = torch.from_numpy(picture.image / np.float32(255)).permute(2, 0, 1)
    with torch.no_grad():
        logits = model.encode_image(torch.stack([torch.full_like(shown, 0.5), shown]))
    assert logits is not None
    assert logits[1, 7] > logits[0, 7] + 1  # of the finished picture, by the network itself


# ReLU6 and depthwise convolutions; ReLUs called as functions, in branches.
@pytest.mark.parametrize(
    ("name", "unit"),
    [("torchvision:mobilenet_v2", "classifier.1:out/7"), ("torchvision:googlenet", "fc:out/7")],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
def test_recorded_steps_are_those_taken_one_by_one(
    name: str, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the last four are recorded: differences of rounding grow from one step to the next."""
    model, usual = classifier(name), ascent.record
    made: list[Recording] = []

    def noted(*what: Any) -> Recording:
        made.append(usual(*what))
        return made[-1]

    monkeypatch.setattr(ascent, "record", noted)
    (taken,), (recorded,) = (
        render(model, unit, steps=20, lr=0.01, record=choice, progress=False) for choice in (False, True)
    )
    assert len(made) == 1
    assert np.abs(taken.history - recorded.history).max() < 0.01 * np.ptp(taken.history)
    assert np.abs(taken.image.astype(int) - recorded.image).mean() < 1
