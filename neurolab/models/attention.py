"""The heads of attention modules, which the modules keep to themselves.

nn.MultiheadAttention never calls its out_proj as a module and returns the mix of the heads only, so what each
head says is computed again from the module's input and weights: softmax(q k^T / sqrt(d)) v, before the output
projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = "heads"


def is_attention(module: nn.Module) -> bool:
    """nn.MultiheadAttention, or a module of that make (open_clip's Attention) that calls its out_proj."""
    return isinstance(module, nn.MultiheadAttention) or (
        hasattr(module, "num_heads") and isinstance(getattr(module, "out_proj", None), nn.Linear)
    )


def head_input(module: nn.Module, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The shape [batch, tokens, heads * head_dim] of a module's heads, from that of its query."""
    if shape is None or len(shape) != 3:
        return None
    batch_first = getattr(module, "batch_first", True)
    return shape if batch_first else (shape[1], shape[0], shape[2])


def heads_of(module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The heads' outputs [batch, tokens, heads * head_dim] for the arguments of one call.

    Raises NotImplementedError for add_zero_attn and for biases of keys and values, which no CLIP uses.
    """
    names = (
        "query",
        "key",
        "value",
        "key_padding_mask",
        "need_weights",
        "attn_mask",
        "average_attn_weights",
        "is_causal",
    )
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    if module.bias_k is not None or module.add_zero_attn:
        raise NotImplementedError("heads of attention with bias_k or add_zero_attn are not read")
    query, key, value = (given[name] for name in ("query", "key", "value"))
    if not module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    q, k, v = (_split(x, module.num_heads) for x in _project(module, query, key, value))
    mask = _mask(given.get("attn_mask"), given.get("key_padding_mask"), module.num_heads, q)
    heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return heads.transpose(1, 2).flatten(2)


def _project(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    if module.in_proj_weight is not None:
        weights = module.in_proj_weight.chunk(3)
    else:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    biases = module.in_proj_bias.chunk(3) if module.in_proj_bias is not None else (None, None, None)
    return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)  # [batch, heads, tokens, head_dim]


def _mask(attn_mask: Tensor | None, padding: Tensor | None, heads: int, q: Tensor) -> Tensor | None:
    """Both masks as one additive one; a True in them means "not to be seen"."""

    def additive(mask: Tensor) -> Tensor:
        if mask.dtype != torch.bool:
            return mask.to(q.dtype)
        return torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, float("-inf"))

    total: Tensor | None = None
    if attn_mask is not None:
        total = additive(attn_mask)
        if total.ndim == 3:
            total = total.unflatten(0, (-1, heads))
    if padding is not None:
        extra = additive(padding)[:, None, None, :]
        total = extra if total is None else total + extra
    return total


def mix_heads(module: nn.Module, heads: Tensor) -> Tensor:
    """What the module gives, batch first, for these heads [batch, tokens, heads * head_dim]."""
    return _projection(module)(heads)


def head_contributions(module: nn.Module, heads: Tensor) -> Tensor:
    """What each head adds to the residual stream: [batch, tokens, heads, D].

    The sum over the heads and the bias of the output projection are the module's output.
    """
    count = int(getattr(module, "num_heads"))  # noqa: B009 - typed
    weight = _projection(module).weight.unflatten(1, (count, -1))  # [D, heads, head_dim]
    return torch.einsum("bthd,ohd->btho", heads.unflatten(2, (count, -1)), weight)


def _projection(module: nn.Module) -> nn.Linear:
    projection = module.get_submodule("out_proj")
    assert isinstance(projection, nn.Linear)
    return projection
