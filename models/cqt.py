"""A small encoder on a log-CQT: pitch is a place and transposition a crop, so that little has to be learned from sound.

Two pictures of the sound meet in one sequence of frames. The *tonal* picture is a constant-Q transform, 24 bins per
octave over 8 octaves from 27.5 Hz; of its 192 rows the network sees 168, and which 168 says by how much the clip is
transposed. The *rhythm* picture is a log-mel spectrogram of short windows with its rises beside it, since a
constant-Q window for bass notes is longer than a beat. Either goes in as whole columns (`stem="patches"`, vertical
patches, for masked objectives) or through small 2-D convolutions (`stem="conv"`); above them are rotary transformer
blocks or dilated convolutions.

Sources: Brown and Puckette 1992 for the transform, evaluated octave by octave on a decimated signal as in Schörkhuber
and Klapuri 2010; vertical patches as in Yonay et al. 2025 (Myna); the dilated convolutions as in Böck and Davies 2020.
This file is published with the models, so it imports torch, transformers and its siblings only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from .frontends import LogMel
from .transformer import Transformer, time_mask

Stem = Literal["patches", "conv"]
Trunk = Literal["transformer", "conv"]

MAX_SHIFT = 12  # bins of half a semitone to either side: a clip can be transposed by up to six semitones
HALVINGS = 5  # octaves below this many share the lowest rate: 750 Hz for a signal of 24 kHz
HALF_BAND_TAPS = 31
TAIL = 512  # samples beyond the end that the halved signals still hear: 15 · (1 + 2 + 4 + 8 + 16) and a little
CEPSTRA = 20  # of each mel column, without the 0th, which is the level
MEL_SCALE = 1.0  # the rhythm picture is log(1 + magnitude), magnitude of a Hann window's transform


def half_band(taps: int = HALF_BAND_TAPS) -> Tensor:
    """A low pass at a quarter of the rate, float64 [taps]: sinc under a Kaiser window of beta 8, about -80 dB."""
    steps = torch.arange(taps, dtype=torch.float64, device="cpu") - (taps - 1) / 2
    window = torch.kaiser_window(taps, periodic=False, beta=8.0, dtype=torch.float64, device="cpu")
    kernel = torch.sinc(steps / 2) * window
    return kernel / kernel.sum()


def cqt_kernels(sample_rate: float, lowest: float, bins: int, bins_per_octave: int, full_rate: int) -> Tensor:
    """Hann kernels of Q periods, real and imaginary parts, [taps, 2 · bins] float32; taps are odd, the middle is 0.

    Scaled as nnAudio does it: L1 norm one, times the root of the kernel's length at `full_rate`.
    """
    quality = 1 / (2 ** (1 / bins_per_octave) - 1)
    frequency = lowest * 2 ** (torch.arange(bins, dtype=torch.float64, device="cpu") / bins_per_octave)
    length = quality * sample_rate / frequency
    half = math.ceil(float(length.max()) / 2)
    step = torch.arange(-half, half + 1, dtype=torch.float64, device="cpu")[:, None]
    window = torch.where(step.abs() < length / 2, 0.5 + 0.5 * torch.cos(2 * math.pi * step / length), 0.0)
    window = window / window.sum(0) * (quality * full_rate / frequency).sqrt()
    phase = 2 * math.pi * step * frequency / sample_rate
    return torch.cat([window * phase.cos(), window * phase.sin()], 1).float()


class LogCQT(nn.Module):
    """log(1 + 100 · magnitude) of a constant-Q transform; frame j is centred in the middle of its `hop` samples.

    An octave is a matrix product on the signal at a rate that suits it; the rate is halved from octave to octave, at
    most HALVINGS times. Beyond the ends it sees zeros. The tables stay float32 and are no part of the state dict.

    Args:
        sample_rate: Hz.
        hop: samples per frame, a multiple of 2 · 2^HALVINGS, so that frames fall on samples at every rate.
        octaves: number of octaves.
        bins_per_octave: bins in each.
        lowest: Hz of the first bin.
    """

    half_band: Tensor

    def __init__(
        self, sample_rate: int, hop: int, octaves: int = 8, bins_per_octave: int = 24, lowest: float = 27.5
    ) -> None:
        super().__init__()
        self.sample_rate, self.hop, self.octaves = sample_rate, hop, octaves
        self.bins_per_octave, self.lowest = bins_per_octave, lowest
        device = torch.empty(0).device  # where a `with torch.device(...)` wants the model
        for name, table in self.tables().items():
            self.register_buffer(name, table.to(device), persistent=False)

    def tables(self) -> dict[str, Tensor]:
        """The buffers' values, computed afresh on the CPU (a model built on the meta device has none)."""
        tables = {"half_band": half_band().float()}
        for octave in range(self.octaves):  # 0 is the highest
            rate = self.sample_rate / 2 ** min(octave, HALVINGS)
            lowest = self.lowest * 2 ** (self.octaves - 1 - octave)
            tables[f"kernel{octave}"] = cqt_kernels(
                rate, lowest, self.bins_per_octave, self.bins_per_octave, self.sample_rate
            )
        return tables

    def _apply(self, fn: Any, recurse: bool = True) -> LogCQT:
        """Follow the model to another device, but not to another dtype; fill the tables on leaving the meta device."""
        was_meta = self.half_band.is_meta
        super()._apply(fn, recurse)
        if was_meta or self.half_band.dtype != torch.float32:
            for name, table in self.tables().items():
                setattr(self, name, table.to(self.half_band.device))
        return self

    def forward(self, waveform: Tensor) -> Tensor:
        """Transform [batch, samples] into [batch, samples // hop, octaves · bins_per_octave], lowest bin first."""
        frames = waveform.shape[-1] // self.hop
        octaves: list[Tensor] = []
        with torch.autocast(waveform.device.type, enabled=False):
            signal, hop = F.pad(waveform.float(), (0, TAIL)), self.hop
            for octave in range(self.octaves):
                if 0 < octave <= HALVINGS:
                    signal, hop = self._halve(signal), hop // 2
                octaves.append(self._magnitudes(signal, getattr(self, f"kernel{octave}"), hop, frames))
            return torch.log1p(100.0 * torch.cat(octaves[::-1], -1))

    def _halve(self, signal: Tensor) -> Tensor:
        """Every second sample of the low-passed signal, the first one kept at its place."""
        taps = self.half_band.shape[0]
        padded = F.pad(signal, (taps // 2, taps // 2 + 1))
        return F.conv1d(padded[:, None], self.half_band[None, None], stride=2)[:, 0]

    @staticmethod
    def _magnitudes(signal: Tensor, kernel: Tensor, hop: int, frames: int) -> Tensor:
        """[batch, samples] and [taps, 2 · bins] to [batch, frames, bins]."""
        taps = kernel.shape[0]
        left = taps // 2 - hop // 2
        right = max(0, (frames - 1) * hop + taps - left - signal.shape[-1])
        padded = F.pad(signal, (left, right)) if left >= 0 else F.pad(signal[:, -left:], (0, right))
        real, imaginary = (padded.unfold(-1, taps, hop)[:, :frames] @ kernel).chunk(2, -1)
        return torch.sqrt(real * real + imaginary * imaginary + 1e-12)


@dataclass
class CqtFields:
    """What a recipe chooses of a `CqtModel`, a small network on a log-CQT at 25 frames per second."""

    mel_bins: int = 81
    """Of the rhythm picture, at twice the frame rate; 0 leaves that picture out."""
    stem: Stem = "conv"
    """"patches" (a linear layer on whole columns) or "conv" (2-D convolutions)."""
    stem_norm: bool = True
    """A layer norm behind the "patches" stem; without it levels and principal axes stay as they are."""
    tonal_channels: Sequence[int] = (16, 24, 32, 40)
    """Channels of the four tonal stages of the "conv" stem."""
    rhythm_channels: Sequence[int] = (16, 16, 64)
    """Channels of its rhythm stages."""
    trunk: Trunk = "conv"
    """"transformer" (rotary, pre-LN) or "conv" (residual dilated convolutions over time)."""
    hidden_size: int = 192
    """Width of the hidden states."""
    num_hidden_layers: int = 7
    """Blocks of the trunk."""
    num_attention_heads: int = 6
    """Of a transformer block."""
    intermediate_size: int = 768
    """Width of its feed-forward layers."""
    dilations: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)
    """Of the convolutions, one after the other, from the first again if there are more blocks."""
    dropout: float = 0.1
    """In the blocks."""
    joins: int = 0
    """With stem and trunk "conv", the block after which the tonal half joins: the states up to there are of rhythm
    alone. Beats that also lean on harmony follow the habits of what they were trained on. 0: both halves from the
    start."""
    described: bool = False
    """Begin the hidden states with what nobody learned (`describe`), so that no reader loses what the front end
    knows. Needs a rhythm picture and a hidden size that holds it: 384 with the defaults."""


class CqtConfig(PretrainedConfig, CqtFields):
    """What fixes a `CqtModel`.

    Raises:
        ValueError: values that don't fit together.
    """

    model_type = "groundbass_cqt"

    sample_rate: int = 24_000
    """Hz of the waveform."""
    hop: int = 960
    """Samples per frame: 960 at 24 kHz are 25 Hz. A multiple of 64."""
    octaves: int = 8
    """Of the constant-Q transform."""
    bins_per_octave: int = 24
    """Of the constant-Q transform, even."""
    lowest: float = 27.5
    """Hz of its first bin."""
    n_fft: int = 2048
    """Samples of its Fourier transform."""
    mel_low: float = 30.0
    """Hz."""
    mel_high: float = 11_000.0
    """Hz."""
    kernel: int = 5
    """Taps of a dilated convolution, odd."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.tonal_channels, self.rhythm_channels = list(self.tonal_channels), list(self.rhythm_channels)
        self.dilations = list(self.dilations)
        self._check()

    def _check(self) -> None:
        if self.stem not in ("patches", "conv") or self.trunk not in ("transformer", "conv"):
            raise ValueError(
                f"The stem {self.stem!r} or the trunk {self.trunk!r} isn't known: choose 'patches' or 'conv' as the "
                "stem, 'transformer' or 'conv' as the trunk."
            )
        if self.hop % (2 << HALVINGS):
            raise ValueError(
                f"A hop of {self.hop} samples doesn't fall on samples of the lower octaves: choose a multiple of "
                f"{2 << HALVINGS}, for instance 960."
            )
        if self.lowest * 2**self.octaves > self.sample_rate / 2.5:
            raise ValueError(
                f"{self.octaves} octaves from {self.lowest} Hz end at {self.lowest * 2**self.octaves:.0f} Hz, too near "
                f"to half of {self.sample_rate} Hz: take fewer octaves or a higher rate."
            )
        if self.trunk == "transformer" and self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"A hidden size of {self.hidden_size} doesn't divide into {self.num_attention_heads} heads of even "
                f"width, which rotary positions need: choose a multiple of {2 * self.num_attention_heads}."
            )
        if self.joins and not (self.stem == self.trunk == "conv" and 0 < self.joins < self.num_hidden_layers):
            raise ValueError(
                f"joins is {self.joins}: with a conv stem and trunk a block's number below {self.num_hidden_layers}, "
                "otherwise 0."
            )
        if self.described and (not self.mel_bins or self.described_size > self.hidden_size):
            raise ValueError(
                f"described needs mel_bins above 0 (it is {self.mel_bins}) and a hidden_size of at least "
                f"{self.described_size} (it is {self.hidden_size}): what the front end says takes as many numbers."
            )
        if self.stem == "conv" and (len(self.tonal_channels) != 4 or len(self.rhythm_channels) != 3):
            raise ValueError(
                f"The conv stem has four tonal and three rhythm stages, not {len(self.tonal_channels)} and "
                f"{len(self.rhythm_channels)}: give as many channels."
            )

    @property
    def seen_bins(self) -> int:
        """Rows of the constant-Q transform that the network sees; the others are room for transposing."""
        return self.octaves * self.bins_per_octave - 2 * MAX_SHIFT

    @property
    def described_size(self) -> int:
        """Numbers of `describe`: rows, mel bins twice, cepstra twice, pitch classes, levels twice."""
        return self.seen_bins + 2 * self.mel_bins + 2 * CEPSTRA + 12 + 2

    @property
    def frame_rate(self) -> float:
        """Frames per second, in Hz."""
        return self.sample_rate / self.hop


def describe(cqt: Tensor, mel: Tensor, bins_per_octave: int) -> Tensor:
    """What the pictures say of each frame without learning, in absolute level.

    cqt: [batch, frames, rows] from a whole number of semitones above A; mel: [batch, 2 · frames, bins], log(1 + m).

    Returns:
        [batch, frames, rows + 2 · bins + 2 · CEPSTRA + 12 + 2]: the rows; both mel columns of a frame; the cepstra (DCT
        of type II) of each; the log of the mean magnitude of each pitch class; the mean of each mel column.
    """
    columns = mel.unflatten(1, (-1, 2))
    bins = mel.shape[2]
    steps = torch.arange(bins, device=mel.device, dtype=mel.dtype)
    orders = torch.arange(1, CEPSTRA + 1, device=mel.device, dtype=mel.dtype)
    cosines = torch.cos(math.pi / bins * (steps[:, None] + 0.5) * orders) * math.sqrt(2 / bins)
    cepstra = torch.log(torch.expm1(columns) + 1e-3) @ cosines
    octave, rows = bins_per_octave, cqt.shape[2]
    whole = torch.expm1(cqt[..., : rows // octave * octave]).unflatten(2, (-1, 12, octave // 12))
    classes = torch.log1p(whole.mean((2, 4)))
    parts = [cqt, columns.flatten(2), cepstra.flatten(2), classes, columns.mean(3)]
    return torch.cat(parts, 2)


def _leave_out(image: Tensor, inside: Tensor | None) -> Tensor:
    """[batch, channels, frames, bins] with zeros where `inside`, bool [batch, frames], says so (None: nowhere)."""
    return image if inside is None else image.masked_fill(~inside[:, None, :, None], 0.0)


def without_mean(image: Tensor, inside: Tensor) -> Tensor:
    """[batch, frames, bins] less each bin's mean over the valid frames of its clip, `inside` bool [batch, frames]."""
    outside = ~inside[..., None]
    mean = image.masked_fill(outside, 0.0).sum(1, keepdim=True) / inside.sum(1).clamp(min=1)[:, None, None]
    return (image - mean).masked_fill(outside, 0.0)


def standardise(image: Tensor, inside: Tensor | None) -> Tensor:
    """[batch, frames, bins] with zero mean and unit deviation over each clip's valid part; zeros elsewhere.

    inside: bool [batch, frames], True for valid frames; None: all are.
    """
    if inside is None:
        deviation, mean = torch.std_mean(image, (1, 2), keepdim=True, correction=0)
        return (image - mean) / (deviation + 1e-2)
    outside = ~inside[..., None]
    count = (inside.sum(1) * image.shape[2]).clamp(min=1)[:, None, None]
    mean = image.masked_fill(outside, 0.0).sum((1, 2), keepdim=True) / count
    centred = (image - mean).masked_fill(outside, 0.0)
    deviation = (centred.square().sum((1, 2), keepdim=True) / count).sqrt()
    return centred / (deviation + 1e-2)


class ClipNorm(nn.Module):
    """Each channel with zero mean and unit deviation over the valid part of its own clip, then scaled and shifted.

    Batch norm's running statistics are those of what was trained on; a recording's are its own (instance norm, Ulyanov
    et al. 2016). Trained on rendered music, that is the difference between holding on recordings and not.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, image: Tensor, inside: Tensor | None = None) -> Tensor:
        """[batch, channels, frames, rows], inside: bool [batch, frames]; sums in float32, keeps the type."""
        image = _leave_out(image, inside)
        frames = image.shape[2] if inside is None else inside.sum(1).clamp(min=1)[:, None, None, None]
        count = frames * image.shape[3]
        mean = image.sum((2, 3), keepdim=True, dtype=torch.float32) / count
        square = (image * image).sum((2, 3), keepdim=True, dtype=torch.float32) / count
        scale = torch.rsqrt((square - mean.square()).clamp(min=0.0) + 1e-4) * self.weight.float()[:, None, None]
        shift = self.bias.float()[:, None, None] - mean * scale
        return torch.addcmul(shift.to(image.dtype), image, scale.to(image.dtype))


class ConvStage(nn.Module):
    """Two convolutions (3×5, 3×3) with clip norm and ELU: time is kept, frequency becomes fewer rows.

    Of `rows` rows ((rows - 5) // stride + 1 - 2) // pool are left.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, pool: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(inputs, outputs, (3, 5), stride=(1, stride), padding=(1, 0), bias=False)
        self.wide_norm = ClipNorm(outputs)
        self.narrow = nn.Conv2d(outputs, outputs, 3, padding=(1, 0), bias=False)
        self.narrow_norm = ClipNorm(outputs)
        self.pool = pool

    def forward(self, image: Tensor, inside: Tensor | None = None) -> Tensor:
        """[batch, inputs, frames, rows] to [batch, outputs, frames, fewer rows]."""
        image = _leave_out(F.elu(self.wide_norm(self.wide(image), inside)), inside)
        image = F.elu(self.narrow_norm(self.narrow(image), inside))
        return _leave_out(F.max_pool2d(image, (1, self.pool)) if self.pool > 1 else image, inside)


class TonalStem(nn.Module):
    """Columns of the constant-Q transform to harmony: convolutions at half the frame rate, then every row at once."""

    def __init__(self, rows: int, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        strides, pools = (2, 1, 1, 1), (1, 2, 1, 1)  # half a semitone to a semitone at once, to a tone later
        self.stages = nn.ModuleList()
        for inputs, outputs, stride, pool in zip([1, *channels[:-1]], channels, strides, pools, strict=True):
            self.stages.append(ConvStage(inputs, outputs, stride, pool))
            rows = ((rows - 5) // stride - 1) // pool
        self.project = nn.Linear(channels[-1] * rows, dim)

    def forward(self, image: Tensor, inside: Tensor | None) -> Tensor:
        """[batch, frames, rows] to [batch, frames, dim]; two frames share what their mean says."""
        frames = image.shape[1]
        half = None if inside is None else F.pad(inside, (0, frames % 2))[:, ::2]
        image = F.pad(image, (0, 0, 0, frames % 2)).unflatten(1, (-1, 2)).mean(2)[:, None]
        for stage in self.stages:
            image = stage(image, half)
        features = self.project(image.transpose(1, 2).flatten(2))
        return features.repeat_interleave(2, 1)[:, :frames]


class RhythmStem(nn.Module):
    """Log-mel and its rises, at twice the frame rate, to what begins when: convolutions, then the loudest place."""

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        first, second, third = channels
        self.first = nn.Conv2d(2, first, 3, padding=(1, 0), bias=False)
        self.first_norm = ClipNorm(first)
        self.second = nn.Conv2d(first, second, 3, padding=(1, 0), bias=False)
        self.second_norm = ClipNorm(second)
        self.third = nn.Conv2d(second, third, (1, 4), bias=False)
        self.third_norm = ClipNorm(third)
        self.pair = nn.Conv1d(2 * third, dim, 4, stride=2, padding=1)

    def forward(self, mel: Tensor, inside: Tensor | None) -> Tensor:
        """[batch, 2 · frames, bins] to [batch, frames, dim]."""
        twice = None if inside is None else inside.repeat_interleave(2, 1)
        rises = F.pad(F.relu(mel[:, 1:] - mel[:, :-1]), (0, 0, 1, 0))
        image = _leave_out(torch.stack([mel, rises], 1), twice)
        image = F.max_pool2d(F.elu(self.first_norm(self.first(image), twice)), (1, 3))
        image = F.max_pool2d(F.elu(self.second_norm(self.second(_leave_out(image, twice)), twice)), (1, 3))
        image = _leave_out(F.elu(self.third_norm(self.third(_leave_out(image, twice)), twice)), twice)
        return self.pair(torch.cat([image.amax(3), image.mean(3)], 1)).transpose(1, 2)


class PatchStem(nn.Module):
    """Whole columns at once: what every row of both pictures says in one frame, through a linear layer."""

    def __init__(self, rows: int, mel_bins: int, dim: int, norm: bool = True) -> None:
        super().__init__()
        self.project = nn.Linear(rows + 2 * mel_bins, dim)
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()

    @property
    def follows(self) -> bool:
        """Whether it projects on axes at right angles, as after `follow`; random weights don't."""
        weight = self.project.weight.detach().float()
        return torch.allclose(weight @ weight.T, torch.eye(len(weight), device=weight.device), atol=1e-3)

    @torch.no_grad()
    def follow(self, columns: Tensor) -> None:
        """Begin with the principal axes of columns [n, rows + 2 · mel_bins], as `forward` puts them together.

        The widest first; where there are fewer axes than `dim`, the last rows are 0.
        """
        mean = columns.double().mean(0)
        centred = columns.double() - mean
        _, axes = torch.linalg.eigh(centred.T @ centred)
        axes = axes.flip(1)[:, : self.project.out_features].T
        self.project.weight.zero_()
        self.project.weight[: len(axes)] = axes.to(self.project.weight)
        self.project.bias.copy_(-self.project.weight.double() @ mean.to(self.project.weight.device))

    def forward(self, cqt: Tensor, mel: Tensor | None) -> Tensor:
        """[batch, frames, rows] and [batch, 2 · frames, mel_bins] to [batch, frames, dim]."""
        columns = cqt if mel is None else torch.cat([cqt, mel.unflatten(1, (-1, 2)).flatten(2)], 2)
        return self.norm(self.project(columns))


class DilatedBlock(nn.Module):
    """A residual block over time: norm, dilated convolution, GELU, dropout, a layer back."""

    def __init__(self, dim: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.conv = nn.Conv1d(dim, dim, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        self.dropout = nn.Dropout(dropout)
        self.mix = nn.Linear(dim, dim)

    def forward(self, hidden: Tensor, inside: Tensor | None = None) -> Tensor:
        """[batch, frames, dim] to the same shape."""
        normed = self.norm(hidden)
        if inside is not None:
            normed = normed.masked_fill(~inside[..., None], 0.0)
        mixed = F.gelu(self.conv(normed.transpose(1, 2)).transpose(1, 2))
        return hidden + self.mix(self.dropout(mixed))


class DilatedTrunk(nn.Module):
    """Dilated blocks, a layer norm at the end."""

    def __init__(self, config: CqtConfig) -> None:
        super().__init__()
        dilations = [config.dilations[k % len(config.dilations)] for k in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(
            DilatedBlock(config.hidden_size, config.kernel, dilation, config.dropout) for dilation in dilations
        )
        self.layer_norm = nn.LayerNorm(config.hidden_size)
        self.joins = config.joins

    def forward(
        self, hidden: Tensor, inside: Tensor | None = None, keep_all: bool = True, later: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """As `Transformer.forward`; `later` [batch, frames, dim] is added after block `config.joins`."""
        states = [hidden]
        for number, block in enumerate(self.layers):
            heard = states[-1] if later is None or number != self.joins else states[-1] + later
            states.append(block(heard, inside))
        states[-1] = self.layer_norm(states[-1])
        return tuple(states) if keep_all else tuple(states[-1:])


class CqtModel(PreTrainedModel):
    """Waveform in, hidden states at 25 Hz out: pictures (`pictures`), then stem and trunk (`encode`)."""

    config: CqtConfig
    config_class = CqtConfig
    base_model_prefix = "cqt"
    main_input_name = "input_values"
    _supports_sdpa = True
    _no_split_modules = ["Block", "DilatedBlock"]

    def __init__(self, config: CqtConfig) -> None:
        super().__init__(config)
        dim = config.hidden_size
        self.log_cqt = LogCQT(config.sample_rate, config.hop, config.octaves, config.bins_per_octave, config.lowest)
        self.log_mel = self._make_mel(config) if config.mel_bins else None
        if config.stem == "patches":
            self.patches = PatchStem(config.seen_bins, config.mel_bins, dim, config.stem_norm)
        else:
            self.tonal = TonalStem(config.seen_bins, config.tonal_channels, dim)
            self.rhythm = RhythmStem(config.rhythm_channels, dim) if config.mel_bins else None
        self.masked_spec_embed = nn.Parameter(torch.empty(dim))
        self.encoder = self._make_trunk(config)
        self.post_init()

    @staticmethod
    def _make_mel(config: CqtConfig) -> LogMel:
        high = min(config.mel_high, config.sample_rate / 2)
        return LogMel(
            config.sample_rate, config.n_fft, config.hop // 2, config.mel_bins, config.mel_low, high, "slaney"
        )

    @staticmethod
    def _make_trunk(config: CqtConfig) -> Transformer | DilatedTrunk:
        if config.trunk == "conv":
            return DilatedTrunk(config)
        return Transformer(
            config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size,
            norm_first=True, dropout=config.dropout, conv_positions=None, rotary_base=10_000.0,
        )  # fmt: skip

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Kaiming for convolutions with ELU, Xavier for linear layers; `init` leaves loaded weights alone."""
        if isinstance(module, CqtModel):
            init.normal_(module.masked_spec_embed, std=0.5)
        elif isinstance(module, LogMel | LogCQT):
            for name, table in module.tables().items():
                init.copy_(getattr(module, name), table)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | ClipNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            init.kaiming_normal_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @property
    def frame_rate(self) -> float:
        """Frames per second, in Hz."""
        return self.config.frame_rate

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return self.config.hidden_size

    @property
    def layers(self) -> int:
        """Number of hidden states: (what nobody learned,) what the stem says, and the output of every block."""
        return self.config.num_hidden_layers + 1 + self.config.described

    @property
    def mel_hertz(self) -> Tensor:
        """[mel_bins] where each band of the rhythm picture has its middle."""
        if self.log_mel is None:
            return torch.zeros(0)
        filters = self.log_mel.filters
        hertz = torch.linspace(0, self.config.sample_rate / 2, len(filters), device=filters.device)
        return (hertz @ filters) / filters.sum(0).clamp(min=1e-9)

    @property
    def stems(self) -> list[nn.Module]:
        """What hears the pictures, before the blocks."""
        if self.config.stem == "patches":
            return [self.patches]
        return [self.tonal] if self.rhythm is None else [self.tonal, self.rhythm]

    def valid_frames(self, valid: Tensor) -> Tensor:
        """[batch] int64 samples to [batch] int64 whole frames in them."""
        return torch.div(valid, self.config.hop, rounding_mode="floor")

    def pictures(self, waveform: Tensor) -> tuple[Tensor, Tensor | None]:
        """Both spectrograms of a waveform [batch, samples], without gradient, float32.

        Returns:
            log-CQT [batch, frames, octaves · bins_per_octave] and log-mel [batch, 2 · frames, mel_bins] (or None).
        """
        with torch.no_grad():
            cqt = self.log_cqt(waveform)
            if self.log_mel is None:
                return cqt, None
            hop = self.config.hop // 2  # its frame i is centred on sample i · hop: half a hop later, as everywhere here
            shifted = F.pad(waveform[:, hop // 2 :], (0, hop))
            decibels = self.log_mel(shifted)[:, : 2 * cqt.shape[1]]
            return cqt, torch.log1p(MEL_SCALE * 10.0 ** (decibels / 20.0))

    def encode(
        self,
        cqt: Tensor,
        mel: Tensor | None,
        inside: Tensor | None = None,
        shift: Tensor | None = None,
        hidden_frames: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> BaseModelOutput:
        """Pictures to hidden states.

        Args:
            cqt: [batch, frames, bins], all rows.
            mel: [batch, 2 · frames, mel_bins], or None where the model has no rhythm picture.
            inside: bool [batch, frames], True for valid frames; None: all are.
            shift: int64 [batch] in bins, within ±12: what is heard is transposed up by that; None: as it is.
            hidden_frames: bool [batch, frames], True where the learned mask replaces what the stem says.
            output_hidden_states: give all `layers` hidden states.
        """
        cqt, plain = self.crop(cqt, shift), None
        if self.config.described and output_hidden_states and mel is not None:
            plain = describe(cqt, mel, self.config.bins_per_octave)
        cqt = standardise(cqt, inside)
        mel = None if mel is None else standardise(mel, None if inside is None else inside.repeat_interleave(2, 1))
        dtype = self.masked_spec_embed.dtype
        cqt, mel = cqt.to(dtype), None if mel is None else mel.to(dtype)
        hidden, later = self._stem(cqt, mel, inside)
        if hidden_frames is not None:
            hidden = torch.where(hidden_frames[..., None], self.masked_spec_embed, hidden)
        if later is None:
            states = self.encoder(hidden, inside, keep_all=output_hidden_states)
        else:
            states = self.encoder(hidden, inside, output_hidden_states, later)
        if plain is not None:
            states = (F.pad(plain, (0, self.config.hidden_size - plain.shape[2])).to(dtype), *states)
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=states if output_hidden_states else None)

    def tokens(
        self, waveform: Tensor, valid: Tensor, flat: bool = False, shift: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the transformer hears of a waveform [batch, samples], of which `valid` [batch] samples are sound.

        flat: without each row's mean over the clip, that is without level and mean spectrum. shift: as in `encode`.

        Returns:
            Tokens [batch, frames, hidden_size], and bool [batch, frames], True for those of sound.
        """
        cqt, mel = self.pictures(waveform)
        inside = self.token_mask(valid, cqt.shape[1])
        twice = inside.repeat_interleave(2, 1)
        cqt = self.crop(cqt, shift)
        if flat:
            cqt, mel = without_mean(cqt, inside), None if mel is None else without_mean(mel, twice)
        dtype = self.masked_spec_embed.dtype
        seen = standardise(cqt, inside).to(dtype), None if mel is None else standardise(mel, twice).to(dtype)
        return self._stem(*seen, inside)[0], inside

    def token_mask(self, valid: Tensor, total: int) -> Tensor:
        """Bool [batch, total], True for the tokens of `tokens` that are sound, of `valid` [batch] samples."""
        return time_mask(self.valid_frames(valid).clamp(1, total), total)

    def encode_some(self, tokens: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """The last states [batch, kept, hidden_size] where only the tokens at `positions` [batch, kept] are heard.

        tokens: [batch, frames, hidden_size] of `tokens`; mask: bool [batch, kept], False for places that hold nothing;
        None where every place holds one. The trunk is a transformer: convolutions need every frame.
        """
        kept = tokens.gather(1, positions[..., None].expand(-1, -1, tokens.shape[2]))
        found: Tensor = self.encoder(kept, mask, False, positions)[-1]
        return found

    def _stem(self, cqt: Tensor, mel: Tensor | None, inside: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the first block hears, and what joins later (None: nothing)."""
        if self.config.stem == "patches":
            return self.patches(cqt, mel), None
        tonal = self.tonal(cqt, inside)
        if self.rhythm is None:
            return tonal, None
        rhythm = self.rhythm(mel, inside)
        return (rhythm, tonal) if self.config.joins else (rhythm + tonal, None)

    def crop(self, cqt: Tensor, shift: Tensor | None) -> Tensor:
        """The rows that are seen: up by `shift` bins is a crop that begins as much lower."""
        rows = self.config.seen_bins
        if shift is None:
            return cqt[..., MAX_SHIFT : MAX_SHIFT + rows]
        at = (MAX_SHIFT - shift)[:, None] + torch.arange(rows, device=cqt.device)
        return cqt.gather(2, at[:, None].expand(-1, cqt.shape[1], -1))

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Waveform to hidden states.

        Args:
            input_values: [batch, samples] at `config.sample_rate`, in [-1, 1].
            attention_mask: [batch, samples], 1 for sound and 0 for the padding after it; None: no padding.
            output_hidden_states: also give all `layers` hidden states.
            return_dict: False returns a tuple.

        Raises:
            ValueError: a waveform of another shape, or shorter than a frame.
        """
        if input_values.dim() != 2 or input_values.shape[1] < self.config.hop:
            raise ValueError(
                f"The encoder takes a mono waveform [batch, samples] of at least {self.config.hop} samples, not "
                f"{list(input_values.shape)}: mix the channels, or pad what is shorter."
            )
        inside = None
        if attention_mask is not None:
            valid = attention_mask.long().sum(-1)
            input_values = input_values.masked_fill(~time_mask(valid, input_values.shape[1]), 0.0)
            inside = time_mask(self.valid_frames(valid), input_values.shape[1] // self.config.hop)
        cqt, mel = self.pictures(input_values)
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        output = self.encode(cqt, mel, inside, output_hidden_states=output_hidden_states)
        return output.to_tuple() if return_dict is False else output


CqtConfig.register_for_auto_class()
CqtModel.register_for_auto_class("AutoModel")
