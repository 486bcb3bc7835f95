from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from neurolab.errors import TrainingError
from neurolab.training.dataset import Batches, Prepared, loader
from tests.training.conftest import write_part

ROWS = torch.arange(33)


def test_pictures_come_from_the_right_shard(prepared: Prepared) -> None:
    first, second, words = prepared.images
    expected = np.stack([first[11], second[0], words[0], words[12]])
    np.testing.assert_array_equal(prepared.pictures([11, 12, 20, 32]).numpy(), expected)
    assert prepared.mirrored.tolist() == [True] * 20 + [False] * 13
    assert prepared.part_of.tolist() == [0] * 20 + [1] * 13


def test_means_are_those_of_unit_embeddings(prepared: Prepared, tmp_path: Path) -> None:
    raw = np.load(tmp_path / "words" / "00000" / "embeddings.npy").astype(np.float32)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(prepared.part_means[1].numpy(), unit.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(prepared.embeddings[20:].numpy(), unit, atol=1e-6)


def test_texts_keep_their_picture_across_shards(tmp_path: Path) -> None:
    one = write_part(tmp_path / "one", [4], mirrored=True, texts=[("name", "dog", 3)])
    two = write_part(tmp_path / "two", [5], mirrored=True, texts=[("caption", "a dog", 0)])
    assert Prepared([one, two]).texts() == [("name", "dog", 3), ("caption", "a dog", 4)]


def test_an_unfinished_part_is_refused(prepared: Prepared, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "photos" / "00001")
    with pytest.raises(TrainingError, match="photos is not wholly prepared"):
        Prepared([tmp_path / "photos", tmp_path / "words"])


def test_an_epoch_has_every_picture_once_but_for_a_rest() -> None:
    batches = [indices.tolist() for indices, _ in Batches(ROWS, 8, seed=3)]
    seen = [index for batch in batches for index in batch]
    assert len(batches) == len(Batches(ROWS, 8, seed=3)) == 4
    assert len(set(seen)) == len(seen) == 32 and set(seen) <= set(range(33))
    assert batches == [indices.tolist() for indices, _ in Batches(ROWS, 8, seed=3)]
    assert batches != [indices.tolist() for indices, _ in Batches(ROWS, 8, seed=4)]


def test_a_part_is_shown_as_often_as_it_is_repeated(prepared: Prepared) -> None:
    rows = prepared.rows({"words": 2}).tolist()
    assert rows == [*range(20), *(i for i in range(20, 33) for _ in range(2))]


def test_processes_share_the_batches_of_one() -> None:
    alone = [indices.tolist() for indices, _ in Batches(ROWS, 8, seed=0)]
    shares = [list(Batches(ROWS, 8, seed=0, process=p, processes=4)) for p in range(4)]
    for number, batch in enumerate(alone):
        assert [i for share in shares for i in share[number][0][share[number][1]].tolist()] == batch
    with pytest.raises(TrainingError, match="shared evenly"):
        Batches(ROWS, 8, seed=0, processes=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_own_pictures_in_order(prepared: Prepared, workers: int) -> None:
    batches = Batches(torch.arange(len(prepared)), 8, seed=0, process=1, processes=2)
    shares = list(loader(prepared, batches, workers))
    assert len(shares) == 4
    for share, (indices, own) in zip(shares, batches, strict=True):
        assert torch.equal(share.indices, indices) and share.own == own == slice(4, 8)
        assert torch.equal(share.images, prepared.pictures(indices[own].tolist()))
