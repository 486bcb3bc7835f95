"""What is read off a histogram, against counting, SciPy, numerical integration and NumPy's interpolation."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import percentileofscore

from neurolab.atlas import Atlas
from neurolab.atlas.arrays import SiteArrays
from neurolab.atlas.distribution import selectivity, share_below, skewness, z_scores
from tests.atlas.making import MAP_SITE, percentile_by_interp


@pytest.fixture
def site(atlas: Atlas) -> SiteArrays:
    return atlas.site(MAP_SITE.name)


def site_of(activations: np.ndarray, edges: np.ndarray, like: SiteArrays) -> SiteArrays:
    """A site with the statistics of activations [images, units], and edges [units, bins + 1] of bins."""
    pairs = zip(activations.T, edges, strict=True)
    return replace(
        like,
        units=activations.shape[1],
        mean=activations.mean(0),
        sd=activations.std(0),
        min=activations.min(0).astype(np.float32),
        max=activations.max(0).astype(np.float32),
        histogram=np.stack([np.histogram(column, of)[0] for column, of in pairs]),
        edges=edges,
    )


def wide_edges(activations: np.ndarray, bins: int = 16) -> np.ndarray:
    """Edges that go further than the activations, and end in a bin without width, as mining leaves them."""
    low, high = activations.min(0) - 0.7, activations.max(0) + 0.9
    edges = np.linspace(low, high, bins, axis=1)
    return np.concatenate([edges, edges[:, -1:]], axis=1)


def test_share_below_is_the_percentile_of_each_unit_for_itself(site: SiteArrays) -> None:
    activations = np.float32(np.random.default_rng(0).normal(size=(500, 6)))
    found = site_of(activations, wide_edges(activations), site)
    values = np.concatenate([np.linspace(-5, 5, 41), found.min[:1], found.max[:1], found.edges[0]])
    for value in values:
        units = np.array([4, 0, 0, 5])
        expected = [
            percentile_by_interp(value, found.histogram[u], found.edges[u], found.min[u], found.max[u]) / 100
            for u in units
        ]
        np.testing.assert_allclose(share_below(found, value, units), expected, atol=1e-12)


def test_share_below_counts_images(site: SiteArrays) -> None:
    """It is exact at the edges, and off by no more than a bin's images between them."""
    activations = np.float32(np.random.default_rng(1).exponential(size=(300, 3)))
    found = site_of(activations, wide_edges(activations), site)
    units = np.arange(3)
    for values in np.random.default_rng(2).uniform(-0.5, 4, (20, 3)):
        true = (activations < values).mean(0)
        assert np.all(np.abs(share_below(found, values, units) - true) <= found.histogram.max(1) / 300)
    for column in range(found.edges.shape[1]):
        true = (activations < found.edges[:, column]).mean(0)
        np.testing.assert_allclose(share_below(found, found.edges[:, column], units), true, atol=1e-12)


def test_units_without_images_have_no_share(site: SiteArrays) -> None:
    none = replace(
        site, min=np.full(4, np.nan, np.float32), max=np.full(4, np.nan, np.float32),
        histogram=np.zeros_like(site.histogram),
    )  # fmt: skip
    with np.errstate(all="raise"):
        assert np.isnan(share_below(none, 0.0, np.arange(4))).all()
    assert np.isnan(share_below(site, np.nan, np.arange(4))).all()


def test_skewness_is_that_of_images_evenly_spread_in_their_bins(site: SiteArrays) -> None:
    activations = np.random.default_rng(3).exponential(size=(400, 3))
    found = site_of(activations, wide_edges(activations), site)
    for unit in range(3):
        places = np.clip(found.edges[unit], found.min[unit], found.max[unit])
        total = 0.0
        for low, high, count in zip(places[:-1], places[1:], found.histogram[unit], strict=True):
            spread = low + (high - low) * (np.arange(2000) + 0.5) / 2000
            total += count * np.mean(((spread - found.mean[unit]) / found.sd[unit]) ** 3)
        (estimate,) = skewness(found, np.array([unit]))
        assert estimate == pytest.approx(total / 400, rel=1e-5)
        midpoints = (found.histogram[unit] * ((places[1:] + places[:-1]) / 2 - found.mean[unit]) ** 3).sum()
        assert estimate != pytest.approx(midpoints / 400 / found.sd[unit] ** 3, rel=1e-3)


def test_skewness_is_near_that_of_the_images(site: SiteArrays) -> None:
    rng = np.random.default_rng(4)
    activations = np.stack(
        [rng.normal(size=5000), rng.exponential(size=5000), -rng.exponential(size=5000)], 1
    )
    edges = np.linspace(activations.min(0), activations.max(0), 65, axis=1)
    estimate = skewness(site_of(activations, edges, site), np.arange(3))
    np.testing.assert_allclose(estimate, stats.skew(activations), atol=0.03)


@pytest.mark.filterwarnings("error")
def test_infinite_activations_are_no_reason_to_warn(site: SiteArrays) -> None:
    activations = np.float32(np.random.default_rng(0).normal(size=(50, 3)))
    edges = wide_edges(activations)
    found = site_of(activations, edges, site)
    found.min[0], found.edges[0, 0] = -np.inf, -np.inf
    found.max[1], found.edges[1, -1] = np.inf, np.inf
    found.sd[:2], found.mean[:2] = np.nan, (-np.inf, np.inf)
    units, last = np.arange(3), edges[:, -1]
    assert share_below(found, last + 1, units).tolist() == [1.0, pytest.approx(1.0), 1.0]
    assert np.isnan(skewness(found, units)).tolist() == [True, True, False]


def test_units_that_never_vary_have_no_z_and_no_skewness(site: SiteArrays) -> None:
    still = replace(site, sd=np.array([0.0, 1.0, np.nan, 2.0]))
    with np.errstate(all="raise"):
        z = z_scores(still, np.array([5.0, 5.0, 5.0]), np.array([0, 2, 3]))
        assert np.array_equal(np.isnan(skewness(still, np.arange(4))), [True, False, True, False])
    assert np.isnan(z[:2]).all() and z[2] == pytest.approx((5.0 - site.mean[3]) / 2)
    assert selectivity(still)[0] == 0.0


def test_selectivity_is_the_mean_z_of_the_strongest(site: SiteArrays) -> None:
    for unit in range(site.units):
        known = [value for value in site.values[unit, :3].tolist() if np.isfinite(value)]
        expected = (np.mean(known) - site.mean[unit]) / site.sd[unit]
        assert selectivity(site, exemplars=3)[unit] == pytest.approx(expected, rel=1e-12)


VALUES = np.random.default_rng(0).normal(-1, 2, 4000)
COUNTS, EDGES = np.histogram(VALUES, 400)


def percentile(
    activation: float,
    edges: np.ndarray = EDGES,
    counts: np.ndarray = COUNTS,
    ends: tuple[float, float] = (VALUES.min(), VALUES.max()),
) -> float:
    low, high = np.array(ends)[:, None]
    unit = SimpleNamespace(min=low, max=high, edges=edges[None], histogram=counts[None])
    return float(100 * share_below(unit, activation, np.array([0]))[0])  # type: ignore[arg-type]


@given(st.floats(VALUES.min(), VALUES.max()))
def test_the_percentile_is_that_of_the_values_up_to_a_bin(activation: float) -> None:
    place = min(np.searchsorted(EDGES, activation, "right") - 1, 399)
    assert percentile(activation) == pytest.approx(
        percentileofscore(VALUES, activation), abs=100 * COUNTS[max(place, 0)] / 4000 + 1e-9
    )


@given(st.floats(-20, 20), st.floats(-20, 20))
def test_the_percentile_rises_with_the_activation(first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert 0 <= percentile(low) <= percentile(high) <= 100


def test_the_percentile_is_exact_at_the_extremes() -> None:
    wider = np.linspace(VALUES.min() - 3, VALUES.max() + 3, 21)  # the miner's bins may go further
    counts = np.histogram(VALUES, wider)[0]
    low, high = VALUES.min(), VALUES.max()
    assert [percentile(x, wider, counts) for x in (low, low - 1, high, high + 1)] == [0, 0, 100, 100]
    just_below = percentile(high - 1e-9, wider, counts)
    assert just_below == pytest.approx(100, abs=1e-6)
    assert np.interp(high, wider, [0, *np.cumsum(counts)]) / 40 < 100  # what the bins alone would say


def test_within_a_bin_the_percentile_is_linear() -> None:
    histogram, edges = np.array([10, 30]), np.array([0.0, 1.0, 3.0])
    found = [percentile(x, edges, histogram, (0.0, 3.0)) for x in (0.5, 1, 2)]
    assert found == pytest.approx([12.5, 25, 62.5])
