from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transformer import Attention, CustomResidualAttentionBlock
from torch import Tensor, nn

import neurolab
from neurolab.errors import UnknownSiteError
from neurolab.models.attention import head_contributions, heads_of, is_attention, mix_heads, module_output
from neurolab.models.capture import capture
from neurolab.models.zoo import Model, wrap_model


def test_the_projection_of_a_multihead_attention_is_never_called() -> None:
    """The trap: a hook on out_proj sees nothing."""
    module, calls = nn.MultiheadAttention(8, 2, batch_first=True), []
    module.out_proj.register_forward_hook(lambda *_: calls.append(1))
    module(*[torch.rand(1, 3, 8)] * 3)
    assert calls == []


def masks(tokens: int) -> dict[str, Tensor | None]:
    causal = torch.full((tokens, tokens), float("-inf")).triu(1)
    return {"none": None, "additive": causal, "boolean": causal == float("-inf")}


@pytest.mark.parametrize("mask", ["none", "additive", "boolean"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_heads_add_up_to_the_modules_own_output(bias: bool, batch_first: bool, mask: str) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(12, 3, batch_first=batch_first, bias=bias).eval()
    if bias:
        nn.init.normal_(module.in_proj_bias)
        nn.init.normal_(module.out_proj.bias)
    x = torch.rand(4, 5, 12)
    given = x if batch_first else x.transpose(0, 1)
    attn_mask = masks(5)[mask]
    own = module(given, given, given, need_weights=False, attn_mask=attn_mask)[0]
    own = own if batch_first else own.transpose(0, 1)
    heads = heads_of(module, (given, given, given), {"need_weights": False, "attn_mask": attn_mask})
    assert heads.shape == (4, 5, 12)
    torch.testing.assert_close(mix_heads(module, heads), own)
    total = head_contributions(module, heads).sum(dim=2)
    torch.testing.assert_close(total + (module.out_proj.bias if bias else 0), own)
    swapped = torch.cat([heads[..., 4:], heads[..., :4]], dim=-1)
    assert not torch.allclose(mix_heads(module, swapped), own, atol=1e-3)


def test_padding_and_per_head_masks_are_honoured() -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    x = torch.rand(2, 4, 12)
    per_head = torch.randn(2 * 3, 4, 4)
    padding = torch.tensor([[False, False, False, True], [False, True, False, False]])
    own = module(
        x, x, x, attn_mask=per_head, key_padding_mask=padding.float().masked_fill(padding, float("-inf"))
    )[0]
    heads = heads_of(module, (x, x, x), {"attn_mask": per_head, "key_padding_mask": padding})
    torch.testing.assert_close(mix_heads(module, heads), own)


def test_another_value_size_is_handled() -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(12, 3, batch_first=True, kdim=7, vdim=9).eval()
    query, key, value = torch.rand(2, 4, 12), torch.rand(2, 6, 7), torch.rand(2, 6, 9)
    heads = heads_of(module, (query,), {"key": key, "value": value})
    torch.testing.assert_close(mix_heads(module, heads), module(query, key, value)[0])


def test_the_port_of_a_vit_gives_the_heads_and_edits_reach_the_output(tiny_vit: Model) -> None:
    x = torch.rand(2, 3, *tiny_vit.image_size)
    attention = "visual.transformer.resblocks.1.attn"
    module = tiny_vit.module.get_submodule(attention)
    with torch.inference_mode():
        with capture(tiny_vit, ["block1.heads", f"{attention}:out"], stop=False) as acts:
            plain = tiny_vit.encode_image(x)
        torch.testing.assert_close(mix_heads(module, acts["block1.heads"]), acts[f"{attention}:out"])

        def silence_second(heads: Tensor) -> Tensor:
            return torch.cat([heads[..., :32], torch.zeros_like(heads[..., 32:])], dim=-1)

        with capture(tiny_vit, [f"{attention}:out"], edit={"block1.heads": silence_second}) as edited:
            ablated = tiny_vit.encode_image(x)
        expected = acts[f"{attention}:out"] - head_contributions(module, acts["block1.heads"])[:, :, 1]
    torch.testing.assert_close(edited[f"{attention}:out"], expected)
    assert plain is not None and ablated is not None and not torch.allclose(plain, ablated)


def test_gradients_flow_through_the_heads(tiny_vit: Model) -> None:
    x = torch.rand(1, 3, *tiny_vit.image_size, requires_grad=True)
    with capture(tiny_vit, ["block1.heads"], gradients=True, stop=False) as acts:
        out = tiny_vit.encode_image(x)
    assert out is not None
    out.sum().backward()
    grad = acts["block1.heads"].grad
    assert grad is not None and grad.abs().max() > 0


def test_open_clips_own_attention_is_read_at_its_projection() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(Attention(12, num_heads=3))
    x = torch.rand(2, 5, 12)
    with torch.inference_mode(), capture(module, ["0:heads"], stop=False) as acts:
        own = module(x)
        torch.testing.assert_close(mix_heads(module[0], acts["0:heads"]), own)


@pytest.mark.parametrize("extra", [{"add_bias_kv": True}, {"add_zero_attn": True}])
@pytest.mark.parametrize("masked", [False, True])
def test_keys_that_the_module_adds_are_attended_to(extra: dict[str, bool], masked: bool) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(12, 3, batch_first=True, **extra).eval()
    x = torch.rand(2, 4, 12)
    mask = masks(4)["boolean"] if masked else None
    padding = torch.tensor([[False, False, False, True], [False] * 4]) if masked else None
    own = module(x, x, x, attn_mask=mask, key_padding_mask=padding)[0]
    heads = heads_of(module, (x, x, x), {"attn_mask": mask, "key_padding_mask": padding})
    torch.testing.assert_close(mix_heads(module, heads), own)


def test_a_mask_that_is_forgotten_would_show() -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    x = torch.rand(2, 4, 12)
    own = module(x, x, x, attn_mask=masks(4)["boolean"])[0]
    assert not torch.allclose(mix_heads(module, heads_of(module, (x, x, x), {})), own, atol=1e-3)


@given(
    st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.booleans()
)
@settings(deadline=None, max_examples=40)
def test_any_shape_gives_the_modules_own_output(
    heads: int, tokens: int, keys: int, batch: int, batch_first: bool, bias: bool
) -> None:
    torch.manual_seed(heads * 100 + tokens * 10 + keys)
    module = nn.MultiheadAttention(
        4 * heads, heads, batch_first=batch_first, bias=bias, kdim=3, vdim=5
    ).eval()
    query, key, value = (
        torch.rand(batch, tokens, 4 * heads),
        torch.rand(batch, keys, 3),
        torch.rand(batch, keys, 5),
    )
    given_ = [x if batch_first else x.transpose(0, 1) for x in (query, key, value)]
    found = heads_of(module, tuple(given_), {})
    assert found.shape == (batch, tokens, 4 * heads)
    torch.testing.assert_close(module_output(module, found), module(*given_)[0])


def test_a_query_without_a_batch_is_refused() -> None:
    x = torch.rand(4, 12)
    with pytest.raises(ValueError, match="batches only"):
        heads_of(nn.MultiheadAttention(12, 3), (x, x, x), {})


def test_the_attention_pool_of_a_resnet_has_heads(tiny_clip: Model) -> None:
    x = torch.rand(2, 3, *tiny_clip.image_size)
    pool = tiny_clip.module.get_submodule("visual.attnpool")
    with torch.inference_mode():
        with capture(tiny_clip, ["attnpool.heads", "attnpool"], stop=False) as acts:
            plain = tiny_clip.encode_image(x)
        heads = acts["attnpool.heads"]
        torch.testing.assert_close(module_output(pool, heads), acts["attnpool"])
        total = head_contributions(pool, heads).sum(dim=2)[:, 0] + pool.c_proj.bias  # type: ignore[operator, union-attr]
        torch.testing.assert_close(total, acts["attnpool"])
        with capture(tiny_clip, edit={"attnpool.heads": lambda heads: heads * 0}):
            silenced = tiny_clip.encode_image(x)
    assert plain is not None and silenced is not None
    torch.testing.assert_close(silenced, pool.c_proj.bias.expand_as(plain))  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("options", [{"scale_heads": True}, {"scale_attn_inner": True, "qk_norm": True}])
def test_the_heads_of_open_clips_own_blocks(options: dict[str, bool]) -> None:
    torch.manual_seed(0)
    block = CustomResidualAttentionBlock(12, 3, **options).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.rand(2, 5, 12)
    with torch.inference_mode(), capture(block, ["attn:heads", "attn"], stop=False) as acts:
        block(x, attn_mask=masks(5)["additive"])
        torch.testing.assert_close(mix_heads(block.attn, acts["attn:heads"]), acts["attn"])


def test_timms_and_torchvisions_heads_are_read_by_name() -> None:
    torch.manual_seed(0)
    timm_vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
    torchvision_vit = torchvision.models.VisionTransformer(32, 8, 2, 3, 12, 24, num_classes=5)
    for module, size in ((timm_vit, 32), (torchvision_vit, 32)):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.1)
        model = wrap_model(module, image_size=size)
        site = neurolab.find_site(model, "block1.heads")
        attention = module.get_submodule(site.name.partition(":")[0])
        out = site.name.replace(":heads", ":out")
        with torch.inference_mode(), capture(model, ["block1.heads", out]) as acts:
            model.encode_image(torch.rand(2, 3, size, size))
            torch.testing.assert_close(mix_heads(attention, acts["block1.heads"]), acts[out])


def test_what_is_no_attention_has_no_heads(tiny_clip: Model) -> None:
    assert not is_attention(nn.Linear(3, 3)) and is_attention(nn.MultiheadAttention(4, 2))
    with pytest.raises(UnknownSiteError, match="no attention"):
        capture(tiny_clip, ["visual.layer4.0.conv1:heads"])
    with pytest.raises(TypeError, match="no attention"):
        mix_heads(nn.Linear(3, 3), torch.rand(1, 2, 3))


def test_the_projection_that_is_never_called_is_refused_with_advice(tiny_vit: Model) -> None:
    with pytest.raises(UnknownSiteError, match=r"resblocks\.1\.attn:heads"):
        capture(tiny_vit, ["visual.transformer.resblocks.1.attn.out_proj:in"])


@pytest.mark.parametrize("batch_first", [True, False])
def test_heads_are_edited_in_either_order_of_dimensions(batch_first: bool) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(12, 3, batch_first=batch_first).eval()
    net = SelfAttention(module)
    x = torch.rand(2, 5, 12) if batch_first else torch.rand(5, 2, 12)
    with torch.inference_mode():
        plain = net(x)
        with capture(net, ["attention:heads"], stop=False) as acts:
            net(x)
        with capture(net, edit={"attention:heads": lambda heads: heads.mul_(2)}):
            doubled = net(x)
    assert acts["attention:heads"].shape == (2, 5, 12)
    bias = module.out_proj.bias
    torch.testing.assert_close(doubled - bias, 2 * (plain - bias))


class SelfAttention(nn.Module):
    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, key=x, value=x, need_weights=False)[0]
        return out


def test_gradients_of_heads_are_those_of_finite_differences(tiny_vit: Model) -> None:
    module = tiny_vit.module.double()
    try:
        x = torch.rand(1, 3, *tiny_vit.image_size, dtype=torch.double)
        with capture(tiny_vit, ["block1.heads"], gradients=True, stop=False) as acts:
            out = tiny_vit.encode_image(x)
        assert out is not None
        out[0, 3].backward()

        def with_step(step: float) -> float:
            def edit(heads: Tensor) -> Tensor:
                heads[0, 0, 40] += step
                return heads

            with torch.no_grad(), capture(tiny_vit, edit={"block1.heads": edit}):
                moved = tiny_vit.encode_image(x)
            assert moved is not None
            return float(moved[0, 3])

        slope = (with_step(1e-6) - with_step(-1e-6)) / 2e-6
        grad = acts["block1.heads"].grad
        assert grad is not None and grad[0, 0, 40].item() == pytest.approx(slope, rel=1e-5)
    finally:
        module.float()
