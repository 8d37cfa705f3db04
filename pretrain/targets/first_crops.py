"""What is measured before training: the first crops of a run, their mel frames, and k-means on what they say."""

from __future__ import annotations

import torch
from torch import Tensor

from ...data.batch import Batch
from ...data.crops import CropConfig, Crops
from ...data.loader import loader
from ...data.track import Manifest
from ...models.quantizers import StackedMel
from ...models.transformer import time_mask


def first_crops(manifest: Manifest, sample_rate: int, count: int, seed: int) -> Batch:
    """Read five-second crops to measure on: the first batch of a run of that seed."""
    crops = Crops(manifest, CropConfig(sample_rate=sample_rate, crop_samples=5 * sample_rate), seed)
    return next(loader(crops, count, workers=0))


def valid_mel(features: StackedMel, batch: Batch) -> Tensor:
    """Mel frames [n, mels] in dB of a batch's valid samples."""
    waveform, valid = batch.by_view()
    mel: Tensor = features.decibels(waveform)
    hop = features.hop // features.stack
    return mel[time_mask(valid // hop, mel.shape[1])]


def k_means(points: Tensor, count: int, generator: torch.Generator, rounds: int = 8) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm on points [n, dim]: centres [count, dim] and each point's centre int64 [n].

    Centres start on random points (with repetition where there are fewer points than centres); one that loses all its
    points moves onto a random point.
    """
    start = torch.randperm(len(points), generator=generator)
    centres = points[start[torch.arange(count) % len(points)]].clone()
    for _ in range(rounds):
        nearest = (centres.square().sum(1) - 2 * points @ centres.T).argmin(1)
        uses = torch.bincount(nearest, minlength=count).to(points.dtype)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        fresh = points[torch.randint(len(points), (count,), generator=generator)]
        centres = torch.where((uses > 0)[:, None], sums / uses.clamp(min=1)[:, None], fresh)
    return centres, (centres.square().sum(1) - 2 * points @ centres.T).argmin(1)
