from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import neurolab
from neurolab.errors import UnknownSiteError
from neurolab.models.sites import default_sites, find_site, list_sites, parse_site, parse_unit, split_tokens
from neurolab.models.zoo import Model


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
    assert list(by_short) == [f"block{i}{part}" for i in range(3) for part in (".heads", ".mlp", "")]
    site = by_short["block2.mlp"]
    assert (site.units, site.shape, site.layout, site.prefix_tokens) == (256, (17,), "tokens", 1)
    with torch.inference_mode(), neurolab.capture(tiny_vit, ["block2.mlp"]) as acts:
        tiny_vit.encode_image(torch.rand(2, 3, *tiny_vit.image_size))
    cls, patches = split_tokens(acts["block2.mlp"], site)
    assert cls.shape == (2, 1, 256) and patches.shape == (2, 16, 256)
    torch.testing.assert_close(torch.cat([cls, patches], dim=1), acts["block2.mlp"])


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
