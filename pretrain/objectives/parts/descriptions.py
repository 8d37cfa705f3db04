"""What signal processing says of frames beyond their spectrum: cepstra, harmony, pitch, modulation, texture, metre.

All of it is computed from the two pictures of a `CqtModel` and is a non-linear function of them, mostly of seconds of
sound: what no linear map of a frame can tell, so a network has to learn it.

Sources: key profiles of Krumhansl and Kessler 1982; triads as templates, Fujishima 1999; harmonic sums, Hermes 1988;
spectral contrast, Jiang et al. 2002; modulation spectra, Greenberg and Kingsbury 1997; combs on the onset strength,
Scheirer 1998.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ....data.labels.kinds.key import MAJOR, MINOR
from ....models.cqt import CqtConfig

KEY_SECONDS, CHORD_SECONDS, TONE_SECONDS = 2.0, 0.25, 1.5  # to either side of a frame
HARMONICS = 6
FADING = 0.8  # what a harmonic weighs, over the one below it
SHARP = 10.0  # of a softmax over correlations and saliences, which lie within ±1
CEPSTRA = 20
FLOOR = 1e-3  # of the log-mel's cepstra, relative to the clip's loudest place
MODULATIONS = (2.0, 4.0, 6.0, 8.5)  # Hz
MODULATION_SECONDS = 0.5  # to either side
BANDS = 9  # whose levels are looked at for modulation
PERIODS = (0.3, 1.2)  # seconds between beats
COMBS = {1: 3, 2: 2, 3: 1, 4: 1}  # periods from tooth to tooth: teeth to either side
STRONGEST = 4  # rows of an octave that are its peaks, and as many its valleys


@dataclass(frozen=True)
class Pictures:
    """What is described. rows: [batch, frames, rows] of the log-CQT; mel: [batch, 2 · frames, bins]; inside: bool
    [batch, frames], True for frames of sound.
    """

    rows: Tensor
    mel: Tensor
    inside: Tensor
    shape: CqtConfig

    @property
    def frame_rate(self) -> float:
        """Hz."""
        return self.shape.frame_rate

    def around(self, values: Tensor, seconds: float) -> Tensor:
        """[batch, frames, …] averaged over frames of sound up to `seconds` to either side."""
        reach = max(1, round(seconds * self.frame_rate))
        return _averaged(values, self.inside, reach)

    @cached_property
    def peaks(self) -> Tensor:
        """[batch, frames, rows] how far a row stands out of half an octave around it."""
        around = F.avg_pool1d(
            self.rows, self.shape.bins_per_octave + 1, 1, self.shape.bins_per_octave // 2, count_include_pad=False
        )
        return F.relu(self.rows - around)

    @cached_property
    def salience(self) -> Tensor:
        """[batch, frames, semitones] how well each semitone explains the peaks as its harmonics, 1 for the best."""
        octave, rows = self.shape.bins_per_octave, self.peaks.shape[2]
        total = torch.zeros_like(self.peaks)
        for number in range(1, HARMONICS + 1):
            up = round(octave * math.log2(number))
            total[..., : rows - up] += FADING ** (number - 1) * self.peaks[..., up:]
        semitones = total.unflatten(2, (-1, octave // 12)).amax(3)
        return semitones / semitones.amax(2, keepdim=True).clamp(min=1e-3)

    @cached_property
    def classes(self) -> Tensor:
        """[batch, frames, 12] semitones' peaks folded into one octave, overtones held down by what explains them.

        The first class is that of the lowest row.
        """
        octave = self.shape.bins_per_octave
        semitones = self.peaks.unflatten(2, (-1, octave // 12)).amax(3) * self.salience.square()
        return semitones[..., : semitones.shape[2] // 12 * 12].unflatten(2, (-1, 12)).mean(2)

    @cached_property
    def rises(self) -> Tensor:
        """[batch, 2 · frames, bins] rises of the log-mel."""
        return F.pad(F.relu(self.mel[:, 1:] - self.mel[:, :-1]), (0, 0, 1, 0))


def _averaged(values: Tensor, inside: Tensor, reach: int) -> Tensor:
    """[batch, n, …] averaged over `reach` places to either side, of those `inside` [batch, n] alone."""
    known = inside.to(values.dtype)[:, None]
    flat = values.flatten(2).transpose(1, 2) * known
    found = _summed(flat, reach) / _summed(known, reach).clamp(min=1)
    return found.transpose(1, 2).unflatten(2, values.shape[2:])


def _summed(values: Tensor, reach: int) -> Tensor:
    """[…, n] summed over `reach` places to either side, as differences of one running sum."""
    running = F.pad(values, (reach + 1, reach)).cumsum(-1)
    return running[..., 2 * reach + 1 :] - running[..., : values.shape[-1]]


def cepstra(seen: Pictures) -> Tensor:
    """[batch, frames, 3 · CEPSTRA]: of a frame, their mean around it, the log of their deviation there."""
    loud = torch.expm1(seen.mel)
    level = torch.log(loud / loud.amax((1, 2), keepdim=True).clamp(min=1e-6) + FLOOR).unflatten(1, (-1, 2)).mean(2)
    bins = level.shape[2]
    steps = torch.arange(bins, device=level.device) + 0.5
    orders = torch.arange(1, CEPSTRA + 1, device=level.device)
    now = level @ (torch.cos(math.pi / bins * steps[:, None] * orders) * math.sqrt(2 / bins))
    mean = seen.around(now, TONE_SECONDS)
    spread = seen.around((now - mean).square(), TONE_SECONDS)
    return torch.cat([now, mean, 0.5 * torch.log(spread + 1e-2)], 2)


def harmony(seen: Pictures) -> Tensor:
    """[batch, frames, 60]: pitch classes of seconds, and which of 24 keys and 24 triads they are most like."""
    long, short = seen.around(seen.classes, KEY_SECONDS), seen.around(seen.classes, CHORD_SECONDS)
    triads = [[float(step in chord) for step in range(12)] for chord in ((0, 4, 7), (0, 3, 7))]
    keys, chords = _likest(long, (MAJOR, MINOR)), _likest(short, triads)
    return torch.cat([_unit(long), keys, chords], 2)


def _unit(classes: Tensor) -> Tensor:
    """[…, 12] without their mean, of length 1."""
    centred = classes - classes.mean(-1, keepdim=True)
    return centred / centred.norm(dim=-1, keepdim=True).clamp(min=1e-3)


def _likest(classes: Tensor, templates: Sequence[Sequence[float]]) -> Tensor:
    """[…, 12] pitch classes to the softmax over 12 · templates of their correlations with each at every place."""
    table = torch.tensor(templates, device=classes.device, dtype=classes.dtype)
    turned = torch.cat([row.roll(step)[None] for row in table for step in range(12)])
    return torch.softmax(SHARP * _unit(classes) @ _unit(turned).T, -1)


def pitch(seen: Pictures) -> Tensor:
    """[batch, frames, semitones] near 1 for the semitones that explain most, near 0 for others."""
    return torch.exp(SHARP * (seen.salience - 1))


def modulation(seen: Pictures) -> Tensor:
    """[batch, frames, (BANDS + 2) · MODULATIONS] log of how strongly levels of bands, the level and the pitch swing."""
    bands = torch.stack([band.mean(2) for band in seen.mel.tensor_split(BANDS, 2)], 2)
    levels = torch.cat([bands, seen.mel.mean(2, keepdim=True)], 2)
    share = torch.softmax(2 * SHARP * seen.salience, 2)
    octaves = torch.arange(share.shape[2], device=share.device) / 12.0
    height = (share * octaves).sum(2, keepdim=True)
    swings = [_swing(levels, 2 * seen.frame_rate)[:, ::2], _swing(height, seen.frame_rate)]
    return torch.log(torch.cat([part.flatten(2) for part in swings], 2) + 1e-2)


def _swing(curves: Tensor, rate: float) -> Tensor:
    """[batch, n, curves] at `rate` Hz to the strength [batch, n, curves, MODULATIONS] of what swings at these rates."""
    reach = round(MODULATION_SECONDS * rate)
    steps = torch.arange(-reach, reach + 1, device=curves.device) / rate
    window = 0.5 + 0.5 * torch.cos(math.pi * steps / (MODULATION_SECONDS + 1 / rate))
    angles = 2 * math.pi * steps * torch.tensor(MODULATIONS, device=curves.device)[:, None]
    waves = torch.cat([angles.cos(), angles.sin()])
    waves = (waves - (waves * window).sum(1, keepdim=True) / window.sum()) * window / window.sum()
    padded = F.pad(curves.transpose(1, 2), (reach, reach), mode="replicate")
    found = padded.unfold(2, 2 * reach + 1, 1) @ waves.T
    return found.unflatten(3, (2, -1)).norm(dim=3).transpose(1, 2)


def texture(seen: Pictures) -> Tensor:
    """[batch, frames, 2 · octaves + 6]: how far peaks stand above valleys in each octave; how steady each is in time
    against how smooth over its rows; centroid, spread, flatness of three bands, flux of the mel spectrum.
    """
    octave = seen.shape.bins_per_octave
    rows = seen.rows[..., : seen.rows.shape[2] // octave * octave].unflatten(2, (-1, octave))
    ordered = rows.sort(3).values
    contrast = ordered[..., -STRONGEST:].mean(3) - ordered[..., :STRONGEST].mean(3)
    in_time = (seen.rows - seen.around(seen.rows, 0.2)).abs()
    in_rows = (seen.rows - F.avg_pool1d(seen.rows, octave // 2 + 1, 1, octave // 4, count_include_pad=False)).abs()
    steady = [
        torch.log(part[..., : rows.shape[2] * octave].unflatten(2, (-1, octave)).mean(3) + 1e-2)
        for part in (in_rows, in_time)
    ]
    loud = torch.expm1(seen.mel).unflatten(1, (-1, 2)).mean(2) + 1e-4
    places = torch.linspace(0, 1, loud.shape[2], device=loud.device)
    share = loud / loud.sum(2, keepdim=True)
    centroid = (share * places).sum(2, keepdim=True)
    spread = (share * (places - centroid).square()).sum(2, keepdim=True).sqrt()
    flat = [torch.log(part).mean(2) - torch.log(part.mean(2)) for part in loud.tensor_split(3, 2)]
    flux = torch.log(seen.rises.unflatten(1, (-1, 2)).mean((2, 3)) + 1e-2)
    return torch.cat([contrast, steady[0] - steady[1], centroid, spread, torch.stack([*flat, flux], 2)], 2)


def metre(seen: Pictures) -> Tensor:
    """[batch, frames, 2 · 4 · COMBS] where a beat lies: combs on low, high and all onsets and on changes of harmony.

    How far apart the teeth stand is weighed by how alike the onsets around are to themselves that much later; each comb
    is over its mean around. Two columns for each frame.
    """
    rate = 2 * seen.frame_rate
    twice = seen.inside.repeat_interleave(2, 1)
    strengths = _strengths(seen)
    lags = list(range(round(PERIODS[0] * rate), round(PERIODS[1] * rate) + 1))
    alike = _alike(strengths[..., 0], lags, round(2 * rate))
    near = torch.tensor([-abs(math.log2(lag / rate / 0.5)) for lag in lags], device=alike.device)
    weight = torch.softmax(SHARP * alike + 2 * near[:, None], 1)
    found = []
    for factor, teeth in COMBS.items():
        combed = torch.einsum("bln,bsln->bns", weight, _comb(strengths, [factor * lag for lag in lags], teeth))
        found.append(combed / (_averaged(combed, twice, round(rate)) + 1e-2))
    return torch.cat(found, 2).unflatten(1, (-1, 2)).flatten(2)


def _strengths(seen: Pictures) -> Tensor:
    """[batch, 2 · frames, 4]: onsets of all, low, high bands and change of harmony, each over its clip's mean."""
    bands = seen.rises.shape[2]
    before = _averaged(F.pad(seen.classes, (0, 0, 8, 0))[:, : seen.classes.shape[1]], seen.inside, 7)
    after = _averaged(F.pad(seen.classes, (0, 0, 0, 8))[:, 8:], seen.inside, 7)
    novelty = (_unit(after) - _unit(before)).square().sum(2).repeat_interleave(2, 1)
    rises = seen.rises
    curves = torch.stack(
        [rises.mean(2), rises[..., : bands // 4].mean(2), rises[..., -bands // 3 :].mean(2), novelty], 2
    )
    inside = seen.inside.repeat_interleave(2, 1)[..., None]
    mean = (curves * inside).sum(1, keepdim=True) / inside.sum(1, keepdim=True).clamp(min=1)
    return curves * inside / (mean + 1e-3)


def _alike(curve: Tensor, lags: Sequence[int], reach: int) -> Tensor:
    """[batch, n] around a place against itself so much later, over its energy there: [batch, lags, n]."""
    centred = curve - curve.mean(1, keepdim=True)
    later = F.pad(centred, (0, max(lags)))
    products = torch.stack([later[:, lag : lag + curve.shape[1]] * centred for lag in (0, *lags)], 1)
    local = _summed(products, reach)
    return local[:, 1:] / local[:, :1].clamp(min=1e-4)


def _comb(curves: Tensor, distances: Sequence[int], teeth: int) -> Tensor:
    """[batch, n, curves] summed over a place and `teeth` to either side of it: [batch, curves, distances, n]."""
    room, far = teeth * max(distances), torch.tensor(distances, device=curves.device)
    windows = F.pad(curves.transpose(1, 2), (room, room)).unfold(2, curves.shape[1], 1)
    total = windows[:, :, room : room + 1].expand(-1, -1, len(distances), -1).clone()
    for tooth in range(1, teeth + 1):
        total += windows[:, :, room + tooth * far] + windows[:, :, room - tooth * far]
    return total


DESCRIPTIONS: dict[str, Callable[[Pictures], Tensor]] = {
    "cepstra": cepstra, "harmony": harmony, "pitch": pitch,
    "modulation": modulation, "texture": texture, "metre": metre,
}  # fmt: skip


def size_of(name: str, shape: CqtConfig) -> int:
    """Numbers per frame of a description."""
    octaves = shape.seen_bins // shape.bins_per_octave
    return {
        "cepstra": 3 * CEPSTRA, "harmony": 60, "pitch": 12 * shape.seen_bins // shape.bins_per_octave,
        "modulation": (BANDS + 2) * len(MODULATIONS), "texture": 2 * octaves + 6, "metre": 8 * len(COMBS),
    }[name]  # fmt: skip
