"""What all taggers share: networks that were trained on labels, as encoders with layers and as classifiers with a head.

A tagger is a `PreTrainedModel` with the mixin `Tagger`; its config says `sample_rate`, `window_samples` (the crop it
was trained on), `window_frames`, `classes`, and how a track becomes one answer (`windows`, `window_count`,
`aggregation`). Its `network` turns windows into `Heard`, in two steps, so that training can mix and mask features:
`features(windows [windows, samples], counted [windows])`, then `hear(features)`. `network.axes` says which dimensions
of the features are time and frequency (None: bare samples).

The surface of every tagger, for those who wrap it:

- `forward(input_values, attention_mask)`: `hidden_states`, the layers [batch, frames, dim] (the `Encoder`'s view).
- `class_logits(input_values, attention_mask) -> [batch, classes]`: by the network's own head, a track being heard in
  windows and aggregated as its config says. Networks that answer in probabilities give logit(p).
- `frame_logits(input_values, attention_mask) -> [batch, frames, classes]`, at `frame_rate`, where `frame_wise`.
- `window_logits(windows [windows, window_samples]) -> [windows, classes]`, what a training step wants; or
  `network.features` and `network.hear`.

This file is published with the models, so it imports torch, transformers and its siblings only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from .frontends import MelScale, mel_filterbank

SAMPLES_AT_ONCE = 1_500_000  # of windows, in evaluation: three of 29 s, 25 of 3.7 s, four of 10 s at 32 kHz
WINDOWS = ("row", "whole", "even", "first")
AGGREGATIONS = ("probabilities", "logits")
EPSILON = 1e-7  # keeps the logit of a mean probability finite in float32


class Heard(NamedTuple):
    """What a network makes of windows.

    Attributes:
        states: per layer [windows, channels, steps]; steps and channels may differ from layer to layer.
        logits: [windows, classes].
        steps: [windows, steps, classes] logits over time, where the network has them.
    """

    states: list[Tensor]
    logits: Tensor
    steps: Tensor | None = None


class DecibelMel(nn.Module):
    """Mel spectrogram in dB of power, 10 · log10(max(power, 1e-10)), with centred frames and reflected edges.

    The numbers are those of `torchaudio.transforms.MelSpectrogram` and `AmplitudeToDB` (HTK, the default here) or of
    librosa (`scale="slaney"`, `area_norm=True`). Window (Hann, periodic) and filters stay float32 and are no part of
    the state dict.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        sample_rate: int,
        n_fft: int,
        hop: int,
        bins: int,
        low: float = 0.0,
        high: float | None = None,
        scale: MelScale = "htk",
        area_norm: bool = False,
    ) -> None:
        super().__init__()
        self.n_fft, self.hop, self.bins = n_fft, hop, bins
        self._arguments = (sample_rate, n_fft, bins, low, high, scale, area_norm)
        device = torch.empty(0).device  # where a `with torch.device(...)` wants the model
        for name, table in self.tables().items():
            self.register_buffer(name, table.to(device), persistent=False)

    def tables(self) -> dict[str, Tensor]:
        """The buffers' values, computed afresh on the CPU (a model built on the meta device has none)."""
        return {"window": hann(self.n_fft), "filters": mel_filterbank(*self._arguments)}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DecibelMel:
        """Follow the model to another device, but not to another dtype; fill the tables on leaving the meta device."""
        return refill(self, super()._apply, fn, recurse)

    def forward(self, waveform: Tensor) -> Tensor:
        """[windows, samples] -> [windows, samples // hop + 1, bins] dB, float32."""
        with torch.autocast(waveform.device.type, enabled=False):
            return decibels(power_spectrum(waveform, self.window, self.hop).transpose(1, 2) @ self.filters)


def hann(samples: int) -> Tensor:
    """The periodic Hann window [samples], on the CPU."""
    return torch.hann_window(samples, dtype=torch.float32, device="cpu")


def power_spectrum(waveform: Tensor, window: Tensor, hop: int) -> Tensor:
    """[batch, samples] -> [batch, n_fft / 2 + 1, samples // hop + 1]: centred frames, reflected edges."""
    spectrum = torch.stft(
        waveform.float(), len(window), hop, window=window, center=True, pad_mode="reflect", return_complex=True
    )
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    return torch.addcmul(real * real, imaginary, imaginary)


def decibels(power: Tensor) -> Tensor:
    """10 · log10(max(power, 1e-10))."""
    return 10.0 * torch.log10(power.clamp(min=1e-10))


def refill(module: Any, apply: Callable[..., Any], fn: Callable[[Tensor], Tensor], recurse: bool) -> Any:
    """`_apply` of a module with float32 tables: they follow to a device, not to a dtype, nor stay on meta."""
    names = list(module.tables())
    was_meta = getattr(module, names[0]).is_meta
    apply(fn, recurse)
    if was_meta or getattr(module, names[0]).dtype != torch.float32:
        for name, table in module.tables().items():
            setattr(module, name, table.to(getattr(module, names[0]).device))
    return module


def init_default(module: Any) -> None:
    """PyTorch's own initialisation of a module, or its tables, while transformers initialises a model."""
    if hasattr(module, "tables"):
        with torch.no_grad():
            for name, table in module.tables().items():
                getattr(module, name).copy_(table)
    elif hasattr(module, "reset_parameters"):
        module.reset_parameters()


def check_windows(config: Any) -> None:
    """Refuse settings of windows that mean nothing.

    Raises:
        ValueError: by name, with what is allowed.
    """
    if config.windows not in WINDOWS or config.aggregation not in AGGREGATIONS:
        raise ValueError(
            f"windows = {config.windows!r} and aggregation = {config.aggregation!r}: windows stand in a row, are "
            f"spread evenly or are the first alone {WINDOWS}, and what is averaged is one of {AGGREGATIONS}."
        )
    if min(config.window_samples, config.window_frames, config.window_count, config.sample_rate) < 1:
        raise ValueError(
            f"A tagger needs positive sizes, not window_samples = {config.window_samples}, window_frames = "
            f"{config.window_frames}, window_count = {config.window_count}, sample_rate = {config.sample_rate}."
        )
    if config.classes < 1:
        raise ValueError(f"classes = {config.classes}: a tagger has one output for each of its labels, at least one.")


def logit(probability: Tensor) -> Tensor:
    """log(p / (1 - p)), kept finite."""
    return torch.logit(probability, eps=EPSILON)


def average(logits: Tensor, aggregation: str, problem: str | None) -> Tensor:
    """One answer from several windows: [batch, windows, classes] -> [batch, classes] logits.

    The mean of the logits, or the logit of the mean probability: sigmoids (as all published taggers do), softmax where
    the problem has one label.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    if aggregation == "logits" or problem == "regression":
        return logits.mean(dim=1)
    if problem == "single_label_classification":
        return logits.softmax(-1).mean(dim=1).clamp(min=EPSILON).log()
    return logit(logits.sigmoid().mean(dim=1))


def _exporting() -> bool:
    """Whether torch.export traces. Inside torch.compile `is_exporting` is true as well (PyTorch 2.11)."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def starts(samples: int, window: int, windows: str, count: int) -> list[int]:
    """Where the windows of a track begin, in samples; a track within one window gives one.

    "even": `count` windows, hop = (samples - window) // count, from 0; as published, the track's end is not reached.
    "row": one after the other, the last one flush with the end. "whole": one after the other, what is left over isn't
    heard. "first": the beginning alone.
    """
    if samples <= window or windows == "first":
        return [0]
    if windows == "even":
        hop = (samples - window) // count
        return [i * hop for i in range(count)]
    row = list(range(0, samples - window + 1, window))
    return row if windows == "whole" or row[-1] + window == samples else [*row, samples - window]


def repeated(windows: Tensor, samples: int) -> Tensor:
    """[windows, n] -> [windows, samples]: the sound again and again, cut at the end."""
    times = -(-samples // max(1, windows.shape[-1]))
    return windows.repeat(1, times)[:, :samples]


def rolled(logits: Callable[[Tensor], Tensor], windows: Tensor, shifts: int, problem: str | None) -> Tensor:
    """The mean answer about windows [windows, samples] turned round by 0, 100, 300, 600 … samples, as logits.

    HTS-AT's published test takes ten of these circular shifts, each from the sound that the last one left.
    """
    if shifts == 1:
        return logits(windows)
    turns = [100 * k * (k + 1) // 2 for k in range(shifts)]
    answers = torch.stack([logits(windows.roll(turn, -1)) for turn in turns], dim=1)
    return average(answers.float(), "probabilities", problem)


def spread(state: Tensor, frames: int) -> Tensor:
    """[windows, channels, steps] -> [windows, channels, frames]: averages of equal parts, or repeats."""
    steps = state.shape[-1]
    if steps == frames:
        return state
    first = torch.arange(frames, device=state.device) * steps // frames
    last = ((torch.arange(frames, device=state.device) + 1) * steps + frames - 1) // frames
    step = torch.arange(steps, device=state.device)[:, None]
    part = ((step >= first) & (step < last)).to(state.dtype)
    return state @ (part / part.sum(dim=0))


class Tagger:
    """The mixin: encoder's and classifier's view of a `network`; see this file's head."""

    config: Any
    network: Any

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return float(self.config.sample_rate * self.config.window_frames / self.config.window_samples)

    @property
    def dim(self) -> int:
        """Width of the hidden states: of the widest layer; narrower ones are filled up with zeros."""
        return int(max(self.network.widths))

    @property
    def layers(self) -> int:
        """How many hidden states there are: the front end's features, then every block."""
        return len(self.network.widths)

    @property
    def frame_wise(self) -> bool:
        """Whether the head answers over time, so that there are `frame_logits`."""
        return bool(self.network.frame_wise)

    def valid_frames(self, valid: Tensor) -> Tensor:
        """[batch] samples -> [batch] frames that they fill, at least one."""
        part = valid * self.config.window_frames
        return torch.div(part, self.config.window_samples, rounding_mode="floor").clamp(min=1)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Listen in windows of `config.window_samples` that stand in a row, the last one filled up with zeros.

        Args:
            input_values: [batch, samples] waveform in [-1, 1] at `config.sample_rate`.
            attention_mask: [batch, samples] 1 for sound, 0 for padding, which is silenced.
            output_hidden_states: also give `hidden_states`: the front end's features, then every block; averaged over
                frequency, brought to `window_frames` frames per window, and filled up with zeros to `dim`.
            return_dict: False returns a tuple.

        Returns:
            `last_hidden_state`: [batch, frames, dim].

        Raises:
            ValueError: a waveform of another shape.
        """
        waveform = self._silenced(input_values, attention_mask)
        frames, windows, counted = self._row(waveform, attention_mask)
        batch = waveform.shape[0]
        parts = [self._states(*part) for part in self._portions(windows, counted)]
        layers = [torch.cat(layer).reshape(batch, -1, self.dim)[:, :frames] for layer in zip(*parts)]
        states = tuple(layers) if output_hidden_states or self.config.output_hidden_states else None
        if return_dict is False:
            return (layers[-1],) if states is None else (layers[-1], states)
        return BaseModelOutput(last_hidden_state=layers[-1], hidden_states=states)

    def window_logits(self, windows: Tensor) -> Tensor:
        """[windows, window_samples] -> [windows, classes]; shorter windows are filled up with zeros.

        Raises:
            ValueError: windows that are longer than the network's.
        """
        surplus = windows.shape[-1] - self.config.window_samples
        if surplus > 0:
            raise ValueError(
                f"A window of {windows.shape[-1]} samples is longer than the network's {self.config.window_samples} "
                f"({self.config.window_samples / self.config.sample_rate:.3g} s): cut it, or take class_logits."
            )
        counted = torch.full((len(windows),), windows.shape[-1], device=windows.device)
        if getattr(self.config, "repeat_short", False):
            windows, counted = repeated(windows, self.config.window_samples), counted - surplus
        portions = self._portions(F.pad(windows, (0, self.config.window_samples - windows.shape[-1])), counted)
        return torch.cat([self.network.hear(self.network.features(*part)).logits for part in portions])

    def class_logits(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """One answer per row, by the network's own head.

        Args:
            input_values: [batch, samples] waveform of any length at `config.sample_rate`.
            attention_mask: [batch, samples] 1 for sound, 0 for the padding after it.

        Returns:
            [batch, classes] logits: of the windows that `config.windows` names, averaged as `config.aggregation` says.
        """
        waveform, config = self._silenced(input_values, attention_mask), self.config
        lengths = torch.full((len(waveform),), waveform.shape[1])
        if attention_mask is not None:
            lengths = attention_mask.long().sum(-1).cpu()
        found: list[Tensor | None] = [None] * len(waveform)
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero().flatten().tolist()
            begin = self.starts(length)
            end = min(length, waveform.shape[1], config.window_samples)
            # rows by number, not by a list, which would have to be sent to a GPU
            heard = torch.stack([torch.stack([waveform[row, at : at + end] for at in begin]) for row in rows])
            logits = self.judged(heard.flatten(0, 1)).unflatten(0, (len(rows), len(begin)))
            for row, answer in zip(rows, self.averaged(logits)):
                found[row] = answer
        return torch.stack([answer for answer in found if answer is not None])

    def starts(self, samples: int) -> list[int]:
        """Where the windows of a track of so many samples begin, as the config says; see :func:`starts`."""
        return starts(samples, self.config.window_samples, self.config.windows, self.config.window_count)

    def judged(self, windows: Tensor) -> Tensor:
        """What a track's answer is made of: `window_logits`, of shifted windows too where the config asks for them."""
        return rolled(self.window_logits, windows, getattr(self.config, "shifts", 1), self.config.problem_type)

    def averaged(self, logits: Tensor) -> Tensor:
        """[batch, windows, classes] -> [batch, classes], as the config says; see :func:`average`."""
        return average(logits.float(), self.config.aggregation, self.config.problem_type)

    def frame_logits(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits over time, [batch, frames, classes] at `frame_rate`; only `valid_frames` of a row mean anything.

        Raises:
            ValueError: the network's head doesn't answer over time.
        """
        if not self.frame_wise:
            raise ValueError(
                f"{type(self).__name__} ({getattr(self.config, 'network', 'this network')}) answers once per window of "
                f"{self.config.window_samples / self.config.sample_rate:.3g} s, not over time: take class_logits."
            )
        frames, *row = self._row(self._silenced(input_values, attention_mask), attention_mask)
        parts = []
        for part in self._portions(*row):
            steps = self.network.hear(self.network.features(*part)).steps
            parts.append(spread(steps.transpose(1, 2), self.config.window_frames).transpose(1, 2))
        return torch.cat(parts).reshape(input_values.shape[0], -1, self.config.classes)[:, :frames]

    def _silenced(self, waveform: Tensor, mask: Tensor | None) -> Tensor:
        if waveform.dim() == 3 and waveform.shape[1] == 1:
            waveform = waveform.squeeze(1)
        if waveform.dim() != 2:
            raise ValueError(
                f"A tagger takes a mono waveform [batch, samples], not {list(waveform.shape)}; mix the channels first."
            )
        return waveform if mask is None else waveform * mask.to(waveform.dtype)

    def _row(self, waveform: Tensor, mask: Tensor | None) -> tuple[Any, Tensor, Tensor]:
        """Frames of [batch, samples]; its windows [batch · windows, window_samples]; samples of sound in each."""
        size, per_window = self.config.window_samples, self.config.window_frames
        batch, samples = waveform.shape
        exporting = _exporting()  # a graph takes every length by the same steps
        frames: Any = torch.sym_max(1, samples * per_window // size)
        count = (frames + per_window - 1) // per_window
        if exporting:
            waveform = F.pad(waveform, (0, size))[:, : count * size]
        else:
            waveform = F.pad(waveform, (0, count * size - samples))
        length = torch.full((batch,), samples, device=waveform.device) if mask is None else mask.long().sum(-1)
        begin = torch.arange(count, device=waveform.device) * size
        counted = (length[:, None] - begin).clamp(min=0, max=size)
        return frames, waveform.reshape(batch, count, size).flatten(0, 1), counted.flatten()

    def _portions(self, windows: Tensor, counted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """A long track in portions, unless in training, where batch norm must see all windows of a batch at once."""
        training = torch.is_grad_enabled() or any(module.training for module in self.network.modules())
        if training or _exporting():  # a graph knows no number of windows
            yield windows, counted
        else:
            size = max(1, SAMPLES_AT_ONCE // self.config.window_samples)
            yield from zip(windows.split(size), counted.split(size))

    def _states(self, windows: Tensor, counted: Tensor) -> list[Tensor]:
        """[windows, samples] -> per layer [windows, frames, dim]."""
        states = self.network.hear(self.network.features(windows, counted)).states
        spreads = (spread(state, self.config.window_frames).transpose(1, 2) for state in states)
        return [F.pad(state, (0, self.dim - state.shape[-1])) for state in spreads]
