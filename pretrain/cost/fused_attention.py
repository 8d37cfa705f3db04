"""Attention that costs on a CPU what a GPU's fused kernel costs there, for counting.

A fused kernel (Dao et al. 2022, arXiv:2205.14135) keeps queries, keys, values, bias, output and one number per query
for its backward pass, never the square of scores, which it computes again. A CPU has one without gradient of the bias
and without dropout only; with either it keeps several squares.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..run.flops import attention, attention_backward


@contextmanager
def fused_attention() -> Iterator[None]:
    """Let `scaled_dot_product_attention` cost what a GPU's fused kernel costs; there is no dropout of its weights."""

    def fused(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0
    ) -> Tensor:
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
        output: Tensor = _attention(query, key, value, attn_mask)[0]
        return output

    with patch("torch.nn.functional.scaled_dot_product_attention", fused):
        yield


@torch.library.custom_op("groundbass::attention", mutates_args=())
def _attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = _scores(query, key, bias)
    return _laid_out(scores.softmax(-1) @ value), scores.logsumexp(-1)


def _scores(query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return scores if bias is None else scores + bias


def _laid_out(states: Tensor) -> Tensor:
    """[batch, heads, tokens, head_dim] in memory as [batch, tokens, heads, head_dim], as fused kernels have it."""
    return states.transpose(1, 2).contiguous().transpose(1, 2)


@_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, heads, tokens, dim = query.shape
    return query.new_empty(batch, tokens, heads, dim).transpose(1, 2), query.new_empty(query.shape[:-1]).float()


@torch.library.custom_op("groundbass::attention_backward", mutates_args=())
def _attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, output: Tensor, norm: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weights = (_scores(query, key, bias) - norm[..., None]).exp()
    inner = weights * (gradient @ value.transpose(-1, -2) - (gradient * output).sum(-1, keepdim=True))
    scale = query.shape[-1] ** -0.5
    to_query, to_key = inner @ key * scale, inner.transpose(-1, -2) @ query * scale
    to_bias = inner.new_empty(0) if bias is None else inner.sum_to_size(bias.shape).clone()
    return _laid_out(to_query), _laid_out(to_key), _laid_out(weights.transpose(-1, -2) @ gradient), to_bias


def _keep(ctx: Any, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _give_back(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, bias, output, norm = ctx.saved_tensors
    *found, to_bias = _attention_backward(gradient, query, key, value, bias, output, norm)
    return (*found, None if bias is None else to_bias)


_attention.register_autograd(_give_back, setup_context=_keep)


register_flop_formula(torch.ops.groundbass.attention)(attention)
register_flop_formula(torch.ops.groundbass.attention_backward)(attention_backward)
