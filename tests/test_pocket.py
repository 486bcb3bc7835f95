"""The pocket that ships: small, quick to load, and a working CLIP on data it was never trained on."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch

import neurolab
from neurolab.measure import Measure
from neurolab.models.pocket import pocket_folder
from neurolab.models.zoo import Model
from neurolab.training.evaluate import evaluate
from neurolab.training.pocket import teacher_for


@pytest.fixture(scope="module")
def pocket() -> Model:
    return neurolab.load_model("pocket")


@pytest.fixture(scope="module")
def measures(pocket: Model, neurolab_data: Path, clip_b16_weights: Path) -> dict[str, Measure]:
    teacher = teacher_for(clip_b16_weights, "cpu")
    return {measure.name: measure for measure in evaluate(pocket, neurolab_data, teacher=teacher)}


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


def test_it_loads_in_under_a_second() -> None:
    """In a process that has torch and open_clip at hand; the best of three, for a busy machine."""

    def seconds() -> float:
        began = time.perf_counter()
        neurolab.load_model("pocket")
        return time.perf_counter() - began

    assert min(seconds() for _ in range(3)) < 1


@pytest.mark.parametrize(
    "name, items, least",
    [
        ("student_teacher_cosine", 1000, 0.45),
        ("tiny_imagenet_top1", 2000, 0.3),
        ("flickr8k_text_to_image_r10", 1000, 0.25),
        ("known_text_top5_ratio", 170, 0.3),
        ("word_reading_top1", 1000, 0.25),
        ("text_tower_cosine", 284, 0.35),
        ("typographic_flip_teacher", 400, 0.2),
    ],
)
def test_it_knows_what_it_was_never_shown(
    measures: dict[str, Measure], name: str, items: int, least: float
) -> None:
    measure = measures[name]
    assert measure.items == items and measure.low is not None
    assert measure.low >= least


def test_the_model_card_says_what_is_measured(measures: dict[str, Measure]) -> None:
    card = (pocket_folder() / "MODEL_CARD.md").read_text()
    for name, measure in measures.items():
        row = re.search(rf"^\| {name} \| ([\d.]+) \| ([\d.]+|–)", card, flags=re.MULTILINE)
        assert row, f"the card has no row for {name}"
        if name not in ("images_per_second", "assets_megabytes"):  # those are the machine's and the README's
            assert float(row[1]) == pytest.approx(measure.value, abs=0.005), name
