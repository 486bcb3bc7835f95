"""Reductions against NumPy written out, for maps, tokens and vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neurolab.atlas.reductions import REDUCTIONS, Reduced, check_reduction, reduce_map, reduction_of_image
from neurolab.errors import AtlasError

REFUSED = [("map", "cls"), ("map", "token"), ("vector", "token")]
RNG = np.random.default_rng(0)
MAP = RNG.standard_normal((5, 7, 4, 6)).astype(np.float32)
TOKENS = RNG.standard_normal((5, 1 + 12, 7)).astype(np.float32)


@dataclass(frozen=True)
class Order:
    """A site, as far as a reduction asks."""

    layout: str
    prefix_tokens: int = 0
    grid: tuple[int, int] | None = None


def reduced_by(activation: Tensor, reduction: str, *order: Any, **more: Any) -> Reduced:
    return reduce_map(activation, Order(*order, **more), reduction).to_host()


def test_map_max_and_its_place() -> None:
    reduced = reduced_by(torch.from_numpy(MAP), "max", layout="map")
    assert np.array_equal(reduced.values, MAP.max(axis=(2, 3)))
    assert np.array_equal(reduced.positions, MAP.reshape(5, 7, 24).argmax(axis=2))
    rows, columns = np.divmod(reduced.positions, 6)
    for n, u in np.ndindex(5, 7):
        assert MAP[n, u, rows[n, u], columns[n, u]] == reduced.values[n, u]


def test_map_mean_and_center() -> None:
    mean = reduced_by(torch.from_numpy(MAP), "mean", layout="map")
    np.testing.assert_allclose(mean.values, MAP.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
    assert (mean.positions == -1).all()
    center = reduced_by(torch.from_numpy(MAP), "center", layout="map")
    assert np.array_equal(center.values, MAP[:, :, 2, 3])
    assert (center.positions == 2 * 6 + 3).all()


def test_tokens_leave_the_class_token_out() -> None:
    strong = TOKENS.copy()
    strong[:, 0] = 100  # a reduction over all tokens would find it
    reduced = reduced_by(torch.from_numpy(strong), "max", layout="tokens", prefix_tokens=1)
    assert np.array_equal(reduced.values, TOKENS[:, 1:].max(axis=1))
    assert np.array_equal(reduced.positions, TOKENS[:, 1:].argmax(axis=1))
    mean = reduced_by(torch.from_numpy(strong), "mean", layout="tokens", prefix_tokens=1)
    np.testing.assert_allclose(mean.values, TOKENS[:, 1:].mean(axis=1), rtol=1e-5, atol=1e-6)
    cls = reduced_by(torch.from_numpy(strong), "cls", layout="tokens", prefix_tokens=1)
    assert (cls.values == 100).all() and (cls.positions == -1).all()


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_every_token_is_a_row(prefix: int) -> None:
    """Image by image, with its number behind the prefix as its place."""
    reduced = reduced_by(torch.from_numpy(TOKENS), "token", layout="tokens", prefix_tokens=prefix)
    count = 13 - prefix
    assert reduced.values.shape == reduced.positions.shape == (5 * count, 7)
    assert (reduced.values.dtype, reduced.positions.dtype) == (np.float32, np.int32)
    for row in range(5 * count):
        image, token = divmod(row, count)
        assert np.array_equal(reduced.values[row], TOKENS[image, prefix + token])
        assert (reduced.positions[row] == token).all()


def test_of_an_image_the_largest_token_is_told() -> None:
    assert [reduction_of_image(name) for name in REDUCTIONS] == ["max", "mean", "cls", "center", "max"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_prefix_tokens_that_are_largest_now_and_then(prefix: int, dtype: torch.dtype) -> None:
    """With ties of whole numbers, and NaN among the places and in the prefix alone."""
    tokens = torch.randint(0, 4, (6, 3 + 9, 20), generator=torch.Generator().manual_seed(0)).to(dtype)
    tokens[0, 0, 0] = tokens[1, 5, 1] = tokens[2, 0, 2] = tokens[2, 7, 2] = torch.nan
    reduced = reduced_by(tokens, "max", layout="tokens", prefix_tokens=prefix)
    places = tokens.double().numpy()[:, prefix:]
    expected = places.max(axis=1)
    np.testing.assert_array_equal(reduced.values, expected)
    known = ~np.isnan(expected)
    assert np.isnan(expected).any() and np.array_equal(reduced.positions[known], places.argmax(axis=1)[known])


@given(shape=st.tuples(*(st.integers(1, 9) for _ in range(4))), last=st.booleans(), seed=st.integers(0, 99))
def test_any_map_in_any_memory_order(shape: tuple[int, int, int, int], last: bool, seed: int) -> None:
    values = torch.randint(-3, 3, shape, generator=torch.Generator().manual_seed(seed)).float()
    given = values.contiguous(memory_format=torch.channels_last) if last else values
    reduced = reduced_by(given, "max", layout="map")
    flat = values.flatten(2).numpy()
    assert np.array_equal(reduced.values, flat.max(axis=2))
    assert np.array_equal(reduced.positions, flat.argmax(axis=2))


def test_center_of_a_patch_grid() -> None:
    center = reduced_by(torch.from_numpy(TOKENS), "center", layout="tokens", prefix_tokens=1, grid=(3, 4))
    assert np.array_equal(center.values, TOKENS[:, 1 + 1 * 4 + 2])
    assert (center.positions == 6).all()
    alone = reduced_by(torch.from_numpy(TOKENS), "center", layout="tokens", prefix_tokens=1)
    assert (alone.positions == 6).all()


@pytest.mark.parametrize("reduction", [name for name in REDUCTIONS if name != "token"])
def test_vectors_stay_as_they_are(reduction: str) -> None:
    reduced = reduced_by(torch.from_numpy(MAP[:, :, 0, 0]), reduction, layout="vector")
    assert np.array_equal(reduced.values, MAP[:, :, 0, 0])
    assert (reduced.positions == -1).all()


def test_ties_are_at_their_first_place_and_nan_stays_nan() -> None:
    tied = torch.zeros(2, 3, 4, 4)
    tied[0, 0, 2, 1] = tied[0, 0, 3, 3] = 5
    tied[1, 1, 1, 1] = torch.nan
    for activation in (tied, tied.to(torch.bfloat16), tied.double()):
        reduced = reduced_by(activation, "max", layout="map")
        assert reduced.values.dtype == np.float32
        assert reduced.positions[0].tolist() == [9, 0, 0]
        assert np.isnan(reduced.values[1, 1]) and not np.isnan(reduced.values[1, [0, 2]]).any()
        assert np.isnan(reduced_by(activation, "mean", layout="map").values[1, 1])


def test_large_maps() -> None:
    big = RNG.standard_normal((3, 16, 130, 131)).astype(np.float32)
    reduced = reduced_by(torch.from_numpy(big), "max", layout="map")
    assert np.array_equal(reduced.positions, big.reshape(3, 16, -1).argmax(axis=2))


@pytest.mark.parametrize(
    ("layout", "reduction"),
    [
        (layout, reduction)
        for layout in ("map", "tokens", "vector")
        for reduction in REDUCTIONS
        if (layout, reduction) not in REFUSED
    ],
)
def test_what_is_found_stays_when_the_network_writes_over_the_map(layout: str, reduction: str) -> None:
    shape = {"map": (2, 3, 4, 4), "tokens": (2, 5, 3), "vector": (2, 3)}[layout]
    activation = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = reduce_map(activation, Order(layout, 1 if layout == "tokens" else 0), reduction)
    before = found.values.clone()
    activation.zero_()
    assert torch.equal(found.values, before) and found.values.any()


def test_half_precision_is_widened_before_averaging() -> None:
    half = torch.full((1, 1, 100, 100), 0.1, dtype=torch.float16)
    assert reduced_by(half, "mean", layout="map").values[0, 0] == pytest.approx(
        float(half[0, 0, 0, 0]), rel=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["map", "tokens"])
def test_a_mean_is_not_rounded_to_half_precision(dtype: torch.dtype, layout: str) -> None:
    """It lies between two neighbours."""
    step = torch.finfo(dtype).eps
    column = torch.tensor([1, 1 + step] * 8, dtype=dtype)
    half = column.reshape(1, 1, 4, 4) if layout == "map" else column.reshape(1, 16, 1)
    assert reduced_by(half, "mean", layout=layout).values.tolist() == [[1 + step / 2]]


def test_maps_in_channels_last_and_with_gradients() -> None:
    last = torch.from_numpy(MAP).contiguous(memory_format=torch.channels_last).requires_grad_()
    reduced = reduced_by(last, "max", layout="map")
    assert np.array_equal(reduced.values, MAP.max(axis=(2, 3)))
    assert np.array_equal(reduced.positions, MAP.reshape(5, 7, 24).argmax(axis=2))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(AtlasError, match="unknown"):
        check_reduction("median", "a site", "map", 0, (2, 2))
    for layout, prefix in (("map", 0), ("tokens", 0)):
        with pytest.raises(AtlasError, match="class token"):
            check_reduction("cls", "a site", layout, prefix, (4,))
    for layout, shape in (("map", (2, 2)), ("vector", ())):
        with pytest.raises(AtlasError, match=f"a site has no tokens but a {layout}; choose"):
            check_reduction("token", "a site", layout, 0, shape)
    with pytest.raises(AtlasError, match="patch tokens"):
        check_reduction("max", "a site", "tokens", 1, (1,))
    with pytest.raises(AtlasError, match="class token"):
        reduced_by(torch.from_numpy(MAP), "cls", layout="map")
