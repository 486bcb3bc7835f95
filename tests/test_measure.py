from __future__ import annotations

import numpy as np
import pytest

from neurolab.measure import Measure, interval, measure_table, shown


def test_interval_covers_a_known_share() -> None:
    """The percentile bootstrap of a share is near the normal approximation."""
    per_item = np.repeat([1.0, 0.0], [300, 700])
    measure = Measure.of("share", per_item, chance=0.1)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert measure.value == 0.3 and measure.items == 1000 and measure.chance == 0.1
    assert abs(measure.low - (0.3 - half)) < 0.006 and abs(measure.high - (0.3 + half)) < 0.006


def test_a_ratio_draws_its_items_together() -> None:
    """Where both are right on the same items the ratio is 1 in every draw; drawn apart it would vary."""
    base = np.repeat([1.0, 0.0], [60, 40])
    same = Measure.of_ratio("ratio", base, base)
    assert same.value == same.low == same.high == 1.0 and same.items == 100
    half = Measure.of_ratio("ratio", base * np.tile([1.0, 0.0], 50), base)
    assert half.value == 0.5 and half.low < 0.5 < half.high
    with pytest.raises(ValueError, match="base"):
        Measure.of_ratio("ratio", base, np.zeros(100))


def test_a_gap_has_no_sign_and_the_spread_of_both_groups() -> None:
    first, second = np.repeat([1.0, 0.0], [80, 20]), np.repeat([1.0, 0.0], [150, 250])
    gap = Measure.of_gap("gap", first, second)
    assert gap.value == pytest.approx(0.8 - 0.375) == Measure.of_gap("gap", second, first).value
    spread = 1.96 * np.sqrt(0.8 * 0.2 / 100 + 0.375 * 0.625 / 400)
    assert abs((gap.high - gap.low) / 2 - spread) < 0.015
    assert gap.items == 500


def test_the_table_says_what_was_not_measured() -> None:
    measures = [
        Measure("size", 27.2216),
        Measure.of("share", np.ones(4), 0.25),
        Measure("gap", None, note="x"),
    ]
    rows = measure_table(measures).splitlines()[2:]
    assert rows == [
        "| size | 27.222 | – | – | – |",
        "| share | 1.000 | 1.000 to 1.000 | 0.250 | 4 |",
        "| gap | – | – | – | – |",
    ]
    assert shown(431.6) == "432" and interval(measures[0]) == "–"
