"""The transformer of HuBERT and MERT: positions, attention, feed-forward, under Hugging Face's parameter names.

Two arrangements share one block: post-LN (MERT-95M, `norm_first=False`) and pre-LN (MERT-330M, `norm_first=True`).
Positions come from a convolution before the blocks (wav2vec 2.0) or from rotations inside the attention (RoPE).
This file is published with the models, so it imports torch only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from .layers import gelu

Rotation = tuple[Tensor, Tensor]


def time_mask(valid: Tensor, length: int) -> Tensor:
    """True where a step is valid.

    Args:
        valid: [batch] int64, number of valid steps at the beginning of each item.
        length: number of steps.

    Returns:
        [batch, length] bool.
    """
    return torch.arange(length, device=valid.device)[None] < valid[:, None]


def rotation(
    frames: int, head_dim: int, base: float, device: torch.device, positions: Tensor | None = None
) -> Rotation:
    """Cosines and sines of RoPE's angles: frame t turns pair i by t · base^(-2i / head_dim) radians.

    Computed in float32 when needed rather than kept as a buffer, since bfloat16 can't count beyond 256 frames.
    Source: Su et al. 2021, RoFormer, equation 15.

    positions: [batch, frames] which frames they are, where some are left out; None: the first `frames`.

    Returns:
        Two [frames, head_dim / 2] float32 tensors; with positions, [batch, 1, frames, head_dim / 2].
    """
    pairs = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32)
    speed = torch.exp(pairs * (-math.log(base) / head_dim))
    if positions is not None:
        angle = positions[:, None, :, None].to(torch.float32) * speed
    else:
        angle = torch.arange(frames, device=device, dtype=torch.float32)[:, None] * speed[None]
    return angle.cos(), angle.sin()


def rotate(vectors: Tensor, turn: Rotation) -> Tensor:
    """Turn the pairs (i, i + head_dim / 2) of each vector by its frame's angles.

    Args:
        vectors: [batch, heads, frames, head_dim], queries or keys.
        turn: cosines and sines from `rotation`.
    """
    cosine, sine = (part.to(vectors.dtype) for part in turn)
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention by `scaled_dot_product_attention`, optionally with rotary positions."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def _split(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, hidden: Tensor, attend: Tensor | None = None, turn: Rotation | None = None) -> Tensor:
        """Attend over frames.

        Args:
            hidden: [batch, frames, dim].
            attend: [batch, 1, 1, frames] bool, True for frames that may be looked at; None: all of them.
            turn: rotary positions from `rotation`; None: no positions.
        """
        query, key, value = (self._split(part(hidden)) for part in (self.q_proj, self.k_proj, self.v_proj))
        if turn is not None:
            query, key = rotate(query, turn), rotate(key, turn)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attend, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear, GELU, linear; dropout after each."""

    def __init__(self, dim: int, inner: int, activation_dropout: float, dropout: float) -> None:
        super().__init__()
        self.intermediate_dropout = nn.Dropout(activation_dropout)
        self.intermediate_dense = nn.Linear(dim, inner)
        self.output_dense = nn.Linear(inner, dim)
        self.output_dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.intermediate_dropout(gelu(self.intermediate_dense(hidden)))
        return self.output_dropout(self.output_dense(inner))


class Block(nn.Module):
    """One transformer block, post-LN or pre-LN."""

    def __init__(
        self,
        dim: int,
        heads: int,
        inner: int,
        *,
        norm_first: bool,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = Attention(dim, heads, attention_dropout)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(dim, eps=eps)
        self.feed_forward = FeedForward(dim, inner, activation_dropout, dropout)
        self.final_layer_norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, hidden: Tensor, attend: Tensor | None = None, turn: Rotation | None = None) -> Tensor:
        if self.norm_first:
            hidden = hidden + self.dropout(self.attention(self.layer_norm(hidden), attend, turn))
            return hidden + self.feed_forward(self.final_layer_norm(hidden))
        hidden = self.layer_norm(hidden + self.dropout(self.attention(hidden, attend, turn)))
        return self.final_layer_norm(hidden + self.feed_forward(hidden))


class PositionalConv(nn.Module):
    """Relative positions: a grouped convolution over time, weight norm over its taps, GELU (wav2vec 2.0)."""

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        self.conv = parametrizations.weight_norm(conv, name="weight", dim=2)
        self.surplus = 1 - kernel % 2  # an even kernel with symmetric padding gives one frame too many

    def forward(self, hidden: Tensor) -> Tensor:
        """[batch, frames, dim] to [batch, frames, dim]; beyond the ends it sees zeros."""
        positions = self.conv(hidden.transpose(1, 2))
        return F.gelu(positions[..., : positions.shape[-1] - self.surplus]).transpose(1, 2)


class Transformer(nn.Module):
    """Positions and blocks. The parameter names are those of `transformers.HubertModel().encoder`."""

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        inner: int,
        *,
        norm_first: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        layerdrop: float = 0.0,
        eps: float = 1e-5,
        conv_positions: tuple[int, int] | None = (128, 16),
        rotary_base: float | None = None,
    ) -> None:
        """Build the blocks.

        Args:
            dim: width of the hidden states.
            layers: number of blocks.
            heads: attention heads per block.
            inner: width of the feed-forward layers.
            norm_first: pre-LN with a final layer norm, instead of post-LN with a layer norm before the blocks.
            dropout: of the block's outputs.
            attention_dropout: of the attention weights. On a CPU any value above 0 takes a slow path.
            activation_dropout: between the feed-forward layers.
            layerdrop: probability that a block is skipped in training.
            eps: of the layer norms.
            conv_positions: kernel and groups of the positional convolution; None: no such convolution.
            rotary_base: RoPE's base; None: no rotary positions.
        """
        super().__init__()
        self.norm_first, self.layerdrop, self.rotary_base = norm_first, layerdrop, rotary_base
        self.head_dim = dim // heads
        if conv_positions is not None:
            self.pos_conv_embed: PositionalConv | None = PositionalConv(dim, *conv_positions)
        else:
            self.pos_conv_embed = None
        self.layer_norm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            Block(
                dim,
                heads,
                inner,
                norm_first=norm_first,
                dropout=dropout,
                attention_dropout=attention_dropout,
                activation_dropout=activation_dropout,
                eps=eps,
            )
            for _ in range(layers)
        )
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden: Tensor,
        frame_mask: Tensor | None = None,
        keep_all: bool = True,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Run the blocks.

        Args:
            hidden: [batch, frames, dim].
            frame_mask: [batch, frames] bool, True for valid frames; None: all valid.
            keep_all: return the state after every block, else the last one only.
            positions: [batch, frames] int64, which frames these are, where some are left out (rotary positions only).

        Returns:
            Hidden states [batch, frames, dim]: the input of block 1, then the output of each block. With pre-LN the
            last one has passed the final layer norm, the others haven't, as in Hugging Face's HuBERT.
        """
        attend = None
        if frame_mask is not None:
            hidden = hidden.masked_fill(~frame_mask[..., None], 0.0)
            # an item without a valid frame looks at everything: its output means nothing, but isn't NaN
            attend = (frame_mask | ~frame_mask.any(-1, keepdim=True))[:, None, None]
        hidden = self._enter(hidden)
        turn = None
        if self.rotary_base is not None:
            turn = rotation(hidden.shape[1], self.head_dim, self.rotary_base, hidden.device, positions)
        states = self._run(hidden, attend, turn)
        return states if keep_all else states[-1:]

    def _enter(self, hidden: Tensor) -> Tensor:
        """Add positions; post-LN normalises here, pre-LN after the last block."""
        if self.pos_conv_embed is not None:
            hidden = hidden + self.pos_conv_embed(hidden)
        if not self.norm_first:
            hidden = self.layer_norm(hidden)
        return self.dropout(hidden)

    def _run(self, hidden: Tensor, attend: Tensor | None, turn: Rotation | None) -> tuple[Tensor, ...]:
        states = [hidden]
        kept = self._kept(hidden.device)
        for index, block in enumerate(self.layers):
            if self.gradient_checkpointing and self.training:
                output = checkpoint(block, hidden, attend, turn, use_reentrant=False)
            else:
                output = block(hidden, attend, turn)
            hidden = output if kept is None else torch.where(kept[index], output, hidden)
            states.append(hidden)
        if self.norm_first:
            states[-1] = self.layer_norm(states[-1])
        return tuple(states)

    def _kept(self, device: torch.device) -> Tensor | None:
        """[layers] bool, False for the blocks this step drops; None where nothing is ever dropped.

        A dropped block is computed and not used: it costs `layerdrop` of the time, and in return every parameter has
        a gradient on every rank (DDP), every rank calls the same modules (ZeRO-3) and nothing branches on data
        (`torch.compile`).
        """
        if not self.training or self.layerdrop <= 0.0:
            return None
        return torch.rand(len(self.layers), device=device) >= self.layerdrop
