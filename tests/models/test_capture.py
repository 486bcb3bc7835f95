from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torchvision
from torch import Tensor, nn

import neurolab
from neurolab.errors import UnknownSiteError
from neurolab.models.capture import capture
from neurolab.models.zoo import Model, wrap_model


@pytest.fixture
def images(tiny_clip: Model) -> Tensor:
    return torch.rand(3, 3, *tiny_clip.image_size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def patches(tiny_vit: Model) -> Tensor:
    return torch.rand(2, 3, *tiny_vit.image_size, generator=torch.Generator().manual_seed(0))


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@contextmanager
def counting(module: nn.Module) -> Iterator[list[int]]:
    """How often a module has run, as the length of the list."""
    runs: list[int] = []
    handle = module.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        yield runs
    finally:
        handle.remove()


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


def test_nothing_after_the_deepest_site_runs(tiny_clip: Model, images: Tensor) -> None:
    neurolab.list_sites(tiny_clip)  # tries the network out, once
    block = tiny_clip.module.get_submodule("visual.layer3.0")
    with (
        counting(block.get_submodule("conv3")) as before,
        counting(tiny_clip.module.get_submodule("visual.layer4.0.conv1")) as after,
        torch.inference_mode(),
        capture(tiny_clip, ["layer1.0", "layer3.0"]) as acts,
    ):
        assert tiny_clip.encode_image(images) is None
    assert (len(before), len(after)) == (1, 0)
    assert "layer1.0" in acts and acts["layer1.0"].shape[1] == 32


def test_a_stopped_pass_leaves_nothing_behind(tiny_clip: Model, images: Tensor) -> None:
    hooked = hooks(tiny_clip.module)
    with torch.inference_mode():
        plain = tiny_clip.encode_image(images)
        with capture(tiny_clip, ["layer2.0"]) as acts:
            tiny_clip.encode_image(images)
            first = acts["layer2.0"]
            tiny_clip.encode_image(images.flip(0))  # a second pass in the same block
        assert torch.equal(acts["layer2.0"], first.flip(0))
        again = tiny_clip.encode_image(images)
    assert plain is not None and again is not None and torch.equal(again, plain)
    assert hooks(tiny_clip.module) == hooked and not tiny_clip.module.training


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


def test_a_bare_module_call_ends_the_block_at_the_site(tiny_clip: Model, images: Tensor) -> None:
    reached = False
    with torch.inference_mode(), capture(tiny_clip, ["layer2.0"]) as acts:
        tiny_clip.module.encode_image(images)  # type: ignore[operator]
        reached = True
    assert not reached and acts["layer2.0"].shape[0] == 3


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


def test_an_edit_changes_what_follows_and_is_what_is_kept(tiny_clip: Model, images: Tensor) -> None:
    def set_high(activation: Tensor) -> Tensor:
        activation = activation.clone()
        activation[:, 5] = 50
        return activation

    with torch.inference_mode():
        plain = tiny_clip.encode_image(images)
        with capture(tiny_clip, ["layer3.0", "layer4.0"], edit={"layer3.0": set_high}) as acts:
            edited = tiny_clip.encode_image(images)
        with capture(tiny_clip, edit={"layer3.0": lambda a: a}):
            unchanged = tiny_clip.encode_image(images)
    assert acts["layer3.0"][:, 5].min() == 50 and acts["layer3.0"][:, 4].max() < 50
    assert plain is not None and edited is not None and unchanged is not None
    assert not torch.allclose(plain, edited) and torch.equal(plain, unchanged)


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


def test_nested_captures_do_not_disturb_each_other(tiny_clip: Model, images: Tensor) -> None:
    with torch.inference_mode(), capture(tiny_clip, ["layer1.0"], stop=False) as outer:
        with capture(tiny_clip, ["layer2.0"]) as inner:
            tiny_clip.encode_image(images)
        assert tiny_clip.encode_image(images) is not None
    assert len(outer) == len(inner) == 1


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


def test_a_capture_in_a_capture_is_not_cut_short(tiny_clip: Model, images: Tensor) -> None:
    """Alone, each would end the pass at its own site; the first before the other's is reached."""
    with torch.inference_mode(), capture(tiny_clip, ["layer1.0"]) as outer:
        with capture(tiny_clip, ["layer3.0"]) as inner:
            assert tiny_clip.encode_image(images) is None
        assert len(outer) == len(inner) == 1
        with capture(tiny_clip, ["layer2.0"], stop=False):
            assert tiny_clip.encode_image(images) is not None
        assert tiny_clip.encode_image(images) is None


def test_finding_sites_inside_a_capture_does_not_disturb_it() -> None:
    net = torchvision.models.squeezenet1_1()
    model = wrap_model(net, image_size=64)
    with torch.inference_mode(), capture(model, ["features.3"]) as acts:
        model.encode_image(torch.rand(2, 3, 64, 64))
        kept = acts["features.3"]
        larger = wrap_model(net, image_size=80)  # tried out with an image of its own, on the same modules
        assert neurolab.list_sites(larger) and larger.embedding_dim == 1000
        assert acts["features.3"] is kept


def test_a_network_that_catches_exceptions_does_not_catch_the_stop() -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rest = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            try:
                x = self.first(x)
            except Exception:
                x = torch.zeros(1, 4, 4, 4)
            out: Tensor = self.rest(x)
            return out

    model = wrap_model(Careful(), image_size=4)
    with counting(model.module.get_submodule("rest")) as runs, capture(model, ["first"]) as acts:
        del runs[:]  # those of finding out about the network
        assert model.encode_image(torch.rand(1, 3, 4, 4)) is None
    assert not runs and acts["first"].shape == (1, 4, 4, 4)


def test_text_towers_are_read_and_not_cut_short(tiny_clip: Model) -> None:
    site = "transformer.resblocks.0:out"
    with torch.inference_mode(), capture(tiny_clip, [site]) as acts:
        embedded = tiny_clip.encode_text(["a zebra", "two words"])
    assert embedded.shape == (2, 32) and acts[site].shape == (2, 77, 32)
    with torch.inference_mode(), capture(tiny_clip, [f"{site[:-4]}.attn:heads", "layer4.0"]) as both:
        tiny_clip.encode_text("a zebra")
        assert tiny_clip.encode_image(torch.rand(1, 3, 64, 64)) is not None
    assert len(both) == 2


def test_a_bare_network_stops_once_it_is_known_how_often_its_modules_run() -> None:
    torch.manual_seed(0)
    net, x = torchvision.models.resnet18().eval(), torch.rand(1, 3, 64, 64)
    with torch.inference_mode(), counting(net.get_submodule("layer4.0.conv1")) as runs:
        with capture(net, ["layer1.0.relu:in"]) as acts:
            net(x)  # the first pass: runs to its end, and the last of the two runs is kept
            assert len(runs) == 1
            first = acts["layer1.0.relu:in"]
            net(x)
        assert len(runs) == 1 and torch.equal(acts["layer1.0.relu:in"], first)
        with capture(net, ["layer1.0.relu#0:in"]) as earlier:
            net(x)
        assert len(runs) == 1 and not torch.equal(earlier["layer1.0.relu#0:in"], first)


def test_the_edit_of_a_shared_module_is_of_the_run_that_is_named() -> None:
    torch.manual_seed(0)
    module = torchvision.models.resnet18()
    model, x = wrap_model(module, image_size=64), torch.rand(1, 3, 64, 64)
    seen: list[str] = []

    def note(name: str) -> Callable[[Tensor], Tensor]:
        def edit(activation: Tensor) -> Tensor:
            seen.append(name)
            return torch.zeros_like(activation)

        return edit

    with torch.inference_mode():
        with capture(
            model, ["layer1.0.conv2", "layer1.0"], edit={"layer1.0.relu#0:in": note("first")}
        ) as acts:
            model.encode_image(x)
        assert acts["layer1.0.conv2"].abs().max() == 0 and acts["layer1.0"].abs().max() > 0
        with capture(model, ["layer1.0.conv2", "layer1.0"], edit={"layer1.0.relu:in": note("last")}) as acts:
            model.encode_image(x)
        assert acts["layer1.0.conv2"].abs().max() > 0 and acts["layer1.0"].abs().max() == 0
    assert seen == ["first", "last"]
    with pytest.raises(UnknownSiteError, match="runs several times"), torch.inference_mode():
        net = torchvision.models.resnet18().eval()
        with capture(net, edit={"layer1.0.relu:in": note("?")}):
            net(x)


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


def test_an_edited_input_is_query_key_and_value_alike(tiny_vit: Model, patches: Tensor) -> None:
    attention = "visual.transformer.resblocks.1.attn"
    module = tiny_vit.module.get_submodule(attention)
    with torch.inference_mode():
        with capture(tiny_vit, [f"{attention}:in"]) as plain:
            tiny_vit.encode_image(patches)
        x = plain[f"{attention}:in"]
        with capture(tiny_vit, [attention], edit={f"{attention}:in": lambda x: 3 * x}) as acts:
            tiny_vit.encode_image(patches)
        torch.testing.assert_close(acts[attention], module(3 * x, 3 * x, 3 * x)[0])
        assert not torch.allclose(acts[attention], module(3 * x, x, x)[0], atol=1e-3)


@pytest.mark.parametrize("result", [None, "shape"])
def test_an_edit_that_returns_something_else_is_refused(
    tiny_clip: Model, images: Tensor, result: str | None
) -> None:
    def edit(activation: Tensor) -> Tensor:
        return activation[:1] if result else None  # type: ignore[return-value]

    watch = capture(tiny_clip, edit={"layer2.0": edit})
    with torch.inference_mode(), pytest.raises(ValueError, match=r"layer2\.0\.act3:in must return"), watch:
        tiny_clip.encode_image(images)


def test_edits_in_place_change_the_network_and_no_other_capture(tiny_clip: Model, images: Tensor) -> None:
    with torch.inference_mode(), capture(tiny_clip, ["layer2.0"], stop=False) as before:
        with capture(tiny_clip, ["layer2.0"], edit={"layer2.0": lambda a: a.zero_()}) as inside:
            edited = tiny_clip.encode_image(images)
        assert before["layer2.0"].abs().max() > 0 and inside["layer2.0"].abs().max() == 0
        plain = tiny_clip.encode_image(images)
    assert edited is not None and plain is not None and not torch.allclose(edited, plain)


def test_stop_can_be_asked_for_with_edits(tiny_clip: Model, images: Tensor) -> None:
    with torch.inference_mode():
        with capture(tiny_clip, ["layer2.0"], edit={"layer1.0": torch.zeros_like}, stop=True) as acts:
            assert tiny_clip.encode_image(images) is None
        with capture(tiny_clip, ["layer2.0"]) as plain:
            tiny_clip.encode_image(images)
    assert not torch.allclose(acts["layer2.0"], plain["layer2.0"])


class Orders(nn.Module):
    """Tokens first, channels last, and outputs that are tuples and dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 4, 4)
        self.last, self.block = nn.Linear(6, 5), nn.Identity()
        self.tokens, self.pair, self.named = nn.Linear(5, 4), Returns(tuple), Returns(dict)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.last(self.stem(x).permute(0, 2, 3, 1)))
        x = self.tokens(x.flatten(1, 2).transpose(0, 1))
        x = self.named(self.pair(x)[0])["x"]
        return x.mean(0)


class Returns(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> object:
        return {"x": x, "n": 1} if self.kind is dict else (x, 1)


def test_activations_come_in_one_order_and_go_back_in_the_networks_own() -> None:
    torch.manual_seed(0)
    net = Orders()
    model, x = wrap_model(net, image_size=32), torch.rand(2, 3, 32, 32)
    shapes = {
        "last": (2, 5, 8, 8),
        "block": (2, 5, 8, 8),
        "tokens": (2, 64, 4),
        "pair": (2, 64, 4),
        "named": (2, 64, 4),
    }
    with torch.inference_mode():
        plain = model.encode_image(x)
        with capture(model, list(shapes), stop=False) as acts:
            watched = model.encode_image(x)
        with capture(model, edit=dict.fromkeys(shapes, lambda a: a * 1)):
            same = model.encode_image(x)
        with capture(model, edit={"named": lambda a: a * 2}):
            doubled = model.encode_image(x)
        stem = net.stem(model.normalize(x))
    assert {site: tuple(acts[site].shape) for site in shapes} == shapes
    torch.testing.assert_close(acts["last"].permute(0, 2, 3, 1), net.last(stem.permute(0, 2, 3, 1)))
    assert plain is not None and watched is not None and same is not None
    assert torch.equal(plain, watched) and torch.equal(plain, same)
    torch.testing.assert_close(doubled, 2 * plain)


def test_fused_encoder_layers_are_read_all_the_same() -> None:
    """nn.TransformerEncoderLayer has a fast path that calls none of its parts."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
    net = nn.Sequential(nn.Conv2d(3, 12, 4, 4), nn.Flatten(2), Swap(), nn.TransformerEncoder(layer, 2))
    model = wrap_model(net, image_size=16)
    site = "3.layers.0.linear1:out"
    with torch.inference_mode(), capture(model, [site, "3.layers.1.self_attn:heads"], stop=False) as acts:
        model.encode_image(torch.rand(2, 3, 16, 16))
    assert acts[site].shape == (2, 16, 24) and acts["3.layers.1.self_attn:heads"].shape == (2, 16, 12)


class Swap(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


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


def test_the_stop_works_on_every_path_of_use(tiny_vit: Model, patches: Tensor) -> None:
    """A pass that is ended in the middle leaves later passes, gradients and text as they were."""
    images = patches.clone().requires_grad_()
    with capture(tiny_vit, ["block0.mlp"]) as acts:
        assert tiny_vit.encode_image(images) is None
    (grad,) = torch.autograd.grad(acts["block0.mlp"][:, 0, 3].sum(), images)
    assert grad.abs().max() > 0 and torch.is_grad_enabled()
    out = tiny_vit.encode_image(images)
    assert out is not None and out.requires_grad and tiny_vit.encode_text("a").shape == (1, 32)


def test_a_reader_sees_what_would_be_kept_when_it_is_computed(tiny_clip: Model, images: Tensor) -> None:
    sites = ["layer3.0", "layer4.0", "attnpool.heads"]
    with capture(tiny_clip, sites, stop=False) as acts, torch.no_grad():
        tiny_clip.encode_image(images)
    read: dict[str, Tensor] = {}
    with (
        capture(tiny_clip, sites, reader=lambda name, value: read.update({name: value.clone()})) as reading,
        torch.no_grad(),
    ):
        assert tiny_clip.encode_image(images) is None
    full = [f"visual.{site}.act3:in" for site in sites[:2]] + ["visual.attnpool:heads"]
    assert list(read) == full  # in the order in which they are computed
    assert all(torch.equal(read[name], acts[name]) for name in full)
    with pytest.raises(UnknownSiteError, match="given to the reader"):
        reading["layer4.0"]
    assert len(reading) == 0


def test_a_reader_sees_edits_and_keeps_no_gradients(tiny_clip: Model, images: Tensor) -> None:
    seen: list[Tensor] = []
    with (
        capture(
            tiny_clip,
            ["layer3.0"],
            edit={"layer3.0": lambda x: x * 0 + 2},
            reader=lambda name, value: seen.append(value.clone()),
        ),
        torch.no_grad(),
    ):
        tiny_clip.encode_image(images)
    assert len(seen) == 1 and (seen[0] == 2).all()
    with pytest.raises(ValueError, match="reader keeps nothing"):
        capture(tiny_clip, ["layer3.0"], gradients=True, reader=lambda name, value: None)
