"""What a capture keeps, and that it leaves the network as it was."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

import neurolab
from neurolab.errors import UnknownSiteError
from neurolab.models.capture import capture
from neurolab.models.zoo import Model, wrap_model
from tests.models.watching import hooks


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("stop", [False, True])
def test_the_negative_side_survives_a_relu_that_works_in_place(
    tiny_clip: Model, images: Tensor, stop: bool, gradients: bool
) -> None:
    images = images.clone().requires_grad_(gradients)
    kept_by_reference: list[Tensor] = []
    act = tiny_clip.module.get_submodule("visual.layer4.0.act3")
    assert isinstance(act, nn.ReLU) and act.inplace
    with torch.set_grad_enabled(gradients), capture(tiny_clip, ["layer4.0"], stop=stop) as acts:
        tiny_clip.encode_image(images)
    handle = act.register_forward_pre_hook(lambda _, args: kept_by_reference.append(args[0]))
    with torch.no_grad():
        tiny_clip.encode_image(images)
    handle.remove()
    assert acts["layer4.0"].min() < 0
    assert kept_by_reference[0].min() == 0  # what a hook that only keeps a reference comes back with
    torch.testing.assert_close(acts["layer4.0"].clamp(min=0), kept_by_reference[0])


def test_an_output_is_kept_before_the_next_module_writes_over_it(tiny_clip: Model, images: Tensor) -> None:
    site = "visual.layer4.0.bn1:out"  # act1 after it works in place
    with torch.inference_mode(), capture(tiny_clip, [site], stop=False) as acts:
        tiny_clip.encode_image(images)
    assert acts[site].min() < 0


def test_watching_changes_nothing(tiny_clip: Model, tiny_vit: Model, images: Tensor, patches: Tensor) -> None:
    for model, x in ((tiny_clip, images), (tiny_vit, patches)):
        sites = [site.name for site in neurolab.list_sites(model)]
        with torch.inference_mode():
            plain = model.encode_image(x)
            with capture(model, sites, stop=False) as acts:
                watched = model.encode_image(x)
        assert plain is not None and watched is not None and torch.equal(plain, watched)
        assert set(acts) == set(sites)


def test_shapes_are_those_that_the_sites_announce(tiny_clip: Model, tiny_vit: Model) -> None:
    for model in (tiny_clip, tiny_vit):
        sites = neurolab.list_sites(model)
        with torch.inference_mode(), capture(model, [site.name for site in sites]) as acts:
            model.encode_image(torch.rand(2, 3, *model.image_size))
        for site in sites:
            expected = (2, site.units, *site.shape) if site.layout == "map" else (2, *site.shape, site.units)
            assert tuple(acts[site.name].shape) == expected, site


def test_hooks_go_when_the_block_fails_and_when_a_pass_fails_half_way(
    tiny_clip: Model, images: Tensor
) -> None:
    hooked = hooks(tiny_clip.module)
    with pytest.raises(ZeroDivisionError), capture(tiny_clip, ["layer2.0"]):
        raise ZeroDivisionError
    assert hooks(tiny_clip.module) == hooked

    def fail(_: Tensor) -> Tensor:
        raise ZeroDivisionError

    sites = ["layer1.0", "layer3.0"]
    with torch.inference_mode(), capture(tiny_clip, sites) as acts:
        with pytest.raises(ZeroDivisionError), capture(tiny_clip, edit={"layer2.0": fail}):
            tiny_clip.encode_image(images)
        assert list(acts) == ["layer1.0"]
        tiny_clip.encode_image(images)  # counts from the start again
        assert len(acts) == 2
    assert hooks(tiny_clip.module) == hooked


def test_a_wrong_site_leaves_no_hook(tiny_clip: Model) -> None:
    hooked = hooks(tiny_clip.module)
    with pytest.raises(UnknownSiteError):
        capture(tiny_clip, ["layer4.0", "layer9.9"])
    assert hooks(tiny_clip.module) == hooked


@pytest.mark.parametrize("stop", [False, True])
def test_gradients_are_those_of_finite_differences(tiny_clip: Model, images: Tensor, stop: bool) -> None:
    module = tiny_clip.module.double()
    try:
        x = images[:1].double().requires_grad_()
        with capture(tiny_clip, ["layer2.0", "layer3.0"], gradients=True, stop=stop) as acts:
            tiny_clip.encode_image(x)
        (acts["layer3.0"] ** 2).sum().backward()
        assert x.grad is not None and acts["layer2.0"].grad is not None

        def objective(value: Tensor) -> float:
            with torch.no_grad(), capture(tiny_clip, ["layer3.0"]) as moved:
                tiny_clip.encode_image(value)
            return float((moved["layer3.0"] ** 2).sum())

        step = torch.zeros_like(x)
        step[0, 1, 20, 30] = 1e-5
        slope = (objective(x.detach() + step) - objective(x.detach() - step)) / 2e-5
        assert x.grad[0, 1, 20, 30].item() == pytest.approx(slope, rel=1e-4)
    finally:
        module.float()


def test_a_shared_module_means_its_last_run() -> None:
    torch.manual_seed(0)
    resnet = wrap_model(torchvision.models.resnet18(), image_size=64)
    x = torch.rand(1, 3, 64, 64)
    first, last = "layer1.0.relu#0:in", "layer1.0.relu:in"
    with torch.inference_mode(), capture(resnet, [first, last]) as acts:
        resnet.encode_image(x)
    block = resnet.module.get_submodule("layer1.0")
    with torch.inference_mode(), capture(resnet, ["maxpool:out"]) as stem:
        resnet.encode_image(x)
        pooled = stem["maxpool:out"]
    with torch.inference_mode():
        middle = block.bn1(block.conv1(pooled))  # type: ignore[operator]
        residual = block.bn2(block.conv2(middle.relu())) + pooled  # type: ignore[operator]
    torch.testing.assert_close(acts[first], middle)
    torch.testing.assert_close(acts[last], residual)
    with pytest.raises(UnknownSiteError):
        capture(resnet, ["layer1.0.relu#2:in"])


def test_asking_for_what_was_not_captured_says_so(tiny_clip: Model) -> None:
    with capture(tiny_clip, ["layer1.0"]) as acts:
        with pytest.raises(KeyError, match="not been computed"):
            acts["layer1.0"]
        with pytest.raises(KeyError, match="not asked for"):
            acts["layer2.0"]


def test_activations_and_gradients_are_captums(tiny_vit: Model, patches: Tensor) -> None:
    from captum.attr import LayerActivation, LayerGradientXActivation

    def first_feature(images: Tensor) -> Tensor:
        out = tiny_vit.encode_image(images)
        assert out is not None
        return out[:, 0]

    layer = tiny_vit.module.get_submodule("visual.transformer.resblocks.1.mlp.gelu")
    images = patches.clone().requires_grad_()
    with capture(tiny_vit, ["block1.mlp"], gradients=True, stop=False) as acts:
        first_feature(images).sum().backward()
    activation = LayerActivation(first_feature, layer).attribute(patches, attribute_to_layer_input=True)
    torch.testing.assert_close(acts["block1.mlp"].detach(), activation.detach())
    product = LayerGradientXActivation(first_feature, layer).attribute(images, attribute_to_layer_input=True)
    grad = acts["block1.mlp"].grad
    assert grad is not None
    torch.testing.assert_close(grad * acts["block1.mlp"].detach(), product.detach())


def test_a_residual_sum_made_in_place_does_not_write_over_what_is_kept(
    tiny_clip: Model, images: Tensor
) -> None:
    """open_clip's blocks add the shortcut to the output of bn3 in place."""
    site, kept_by_reference = "visual.layer4.0.bn3:out", []
    module = tiny_clip.module.get_submodule("visual.layer4.0.bn3")
    with torch.no_grad():
        with capture(tiny_clip, [site], stop=False) as acts:
            tiny_clip.encode_image(images)
        with capture(tiny_clip, [site]) as alone:  # the pass ends before the sum
            tiny_clip.encode_image(images)
        handle = module.register_forward_hook(lambda _, args, out: kept_by_reference.append(out))
        tiny_clip.encode_image(images)
        handle.remove()
    assert torch.equal(acts[site], alone[site])
    assert not torch.allclose(kept_by_reference[0], alone[site])


class Reused(nn.Module):
    """The caller adds to the tensor that it has given to a module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.second(x)
        x += 100
        return x + y


@pytest.mark.parametrize("gradients", [False, True])
def test_an_input_is_kept_before_its_owner_writes_over_it(gradients: bool) -> None:
    model = wrap_model(Reused(), image_size=4)
    watch = capture(model, ["second:in"], stop=False, gradients=gradients)
    with torch.set_grad_enabled(gradients), watch as acts:
        model.encode_image(torch.rand(1, 3, 4, 4))
    assert acts["second:in"].abs().max() < 50


def test_gradients_begin_at_the_site_where_nothing_before_needs_them(
    tiny_clip: Model, images: Tensor
) -> None:
    with capture(tiny_clip, ["layer3.0", "layer4.0"], gradients=True, stop=False) as acts:
        out = tiny_clip.encode_image(images)
    assert out is not None
    out[:, 0].sum().backward()
    for site in ("layer3.0", "layer4.0"):
        grad = acts[site].grad
        assert grad is not None and grad.abs().max() > 0
    watch = capture(tiny_clip, ["layer3.0"], gradients=True)
    with torch.no_grad(), pytest.raises(RuntimeError, match="no_grad"), watch:
        tiny_clip.encode_image(images)


def test_a_single_name_and_a_units_name(tiny_clip: Model, images: Tensor) -> None:
    with torch.inference_mode(), capture(tiny_clip, "layer2.0") as acts:
        tiny_clip.encode_image(images)
    assert list(acts) == ["layer2.0"] and acts["visual.layer2.0.act3:in"] is acts["layer2.0"]
    with pytest.raises(UnknownSiteError, match="unit"):
        capture(tiny_clip, "layer2.0/3")


def test_a_capture_is_used_again_but_not_twice_at_once(tiny_clip: Model, images: Tensor) -> None:
    watch = capture(tiny_clip, ["layer2.0"])
    with torch.inference_mode():
        for _ in range(2):
            with watch as acts:
                tiny_clip.encode_image(images)
            assert acts["layer2.0"].shape[0] == 3
    with watch, pytest.raises(RuntimeError, match="active already"), watch:
        pass
