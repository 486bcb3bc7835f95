import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from neurolab.featurevis.seeds import generator
from neurolab.featurevis.transforms import (
    Blur,
    ColourJitter,
    ColourNoise,
    Frame,
    Jitter,
    Noise,
    NormalWindow,
    Pad,
    PixelTransform,
    Rotate,
    Scale,
    Transform,
    Views,
    Window,
    find_transforms,
    natural_window,
    places,
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


def test_every_step_picture_and_view_has_its_own_draw() -> None:
    views = Views(standard(FRAME), list(range(6)), FRAME, steps=40, count=5)
    assert views.maps.shape == (40, 6, 5, 2, 3)
    shifts = views.maps[..., 2].double().numpy()  # [steps, pictures, views, 2]
    assert len(np.unique(shifts[..., 0])) == 40 * 6 * 5
    items, over_views, over_steps = shifts[:, :2], shifts[:, :, :2], shifts.reshape(2, 20, -1)
    for first, second in (
        (items[:, 0], items[:, 1]),
        (over_views[:, :, 0], over_views[:, :, 1]),
        (over_steps[:, :-1], over_steps[:, 1:]),
    ):
        assert stats.pearsonr(first.ravel(), second.ravel()).pvalue > 1e-4


def test_draws_depend_on_the_pictures_own_seed_only() -> None:
    alone = Views(standard(FRAME), [4], FRAME, steps=9, count=2).maps
    together = Views(standard(FRAME), [3, 4, 8], FRAME, steps=9, count=2).maps
    assert torch.equal(alone[:, 0], together[:, 1])
    assert not torch.equal(together[:, 0], together[:, 1])


def numpy_view(
    picture: np.ndarray, matrix: np.ndarray, view: tuple[int, int], border: float | str
) -> np.ndarray:
    """One view by SciPy: where every pixel's centre lies in the picture, and linear interpolation there."""
    height, width = view
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([columns - (width - 1) / 2, rows - (height - 1) / 2, np.ones(view)])
    x, y = np.einsum("ij,jhw->ihw", matrix[:2], places)
    at = np.stack([y + (picture.shape[1] - 1) / 2, x + (picture.shape[2] - 1) / 2])
    how = {"mode": "reflect"} if border == "reflect" else {"mode": "grid-constant", "cval": float(border)}
    return np.stack([ndimage.map_coordinates(channel, at, order=1, **how) for channel in picture])


@given(
    st.tuples(*[st.integers(3, 20)] * 4),
    st.sampled_from([0.5, 0.0, "reflect"]),
    st.integers(1, 3),
    st.integers(0, 1000),
)
@settings(deadline=None, max_examples=40)
def test_views_agree_with_scipy(
    sizes: tuple[int, int, int, int], border: float | str, count: int, seed: int
) -> None:
    frame = Frame(sizes[:2], sizes[2:])
    transforms = (Window(0.5, 1.0), Jitter(3), Scale((0.7, 1.4)), Rotate((-50, 35)), Jitter(2))
    pictures = np.random.default_rng(seed).random((2, 3, *frame.picture))
    views = Views(transforms, [seed, seed + 1], frame, steps=2, count=count, border=border)
    seen = views(torch.from_numpy(pictures).float(), 1).numpy().reshape(2, count, 3, *frame.view)
    for item in range(2):
        random = generator(seed + item, "transforms")
        drawn = [t.draw(2 * count, frame, random).double().numpy() for t in transforms]
        for view in range(count):
            matrix = np.linalg.multi_dot([d[count + view] for d in drawn])
            expected = numpy_view(pictures[item], matrix, frame.view, border)
            np.testing.assert_allclose(seen[item, view], expected, atol=2e-4)


def test_first_transform_acts_on_the_picture_first() -> None:
    """A shift before an enlargement is one of picture pixels; after it, half as many picture pixels."""
    views = Views((Jitter(20), Scale((2.0,))), [0], FRAME, steps=50)
    later = Views((Scale((2.0,)), Jitter(20)), [0], FRAME, steps=50)  # of the enlarged picture's pixels
    reach = views.maps[..., 2].abs().max() * 32
    assert 9 < reach <= 10
    assert 4 < later.maps[..., 2].abs().max() * 32 <= 5


def test_without_transforms_the_picture_is_seen_as_it_is() -> None:
    picture = torch.rand(2, 3, 7, 10)
    views = Views((), [0, 1], Frame((7, 10), (7, 10)), steps=1)
    torch.testing.assert_close(views(picture, 0), picture, atol=1e-6, rtol=0)


def test_content_turns_and_moves_the_way_it_says() -> None:
    """The map goes from the view to the picture: reading further right moves the content left."""
    picture = torch.zeros(1, 3, 9, 9)
    picture[..., 4, 6] = 1  # right of the middle
    turned = Views((Rotate((90,)),), [0], Frame((9, 9), (9, 9)), steps=1, border=0.0)(picture, 0)
    assert turned[0, 0].flatten().argmax().item() in (2 * 9 + 4, 6 * 9 + 4)
    grown = Views((Scale((2.0,)),), [0], Frame((9, 9), (9, 9)), steps=1, border=0.0)(picture, 0)
    assert grown[0, 0].flatten().argmax().item() == 4 * 9 + 8


def test_gradients_reach_the_whole_picture() -> None:
    picture = torch.rand(1, 3, 64, 64, requires_grad=True)
    views = Views(standard(FRAME), [0], FRAME, steps=8)
    torch.stack([views(picture, step) for step in range(8)]).sum().backward()
    assert picture.grad is not None
    assert (picture.grad > 0).all()


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


def noisy(seeds: list[int], steps: int = 1, count: int = 1, level: float = 0.1) -> np.ndarray:
    views = Views([Noise(level)], seeds, Frame((32, 32), (32, 32)), steps=steps, count=count)
    grey = torch.full((len(seeds), 3, 32, 32), 0.5)
    return np.stack([views(grey, step).numpy() for step in range(steps)]) - 0.5


def test_noise_is_uniform_and_of_every_pixel_view_and_step_alone() -> None:
    noise = noisy([1, 2], steps=3, count=2)
    assert noise.shape == (3, 4, 3, 32, 32)
    assert_uniform(noise.flatten(), -0.1, 0.1)
    parts = noise.reshape(12, -1)
    close = np.corrcoef(parts) - np.eye(12)
    assert np.abs(close).max() < 0.12
    assert np.abs(np.corrcoef(noise.transpose(2, 0, 1, 3, 4).reshape(3, -1)) - np.eye(3)).max() < 0.06


def test_noise_is_that_of_the_pictures_own_seed() -> None:
    alone, among = noisy([7], steps=2, count=2), noisy([3, 7, 9], steps=2, count=2)
    np.testing.assert_array_equal(alone, among[:, 2:4])


def coloured(change: PixelTransform, steps: int = 1, seeds: Sequence[int] = range(400)) -> np.ndarray:
    """What black and white become: [steps, pictures, 2, 3]."""
    views = Views([change], list(seeds), Frame((1, 2), (1, 2)), steps=steps)
    picture = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(len(seeds), 3, 1, 2)
    return np.stack([views(picture, step).numpy()[:, :, 0].swapaxes(1, 2) for step in range(steps)])


def test_colour_jitter_shifts_and_stretches_every_channel_alone() -> None:
    found = coloured(ColourJitter(0.8, 0.5), steps=4)
    stretch = found[:, :, 1] - found[:, :, 0]
    assert_uniform(np.log(stretch).flatten(), -0.5, 0.5)
    assert_uniform((-found[:, :, 0] / stretch).flatten(), -0.8, 0.8)
    assert np.abs(np.corrcoef(stretch.reshape(-1, 3).T) - np.eye(3)).max() < 0.15


def test_colour_noise_moves_whole_channels_and_dies_away() -> None:
    found = coloured(ColourNoise(0.5), steps=4)
    np.testing.assert_allclose(found[:, :, 1] - found[:, :, 0], 1, atol=1e-5)
    moved = found[:, :, 0]
    assert stats.kstest(moved[0].flatten() / 0.5, "norm").pvalue > SURE
    np.testing.assert_allclose(moved.std((1, 2)), 0.5 * (1 - np.arange(4) / 4), rtol=0.08)
    assert np.abs(np.corrcoef(moved[0].T) - np.eye(3)).max() < 0.25


def test_a_wrapped_picture_begins_again() -> None:
    """A shift by whole pixels is numpy.roll's, in both directions."""
    picture = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    views = Views([], [0], Frame((8, 8), (8, 8)), steps=1, border="wrap")
    for right, down in ((3, 0), (-2, 5)):
        views.maps[0, 0, 0] = torch.tensor([[1.0, 0, -2 * right / 8], [0, 1, -2 * down / 8]])
        expected = np.roll(picture.numpy(), (down, right), (2, 3))
        np.testing.assert_allclose(views(picture, 0), expected, atol=1e-5)


def test_views_without_noise_are_those_with_noise_of_no_level() -> None:
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    frame = Frame((32, 32), (32, 32))
    plain = Views([Jitter(4)], [1], frame, steps=1)(picture, 0)
    assert torch.equal(Views([Jitter(4), Noise(0.0)], [1], frame, steps=1)(picture, 0), plain)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 8), (64, 31)])
def test_places_are_torchs_affine_grid(height: int, width: int) -> None:
    maps = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.affine_grid(maps, [4, 3, height, width], align_corners=False)
    torch.testing.assert_close(places(maps, height, width), expected, atol=2e-6, rtol=0)


def test_pad_shows_so_many_pixels_of_border_on_every_side() -> None:
    views = Views([Pad(4)], [0], Frame((32, 32), (32, 32)), steps=1, border=0.25)
    (view,) = views(torch.ones(1, 3, 32, 32), 0)
    # 32 + 8 pixels are shown on 32: the border is 4 * 32 / 40 wide.
    inside = (view[0] > 0.99).sum(0).bool().sum()
    assert 24 <= inside <= 26
    torch.testing.assert_close(view[:, :3], torch.full((3, 3, 32), 0.25))


def blurred(images: torch.Tensor, blur: Blur, seeds: Sequence[int] = (0,)) -> torch.Tensor:
    return blur(images, [generator(seed, "colours") for seed in seeds], 0.0)


def test_a_blur_of_one_width_is_scipys() -> None:
    images = torch.rand(1, 2, 3, 24, 30, generator=torch.Generator().manual_seed(0))
    expected = ndimage.gaussian_filter(images.double().numpy(), (0, 0, 0, 1.5, 1.5), mode="nearest", radius=5)
    np.testing.assert_allclose(blurred(images, Blur(1.5, 1.5)), expected, atol=1e-5)
    torch.testing.assert_close(blurred(images, Blur(0, 0)), images)


def test_the_widths_of_a_blur_are_uniform_and_each_views_own() -> None:
    """A single bright pixel: what is left of it in the middle tells the width."""
    points = torch.zeros(2, 4000, 3, 13, 13)
    points[..., 6, 6] = 1
    shown = blurred(points, Blur(0.8, 1.6), (0, 1))
    assert torch.equal(shown[:, :, 0], shown[:, :, 2])  # all channels alike
    places = torch.arange(-5, 6)
    widths = torch.linspace(0.79, 1.61, 4000)
    peaks = torch.softmax(-places.square() / (2 * widths[:, None].square()), 1)[:, 5].square()
    found = np.interp(-shown[:, :, 0, 6, 6].numpy().ravel(), -peaks.numpy(), widths.numpy())
    assert_uniform(found, 0.8, 1.6)
    assert stats.pearsonr(found[:4000], found[4000:]).pvalue > SURE
    with pytest.raises(ValueError, match="low <= high"):
        Blur(2, 1)
