from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power

from neurolab.errors import TrainingError
from neurolab.training.dataset import Prepared
from neurolab.training.pocket import new_clip
from neurolab.training.whitening import whiten_texts, whitening_map
from tests.training.conftest import TINY


def photos_of(data: Prepared) -> np.ndarray:
    return data.embeddings[data.mirrored].double().numpy()


def across(rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    along = mean / np.linalg.norm(mean)
    return rows - np.outer(rows @ along, along)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_it_is_the_covariances_power_across_the_photos_mean(prepared: Prepared, share: float) -> None:
    photos = photos_of(prepared)
    mean = photos.mean(axis=0)
    covariance = np.cov(photos.T, bias=True)
    covariance += np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    rows = np.random.default_rng(0).normal(size=(5, len(mean)))

    whitened = across(across(rows, mean) @ fractional_matrix_power(covariance, -share / 2), mean)
    own = across(across(photos, mean) @ fractional_matrix_power(covariance, -share / 2), mean)
    lengths = (np.linalg.norm(a, axis=1).mean() for a in (across(photos, mean), own))
    expected = rows - across(rows, mean) + whitened * (next(lengths) / next(lengths))

    found = torch.from_numpy(rows).float() @ whitening_map(prepared, share)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_what_lies_along_the_photos_mean_and_the_mean_length_across_it_stay(prepared: Prepared) -> None:
    photos, found = photos_of(prepared), whitening_map(prepared, 1.0).double().numpy()
    mean = photos.mean(axis=0)
    np.testing.assert_allclose(photos @ found @ mean, photos @ mean, rtol=1e-4)
    before, after = (np.linalg.norm(across(rows, mean), axis=1).mean() for rows in (photos, photos @ found))
    assert after == pytest.approx(before, rel=1e-4)


def test_it_evens_the_spread_of_the_photos_and_not_that_of_the_words(prepared: Prepared) -> None:
    photos_spread = torch.tensor([6.0, 1, 1, 1, 1, 1, 1, 1])
    words_spread = torch.tensor([1.0, 6, 1, 1, 1, 1, 1, 1])
    numbers = torch.randn(len(prepared), 8, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([0.0, 0, 0, 0, 0, 0, 0, 20])
    prepared.embeddings = mean + numbers * torch.where(
        prepared.mirrored[:, None], photos_spread, words_spread
    )

    def variance(share: float) -> torch.Tensor:
        return (prepared.embeddings[prepared.mirrored] @ whitening_map(prepared, share)).var(dim=0)[:-1]

    none, half, whole = (variance(share) for share in (0.0, 0.5, 1.0))
    widest = [float(v[0] / v.sum()) for v in (none, half, whole)]
    assert widest[0] > widest[1] + 0.1 > widest[2] + 0.2
    # The direction that only the words are wide in is treated as the photos' other ones are.
    gain = whole / none
    assert float(gain[1] / gain[2]) == pytest.approx(1, abs=0.2)


def test_the_texts_are_those_after_the_map(prepared: Prepared) -> None:
    clip = new_clip(TINY).eval()
    tokens = torch.randint(1, 2000, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = clip.encode_text(tokens)
        whiten_texts(clip, prepared, 0.5)
        torch.testing.assert_close(
            clip.encode_text(tokens), before @ whitening_map(prepared, 0.5), rtol=1e-3, atol=1e-4
        )


def test_a_share_of_zero_leaves_the_weights_alone(prepared: Prepared) -> None:
    clip = new_clip(TINY)
    before = clip.text_projection.detach().clone()
    whiten_texts(clip, prepared, 0.0)
    assert torch.equal(clip.text_projection, before)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_recipe_whitens_by_a_share(share: float) -> None:
    with pytest.raises(TrainingError, match="text_whitening"):
        dataclasses.replace(TINY, text_whitening=share)
