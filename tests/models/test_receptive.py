"""Receptive fields, against perturbed pixels, against the arithmetic of strides, and published sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neurolab.errors import UnknownModelError, UnknownSiteError
from neurolab.models.capture import capture
from neurolab.models.receptive import receptive_field
from neurolab.models.sites import find_site
from neurolab.models.zoo import Model, wrap_model


def seen_by_perturbing(model: Model, site: str) -> np.ndarray:
    """The fields [rows, columns, 4] by changing one row or column of the image after the other, in float64.

    The changes are large and of both signs, so that no ReLU and no maximum keeps them from going on.
    """
    twin = Model(copy.deepcopy(model.module), "twin", model.image_size, model.mean, model.std)
    find_site(twin, site)  # sites are looked up in float32
    for module in twin.module.double().modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # a new ResNet's branches end in zeros, which let nothing through
    image = torch.rand(
        1, 3, *model.image_size, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )

    def activation(images: Tensor) -> Tensor:
        with torch.no_grad(), capture(twin, [site]) as acts:
            twin.encode_image(images)
        return acts[site]

    plain, spans = activation(image), []
    for axis in (3, 2):
        changed = []
        for place in range(image.shape[axis]):
            images = image.repeat(2, 1, 1, 1)
            for item, amount in zip(images, (300.0, -300.0), strict=True):
                item.select(axis - 1, place).add_(amount * torch.linspace(0.5, 1.5, 3)[:, None].double())
            changed.append(((activation(images) - plain) != 0).flatten(0, 1).any(dim=0).numpy())
        by_place = np.stack(changed)  # [pixels, rows, columns]
        spans += [by_place.argmax(0), len(by_place) - by_place[::-1].argmax(0)]
    return np.stack([spans[0], spans[2], spans[1], spans[3]], axis=-1)


@dataclass(frozen=True)
class Window:
    """A convolution or pooling along one axis."""

    kernel: int
    stride: int
    padding: int
    dilation: int

    def reads(self, cell: int) -> set[int]:
        return {cell * self.stride - self.padding + self.dilation * tap for tap in range(self.kernel)}

    def cells(self, length: int) -> int:
        return (length + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


def span_by_arithmetic(windows: Sequence[Window], length: int, cell: int) -> tuple[int, int]:
    """The first pixel of a cell's field and one past the last: the taps of every layer, from the last on."""
    lengths = [length]
    for window in windows:
        lengths.append(window.cells(lengths[-1]))
    reached = {cell}
    for window, below in zip(reversed(windows), reversed(lengths[:-1]), strict=True):
        reached = {i for each in reached for i in window.reads(each) if 0 <= i < below}
    return (min(reached), max(reached) + 1) if reached else (0, 0)


def stack(windows: Sequence[tuple[Window, Window]], pool: bool) -> nn.Sequential:
    """Convolutions with these windows down and across; every second a maximum, where its rules allow it."""
    layers: list[nn.Module] = []
    for number, pair in enumerate(windows):
        kernel, stride, padding, dilation = (
            (getattr(pair[0], name), getattr(pair[1], name))
            for name in ("kernel", "stride", "padding", "dilation")
        )
        if pool and number % 2 and all(2 * p <= k for p, k in zip(padding, kernel, strict=True)):
            layers.append(nn.MaxPool2d(kernel, stride, padding, dilation))
        else:
            layers += [nn.Conv2d(3, 3, kernel, stride, padding, dilation), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


windows_drawn = st.builds(Window, st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 3))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(windows_drawn, windows_drawn), min_size=1, max_size=4),
    # Not square: of a square image a map of 3 units on 3 x 25 places counts as 25 units on 3 x 3.
    st.tuples(st.integers(18, 31), st.integers(18, 31)).filter(lambda size: size[0] != size[1]),
    st.booleans(),
)
def test_stacks_are_as_the_arithmetic_of_strides_says(
    windows: list[tuple[Window, Window]], size: tuple[int, int], pool: bool
) -> None:
    down, across = zip(*windows, strict=True)
    shapes = [size]
    for pair in windows:
        shapes.append((pair[0].cells(shapes[-1][0]), pair[1].cells(shapes[-1][1])))
        if min(shapes[-1]) < 1:
            return  # torch refuses such a stack
    module = stack(windows, pool)
    model = wrap_model(module, image_size=size)
    field = receptive_field(model, f"{len(module) - 1}:out")
    assert field.grid == shapes[-1]
    rows = [span_by_arithmetic(down, size[0], cell) for cell in range(field.grid[0])]
    columns = [span_by_arithmetic(across, size[1], cell) for cell in range(field.grid[1])]
    for row, (y0, y1) in enumerate(rows):
        for column, (x0, x1) in enumerate(columns):
            expected = (x0, y0, x1, y1) if y1 and x1 else None
            assert field.box(row, column) == expected


def test_other_dilations_strides_and_paddings_are_told_apart() -> None:
    right = Window(3, 2, 1, 2)
    model = wrap_model(nn.Sequential(*(nn.Conv2d(3, 3, 3, 2, 1, 2) for _ in range(2))), image_size=24)
    field = receptive_field(model, "1")
    measured = [tuple(field.pixels[row, 0, 1::2].tolist()) for row in range(field.grid[0])]

    def by(window: Window) -> list[tuple[int, int]]:
        return [span_by_arithmetic([window, window], 24, cell) for cell in range(field.grid[0])]

    assert measured == by(right)
    for wrong in (Window(3, 2, 1, 1), Window(3, 1, 1, 2), Window(3, 2, 0, 2), Window(2, 2, 1, 2)):
        assert measured != by(wrong)


class Cross(nn.Module):
    """Branches of 1 x 5 and 3 x 1 side by side, a shortcut, and a norm, as Inception and ResNet have them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.across, self.down = (
            nn.Conv2d(6, 3, (1, 5), padding=(0, 2)),
            nn.Conv2d(6, 3, (3, 1), padding=(1, 0)),
        )
        self.joined, self.pool = nn.Identity(), nn.AvgPool2d(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = self.joined(x + torch.cat([self.across(x), self.down(x)], dim=1))
        return self.pool(x).mean((2, 3))


def test_branches_are_joined() -> None:
    torch.manual_seed(0)
    model = wrap_model(Cross(), image_size=(23, 30))
    for site in ("stem", "relu:in", "joined", "pool:in", "pool"):
        np.testing.assert_array_equal(receptive_field(model, site).pixels, seen_by_perturbing(model, site))
    joined = receptive_field(model, "joined")
    assert joined.box(5, 6) == (8, 8, 19, 15)  # 2 * 6 - 4 .. and 2 * 5 - 2 ..: the rectangle around the cross
    assert joined.size == (7, 11) and not joined.is_global
    assert joined.box_in_view(5, 6) == pytest.approx((8 / 30, 8 / 23, 19 / 30, 15 / 23))


@pytest.mark.parametrize(
    "site", ["stem.act1", "stem.act3", "layer1.0", "layer2.0.act2", "layer2.0", "layer3.0"]
)
def test_clips_resnet_is_as_perturbed_pixels_say(tiny_clip: Model, site: str) -> None:
    np.testing.assert_array_equal(
        receptive_field(tiny_clip, site).pixels, seen_by_perturbing(tiny_clip, site)
    )


def residual_net() -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 2, 1, 1], num_classes=2, width_per_group=8)


def inverted_residual_net() -> nn.Module:
    from torchvision.models import mobilenet_v2

    return mobilenet_v2(num_classes=2, width_mult=0.25)


@pytest.mark.parametrize(
    ("make", "sites"),
    [
        (residual_net, ["relu:in", "layer2.1.relu#0:in", "layer2.1.relu:in", "layer2.0.downsample.0:out"]),
        (inverted_residual_net, ["features.1:out", "features.3.conv.0.2:in", "features.5:out"]),
    ],
)
def test_torchvisions_networks_are_as_perturbed_pixels_say(
    make: Callable[[], nn.Module], sites: list[str]
) -> None:
    torch.manual_seed(0)
    model = wrap_model(make(), image_size=(64, 48))
    for site in sites:
        np.testing.assert_array_equal(receptive_field(model, site).pixels, seen_by_perturbing(model, site))


def test_alexnet_has_the_published_sizes() -> None:
    """Araujo, Norris & Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019: 195
    after the last pooling, and so 163 before it, in steps of 16."""
    from torchvision.models import alexnet

    field = receptive_field(wrap_model(alexnet(num_classes=2).features, image_size=224), "10")
    assert field.size == (163, 163)
    whole = [box for box in field.pixels[6].tolist() if box[0] > 0 and box[2] < 224]
    assert len(whole) > 1 and set(np.diff([box[0] for box in whole])) == {16}


class Squeezed(nn.Module):
    """Squeeze-and-excitation, attention, or a linear layer over places, behind a convolution."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.before, self.after = how, nn.Conv2d(3, 4, 3, stride=4), nn.Identity()
        self.excite, self.mix = nn.Linear(4, 4), nn.Linear(36, 36)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        places = x.flatten(2)
        if self.how == "squeeze":
            x = x * nn.functional.hardsigmoid(self.excite(places.mean(2)))[:, :, None, None]
        elif self.how == "attention":
            tokens = places.transpose(1, 2)
            x = self.attend(tokens, tokens, tokens)[0].transpose(1, 2).unflatten(2, x.shape[2:])
        elif self.how == "linear":
            x = self.mix(places).unflatten(2, x.shape[2:])
        return self.after(x)


@pytest.mark.parametrize("how", ["squeeze", "attention", "linear", "nothing"])
def test_what_sees_everything_says_so(how: str) -> None:
    model = wrap_model(Squeezed(how), image_size=24)
    before, after = receptive_field(model, "before"), receptive_field(model, "after")
    assert before.size == (3, 3) and not before.is_global
    assert after.is_global == (how != "nothing")
    assert after.box(2, 3) == ((0, 0, 23, 23) if how != "nothing" else (12, 8, 15, 11))


def test_mobilenets_squeeze_and_excitation_is_global() -> None:
    import torchvision

    model = wrap_model(torchvision.models.mobilenet_v3_small(num_classes=2), image_size=64)
    assert receptive_field(model, "features.0").size == (3, 3)
    assert not receptive_field(model, "features.1.block.0").is_global
    assert receptive_field(model, "features.1").is_global


def test_tokens_stand_for_patches(tiny_vit: Model) -> None:
    field = receptive_field(tiny_vit, "block1.mlp")
    assert field.grid == (4, 4) and field.is_patch and not field.is_global
    assert field.box(1, 2) == (16, 8, 24, 16)
    assert field.box_in_view(1, 2) == (0.5, 0.25, 0.75, 0.5)
    patches = receptive_field(tiny_vit, "visual.conv1")  # the same, measured
    assert not patches.is_patch
    np.testing.assert_array_equal(patches.pixels, field.pixels)


def test_without_places_it_is_the_whole(tiny_vit: Model) -> None:
    field = receptive_field(tiny_vit, "visual:out")
    assert field.grid == (1, 1) and field.is_global and not field.is_patch


def test_weights_do_not_matter_and_stay_as_they_are() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)
    )
    twin = copy.deepcopy(module)
    for parameter in twin.parameters():
        parameter.data.zero_()
    flags = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    model, dead = wrap_model(module, image_size=20), wrap_model(twin, image_size=20)
    before = model.weights_hash
    np.testing.assert_array_equal(receptive_field(model, "3").pixels, receptive_field(dead, "3").pixels)
    model.__dict__.pop("weights_hash")
    assert model.weights_hash == before
    assert (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled) == flags
    assert not module[0]._forward_hooks


def test_a_cell_that_reads_padding_alone_has_no_box() -> None:
    field = receptive_field(wrap_model(nn.Sequential(nn.Conv2d(3, 2, 1, padding=1)), image_size=4), "0")
    assert field.box(0, 3) is None and field.box_in_view(0, 3) is None
    assert field.box(1, 3) == (2, 0, 3, 1)


def test_a_field_is_measured_once_for_each_size() -> None:
    runs: list[int] = []
    module = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2))
    module[0].register_forward_hook(lambda module, args, output: runs.append(len(output)))
    model = wrap_model(module, image_size=12)
    first, count = receptive_field(model, "0"), len(runs)
    assert receptive_field(model, "0:out") is first and len(runs) == count
    model.image_size = (20, 20)
    assert receptive_field(model, "0").grid == (9, 9) and first.grid == (5, 5)
    with pytest.raises(ValueError, match="read-only"):
        first.pixels[0] = 0


class Careless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True).repeat(1, 2, 1, 1) / 0 * 0


@pytest.mark.parametrize(
    ("module", "site", "error"),
    [
        (lambda: nn.Sequential(Careless()), "0", UnknownModelError),
        (lambda: nn.Sequential(nn.Conv2d(3, 2, 3)), "1", UnknownSiteError),
    ],
)
def test_what_cannot_be_measured_says_so(
    module: Callable[[], nn.Module], site: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        receptive_field(wrap_model(module(), image_size=12), site)
