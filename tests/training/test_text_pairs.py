from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import sqrtm

from neurolab.errors import TrainingError
from neurolab.training.dataset import Prepared
from neurolab.training.text_pairs import (
    AS_PHOTO,
    AVERAGED,
    LEAST_MENTIONS,
    SPOKEN_OF_AS_PHOTO,
    TEMPLATES,
    Pair,
    Row,
    TextPairs,
    as_photos,
    mentions,
    photo_mean,
    phrase,
)
from tests.training.conftest import TINY, write_part

RECIPE = dataclasses.replace(TINY, text_batch_size=4, text_repeats={"name": 6, "caption": 2})


def test_every_text_has_one_of_its_images(data: Prepared) -> None:
    pairs = TextPairs(data, RECIPE)
    batches = list(pairs.epoch(4, random.Random(0), RECIPE.text_repeats))
    assert len(batches) == pairs.batches(4, RECIPE.text_repeats) == (3 * 6 + 3 * 2 + 4) // 4
    seen = [pair for batch in batches for pair in batch]
    for text, images, _, row in seen:
        assert len(set(images)) == len(images) and set(images) <= set(row.images)
        for image in images:
            if image < 8:
                assert ("cat" in text or "kitty" in text) == (image >= 5) and ("dog" in text) == (image < 5)
            elif image < 11:
                assert text.endswith(f"of {image - 8}")
            else:
                assert ("fork", "dog", "blue", "seven")[image - 11] in text
    assert {"dog" in pair.text for pair in seen} == {True, False}


def test_a_batch_never_names_a_thing_twice_in_whatever_words(data: Prepared) -> None:
    """Neither in two phrases, nor by a synonym, nor as a written word beside its class."""
    pairs = TextPairs(data, RECIPE)
    for seed in range(20):
        for batch in pairs.epoch(8, random.Random(seed), {"name": 20}):
            assert sum("dog" in pair.text for pair in batch) <= 1
            assert sum("cat" in pair.text or "kitty" in pair.text for pair in batch) <= 1
            captions = [pair.images[0] for pair in batch if pair.row.kind == "caption"]
            assert len(set(captions)) == len(captions)


def test_texts_that_do_not_fill_a_batch_are_refused(data: Prepared) -> None:
    with pytest.raises(TrainingError, match="do not fill"):
        TextPairs(data, dataclasses.replace(RECIPE, text_batch_size=64))


def test_a_written_word_spoken_of_as_a_thing_moves_among_the_photos(data: Prepared) -> None:
    photos, moved = photo_mean(data), as_photos(data)
    torch.testing.assert_close(photos, data.embeddings[:11].mean(dim=0))
    row = Row("word", ["fork"], [11])
    pairs = [Pair('the word "fork"', [11], False, row), Pair("a photo of a fork", [11], True, row)]
    (written, thing), centres = TextPairs(data, RECIPE).targets(pairs)
    torch.testing.assert_close(centres, torch.stack([data.part_means[2], photos]))
    torch.testing.assert_close(written, data.embeddings[11])
    torch.testing.assert_close(thing, F.normalize(moved[11], dim=0))
    assert thing @ photos > written @ photos


def test_moved_among_the_photos_words_have_their_mean_and_spread(tmp_path: Path) -> None:
    """An oracle by scipy's matrix square roots; the words' own spread is another one."""
    folders = [
        write_part(tmp_path / "photos", [900], mirrored=True),
        write_part(tmp_path / "words", [700], mirrored=False, seed=1),
    ]
    rng = np.random.default_rng(0)
    for folder, spread in zip(folders, (0.3, 3.0), strict=True):
        path = folder / "00000" / "embeddings.npy"
        rows = np.load(path).astype(np.float32)
        rows[:, :40] *= spread * (1 + rng.random(40))
        np.save(path, rows.astype(np.float16))
    data = Prepared(folders)
    moved, photos, words = as_photos(data), data.embeddings[:900], data.embeddings[900:]
    assert torch.equal(moved[:900], photos)
    torch.testing.assert_close(moved[900:].mean(dim=0), photos.mean(dim=0), atol=1e-5, rtol=0)

    def floored(rows: torch.Tensor) -> np.ndarray:
        covariance = np.cov(rows.double().numpy().T, bias=True)
        return covariance + np.eye(len(covariance)) * np.trace(covariance) / len(covariance)

    transport = np.linalg.inv(sqrtm(floored(words)).real) @ sqrtm(floored(photos)).real
    expected = (words - words.mean(dim=0)).double().numpy() @ transport + photos.mean(dim=0).numpy()
    np.testing.assert_allclose(moved[900:].numpy(), expected, atol=1e-4)

    def spread_of(rows: torch.Tensor) -> float:
        return float(rows[:, :40].var() / rows[:, 40:].var())

    assert spread_of(photos) < spread_of(moved[900:]) < spread_of(words) / 3


def test_a_text_of_many_images_is_placed_at_what_they_share(data: Prepared) -> None:
    pair = phrase(Row("name", ["dog"], list(range(20))), random.Random(0))
    assert len(pair.images) == AVERAGED
    dogs = [Pair("a photo of a dog", [0, 1, 2, 3, 4], False, Row("name", ["dog"], [0, 1, 2, 3, 4]))]
    target, centre = TextPairs(data, RECIPE).targets(dogs)
    torch.testing.assert_close(target[0], F.normalize(data.embeddings[:5].mean(dim=0), dim=0))
    torch.testing.assert_close(centre[0], data.part_means[0])


def test_a_thing_is_mentioned_by_what_follows_an_article_in_enough_captions() -> None:
    captions = {image: ["A red frisbee is thrown .", "Dogs fetch the red frisbee"] for image in range(20)}
    captions |= {image: ["Two men by an old car"] for image in range(20, 20 + LEAST_MENTIONS)}
    captions |= {99: ["the moon"]}
    found = mentions(captions)
    assert found == {
        "red": list(range(20)),
        "red frisbee": list(range(20)),
        "old": list(range(20, 28)),
        "old car": list(range(20, 28)),
    }


def test_only_what_speaks_of_the_thing_is_put_in_phrases_of_photos() -> None:
    rng, row = random.Random(0), Row("word", ["fork"], [3])
    drawn = [phrase(row, rng) for _ in range(400)]
    assert all(pair.images == [3] for pair in drawn)
    for pair in drawn:
        spoken = {template.format("fork") for template in (AS_PHOTO if pair.as_photo else TEMPLATES["word"])}
        assert pair.text in spoken
    share = sum(pair.as_photo for pair in drawn) / len(drawn)
    assert abs(share - SPOKEN_OF_AS_PHOTO["word"]) < 0.1
    assert not any(phrase(Row("name", ["fork"], [3]), rng).as_photo for _ in range(50))


def test_without_photos_there_is_nothing_to_speak_of(tmp_path: Path) -> None:
    words = Prepared([write_part(tmp_path / "words", [4], mirrored=False)])
    with pytest.raises(TrainingError, match="needs photos"):
        photo_mean(words)
