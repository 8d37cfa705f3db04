"""Which of two kernels is faster on this card, where the code has chosen one: what a first contact has to decide.

Attention runs by the kernel that torch picks, in three shapes that we train with. BEATs' gated bias learns, which flash
and cuDNN refuse: the memory-efficient kernel reads gate · bias as a tensor. `flex_attention` computes it inside, and
knows no dropout of attention weights, with which BEATs was published. The front end of wav2vec 2.0 is 1-D
convolutions; the same sums as 2-D convolutions with channels last may be faster.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.nn.attention.flex_attention import flex_attention

from ...models.frontends import ConvFrontEnd
from ...models.mert import MertConfig

SHAPES = {"mert": (374, False), "mert_padded": (374, True), "beats_bias": (124, True)}  # tokens, mask or bias
SEVERAL = 16  # items at once


class Found(Protocol):
    """Where rows go."""

    def add(self, what: str, value: float, unit: str, reference: str | None = None, ratio: float | None = None) -> None:
        """One more row."""


def attention(found: Found, device: torch.device) -> None:
    """Rows `attention_…`: forward and backward in our shapes, the kernel that is picked, the first call in a shape."""
    for name, (count, masked) in SHAPES.items():
        count = count if device.type == "cuda" else 16
        heads = torch.randn(SEVERAL, 12, count, 64, device=device, dtype=torch.bfloat16, requires_grad=True)
        mask: Tensor | None = None
        if name.endswith("bias"):
            mask = torch.zeros(SEVERAL, 12, count, count, device=device, dtype=torch.bfloat16, requires_grad=True)
        elif masked:
            mask = torch.ones(SEVERAL, 1, 1, count, device=device, dtype=torch.bool)

        def both(heads: Tensor = heads, mask: Tensor | None = mask) -> None:
            F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask).sum().backward()

        began = time.perf_counter()
        both()
        wait()
        first = time.perf_counter() - began
        kind = SDPBackend(torch._fused_sdp_choice(heads, heads, heads, mask)).name.lower()
        found.add(f"attention_{name}", 1e3 * seconds(both), f"ms forward and backward by {kind}")
        found.add(f"attention_{name}_first", 1e3 * first, "ms, the first time in this shape")


def gated_attention(query: Tensor, key: Tensor, value: Tensor, gate: Tensor, bias: Tensor) -> Tensor:
    """BEATs' as the model computes it: gate [batch, heads, tokens, 1] · bias [batch or 1, heads, tokens, tokens]."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=(gate * bias).to(query.dtype))


def gated_attention_flex(
    query: Tensor, key: Tensor, value: Tensor, gate: Tensor, bias: Tensor, attend: Callable[..., Any] = flex_attention
) -> Tensor:
    """The same by `flex_attention`, which never writes gate · bias. attend: it, or it compiled."""
    several = len(bias) > 1

    def add(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        own = batch if several else torch.zeros_like(batch)
        return score + gate[batch, head, row, 0] * bias[own, head, row, column]

    found: Tensor = attend(query, key, value, score_mod=add)
    return found


def beats(found: Found, device: torch.device) -> None:
    """Row `beats_attention_flex`: its speed over the memory-efficient kernel's, in a step of BEATs base.

    A CPU has no backward pass of it: there it runs forward alone, uncompiled.
    """
    cuda = device.type == "cuda"
    count, kind = (124, torch.bfloat16) if cuda else (16, torch.float32)
    shape = (SEVERAL if cuda else 1, 12, count)
    heads = [torch.randn(*shape, 64, device=device, dtype=kind, requires_grad=cuda) for _ in range(3)]
    gate = torch.rand(*shape, 1, device=device, dtype=kind, requires_grad=cuda)
    bias = torch.randn(*shape, count, device=device, dtype=kind, requires_grad=cuda)
    attend = torch.compile(flex_attention) if cuda else flex_attention

    def run(how: Callable[..., Tensor], **more: Any) -> None:
        out = how(*heads, gate, bias, **more)
        if cuda:
            out.sum().backward()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it isn't compiled, where it can't be
        flex = seconds(lambda: run(gated_attention_flex, attend=attend), 3)
    ours = seconds(lambda: run(gated_attention))
    found.add("beats_attention_flex", 1e3 * flex, "ms", "the memory-efficient kernel", ours / flex)


def front_end_2d(front: ConvFrontEnd, waveform: Tensor) -> Tensor:
    """`ConvFrontEnd` of a waveform [batch, samples] by 2-D convolutions with channels last: the same sums."""
    signal = waveform[:, None, None].contiguous(memory_format=torch.channels_last)
    for layer in front.conv_layers:
        conv: nn.Conv1d = layer.conv  # type: ignore[assignment]
        weight = conv.weight[:, :, None].contiguous(memory_format=torch.channels_last)
        signal = F.conv2d(signal, weight, stride=(1, conv.stride[0]))
        if layer.layer_norm is not None:
            signal = layer.layer_norm(signal[:, :, 0])[:, :, None]  # type: ignore[operator]
        signal = F.gelu(signal)
    return signal[:, :, 0].transpose(1, 2)


def front_end(found: Found, device: torch.device) -> None:
    """Row `front_end_2d`: the speed of 2-D convolutions with channels last over 1-D ones, forward and backward."""
    cuda = device.type == "cuda"
    config = MertConfig() if cuda else MertConfig(conv_dim=(8,) * 7)
    front = ConvFrontEnd(config.conv_dim, config.conv_kernel, config.conv_stride).to(device)
    waveform = torch.randn(SEVERAL, 120_000, device=device) if cuda else torch.randn(2, 12_000)

    def run(how: Callable[[Tensor], Tensor]) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            out = how(waveform)
        out.float().sum().backward()

    flat = seconds(lambda: run(front), 3)
    last = seconds(lambda: run(lambda sound: front_end_2d(front, sound)), 3)
    found.add("front_end_2d", 1e3 * last, "ms forward and backward", "1-D convolutions", flat / last)


def wait() -> None:
    """Until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], rounds: int = 10) -> float:
    """Of one call, after three to get warm."""
    for _ in range(3):
        work()
    wait()
    began = time.perf_counter()
    for _ in range(rounds):
        work()
    wait()
    return (time.perf_counter() - began) / rounds
