from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from open_clip.transformer import VisionTransformer
from torch import nn

import neurolab
from neurolab.errors import UnknownModelError, UnknownSiteError
from neurolab.models.sites import default_sites, find_site, list_sites, parse_site, parse_unit, split_tokens
from neurolab.models.zoo import Model, wrap_model


def test_a_resnets_sites_are_its_relu_inputs_in_order(tiny_clip: Model) -> None:
    sites = list_sites(tiny_clip)
    assert [s.short for s in sites[:3]] == ["stem.act1", "stem.act2", "stem.act3"]
    residual = [s for s in sites if s.kind == "residual"]
    assert [s.short for s in residual] == [f"layer{i}.0" for i in (1, 2, 3, 4)]
    assert [s.name for s in residual][-1] == "visual.layer4.0.act3:in"
    assert [(s.units, s.shape) for s in residual] == [
        (32, (16, 16)), (64, (8, 8)), (128, (4, 4)), (256, (2, 2)),
    ]  # fmt: skip
    assert sites[-1].short == "attnpool" and sites[-1].layout == "vector"


def test_a_vits_sites_tell_cls_from_patches(tiny_vit: Model) -> None:
    by_short = {site.short: site for site in list_sites(tiny_vit)}
    parts = [f"block{i}{part}" for i in range(3) for part in (".heads", ".mlp", "")]
    assert list(by_short) == [*parts, "embedding"]
    site = by_short["block2.mlp"]
    assert (site.units, site.shape, site.layout, site.prefix_tokens) == (256, (17,), "tokens", 1)
    with torch.inference_mode(), neurolab.capture(tiny_vit, ["block2.mlp"]) as acts:
        tiny_vit.encode_image(torch.rand(2, 3, *tiny_vit.image_size))
    cls, patches = split_tokens(acts["block2.mlp"], site)
    assert cls.shape == (2, 1, 256) and patches.shape == (2, 256, 4, 4)
    torch.testing.assert_close(cls[:, 0], acts["block2.mlp"][:, 0])
    torch.testing.assert_close(patches[:, :, 1, 2], acts["block2.mlp"][:, 1 + 1 * 4 + 2])
    with pytest.raises(UnknownSiteError, match="no grid"):
        split_tokens(acts["block2.mlp"], by_short["embedding"])


def test_short_and_full_names_and_any_module_find_a_site(tiny_clip: Model) -> None:
    assert find_site(tiny_clip, "layer4.0") == find_site(tiny_clip, "visual.layer4.0.act3:in")
    other = find_site(tiny_clip, "visual.layer4.0.bn2")
    assert (other.units, other.shape) == (64, (4, 4))
    assert find_site(tiny_clip, "visual.layer4.0.bn2:out").units == 64


@pytest.mark.parametrize(
    ("wrong", "close"),
    [
        ("layer4.1", "layer4.0"),
        ("visual.layer4.0.act33:in", "visual.layer4.0.act3:in"),
        ("laier3.0", "layer3.0"),
        ("visual.layer4.0:heads", ""),
        ("layer4.0:sideways", "layer4.0"),
    ],
)
def test_a_wrong_name_is_answered_with_close_ones(tiny_clip: Model, wrong: str, close: str) -> None:
    with pytest.raises(UnknownSiteError) as caught:
        find_site(tiny_clip, wrong)
    assert close in str(caught.value)


def test_patterns_and_all_modules(tiny_clip: Model) -> None:
    assert {s.short for s in list_sites(tiny_clip, "layer3")} == {
        "layer3.0",
        "layer3.0.act1",
        "layer3.0.act2",
    }
    names = [s.name for s in list_sites(tiny_clip, all_modules=True)]
    assert "visual.layer3.0.conv2:out" in names and len(names) == len(set(names))


def test_default_sites_are_the_last_ones(tiny_clip: Model, tiny_vit: Model) -> None:
    assert default_sites(tiny_clip) == ["visual.layer4.0.act3:in"]
    blocks = "visual.transformer.resblocks.2"
    assert default_sites(tiny_vit) == [f"{blocks}.mlp.gelu:in", f"{blocks}:out"]


def test_other_networks_offer_their_modules() -> None:
    net = neurolab.load_model("torchvision:mobilenet_v2", pretrained="random")
    by_name = {site.name: site for site in list_sites(net)}
    assert by_name["features.0.2:in"].kind == "preact"
    assert by_name["features.17.conv.2:out"].units == 320
    vit = neurolab.load_model("timm:vit_tiny_patch16_224", pretrained="random")
    site = find_site(vit, "blocks.3")
    assert (site.units, site.shape, site.prefix_tokens) == (192, (197,), 1)


def test_listing_leaves_no_hooks(tiny_clip: Model) -> None:
    list_sites(tiny_clip, all_modules=True)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in tiny_clip.module.modules())


@given(st.text("abc.0", min_size=1), st.integers(0, 10**6))
def test_units_are_taken_apart(site: str, unit: int) -> None:
    assert parse_unit(f"{site}/{unit}") == (site, unit)


@pytest.mark.parametrize("text", ["layer4.0", "layer4.0/", "/3", "layer4.0/x", "layer4.0/-1", "layer4.0/1.5"])
def test_what_is_no_unit_is_refused(text: str) -> None:
    with pytest.raises(UnknownSiteError, match="SITE/NUMBER"):
        parse_unit(text)


def test_names_are_taken_apart() -> None:
    assert parse_site("a.b") == parse_site("a.b:out")
    parsed = parse_site("a.b#2:in")
    assert (parsed.path, parsed.port, parsed.run) == ("a.b", "in", 2)


def test_every_module_can_be_listed_with_what_it_carries(tiny_clip: Model, tiny_vit: Model) -> None:
    for model in (tiny_clip, tiny_vit):
        sites = list_sites(model, all_modules=True)
        with torch.inference_mode(), neurolab.capture(model, [site.name for site in sites]) as acts:
            model.encode_image(torch.rand(2, 3, *model.image_size))
        for site in sites:
            expected = (2, site.units, *site.shape) if site.layout == "map" else (2, *site.shape, site.units)
            assert tuple(acts[site.name].shape) == expected, site
            assert find_site(model, site.name) == site or site.kind != "module"
        assert len({site.short for site in sites}) == len(sites)
        assert {site.name for site in list_sites(model)} <= {site.name for site in sites}


def test_text_sites_are_found_but_not_listed(tiny_clip: Model) -> None:
    site = find_site(tiny_clip, "transformer.resblocks.0:out")
    assert (site.units, site.shape, site.prefix_tokens, site.grid) == (32, (77,), 0, None)
    assert not [s for s in list_sites(tiny_clip, all_modules=True) if s.name.startswith("transformer")]


def test_the_order_is_that_of_execution() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Conv2d(4, 5, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.last(self.first(x))
            return out

    assert [s.short for s in list_sites(wrap_model(Backwards(), image_size=8))] == ["first", "last"]


def test_wildcards(tiny_clip: Model) -> None:
    assert [s.short for s in list_sites(tiny_clip, "layer?.0")] == [f"layer{i}.0" for i in (1, 2, 3, 4)]
    assert [s.short for s in list_sites(tiny_clip, "*attnpool:*")] == ["attnpool.heads", "attnpool"]


def test_a_shared_module_has_a_site_for_every_run() -> None:
    model = wrap_model(torchvision.models.resnet50(), image_size=64)
    names = [s.name for s in list_sites(model, "layer1.0.relu") if s.name.endswith(":in")]
    assert names == ["layer1.0.relu#0:in", "layer1.0.relu#1:in", "layer1.0.relu:in"]
    first, last = find_site(model, names[0]), find_site(model, names[2])
    assert (first.units, last.units, last.calls) == (64, 256, 3)
    assert default_sites(model) == ["layer4.2.relu:in"]
    with pytest.raises(UnknownSiteError, match="3 times"):
        find_site(model, "layer1.0.relu#3:in")


def test_channels_last_maps_are_told_from_windows() -> None:
    torch.manual_seed(0)
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, window_size=7, depths=(1, 1, 1, 1))
    model = wrap_model(swin, image_size=56)
    site = find_site(model, "layers.1")
    assert (site.units, site.shape, site.layout) == (192, (7, 7), "map")
    raw: list[torch.Tensor] = []
    handle = swin.get_submodule("layers.1").register_forward_hook(lambda _, args, out: raw.append(out))
    with torch.inference_mode(), neurolab.capture(model, ["layers.1"]) as acts:
        model.encode_image(torch.rand(2, 3, 56, 56))
    handle.remove()
    torch.testing.assert_close(acts["layers.1"], raw[-1].permute(0, 3, 1, 2))
    with pytest.raises(UnknownSiteError, match="no activation map"):
        find_site(model, "layers.0.blocks.0.attn.qkv")  # four windows for one image


def test_patch_tokens_of_oblong_images() -> None:
    tower = VisionTransformer((16, 48), 8, width=32, layers=1, heads=2, mlp_ratio=4, output_dim=8)
    model = wrap_model(tower, image_size=(16, 48))
    site = find_site(model, "block0")
    assert site.grid == (2, 6) and site.prefix_tokens == 1
    x = torch.arange(2 * 13 * 32).reshape(2, 13, 32)
    prefix, patches = split_tokens(x, site)
    assert prefix.shape == (2, 1, 32) and patches.shape == (2, 32, 2, 6)
    assert torch.equal(patches[1, :, 1, 2], x[1, 1 + 1 * 6 + 2])


def test_a_wrong_image_size_is_named() -> None:
    model = wrap_model(torchvision.models.VisionTransformer(32, 8, 1, 2, 8, 8), image_size=40, name="mine")
    with pytest.raises(UnknownModelError, match="mine fails on an image of 40 x 40"):
        list_sites(model)
