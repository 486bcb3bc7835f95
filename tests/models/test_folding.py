from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from neurolab.models.capture import capture
from neurolab.models.folding import folded_norms, pairs_of
from neurolab.models.zoo import Model, load_model, wrap_model


class Net(nn.Module):
    """Convolutions with and without bias, norms with and without affine weights, and one that has no pair."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, groups=4, stride=2), nn.BatchNorm2d(8, affine=False)
        self.third, self.lonely = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm1(self.first(x)))
        x = self.norm2(self.second(x)).tanh()
        return self.lonely(self.third(x).sin()).mean((2, 3))


class Skips(Net):
    """The first convolution's output is used twice."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return (self.norm1(y) + 0.5 * y).mean((2, 3))


class Twice(Net):
    """One convolution with two norms."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.norm1(self.first(x)) + self.norm2(self.first(x).relu())).mean((2, 3))


def stirred(module: nn.Module, seed: int = 0) -> Model:
    """A network whose norms have seen something."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_()
            part.running_var.uniform_(0.2, 3)
            if part.affine:
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    return wrap_model(module, image_size=32)


def output_and_gradient(model: Model) -> tuple[Tensor, Tensor]:
    image = torch.rand(2, 3, *model.image_size, generator=torch.Generator().manual_seed(1)).requires_grad_()
    output = model.encode_image(image)
    assert output is not None
    output.square().sum().backward()
    assert image.grad is not None
    return output.detach(), image.grad


@pytest.mark.parametrize(
    "make", [Net, lambda: load_model("torchvision:mobilenet_v2", pretrained="random").module]
)
def test_folded_is_the_same_function(make: Callable[[], nn.Module]) -> None:
    model = stirred(make())
    before = output_and_gradient(model)
    with folded_norms(model) as count:
        assert count == (2 if isinstance(model.module, Net) else 52)
        inside = output_and_gradient(model)
    for a, b in zip(before, inside, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
    for a, b in zip(before, output_and_gradient(model), strict=True):
        assert torch.equal(a, b)  # nothing is left of it


def test_clips_resnet_is_folded(tiny_clip: Model) -> None:
    before, state = output_and_gradient(tiny_clip), tiny_clip.weights_hash
    with folded_norms(tiny_clip) as count:
        assert count == sum(isinstance(m, nn.BatchNorm2d) for m in tiny_clip.module.modules())
        tiny_clip.__dict__.pop("weights_hash")
        assert tiny_clip.weights_hash == state
        torch.testing.assert_close(output_and_gradient(tiny_clip)[0], before[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("net", [Skips, Twice])
def test_what_is_no_pair_is_left_alone(net: type[Net]) -> None:
    model = stirred(net())
    assert pairs_of(model) == []
    before = output_and_gradient(model)
    with folded_norms(model):
        assert torch.equal(output_and_gradient(model)[0], before[0])


def test_what_is_read_is_left_alone() -> None:
    model = stirred(Net())
    image = torch.rand(1, 3, 32, 32)
    for site, count in (("first:out", 1), ("norm1:in", 1), ("second:out", 1), ("relu:in", 2)):
        with torch.no_grad(), capture(model, [site], stop=False) as acts:
            model.encode_image(image)
            plain = acts[site].clone()
            with folded_norms(model) as folded:
                assert folded == count
                model.encode_image(image)
            torch.testing.assert_close(acts[site], plain)


def test_hooks_of_others_are_respected() -> None:
    model = stirred(Net())
    handle = model.module.first.register_forward_hook(lambda module, args, output: None)  # type: ignore[union-attr]
    with folded_norms(model) as count:
        assert count == 1
    handle.remove()
    with folded_norms(model) as count:
        assert count == 2


def test_networks_in_training_are_left_alone() -> None:
    model = stirred(Net())
    model.module.train()
    assert pairs_of(model) == []
    assert all("forward" not in vars(part) for part in model.module.modules())
