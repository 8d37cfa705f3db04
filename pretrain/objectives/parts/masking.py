"""Which frames does the model not hear? Span masks drawn from per-item seeds, vectorised and aware of padding.

Every draw is a pure function of an item's seed (`draws.draw_seeds`: run seed, global index), never of the batch it
is in or of the global generator: results don't depend on the number of ranks. The one exception is fairseq's thinning,
which is defined over a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ....data.draws import normal, uniform


@dataclass(frozen=True)
class Masking:
    """How much of a clip is hidden, and how."""

    kind: Literal["spans", "fairseq", "cells"] = "spans"
    """spans: exact coverage, no overlap; fairseq: MERT's published semantics; cells: MusicFM's and OMAR-RQ's grid."""
    coverage: float = 0.6
    """spans: share of the valid frames that is masked; fairseq: mask_prob (0.8 masks 58 %); cells: chance of a cell."""
    span: int = 5
    """Frames per span (or cell)."""
    fill: Literal["embedding", "noise"] = "embedding"
    """What replaces masked frames: the model's learned mask embedding, or noise N(0, 0.1) in the waveform."""

    def __post_init__(self) -> None:
        if not 0 < self.coverage < 1:
            raise ValueError(f"mask coverage is {self.coverage}, but has to lie between 0 and 1: 0.6 is usual.")
        if self.span < 1:
            raise ValueError(f"mask span is {self.span} frames, but has to be at least 1: 5 is usual.")

    def draw(self, valid: Tensor, frames: int, seeds: Tensor) -> Tensor:
        """Draw a mask: valid int64 [batch] (frames that are sound), seeds int64 [batch] → bool [batch, frames].

        A padded clip whose valid part is shorter than a
        span stays unmasked.

        Raises:
            ValueError: the clips are shorter than one span.
        """
        if frames < self.span:
            raise ValueError(
                f"A crop has {frames} frames, fewer than one mask span of {self.span}: "
                "use longer crops (crops.crop_samples) or a shorter span (masking.span)."
            )
        drawers = {"spans": span_mask, "fairseq": fairseq_mask, "cells": cell_mask}
        return drawers[self.kind](valid, frames, seeds, self.coverage, self.span)


def _ranks(keys: Tensor) -> Tensor:
    """Rank of each entry in its row, 0 for the smallest."""
    return keys.argsort(dim=1, stable=True).argsort(dim=1, stable=True)


def _spans_from_starts(starts: Tensor, span: int) -> Tensor:
    """Turn bool start flags [batch, frames] into the frames that their spans cover."""
    count = starts.long().cumsum(dim=1)
    before = torch.nn.functional.pad(count, (span, 0))[:, : count.shape[1]]
    return count > before


def span_mask(valid: Tensor, frames: int, seeds: Tensor, coverage: float, span: int) -> Tensor:
    """Mask round(coverage × valid / span) spans that don't overlap (they may touch), every arrangement equally likely.

    The masked count is the same for all clips of one length: spans × span frames, within span/2 frames of the coverage.
    """
    valid = valid.clamp(max=frames)
    spans = torch.minimum((coverage * valid / span).round().long().clamp(min=1), valid // span)
    slots = valid - spans * (span - 1)  # free frames and spans in one row: choose which slots are spans
    position = torch.arange(frames, device=valid.device)
    keys = torch.where(position < slots[:, None], uniform(seeds, frames), 2.0)
    chosen = _ranks(keys) < spans[:, None]
    target = position + (span - 1) * (chosen.long().cumsum(dim=1) - 1)  # each earlier span pushes by span − 1
    starts = torch.zeros(len(valid), frames + 1, dtype=torch.bool, device=valid.device)
    starts.scatter_(1, torch.where(chosen, target, frames), chosen)
    return _spans_from_starts(starts[:, :frames], span)


def fairseq_mask(valid: Tensor, frames: int, seeds: Tensor, coverage: float, span: int) -> Tensor:
    """Mask as fairseq's `compute_mask_indices` with overlap and `require_same_masks`, MERT's setting (0.8, length 5).

    int(coverage × valid / span + U) distinct starts in [0, valid − span), so spans overlap and the last frame is never
    masked. Measured with 0.8 and 5 at 374 frames: 58.3 % of the frames (58.7 % away from the ends), not 80 %; after
    thinning every row to the batch's smallest count by unmasking random single frames, 54.0 % in batches of 16. U is
    drawn per row, as there.
    """
    valid = valid.clamp(max=frames)
    u = uniform(seeds, 2 * frames + 1)
    spans = (coverage * valid / span + u[:, 0]).long().clamp(min=2)
    shortened = torch.where(valid - span <= spans, valid - spans - 1, span).clamp(min=1)
    starts_below = (valid - shortened).clamp(min=0)
    position = torch.arange(frames, device=valid.device)
    keys = torch.where(position < starts_below[:, None], u[:, 1 : frames + 1], 2.0)
    starts = (_ranks(keys) < torch.minimum(spans, starts_below)[:, None]) & (valid >= span)[:, None]
    mask = _spans_from_starts(starts, span) & (position < valid[:, None])
    count = mask.sum(dim=1)
    smallest = torch.where(count > 0, count, frames).min()
    return _ranks(torch.where(mask, u[:, frames + 1 :], 2.0)) < torch.minimum(count, smallest)[:, None]


def cell_mask(valid: Tensor, frames: int, seeds: Tensor, coverage: float, span: int) -> Tensor:
    """Mask each cell of `span` frames on a fixed grid with probability `coverage` (MusicFM: 400 ms, 0.6).

    A draw that leaves no cell masks the first one, so that no clip is wasted.
    """
    cells = math.ceil(frames / span)
    chosen = uniform(seeds, cells) < coverage
    chosen &= torch.arange(cells, device=valid.device) * span < valid[:, None]
    chosen[:, 0] |= ~chosen.any(dim=1)
    mask = chosen.repeat_interleave(span, dim=1)[:, :frames]
    inside = torch.arange(frames, device=valid.device) < valid[:, None]
    return mask & inside & (valid >= span)[:, None]


def true_places(mask: Tensor) -> Tensor:
    """Where bool [batch, frames] is True, int64 [n] in frames counted through the batch; waits unless on the CPU."""
    return mask.flatten().nonzero()[:, 0]


def taken(states: Tensor, found: Tensor) -> Tensor:
    """What stands in states [batch, frames, …] at the `true_places` found [n]: [n, …], by a gather of known size."""
    return states.flatten(0, 1).index_select(0, found)


def noise_fill(waveform: Tensor, mask: Tensor, hop: int, seeds: Tensor, scale: float = 0.1) -> Tensor:
    """Replace the samples under masked frames by noise N(0, scale) (MusicFM, BEST-RQ).

    waveform: [batch, samples] in [-1, 1]; mask: bool [batch, frames]; hop: samples per frame. Frame k covers samples
    [k × hop, (k+1) × hop); what lies after the last frame follows the last frame's fate.
    """
    samples = waveform.shape[1]
    frame = (torch.arange(samples, device=waveform.device) // hop).clamp(max=mask.shape[1] - 1)
    return torch.where(mask[:, frame], normal(seeds, samples).to(waveform.dtype) * scale, waveform)
