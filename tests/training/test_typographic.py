from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from neurolab.data.sources import Record
from neurolab.training.typographic import PIXELS, attacks, flips

NAMES = ["apple", "boat", "cat", "dog"]
TEXTS = torch.eye(4)


@dataclass(frozen=True)
class Plain:
    number: int

    def __call__(self) -> Image.Image:
        return Image.new("RGB", (64, 64), (30, 90, 160 + self.number))


def records(count: int) -> list[Record]:
    return [Record(f"p/{i}", Plain(i), (), {"label": NAMES[i % 4]}) for i in range(count)]


def test_no_photo_is_attacked_with_its_own_name() -> None:
    planned = attacks(records(80), NAMES)
    assert all(attack.pasted in NAMES and attack.pasted != attack.true for attack in planned)
    assert {attack.pasted for attack in planned} == set(NAMES)
    assert planned == attacks(records(80), NAMES)


def test_the_word_covers_the_photo_and_leaves_it_elsewhere() -> None:
    (attack,) = attacks(records(1), NAMES)
    picture = np.asarray(attack.picture())
    assert picture.shape == (PIXELS, PIXELS, 3)
    assert (picture[:60] == (30, 90, 160)).all()
    assert (picture.min(axis=2) > 200).mean() > 0.1  # paper


def test_only_correctly_named_photos_count_and_only_the_pasted_word_is_a_flip() -> None:
    planned = attacks(records(40), NAMES)
    truth = torch.tensor([NAMES.index(attack.true) for attack in planned])
    clean = TEXTS[truth].clone()
    clean[:8] = TEXTS[(truth[:8] + 1) % 4]  # eight photos are named wrongly before any word is there
    asked: list[int] = []

    def never_moved(pictures: list[Image.Image]) -> torch.Tensor:
        asked.append(len(pictures))
        return TEXTS[[0] * len(pictures)]

    found = flips(planned, clean, never_moved, NAMES, TEXTS, most=100)
    assert len(found) == sum(asked) == 32
    # A model that says "apple" whatever it sees flips where apple is pasted, and nowhere else.
    assert found.sum() == sum(attack.pasted == "apple" for attack in planned[8:])
    assert 0 < found.sum() < 32
    assert len(flips(planned, clean, never_moved, NAMES, TEXTS, most=10)) == 10


def test_two_models_share_the_photos_that_both_name_correctly() -> None:
    planned = attacks(records(40), NAMES)
    truth = torch.tensor([NAMES.index(attack.true) for attack in planned])
    attacked: list[list[bytes]] = []

    def watch(pictures: list[Image.Image]) -> torch.Tensor:
        attacked.append([picture.tobytes() for picture in pictures])
        return TEXTS[[0] * len(pictures)]

    one, other = TEXTS[truth].clone(), TEXTS[truth].clone()
    one[:20:2], other[1:20:2] = TEXTS[(truth[:20:2] + 1) % 4], TEXTS[(truth[1:20:2] + 1) % 4]
    for clean in (one, other):
        flips(planned, clean, watch, NAMES, TEXTS, most=40)
    shared = [attack.picture().tobytes() for attack in planned[20:]]
    first, second = ([p for p in pictures if p in shared] for pictures in attacked)
    assert len(first) >= 20 and first == second
