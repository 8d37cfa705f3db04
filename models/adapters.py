"""Adapters that turn a network into an `Encoder`: `ModelEncoder` for ours, `HuggingFaceEncoder` for everybody else's.

Both take any rate, evaluate without gradients, and answer in float32. A family says what a foreign network wants to
hear (a normalised waveform, a spectrogram of ten seconds) and which moment of the sound each of its frames stands for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .layers import convert_rate


def prepare_input(
    waveform: Tensor,
    valid: Tensor | None,
    source_rate: int | None,
    target_rate: int,
    shortest: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Check a waveform at the door, bring it to the encoder's rate and device, and pad it to at least one frame.

    Args:
        waveform: [batch, samples] in [-1, 1] at `source_rate` Hz.
        valid: [batch] samples of sound in each row, the rest being padding; None when all are.
        source_rate: Hz; None for the encoder's own.
        target_rate: Hz of the encoder.
        shortest: samples at `target_rate` that make one frame.
        device: where the encoder lives.

    Returns:
        waveform [batch, samples] float32 and valid [batch] int64, both at `target_rate`.

    Raises:
        ValueError: a wrong shape, type, length or rate, or a waveform with NaN or infinity.
    """
    if not isinstance(waveform, Tensor) or waveform.dim() != 2 or not waveform.is_floating_point():
        found = f"{waveform.dtype} {list(waveform.shape)}" if isinstance(waveform, Tensor) else type(waveform).__name__
        raise ValueError(f"An encoder takes a mono waveform as a floating point tensor [batch, samples], not {found}.")
    batch, samples = waveform.shape
    if batch == 0 or samples == 0:
        raise ValueError(
            f"The waveform is empty: {[batch, samples]}; an encoder needs at least one row and one sample."
        )
    broken: list[int] = []
    if not torch.isfinite(waveform.sum()):  # no nan or infinity leaves the sum finite
        broken = (~torch.isfinite(waveform)).any(dim=1).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"The waveform holds NaN or infinity in row {broken[0]} ({len(broken)} of {batch} rows); drop that file."
        )
    if valid is None:
        valid = torch.full((batch,), samples)
    valid = torch.as_tensor(valid)
    if valid.shape != (batch,) or valid.is_floating_point() or int(valid.min()) < 0 or int(valid.max()) > samples:
        raise ValueError(
            f"`valid` is {valid.tolist()}; it must be {batch} whole numbers of samples between 0 and {samples}."
        )
    waveform, valid = waveform.to(device, torch.float32), valid.to(device, torch.int64)
    if source_rate is not None and source_rate != target_rate:
        waveform = convert_rate(waveform, source_rate, target_rate)
        valid = torch.div(valid * target_rate + source_rate - 1, source_rate, rounding_mode="floor")
    if waveform.shape[1] < shortest:
        waveform = nn.functional.pad(waveform, (0, shortest - waveform.shape[1]))
    if int(valid.min()) < shortest:  # such rows are heard as clips of `shortest` samples: with silence after their own
        silent = (valid < shortest)[:, None] & (torch.arange(waveform.shape[1], device=device) >= valid[:, None])
        waveform = waveform.masked_fill(silent, 0.0)
    return waveform, valid.clamp(min=shortest)


def shortest_input(frames: Callable[[int], int]) -> int:
    """The fewest samples for which `frames(samples)` is at least one."""
    high = 1
    while frames(high) < 1:
        high *= 2
    low = high // 2  # frames(low) is below one, or low is 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if frames(middle) >= 1 else (middle, high)
    return high


class ModelEncoder:
    """One of our models (`config.sample_rate`, `frame_rate`, `dim`, `layers`, `valid_frames`) as an `Encoder`."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.sample_rate: int = model.config.sample_rate
        self.frame_rate: float = float(model.frame_rate)
        self.dim: int = model.dim
        self.layers: int = model.layers
        self.shortest = shortest_input(lambda samples: int(model.valid_frames(torch.tensor([samples]))[0]))

    def valid_frames(self, valid: Tensor) -> Tensor:
        """Frames that `valid` [batch] samples (at the encoder's rate) fill, at least one: [batch] int64."""
        frames: Tensor = self.model.valid_frames(torch.as_tensor(valid).to(torch.int64).clamp(min=self.shortest))
        return frames

    @torch.no_grad()
    def hidden_states(self, waveform: Tensor, valid: Tensor | None = None, sample_rate: int | None = None) -> Tensor:
        """[batch, samples] -> [batch, layers, frames, dim] float32; see `Encoder.hidden_states`."""
        self.model.eval()
        device = self.model.device
        waveform, valid = prepare_input(waveform, valid, sample_rate, self.sample_rate, self.shortest, device)
        return self.run(waveform, valid)

    def run(self, waveform: Tensor, valid: Tensor) -> Tensor:
        """As `hidden_states`, for input that is ready, in whatever mode the model is in."""
        mask = None
        if int(valid.min()) < waveform.shape[1]:
            mask = (torch.arange(waveform.shape[1], device=valid.device) < valid[:, None]).long()
        # the waveform stays float32: each model casts behind its own front end (bf16 has no more than 8 bits)
        output = self.model(waveform, attention_mask=mask, output_hidden_states=True)
        states = torch.stack(output.hidden_states, dim=1).float()
        bands = getattr(self.model, "bands", 1)  # tokens of one time step (BEATs): a frame is their mean
        return states if bands == 1 else states.unflatten(2, (-1, bands)).mean(dim=3)


class Family(Protocol):
    """What a kind of foreign network hears and answers."""

    sample_rate: int
    frame_rate: float
    dim: int
    layers: int
    shortest: int

    def frames(self, samples: int) -> int:
        """Frames for so many samples (at least `shortest`)."""
        ...

    def run(self, model: Any, waveform: Tensor) -> Tensor:
        """Turn a waveform [batch, samples], all valid, float32, into [batch, layers, frames, dim]."""
        ...


class HuggingFaceEncoder:
    """A foreign audio model of the Hub as an `Encoder`, with the input that its own feature extractor prescribes.

    Rows of different length run separately, so that padding can't leak through group norms or attention.
    """

    def __init__(self, model: Any, extractor: Any) -> None:
        self.extractor = extractor
        self.family, model = _family(model, extractor)
        self.model = model.eval()
        self.sample_rate: int = self.family.sample_rate
        self.frame_rate: float = self.family.frame_rate
        self.dim: int = self.family.dim
        self.layers: int = self.family.layers
        self.shortest: int = self.family.shortest

    def valid_frames(self, valid: Tensor) -> Tensor:
        """Frames that `valid` [batch] samples (at the encoder's rate) fill, at least one: [batch] int64."""
        valid = torch.as_tensor(valid)
        frames = [self.family.frames(max(int(samples), self.shortest)) for samples in valid]
        return torch.tensor(frames, dtype=torch.int64, device=valid.device)

    @torch.no_grad()
    def hidden_states(self, waveform: Tensor, valid: Tensor | None = None, sample_rate: int | None = None) -> Tensor:
        """[batch, samples] -> [batch, layers, frames, dim] float32; see `Encoder.hidden_states`."""
        self.model.eval()
        device = self.model.device
        waveform, valid = prepare_input(waveform, valid, sample_rate, self.sample_rate, self.shortest, device)
        return self.run(waveform, valid)

    def run(self, waveform: Tensor, valid: Tensor) -> Tensor:
        """As `hidden_states`, for input that is ready; frames beyond `valid` are 0."""
        frames = self.family.frames(waveform.shape[1])
        states = waveform.new_zeros(waveform.shape[0], self.layers, frames, self.dim)
        for length in valid.unique().tolist():
            rows = valid == length
            part = self.family.run(self.model, waveform[rows, :length]).float()
            states[rows, :, : part.shape[2]] = part
        return states


def _family(model: Any, extractor: Any) -> tuple[Family, Any]:
    """The family of a model, and the part of the model that hears.

    Raises:
        ValueError: a kind of model that no family covers.
    """
    config = model.config
    if hasattr(config, "conv_stride") and hasattr(config, "conv_kernel"):
        return WaveformFamily(config, extractor), model
    if config.model_type == "audio-spectrogram-transformer":
        return PatchFamily(config, extractor), model
    if config.model_type in ("clap", "clap_audio_model"):  # the whole, or its audio tower again for a random copy
        tower = getattr(model, "audio_model", model)
        return ClapFamily(tower.config, extractor), tower
    if config.model_type == "encodec":
        return EncodecFamily(config), model
    raise ValueError(
        f"A model of type {config.model_type!r} is not supported. Supported are this package's own models, models on a "
        "convolved waveform (wav2vec2, HuBERT, WavLM, data2vec-audio, SEW, MERT, ...), AST, CLAP and EnCodec; wrap "
        "others in a class with the methods of Encoder and give it as file.py:Class."
    )


def _rate(config: Any, extractor: Any) -> int:
    for holder, name in ((extractor, "sampling_rate"), (config, "sampling_rate"), (config, "sample_rate")):
        if getattr(holder, name, None):
            return int(getattr(holder, name))
    raise ValueError(
        f"Nothing tells the sample rate of this {config.model_type} model; put a preprocessor_config.json with "
        '"feature_extractor_type" and "sampling_rate" beside its config.json.'
    )


class WaveformFamily:
    """wav2vec2 and its relatives: strided convolutions on the waveform, then transformer layers."""

    def __init__(self, config: Any, extractor: Any) -> None:
        self.sample_rate = _rate(config, extractor)
        self.steps = list(zip(config.conv_kernel, config.conv_stride))
        self.frame_rate = self.sample_rate / math.prod(config.conv_stride)
        self.dim = config.hidden_size
        self.layers = config.num_hidden_layers + 1
        self.normalize = bool(getattr(extractor, "do_normalize", False))
        squeeze = getattr(config, "squeeze_factor", 1)  # SEW pools the frames, and repeats them at the end
        self.shortest = shortest_input(lambda samples: self.frames(samples) // squeeze)

    def frames(self, samples: int) -> int:
        for kernel, stride in self.steps:
            samples = max(0, (samples - kernel) // stride + 1)
        return samples

    def run(self, model: Any, waveform: Tensor) -> Tensor:
        if self.normalize:  # as Wav2Vec2FeatureExtractor: zero mean, unit variance, 1e-7
            mean, variance = waveform.mean(dim=1, keepdim=True), waveform.var(dim=1, keepdim=True, correction=0)
            waveform = (waveform - mean) / (variance + 1e-7).sqrt()
        output = model(waveform.to(model.dtype), output_hidden_states=True)
        return torch.stack([state[:, : self.frames(waveform.shape[1])] for state in output.hidden_states], dim=1)


class PatchFamily:
    """AST: patches of a spectrogram of fixed length. A frame is the mean of the patches of one time step.

    Longer audio goes through windows that overlap just enough for the frames to continue at an even rate.
    """

    def __init__(self, config: Any, extractor: Any) -> None:
        if extractor is None:
            raise ValueError("An AST model needs its preprocessor_config.json: the spectrogram's settings are there.")
        self.extractor = extractor
        self.sample_rate = _rate(config, extractor)
        # Kaldi's frames: 25 ms every 10 ms, none beyond the edge
        self.frame_samples, self.hop_samples = self.sample_rate * 25 // 1000, self.sample_rate // 100
        self.patch, self.stride = config.patch_size, config.time_stride
        self.rows = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        self.columns = (config.max_length - config.patch_size) // config.time_stride + 1
        self.window_samples = (config.max_length - 1) * self.hop_samples + self.frame_samples
        self.frame_rate = 100 / config.time_stride
        self.dim = config.hidden_size
        self.layers = config.num_hidden_layers + 1
        self.shortest = self.frame_samples

    def frames(self, samples: int) -> int:
        spectra = 1 + (samples - self.frame_samples) // self.hop_samples
        return max(1, (spectra - self.patch) // self.stride + 1)

    def run(self, model: Any, waveform: Tensor) -> Tensor:
        frames, step = self.frames(waveform.shape[1]), self.columns * self.stride * self.hop_samples
        parts = []
        for first in range(0, frames, self.columns):
            start = first // self.columns * step
            window = waveform[:, start : start + self.window_samples]
            features = self.extractor(list(window.cpu().numpy()), sampling_rate=self.sample_rate, return_tensors="pt")
            features = features["input_values"].to(model.device, model.dtype)
            states = torch.stack(model(features, output_hidden_states=True).hidden_states, dim=1)
            patches = states[:, :, -self.rows * self.columns :]  # after the class tokens, frequency by frequency
            parts.append(patches.unflatten(2, (self.rows, self.columns)).mean(dim=2))
        return torch.cat(parts, dim=2)[:, :, :frames]


class ClapFamily:
    """CLAP's audio tower: the last map of a hierarchical transformer on ten seconds, averaged over frequency."""

    def __init__(self, config: Any, extractor: Any) -> None:
        if extractor is None:
            raise ValueError("A CLAP model needs its preprocessor_config.json: the spectrogram's settings are there.")
        self.extractor = extractor
        # windows are never longer than the extractor allows, so that nothing is drawn at random or fused
        self.settings = {"truncation": "fusion" if config.enable_fusion else "rand_trunc", "return_tensors": "pt"}
        self.sample_rate = _rate(config, extractor)
        self.window_samples = int(extractor.nb_max_samples)
        ratio = config.spec_size // config.num_mel_bins  # the spectrogram is folded into a square
        self.columns = ratio * (config.spec_size // 2 ** (len(config.depths) - 1) // config.patch_stride[1])
        self.frame_rate = self.sample_rate * self.columns / self.window_samples
        self.dim = config.patch_embeds_hidden_size * 2 ** (len(config.depths) - 1)
        self.layers = 1
        self.shortest = math.ceil(self.window_samples / self.columns)

    def frames(self, samples: int) -> int:
        return max(1, samples * self.columns // self.window_samples)

    def run(self, model: Any, waveform: Tensor) -> Tensor:
        frames, parts = self.frames(waveform.shape[1]), []
        for window in waveform.split(self.window_samples, dim=1)[: math.ceil(frames / self.columns)]:
            features = self.extractor(list(window.cpu().numpy()), sampling_rate=self.sample_rate, **self.settings)
            is_longer = torch.zeros(len(window), 1, dtype=torch.bool, device=model.device)
            features = features["input_features"].to(model.device, model.dtype)
            parts.append(model(features, is_longer=is_longer).last_hidden_state.mean(dim=2).transpose(1, 2))
        return torch.cat(parts, dim=1)[:, None, :frames]


class EncodecFamily:
    """EnCodec: what its convolutional encoder hands to the quantizer, one layer."""

    def __init__(self, config: Any) -> None:
        if config.normalize:
            raise ValueError(
                "EnCodec models that normalise every second of sound (the 48 kHz stereo one) are not supported; take "
                "the 24 kHz or 32 kHz model."
            )
        self.sample_rate = _rate(config, None)
        self.channels = config.audio_channels
        self.shortest = math.prod(config.upsampling_ratios)
        self.frame_rate = self.sample_rate / self.shortest
        self.dim, self.layers = config.hidden_size, 1

    def frames(self, samples: int) -> int:
        return math.ceil(samples / self.shortest)

    def run(self, model: Any, waveform: Tensor) -> Tensor:
        features: Tensor = model.encoder(waveform[:, None].expand(-1, self.channels, -1).to(model.dtype))
        return features.transpose(1, 2)[:, None]
