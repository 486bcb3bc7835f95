"""The histogram shows the counts it was given, on axes with round values."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from neurolab.explorer.histogram import histogram, ticks


@given(st.floats(-1e4, 1e4), st.floats(1e-2, 1e6))
def test_ticks_are_round_even_and_inside(low: float, width: float) -> None:
    high = low + width
    found = ticks(low, high)
    slack = width * 1e-9 + abs(low) * 1e-12
    assert 1 <= len(found) <= 9
    assert all(low - slack <= value <= high + slack for value in found)
    if len(found) > 1:
        steps = np.diff(found)
        mantissa = float(f"{steps[0]:e}".split("e")[0])
        assert np.allclose(steps, steps[0])
        assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-6


def test_ticks_of_no_range_are_none() -> None:
    assert ticks(1.0, 1.0) == [] and ticks(0.0, float("nan")) == []


def bars(html: str) -> list[tuple[str, float, str]]:
    """(class, height in percent, tooltip) of every bar."""
    pattern = r'<b class="([\w ]*)" style="[^"]*height:([\d.]+)%" title="([^"]*)">'
    return [(kind, float(height), tip) for kind, height, tip in re.findall(pattern, html)]


def test_each_bar_tells_its_count_on_a_logarithmic_scale() -> None:
    counts = np.array([0, 9, 99, 0, 999, 1, 0])
    html = histogram(counts, np.linspace(-3, 4, 8), 2.0, [2.5])
    shown = bars(html)
    assert [tip.split(": ")[1] for _, _, tip in shown] == ["9 images", "99 images", "999 images", "1 image"]
    nine, ninety_nine, most, one = (height for _, height, _ in shown)
    assert np.isclose(ninety_nine / nine, 2, atol=0.01) and np.isclose(most / nine, 3, atol=0.01)
    assert 0 < one < nine
    assert [kind for kind, _, _ in shown] == ["", "", "", "top"]  # only the bar that holds the exemplar


def test_both_scales_and_zero_are_marked() -> None:
    html = histogram(np.array([5, 5, 5, 5]), np.array([-2.0, -1, 0, 1, 2]), 0.5, [1.5, 1.75])
    assert '<u style="left:50.00%">' in html
    assert ">−4 sd<" in html and ">4 sd<" in html and ">−2<" in html
    assert re.findall(r'<i style="left:([\d.]+)%">', html) == ["87.50", "93.75"]


def test_zero_outside_the_range_is_not_marked() -> None:
    assert "<u" not in histogram(np.array([5, 5]), np.array([1.0, 2, 3]), 1.0, [])


def test_units_that_never_vary_or_saw_nothing_have_a_page() -> None:
    assert "No activations" in histogram(np.zeros(4), np.linspace(0, 1, 5), 0.0, [])
    assert "No activations" in histogram(np.ones(1), np.array([2.0, 2.0]), 0.0, [2.0])
    assert "sd from zero" in histogram(np.array([3]), np.array([-0.5, 0.5]), 0.0, [0.0])


def test_a_bin_that_holds_what_fell_beyond_is_told_apart() -> None:
    edges = np.array([-9.0, -2, -1, 0, 1, 2, 8])
    shown = bars(histogram(np.array([3, 5, 5, 5, 5, 2]), edges, 1.0, [7.0]))
    assert [kind for kind, _, _ in shown] == ["rest", "", "", "", "", "top rest"]
