"""Random numbers of a picture: its own, and for every purpose others."""

from itertools import combinations

import numpy as np
import torch

from neurolab.featurevis.seeds import generator


def numbers(seed: int, purpose: str) -> np.ndarray:
    return torch.randn(10_000, generator=generator(seed, purpose)).numpy()


def test_the_same_again_for_the_same_seed_and_purpose() -> None:
    np.testing.assert_array_equal(numbers(3, "start"), numbers(3, "start"))


def test_streams_of_seeds_and_of_purposes_have_nothing_in_common() -> None:
    """Else a picture's start would say where it is seen from: what is drawn there is drawn by chance."""
    streams = [numbers(seed, purpose) for seed in (0, 1) for purpose in ("start", "transforms", "colours")]
    for one, other in combinations(streams, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.06  # 6 standard deviations
