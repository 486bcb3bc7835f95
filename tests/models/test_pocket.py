"""A folder in the pocket's format: the network, its weights and its own short vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from neurolab.errors import UnknownModelError
from neurolab.models.loading import build
from neurolab.models.pocket import CONFIG, TOKENIZER, WEIGHTS, load_pocket, tokenizer_from
from neurolab.training.export import write_tokenizer, write_weights

VOCABULARY, LENGTH = 700, 9
SHAPE: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64},
    "text_cfg": {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 1},
}
SEEN = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "resize_mode": "squash", "interpolation": "bilinear"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / CONFIG).write_text(json.dumps({"model_cfg": SHAPE, "preprocess_cfg": SEEN}))
    write_weights(tmp_path / WEIGHTS, build(SHAPE, "small").state_dict())
    write_tokenizer(tmp_path / TOKENIZER, VOCABULARY)
    return tmp_path


def test_the_folder_is_an_ordinary_model(folder: Path) -> None:
    model = load_pocket(folder)
    assert (model.name, model.image_size, model.mean, model.std) == (
        "pocket", (64, 64), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4),
    )  # fmt: skip
    assert (model.resize_mode, model.interpolation) == ("squash", "bilinear")
    assert all(p.dtype == torch.float32 for p in model.module.parameters())
    with torch.inference_mode():
        assert model.encode_text(["a zebra", "unheard-of words " * 9]).shape == (2, 24)
        image = model.encode_image(torch.rand(1, 3, 64, 64))
    assert image is not None and image.shape == (1, 24)
    assert load_pocket(folder).weights_hash == model.weights_hash


def test_the_tokenizer_keeps_to_its_vocabulary_and_length(folder: Path) -> None:
    tokens = tokenizer_from(folder)(["zebra crossing über alles 😀", "word " * 50])
    assert tokens.shape == (2, LENGTH) and tokens.max() == VOCABULARY - 1  # the end token is the highest
    assert (tokens.argmax(dim=1) > 0).all()


def test_other_weights_can_be_put_in_its_place(folder: Path, tmp_path: Path) -> None:
    module = build(SHAPE, "small")
    torch.nn.init.ones_(module.text_projection)
    write_weights(tmp_path / "other.safetensors", module.state_dict())
    other = load_pocket(folder, weights=tmp_path / "other.safetensors")
    assert other.weights_hash != load_pocket(folder).weights_hash


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(UnknownModelError, match=missing.replace(".", r"\.")):
        load_pocket(folder)
