"""Summaries against NumPy on all values at once, and against themselves in shards."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from neurolab.mining.summaries import Histogram, Moments, TopK
from neurolab.mining.topk import pack, unpack

Values = NDArray[np.float32]

# Few distinct values, so that most are tied, with both zeros, infinities and NaN among them.
TIED = st.sampled_from([-np.inf, -2.5, -1.0, -0.0, 0.0, 1.0, 1.0000001, 3.0, np.inf, np.nan])
ANY = st.floats(width=32)


def tables(elements: st.SearchStrategy[float], most: int = 40) -> st.SearchStrategy[Values]:
    shapes = st.tuples(st.integers(0, most), st.integers(1, 4))
    return arrays(np.float32, shapes, elements=elements)


def place(images: NDArray[np.int64], units: int) -> NDArray[np.int32]:
    """A position that tells which image and unit it belongs to."""
    return (images[:, None] * 7 + np.arange(units)).astype(np.int32)


def sorted_exemplars(values: Values, images: NDArray[np.int64], k: int) -> dict[str, NDArray[np.generic]]:
    """The k largest by Python's own sort of all."""
    units = values.shape[1]
    found = {
        "values": np.full((units, k), -np.inf, np.float32),
        "images": np.full((units, k), -1, np.int64),
        "position": np.full((units, k), -1, np.int32),
        "nan": np.isnan(values).sum(axis=0).astype(np.int64),
    }
    for unit in range(units):
        pairs = [(float(v), int(i)) for v, i in zip(values[:, unit], images, strict=True) if v == v]
        for slot, (value, image) in enumerate(sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:k]):
            found["values"][unit, slot] = value + 0.0
            found["images"][unit, slot] = image
            found["position"][unit, slot] = image * 7 + unit
    return found


def assert_same_bytes(a: dict[str, NDArray[np.generic]], b: dict[str, NDArray[np.generic]]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert a[name].tobytes() == b[name].tobytes(), name


def in_batches(
    summary: TopK | Moments | Histogram, values: Values, images: NDArray[np.int64], size: int
) -> None:
    for start in range(0, len(values), size):
        some = slice(start, start + size)
        summary.update(values[some], images[some], place(images[some], values.shape[1]))


@given(st.data())
def test_packed_keys_sort_as_value_then_image(data: st.DataObject) -> None:
    pairs = data.draw(
        st.lists(st.tuples(st.floats(width=32, allow_nan=False), st.integers(0, 2**32 - 1)), min_size=1)
    )
    values = np.array([value for value, _ in pairs], np.float32) + np.float32(0)
    images = np.array([image for _, image in pairs], np.int64)
    keys = pack(values, images)
    assert keys.min() > 0
    assert sorted(range(len(pairs)), key=lambda i: (-values[i], images[i])) == sorted(
        range(len(pairs)), key=lambda i: -int(keys[i])
    )
    back_values, back_images = unpack(keys)
    assert back_values.tobytes() == values.tobytes()
    assert np.array_equal(back_images, images)


@given(tables(TIED) | tables(ANY), st.integers(1, 12), st.integers(1, 50), st.randoms())
def test_top_k_is_a_full_sort_in_any_order(values: Values, k: int, batch: int, random: object) -> None:
    images = np.arange(len(values), dtype=np.int64) * 3
    order = np.array(random.sample(range(len(values)), len(values)), np.int64)  # type: ignore[attr-defined]
    summary = TopK(values.shape[1], k)
    in_batches(summary, values[order], images[order], batch)
    assert_same_bytes(summary.state(), sorted_exemplars(values, images, k))


@given(
    tables(TIED),
    st.integers(1, 8),
    st.lists(st.integers(0, 3), min_size=40, max_size=40),
    st.permutations(range(4)),
)
def test_top_k_is_the_same_for_every_sharding(
    values: Values, k: int, shard: list[int], order: list[int]
) -> None:
    images = np.arange(len(values), dtype=np.int64)
    owner = np.array(shard)[: len(values)]
    parts = []
    for number in range(4):
        part = TopK(values.shape[1], k)
        in_batches(part, values[owner == number], images[owner == number], 5)
        parts.append(part)
    expected = sorted_exemplars(values, images, k)
    first, second, third, fourth = (parts[i] for i in order)
    before = second.state()
    left = TopK.from_state(first.state())
    left.merge(second)
    right = TopK.from_state(third.state())
    right.merge(fourth)
    left.merge(right)  # (a b)(c d)
    assert_same_bytes(left.state(), expected)
    assert_same_bytes(second.state(), before)
    chain = TopK(values.shape[1], k)
    for part in (fourth, third, second, first):  # (((d) c) b) a
        chain.merge(part)
    assert_same_bytes(chain.state(), expected)


def test_top_k_of_many_images_drifting_upwards() -> None:
    """Every image beats those before it: the buffer runs over again and again."""
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((3000, 5)) + np.arange(3000)[:, None] * 0.02).astype(np.float32)
    images = np.arange(3000, dtype=np.int64)
    summary = TopK(5, 10)
    in_batches(summary, values, images, 300)  # more at once than the buffer holds
    assert_same_bytes(summary.state(), sorted_exemplars(values, images, 10))


def test_top_k_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TopK(3, 0)
    with pytest.raises(ValueError, match="expected"):
        TopK(3, 2).update(np.zeros((2, 4)), [0, 1], np.zeros((2, 4), np.int32))
    with pytest.raises(ValueError, match="image indices"):
        TopK(1, 2).update(np.zeros((1, 1)), [2**32], np.zeros((1, 1), np.int32))
    with pytest.raises(ValueError, match="cannot merge"):
        TopK(3, 2).merge(TopK(3, 5))


def test_top_k_goes_on_behind_a_shift_of_its_images() -> None:
    """Ties go to the earlier image by the new numbers, whichever was offered first."""
    values = np.random.default_rng(0).integers(0, 3, (300, 4)).astype(np.float32)
    values[:80] = 0  # what ties comes late, with larger numbers than the best had before the shift
    images = np.arange(300)
    summary = TopK(4, 6)
    summary.update(values[100:], images[:200], place(images[100:], 4))
    summary.shift_images(100)
    in_batches(summary, values[:100], images[:100], 7)
    assert_same_bytes(summary.state(), sorted_exemplars(values, images, 6))


def test_images_are_shifted_up_to_the_last_number() -> None:
    summary, last = TopK(1, 2), 2**32 - 1
    summary.update(np.float32([[1], [2]]), [7, 3], np.zeros((2, 1), np.int32))
    with pytest.raises(ValueError, match="image indices"):
        summary.shift_images(last - 6)
    assert summary.state()["images"].tolist() == [[3, 7]]
    summary.shift_images(last - 7)
    assert summary.state()["images"].tolist() == [[last - 4, last]]
    assert summary.state()["values"].tolist() == [[2, 1]]
    empty = TopK(1, 2)
    empty.shift_images(2**40)  # of nothing seen there is nothing to shift, and all may enter
    assert empty.bar.tolist() == [-np.inf]


@given(tables(st.floats(-1e4, 1e4, width=32) | st.just(np.nan)), st.integers(1, 30))
def test_moments_are_those_of_numpy(values: Values, batch: int) -> None:
    summary = Moments(values.shape[1])
    in_batches(summary, values, np.arange(len(values)), batch)
    for unit in range(values.shape[1]):
        seen = values[:, unit][~np.isnan(values[:, unit])].astype(np.float64)
        assert summary.count[unit] == len(seen)
        if len(seen):
            spread = max(float(seen.std()), 1e-6 * float(np.abs(seen).max()), 1e-300)
            assert abs(summary.mean[unit] - seen.mean()) <= 1e-9 * spread + 1e-300
            assert abs(summary.sd[unit] - seen.std()) <= 1e-9 * spread + 1e-300
            assert (summary.min[unit], summary.max[unit]) == (seen.min(), seen.max())
        else:
            assert np.isnan(
                [summary.mean[unit], summary.sd[unit], summary.min[unit], summary.max[unit]]
            ).all()


def test_moments_keep_their_digits_far_from_zero() -> None:
    """The sum of squares minus the square of the sum, in floating point, has no correct digit here."""
    rng = np.random.default_rng(2)
    values = (1e4 + 0.01 * rng.standard_normal((5000, 1))).astype(np.float32)
    summary = Moments(1)
    in_batches(summary, values, np.arange(5000), 64)
    exact = values.astype(np.float64)
    assert summary.sd[0] == pytest.approx(exact.std(), rel=1e-9)
    naive = np.mean(values**2, dtype=np.float32) - np.mean(values, dtype=np.float32) ** 2
    assert abs(naive - exact.var()) > 0.9 * exact.var()


def test_moments_of_infinities_are_those_of_numpy() -> None:
    values = np.array([[1, 1], [np.inf, np.inf], [2, -np.inf]], np.float32)
    summary = Moments(2)
    in_batches(summary, values, np.arange(3), 2)
    assert summary.mean[0] == np.inf and np.isnan(summary.mean[1])
    assert np.isnan(summary.variance).all()
    assert summary.max.tolist() == [np.inf, np.inf] and summary.min.tolist() == [1, -np.inf]


@given(tables(ANY), st.lists(st.integers(0, 6), min_size=40, max_size=40), st.permutations(range(7)))
def test_moments_are_the_same_for_every_sharding(values: Values, shard: list[int], order: list[int]) -> None:
    """Of any float32 numbers, infinities and NaN among them, to the byte."""
    owner, units = np.array(shard)[: len(values)], values.shape[1]
    whole = Moments(units)
    whole.update(values)
    parts = [Moments(units) for _ in order]
    for number, part in enumerate(parts):
        in_batches(part, values[owner == number], np.arange(len(values)), 4)
    left, right = parts[order[0]], Moments(units)
    for number in order[1:4]:
        left.merge(parts[number])
    for number in order[4:]:
        right.merge(parts[number])
    right.merge(left)
    assert_same_bytes(right.state(), whole.state())
    for name in ("mean", "variance"):
        assert getattr(right, name).tobytes() == getattr(whole, name).tobytes()


@given(tables(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_moments_are_exact(values: Values) -> None:
    """Against Python's fractions; float64 sums in any order are not that."""
    summary = Moments(values.shape[1])
    in_batches(summary, values, np.arange(len(values)), 3)
    for unit, column in enumerate(values.T if len(values) else []):
        numbers = [Fraction(float(value)) for value in column]
        mean = sum(numbers) / len(numbers)
        assert summary.mean[unit] == float(mean)
        assert summary.variance[unit] == float(sum((x - mean) ** 2 for x in numbers) / len(numbers))


def test_sums_of_few_large_and_many_small_numbers() -> None:
    values = np.array([[1e30], *[[1e-30]] * 1000, [-1e30]], np.float32)
    summary = Moments(1)
    in_batches(summary, values, np.arange(len(values)), 100)
    exact = 1000 * float(np.float32(1e-30)) / 1002
    assert summary.mean[0] == pytest.approx(exact, rel=1e-15)
    assert values.sum(dtype=np.float64) / 1002 == 0


def test_a_unit_does_not_depend_on_its_neighbours() -> None:
    """NaN in one unit, and which units are mined beside it, leave the others' bytes alone."""
    rng = np.random.default_rng(3)
    values = rng.standard_normal((64, 6)).astype(np.float32)
    spoiled = values.copy()
    spoiled[5:20, 0] = np.nan
    a, b = Moments(6), Moments(6)
    a.update(values)
    b.update(spoiled)
    for name, array in a.state().items():
        assert array[..., 1:].tobytes() == b.state()[name][..., 1:].tobytes()


def numpy_counts(values: Values, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    seen = values[~np.isnan(values)].astype(np.float64)
    inside = np.histogram(seen[np.isfinite(seen)], bins=edges)[0]
    return np.concatenate([[(seen < edges[0]).sum()], inside, [(seen > edges[-1]).sum()]])


@given(
    tables(TIED) | tables(st.floats(-(2.0**100), 2.0**100, width=32)),
    st.integers(1, 9),
    st.integers(1, 50),
    st.integers(1, 50),
)
def test_histogram_is_that_of_numpy(values: Values, bins: int, sample: int, batch: int) -> None:
    summary = Histogram(values.shape[1], bins, sample=sample)
    in_batches(summary, values, np.arange(len(values)), batch)
    summary.finish()
    assert summary.edges is not None and (np.diff(summary.edges) > 0).all()
    for unit in range(values.shape[1]):
        counts = [summary.below[unit], *summary.counts[unit], summary.above[unit]]
        assert np.array_equal(counts, numpy_counts(values[:, unit], summary.edges[unit]))
        finite = values[:sample, unit][np.isfinite(values[:sample, unit])]
        if len(values) <= sample and len(finite) and np.abs(finite).max() < 2**40:  # NumPy refuses more
            assert np.allclose(np.histogram_bin_edges(finite.astype(np.float64), bins), summary.edges[unit])


@given(st.integers(1, 65), st.floats(-100, 100, width=32), st.floats(2**-20, 100, width=32))
def test_values_on_edges_are_counted_as_numpy_counts_them(bins: int, low: float, width: float) -> None:
    edges = np.linspace(low, low + width, bins + 1)
    around = [np.nextafter(edges.astype(np.float32), np.float32(side)) for side in (-np.inf, np.inf)]
    values = np.concatenate([edges.astype(np.float32), *around])[:, None]
    summary = Histogram(1, bins, edges=edges[None])
    summary.update(values)
    counts = [summary.below[0], *summary.counts[0], summary.above[0]]
    assert np.array_equal(counts, numpy_counts(values[:, 0], edges))


def test_edges_come_from_the_sample_and_leave_room() -> None:
    rng = np.random.default_rng(4)
    values = rng.standard_normal((500, 3)).astype(np.float32)
    summaries = [Histogram(3, 16, sample=100) for _ in range(2)]
    in_batches(summaries[0], values, np.arange(500), 64)
    in_batches(summaries[1], values, np.arange(500), 7)
    assert_same_bytes(summaries[0].state(), summaries[1].state())
    edges = summaries[0].edges
    assert edges is not None
    low, high = values[:100].min(axis=0), values[:100].max(axis=0)
    np.testing.assert_allclose(edges[:, 0], low - (high - low) / 4, rtol=1e-6)
    np.testing.assert_allclose(edges[:, -1], high + (high - low) / 4, rtol=1e-6)


@given(tables(TIED), st.lists(st.integers(0, 2), min_size=40, max_size=40), st.permutations(range(3)))
def test_histograms_of_shards(values: Values, shard: list[int], order: list[int]) -> None:
    units = values.shape[1]
    edges = np.tile(np.linspace(-2, 2.5, 6), (units, 1))
    whole = Histogram(units, 5, edges=edges)
    whole.update(values)
    owner, parts = np.array(shard)[: len(values)], [Histogram(units, 5, edges=edges) for _ in range(3)]
    for number, part in enumerate(parts):
        part.update(values[owner == number])
    first, second, third = (parts[i] for i in order)
    second.merge(third)
    first.merge(second)
    assert_same_bytes(first.state(), whole.state())


def test_histograms_that_still_gather_merge_within_one_sample() -> None:
    values = np.arange(30, dtype=np.float32)[:, None]
    gathering, fixed = Histogram(1, 4, sample=20), Histogram(1, 4, edges=np.array([[0.0, 5, 10, 15, 20]]))
    gathering.update(values[:8])
    other = Histogram(1, 4, sample=20)
    other.update(values[8:12])
    gathering.merge(other)
    fixed.update(values[12:])
    for a, b in ((gathering, fixed), (fixed, gathering)):
        total = Histogram.from_state(a.state())
        total.merge(b)
        assert total.counts.tolist() == [[5, 5, 5, 6]] and total.above.tolist() == [9]
    other.update(values[:12])
    with pytest.raises(ValueError, match="no common edges"):
        gathering.merge(other)
    with pytest.raises(ValueError, match="different edges"):
        fixed.merge(Histogram(1, 4, edges=np.array([[0.0, 1, 2, 3, 4]])))


def test_histograms_that_together_are_one_sample_merge() -> None:
    values = np.random.default_rng(5).standard_normal((50, 2)).astype(np.float32)
    one, first, second = (Histogram(2, 4, sample=20) for _ in range(3))
    first.update(values[:8])
    second.update(values[8:20])
    first.merge(second)
    for summary, some in ((one, values[:20]), (one, values[20:]), (first, values[20:])):
        summary.update(some)
    assert first.edges is not None
    assert_same_bytes(first.state(), one.state())


MAKERS: list[Callable[[int], TopK | Moments | Histogram]] = [
    lambda units: TopK(units, 4),
    Moments,
    lambda units: Histogram(units, 5, sample=30),
]


@pytest.mark.parametrize("make", MAKERS)
@given(values=tables(TIED, most=60), stops=st.lists(st.integers(0, 60), max_size=3))
@settings(max_examples=50)
def test_saved_and_loaded_goes_on_as_if_nothing_had_happened(
    make: Callable[[int], TopK | Moments | Histogram], values: Values, stops: list[int]
) -> None:
    straight, halted = make(values.shape[1]), make(values.shape[1])
    for start in range(0, len(values), 7):
        batch = values[start : start + 7]
        images = np.arange(start, start + len(batch))
        for summary in (straight, halted):
            summary.update(batch, images, place(images, values.shape[1]))
        if any(start <= stop < start + 7 for stop in stops):
            halted = type(halted).from_state(halted.state())
    assert_same_bytes(straight.state(), halted.state())
