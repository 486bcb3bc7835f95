from __future__ import annotations

import numpy as np
import torch

from neurolab.training.evaluate import Embedded, Measure, centred_cosine, text_to_image_recall, zero_shot_top1


class FakeModel:
    """Texts are embedded as the one-hot of the digit in them."""

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.eye(10)[[int(text.strip(" .")[-1]) for text in texts]]


def embedded(order: list[int]) -> Embedded:
    captions = [(f"caption {i}",) for i in range(10)]
    labels = [{"label": f"class {i}"} for i in range(10)]
    return Embedded([str(i) for i in range(10)], torch.eye(10)[order], captions, labels)


def test_right_and_wrong_answers_are_told_apart() -> None:
    right, swapped = list(range(10)), [1, 0, *range(2, 10)]
    assert zero_shot_top1(FakeModel(), embedded(right)).value == 1.0  # type: ignore[arg-type]
    assert zero_shot_top1(FakeModel(), embedded(swapped)).value == 0.8  # type: ignore[arg-type]
    assert text_to_image_recall(FakeModel(), embedded(right), at=1).value == 1.0  # type: ignore[arg-type]
    assert text_to_image_recall(FakeModel(), embedded(swapped), at=1).value == 0.8  # type: ignore[arg-type]


def test_interval_covers_a_known_share() -> None:
    """The percentile bootstrap of a share is near the normal approximation."""
    per_item = np.repeat([1.0, 0.0], [300, 700])
    measure = Measure.of("share", per_item, chance=0.1)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert measure.value == 0.3
    assert abs(measure.low - (0.3 - half)) < 0.006 and abs(measure.high - (0.3 + half)) < 0.006


def test_centring_tells_a_lazy_student() -> None:
    teacher = torch.nn.functional.normalize(
        torch.randn(500, 8, generator=torch.Generator().manual_seed(0)) + 4, dim=-1
    )
    mean = teacher.mean(dim=0)
    lazy = mean + 0.01 * torch.randn(500, 8, generator=torch.Generator().manual_seed(1))
    assert torch.nn.functional.cosine_similarity(lazy, teacher).mean() > 0.9
    assert abs(centred_cosine(lazy, teacher, mean).mean()) < 0.3
    assert centred_cosine(teacher, teacher, mean).mean() > 0.999
