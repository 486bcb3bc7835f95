"""The pocket that ships: small, quick to load, and a working CLIP on data it was never trained on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import neurolab
from neurolab.models.pocket import pocket_folder
from neurolab.models.zoo import Model
from neurolab.training.evaluate import Measure, evaluate


@pytest.fixture(scope="module")
def pocket() -> Model:
    return neurolab.load_model("pocket")


@pytest.fixture(scope="module")
def measures(pocket: Model, neurolab_data: Path) -> dict[str, Measure]:
    return {measure.name: measure for measure in evaluate(pocket, neurolab_data)}


def test_it_is_under_40_megabytes() -> None:
    assert sum(path.stat().st_size for path in pocket_folder().rglob("*") if path.is_file()) < 40e6


def test_it_is_an_ordinary_open_clip_model(pocket: Model) -> None:
    from open_clip.model import CLIP
    from open_clip.modified_resnet import ModifiedResNet

    assert isinstance(pocket.module, CLIP) and isinstance(pocket.module.visual, ModifiedResNet)
    assert 64 <= pocket.image_size[0] <= 112
    with torch.inference_mode():
        image = pocket.encode_image(torch.rand(2, 3, *pocket.image_size), normalize=True)
        text = pocket.encode_text(["a zebra", "a pizza"])
    assert image.shape == text.shape == (2, 512)
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(2))


def test_it_classifies_photos_ten_times_better_than_chance(measures: dict[str, Measure]) -> None:
    measure = measures["tiny_imagenet_top1"]
    assert measure.items == 2000 and measure.chance == 1 / 200
    assert measure.low >= 10 * measure.chance


def test_it_retrieves_photos_ten_times_better_than_chance(measures: dict[str, Measure]) -> None:
    measure = measures["flickr8k_text_to_image_r10"]
    assert measure.items == 1000 and measure.chance == 10 / 1000
    assert measure.low >= 10 * measure.chance


def test_the_model_card_says_what_is_measured(measures: dict[str, Measure]) -> None:
    card = (pocket_folder() / "MODEL_CARD.md").read_text()
    for name, measure in measures.items():
        row = re.search(rf"^\| {name} \| ([\d.]+) \|", card, flags=re.MULTILINE)
        assert row, f"the card has no row for {name}"
        assert float(row[1]) == pytest.approx(measure.value, abs=0.003)
