from __future__ import annotations

import pytest
import torch
from open_clip.transformer import Attention
from torch import Tensor, nn

from neurolab.models.attention import head_contributions, heads_of, mix_heads
from neurolab.models.capture import capture
from neurolab.models.zoo import Model


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
