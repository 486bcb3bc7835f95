"""The embeddings of units against a plain loop, and the file of the images' embeddings."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from neurolab.atlas.embeddings import EmbeddingsFile, mean_direction, unit_embeddings, unit_norm
from neurolab.errors import AtlasError


def by_hand(images: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    directions = [e / np.linalg.norm(e) for e in embeddings.astype(np.float64)]
    center = np.mean(directions, axis=0)
    apart = [(d - center) / np.linalg.norm(d - center) for d in directions]
    units = []
    for row in images:
        mean = np.mean([apart[i] for i in row[:20] if i >= 0], axis=0)
        units.append(mean / np.linalg.norm(mean))
    return np.array(units)


def test_units_are_the_mean_direction_of_their_exemplars() -> None:
    rng = np.random.default_rng(0)
    embeddings = (rng.standard_normal((300, 16)) + 3).astype(np.float16)  # far from zero, as CLIP's are
    images = np.stack([rng.permutation(300)[:50] for _ in range(600)]).astype(np.int64)
    images[0, 7:] = -1
    found = unit_embeddings(images, embeddings, mean_direction(embeddings))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, by_hand(images, embeddings), atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(found.astype(np.float64), axis=1), 1, atol=2e-3)
    raw = unit_norm(embeddings[images[:, :20]].astype(np.float32).mean(axis=1))
    assert np.abs(found - raw).max() > 0.1  # without the centre all units would be alike


def test_only_the_first_twenty_exemplars_count() -> None:
    rng = np.random.default_rng(1)
    embeddings = rng.standard_normal((100, 8)).astype(np.float16)
    images = np.arange(100, dtype=np.int64)[None]
    center = mean_direction(embeddings)
    whole = unit_embeddings(images, embeddings, center)
    assert np.array_equal(whole, unit_embeddings(images[:, :20], embeddings, center))
    assert not np.array_equal(whole, unit_embeddings(images[:, :19], embeddings, center))


def test_nothing_is_made_of_nothing() -> None:
    embeddings = np.array([[1, 0], [0, 0], [np.nan, 1], [np.inf, 1], [0, 2]], np.float16)
    center = mean_direction(embeddings)
    np.testing.assert_allclose(center, [0.5, 0.5], atol=1e-6)  # two of the five have a direction
    images = np.array([[-1, -1], [1, 2], [0, 3], [4, 1]], np.int64)
    found = unit_embeddings(images, embeddings, center)
    s = np.sqrt(0.5)
    np.testing.assert_allclose(found, [[0, 0], [0, 0], [s, -s], [-s, s]], atol=1e-3)
    assert unit_embeddings(images, embeddings[:0], center).tolist() == [[0, 0]] * 4


def test_the_file_forgets_what_no_checkpoint_counts(tmp_path: Path) -> None:
    rows = np.arange(30, dtype=np.float16).reshape(10, 3)
    path = tmp_path / "embeddings"
    file = EmbeddingsFile(path, 3)
    assert file.array().shape == (0, 3)
    file.append(rows[:4])
    file.flush()
    file.append(rows[4:8])
    file.close()
    again = EmbeddingsFile(path, 3, rows=4)
    assert np.array_equal(again.array(), rows[:4])
    again.append(rows[4:])
    assert np.array_equal(again.array(), rows)
    again.close()
    with pytest.raises(AtlasError, match="fewer embeddings"):
        EmbeddingsFile(path, 3, rows=11)


def test_rows_are_on_the_disk_when_they_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that were appended, and the system was told to put them there after it got them."""
    synced: list[tuple[int, int]] = []
    fsync = os.fsync

    def noting(handle: int) -> None:
        status = os.fstat(handle)
        synced.append((status.st_ino, status.st_size))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    file = EmbeddingsFile(tmp_path / "embeddings", 3)
    for rows in (4, 1):
        file.append(np.ones((rows, 3), np.float16))
        file.flush()
    file.close()
    inode = file.path.stat().st_ino
    assert synced == [(inode, 4 * 3 * 2), (inode, 5 * 3 * 2)]


def test_embeddings_of_another_width_are_refused(tmp_path: Path) -> None:
    file = EmbeddingsFile(tmp_path / "embeddings", 3)
    with pytest.raises(AtlasError, match="shape"):
        file.append(np.zeros((2, 4), np.float16))
    file.close()
