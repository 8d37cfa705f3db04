"""CPC's encoder: strided convolutions turn the waveform into latents, a causal GRU sums them up as context.

Paper: A. van den Oord, Y. Li and O. Vinyals, "Representation learning with contrastive predictive coding", 2018
(arXiv:1807.03748). The defaults are its network for speech at 16 kHz (kernels and strides of the paper, paddings of the
widespread PyTorch version); `CpcConfig.music()` is the one that CLMR's first version compares with, at 22,050 Hz.
The channel norm is that of M. Rivière et al., "Unsupervised pretraining transfers well across languages", 2020.

Names of weights: `encoder.seq.layer-<i>.0.<weight|bias>` and `autoregressor.autoregressor.<weight_ih_l0|…>`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .transformer import time_mask

SPEECH: dict[str, Any] = {"kernels": (10, 8, 4, 4, 4), "strides": (5, 4, 2, 2, 2), "paddings": (2, 2, 2, 2, 1)}
MUSIC: dict[str, Any] = {
    "kernels": (10, 6, 4, 4, 4, 2, 2),
    "strides": (5, 3, 2, 2, 2, 2, 2),
    "paddings": (2, 2, 2, 2, 1, 1, 1),
}


class CpcConfig(PretrainedConfig):
    """Everything that fixes a CPC encoder; the defaults are the speech network's.

    Raises:
        ValueError: lists of different lengths, or numbers below one.
    """

    model_type = "groundbass_cpc"

    sample_rate: int = 16_000
    """Hz of the waveform."""
    kernels: Sequence[int] = SPEECH["kernels"]
    """Of the convolutions over time."""
    strides: Sequence[int] = SPEECH["strides"]
    """Of the convolutions; their product is the step of a latent in samples."""
    paddings: Sequence[int] = SPEECH["paddings"]
    """Zeros on either side of each convolution's input."""
    channels: Sequence[int] = ()
    """Output channels of each convolution; the last is the width of a latent. By default 512 each."""
    context_size: int = 256
    """Width of the GRU's state."""
    channel_norm: bool = False
    """Normalise each convolution's output over its channels, before ReLU."""
    input_mean: float = 0.0
    """Subtracted from the waveform."""
    input_std: float = 1.0
    """Divides it then (the speech network was trained on a deviation of 0.063)."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.kernels, self.strides, self.paddings = list(self.kernels), list(self.strides), list(self.paddings)
        self.channels = list(self.channels) or [512] * len(self.kernels)
        self._check()

    def _check(self) -> None:
        lists = {name: getattr(self, name) for name in ("kernels", "strides", "paddings", "channels")}
        if len({len(values) for values in lists.values()}) != 1 or not self.kernels:
            sizes = ", ".join(f"{len(values)} {name}" for name, values in lists.items())
            raise ValueError(f"CPC got {sizes}; each convolution needs one of each.")
        least = min(*self.kernels, *self.strides, *self.channels, self.context_size, self.sample_rate)
        if least < 1 or min(self.paddings) < 0:
            raise ValueError(
                f"CPC got {lists} and a context of {self.context_size}; all are at least 1, and paddings at least 0."
            )
        if self.input_std <= 0:
            raise ValueError(f"CPC's input_std is {self.input_std}, but the waveform is divided by it: more than 0.")

    @classmethod
    def music(cls, **changes: Any) -> CpcConfig:
        """The network for music at 22,050 Hz: 59,049 samples make 124 latents."""
        return cls(**({"sample_rate": 22_050, **MUSIC} | changes))

    @property
    def hop(self) -> int:
        """Samples from a latent to the next: the product of the strides."""
        return math.prod(self.strides)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states: the larger one of latent and context; the other is filled up with zeros."""
        return max(self.channels[-1], self.context_size)

    def lengths(self, samples: int | Tensor) -> list[Any]:
        """Output lengths of the convolutions, one after the other: floor((n + 2 padding - kernel) / stride) + 1."""
        found = []
        for kernel, stride, padding in zip(self.kernels, self.strides, self.paddings, strict=True):
            there = samples > 0  # padding alone is no sound
            samples = ((samples + 2 * padding - kernel) // stride + 1) * there
            found.append(samples)
        return found


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [batch, channels, frames]."""

    def forward(self, signal: Tensor) -> Tensor:
        return super().forward(signal.transpose(1, 2)).transpose(1, 2)


class Latents(nn.Module):
    """The strided convolutions, each with ReLU; behind a clip's end all is zero, as if it ended there."""

    def __init__(self, config: CpcConfig) -> None:
        super().__init__()
        self.lengths = config.lengths
        self.seq = nn.Sequential()
        inputs = (1, *config.channels[:-1])
        shapes = zip(inputs, config.channels, config.kernels, config.strides, config.paddings, strict=True)
        for number, (source, target, kernel, stride, padding) in enumerate(shapes):
            layer: list[nn.Module] = [nn.Conv1d(source, target, kernel, stride, padding)]
            if config.channel_norm:
                layer.append(ChannelNorm(target))
            self.seq.add_module(f"layer-{number}", nn.Sequential(*layer, nn.ReLU()))

    def forward(self, waveform: Tensor, valid: Tensor | None = None) -> Tensor:
        """waveform: [batch, samples]; valid: [batch] samples of sound. Returns [batch, frames, channels]."""
        signal = waveform[:, None]
        lengths = [None] * len(self.seq) if valid is None else self.lengths(valid)
        for layer, length in zip(self.seq, lengths, strict=True):
            signal = layer(signal)
            if length is not None:
                signal = signal * time_mask(length, signal.shape[-1])[:, None]
        return signal.transpose(1, 2)


class Context(nn.Module):
    """A GRU over the latents: what each frame's context knows is its past and itself."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.autoregressor = nn.GRU(inputs, size, batch_first=True)

    def forward(self, latents: Tensor) -> Tensor:
        """[batch, frames, channels] -> [batch, frames, size], from a state of zeros."""
        # by their names, since wrappers (FSDP, functional calls) exchange a module's weights under it
        gru = self.autoregressor
        weights: list[Any] = [gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0]
        start = latents.new_zeros(1, latents.shape[0], gru.hidden_size)
        context: Tensor = torch.gru(latents, start, weights, True, 1, 0.0, self.training, False, True)[0]
        return context


class CpcModel(PreTrainedModel):
    """The encoder; its two layers are the latents and the context, which is `last_hidden_state`."""

    config: CpcConfig
    config_class = CpcConfig
    base_model_prefix = "cpc"
    main_input_name = "input_values"

    def __init__(self, config: CpcConfig) -> None:
        super().__init__(config)
        self.encoder = Latents(config)
        self.autoregressor = Context(config.channels[-1], config.context_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv1d, nn.GRU, nn.LayerNorm)):
            module.reset_parameters()  # PyTorch's defaults
        else:
            super()._init_weights(module)

    @property
    def frame_rate(self) -> float:
        """Latents per second."""
        return self.config.sample_rate / self.config.hop

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return self.config.hidden_size

    @property
    def layers(self) -> int:
        """Entries of `hidden_states`: latents and context."""
        return 2

    def valid_frames(self, valid: Tensor) -> Tensor:
        """[batch] int64 samples -> [batch] int64 frames, at least one where there is any sound to hear."""
        frames: Tensor = self.config.lengths(valid)[-1]
        return frames

    def encode(self, waveform: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latents and context in their own widths.

        Args:
            waveform: [batch, samples] in [-1, 1] at `config.sample_rate`.
            valid: [batch] samples of sound in each row, the rest being padding; None when all are.

        Returns:
            z [batch, frames, channels] and c [batch, frames, context_size]; frames behind `valid_frames(valid)` mean
            nothing.

        Raises:
            ValueError: a waveform of another shape, or shorter than one frame.
        """
        if waveform.dim() == 3 and waveform.shape[1] == 1:
            waveform = waveform.squeeze(1)
        if waveform.dim() != 2:
            raise ValueError(
                f"CPC takes a mono waveform [batch, samples], not {list(waveform.shape)}; mix the channels first."
            )
        # the second is torch.compile, which calls itself exporting too
        exporting = torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
        if not exporting and min(self.config.lengths(waveform.shape[1])) < 1:
            raise ValueError(f"The audio has {waveform.shape[1]} samples, too few for one frame: pad it or skip it.")
        waveform = (waveform - self.config.input_mean) / self.config.input_std
        if valid is not None:
            waveform = waveform * time_mask(valid, waveform.shape[1])
        latents = self.encoder(waveform.to(next(self.encoder.parameters()).dtype), valid)
        return latents, self.autoregressor(latents)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Tensor, ...]:
        """Listen: `encode`, and both filled up with zeros to one width.

        Args:
            input_values: [batch, samples] (or [batch, 1, samples]) waveform in [-1, 1] at `config.sample_rate`.
            attention_mask: [batch, samples] 1 for sound, 0 for the padding after it.
            output_hidden_states: also return `hidden_states`: latents and context.
            return_dict: False returns a tuple.

        Returns:
            `last_hidden_state`: [batch, frames, dim], the context.

        Raises:
            ValueError: see `encode`.
        """
        valid = None if attention_mask is None else attention_mask.long().sum(-1)
        states = tuple(nn.functional.pad(s, (0, self.dim - s.shape[-1])) for s in self.encode(input_values, valid))
        shown = states if output_hidden_states or self.config.output_hidden_states else None
        if return_dict is False:
            return (states[-1],) if shown is None else (states[-1], shown)  # type: ignore[return-value]
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=shown)


CpcConfig.register_for_auto_class()
CpcModel.register_for_auto_class("AutoModel")
