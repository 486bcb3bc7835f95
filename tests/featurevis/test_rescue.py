"""Gradients through ReLUs that block an item: lucid's rule, for each item alone."""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurolab.featurevis.methods import Method
from neurolab.featurevis.objectives import Unit
from neurolab.featurevis.parametrizations.pixels import PixelImage
from neurolab.featurevis.regularizers import L2
from neurolab.featurevis.render import render
from neurolab.featurevis.rescue import RedirectedReLU, redirected_relus
from neurolab.models.zoo import Model, wrap_model

ALL = torch.ones(4, dtype=torch.bool)


def numpy_redirected(x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Lucid's redirected_relu_grad, item by item."""
    result = np.where(x < 0, 0, gradient)
    for i in range(len(x)):
        if not np.linalg.norm(result[i]) > 0:
            result[i] = np.where((x[i] < 0) & (gradient[i] > 0), 0, gradient[i])
    return result


def gradient_of(x: Tensor, outer: Tensor, items: Tensor, highest: float = float("inf")) -> Tensor:
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad((RedirectedReLU.apply(x, highest, items) * outer).sum(), x)
    return found


def test_it_is_lucids_rule_for_each_item_alone() -> None:
    random = torch.Generator().manual_seed(0)
    x, outer = (torch.randn(4, 3, 5, generator=random) for _ in range(2))
    x[1], x[3] = -x[1].abs(), -x[3].abs()  # two items that nothing gets through to, two that live
    found = gradient_of(x, outer, ALL)
    np.testing.assert_allclose(found, numpy_redirected(x.numpy(), outer.numpy()))
    assert found[1].any() and found[3].any()
    for i in range(4):
        torch.testing.assert_close(gradient_of(x[i : i + 1], outer[i : i + 1], ALL[:1]), found[i : i + 1])


def test_only_the_items_asked_for_are_helped() -> None:
    x, outer = -torch.ones(4, 3), -torch.ones(4, 3)
    items = torch.tensor([True, False, True, False])
    assert torch.equal(gradient_of(x, outer, items).any(1), items)


def test_a_relu6_is_left_on_both_sides() -> None:
    x = torch.tensor([[-1.0, 7.0], [-1.0, 7.0], [3.0, 7.0]])
    outer = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [1.0, 1.0]])
    found = gradient_of(x, outer, ALL[:3], highest=6.0)
    assert found.tolist() == [[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    assert torch.equal(RedirectedReLU.apply(x, 6.0, ALL[:3]), nn.ReLU6()(x))


def test_modules_are_themselves_again_after_the_block() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.ReLU6(), nn.GELU())
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    before = module(images)
    with pytest.raises(RuntimeError, match="stop"), redirected_relus(module, ALL[:2]):
        torch.testing.assert_close(module(images), before)
        assert (
            "forward" in vars(module[1]) and "forward" in vars(module[2]) and "forward" not in vars(module[3])
        )
        raise RuntimeError("stop")
    assert not any("forward" in vars(part) for part in module.modules())
    torch.testing.assert_close(module(images), before)


@pytest.fixture(scope="module")
def silent() -> Model:
    """Units after a ReLU: 0 is silent for a grey picture and speaks for a bright one, 1 always speaks."""
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1))
    with torch.no_grad():
        module[0].weight.fill_(1.0)  # type: ignore[operator]
        module[0].bias.copy_(torch.tensor([-1.7, 10.0]))  # type: ignore[operator]
    return wrap_model(module, image_size=8, mean=(0, 0, 0), std=(1, 1, 1), name="silent")


@pytest.mark.parametrize("units", [["1:out/0"], ["1:out/0", "1:out/1"]], ids=["alone", "beside a live one"])
def test_a_silent_unit_is_woken(silent: Model, units: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        woken = render(silent, units, steps=30, transforms="none", progress=False)[0]
    assert woken.history[0] == 0 and woken.history[-1] > 0.2


def test_a_penalty_hides_no_silent_unit(silent: Model) -> None:
    """It gives the picture a gradient, but none through the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (woken,) = render(
            silent, Unit("1:out", 0) - 0.001 * L2(), steps=30, transforms="none", progress=False
        )
    assert woken.history[0] <= 0 and woken.history[-1] > 0.2


def test_a_live_unit_is_drawn_as_without_the_silent_one(silent: Model) -> None:
    among = render(silent, ["1:out/0", "1:out/1"], steps=20, progress=False)[1]
    (alone,) = render(silent, ["1:out/1"], steps=20, progress=False)
    assert np.abs(among.image.astype(int) - alone.image.astype(int)).max() <= 1


def test_what_was_silent_once_is_helped_at_every_step() -> None:
    """Drawn as if there were no ReLU, but for the first step, which finds it out, and the last, which judges.

    A unit that is helped has a gradient: taken for alive again, it would be left alone at every second step.
    """
    module = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU())
    torch.nn.init.constant_(module[0].bias, -1000.0)  # type: ignore[arg-type]
    model = wrap_model(module, image_size=8, name="asleep")
    straight = Method(PixelImage, transforms="none", lr=10.0, optimizer=torch.optim.SGD)
    with pytest.warns(UserWarning, match="no gradient after 10 steps"):
        (silent,) = render(model, "1:out/0", method=straight, steps=10, progress=False)
    (open_,) = render(model, "1:in/0", method=straight, steps=8, progress=False)
    assert open_.history[-1] > open_.history[0] + 0.01
    np.testing.assert_array_equal(silent.image, open_.image)
