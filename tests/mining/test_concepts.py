"""Sorting images into concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from neurolab.data.items import Item
from neurolab.errors import AtlasError, MissingTextTowerError
from neurolab.mining.concepts import Concepts
from neurolab.models.zoo import Model
from tests.mining.small_build import small_model


def item(**labels: str) -> Item:
    return Item("key", (), labels, 1, 1, b"")


def test_labels_are_looked_up(tiny_clip: Model) -> None:
    found = Concepts.of({"kind": ["word", "photo"]}, tiny_clip)
    assert found is not None and (found.names, found.column) == (("word", "photo"), "kind")
    items = [item(kind="photo"), item(kind="word"), item(kind="other"), item(), item(other="word")]
    assert found.numbers(items, None).tolist() == [1, 0, -1, -1, -1]
    assert found.numbers([], None).shape == (0,)
    assert Concepts.of(None, tiny_clip) is None and Concepts.of([], tiny_clip) is None


def test_zero_shot_labels_are_the_closest_text(tiny_clip: Model) -> None:
    texts = ["a dog", "a cat", "writing"]
    found = Concepts.of(texts, tiny_clip)
    assert found is not None and found.column is None
    torch.manual_seed(0)
    embeddings = torch.randn(50, found.directions.shape[1]).half()  # type: ignore[union-attr]
    with torch.inference_mode():
        directions = tiny_clip.encode_text(texts)
    cosine = torch.nn.functional.cosine_similarity(
        embeddings.double()[:, None], directions.double()[None], dim=-1
    )
    assert found.numbers([item()] * 50, embeddings.numpy()).tolist() == cosine.argmax(1).tolist()
    assert found.numbers([item()] * 2, None).tolist() == [-1, -1]
    assert np.unique(found.numbers([item()] * 50, embeddings.numpy())).size > 1


def test_an_embedding_without_direction_is_of_no_concept() -> None:
    found = Concepts(("right", "up"), None, np.eye(2))
    rows = [[np.nan, 1], [np.inf, 0], [0, -np.inf], [0, 0], [0, 1], [-1, -2]]
    assert found.numbers([item()] * 6, np.array(rows, np.float16)).tolist() == [-1, -1, -1, -1, 1, 0]


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"a": ["x"], "b": ["y"]}, "of one label, not of a, b"),
        (["x", "x"], "different names, not x, x"),
        ({"a": []}, "different names, not none"),
    ],
)
def test_what_cannot_be_is_refused(
    asked: Sequence[str] | Mapping[str, Sequence[str]], match: str, tiny_clip: Model
) -> None:
    with pytest.raises(AtlasError, match=match):
        Concepts.of(asked, tiny_clip)


def test_texts_need_a_text_tower() -> None:
    with pytest.raises(MissingTextTowerError):
        Concepts.of(["a dog"], small_model())
