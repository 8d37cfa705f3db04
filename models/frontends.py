"""From the waveform to a sequence of feature vectors: wav2vec 2.0's convolutions, or log-mel with 2-D convolutions.

Both leave padding out exactly: a clip gives the same frames alone and padded in a batch.
This file is published with the models, so it imports torch and its siblings only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .transformer import time_mask

MelScale = Literal["htk", "slaney"]
Edges = Literal["zeros", "reflect"]
Compression = Literal["decibels", "log1p"]


def normalize_waveform(waveform: Tensor, valid: Tensor | None = None) -> Tensor:
    """Zero mean and unit variance of each clip's valid part; padding becomes zero.

    The formula of `Wav2Vec2FeatureExtractor(do_normalize=True)`: (x - mean) / sqrt(variance + 1e-7).

    Args:
        waveform: [batch, samples].
        valid: [batch] int64 valid samples; None: all.

    Returns:
        [batch, samples] float32.
    """
    waveform = waveform.float()
    if valid is None:
        variance, mean = torch.var_mean(waveform, dim=-1, keepdim=True, correction=0)
        return (waveform - mean) * torch.rsqrt(variance + 1e-7)
    padding = ~time_mask(valid, waveform.shape[-1])
    count = valid[:, None].clamp(min=1)
    mean = waveform.masked_fill(padding, 0.0).sum(-1, keepdim=True) / count
    centred = (waveform - mean).masked_fill(padding, 0.0)
    variance = centred.square().sum(-1, keepdim=True) / count
    return centred * torch.rsqrt(variance + 1e-7)


class TimeGroupNorm(nn.GroupNorm):
    """Group norm with one group per channel over time, in float32, whose statistics leave padding out."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, signal: Tensor, valid: Tensor | None = None) -> Tensor:
        """Normalise [batch, channels, frames]; `valid` [batch]: frames that count (None: all). Keeps the dtype."""
        exact = signal.float()
        # their gradients arrive together, hence in one order whether padded or not: ZeRO-2 adds up ranks by that order
        weight, bias = torch.stack([self.weight.float(), self.bias.float()]).unbind()
        if valid is None:
            return F.group_norm(exact, self.num_groups, weight, bias, self.eps).to(signal.dtype)
        counted = time_mask(valid, signal.shape[-1])[:, None]
        count = valid[:, None, None].clamp(min=1)
        mean = exact.masked_fill(~counted, 0.0).sum(-1, keepdim=True) / count
        centred = (exact - mean).masked_fill(~counted, 0.0)
        variance = centred.square().sum(-1, keepdim=True) / count
        scale = torch.rsqrt(variance + self.eps) * weight[:, None]
        return (centred * scale + bias[:, None]).to(signal.dtype)


class ConvLayer(nn.Module):
    """A strided convolution over time without padding, the group norm where it is the first, then GELU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, normalize: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, bias=False)
        if normalize:
            self.layer_norm: TimeGroupNorm | None = TimeGroupNorm(outputs)
        else:
            self.layer_norm = None

    def forward(self, signal: Tensor, valid: Tensor | None = None) -> Tensor:
        signal = self.conv(signal)
        if self.layer_norm is not None:
            signal = self.layer_norm(signal, valid)
        return F.gelu(signal)


class ConvFrontEnd(nn.Module):
    """The front end of wav2vec 2.0, HuBERT and MERT: strided convolutions, group norm on the first.

    No padding anywhere: 120,000 samples give 374 frames with the published kernels. A valid frame never looks beyond
    the valid samples, so only the norm's statistics need `valid`; `norm_over_padding` makes them take in the whole
    signal, padding included, as Hugging Face's HuBERT does.
    """

    def __init__(
        self, channels: Sequence[int], kernels: Sequence[int], strides: Sequence[int], norm_over_padding: bool = False
    ) -> None:
        super().__init__()
        self.norm_over_padding = norm_over_padding
        self.kernel, self.stride = kernels[0], strides[0]
        inputs = (1, *channels[:-1])
        self.conv_layers = nn.ModuleList(
            ConvLayer(*sizes, normalize=index == 0)
            for index, sizes in enumerate(zip(inputs, channels, kernels, strides, strict=True))
        )
        self.gradient_checkpointing = False

    def forward(self, waveform: Tensor, valid: Tensor | None = None) -> Tensor:
        """[batch, samples], `valid` [batch] samples, to [batch, frames, channels]."""
        signal = waveform.to(next(self.parameters()).dtype)[:, None]
        counted = None
        if valid is not None and not self.norm_over_padding:
            signal = signal.masked_fill(~time_mask(valid, waveform.shape[-1])[:, None], 0.0)
            counted = ((valid - self.kernel) // self.stride + 1).clamp(min=0)
        for layer in self.conv_layers:
            if self.gradient_checkpointing and self.training:
                signal = checkpoint(layer, signal, counted, use_reentrant=False)
            else:
                signal = layer(signal, counted)
        return signal.transpose(1, 2)


def _htk_mel(hertz: Tensor) -> Tensor:
    return 2595.0 * torch.log10(1.0 + hertz / 700.0)


def _htk_hertz(mel: Tensor) -> Tensor:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


def _slaney_mel(hertz: Tensor) -> Tensor:
    """Linear below 1 kHz (200/3 Hz a mel), logarithmic above (27 mels from 1 to 6.4 kHz)."""
    return torch.where(
        hertz < 1000.0, hertz * 3 / 200, 15.0 + 27 * torch.log(hertz.clamp(min=1) / 1000) / math.log(6.4)
    )


def _slaney_hertz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15.0, mel * 200 / 3, 1000.0 * torch.exp((mel - 15.0) * math.log(6.4) / 27))


SCALES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "htk": (_htk_mel, _htk_hertz),
    "slaney": (_slaney_mel, _slaney_hertz),
}


def mel_filterbank(
    sample_rate: int,
    n_fft: int,
    bins: int,
    low: float = 0.0,
    high: float | None = None,
    scale: MelScale = "htk",
    area_norm: bool = False,
) -> Tensor:
    """Triangular mel filters.

    `scale="htk"` without `area_norm` is torchaudio's default (and MusicFM's), `scale="slaney"` with it librosa's.

    Args:
        sample_rate: Hz.
        n_fft: samples of the Fourier transform.
        bins: number of filters.
        low: lowest frequency in Hz.
        high: highest frequency in Hz; None: half the sample rate.
        scale: "htk" or "slaney".
        area_norm: divide each triangle by half its width in Hz (Slaney's norm) instead of leaving its peak at one.

    Returns:
        [n_fft / 2 + 1, bins] float32.

    Raises:
        ValueError: a scale that isn't known, or frequencies that don't increase within half the sample rate.
    """
    high = sample_rate / 2 if high is None else high
    if scale not in SCALES:
        raise ValueError(f"The mel scale {scale!r} isn't known: choose 'htk' or 'slaney'.")
    if not 0.0 <= low < high <= sample_rate / 2:
        raise ValueError(f"The mel filters go from {low} to {high} Hz: choose 0 <= low < high <= {sample_rate / 2} Hz.")
    to_mel, to_hertz = SCALES[scale]
    # explicit device: a model under construction on the meta device still gets real filters
    ends = to_mel(torch.tensor([low, high], dtype=torch.float64, device="cpu"))
    steps = torch.arange(bins + 2, dtype=torch.float64, device="cpu") / (bins + 1)
    corners = to_hertz(ends[0] + (ends[1] - ends[0]) * steps)
    hertz = torch.arange(n_fft // 2 + 1, dtype=torch.float64, device="cpu")[:, None] * (sample_rate / n_fft)
    rising = (hertz - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - hertz) / (corners[2:] - corners[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0.0)
    if area_norm:
        filters = filters * (2.0 / (corners[2:] - corners[:-2]))
    return filters.float()


class LogMel(nn.Module):
    """Mel spectrogram, compressed; frame i is centred on sample i · hop.

    Beyond the ends of a clip it hears zeros, so that padding with zeros changes nothing, or the clip mirrored at its
    own ends (torchaudio's default, and so MusicFM's, MuQ's and OMAR-RQ's). The window (Hann, periodic) and the filters
    stay float32 whatever the model is cast to, and are no part of the state dict.

    Args:
        sample_rate: Hz.
        n_fft: samples of the window and of the Fourier transform.
        hop: samples per frame.
        bins: filters.
        low: Hz.
        high: Hz; None: half the sample rate.
        scale: "htk" or "slaney".
        area_norm: Slaney's norm of the filters.
        edges: "zeros" or "reflect".
        compress: "decibels", 10 · log10(max(power, 1e-10)); or "log1p", log10(1 + 10,000 · power) (OMAR-RQ).
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        sample_rate: int,
        n_fft: int = 2048,
        hop: int = 240,
        bins: int = 128,
        low: float = 0.0,
        high: float | None = None,
        scale: MelScale = "htk",
        area_norm: bool = False,
        edges: Edges = "zeros",
        compress: Compression = "decibels",
    ) -> None:
        super().__init__()
        self.n_fft, self.hop, self.edges, self.compress = n_fft, hop, edges, compress
        self._arguments = (sample_rate, n_fft, bins, low, high, scale, area_norm)
        device = torch.empty(0).device  # where a `with torch.device(...)` wants the model
        for name, table in self.tables().items():
            self.register_buffer(name, table.to(device), persistent=False)

    def tables(self) -> dict[str, Tensor]:
        """The buffers' values, computed afresh on the CPU (a model built on the meta device has none)."""
        window = torch.hann_window(self.n_fft, dtype=torch.float32, device="cpu")
        return {"window": window, "filters": mel_filterbank(*self._arguments)}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LogMel:
        """Follow the model to another device, but not to another dtype; fill the tables on leaving the meta device."""
        was_meta = self.window.is_meta
        super()._apply(fn, recurse)
        if was_meta or self.window.dtype != torch.float32:
            for name, table in self.tables().items():
                setattr(self, name, table.to(self.window.device))
        return self

    def forward(self, waveform: Tensor, valid: Tensor | None = None) -> Tensor:
        """[batch, samples], `valid` [batch] samples of sound (the rest is silent), to [batch, samples // hop, bins]."""
        with torch.autocast(waveform.device.type, enabled=False):
            heard = waveform.float()
            mirrored = self.edges == "reflect"
            if mirrored:
                heard = reflect(heard, self.n_fft // 2, valid)
            spectrum = torch.stft(
                heard,
                self.n_fft,
                self.hop,
                window=self.window,
                center=not mirrored,
                pad_mode="constant",
                return_complex=True,
            )
            real, imaginary = torch.view_as_real(spectrum).unbind(-1)
            power = torch.addcmul(real * real, imaginary, imaginary)  # seven times faster than .square().sum(-1)
            mel = power[..., : waveform.shape[-1] // self.hop].transpose(1, 2) @ self.filters
            if self.compress == "log1p":
                return torch.log1p(10_000.0 * mel) * (1.0 / math.log(10.0))
            return 10.0 * torch.log10(mel.clamp(min=1e-10))


class TrainedLogMel(nn.Module):
    """`LogMel` in decibels whose Fourier kernels and filters are weights, as nnAudio's trainable spectrogram.

    Convolutions take the Fourier transform's place, so it costs about the window's length over log2 of it more. It
    begins as `LogMel` does, apart from `FLOOR`, which is nnAudio's.

    Args:
        sample_rate: Hz.
        n_fft: samples of the window.
        hop: samples per frame.
        bins: filters.
        low: Hz.
        high: Hz; None: half the sample rate.
        scale: "htk" or "slaney".
    """

    FLOOR = 1e-8  # is added to a power, so that the root of silence has a gradient

    def __init__(
        self,
        sample_rate: int,
        n_fft: int = 2048,
        hop: int = 240,
        bins: int = 128,
        low: float = 0.0,
        high: float | None = None,
        scale: MelScale = "htk",
    ) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        window = torch.hann_window(n_fft, dtype=torch.float64, device="cpu")
        time = torch.arange(n_fft, dtype=torch.float64, device="cpu")
        angle = 2 * math.pi / n_fft * (torch.arange(n_fft // 2 + 1, device="cpu")[:, None] * time % n_fft)
        device = torch.empty(0).device  # where a `with torch.device(...)` wants the model
        self.cosines = nn.Parameter((window * angle.cos()).float()[:, None].to(device))  # [frequencies, 1, n_fft]
        self.sines = nn.Parameter((window * angle.sin()).float()[:, None].to(device))
        filters = mel_filterbank(sample_rate, n_fft, bins, low, high, scale)
        self.filters = nn.Parameter(filters.T.contiguous().to(device))  # [bins, frequencies]

    def forward(self, waveform: Tensor, valid: Tensor | None = None) -> Tensor:
        """[batch, samples] to decibels [batch, samples // hop, bins]. valid: as in `LogMel`, and not needed."""
        with torch.autocast(waveform.device.type, enabled=False):
            mel = self.energies(waveform.float())[..., : waveform.shape[-1] // self.hop].transpose(1, 2)
            return 10.0 * torch.log10(mel.clamp(min=1e-10))

    def energies(self, waveform: Tensor) -> Tensor:
        """[batch, samples] to [batch, bins, 1 + samples // hop], zeros beyond the ends."""
        heard = F.pad(waveform, (self.n_fft // 2, self.n_fft // 2))[:, None]
        real = F.conv1d(heard, self.cosines.float(), stride=self.hop)
        imaginary = F.conv1d(heard, self.sines.float(), stride=self.hop)
        return self.filters.float() @ (real.square() + imaginary.square() + self.FLOOR)


def reflect(waveform: Tensor, width: int, valid: Tensor | None = None) -> Tensor:
    """Mirror each clip at its first and its last sample of sound, as `pad(mode="reflect")` does with a clip alone.

    Args:
        waveform: [batch, samples].
        width: samples that are added before and after.
        valid: [batch] int64 samples of sound; None: all.

    Returns:
        [batch, samples + 2 · width]; zeros beyond a shorter clip's mirror image. Where a clip is shorter than the
        mirror, its first sample is repeated.
    """
    place = (torch.arange(waveform.shape[1] + 2 * width, device=waveform.device) - width).abs()
    if valid is None:
        end = waveform.shape[1] - 1
        return waveform[:, torch.where(place > end, 2 * end - place, place).clamp(min=0)]
    last = valid[:, None] - 1
    index = torch.where(place > last, 2 * last - place, place).clamp(min=0)
    return waveform.gather(1, index).masked_fill(place > last + width, 0.0)


class MelFrontEnd(nn.Module):
    """Log-mel, then two 2-D convolutions of stride 2: one feature vector per four mel frames (BEST-RQ, MusicFM).

    With hop 240 at 24 kHz that is 25 Hz, frame j centred on sample 960 · j; only whole groups of four mel frames
    count, so 960 samples are one frame. The decibels are normalised with fixed constants; after that, and between the
    convolutions, padding is zero, which is what a convolution sees beyond the end of an unpadded clip.
    """

    def __init__(self, log_mel: LogMel | TrainedLogMel, bins: int, channels: int, mean: float, std: float) -> None:
        super().__init__()
        self.log_mel, self.mean, self.std = log_mel, mean, std
        self.convs = nn.ModuleList(nn.Conv2d(inputs, channels, 3, stride=2, padding=1) for inputs in (1, channels))
        self.dim = channels * math.ceil(bins / 4)
        self.gradient_checkpointing = False

    def forward(self, waveform: Tensor, valid: Tensor | None = None) -> Tensor:
        """[batch, samples], `valid` [batch] samples, to [batch, frames, dim]."""
        frames = waveform.shape[-1] // (4 * self.log_mel.hop)
        counted = None
        if valid is not None:
            waveform = waveform.masked_fill(~time_mask(valid, waveform.shape[-1]), 0.0)
            counted = valid // (4 * self.log_mel.hop)
        mel = (self.log_mel(waveform)[:, : 4 * frames] - self.mean) / self.std
        image = mel.to(next(self.parameters()).dtype)[:, None]
        if self.gradient_checkpointing and self.training:
            image = checkpoint(self._subsample, image, counted, use_reentrant=False)
        else:
            image = self._subsample(image, counted)
        return image.transpose(1, 2).flatten(2)

    def _subsample(self, image: Tensor, counted: Tensor | None) -> Tensor:
        """[batch, 1, 4 · frames, bins] to [batch, channels, frames, bins / 4]."""
        for steps, conv in zip((4, 2), self.convs, strict=True):
            image = F.gelu(conv(_clear(image, counted, steps)))
        return image


def _clear(image: Tensor, counted: Tensor | None, steps: int) -> Tensor:
    """Zero the time steps of [batch, channels, time, bins] beyond `counted` frames of `steps` steps each."""
    if counted is None:
        return image
    return image.masked_fill(~time_mask(counted * steps, image.shape[2])[:, None, :, None], 0.0)


class ResidualBlock2d(nn.Module):
    """Two 3 × 3 convolutions and a third beside them, batch norm after each, ReLU; both axes are halved.

    The names of MusicFM's and MuQ's files. In training the norms' statistics leave padding out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv3 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, image: Tensor, inside: Tensor | None = None) -> Tensor:
        """[batch, channels, steps, bins] to half of both; `inside`: bool [batch, steps / 2], the steps of sound."""
        inner = _zero_outside(F.relu(normalise_inside(self.bn1, self.conv1(image), inside)), inside)
        main = normalise_inside(self.bn2, self.conv2(inner), inside)
        beside = normalise_inside(self.bn3, self.conv3(image), inside)
        return _zero_outside(F.relu(main + beside), inside)


def normalise_inside(norm: nn.Module, image: Tensor, inside: Tensor | None) -> Tensor:
    """Batch norm of [batch, channels, steps, …] whose statistics, in training, are those of the steps `inside`.

    inside: bool [batch, steps]; None: all. What lies outside is 0 in training.
    """
    if inside is None or not norm.training:
        found: Tensor = norm(image)
        return found
    gathers_badly = image.is_cuda or torch.compiler.is_dynamo_compiling()  # a graph knows no number of steps
    if gathers_badly and type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d):  # not what is synchronised over ranks
        return _normalise_by_sums(norm, image, inside)  # type: ignore[arg-type]
    chosen = image.transpose(1, 2)[inside]  # [n, channels, …]
    normalised = norm(chosen.unsqueeze(2)).squeeze(2) if chosen.dim() > 2 else norm(chosen)
    steps = torch.zeros_like(image.transpose(1, 2), dtype=normalised.dtype)
    steps[inside] = normalised
    return steps.transpose(1, 2)


def _normalise_by_sums(norm: nn.BatchNorm1d | nn.BatchNorm2d, image: Tensor, inside: Tensor) -> Tensor:
    """`normalise_inside` by sums under the mask: to gather the steps, the host would wait for a GPU to count them."""
    axes, shape = [0, *range(2, image.dim())], (1, -1, *(1,) * (image.dim() - 2))
    outside = ~inside.view(len(inside), 1, -1, *(1,) * (image.dim() - 3))
    count = inside.sum() * math.prod(image.shape[3:])
    mean = image.float().masked_fill(outside, 0.0).sum(axes) / count.clamp(min=1)
    centred = (image.float() - mean.view(shape)).masked_fill(outside, 0.0)
    variance = centred.square().sum(axes) / count.clamp(min=1)
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            moved = 1.0 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean, moved)
            norm.running_var.lerp_(variance * count / (count - 1).clamp(min=1), moved)
    scale = torch.rsqrt(variance + norm.eps) * (1.0 if norm.weight is None else norm.weight.float())
    shift = 0.0 if norm.bias is None else norm.bias.float().view(shape)
    return (centred * scale.view(shape) + shift).masked_fill(outside, 0.0).to(image.dtype)


def _zero_outside(image: Tensor, inside: Tensor | None) -> Tensor:
    return image if inside is None else image.masked_fill(~inside[:, None, :, None], 0.0)


class ResidualMelFrontEnd(nn.Module):
    """Log-mel, then two residual 2-D blocks: one feature vector per four mel frames (MusicFM, MuQ).

    With hop 240 at 24 kHz that is 25 Hz; frame j is centred on sample 960 · j. The decibels are normalised by one pair
    of numbers for all bins. Beyond a clip's end the blocks see zeros, as beyond the end of an unpadded one.
    """

    def __init__(self, log_mel: LogMel, bins: int, channels: int, mean: float, std: float) -> None:
        super().__init__()
        self.log_mel, self.mean, self.std = log_mel, mean, std
        self.blocks = nn.ModuleList([ResidualBlock2d(1, channels), ResidualBlock2d(channels, channels)])
        self.dim = channels * math.ceil(bins / 4)
        self.gradient_checkpointing = False

    def forward(self, waveform: Tensor, valid: Tensor | None = None) -> Tensor:
        """[batch, samples], `valid` [batch] samples, to [batch, frames, dim]."""
        frames = waveform.shape[-1] // (4 * self.log_mel.hop)
        counted = None
        if valid is not None:
            waveform = waveform.masked_fill(~time_mask(valid, waveform.shape[-1]), 0.0)
            counted = valid // (4 * self.log_mel.hop)
        mel = (self.log_mel(waveform, valid)[:, : 4 * frames] - self.mean) / self.std
        image = _clear(mel.to(next(self.parameters()).dtype)[:, None], counted, 4)
        for steps, block in zip((2, 1), self.blocks, strict=True):
            inside = None if counted is None else time_mask(counted * steps, frames * steps)
            if self.gradient_checkpointing and self.training:
                image = checkpoint(block, image, inside, use_reentrant=False)
            else:
                image = block(image, inside)
        return image.transpose(1, 2).flatten(2)


class StackedMelFrontEnd(nn.Module):
    """Log-mel frames, four of them side by side per encoder frame: no convolution (OMAR-RQ)."""

    def __init__(self, log_mel: LogMel, bins: int, mean: float, std: float) -> None:
        super().__init__()
        self.log_mel, self.mean, self.std, self.dim = log_mel, mean, std, 4 * bins

    def forward(self, waveform: Tensor, valid: Tensor | None = None) -> Tensor:
        """[batch, samples], `valid` [batch] samples, to [batch, frames, 4 · bins]."""
        frames = waveform.shape[-1] // (4 * self.log_mel.hop)
        if valid is not None:
            waveform = waveform.masked_fill(~time_mask(valid, waveform.shape[-1]), 0.0)
        mel = (self.log_mel(waveform, valid)[:, : 4 * frames] - self.mean) / self.std
        return mel.unflatten(1, (frames, 4)).flatten(2)
