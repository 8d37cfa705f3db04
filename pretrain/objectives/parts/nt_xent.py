"""Contrast: which other embedding is of the same thing, the network before that question, how spread out they are."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def projector(dim: int, inputs: int, outputs: int, layers: int) -> nn.Sequential:
    """Linear layers without bias, hidden ones of `dim`, ReLU between them."""
    sizes = [inputs, *[dim] * (layers - 1), outputs]
    parts: list[nn.Module] = []
    for source, target in pairwise(sizes):
        parts += [nn.Linear(source, target, bias=False), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float, keys: Tensor | None = None) -> Tensor:
    """Normalised, temperature-scaled cross-entropy (SimCLR), the mean over both directions; it gathers nothing.

    z_a, z_b: [batch, dim] projections of the two views, of any length (cosine similarity is used).
    keys: [batch] int64, which track each pair is from: pairs of the same track are no negatives of each other.
    Returns a scalar; ln(2 · batch − 1) where all embeddings are the same (and keys differ).
    """
    z_a, z_b = F.normalize(z_a.float(), dim=-1), F.normalize(z_b.float(), dim=-1)
    return contrast(z_a, z_b, z_a, z_b, 0, temperature, keys, keys)


def contrast(
    z_a: Tensor,
    z_b: Tensor,
    all_a: Tensor,
    all_b: Tensor,
    first: int,
    temperature: float,
    keys: Tensor | None,
    all_keys: Tensor | None,
) -> Tensor:
    """NT-Xent of this rank's anchors against everyone: the mean of ranks' values is the joint batch's.

    z_a, z_b: [batch, dim] of unit length; all_a, all_b: [ranks · batch, dim], in which this rank's begin at `first`.
    """
    own = torch.arange(first, first + len(z_a), device=z_a.device)
    pairs = len(all_a)
    logits = torch.cat([z_a, z_b]) @ torch.cat([all_a, all_b]).T / temperature
    itself = torch.cat([own, own + pairs])
    positive = torch.cat([own + pairs, own])
    if keys is None or all_keys is None:
        hidden = torch.zeros_like(logits, dtype=torch.bool)
    else:
        hidden = (keys[:, None] == all_keys[None, :]).repeat(2, 2)
        hidden = hidden.scatter(1, positive[:, None], False)
    hidden = hidden.scatter(1, itself[:, None], True)
    return F.cross_entropy(logits.masked_fill(hidden, -math.inf), positive)


def effective_rank(embeddings: Tensor) -> Tensor:
    """How many directions embeddings [batch, dim] use: exp(entropy of the normalised singular values), 1 … min(shape).

    Roy and Vetterli 2007, of the embeddings without their mean: 1 means collapse onto a line. NaN for embeddings that
    aren't finite.
    """
    centred = (embeddings - embeddings.mean(0)).float()
    singular = torch.linalg.svdvals(torch.nan_to_num(centred, 0.0, 0.0, 0.0))
    share = singular / singular.sum().clamp(min=1e-12)
    rank = torch.exp(-(share * share.clamp(min=1e-12).log()).sum())
    return torch.where(centred.isfinite().all(), rank, torch.nan)


@torch.no_grad()
def first_place(z_a: Tensor, z_b: Tensor, all_a: Tensor, all_b: Tensor, first: int) -> Tensor:
    """Share of anchors whose other view is the nearest of all that aren't themselves; arguments as of `contrast`."""
    own = torch.arange(first, first + len(z_a), device=z_a.device)
    pairs = len(all_a)
    likeness = torch.cat([z_a, z_b]) @ torch.cat([all_a, all_b]).T
    likeness = likeness.scatter(1, torch.cat([own, own + pairs])[:, None], -math.inf)
    return (likeness.argmax(1) == torch.cat([own + pairs, own])).float().mean()
