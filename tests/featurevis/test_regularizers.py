"""Objectives of the picture itself: against NumPy, and in a drawing."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from neurolab.featurevis.batch import BatchObjective
from neurolab.featurevis.objectives import Unit
from neurolab.featurevis.parametrizations.alpha import TransparentImage
from neurolab.featurevis.parametrizations.fourier import FourierImage
from neurolab.featurevis.regularizers import (
    L1,
    L2,
    PICTURE,
    Distance,
    OfPicture,
    Opacity,
    Roughness,
    TotalVariation,
)
from neurolab.featurevis.render import render
from neurolab.models.zoo import Model
from tests.featurevis.test_objectives import LAST, MAP

PICTURES = torch.rand(3, 3, 7, 5, generator=torch.Generator().manual_seed(0))
VALUES = PICTURES.numpy().astype(float)


def numpy_total_variation(pictures: np.ndarray) -> np.ndarray:
    """That of Ghiasi et al. 2022: a root for each of four directions, of the whole picture."""
    height, width = pictures.shape[-2:]
    expected = []
    for picture in pictures:
        total = 0.0
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            squares = [
                (picture[:, y + down, x + right] - picture[:, y, x]) ** 2
                for y in range(height)
                for x in range(width)
                if 0 <= y + down < height and 0 <= x + right < width
            ]
            total += np.sqrt(np.sum(squares))
        expected.append(total)
    return np.array(expected)


def test_total_variation_agrees_with_numpy() -> None:
    expected = numpy_total_variation(VALUES)
    np.testing.assert_allclose(TotalVariation()({PICTURE: PICTURES}), expected, rtol=1e-5)


def test_lengths_agree_with_numpy() -> None:
    found = L1(0.25)({PICTURE: PICTURES})
    np.testing.assert_allclose(found, np.abs(VALUES - 0.25).mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(L2()({PICTURE: PICTURES}), np.square(VALUES - 0.5).mean((1, 2, 3)), rtol=1e-5)


def test_roughness_agrees_with_scipy_and_holds_the_blurred_picture() -> None:
    blurred = ndimage.uniform_filter(VALUES, (1, 1, 3, 3), mode="nearest")
    expected = np.square(VALUES - blurred).mean((1, 2, 3)) / 2
    pictures = PICTURES.clone().requires_grad_()
    found = Roughness()({PICTURE: pictures})
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4)
    (gradient,) = torch.autograd.grad(found.sum(), pictures)
    np.testing.assert_allclose(gradient, (VALUES - blurred) / (3 * 7 * 5), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("regularizer", [TotalVariation(), L1(), L2(), Roughness()], ids=lambda r: r.name)
def test_a_plain_grey_picture_has_none_and_a_finite_gradient(regularizer: OfPicture) -> None:
    grey = torch.full((2, 3, 6, 6), 0.5, requires_grad=True)
    found = regularizer({PICTURE: grey})
    torch.testing.assert_close(found, torch.zeros(2), atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad(found.sum(), grey)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("regularizer", [TotalVariation(), L1(), L2(), Roughness()], ids=lambda r: r.name)
def test_items_have_no_gradient_through_each_other(regularizer: OfPicture) -> None:
    pictures = PICTURES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(regularizer({PICTURE: pictures})[1], pictures)
    assert gradient[1].any() and not gradient[[0, 2]].any()


def test_they_are_combined_with_units_and_grouped() -> None:
    members = [Unit("s", i) - 0.5 * TotalVariation() for i in (1, 2)] + [Unit("s", 3) - 0.5 * L2(0.1)]
    batch = BatchObjective(members)
    assert len(batch.groups) == 2 and set(batch.sites) == {"s", PICTURE}
    acts = {"s": MAP, PICTURE: PICTURES}
    alone = [m({site: values[i : i + 1] for site, values in acts.items()}) for i, m in enumerate(members)]
    torch.testing.assert_close(batch(acts), torch.cat(alone))
    assert L2(0.1).signature() != L2(0.2).signature()


@pytest.mark.parametrize("views", [1, 2])
def test_a_drawing_that_is_held_to_it_has_less_of_it(tiny_clip: Model, views: int) -> None:
    unit, smooth = Unit(LAST, 3), Unit(LAST, 3) - 100 * L2()
    free, held = render(tiny_clip, [unit, smooth], steps=12, views=views, progress=False)
    spread = [np.square(picture.image / 255 - 0.5).mean() for picture in (free, held)]
    assert spread[1] < 0.5 * spread[0]


def transparent(seeds: Sequence[int], size: tuple[int, int]) -> TransparentImage:
    """Pictures with an alpha channel, which nothing holds: `alpha=True` holds it by the opacity itself."""
    return TransparentImage(FourierImage(seeds, size))


GREEN = Image.new("RGB", (64, 64), (40, 200, 90))
HELD: list[tuple[OfPicture, float]] = [
    (TotalVariation(), 1),
    (L1(), 100),
    (L2(), 100),
    (Roughness(), 10_000),
    (Distance(GREEN), 100),
    (Opacity(), 100),
]


@pytest.mark.parametrize(("regularizer", "weight"), HELD, ids=[r.name for r, _ in HELD])
def test_ascent_goes_down_what_is_subtracted(tiny_clip: Model, regularizer: OfPicture, weight: float) -> None:
    """Next to an equal picture that nothing holds."""
    units = [Unit(LAST, 3), Unit(LAST, 3) - weight * regularizer]
    (free, held) = render(tiny_clip, units, method=transparent, steps=12, transforms="none", progress=False)
    assert free.rgba is not None and held.rgba is not None
    pictures = torch.from_numpy(np.stack([free.rgba, held.rgba]) / np.float32(255)).permute(0, 3, 1, 2)
    of_free, of_held = regularizer({PICTURE: pictures})
    assert of_held < 0.8 * of_free
