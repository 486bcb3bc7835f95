"""What a capture does at a place: edits, readers, orders of dimensions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from neurolab.errors import UnknownSiteError
from neurolab.models.capture import capture
from neurolab.models.zoo import Model, wrap_model


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
