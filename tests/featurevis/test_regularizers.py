"""Objectives of the picture itself: against NumPy, and in a drawing."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from neurolab.featurevis.batch import BatchObjective
from neurolab.featurevis.objectives import Unit
from neurolab.featurevis.regularizers import L1, L2, PICTURE, OfPicture, Roughness, TotalVariation
from neurolab.featurevis.render import render
from neurolab.models.zoo import Model
from tests.featurevis.test_objectives import LAST, MAP

PICTURES = torch.rand(3, 3, 7, 5, generator=torch.Generator().manual_seed(0))
VALUES = PICTURES.numpy().astype(float)


def test_total_variation_agrees_with_numpy() -> None:
    expected = []
    for picture in VALUES:
        total = 0.0
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            squares = [
                (picture[:, y + down, x + right] - picture[:, y, x]) ** 2
                for y in range(7)
                for x in range(5)
                if 0 <= y + down < 7 and 0 <= x + right < 5
            ]
            total += np.sqrt(np.sum(squares))
        expected.append(total)
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
