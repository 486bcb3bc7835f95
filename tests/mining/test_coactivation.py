"""Co-activation against NumPy's correlations, and in shards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from neurolab.mining.coactivation import LIMIT, QUANTA, CoActivation, random_signs
from tests.mining.test_buckets import hashes_of
from tests.mining.test_summaries import ANY, TIED, Values, assert_same_bytes, tables


def edges_of(units: int, low: float = -2.0, high: float = 3.0) -> NDArray[np.float64]:
    return np.tile(np.linspace(low, high, 5), (units, 1))


def offer(summary: CoActivation, values: Values, images: NDArray[np.int64], size: int = 7) -> None:
    for start in range(0, len(values), size):
        some = slice(start, start + size)
        summary.update(values[some], hashes_of(images[some]))


def test_signs_are_as_good_as_random() -> None:
    signs = random_signs(hashes_of(np.arange(3000)), 128)
    assert signs.shape == (3000, 128) and set(np.unique(signs)) == {-1.0, 1.0}
    assert np.array_equal(signs[5:9], random_signs(hashes_of(np.arange(5, 9)), 128))
    assert np.array_equal(signs[:, :64], random_signs(hashes_of(np.arange(3000)), 64))
    sums = signs.sum(axis=0) / 3000**0.5
    assert stats.kstest(sums, "norm").pvalue > 1e-3
    products = np.corrcoef(signs.T)[np.triu_indices(128, 1)] * 3000**0.5
    assert stats.kstest(products, "norm").pvalue > 1e-3


def test_dot_products_are_correlations() -> None:
    """Their error is that of so many random projections: as far off as that, and no further."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal((4000, 3))
    mixed = common @ rng.standard_normal((3, 40)) + 1.5 * rng.standard_normal((4000, 40)) + 5
    values = mixed.astype(np.float32)
    summary = CoActivation(40, 1024)
    summary.fix(np.stack([values.min(axis=0), values.max(axis=0)], axis=1).astype(np.float64))
    offer(summary, values, np.arange(4000), 64)
    projection = summary.arrays()["projection"].astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(projection, axis=1), 1, atol=1e-6)
    above = np.triu_indices(40, 1)
    exact = np.corrcoef(values.T.astype(np.float64))[above]
    error = (projection @ projection.T)[above] - exact
    assert 0.5 / 32 < error.std() < 1.3 / 32
    assert abs(error.mean()) < 0.01
    assert np.corrcoef((projection @ projection.T)[above], exact)[0, 1] > 0.97


def by_hand(values: Values, images: NDArray[np.int64], edges: NDArray[np.float64], count: int) -> Values:
    """By Python's integers."""
    signs = random_signs(hashes_of(images), count).astype(int).tolist()
    rows = []
    for unit, column in enumerate(values.T.astype(np.float64)):
        low, high = edges[unit, 0], edges[unit, -1]
        quanta = [
            0
            if x != x
            else round(min(max((x - (low + high) / 2) / ((high - low) / 2 / QUANTA), -LIMIT), LIMIT))
            for x in column
        ]
        mean = sum(quanta) / max(len(quanta), 1)
        row = [sum(q * s[j] for q, s in zip(quanta, signs, strict=True)) for j in range(count)]
        row = [value - mean * sum(s[j] for s in signs) for j, value in enumerate(row)]
        length = sum(value * value for value in row) ** 0.5 or 1.0
        rows.append([value / length for value in row])
    return np.array(rows, np.float32).reshape(values.shape[1], count)


@given(tables(TIED, most=12) | tables(ANY, most=12))
def test_projections_are_those_by_hand(values: Values) -> None:
    units, images = values.shape[1], np.arange(len(values))
    summary = CoActivation(units, 64)
    offer(summary, values, images, 5)
    summary.fix(edges_of(units))
    found = summary.arrays()["projection"]
    np.testing.assert_allclose(found, by_hand(values, images, edges_of(units), 64), atol=1e-5)


@given(
    tables(TIED) | tables(ANY),
    st.lists(st.integers(0, 6), min_size=40, max_size=40),
    st.permutations(range(7)),
)
def test_projections_are_the_same_for_every_sharding(
    values: Values, shard: list[int], order: list[int]
) -> None:
    images, owner, units = np.arange(len(values)), np.array(shard)[: len(values)], values.shape[1]
    whole = CoActivation(units, 64)
    offer(whole, values, images)  # waits for the edges
    whole.fix(edges_of(units))
    parts = [CoActivation(units, 64) for _ in order]
    for number, part in enumerate(parts):
        part.fix(edges_of(units))
        offer(part, values[owner == number], images[owner == number], 4)
    left, right = parts[order[0]], parts[order[1]]
    for number in order[2:4]:
        left.merge(parts[number])
    for number in order[4:]:
        right.merge(parts[number])
    right.append(left)
    assert_same_bytes(right.state(), whole.state())
    assert_same_bytes(CoActivation.from_state(right.state()).arrays(), whole.arrays())


def test_what_waits_is_saved_and_handed_on() -> None:
    values = np.random.default_rng(1).standard_normal((30, 3)).astype(np.float32)
    first, second, whole = (CoActivation(3, 64) for _ in range(3))
    offer(first, values[:10], np.arange(10))
    offer(second, values[10:], np.arange(10, 30))
    first = CoActivation.from_state(first.state())
    first.append(CoActivation.from_state(second.state()))
    first.fix(edges_of(3))
    whole.fix(edges_of(3))
    offer(whole, values, np.arange(30))
    assert_same_bytes(first.state(), whole.state())


def test_co_activation_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ValueError, match="multiple of 64"):
        CoActivation(2, 100)
    with pytest.raises(ValueError, match="expected"):
        CoActivation(2).update(np.zeros((2, 3)), hashes_of(np.arange(2)))
    a, b = CoActivation(2), CoActivation(2)
    with pytest.raises(ValueError, match="no common edges"):
        a.merge(b)
    a.fix(edges_of(2))
    b.fix(edges_of(2, high=4.0))
    with pytest.raises(ValueError, match="no common edges"):
        a.merge(b)
    with pytest.raises(ValueError, match="other numbers"):
        a.merge(CoActivation(3))
