"""The heads of attention modules, which the modules keep to themselves.

nn.MultiheadAttention and open_clip's AttentionPool2d never call their output projection as a module and
return only the mix of the heads. What each head says is computed again from the module's input and weights:
softmax(q k^T / sqrt(head_dim) + mask) v, before the output projection. Other attention modules (open_clip's
Attention, timm's) call the projection, whose input is their heads.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PROJECTIONS = ("out_proj", "c_proj", "proj")
_SIGNATURE = inspect.signature(nn.MultiheadAttention.forward)


def projection_name(module: nn.Module) -> str | None:
    """The name of an attention module's output projection; None for a module that is no attention."""
    heads = getattr(module, "num_heads", None)
    if not isinstance(heads, int) or heads < 1:
        return None
    for name in _PROJECTIONS:
        projection = getattr(module, name, None)
        if isinstance(projection, nn.Linear) and projection.in_features % heads == 0:
            return name
    return None


def is_attention(module: nn.Module) -> bool:
    return projection_name(module) is not None


def hides_heads(module: nn.Module) -> bool:
    """Whether the module never calls its output projection, so that its heads have to be computed."""
    return isinstance(module, nn.MultiheadAttention) or _is_pool(module)


def _is_pool(module: nn.Module) -> bool:
    """Whether it is open_clip's AttentionPool2d, known by its parts: importing open_clip takes seconds."""
    parts = ("q_proj", "k_proj", "v_proj", "c_proj", "positional_embedding")
    return all(hasattr(module, name) for name in parts)


def output_projection(module: nn.Module) -> nn.Linear:
    """The linear layer that mixes the heads; TypeError for a module that is no attention."""
    name = projection_name(module)
    if name is None:
        raise TypeError(f"{type(module).__name__} is no attention module with heads and an output projection")
    projection = getattr(module, name)
    assert isinstance(projection, nn.Linear)
    return projection


def heads_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The heads' outputs [batch, tokens, heads * head_dim] for the arguments of one call, without dropout.

    Of AttentionPool2d only the pooled token is computed, as by the module itself: [batch, 1, heads *
    head_dim]. Masks, separate key and value sizes, key and value biases and zero attention are honoured.
    """
    if _is_pool(module):
        return _pool_heads(module, args[0] if args else kwargs["x"])
    assert isinstance(module, nn.MultiheadAttention)
    given = _SIGNATURE.bind(module, *args, **kwargs).arguments
    query, key, value = (given[name] for name in ("query", "key", "value"))
    if query.ndim != 3:
        raise ValueError(f"heads are read of batches only: the query has the shape {tuple(query.shape)}")
    if not module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    q, k, v = _project(module, query, key, value)
    mask = _mask(given.get("attn_mask"), given.get("key_padding_mask"), module.num_heads, q.dtype)
    for extra_k, extra_v in _extra_tokens(module, k, v):
        k, v = torch.cat([k, extra_k], 1), torch.cat([v, extra_v], 1)
        mask = None if mask is None else F.pad(mask, (0, 1))
    return _attend(q, k, v, module.num_heads, mask)


def mix_heads(module: nn.Module, heads: Tensor) -> Tensor:
    """What the module gives, batch first, for these heads [batch, tokens, heads * head_dim]."""
    projection = output_projection(module)
    return F.linear(heads, projection.weight, projection.bias)


def module_output(module: nn.Module, heads: Tensor) -> Tensor:
    """What the module gives, in its own layout, for these heads."""
    mixed = mix_heads(module, heads)
    if _is_pool(module):
        return mixed[:, 0]
    return mixed if getattr(module, "batch_first", True) else mixed.transpose(0, 1)


def head_contributions(module: nn.Module, heads: Tensor) -> Tensor:
    """What each head adds to the module's output: [batch, tokens, heads, D], from its `heads` port.

    The sum over the heads and the bias of the output projection are the module's output, batch first.
    """
    count = int(getattr(module, "num_heads", 0))
    weight = output_projection(module).weight.unflatten(1, (count, -1))  # [D, heads, head_dim]
    return torch.einsum("bthd,ohd->btho", heads.unflatten(2, (count, -1)), weight)


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # [batch, heads, tokens, dim]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def _project(module: nn.MultiheadAttention, *inputs: Tensor) -> list[Tensor]:
    if module.in_proj_weight is not None:
        weights = list(module.in_proj_weight.chunk(3))
    else:
        weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    biases = [None] * 3 if module.in_proj_bias is None else list(module.in_proj_bias.chunk(3))
    return [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]


def _extra_tokens(module: nn.MultiheadAttention, k: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys and values that the module adds to every sequence."""
    extra = []
    if module.bias_k is not None and module.bias_v is not None:
        extra.append((module.bias_k.expand(len(k), 1, -1), module.bias_v.expand(len(v), 1, -1)))
    if module.add_zero_attn:
        extra.append((torch.zeros_like(k[:, :1]), torch.zeros_like(v[:, :1])))
    return extra


def _mask(attn_mask: Tensor | None, padding: Tensor | None, heads: int, dtype: torch.dtype) -> Tensor | None:
    """Both masks as one that is added to the scores; True in a mask means "not to be seen"."""

    def additive(mask: Tensor) -> Tensor:
        if mask.dtype != torch.bool:
            return mask.to(dtype)
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))

    total = None if attn_mask is None else additive(attn_mask)
    if total is not None and total.ndim == 3:
        total = total.unflatten(0, (-1, heads))
    if padding is None:
        return total
    keys = additive(padding)[:, None, None, :]
    return keys if total is None else total + keys


def _pool_heads(module: Any, maps: Tensor) -> Tensor:
    """There is one query, so no token is projected: with W_k and W_v of a head,

    q . (W_k x + b_k) = (W_k^T q) . x + const., and sum_t a_t (W_v x_t + b_v) = W_v (sum_t a_t x_t) + b_v.

    For CLIP's RN50 that is a twentieth of the work, which else is 7 % of the whole network's.
    """
    tokens = maps.flatten(2).transpose(1, 2)
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
    tokens = tokens + module.positional_embedding.to(tokens.dtype)
    # The layers' weights are used, as by the module itself: calling them would set off hooks.
    query = F.linear(tokens[:, 0], module.q_proj.weight, module.q_proj.bias)
    queries = query.unflatten(1, (module.num_heads, -1))  # [batch, heads, head_dim]
    keys, values = (  # [heads, head_dim, D]
        layer.weight.unflatten(0, (module.num_heads, -1)) for layer in (module.k_proj, module.v_proj)
    )
    scores = torch.einsum("bhd,hde->bhe", queries, keys) @ tokens.transpose(1, 2)
    attention = (scores / queries.shape[-1] ** 0.5).softmax(-1)  # [batch, heads, tokens]
    heads = torch.einsum("bhe,hde->bhd", attention @ tokens, values).flatten(1)
    return (heads if module.v_proj.bias is None else heads + module.v_proj.bias)[:, None]
