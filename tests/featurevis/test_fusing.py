"""Rewritten traces against what autograd gives for the networks themselves."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from neurolab.featurevis.fusing import fuse

RELUS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "relu_": lambda: nn.ReLU(inplace=True),
    "relu6": nn.ReLU6,
    "relu6_": lambda: nn.ReLU6(inplace=True),
    "hardtanh_": lambda: nn.Hardtanh(-0.3, 0.5, inplace=True),
}


class Preactivation(nn.Module):
    """What is before the ReLU is needed as well, as where a unit is read there."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        before = self.conv(x)
        kept = before.clone()
        return nn.functional.relu6(before, inplace=True).sin() + kept


class Residual(nn.Module):
    """Gradients that several operations read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.beside, self.last = (
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 6, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        one = nn.functional.relu6(self.first(x), inplace=True)
        return self.last(nn.functional.relu(one + self.beside(x) + x))


class Shared(Residual):
    """The gradient of the sum is the ReLU's and, after that has used it, the other convolution's."""

    def forward(self, x: Tensor) -> Tensor:
        beside = self.beside(x)
        return self.last(nn.functional.relu6(self.first(x), inplace=True) + beside)


class Written(Residual):
    """What a ReLU gave is written over, as is a sum that begins as a fixed tensor in another precision."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.register_buffer("start", torch.ones(1, 4, 1, 1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        one = nn.functional.relu6(self.first(x), inplace=self.inplace)
        one += x
        total = self.get_buffer("start").to(torch.float32)
        total += one.mean((0, 2, 3))[None, :, None, None]
        viewed = nn.functional.hardtanh(self.beside(x), -1, 1, inplace=self.inplace)
        viewed.flatten(1)[:, ::2].mul_(3)
        return self.last(one * total) + self.last(viewed)


class Clips(Residual):
    """One convolution's output is clipped in two ways, of which one has bounds of its own."""

    def forward(self, x: Tensor) -> Tensor:
        one = self.first(x)
        narrow, wide = nn.functional.hardtanh(one, -0.2, 0.3), nn.functional.hardtanh(one, -2, 1)
        default = nn.functional.hardtanh(self.beside(x), -0.5, inplace=True)
        return self.last(narrow + wide + default)


class Learns(Residual):
    """Weights that have a gradient of their own."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            weight = self.first.weight.detach().requires_grad_()
            out = nn.functional.conv2d(x, weight).relu()
            (slope,) = torch.autograd.grad(out.sum(), weight, create_graph=True)
            return self.last(out * slope.mean())


class ChannelsFirst(nn.Module):
    """An image that is not channels last, and whose gradient is looked at as a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.flatten(1).view(x.shape)).relu().flatten(1).view(len(x), 6, -1)


class Others(nn.Module):
    """Convolutions of other kinds, and in another precision."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.wide = nn.Conv1d(4, 4, 3), nn.ConvTranspose2d(4, 4, 2)
        self.exact = nn.Conv2d(4, 4, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        line = self.line(x.mean(2)).relu()[..., None]
        return self.wide(x)[:, :, :-3, :1] + line + self.exact(x.double())[:, :, :-1, :1].relu().float()


def traced(net: nn.Module, image: Tensor, is_fixed: Callable[[Tensor], bool] | None = None) -> fx.GraphModule:
    trace = make_fx(lambda image: step(net, image))(image)
    fuse(trace, is_fixed or (lambda tensor: True))
    return trace


def step(net: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    image = image.contiguous(memory_format=torch.channels_last).requires_grad_()
    output = net(image)
    weights = torch.linspace(-1, 1, output[0].numel()).view_as(output[0])
    (gradient,) = torch.autograd.grad((output * weights).sum(), image)
    return output.detach(), gradient


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def frozen(net: nn.Module) -> nn.Module:
    for i, parameter in enumerate(net.parameters()):
        parameter.requires_grad_(False).copy_(random(*parameter.shape, seed=i))
    return net.eval()


def operations(trace: fx.GraphModule) -> Counter[str]:
    return Counter(str(node.target).removesuffix(".default") for node in trace.graph.nodes)


def agree(net: nn.Module, trace: fx.GraphModule, shape: tuple[int, ...]) -> bool:
    """For another image than the traced one, twice: nothing that is kept has been written over."""
    image = random(*shape, seed=7)
    expected = step(net, image)
    for _ in range(2):
        with torch.no_grad():
            found = trace(image)
        if not all(
            one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-4)
            for one, other in zip(expected, found, strict=True)
        ):
            return False
    return True


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_convolutions_of_every_kind(data: st.DataObject) -> None:
    draw = data.draw
    groups = draw(st.sampled_from([1, 2, 4]))
    sides, strides, dilations = (st.tuples(st.integers(1, high), st.integers(1, high)) for high in (4, 3, 2))
    inner = draw(st.sampled_from([1, 2, 3])) * groups
    kernel, dilation = draw(sides), draw(dilations)
    net = nn.Sequential(
        nn.Conv2d(
            inner,
            draw(st.sampled_from([1, 2])) * groups,
            kernel,
            draw(strides),
            # oneDNN's own convolution fails where a window lies in the padding alone.
            padding=tuple(
                draw(st.integers(0, min(3, d * (k - 1)))) for k, d in zip(kernel, dilation, strict=True)
            ),
            dilation=dilation,
            groups=groups,
            bias=draw(st.booleans()),
        ),
        RELUS[draw(st.sampled_from(sorted(RELUS)))](),
        nn.Flatten(),
    )
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = tuple(side + draw(st.integers(0, 6)) for side in reach)
    shape = (draw(st.integers(1, 3)), inner, *size)
    trace = traced(frozen(net), random(*shape, seed=1))
    assert agree(net, trace, shape)


@pytest.mark.parametrize("name", sorted(RELUS))
def test_a_relu_becomes_a_part_of_the_convolution(name: str) -> None:
    relu = RELUS[name]
    net = frozen(
        nn.Sequential(nn.Conv2d(4, 6, 3), relu(), nn.Conv2d(6, 5, 3, 2, 1), relu(), nn.Conv2d(5, 2, 1))
    )
    trace = traced(net, random(2, 4, 9, 11, seed=1))
    counts = operations(trace)
    assert counts["mkldnn._convolution_pointwise"] == 3
    assert counts["mkldnn._convolution_transpose_pointwise"] == 3
    left = {"aten.convolution", "aten.convolution_backward", "aten.relu", "aten.relu_"}
    assert not left & set(counts) and not {"aten.hardtanh", "aten.hardtanh_"} & set(counts)
    assert counts["aten.clone"] == 2  # of the image, and of the first gradient, which is not channels last
    over = sum(count for operation, count in counts.items() if operation.endswith("backward.grad_input"))
    assert over == (0 if name == "none" else 2)
    assert agree(net, trace, (2, 4, 9, 11))


@pytest.mark.parametrize(
    "kind",
    [Preactivation, Residual, Shared, ChannelsFirst, Others, Clips, Learns]
    + [functools.partial(Written, inplace) for inplace in (False, True)],
)
def test_what_others_need_stays(kind: Callable[[], nn.Module]) -> None:
    net, shape = frozen(kind()), (2, 4, 8, 8)
    assert agree(net, traced(net, random(*shape, seed=1)), shape)


def test_a_relu_whose_input_is_needed_is_left_alone() -> None:
    net = frozen(Preactivation())
    assert operations(traced(net, random(1, 4, 8, 8, seed=1)))["aten.hardtanh_"] == 1


def test_weights_that_change_are_not_fixed() -> None:
    net, shape = frozen(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU())), (1, 4, 8, 8)
    moving = net[0].weight
    followed = traced(net, random(*shape, seed=1), lambda tensor: tensor is not moving)
    stale = traced(net, random(*shape, seed=1))
    moving.mul_(-1)
    assert agree(net, followed, shape) and not agree(net, stale, shape)
    assert operations(followed)["aten.convolution"] == 1


def test_a_contiguous_image_and_weights_that_are_not() -> None:
    """The result is channels last, which oneDNN's fused convolution would not make of such an image."""

    class Net(ChannelsFirst):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.flatten(1).view(x.shape)).relu()

    net, shape = frozen(Net()), (2, 4, 8, 8)
    net.conv.weight.data = net.conv.weight.data.contiguous(memory_format=torch.channels_last)
    assert agree(net, traced(net, random(*shape, seed=1)), shape)


class Lower(nn.Module):
    """A network in bfloat16."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            output: Tensor = self.net(image)
            return output.float()


def test_nothing_is_kept_but_what_is_used() -> None:
    """Of weights that are cast and then ordered, only the last."""
    net = frozen(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()))
    trace = traced(Lower(net), random(1, 4, 8, 8, seed=1))
    read = {node.target for node in trace.graph.find_nodes(op="get_attr")}
    kept = {name for name, _ in trace.named_buffers()}
    assert kept and kept <= read


def test_weights_are_cast_once() -> None:
    net = frozen(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)))

    image = random(2, 4, 8, 8, seed=1)
    plain, trace = make_fx(lambda image: step(Lower(net), image))(image), traced(Lower(net), image)
    assert operations(plain)["aten._to_copy"] - operations(trace)["aten._to_copy"] == 4
    expected = step(Lower(net), image)
    with torch.no_grad():
        for one, other in zip(expected, trace(image), strict=True):
            assert torch.allclose(one, other, rtol=0.05, atol=0.05)
