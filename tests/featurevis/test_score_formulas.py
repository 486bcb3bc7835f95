"""Each score's formula against SciPy, by hand, and against the mistake that it avoids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import percentileofscore

from neurolab.featurevis.scores.formulas import (
    AtSite,
    from_center,
    over_natural_max,
    path_similarity,
    seed_diversity,
    selectivity,
    share_beaten,
    transfer,
)


def test_strength_is_not_fooled_by_negative_activations() -> None:
    mean, high = -4.0, -1.0  # before the ReLU, a unit may be negative for every image
    weak, strong = -2.5, 0.5
    assert over_natural_max(mean, mean, high) == 0 and over_natural_max(high, mean, high) == 1
    assert over_natural_max(weak, mean, high) == pytest.approx(0.5)
    assert over_natural_max(strong, mean, high) == pytest.approx(1.5)
    assert weak / high > strong / high  # the plain ratio takes the weak picture for the stronger
    assert over_natural_max(1.0, 2.0, 2.0) is None


@given(st.integers(-3, 3), st.lists(st.integers(-3, 3), min_size=1))
def test_the_share_beaten_is_scipys_mean_rank(value: int, others: list[int]) -> None:
    expected = percentileofscore(others, value, kind="mean") / 100
    assert share_beaten(value, others) == pytest.approx(expected)


def test_the_share_beaten_leaves_out_what_is_no_number() -> None:
    assert share_beaten(1, [0, np.nan, 2]) == 0.5
    assert share_beaten(1, []) is None and share_beaten(np.nan, [1]) is None


def test_selectivity_by_hand() -> None:
    mean, sd = np.array([0.0, 10.0, -1.0, 5.0, 3.0]), np.array([1.0, 10.0, 0.5, 0.0, 2.0])
    activations = np.array([2.0, 25.0, 1.0, 99.0, 3.0])  # z: 2, 1.5, 4, never varies, 0
    found = [selectivity(activations, unit, mean, sd) for unit in range(5)]
    assert found == [pytest.approx(2 / 3), pytest.approx(1 / 3), 1.0, None, 0.0]
    assert np.argsort(activations)[::-1][0] == 3  # raw activations would put the constant unit first
    assert share_beaten(activations[2], np.delete(activations, 2)) == 0  # and the most unusual one last


def test_transfer_needs_centred_embeddings() -> None:
    center = np.array([0.95, 0, 0], np.float32)  # all images have much in common
    picture, own = np.array([1, 0.2, 0]), np.array([1, 0.9, 0])
    others = np.array([[1, 0, 0.05], [1, 0, -0.05], [1, -0.1, 0]])
    apart = [from_center(rows, center) for rows in (picture, own, others)]
    assert transfer(*apart) == 1
    plain = [from_center(rows, np.zeros(3, np.float32)) for rows in (picture, own, others)]
    assert transfer(*plain) == 0  # the plainest images look like everything
    assert transfer(apart[0], np.zeros(3, np.float32), apart[2]) is None
    assert transfer(apart[0], apart[2][0], apart[2][:1].repeat(4, 0)) == 0.5  # of the same exemplars
    none = np.vstack([apart[2], np.zeros((5, 3), np.float32)])
    assert transfer(apart[0], apart[1], none) == 1  # units without exemplars do not count


def draws(count: int, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    """Activations [count, 64] of images that share a direction, the more the larger the shift."""
    rng = np.random.default_rng(seed)
    common = np.random.default_rng(99).normal(size=64)
    return (rng.normal(size=(count, 64)) + shift * common).astype(np.float32)


def similarity(picture: np.ndarray, scale: np.ndarray | float = 1.0, offset: float = 0.0) -> float:
    exemplars, random = draws(9, 1.0, 1), draws(200, 0.0, 2)
    found = path_similarity([AtSite(*(offset + scale * part for part in (picture, exemplars, random)))] * 2)
    assert found is not None
    return found


def test_paths_of_exemplars_are_like_exemplars_and_of_random_images_are_not() -> None:
    assert np.mean([similarity(p) for p in draws(100, 1.0, 3)]) == pytest.approx(1, abs=0.15)
    assert np.mean([similarity(p) for p in draws(100, 0.0, 4)]) == pytest.approx(0, abs=0.1)
    assert similarity(draws(1, -1.0, 5)[0]) < -0.5


def test_paths_do_not_depend_on_the_scale_of_units() -> None:
    scale = np.exp(np.random.default_rng(6).normal(size=64) * 3).astype(np.float32)
    picture = draws(1, 1.0, 3)[0]
    assert similarity(picture, scale, 5) == pytest.approx(similarity(picture), rel=1e-2)


def test_where_exemplars_have_nothing_in_common_there_is_no_path() -> None:
    random = draws(200)
    assert path_similarity([AtSite(random[0], draws(9, 0.0, 1), random)]) is None
    assert path_similarity([AtSite(random[0], draws(1, 1.0), random)]) is None
    assert path_similarity([]) is None
    mixed = [AtSite(random[0], draws(9, shift, 1), random) for shift in (0.0, 2.0)]
    assert path_similarity(mixed) is not None  # one site that says nothing does no harm


def test_seed_diversity_of_equal_unrelated_and_opposite_pictures() -> None:
    eye = np.eye(4, dtype=np.float32)
    assert seed_diversity(np.stack([eye[0]] * 3)) == pytest.approx(0)
    assert seed_diversity(eye) == pytest.approx(1)
    assert seed_diversity(np.stack([eye[0], -eye[0]])) == pytest.approx(2)
    assert seed_diversity(eye[:1]) is None
