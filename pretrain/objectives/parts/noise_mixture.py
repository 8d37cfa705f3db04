"""In-batch noise mixture (MERT): other items' sound is added to an item's input; its targets stay clean.

Published parameters: half of the items, one to three segments each, every segment's length uniform (12,000 to 24,000
samples at 24 kHz for 95M, to 36,000 for 330M), cut at a random place of the concatenation of the other items (it may
straddle two), added at a random place with gain 1 and no clipping. The released code loops over items; here everything
is one gather and one add on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....data.draws import sent, uniform


@dataclass(frozen=True)
class NoiseMixture:
    """Settings of the in-batch noise mixture."""

    probability: float = 0.5
    """Chance that an item is mixed; 0 turns the mixture off."""
    segments: tuple[int, int] = (1, 3)
    """Fewest and most segments per mixed item, inclusive."""
    lengths: tuple[int, int] = (12_000, 24_000)
    """Shortest and longest segment in samples, inclusive."""
    gain: float = 1.0

    def __post_init__(self) -> None:
        for name, (low, high) in (("segments", self.segments), ("lengths", self.lengths)):
            if not 1 <= low <= high:
                raise ValueError(f"mixture.{name} is ({low}, {high}): the first has to be at least 1 and no larger.")


@dataclass(frozen=True)
class Segments:
    """Where sound is taken from and put to; all int64 [batch, segments]. A length of 0 means no segment."""

    source: Tensor
    """First sample in the concatenation of the other items' valid parts."""
    target: Tensor
    """First sample in the item."""
    length: Tensor


def draw_segments(seeds: Tensor, valid: Tensor, settings: NoiseMixture) -> Segments:
    """Draw each item's segments from its own seed; seeds, valid (samples): int64 [batch]."""
    most = settings.segments[1]
    u = uniform(seeds, 2 + 3 * most)
    low, high = settings.segments
    count = low + (u[:, 1] * (high - low + 1)).long()
    shortest, longest = settings.lengths
    length = shortest + (u[:, 2 : 2 + most] * (longest - shortest + 1)).long()
    others = valid.sum() - valid
    length = torch.minimum(length, torch.minimum(valid, others)[:, None])
    used = (u[:, :1] < settings.probability) & (torch.arange(most, device=seeds.device) < count[:, None])
    length = torch.where(used, length, 0)
    source = (u[:, 2 + most : 2 + 2 * most] * (others[:, None] - length + 1)).long()
    target = (u[:, 2 + 2 * most :] * (valid[:, None] - length + 1)).long()
    return Segments(source, target, length)


def add_segments(
    waveform: Tensor, seeds: Tensor, valid: Tensor | None = None, settings: NoiseMixture | None = None
) -> Tensor:
    """Return the mixed waveform [batch, samples]; the input stays untouched.

    waveform: [batch, samples] in [-1, 1] (the result may exceed it, as published); seeds: int64 [batch]; valid: int64
    [batch] samples that are sound (None: all). Sound is taken from and put into valid parts only. One item alone has
    nobody to borrow from and stays clean. With seeds and valid on the CPU nothing waits for the waveform's device.
    """
    settings = settings or NoiseMixture()
    batch, samples = waveform.shape
    if batch < 2 or settings.probability <= 0:
        return waveform
    seeds = seeds.cpu()
    valid = torch.full((batch,), samples, dtype=torch.int64) if valid is None else valid.cpu()
    drawn = draw_segments(seeds, valid, settings)
    found = drawn.length.nonzero(as_tuple=True)  # the segments that there are
    ends = valid.cumsum(0)
    begins = ends - valid
    parts = [found[0], drawn.length[found], drawn.source[found], drawn.target[found]]
    table = sent(torch.stack([*parts, begins[found[0]], valid[found[0]]])[..., None], waveform.device)
    item, length, source, target, begin, own = table.unbind(0)
    ends, begins = sent(torch.stack([ends, begins]), waveform.device).unbind(0)
    offset = torch.arange(min(settings.lengths[1], samples), device=waveform.device)
    inside = offset < length
    place = source + offset
    place = place + torch.where(place >= begin, own, 0)  # skip the item itself
    owner = torch.searchsorted(ends, place, right=True).clamp(max=batch - 1)
    flat = place - begins[owner] + owner * samples  # from the packed place to the padded one
    sound = torch.where(inside, waveform.reshape(-1)[flat.clamp(max=batch * samples - 1)], 0.0)
    to = item * samples + (target + offset).clamp(max=samples - 1)
    added = torch.zeros_like(waveform).flatten().scatter_add_(0, to.flatten(), sound.flatten())
    return waveform + settings.gain * added.view_as(waveform)
