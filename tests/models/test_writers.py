"""The weights that write a site are the gradient of its units by the input of the layer that writes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurolab
from neurolab.errors import UnknownSiteError
from neurolab.models.writers import incoming_weights
from neurolab.models.zoo import Model


class Small(nn.Module):
    """Plain and grouped convolutions, normalizations that have learned something, a sum, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.plain = nn.Conv2d(3, 8, 3, padding=1)
        self.norm, self.act = nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4, bias=False)
        self.norms = nn.Sequential(nn.BatchNorm2d(12), nn.BatchNorm2d(12))
        self.back = nn.Conv2d(12, 8, 1)
        self.again = nn.ReLU(inplace=True)
        self.drop, self.head, self.last = nn.Dropout(), nn.Linear(8, 5), nn.Tanh()
        for norm in (self.norm, *self.norms):
            nn.init.normal_(norm.weight)
            nn.init.uniform_(norm.running_var, 0.5, 3)
            nn.init.normal_(norm.running_mean)

    def forward(self, images: Tensor) -> Tensor:
        x = self.act(self.norm(self.plain(images)))
        y = self.back(self.norms(self.grouped(x)).tanh())
        y += x
        return self.last(self.drop(self.head(self.again(y).mean((2, 3)))))


@pytest.fixture(scope="module")
def small() -> Model:
    return neurolab.wrap_model(Small(), image_size=8)


def by_gradient(layers: list[nn.Module], inputs: int) -> np.ndarray:
    """d unit / d input around the middle of a map, one row per unit, by autograd."""
    side = 3 if getattr(layers[0], "kernel_size", None) == (3, 3) else 1
    x = torch.randn(1, inputs, 5, 5, requires_grad=True)
    out = nn.Sequential(*layers)(x)
    rows = []
    for unit in range(out.shape[1]):
        (gradient,) = torch.autograd.grad(out[0, unit, 2, 2], x, retain_graph=True)
        edge = (5 - side) // 2
        rows.append(gradient[0, :, edge : 5 - edge, edge : 5 - edge].flatten())
    return torch.stack(rows).numpy()


def test_a_convolution_and_the_normalization_behind_it(small: Model) -> None:
    net = small.module
    plain = incoming_weights(small, "plain:out")
    normalized = incoming_weights(small, "act:in")
    np.testing.assert_allclose(plain, by_gradient([net.plain], 3), atol=1e-6)
    np.testing.assert_allclose(normalized, by_gradient([net.plain, net.norm], 3), atol=1e-6)
    assert np.array_equal(incoming_weights(small, "norm:out"), normalized)
    turned = net.norm.weight.numpy() < 0
    assert turned.any() and np.array_equal(np.sign((plain * normalized).sum(1)) < 0, turned)


def test_convolutions_in_groups_read_only_their_group(small: Model) -> None:
    net = small.module
    expected = by_gradient([net.grouped, *net.norms], 8)
    found = incoming_weights(small, "norms:out")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.shape == (12, 8 * 9) and np.count_nonzero(found) == 12 * 2 * 9


def test_a_linear_layer(small: Model) -> None:
    expected = small.module.head.weight.numpy()
    for site in ("head:out", "last:in"):
        assert np.array_equal(incoming_weights(small, site), expected)


@pytest.mark.parametrize("site", ["again:in", "act:out", "last:out"])
def test_what_comes_from_more_than_a_layer_is_refused(small: Model, site: str) -> None:
    """The sum is made in place, so its tensor is the one that a convolution gave."""
    with pytest.raises(UnknownSiteError, match=f"no single layer writes {site}.*choose the output"):
        incoming_weights(small, site)


def test_sites_of_clip(tiny_clip: Model, tiny_vit: Model) -> None:
    block = tiny_clip.module.visual.layer4[0]
    expected = by_gradient([block.conv1, block.bn1], 128)
    np.testing.assert_allclose(incoming_weights(tiny_clip, "layer4.0.act1"), expected, atol=1e-6)
    mlp = tiny_vit.module.visual.transformer.resblocks[1].mlp
    assert np.array_equal(incoming_weights(tiny_vit, "block1.mlp"), mlp.c_fc.weight.numpy())
    for model, site in ((tiny_clip, "layer4.0"), (tiny_vit, "block1"), (tiny_vit, "block1.heads")):
        with pytest.raises(UnknownSiteError, match="no single layer"):
            incoming_weights(model, site)
    with pytest.raises(UnknownSiteError, match="of the text"):
        incoming_weights(tiny_vit, "transformer.resblocks.0.mlp.c_fc")


def test_a_module_that_runs_twice_is_written_by_two_layers() -> None:
    from torchvision.models import resnet18

    model = neurolab.wrap_model(resnet18(weights=None), image_size=32)
    block = model.module.layer1[0]
    expected = by_gradient([block.conv1, block.bn1], 64)
    np.testing.assert_allclose(incoming_weights(model, "layer1.0.relu#0:in"), expected, atol=1e-6)
    with pytest.raises(UnknownSiteError, match="it is a sum"):
        incoming_weights(model, "layer1.0.relu:in")


def test_no_hooks_stay(small: Model) -> None:
    incoming_weights(small, "act:in")
    with pytest.raises(UnknownSiteError):
        incoming_weights(small, "again:in")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small.module.modules())
