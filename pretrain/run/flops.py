"""FLOPs of whatever runs inside, by torch's counter, where it is right.

Two corrections. Torch's formula for a convolution's backward pass forgets the groups when it comes to the weights: with
BEATs' and HuBERT's positional convolution of 16 groups, that is half of a step too much. And it knows no formula for
attention's fused kernel on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Shape = Sequence[int]


def flop_counter() -> FlopCounterMode:
    """A context whose `get_total_flops()` counts 2 per multiply-add of matrix products, convolutions and attention.

    Fused attention counts 2 products forward and 5 backward, as the scores are computed again. Not counted: FFTs,
    recurrent layers, everything element by element.
    """
    aten = torch.ops.aten
    corrected: dict[Any, Any] = {
        aten.convolution_backward: _convolution_backward,
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=corrected)


def flops_of(func: Any, args: Any, kwargs: Any, out: Any) -> float:
    """FLOPs of one call of an operator by the same rules: 0 for what isn't counted."""
    if func is torch.ops.aten.convolution_backward.default:
        shapes, named = tree_map_only(torch.Tensor, lambda tensor: tensor.shape, (args, kwargs))
        return float(_convolution_backward(*shapes, **named))
    formula = flop_registry.get(func.overloadpacket)
    return 0.0 if formula is None else float(formula(*args, **kwargs, out_val=out))


def attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """FLOPs of softmax(QKᵀ)V for shapes [batch, heads, tokens, head_dim]."""
    return int(sdpa_flop_count(query, key, value))


def attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """FLOPs of its fused backward pass: scores again, then the gradients of four products."""
    return int(sdpa_backward_flop_count(gradient, query, key, value))


def _convolution_backward(
    gradient: Shape,
    waveform: Shape,
    weight: Shape,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Sequence[bool],
    **_: Any,
) -> int:
    """Each of the two gradients, of the input and of the weights, costs what the forward pass cost."""
    places = math.prod((waveform if transposed else gradient)[2:])
    return 2 * gradient[0] * places * math.prod(weight) * sum(wanted[:2])
