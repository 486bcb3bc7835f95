import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from neurolab.featurevis.seeds import generator
from neurolab.featurevis.transforms import Frame, Jitter, Pad, Rotate, Scale, Window, standard
from neurolab.featurevis.views import Views, places
from tests.featurevis.test_transforms import FRAME


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


def test_a_wrapped_picture_begins_again() -> None:
    """A shift by whole pixels is numpy.roll's, in both directions."""
    picture = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    views = Views([], [0], Frame((8, 8), (8, 8)), steps=1, border="wrap")
    for right, down in ((3, 0), (-2, 5)):
        views.maps[0, 0, 0] = torch.tensor([[1.0, 0, -2 * right / 8], [0, 1, -2 * down / 8]])
        expected = np.roll(picture.numpy(), (down, right), (2, 3))
        np.testing.assert_allclose(views(picture, 0), expected, atol=1e-5)


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


def test_a_border_is_known_by_what_it_says() -> None:
    """Put together while the program runs, a word is another object of the same letters."""
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for border in ("reflect", "wrap"):
        shown = [
            Views([Pad(4)], [0], Frame((16, 16), (16, 16)), steps=1, border=word)(picture, 0)
            for word in (border, "".join(list(border)))
        ]
        assert torch.equal(*shown)


def test_what_lies_outside_is_grey_unless_something_else_is_asked_for() -> None:
    white = torch.ones(1, 3, 16, 16)
    shown = Views([Pad(8)], [0], Frame((16, 16), (16, 16)), steps=1)(white, 0)
    torch.testing.assert_close(shown[..., :3, :], torch.full((1, 3, 3, 16), 0.5))
