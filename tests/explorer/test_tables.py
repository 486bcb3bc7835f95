"""What the pages count, against the same thing counted one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from neurolab.atlas import Atlas
from neurolab.explorer.lab import Lab
from neurolab.explorer.tables import (
    COUNTED,
    SORTS,
    in_sd,
    kind_counts,
    mixedness,
    select_units,
    subjects,
)
from tests.explorer.sample_atlas import SITES

SITE = SITES[0].short


def test_kinds_and_subjects_are_those_of_the_exemplars(small_lab: Lab) -> None:
    arrays = small_lab.atlas.site(SITE)
    counts = kind_counts(arrays.images, small_lab.texts)
    for unit in (0, 5, 39):
        labels = [e.labels for e in small_lab.atlas.unit(f"{SITE}/{unit}").exemplars[:COUNTED]]
        assert dict(zip(small_lab.texts.kinds, counts[unit].tolist(), strict=True)) == Counter(
            label["kind"] for label in labels
        )
        found = subjects(arrays.images[unit], small_lab.texts)
        assert dict(found) == Counter(label["concept"] for label in labels)
        assert [count for _, count in found] == sorted((count for _, count in found), reverse=True)


def test_an_empty_place_is_no_exemplar(small_lab: Lab) -> None:
    images = np.array([[0, 1, -1, -1]])
    assert kind_counts(images, small_lab.texts).sum() == 2
    assert sum(count for _, count in subjects(images[0], small_lab.texts)) == 2


def test_mixedness_is_the_entropy_in_bits() -> None:
    found = mixedness(np.array([[24, 0, 0, 0], [12, 12, 0, 0], [6, 6, 6, 6], [0, 0, 0, 0]]))
    np.testing.assert_allclose(found, [0, 1, 2, 0], atol=1e-12)


@pytest.mark.parametrize("sort", SORTS)
def test_every_order_has_every_unit_once(small_lab: Lab, sort: str) -> None:
    chosen = select_units(small_lab.atlas, SITE, small_lab.texts, sort)
    assert sorted(chosen.units.tolist()) == list(range(SITES[0].units))
    assert chosen.matches is None


def test_orders_are_by_what_they_say(small_lab: Lab) -> None:
    arrays = small_lab.atlas.site(SITE)
    by_number = select_units(small_lab.atlas, SITE, small_lab.texts, "number").units
    assert by_number.tolist() == list(range(SITES[0].units))
    highest = in_sd(arrays.max, arrays.sd)[select_units(small_lab.atlas, SITE, small_lab.texts, "max").units]
    assert (np.diff(highest) <= 0).all()
    mixed = select_units(small_lab.atlas, SITE, small_lab.texts, "mixed").units
    assert mixed[-1] == 0  # the unit that never varies
    entropy = mixedness(kind_counts(arrays.images, small_lab.texts))[mixed[:-1]]
    assert (np.diff(entropy) <= 2e-3).all()


def test_filtering_finds_what_the_captions_hold(small_lab: Lab) -> None:
    atlas = small_lab.atlas
    chosen = select_units(atlas, SITE, small_lab.texts, "number", "Picture of a STAR")
    assert chosen.matches is not None and len(chosen.units) > 0
    expected: dict[int, int] = {}
    for unit in range(SITES[0].units):
        held = [
            e for e in atlas.unit(f"{SITE}/{unit}").exemplars[:COUNTED] if "a star" in " ".join(e.captions)
        ]
        expected |= {unit: len(held)} if held else {}
    assert dict(zip(chosen.units.tolist(), chosen.matches.tolist(), strict=True)) == expected
    assert (np.diff(chosen.matches) <= 0).all()
    assert not len(select_units(atlas, SITE, small_lab.texts, text="no such thing").units)


def test_a_number_and_a_label_find_their_unit_first(fresh_atlas: Atlas) -> None:
    fresh_atlas.labels.add(f"{SITE}/17", "Likes Sunsets", "me")
    texts = Lab(fresh_atlas).texts
    assert select_units(fresh_atlas, SITE, texts, text="sunset").units.tolist() == [17]
    assert select_units(fresh_atlas, SITE, texts, text="23").units[0] == 23


def test_only_units_with_pictures(small_lab: Lab) -> None:
    chosen = select_units(small_lab.atlas, SITE, small_lab.texts, "number", pictured=True)
    assert chosen.units.tolist() == list(range(0, SITES[0].units, 3))


def test_standard_deviations_from_zero_are_zero_for_a_unit_that_never_varies() -> None:
    np.testing.assert_allclose(in_sd(np.array([4.0, 4.0, np.nan]), np.array([2.0, 0.0, 1.0])), [2, 0, 0])
