"""Constant-Q magnitudes as nnAudio defines them (MERT's musical teacher), evaluated in the frequency domain.

nnAudio's CQT1992v2 convolves with kernels of up to 65,536 taps. Here one real FFT of the whole clip serves all bins: a
bin's kernel occupies a narrow band of the spectrum, known in closed form (a Hann window's transform is three Dirichlet
kernels), and sampling its output once per hop is folding that band to as many points as there are frames, followed by a
short inverse FFT. Equal to nnAudio to 1e-4 of a clip's largest magnitude (tested), at any hop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange, reduce
from nnAudio.features.cqt import CQT1992v2
from torch import Tensor, nn
from torch.nn import functional

from ...data.draws import sent
from .target import FrameGrid, Head, Metrics, Target

_REACH = 16.0
"""Half the band kept around a bin, in units of sample_rate / kernel length (the main lobe's half width is 2).

Sidelobes beyond it are left out: at most 1e-4 of a clip's largest magnitude for music and noise, 5e-4 for a click. 24
would halve that for twice the time.
"""
_GROUP = 12
"""Bins that share one band width."""
LOG_SCALE = 100.0
"""The `log` variant is log(1 + 100 × magnitude)."""


@dataclass(frozen=True)
class CQTSettings:
    """The CQT target of a recipe."""

    weight: float = 1.0
    """Weight of the mean square error; 0 turns the target off."""
    bins: int = 336
    bins_per_octave: int = 48
    lowest: float = 32.7
    """Hz of the first bin (C1)."""
    scale: Literal["magnitude", "log", "standard"] = "magnitude"
    """magnitude: raw, as published; log: log(1 + 100 m); standard: that, standardised per clip (never inert)."""
    backend: Literal["own", "nnaudio"] = "own"
    """What computes it: the transform below, or nnAudio's convolutions; equal to 1e-4 of a clip's largest magnitude."""
    chroma: float = 0.0
    """Weight of the same magnitudes folded into one octave (pitch class), beside the CQT's own 1; 0 as published."""

    def __post_init__(self) -> None:
        """Only whole octaves fold."""
        if self.chroma < 0 or (self.chroma and self.bins % self.bins_per_octave):
            raise ValueError(
                f"cqt.chroma is {self.chroma} with {self.bins} bins of {self.bins_per_octave} per octave; it needs a "
                "weight of at least 0 and whole octaves."
            )

    def build(self, grid: FrameGrid, dim: int) -> CQTTarget:
        """Build the target for an encoder's frame grid and width."""
        return CQTTarget(self, grid, dim)


@dataclass(frozen=True)
class _Group:
    """Bins that share one band width: where their bands start in the spectrum, and what they are multiplied with."""

    index: Tensor
    kernel: Tensor
    mirrored: Tensor | None
    """Where a band reaches below 0 or above half the rate: there the real signal's spectrum is the conjugate."""


class CQT(nn.Module):
    """Constant-Q magnitudes: Hann kernels with unit L1 norm times the root of their length, centred, zero padding.

    Args:
        sample_rate: Hz.
        hop: samples per frame; frame k is centred on sample k × hop.
        bins, bins_per_octave, lowest: as in nnAudio (n_bins, bins_per_octave, fmin in Hz).

    Raises:
        ValueError: the top bin lies above half the sample rate.

    """

    def __init__(
        self, sample_rate: int, hop: int, bins: int = 336, bins_per_octave: int = 48, lowest: float = 32.7
    ) -> None:
        super().__init__()
        self.sample_rate, self.hop, self.bins, self.bins_per_octave = sample_rate, hop, bins, bins_per_octave
        quality = 1 / (2 ** (1 / bins_per_octave) - 1)
        self.frequencies = lowest * 2 ** (torch.arange(bins, dtype=torch.float64, device="cpu") / bins_per_octave)
        top = float(self.frequencies[-1])
        if top > sample_rate / 2:
            raise ValueError(
                f"The CQT's top bin is {top:.0f} Hz, above half the sample rate of {sample_rate} Hz: use fewer bins "
                "or a higher rate."
            )
        self.lengths = torch.ceil(quality * sample_rate / self.frequencies)
        self._groups: dict[tuple[int, torch.device], list[_Group]] = {}

    def forward(self, waveform: Tensor) -> Tensor:
        """Transform waveform [batch, samples] into magnitudes [batch, 1 + samples // hop, bins], float32."""
        samples = waveform.shape[1]
        frames = 1 + samples // self.hop
        longest = int(self.lengths.max())
        points = _fast_size(math.ceil((samples + longest // 2 + 1) / self.hop), self.hop)
        size = points * self.hop
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = torch.fft.rfft(waveform.float(), n=size)
            groups = self._plan(size, points, waveform.device)
            magnitude = torch.cat([_fold(spectrum, group, points)[:, :, :frames] for group in groups], 1)
            return rearrange(magnitude, "batch bins frames -> batch frames bins")

    def _plan(self, size: int, points: int, device: torch.device) -> list[_Group]:
        """Bands and kernels for a spectrum of `size` points; kept, since crops have one length."""
        key = (size, device)
        if key not in self._groups:
            bins = torch.arange(self.bins, device="cpu").split(_GROUP)
            self._groups[key] = [self._make_group(members, size, points, device) for members in bins]
        return self._groups[key]

    def _make_group(self, members: Tensor, size: int, points: int, device: torch.device) -> _Group:
        lengths, frequency = self.lengths[members], self.frequencies[members] / self.sample_rate  # cycles per sample
        half = math.ceil(_REACH * size / float(lengths.min()))
        width = 2 * half + 1
        if width > points:  # whole multiples of the output's points fold by a reshape
            width = min(points * math.ceil(width / points), size)
        first = (frequency * size).round().long() - width // 2
        index = first[:, None] + torch.arange(width, device="cpu")
        offset = index / size - frequency[:, None]  # cycles per sample away from the bin's centre
        kernel = _hann_spectrum(lengths[:, None], offset)
        # the kernel begins this many samples before its frame's centre; nnAudio shifts odd lengths by one
        begin = torch.ceil(-lengths / 2) - (lengths % 2)
        kernel = kernel * torch.exp(2j * math.pi * index / size * begin[:, None])
        kernel = kernel * (lengths.sqrt() / (lengths / 2) / size)[:, None]  # L1 norm of a Hann window: length / 2
        index = index % size
        mirrored = index > size // 2
        index = torch.where(mirrored, size - index, index)
        folded = sent(mirrored, device) if mirrored.any() else None
        return _Group(sent(index, device), sent(kernel.to(torch.complex64), device), folded)


class NnAudioCQT(nn.Module):
    """`CQT` by nnAudio's CQT1992v2, whose kernels (up to 65,536 taps) are kept out of parameters and state."""

    def __init__(
        self, sample_rate: int, hop: int, bins: int = 336, bins_per_octave: int = 48, lowest: float = 32.7
    ) -> None:
        super().__init__()
        layer = CQT1992v2(
            sr=sample_rate, hop_length=hop, fmin=lowest, n_bins=bins, bins_per_octave=bins_per_octave, norm=1,
            window="hann", center=True, pad_mode="constant", verbose=False,
        )  # fmt: skip
        self._layer = (layer,)

    def forward(self, waveform: Tensor) -> Tensor:
        """See `CQT`."""
        with torch.autocast(waveform.device.type, enabled=False):
            magnitude: Tensor = self._layer[0].to(waveform.device)(waveform.float())
            return rearrange(magnitude, "batch bins frames -> batch frames bins")


def _hann_spectrum(length: Tensor, offset: Tensor) -> Tensor:
    """Sum of hann(n) · exp(2πi n · offset) over n in [0, length): three Dirichlet kernels, float64."""

    def dirichlet(nu: Tensor) -> Tensor:
        sine = torch.sin(math.pi * nu)
        ratio = torch.where(sine.abs() < 1e-12, length, torch.sin(math.pi * length * nu) / sine)
        return torch.polar(ratio.abs(), torch.where(ratio < 0, math.pi, 0.0) + math.pi * (length - 1) * nu)

    step = 1 / length
    return 0.5 * dirichlet(offset) - 0.25 * dirichlet(offset + step) - 0.25 * dirichlet(offset - step)


def _fold(spectrum: Tensor, group: _Group, points: int) -> Tensor:
    """Multiply the bands, fold them to `points` and return to time: magnitudes [batch, bins, points].

    A band's first index only turns the phase of its output, so it may start anywhere.
    """
    bands = spectrum[:, group.index]
    if group.mirrored is not None:
        bands = torch.where(group.mirrored, bands.conj(), bands)
    bands = bands * group.kernel
    width = bands.shape[-1]
    if width > points:
        bands = reduce(bands, "batch bins (folds points) -> batch bins points", "sum", points=points)
    return (torch.fft.ifft(bands, n=points) * points).abs()


def _fast_size(points: int, hop: int) -> int:
    """Return the next number of points with only small prime factors, for which FFTs are fast."""
    while True:
        rest = points
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return points
        points += 1


class CQTTarget(Target):
    """Predict a frame's CQT magnitudes by one linear layer and mean square error, as MERT."""

    def __init__(self, settings: CQTSettings, grid: FrameGrid, dim: int) -> None:
        super().__init__()
        self.name, self.weight, self.settings = "cqt", settings.weight, settings
        transform = CQT if settings.backend == "own" else NnAudioCQT
        self.cqt = transform(grid.sample_rate, grid.hop, settings.bins, settings.bins_per_octave, settings.lowest)
        self.head = RegressionHead(dim, settings.bins + (settings.bins_per_octave if settings.chroma else 0))

    def targets(self, waveform: Tensor, starts: Tensor, keys: list[str]) -> Tensor:
        """Compute magnitudes [batch, 1 + samples // hop, bins] of clean sound, scaled as the settings say.

        With `chroma` the folded magnitudes follow, `bins_per_octave` more, scaled so that their share of the mean
        square error is chroma / (1 + chroma) where both vary alike.
        """
        with torch.no_grad():
            magnitude: Tensor = self.cqt(waveform)
            scaled = self._scaled(magnitude)
            if not self.settings.chroma:
                return scaled
            octave = self.settings.bins_per_octave
            folded = self._scaled(
                reduce(magnitude, "batch frames (octaves octave) -> batch frames octave", "mean", octave=octave)
            )
            return torch.cat([scaled, folded * math.sqrt(self.settings.chroma * self.settings.bins / octave)], 2)

    def _scaled(self, magnitude: Tensor) -> Tensor:
        """Magnitudes [batch, frames, bins] as `scale` says."""
        if self.settings.scale == "magnitude":
            return magnitude
        log = torch.log1p(LOG_SCALE * magnitude)
        if self.settings.scale == "log":
            return log
        mean, std = log.mean((1, 2), keepdim=True), log.std((1, 2), keepdim=True)
        return (log - mean) / std.clamp(min=1e-3)


class RegressionHead(Head):
    """One linear layer, mean square error."""

    def __init__(self, dim: int, bins: int) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, bins)

    def forward(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Metrics]:
        """Return the mean square error of hidden [n, dim] for targets [n, bins], and the share of variance left.

        `unexplained` is the error over the targets' variance around their mean frame: 1 means nothing was learned.
        """
        predicted = self.projection(hidden).float()
        error = functional.mse_loss(predicted, targets, reduction="sum") / max(1, targets.numel())
        mean = targets.sum(0) / max(1, len(targets))
        variance = (targets - mean).square().sum() / max(1, targets.numel())
        return error, {"mse": error.detach(), "unexplained": error.detach() / variance.clamp(min=1e-12)}
