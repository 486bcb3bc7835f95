from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from open_clip.tokenizer import SimpleTokenizer
from scipy.linalg import sqrtm

from neurolab.errors import TrainingError
from neurolab.models.pocket import TOKENIZER, tokenizer_from
from neurolab.models.zoo import Model
from neurolab.training.dataset import Prepared
from neurolab.training.export import write_tokenizer, write_weights
from neurolab.training.pocket import new_clip
from neurolab.training.text_tower import (
    AS_PHOTO,
    AVERAGED,
    LEAST_MENTIONS,
    SPOKEN_OF_AS_PHOTO,
    TEMPLATES,
    Pair,
    Row,
    TextPairs,
    as_photos,
    encode_text,
    mentions,
    photo_mean,
    phrase,
    text_loss,
    text_targets,
    train_text_tower,
)
from tests.training.conftest import TINY, write_part

TEXTS = [
    "a dog",
    "a very long caption about a brown dog that runs over green grass",
    "",
    "zebra",
    "stop ! the dog ! runs !",
]


def test_trimmed_encoding_is_open_clips(tiny_clip: Model) -> None:
    module = tiny_clip.module
    tokens = tiny_clip.tokenizer(TEXTS)
    with torch.inference_mode():
        torch.testing.assert_close(encode_text(module, tokens), module.encode_text(tokens))


def test_cut_tokenizer_has_its_size_and_loses_no_text(tmp_path: Path) -> None:
    import open_clip

    write_tokenizer(tmp_path / TOKENIZER, 4096)
    (tmp_path / "config.json").write_text('{"model_cfg": {"text_cfg": {"context_length": 32}}}')
    cut, full = tokenizer_from(tmp_path), open_clip.tokenizer.SimpleTokenizer()
    assert cut.vocab_size == 4096
    for text in (*TEXTS, "electroencephalography of axolotls, 42 times!"):
        assert max(cut.encode(text), default=0) < 4094
        assert cut.decode(cut.encode(text)) == full.decode(full.encode(text))
    assert len(cut.encode("electroencephalography")) > len(full.encode("electroencephalography"))
    assert cut(["dog"]).shape == (1, 32)


def test_same_weights_give_the_same_bytes(tmp_path: Path, tiny_clip: Model) -> None:
    state = tiny_clip.module.state_dict()
    write_weights(tmp_path / "a", state)
    write_weights(tmp_path / "b", dict(reversed(state.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.fixture
def data(tmp_path: Path) -> Prepared:
    """Eight photos of dogs and cats, three photos with captions, four written words."""
    classes = [("name", "dog", i) for i in range(5)]
    classes += [("name", name, i) for name in ("cat", "kitty") for i in range(5, 8)]
    captions = [("caption", f"caption {j} of {i}", i) for i in range(3) for j in range(5)]
    words = [("word", word, i) for i, word in enumerate(("fork", "dog", "blue", "seven"))]
    return Prepared(
        [
            write_part(tmp_path / "classes", [8], mirrored=True, texts=classes),
            write_part(tmp_path / "captions", [3], mirrored=True, texts=captions, seed=1),
            write_part(tmp_path / "words", [4], mirrored=False, texts=words, seed=2),
        ]
    )


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
    (written, thing), centres = text_targets(pairs, data, photos, moved)
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
    target, centre = text_targets(dogs, data, photo_mean(data), as_photos(data))
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


def test_text_loss_is_that_of_a_plain_computation() -> None:
    generator = torch.Generator().manual_seed(0)
    texts, targets, centres = (
        F.normalize(torch.randn(5, 16, generator=generator) + 1, dim=-1) for _ in range(3)
    )
    whitening = torch.randn(16, 16, generator=generator)
    t, k, m, w = texts.numpy(), targets.numpy(), centres.numpy(), whitening.numpy()

    def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    logits = t @ k.T / TINY.text_temperature
    rows = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    columns = np.log(np.exp(logits).sum(axis=0)) - np.diag(logits)
    cosines = (1 - cosine(t - m, k - m)) + (1 - cosine((t - m) @ w, (k - m) @ w))
    expected = (rows.mean() + columns.mean()) / 2 + TINY.text_cosine_weight * cosines.mean()
    found = text_loss(texts, targets, centres, whitening, TINY).item()
    assert found == pytest.approx(expected, rel=1e-4)


def test_training_moves_the_text_side_alone_and_towards_its_images(data: Prepared) -> None:
    recipe = dataclasses.replace(
        TINY, text_epochs=40, text_batch_size=4, text_learning_rate=3e-3, text_repeats={"name": 4}
    )
    clip = new_clip(recipe)
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    tokenizer = SimpleTokenizer(context_length=32)

    def tokenize(texts: list[str]) -> torch.Tensor:
        return tokenizer(texts) % recipe.text["vocab_size"]  # any ids do; the end token stays the largest

    train_text_tower(clip, tokenize, recipe, TextPairs(data, recipe), Accelerator(cpu=True))
    after = clip.state_dict()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        "transformer",
        "ln_final",
        "token_embedding",
        "positional_embedding",
        "text_projection",
    }
    with torch.inference_mode():
        tokens = tokenize(["a photo of a dog", "a photo of a cat"])
        texts = F.normalize(encode_text(clip, tokens), dim=-1) - photo_mean(data)
    classes = torch.stack([data.embeddings[:5].mean(dim=0), data.embeddings[5:8].mean(dim=0)])
    similarity = F.normalize(texts, dim=-1) @ F.normalize(classes - photo_mean(data), dim=-1).T
    assert similarity.argmax(dim=1).tolist() == [0, 1]


def test_without_photos_there_is_nothing_to_speak_of(tmp_path: Path) -> None:
    words = Prepared([write_part(tmp_path / "words", [4], mirrored=False)])
    with pytest.raises(TrainingError, match="needs photos"):
        photo_mean(words)
