"""The conformer encoder of MusicFM, MuQ and OMAR-RQ (Gulati et al. 2020): log-mel, convolutions, conformer layers.

A layer is `transformers`' Wav2Vec2ConformerEncoderLayer with rotary positions: half a feed-forward step, attention, a
convolution over time, another half step, a layer norm; the same parameter names and, with the same weights, the same
output. The rotation turns the layer's input before queries and keys are projected, as there. Padding changes no valid
frame, in training neither: batch norm's statistics leave it out. `extract` is the front end, `encode` the rest, as in
`mert.py`; the masked objectives call them apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from .frontends import LogMel, MelScale, ResidualMelFrontEnd, StackedMelFrontEnd, normalise_inside
from .layers import silu
from .transformer import Rotation, rotate, rotation, time_mask

MelFrontEnds = Literal["conv2d", "stacked"]


@dataclass
class ConformerFields:
    """What a recipe chooses of a `ConformerModel`; the defaults are MuQ's."""

    sample_rate: int = 24_000
    """Hz of the waveform."""
    frontend: MelFrontEnds = "conv2d"
    """"conv2d", two residual 2-D blocks on decibels (MusicFM, MuQ); "stacked", four frames of log10(1 + 10,000 · mel)
    side by side (OMAR-RQ)."""
    mel_bins: int = 128
    """Filters."""
    n_fft: int = 2048
    """Samples of the mel spectrum's window."""
    mel_hop: int = 240
    """Samples per mel frame; an encoder frame is four of them."""
    mel_scale: MelScale = "htk"
    """"htk", or "slaney" with Slaney's norm."""
    mel_high: float | None = None
    """Hz of the highest filter; None: half the sample rate."""
    mel_mean: float = 6.7684
    """Subtracted from the compressed mel spectrum, one number for all bins."""
    mel_std: float = 18.4179
    """It is divided by this."""
    mel_channels: int = 512
    """Channels of the "conv2d" front end."""
    hidden_size: int = 1024
    """Width of the hidden states."""
    num_hidden_layers: int = 12
    """Conformer layers."""
    num_attention_heads: int = 16
    """Heads per layer; each gets an even width."""
    intermediate_size: int = 4096
    """Width of the feed-forward layers."""
    conv_kernel: int = 31
    """Taps of the depthwise convolution, odd."""
    hidden_dropout: float = 0.1
    """After feed-forward and convolution, and before the layers."""
    attention_dropout: float = 0.1
    """Of the attention weights, and after attention."""
    activation_dropout: float = 0.1
    """Between the feed-forward layers."""


class ConformerConfig(PretrainedConfig, ConformerFields):
    """Configuration of `ConformerModel`; the defaults are MuQ's: 316,344,320 parameters."""

    model_type = "groundbass_conformer"

    layer_norm_eps: float = 1e-5
    """Of all layer norms."""
    initializer_range: float = 0.02
    """Standard deviation of the linear layers' initial weights."""
    rotary_base: float = 10_000.0
    """Base of the rotary angles."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self._check()

    def _check(self) -> None:
        if self.frontend not in ("conv2d", "stacked"):
            raise ValueError(f"The front end {self.frontend!r} isn't known: choose 'conv2d' or 'stacked'.")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"A hidden size of {self.hidden_size} doesn't divide into {self.num_attention_heads} heads of even "
                f"width, which rotary positions need: choose a multiple of {2 * self.num_attention_heads}."
            )
        if self.conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel is {self.conv_kernel}, but a centred convolution has an odd number of taps.")

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next: four mel hops."""
        return 4 * self.mel_hop

    @property
    def frame_rate(self) -> float:
        """Frames per second, in Hz."""
        return self.sample_rate / self.hop_samples

    @property
    def feature_dim(self) -> int:
        """Width of what the front end gives."""
        return 4 * self.mel_bins if self.frontend == "stacked" else self.mel_channels * math.ceil(self.mel_bins / 4)

    def frames(self, samples: int) -> int:
        """Frames of a clip of `samples` samples: 720,000 give 750 with the defaults."""
        return samples // self.hop_samples


class ConformerFeedForward(nn.Module):
    """Linear, swish, linear; dropout after each."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.intermediate_dropout = nn.Dropout(config.activation_dropout)
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.intermediate_dropout(silu(self.intermediate_dense(hidden)))
        return self.output_dropout(self.output_dense(inner))


class RotaryAttention(nn.Module):
    """Self-attention whose queries and keys are projections of rotated states."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.linear_q = nn.Linear(config.hidden_size, config.hidden_size)
        self.linear_k = nn.Linear(config.hidden_size, config.hidden_size)
        self.linear_v = nn.Linear(config.hidden_size, config.hidden_size)
        self.linear_out = nn.Linear(config.hidden_size, config.hidden_size)

    def _split(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, hidden: Tensor, attend: Tensor | None, turn: Rotation) -> Tensor:
        """hidden: [batch, frames, dim]; attend: [batch, 1, 1, frames] bool; turn: from `rotation`."""
        turned = rotate(self._split(hidden), turn).transpose(1, 2).flatten(2)
        query, key = self._split(self.linear_q(turned)), self._split(self.linear_k(turned))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            query, key, self._split(self.linear_v(hidden)), attn_mask=attend, dropout_p=dropout
        )
        return self.linear_out(mixed.transpose(1, 2).flatten(2))


class Pointwise(nn.Conv1d):
    """A convolution of one tap over [batch, frames, channels], as the matrix product that it is."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.squeeze(2))


class ConvolutionModule(nn.Module):
    """Layer norm, gated pointwise convolution, depthwise convolution over time, batch norm, swish, pointwise."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        dim, kernel = config.hidden_size, config.conv_kernel
        self.layer_norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.pointwise_conv1 = Pointwise(dim, 2 * dim, 1, bias=False)
        self.depthwise_conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False)
        self.batch_norm = nn.BatchNorm1d(dim)
        self.pointwise_conv2 = Pointwise(dim, dim, 1, bias=False)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden: Tensor, inside: Tensor | None) -> Tensor:
        """hidden: [batch, frames, dim]; inside: [batch, frames] bool, True for sound; None: all."""
        gated = F.glu(self.pointwise_conv1(self.layer_norm(hidden)), dim=-1).transpose(1, 2)
        if inside is not None:
            gated = gated.masked_fill(~inside[:, None], 0.0)
        mixed = silu(normalise_inside(self.batch_norm, self.depthwise_conv(gated), inside))
        return self.dropout(self.pointwise_conv2(mixed.transpose(1, 2)))


class ConformerLayer(nn.Module):
    """Half a feed-forward step, attention, convolution, half a feed-forward step, layer norm."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.ffn1_layer_norm = nn.LayerNorm(dim, eps=eps)
        self.ffn1 = ConformerFeedForward(config)
        self.self_attn_layer_norm = nn.LayerNorm(dim, eps=eps)
        self.self_attn_dropout = nn.Dropout(config.attention_dropout)
        self.self_attn = RotaryAttention(config)
        self.conv_module = ConvolutionModule(config)
        self.ffn2_layer_norm = nn.LayerNorm(dim, eps=eps)
        self.ffn2 = ConformerFeedForward(config)
        self.final_layer_norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, hidden: Tensor, attend: Tensor | None, inside: Tensor | None, turn: Rotation) -> Tensor:
        """hidden: [batch, frames, dim]; attend and inside: which frames may be looked at, and are sound."""
        hidden = torch.add(hidden, self.ffn1(self.ffn1_layer_norm(hidden)), alpha=0.5)
        hidden = hidden + self.self_attn_dropout(self.self_attn(self.self_attn_layer_norm(hidden), attend, turn))
        hidden = hidden + self.conv_module(hidden, inside)
        hidden = torch.add(hidden, self.ffn2(self.ffn2_layer_norm(hidden)), alpha=0.5)
        return self.final_layer_norm(hidden)


class Conformer(nn.Module):
    """Conformer layers and a layer norm, under the names of `transformers`' Wav2Vec2ConformerEncoder."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.head_dim, self.base = config.hidden_size // config.num_attention_heads, config.rotary_base
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.num_hidden_layers))
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False

    def forward(self, hidden: Tensor, frame_mask: Tensor | None = None, keep_all: bool = True) -> tuple[Tensor, ...]:
        """Run the layers over [batch, frames, dim]; frame_mask: [batch, frames] bool, True for sound; None: all.

        Returns the input of the first layer and the output of each, the last one normalised; without keep_all the
        last one only.
        """
        attend = None
        if frame_mask is not None:
            hidden = hidden.masked_fill(~frame_mask[..., None], 0.0)
            # an item without a valid frame looks at everything: its output means nothing, but isn't NaN
            attend = (frame_mask | ~frame_mask.any(-1, keepdim=True))[:, None, None]
        hidden = self.dropout(hidden)
        turn = rotation(hidden.shape[1], self.head_dim, self.base, hidden.device)
        states = [hidden]
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                hidden = checkpoint(layer, hidden, attend, frame_mask, turn, use_reentrant=False)
            else:
                hidden = layer(hidden, attend, frame_mask, turn)
            states = [*states, hidden] if keep_all else [hidden]
        return (*states[:-1], self.layer_norm(states[-1]))


class ConformerModel(PreTrainedModel):
    """Waveform in, hidden states out: a mel front end, a projection and conformer layers."""

    config_class = ConformerConfig
    config: ConformerConfig
    base_model_prefix = "conformer"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["ConformerLayer"]

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__(config)
        self.feature_extractor = _front_end(config)
        self.projection = nn.Linear(config.feature_dim, config.hidden_size)
        self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))
        self.encoder = Conformer(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Wav2vec 2.0's initialisation; `init` leaves weights alone that come from a checkpoint."""
        if isinstance(module, ConformerModel):
            init.uniform_(module.masked_spec_embed)
        elif isinstance(module, LogMel):
            for name, table in module.tables().items():
                init.copy_(getattr(module, name), table)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            for name, buffer in module.named_buffers():
                (init.ones_ if name == "running_var" else init.zeros_)(buffer)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            init.kaiming_normal_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)

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
        """Number of hidden states: the input of the first layer and the output of each."""
        return self.config.num_hidden_layers + 1

    def frames(self, samples: int) -> int:
        """Frames of a clip of `samples` samples."""
        return self.config.frames(samples)

    def valid_frames(self, valid: Tensor) -> Tensor:
        """[batch] int64 valid samples to [batch] int64 valid frames."""
        return valid // self.config.hop_samples

    def extract(self, input_values: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Run the front end.

        Args:
            input_values: [batch, samples] waveform at `config.sample_rate`, in [-1, 1].
            attention_mask: [batch, samples], 1 for audio and 0 for the padding after it; None: no padding.

        Returns:
            Features [batch, frames, feature_dim], and the frame mask [batch, frames] bool, None without a mask.

        Raises:
            ValueError: the waveform isn't [batch, samples], or shorter than one frame.
        """
        if input_values.ndim != 2:
            raise ValueError(
                f"The waveform has the shape {list(input_values.shape)}, expected [batch, samples]: mix channels to "
                "mono and fold views into the batch."
            )
        least = self.config.hop_samples
        if input_values.shape[1] < least:
            raise ValueError(
                f"The audio has {input_values.shape[1]} samples, but one frame needs {least} "
                f"({1000 * least / self.config.sample_rate:.1f} ms at {self.config.sample_rate} Hz): pad it or skip it."
            )
        valid = None if attention_mask is None else attention_mask.long().sum(-1)
        features = self.feature_extractor(input_values, valid)
        return features, None if valid is None else time_mask(self.valid_frames(valid), features.shape[1])

    def encode(
        self,
        features: Tensor,
        frame_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> BaseModelOutput:
        """Project the features, mask frames, run the layers; arguments and result as `MertModel.encode`'s."""
        hidden = self.projection(features.to(self.projection.weight.dtype))
        if mask_time_indices is not None:
            hidden = torch.where(mask_time_indices[..., None], self.masked_spec_embed.to(hidden.dtype), hidden)
        states = self.encoder(hidden, frame_mask, keep_all=output_hidden_states)
        return BaseModelOutput(
            last_hidden_state=states[-1],
            hidden_states=states if output_hidden_states else None,
        )

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        mask_time_indices: Tensor | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Waveform [batch, samples] to hidden states: `extract`, then `encode`; see there for arguments and errors."""
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        features, frame_mask = self.extract(input_values, attention_mask)
        output = self.encode(features, frame_mask, mask_time_indices, output_hidden_states)
        if return_dict is None:
            return_dict = bool(self.config.return_dict)
        return output if return_dict else output.to_tuple()


def _front_end(config: ConformerConfig) -> ResidualMelFrontEnd | StackedMelFrontEnd:
    stacked, slaney = config.frontend == "stacked", config.mel_scale == "slaney"
    log_mel = LogMel(
        config.sample_rate, config.n_fft, config.mel_hop, config.mel_bins, 0.0, config.mel_high, config.mel_scale,
        area_norm=slaney, edges="reflect", compress="log1p" if stacked else "decibels",
    )  # fmt: skip
    if stacked:
        return StackedMelFrontEnd(log_mel, config.mel_bins, config.mel_mean, config.mel_std)
    return ResidualMelFrontEnd(log_mel, config.mel_bins, config.mel_channels, config.mel_mean, config.mel_std)


ConformerConfig.register_for_auto_class()
ConformerModel.register_for_auto_class("AutoModel")
