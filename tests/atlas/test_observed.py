"""What is counted of a site, and each image once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from neurolab.atlas.observed import distinct_images, observations_per_image


def test_an_image_is_one_observation_or_as_many_as_it_has_patches() -> None:
    assert observations_per_image("token", (197,), 1) == 196
    assert observations_per_image("token", (49,), 0) == 49
    for reduction in ("max", "mean", "cls", "center"):
        assert observations_per_image(reduction, (197,), 1) == observations_per_image(reduction, (), 0) == 1


@given(st.lists(st.lists(st.integers(-1, 5), min_size=7, max_size=7), min_size=1, max_size=4))
def test_each_image_is_kept_at_its_first_rank(rows: list[list[int]]) -> None:
    found = distinct_images(np.array(rows))
    for row, kept in zip(rows, found.tolist(), strict=True):
        once = list(dict.fromkeys(image for image in row if image >= 0))
        assert kept == once + [-1] * (7 - len(once))
