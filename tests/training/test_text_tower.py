from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from open_clip.tokenizer import SimpleTokenizer

from neurolab.models.pocket import TOKENIZER, tokenizer_from
from neurolab.models.zoo import Model
from neurolab.training.dataset import Prepared
from neurolab.training.export import write_tokenizer, write_weights
from neurolab.training.pocket import new_clip
from neurolab.training.text_pairs import TextPairs, photo_mean
from neurolab.training.text_tower import (
    encode_text,
    text_loss,
    train_text_tower,
)
from tests.training.conftest import TINY

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
