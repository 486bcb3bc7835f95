"""Activation buckets against a brute-force draw, in shards, and as a draw."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from neurolab.mining.buckets import ActivationBuckets
from neurolab.mining.hashes import draw_hashes
from tests.mining.test_summaries import ANY, TIED, Values, assert_same_bytes, tables


def hashes_of(images: NDArray[np.int64], seed: int = 0) -> NDArray[np.uint64]:
    return draw_hashes([f"image {image}" for image in images], seed)


def offer(summary: ActivationBuckets, values: Values, images: NDArray[np.int64], size: int) -> None:
    for start in range(0, len(values), size):
        some = slice(start, start + size)
        summary.update(values[some], images[some], hashes_of(images[some]))


def drawn_by_hand(column: Values, images: NDArray[np.int64], buckets: int, most: int) -> dict[str, list]:
    """One unit's buckets, by Python: widths are tried from far too small on."""
    seen = [(float(v) + 0.0, int(i)) for v, i in zip(column, images, strict=True) if math.isfinite(v)]
    if not seen:
        return {"edges": [], "counts": [], "images": []}
    low, high = min(seen)[0], max(seen)[0]
    exponent = max(math.frexp(max(abs(low), abs(high)))[1] - 40, -149)

    def number(value: float) -> int:
        return math.floor(math.ldexp(value, -exponent))

    while number(high) - number(low) >= buckets:
        exponent += 1
    by_bucket: dict[int, list[tuple[int, int]]] = {n: [] for n in range(number(low), number(high) + 1)}
    hashes = dict(zip(images.tolist(), hashes_of(images).tolist(), strict=True))
    for value, image in seen:
        by_bucket[number(value)].append((hashes[image], image))
    return {
        "edges": [math.ldexp(n, exponent) for n in range(number(low), number(high) + 2)],
        "counts": [len(members) for members in by_bucket.values()],
        "images": [[image for _, image in sorted(members)[:most]] for members in by_bucket.values()],
    }


@given(
    tables(TIED) | tables(ANY) | tables(st.floats(-5, 5, width=32)),
    st.integers(2, 8),
    st.integers(1, 5),
    st.integers(1, 50),
    st.randoms(),
)
def test_buckets_are_a_draw_by_hand_in_any_order(
    values: Values, buckets: int, most: int, batch: int, random: object
) -> None:
    images = np.arange(len(values), dtype=np.int64) * 3
    order = np.array(random.sample(range(len(values)), len(values)), np.int64)  # type: ignore[attr-defined]
    summary = ActivationBuckets(values.shape[1], buckets, most)
    offer(summary, values[order], images[order], batch)
    found = summary.arrays()
    for unit in range(values.shape[1]):
        expected = drawn_by_hand(values[:, unit], images, buckets, most)
        size = len(expected["counts"])
        assert found["edges"][unit][: size + (size > 0)].tolist() == expected["edges"]
        assert np.isnan(found["edges"][unit][size + (size > 0) :]).all()
        assert found["counts"][unit].tolist() == expected["counts"] + [0] * (buckets - size)
        for bucket in range(buckets):
            members = expected["images"][bucket] if bucket < size else []
            assert found["images"][unit, bucket].tolist() == members + [-1] * (most - len(members))
            of = found["values"][unit, bucket]
            assert of[: len(members)].tolist() == [values[i // 3, unit] + 0.0 for i in members]
            assert np.isnan(of[len(members) :]).all()


@given(
    tables(TIED) | tables(ANY),
    st.lists(st.integers(0, 6), min_size=40, max_size=40),
    st.permutations(range(7)),
)
def test_buckets_are_the_same_for_every_sharding(values: Values, shard: list[int], order: list[int]) -> None:
    images, owner, units = np.arange(len(values)), np.array(shard)[: len(values)], values.shape[1]
    whole = ActivationBuckets(units, 4, 3)
    offer(whole, values, images, 9)
    parts = [ActivationBuckets(units, 4, 3) for _ in order]
    for number, part in enumerate(parts):
        offer(part, values[owner == number], images[owner == number], 4)
    before = parts[order[1]].state()
    left, right = ActivationBuckets(units, 4, 3), parts[order[0]]
    for number in order[1:4]:
        left.merge(parts[number])
    for number in order[4:]:
        right.merge(parts[number])
    assert_same_bytes(parts[order[1]].state(), before)
    right.merge(left)
    assert_same_bytes(right.state(), whole.state())
    assert_same_bytes(right.arrays(), whole.arrays())


@given(
    tables(TIED) | tables(ANY),
    st.lists(st.integers(-1, 2), min_size=40, max_size=40),
    st.lists(st.integers(0, 2), min_size=40, max_size=40),
)
def test_concepts_are_counted_in_their_buckets(values: Values, given: list[int], shard: list[int]) -> None:
    images, units = np.arange(len(values)), values.shape[1]
    concepts, owner = np.array(given)[: len(values)], np.array(shard)[: len(values)]
    parts = [ActivationBuckets(units, 4, 2, concepts=3) for _ in range(3)]
    for number, part in enumerate(parts):
        its = owner == number
        part.update(values[its], images[its], hashes_of(images[its]), concepts[its])
    total = parts[1]
    total.merge(parts[2])
    total.merge(parts[0])
    found = ActivationBuckets.from_state(total.state()).arrays()
    for unit in range(units):
        edges = found["edges"][unit][np.isfinite(found["edges"][unit])]
        column = np.where(np.isfinite(values[:, unit]), values[:, unit], np.nan).astype(np.float64)
        for bucket in range(len(edges) - 1):
            inside = (column >= edges[bucket]) & (column < edges[bucket + 1])
            assert found["counts"][unit, bucket] == inside.sum()
            expected = [int((inside & (concepts == concept)).sum()) for concept in range(3)]
            assert found["concepts"][unit, bucket].tolist() == expected


def test_numbers_of_a_shard_can_be_moved() -> None:
    values = np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)
    whole, first, second = (ActivationBuckets(3, 6, 4) for _ in range(3))
    keys = hashes_of(np.arange(60))
    whole.update(values, np.arange(60), keys)
    first.update(values[:25], np.arange(25), keys[:25])
    second.update(values[25:], np.arange(35), keys[25:])
    second.shift_images(25)
    second.merge(first)
    assert_same_bytes(second.state(), whole.state())


def test_every_image_of_a_bucket_is_drawn_equally_often() -> None:
    """Over many seeds; taking the first that come, instead, is told apart."""
    values = np.repeat(np.array([-1.0, 0.5, 9.0], np.float32), [50, 40, 10])[:, None]
    images, keys = np.arange(100), [f"image {i}" for i in range(100)]
    counts = np.zeros(100, np.int64)
    for seed in range(400):
        summary = ActivationBuckets(1, 16, 5)
        summary.update(values, images, draw_hashes(keys, seed))
        drawn = summary.arrays()["images"]
        np.add.at(counts, drawn[drawn >= 0], 1)
    for bucket in (slice(0, 50), slice(50, 90), slice(90, 100)):
        assert counts[bucket].sum() == 400 * 5
        assert stats.chisquare(counts[bucket]).pvalue > 1e-4
    first = np.where(np.arange(50) < 5, 400, 0)
    assert stats.chisquare(first).pvalue < 1e-9


def test_hashes_are_the_keys_and_the_seed() -> None:
    one = draw_hashes(["a", "b", "a"])
    assert one[0] == one[2] != one[1]
    assert draw_hashes(["a"], seed=1)[0] != one[0]
    many = draw_hashes([str(i) for i in range(4000)])
    assert stats.kstest(many.astype(np.float64) / 2**59, "uniform").pvalue > 1e-3
    assert draw_hashes([]).shape == (0,)


def test_buckets_refuse_what_they_cannot_hold() -> None:
    for buckets, images in ((1, 1), (33, 1), (4, 0)):
        with pytest.raises(ValueError, match="2 to 32 buckets"):
            ActivationBuckets(1, buckets, images)
    with pytest.raises(ValueError, match="expected"):
        ActivationBuckets(2).update(np.zeros((2, 3)), [0, 1], hashes_of(np.arange(2)))
    with pytest.raises(ValueError, match="cannot merge"):
        ActivationBuckets(2).merge(ActivationBuckets(3))
    with pytest.raises(ValueError, match="numbers from -1 to 1"):
        ActivationBuckets(1, concepts=2).update(np.zeros((1, 1)), [0], hashes_of(np.arange(1)), [2])


def test_more_images_of_a_level_at_once_than_short_numbers_count() -> None:
    count = 40_000
    values, images = np.full((count, 1), 0.5, np.float32), np.arange(count)
    hashes = draw_hashes([str(i) for i in images])
    at_once, in_parts = ActivationBuckets(1, 4, 4), ActivationBuckets(1, 4, 4)
    at_once.update(values, images, hashes)
    for some in np.split(images, 40):
        in_parts.update(values[some], some, hashes[some])
    for one, other in zip(at_once.state().values(), in_parts.state().values(), strict=True):
        assert one.tobytes() == other.tobytes()
