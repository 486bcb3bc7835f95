from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from neurolab.models.zoo import Model
from neurolab.training.evaluate import (
    Embedded,
    centred_cosine,
    embed_texts,
    images_per_second,
    known_text_ratio,
    named_in_top,
    names_in,
    text_to_image_recall,
    text_tower_cosine,
    word_reading,
    zero_shot_top1,
)


class FakeModel:
    """Texts are embedded as the one-hot of the digit in them."""

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.eye(10)[[int(text.strip(' ."')[-1]) for text in texts]]


NAMES = [f"class {i}" for i in range(10)]


def embedded(order: list[int]) -> Embedded:
    captions = [(f"caption {i}",) for i in range(10)]
    labels = [{"label": f"class {i}"} for i in range(10)]
    return Embedded([str(i) for i in range(10)], torch.eye(10)[order], captions, labels)


def test_right_and_wrong_answers_are_told_apart() -> None:
    right, swapped = embedded(list(range(10))), embedded([1, 0, *range(2, 10)])
    texts = embed_texts(FakeModel(), NAMES)  # type: ignore[arg-type]
    assert zero_shot_top1(right, NAMES, texts).value == 1.0
    assert zero_shot_top1(swapped, NAMES, texts).value == 0.8
    assert text_to_image_recall(FakeModel(), right, at=1).value == 1.0  # type: ignore[arg-type]
    assert text_to_image_recall(FakeModel(), swapped, at=1).value == 0.8  # type: ignore[arg-type]


def test_a_tower_that_gives_one_embedding_for_all_finds_nothing() -> None:
    collapsed = embedded([0] * 10)
    assert text_to_image_recall(FakeModel(), collapsed, at=1).value == 0.0  # type: ignore[arg-type]


def test_centring_tells_a_lazy_student() -> None:
    teacher = F.normalize(torch.randn(500, 8, generator=torch.Generator().manual_seed(0)) + 4, dim=-1)
    mean = teacher.mean(dim=0)
    lazy = mean + 0.01 * torch.randn(500, 8, generator=torch.Generator().manual_seed(1))
    assert torch.nn.functional.cosine_similarity(lazy, teacher).mean() > 0.9
    assert abs(centred_cosine(lazy, teacher, mean).mean()) < 0.3
    assert centred_cosine(teacher, teacher, mean).mean() > 0.999


def test_names_are_found_as_whole_words() -> None:
    names = ["car", "sports ball", "dog", "wall-brick"]
    assert names_in("sports_car", names) == [0]
    assert names_in("carton", names) == names_in("hotdog", names) == []
    assert names_in("Sports ball, dog", names) == [1, 2]
    assert names_in("wall brick", names) == [3]


def test_any_of_the_wanted_names_among_the_nearest_counts() -> None:
    images, texts = torch.eye(4)[[0, 1, 2]], torch.eye(4)
    assert named_in_top(images, texts, [[0], [2, 3], [3, 2]], at=1).tolist() == [1.0, 0.0, 1.0]


def test_the_known_text_ratio_is_over_the_teachers_hits() -> None:
    names = ["cat", "dog", "owl", "bee"]
    labels = [{"label": name} for name in ("cat", "dog", "owl_bird", "spoon", "bee")] * 10
    images = Embedded(["key"] * 50, torch.eye(4)[[0, 0, 2, 3, 0] * 10], [()] * 50, labels)
    teacher = 3 * torch.eye(4)[[0, 1, 2, 3, 0] * 10]  # right but for the bees; any norm
    found = known_text_ratio(images, teacher, names, torch.eye(4), at=1)
    assert found.items == 40  # a spoon is none of the names
    assert found.value == pytest.approx((2 / 4) / (3 / 4))
    assert found.chance == pytest.approx(0.25 / (3 / 4))


def test_the_text_tower_is_compared_after_each_ones_own_mean() -> None:
    names = [f"x {i}" for i in range(10)]
    gap = torch.full((10,), 3.0)
    assert text_tower_cosine(FakeModel(), names, torch.eye(10) + gap).value == pytest.approx(1.0)  # type: ignore[arg-type]
    rolled = text_tower_cosine(FakeModel(), names, torch.eye(10).roll(1, 0))  # type: ignore[arg-type]
    assert rolled.value == pytest.approx(-1 / 9, abs=1e-5)


def test_reading_needs_the_words_own_text(tiny_clip: Model) -> None:
    """An untrained model reads no better than chance allows."""
    words = ["home", "river", "seven", "orange", "table", "music", "water", "green"]
    measure = word_reading(tiny_clip, words)
    assert measure.items == 8 and measure.chance == 1 / 8 and measure.value < 0.7


def test_speed_is_measured_batch_by_batch(tiny_clip: Model) -> None:
    measure = images_per_second(tiny_clip, batch_size=4, batches=5)
    assert measure.items == 5 and measure.low <= measure.value <= measure.high
    assert np.isfinite(measure.value) and measure.value > 1
