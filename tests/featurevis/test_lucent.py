"""Objectives of Lucent have the values and gradients that Lucent's own hooks give them."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurolab
from neurolab.errors import UnknownSiteError
from neurolab.featurevis.batch import BatchObjective
from neurolab.featurevis.lucent import find_layer, from_lucent
from neurolab.featurevis.objectives import Objective, Unit
from neurolab.featurevis.parametrizations.fourier import FourierImage
from neurolab.featurevis.picture import Picture
from neurolab.featurevis.regularizers import PICTURE
from neurolab.models.capture import capture
from neurolab.models.zoo import Model, wrap_model

UNITS = torch.linspace(-1, 1, 8)
Loss = Callable[[Callable[[str], Tensor]], Any]


@pytest.fixture(scope="module")
def net() -> Model:
    """A small convolutional classifier, with every kind of name, and nothing that works in place."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.Tanh())
    parts = {"conv1": nn.Conv2d(3, 6, 3, stride=2), "block": block, "top_conv": nn.Conv2d(8, 8, 3)}
    module = nn.Sequential()
    for name, part in parts.items():
        module.add_module(name, part)
    module.add_module("pool", nn.AdaptiveAvgPool2d(1))
    module.add_module("flat", nn.Flatten())
    module.add_module("fc", nn.Linear(8, 5))
    return wrap_model(module, image_size=20, name="small")


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(1)).requires_grad_()


def lucents(name: str, *args: Any, **more: Any) -> Any:
    objectives = pytest.importorskip("lucent.optvis.objectives", reason="torch-lucent is not installed")
    return getattr(objectives, name)(*args, **more)


def by_lucent(net: Model, objective: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the loss of a batch by Lucent's own hooks, and its gradient."""
    hook_model = pytest.importorskip("lucent.optvis.render").hook_model
    before = [dict(module._forward_hooks) for module in net.module.modules()]
    shown = images.detach().clone().requires_grad_()
    hook = hook_model(net.module, lambda: shown)
    net.module(net.normalize(shown))
    value = -pytest.importorskip("lucent.optvis.objectives").as_objective(objective)(hook)
    for module, hooks in zip(net.module.modules(), before, strict=True):  # Lucent never removes its own
        module._forward_hooks.clear()
        module._forward_hooks.update(hooks)
    return value.detach(), torch.autograd.grad(value, shown)[0]


def evaluate(
    model: Model, members: Sequence[Objective], images: Tensor, views: int = 1
) -> tuple[Tensor, Tensor]:
    """Values [rows] of bound objectives of so many views each, and the gradient of their sum."""
    batch = BatchObjective([member for member in members for _ in range(views)], model.device)
    sites = [site for site in batch.sites if site != PICTURE]
    with capture(model, sites) as acts:
        model.encode_image(images)
        values = batch({**{site: acts[site] for site in sites}, PICTURE: images})
    return values.detach(), torch.autograd.grad(values.sum(), images)[0]


ALONE: dict[str, Callable[[], Any]] = {
    "layer:n": lambda: "block_0:5",
    "neuron": lambda: lucents("neuron", "conv1", 3),
    "neuron at a place": lambda: lucents("neuron", "conv1", 3, x=1, y=4),
    "channel": lambda: lucents("channel", "block_1", 5),
    "neuron_weight": lambda: lucents("neuron_weight", "top_conv", UNITS),
    "neuron_weight of none": lambda: lucents("neuron_weight", "top_conv", None, x=0, y=0),
    "channel_weight": lambda: lucents("channel_weight", "block", UNITS),
    "localgroup_weight": lambda: lucents("localgroup_weight", "block", UNITS, x=1, y=2, wx=2, wy=3),
    "direction": lambda: lucents("direction", "block_0", UNITS),
    "direction_neuron": lambda: lucents("direction_neuron", "block_0", UNITS),
    "blur_input_each_step": lambda: lucents("blur_input_each_step"),
    "labels": lambda: lucents("channel", "labels", 2),
    "sum": lambda: lucents("channel", "block_1", 5) + 2 * lucents("neuron", "conv1", 3) + 1,
    "difference": lambda: lucents("channel", "conv1", 1) - lucents("blur_input_each_step") / 300,
    "Objective.sum": lambda: lucents("Objective", lambda T: T("conv1").sum()).sum(
        [lucents("channel", "conv1", c) for c in range(3)]
    ),
    "negative": lambda: -lucents("channel", "top_conv", 0),
    "function": lambda: lambda T: -T("block_0")[0, 2].max() * T("labels")[:, 1].mean().exp(),
}
TOGETHER: dict[str, Callable[[], Any]] = {
    "layer:n": lambda: "block_0:5",
    "diversity": lambda: -1 * lucents("diversity", "block_1"),
    "alignment": lambda: lucents("alignment", "block_0"),
    "channel_interpolate": lambda: lucents("channel_interpolate", "block_0", 1, "top_conv", 2),
    "batch": lambda: lucents("Objective", None).sum(
        [lucents("channel", "block_1", c, batch=c) for c in range(3)]
    ),
    "sum": lambda: lucents("channel", "top_conv", 2, batch=1) - 3 * lucents("diversity", "block"),
    "function": lambda: lambda T: (T("conv1")[0] * T("conv1").roll(1, 0)).mean() - T("input")[1].std(),
}


def assert_close(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert ours[1].any()


@pytest.mark.parametrize("make", ALONE.values(), ids=ALONE)
def test_each_picture_alone_is_as_lucent_has_it(net: Model, images: Tensor, make: Callable[[], Any]) -> None:
    values, gradients = evaluate(net, [from_lucent(make()).bind(net)] * 3, images)
    for i in range(3):
        theirs = by_lucent(net, make(), images[i : i + 1])
        assert_close((values[i], gradients[i : i + 1]), theirs)
    for row, order in enumerate([2, 0, 1]):  # wherever it stands in the batch
        again, _ = evaluate(net, [from_lucent(make()).bind(net)] * 3, images[[2, 0, 1]])
        torch.testing.assert_close(again[row], values[order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", TOGETHER.values(), ids=TOGETHER)
def test_pictures_that_belong_together_are_as_lucent_has_them(
    net: Model, images: Tensor, make: Callable[[], Any]
) -> None:
    members = [objective.bind(net) for objective in from_lucent(make(), pictures=3)]
    values, gradients = evaluate(net, members, images)
    theirs, theirs_gradient = by_lucent(net, make(), images)
    assert_close((values.sum(), gradients), (theirs, theirs_gradient))
    torch.testing.assert_close(values, theirs.float().expand(3) / 3, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [*ALONE.values()], ids=ALONE)
def test_rendering_climbs(net: Model, make: Callable[[], Any]) -> None:
    for picture in draw(net, [from_lucent(make()), from_lucent(make())], seed=[0, 1]):
        assert picture.history[-1] > picture.history[0]


@pytest.mark.parametrize("make", TOGETHER.values(), ids=TOGETHER)
def test_rendering_together_climbs(net: Model, make: Callable[[], Any]) -> None:
    start = functools.partial(FourierImage, sd=1.0)  # at the usual start pictures are alike already
    pictures = draw(net, from_lucent(make(), pictures=3), seed=range(3), method=start, lr=0.02)
    histories = np.stack([picture.history for picture in pictures])
    assert (histories == histories[:1]).all()  # each has an equal share
    assert histories[0, -1] > histories[0, 0]


def draw(model: Model, units: Any, **settings: Any) -> list[Picture]:
    settings = {"steps": 10, "transforms": "none", "progress": False} | settings
    seeds = settings.pop("seed", 0)
    return neurolab.render(model, units, seed=seeds if isinstance(seeds, int) else list(seeds), **settings)


def test_views_of_pictures_that_belong_together(net: Model) -> None:
    """The mean of the views' losses, each of all pictures; rows of a picture are together in the batch."""
    shown = torch.rand(6, 3, 20, 20, generator=torch.Generator().manual_seed(2)).requires_grad_()
    make = TOGETHER["sum"]
    members = [objective.bind(net) for objective in from_lucent(make(), pictures=3)]
    values, gradients = evaluate(net, members, shown, views=2)
    for view in range(2):
        rows = [view, view + 2, view + 4]
        value, gradient = by_lucent(net, make(), shown[rows])
        torch.testing.assert_close(values[rows], value.float().expand(3) / 3, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradients[rows], gradient, rtol=1e-4, atol=1e-6)
    wrong, _ = by_lucent(net, make(), shown[[0, 1, 2]])  # as if a view's rows were together
    assert abs(values[:3].sum() - wrong) > 1e-4
    drawn = draw(net, from_lucent(make(), pictures=3), views=2, seed=range(3), transforms="lucid")
    assert len({picture.history.tobytes() for picture in drawn}) == 1


def test_a_group_has_its_own_order_and_company(net: Model, images: Tensor) -> None:
    """Drawn in any order and among others, a picture stays the one that it is in the group."""
    make = TOGETHER["batch"]
    first, second, third = [objective.bind(net) for objective in from_lucent(make(), pictures=3)]
    value, gradient = by_lucent(net, make(), images)
    values, gradients = evaluate(net, [third, first, second], images[[2, 0, 1]])
    assert_close((values.sum(), gradients), (value, gradient[[2, 0, 1]]))
    others = [from_lucent("conv1:2").bind(net), Unit("conv1", 1).bind(net)]
    both = torch.cat([images, images[:2]])
    values, _ = evaluate(net, [first, others[0], second, third, others[1]], both[[0, 3, 1, 2, 4]])
    torch.testing.assert_close(values[[0, 2, 3]].sum(), value, rtol=1e-4, atol=1e-6)
    with_unit = [objective + 0.5 * Unit("conv1", 1).bind(net) for objective in (first, second, third)]
    values, _ = evaluate(net, with_unit, images)
    unit, _ = evaluate(net, [others[1]] * 3, images)
    torch.testing.assert_close(values.sum(), value + 0.5 * unit.sum(), rtol=1e-4, atol=1e-6)


def test_two_groups_of_one_function_are_apart(net: Model, images: Tensor) -> None:
    loss: Loss = lambda T: (T("conv1")[0] - T("conv1")[1]).square().mean()  # noqa: E731
    groups = [[o.bind(net) for o in from_lucent(loss, pictures=2)] for _ in range(2)]
    assert groups[0][0].groups == groups[0][1].groups != groups[1][0].groups
    four = torch.cat([images, images[:1] ** 2])
    values, _ = evaluate(net, [*groups[0], *groups[1]], four)
    alone, _ = evaluate(net, groups[0], four[:2])
    torch.testing.assert_close(values[:2], alone)
    assert not torch.allclose(values[2:], alone)
    assert from_lucent(loss).groups == frozenset()


@pytest.mark.parametrize("chosen", [[0, 1], [0, 1, 1], [0, 1, 2, 2]])
def test_an_incomplete_group_is_refused(net: Model, chosen: list[int]) -> None:
    group = from_lucent(lambda T: T("conv1").mean(), pictures=3)
    with pytest.raises(ValueError, match=r"3 pictures, but of [23]"):
        draw(net, [group[i] for i in chosen])


def test_items_have_no_gradient_through_each_other(net: Model, images: Tensor) -> None:
    def own(T: Callable[[str], Tensor]) -> Tensor:
        return -T("block_0")[:, 2].mean() / (1 + T("conv1").square().mean())

    bound = from_lucent(own).bind(net)
    with capture(net, bound.sites) as acts:
        net.encode_image(images)
        values = BatchObjective([bound] * 3)(acts)
    (gradient,) = torch.autograd.grad(values[1], images)
    assert gradient[1].any()
    assert not gradient[[0, 2]].any()


def test_different_functions_share_a_batch(net: Model, images: Tensor) -> None:
    scales = (1.0, 5.0, -2.0)
    members = [from_lucent(lambda T, k=k: k * T("conv1")[:, 1].mean()).bind(net) for k in scales]
    values, _ = evaluate(net, members, images)
    (unit, _) = evaluate(net, [Unit("conv1", 1).bind(net)] * 3, images)
    torch.testing.assert_close(values, -torch.tensor(scales) * unit)


def test_names_are_lucents(net: Model) -> None:
    assert from_lucent(ALONE["channel"]()).name == "Channel [block_1, 5, None]"
    both = lucents("channel", "conv1", 1) + lucents("neuron", "conv1", 2)
    assert from_lucent(both).name == "Sum(Channel [conv1, 1, None] + Neuron [conv1, 2, None, None, None])"
    assert from_lucent(lucents("diversity", "conv1"), pictures=2)[1].formula == "Diversity [conv1], 2 of 2"
    assert from_lucent("block_0:5").bind(net).name == "block.0:out/5"

    def my_idea(T: Callable[[str], Tensor]) -> Tensor:
        return T("conv1").mean()

    assert from_lucent(my_idea).bind(net).name == "my_idea"


def test_layers_by_any_of_their_names(net: Model, tiny_clip: Model, tiny_vit: Model) -> None:
    for name in ("block_0", "block.0", "block.0:out"):
        assert find_layer(net, name) == "block.0:out"
    assert find_layer(net, "top_conv") == "top_conv:out"
    assert find_layer(net, "input") == PICTURE
    assert find_layer(net, "labels") == ":out"
    for name in ("layer4_0_conv2", "visual_layer4_0_conv2", "visual.layer4.0.conv2"):
        assert find_layer(tiny_clip, name) == "visual.layer4.0.conv2:out"
    assert find_layer(tiny_clip, "layer4_0") == "visual.layer4.0:out"  # Lucent's: after the block's ReLU
    assert find_layer(tiny_clip, "layer4.0") == "visual.layer4.0.act3:in"  # neurolab's: before it
    assert find_layer(tiny_clip, "labels") == "visual:out"
    assert find_layer(tiny_vit, "block2") == "visual.transformer.resblocks.2:out"
    # CLIP's text tower has a module transformer.resblocks.0 as well, but sees no images.
    assert find_layer(tiny_vit, "transformer_resblocks_0") == "visual.transformer.resblocks.0:out"


def test_tokens_are_batch_tokens_units(tiny_vit: Model) -> None:
    shapes = []

    def loss(T: Callable[[str], Tensor]) -> Tensor:
        shapes.append(tuple(T("transformer_resblocks_1").shape))
        return -T("transformer_resblocks_1")[:, 1:, 7].mean()

    (picture,) = draw(tiny_vit, from_lucent(loss))
    assert set(shapes) == {(1, 17, 64)}
    (same,) = draw(tiny_vit, Unit("block1", 7))
    np.testing.assert_allclose(picture.history, same.history, rtol=1e-4)


def test_unknown_and_ambiguous_layers_are_refused(net: Model) -> None:
    with pytest.raises(UnknownSiteError, match="no layer 'blok_0'; the closest are block_0"):
        draw(net, from_lucent(lambda T: T("blok_0").mean()))
    with pytest.raises(UnknownSiteError, match="no unit 9"):
        draw(net, from_lucent("block_0:9"))
    module = nn.Sequential()
    module.add_module("a_b", nn.Conv2d(3, 4, 3))
    module.add_module("a", nn.Sequential())
    module.a.add_module("b", nn.Conv2d(4, 5, 3))  # type: ignore[operator, union-attr]
    model = wrap_model(module, image_size=16, name="two")
    with pytest.raises(UnknownSiteError, match=r"may be a_b:out or a\.b:out"):
        draw(model, from_lucent("a_b:1"))
    assert draw(model, from_lucent("a.b:4"))[0].name == "a.b:out/4"
    assert draw(model, from_lucent("a_b:out:3"))[0].name == "a_b:out/3"


def test_functions_that_draw_nothing_are_refused(net: Model) -> None:
    refused: list[tuple[Loss, str]] = [
        (lambda T: torch.zeros(1), "reads no layer"),
        (lambda T: T("conv1").detach().mean(), "does not depend on what it reads .conv1."),
        (lambda T: 0, "reads no layer"),
        (lambda T: T("conv1").mean((2, 3)), r"one number, not \(1, 6\)"),
        (lambda T: T("conv1")[1:2].mean(), "not a number.*pictures=n"),
    ]
    for loss, message in refused:
        with pytest.raises(ValueError, match=message):
            draw(net, from_lucent(loss))
    with pytest.raises(IndexError) as caught:
        draw(net, from_lucent(lambda T: T("conv1")[1].mean()))
    assert "batch of 1" in caught.value.__notes__[0]
    with pytest.raises(UnknownSiteError, match="LAYER:NUMBER"):
        from_lucent("conv1")
    with pytest.raises(TypeError, match="not int"):
        from_lucent(3)
    with pytest.raises(ValueError, match="at least 1"):
        from_lucent("conv1:1", pictures=0)


def test_what_compares_pictures_needs_some(net: Model) -> None:
    alone = lucents("channel", "conv1", 1) - 0.1 * lucents("diversity", "block")
    with pytest.raises(ValueError, match="compares pictures: say how many"):
        from_lucent(alone)
    with pytest.raises(ValueError, match=r"not a number.*pictures=n"):
        draw(net, from_lucent(lucents("channel", "conv1", 1, batch=2)))


def test_layers_that_appear_later_are_refused(net: Model) -> None:
    seen: list[str] = []

    def fickle(T: Callable[[str], Tensor]) -> Tensor:
        seen.append("top_conv" if seen else "conv1")
        return T(seen[-1]).mean()

    with pytest.raises(UnknownSiteError, match="reads 'top_conv' now, but did not at first: only conv1"):
        draw(net, from_lucent(fickle))


def test_lucent_is_drawn_end_to_end(tiny_clip: Model) -> None:
    """A Lucent channel after its ReLU is the unit of the site that holds it."""
    (picture,) = draw(tiny_clip, from_lucent(lucents("channel", "layer4_0", 3)), transforms="lucid")
    (same,) = draw(tiny_clip, "visual.layer4.0:out/3", transforms="lucid")
    assert picture.name == "Channel [layer4_0, 3, None]"
    assert picture.image.shape == (64, 64, 3)
    assert picture.history[-1] > picture.history[0]
    np.testing.assert_allclose(picture.history, same.history, rtol=1e-4)
    assert np.abs(picture.image.astype(int) - same.image.astype(int)).max() <= 1


def test_lucent_is_not_imported() -> None:
    code = "import sys, neurolab.featurevis.lucent; print([m for m in sys.modules if m.startswith('lucent')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
