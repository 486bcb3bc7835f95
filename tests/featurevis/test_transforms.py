import math

import numpy as np
import pytest
from scipy import stats

from neurolab.featurevis.pixel_transforms import ColourJitter, ColourNoise, Noise
from neurolab.featurevis.seeds import generator
from neurolab.featurevis.transforms import (
    Frame,
    Jitter,
    NormalWindow,
    Rotate,
    Scale,
    Transform,
    Window,
    find_transforms,
    natural_window,
    standard,
)

FRAME = Frame((64, 64), (64, 64))
N = 20_000
SURE = 1e-6  # the chance that a true distribution fails a test


def draws(transform: Transform, frame: Frame = FRAME, seed: int = 0) -> np.ndarray:
    return transform.draw(N, frame, generator(seed, "test")).double().numpy()


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    assert values.min() >= low - 1e-4
    assert values.max() <= high + 1e-4
    assert stats.kstest(values, "uniform", (low, high - low)).pvalue > SURE


def assert_equally_likely(values: np.ndarray, options: list[float]) -> None:
    nearest = np.abs(values[:, None] - np.asarray(options)).argmin(1)
    np.testing.assert_allclose(values, np.asarray(options)[nearest], atol=1e-5)
    assert stats.chisquare(np.bincount(nearest, minlength=len(options))).pvalue > SURE


def test_jitter_is_uniform_in_both_directions_of_both_axes() -> None:
    shifts = draws(Jitter(8))[:, :2, 2]
    for axis in (0, 1):
        assert_uniform(shifts[:, axis], -4, 4)  # 0 .. 8, in one direction only, is lucent's mistake
        assert stats.binomtest(int((shifts[:, axis] > 0).sum()), N).pvalue > SURE
    assert stats.pearsonr(shifts[:, 0], shifts[:, 1]).pvalue > SURE
    np.testing.assert_allclose(draws(Jitter(8))[:, :2, :2], np.broadcast_to(np.eye(2), (N, 2, 2)))


def test_scale_draws_each_factor_equally_often() -> None:
    factors = [0.9, 0.95, 1.0, 1.1, 1.25]
    maps = draws(Scale(tuple(factors)))
    assert_equally_likely(1 / maps[:, 0, 0], factors)  # enlarged by 1.25: reads from 0.8 of the distance
    np.testing.assert_allclose(maps[:, 0, 0], maps[:, 1, 1])
    assert not maps[:, :2, 2].any()


def test_rotate_draws_each_angle_equally_often_to_both_sides() -> None:
    angles = [-30.0, -10.0, 0.0, 10.0, 30.0]
    maps = draws(Rotate(tuple(angles)))
    assert_equally_likely(np.degrees(np.arctan2(maps[:, 1, 0], maps[:, 0, 0])), angles)
    np.testing.assert_allclose(np.linalg.det(maps), 1, atol=1e-6)


def test_rotate_repeated_angles_are_likelier() -> None:
    maps = draws(Rotate((-5, 5, 0, 0, 0)))
    zeros = int((maps[:, 1, 0] == 0).sum())
    assert stats.binomtest(zeros, N, 3 / 5).pvalue > SURE


@pytest.mark.parametrize("frame", [Frame((100, 160), (32, 32)), Frame((96, 96), (24, 48)), FRAME])
def test_window_is_uniform_inside_the_picture(frame: Frame) -> None:
    maps = draws(Window(0.25, 0.75), frame)
    (height, width), (view_height, view_width) = frame.picture, frame.view
    largest = min(height / view_height, width / view_width)
    assert_uniform(maps[:, 0, 0] / largest, 0.25, 0.75)
    for axis, whole, part in ((0, width, view_width), (1, height, view_height)):
        room = whole - maps[:, 0, 0] * part
        assert_uniform(maps[:, axis, 2] / room, -0.5, 0.5)


@pytest.mark.parametrize(
    ("frame", "low", "high"),
    [
        (Frame((64, 64), (64, 64)), 1, 1),
        (Frame((32, 40), (64, 64)), 1, 1),
        (Frame((96, 96), (64, 64)), 2 / 3, 1),
        (Frame((256, 300), (64, 64)), 1 / 4, 1 / 2),
    ],
)
def test_natural_window_neither_aliases_nor_enlarges(frame: Frame, low: float, high: float) -> None:
    window = natural_window(frame)
    assert (window.low, window.high) == (pytest.approx(low), pytest.approx(high))


def test_lucids_list_is_lucids() -> None:
    jitter, scale, rotate, last = find_transforms("lucid", FRAME)
    assert (jitter, last) == (Jitter(8), Jitter(4))
    assert isinstance(scale, Scale)
    assert isinstance(rotate, Rotate)
    np.testing.assert_allclose(scale.factors, [0.9, 0.92, 0.94, 0.96, 0.98, 1, 1.02, 1.04, 1.06, 1.08, 1.1])
    assert sorted(rotate.degrees) == sorted([*range(-10, 11), 0, 0, 0, 0, 0])


def test_the_list_for_transformers_is_ghiasis() -> None:
    """A jitter of 32 to both sides at 224 pixels, then colours moved, stretched and made noisy (2022)."""
    frame = Frame((224, 224), (224, 224))
    jitter, *colours = find_transforms("vit", frame)
    assert isinstance(jitter, Transform)
    assert_uniform(draws(jitter, frame)[:, 0, 2], -32, 32)
    assert colours == [ColourJitter(shift=1.0, scale=1.0), ColourNoise(sd=0.5)]


def test_the_crops_are_those_of_the_maco_paper() -> None:
    """Shares normal around a quarter, and uniform noise of a tenth to both sides (Fel et al. 2023)."""
    window, noise = find_transforms("crops", FRAME)
    assert window == NormalWindow(low=0.05, high=1.0, mean=0.25, sd=0.1)
    assert noise == Noise(0.1)


def test_standard_list_is_balanced() -> None:
    """Nothing in it draws a picture to one side, or makes it larger or smaller on the whole."""
    assert find_transforms("standard", FRAME) == standard(FRAME)
    for transform in standard(FRAME):
        maps = draws(transform)
        np.testing.assert_allclose(maps[:, :2, 2].mean(0), 0, atol=6 * 16 / 12**0.5 / N**0.5)
        assert maps[:, 1, 0].mean() == pytest.approx(0, abs=6 * 0.27 / N**0.5)
        assert (1 / np.hypot(maps[:, 0, 0], maps[:, 1, 0])).mean() == pytest.approx(1, abs=6 * 0.13 / N**0.5)


def test_standard_jitter_is_in_proportion_to_the_view() -> None:
    for side, first, last in ((224, 16, 8), (112, 8, 4)):
        moves = standard(Frame((500, 500), (side, side)))
        assert (moves[0], moves[-1]) == (Jitter(first), Jitter(last))


def test_bad_names_and_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="standard"):
        find_transforms("standart", FRAME)
    with pytest.raises(ValueError, match="shares"):
        Window(0.5, 1.5)
    assert find_transforms([Jitter(1)], FRAME) == (Jitter(1),)
    assert math.isclose(natural_window(FRAME).low, 1)


def test_normal_window_is_normal_and_cut_off() -> None:
    shares = draws(NormalWindow(mean=0.25, sd=0.1, low=0.05))[:, 0, 0]
    inner = shares[(shares > 0.0501) & (shares < 1)]
    low = (0.05 - 0.25) / 0.1
    assert shares.min() == pytest.approx(0.05, abs=1e-6)
    assert stats.kstest(inner, stats.truncnorm(low, 7.5, 0.25, 0.1).cdf).pvalue > SURE
    cut = int((shares <= 0.0501).sum())
    assert stats.binomtest(cut, N, stats.norm.cdf(low)).pvalue > SURE


def test_normal_window_lies_inside_the_picture() -> None:
    maps = draws(NormalWindow(mean=0.6, sd=0.2), Frame((100, 60), (32, 32)))
    reach = maps[:, 0, 0] * 16
    assert (np.abs(maps[:, 0, 2]) + reach <= 30 + 1e-3).all()
    assert (np.abs(maps[:, 1, 2]) + reach <= 50 + 1e-3).all()
