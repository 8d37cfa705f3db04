"""MERT's encoder (Li et al. 2023, arXiv:2306.00107) and its relatives: a HuBERT-like model of 24 kHz music.

A front end turns the waveform into frames (convolutions at 75 Hz, or log-mel at 25 Hz as in BEST-RQ and MusicFM),
a linear layer projects them, a transformer mixes them. `extract` is the first half, `encode` the second; the masked
objectives call them apart. With the published front end the parameters have the names of `transformers.HubertModel`
and, with the same weights, the same output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from .frontends import ConvFrontEnd, LogMel, MelFrontEnd, MelScale, TrainedLogMel, normalize_waveform
from .transformer import Transformer, time_mask

FrontEnd = Literal["conv", "mel"]
Positions = Literal["conv", "rotary"]
Kernels = Literal["fixed", "trained"]


@dataclass
class MertFields:
    """What a recipe chooses of a `MertModel`; the defaults are MERT-v1-95M."""

    sample_rate: int = 24_000
    """Hz of the waveform."""
    do_normalize: bool = False
    """Make each clip zero-mean and unit-variance first, by its valid samples (MERT trained without)."""
    hidden_size: int = 768
    """Width of the hidden states."""
    num_hidden_layers: int = 12
    """Number of blocks."""
    num_attention_heads: int = 12
    """Attention heads per block."""
    intermediate_size: int = 3072
    """Width of the feed-forward layers."""
    norm_first: bool = False
    """Pre-LN blocks (330M) instead of post-LN (95M); Hugging Face's `do_stable_layer_norm`."""
    hidden_dropout: float = 0.1
    """After attention and feed-forward, and before the blocks."""
    attention_dropout: float = 0.1
    """Of the attention weights; on a CPU above 0 it takes a slow path."""
    feat_proj_dropout: float = 0.1
    """After the projection of the features."""
    layerdrop: float = 0.05
    """Probability that a block is skipped in training."""
    feature_grad_mult: float = 0.1
    """Factor on the gradient that reaches the front end; 0 freezes it."""
    frontend: FrontEnd = "conv"
    """"conv" (wav2vec 2.0's convolutions) or "mel" (log-mel and 2-D convolutions)."""
    conv_dim: Sequence[int] = (512,) * 7
    """Channels of the "conv" front end's layers."""
    mel_bins: int = 128
    """Mel filters of the "mel" front end."""
    n_fft: int = 2048
    """Samples of its Fourier transform."""
    mel_high: float | None = None
    """Hz; None: half the sample rate."""
    mel_channels: int = 64
    """Channels of the 2-D convolutions."""
    mel_kernels: Kernels = "fixed"
    """"trained": the mel spectrum's Fourier kernels and filters are weights too."""
    positions: Positions = "conv"
    """"conv" (before the blocks) or "rotary" (in the attention)."""
    num_conv_pos_embeddings: int = 128
    """Kernel of the positional convolution."""
    num_conv_pos_embedding_groups: int = 16
    """Its groups."""


class MertConfig(PretrainedConfig, MertFields):
    """Configuration of `MertModel`; the defaults are MERT-v1-95M, `MertConfig.large()` is MERT-v1-330M.

    MERT-v0 is the default at `sample_rate=16_000` (50 Hz).
    """

    model_type = "groundbass_mert"

    activation_dropout: float = 0.0
    """Between the feed-forward layers."""
    layer_norm_eps: float = 1e-5
    """Of all layer norms."""
    initializer_range: float = 0.02
    """Standard deviation of the linear layers' initial weights."""
    norm_over_padding: bool = False
    """The group norm's statistics take in padding, as Hugging Face's HuBERT does; otherwise padding changes no valid
    frame. Only the "conv" front end has this variant."""
    conv_kernel: Sequence[int] = (10, 3, 3, 3, 3, 2, 2)
    """Their kernels."""
    conv_stride: Sequence[int] = (5, 2, 2, 2, 2, 2, 2)
    """Their strides."""
    mel_hop: int = 240
    """Samples per mel frame; an encoder frame is four of them."""
    mel_low: float = 0.0
    """Hz."""
    mel_scale: MelScale = "htk"
    """"htk" or "slaney"."""
    mel_mean: float = 6.768
    """dB subtracted (default: MusicFM's statistics of FMA, waveforms in [-1, 1])."""
    mel_std: float = 18.418
    """dB divided by."""
    rotary_base: float = 10_000.0
    """Base of the rotary angles."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.conv_dim = list(self.conv_dim)
        self.conv_kernel = list(self.conv_kernel)
        self.conv_stride = list(self.conv_stride)
        self._check()

    def _check(self) -> None:
        if self.frontend not in ("conv", "mel"):
            raise ValueError(f"The front end {self.frontend!r} isn't known: choose 'conv' or 'mel'.")
        if self.mel_kernels not in ("fixed", "trained"):
            raise ValueError(f"The mel kernels {self.mel_kernels!r} aren't known: choose 'fixed' or 'trained'.")
        if self.positions not in ("conv", "rotary"):
            raise ValueError(f"The positions {self.positions!r} aren't known: choose 'conv' or 'rotary'.")
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride) > 0:
            raise ValueError(
                f"conv_dim, conv_kernel and conv_stride have {len(self.conv_dim)}, {len(self.conv_kernel)} and "
                f"{len(self.conv_stride)} entries: give one of each per layer."
            )
        parts = 2 * self.num_attention_heads if self.positions == "rotary" else self.num_attention_heads
        if self.hidden_size % parts:
            raise ValueError(
                f"A hidden size of {self.hidden_size} doesn't divide into {self.num_attention_heads} heads"
                f"{' of even width, which rotary positions need' if self.positions == 'rotary' else ''}: "
                f"choose a multiple of {parts}."
            )
        if self.positions == "conv" and self.hidden_size % self.num_conv_pos_embedding_groups:
            raise ValueError(
                f"A hidden size of {self.hidden_size} doesn't divide into {self.num_conv_pos_embedding_groups} groups "
                f"of the positional convolution: change num_conv_pos_embedding_groups."
            )

    @classmethod
    def base(cls, **changes: Any) -> MertConfig:
        """MERT-v1-95M: 12 post-LN blocks of 768; 94,371,712 parameters."""
        return cls(**changes)

    @classmethod
    def large(cls, **changes: Any) -> MertConfig:
        """MERT-v1-330M: 24 pre-LN blocks of 1024, no dropout, unscaled feature gradient; 315,428,992 parameters."""
        published: dict[str, Any] = {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "norm_first": True,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            "feat_proj_dropout": 0.0,
            "layerdrop": 0.0,
            "feature_grad_mult": 1.0,
        }
        return cls(**{**published, **changes})

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next: 320 ("conv") or 960 ("mel") with the defaults."""
        return math.prod(self.conv_stride) if self.frontend == "conv" else 4 * self.mel_hop

    @property
    def frame_rate(self) -> float:
        """Frames per second, in Hz."""
        return self.sample_rate / self.hop_samples

    @property
    def min_samples(self) -> int:
        """Samples that one frame needs: 400 ("conv") or 960 ("mel") with the defaults."""
        if self.frontend == "mel":
            return self.hop_samples
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def feature_dim(self) -> int:
        """Width of what the front end gives."""
        return self.conv_dim[-1] if self.frontend == "conv" else self.mel_channels * math.ceil(self.mel_bins / 4)

    def frames(self, samples: int) -> int:
        """Frames of a clip of `samples` samples: 120,000 give 374 ("conv") or 125 ("mel") with the defaults."""
        return max(self._frames(samples), 0)

    def valid_frames(self, valid: Tensor) -> Tensor:
        """[batch] int64 valid samples to [batch] int64 frames that see valid samples only."""
        return self._frames(valid).clamp(min=0)

    @overload
    def _frames(self, samples: int) -> int: ...
    @overload
    def _frames(self, samples: Tensor) -> Tensor: ...
    def _frames(self, samples: int | Tensor) -> int | Tensor:
        if self.frontend == "mel":
            return samples // self.hop_samples
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples


class _ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a constant (fairseq's GradMultiply)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class FeatureProjection(nn.Module):
    """Layer norm of the features, a linear layer to the transformer's width, dropout."""

    def __init__(self, config: MertConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.feature_dim, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.feature_dim, config.hidden_size)
        self.dropout = nn.Dropout(config.feat_proj_dropout)

    def forward(self, features: Tensor) -> Tensor:
        return self.dropout(self.projection(self.layer_norm(features)))


def _front_end(config: MertConfig) -> ConvFrontEnd | MelFrontEnd:
    if config.frontend == "conv":
        return ConvFrontEnd(config.conv_dim, config.conv_kernel, config.conv_stride, config.norm_over_padding)
    log_mel = (TrainedLogMel if config.mel_kernels == "trained" else LogMel)(
        config.sample_rate,
        config.n_fft,
        config.mel_hop,
        config.mel_bins,
        config.mel_low,
        config.mel_high,
        config.mel_scale,
    )
    return MelFrontEnd(log_mel, config.mel_bins, config.mel_channels, config.mel_mean, config.mel_std)


class MertModel(PreTrainedModel):
    """Waveform in, hidden states out: a front end, a projection and a transformer.

    Source: Li et al. 2023 (MERT) on Hsu et al. 2021 (HuBERT).
    """

    config_class = MertConfig
    config: MertConfig
    base_model_prefix = "mert"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Block"]

    def __init__(self, config: MertConfig) -> None:
        super().__init__(config)
        self.feature_extractor = _front_end(config)
        self.feature_projection = FeatureProjection(config)
        self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))
        conv_positions = (config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups)
        self.encoder = Transformer(
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.intermediate_size,
            norm_first=config.norm_first,
            dropout=config.hidden_dropout,
            attention_dropout=config.attention_dropout,
            activation_dropout=config.activation_dropout,
            layerdrop=config.layerdrop,
            eps=config.layer_norm_eps,
            conv_positions=conv_positions if config.positions == "conv" else None,
            rotary_base=config.rotary_base if config.positions == "rotary" else None,
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """HuBERT's initialisation; `init` leaves weights alone that come from a checkpoint."""
        if isinstance(module, MertModel):
            init.uniform_(module.masked_spec_embed)
        elif isinstance(module, nn.Conv1d) and hasattr(module, "parametrizations"):
            self._init_positions(module)
        elif isinstance(module, LogMel):
            for name, table in module.tables().items():
                init.copy_(getattr(module, name), table)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            init.kaiming_normal_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)

    @staticmethod
    def _init_positions(conv: Any) -> None:
        """Normal with variance 4 / (kernel · dim), as wav2vec 2.0; the gains are the norms of the directions."""
        gains, directions = conv.parametrizations.weight.original0, conv.parametrizations.weight.original1
        init.normal_(directions, std=math.sqrt(4 / (directions.shape[2] * directions.shape[0])))
        init.copy_(gains, directions.norm(dim=(0, 1), keepdim=True))
        init.zeros_(conv.bias)

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
        """Number of hidden states: the input of the first block and the output of each."""
        return self.config.num_hidden_layers + 1

    def frames(self, samples: int) -> int:
        """Frames of a clip of `samples` samples."""
        return self.config.frames(samples)

    def valid_frames(self, valid: Tensor) -> Tensor:
        """[batch] int64 valid samples to [batch] int64 valid frames."""
        return self.config.valid_frames(valid)

    def extract(self, input_values: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Run the front end.

        Args:
            input_values: [batch, samples] waveform at `config.sample_rate`, in [-1, 1].
            attention_mask: [batch, samples], 1 for audio and 0 for the padding after it; None: no padding.

        Returns:
            Features [batch, frames, feature_dim] before layer norm and projection, their gradient scaled by
            `config.feature_grad_mult`; and the frame mask [batch, frames] bool (True: valid), None without a mask.

        Raises:
            ValueError: the waveform isn't [batch, samples], or shorter than one frame.
        """
        self._check_waveform(input_values)
        valid = None if attention_mask is None else attention_mask.long().sum(-1)
        waveform = normalize_waveform(input_values, valid) if self.config.do_normalize else input_values
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.feature_grad_mult > 0):
            features = self.feature_extractor(waveform, valid)
        if self.config.feature_grad_mult not in (0.0, 1.0):
            features = _ScaleGradient.apply(features, self.config.feature_grad_mult)
        frame_mask = None if valid is None else time_mask(self.valid_frames(valid), features.shape[1])
        return features, frame_mask

    def _check_waveform(self, waveform: Tensor) -> None:
        if waveform.ndim != 2:
            raise ValueError(
                f"The waveform has the shape {list(waveform.shape)}, expected [batch, samples]: mix channels to mono "
                f"and fold views into the batch."
            )
        least = self.config.min_samples
        if waveform.shape[-1] < least:
            raise ValueError(
                f"The audio has {waveform.shape[-1]} samples, but one frame needs {least} "
                f"({1000 * least / self.config.sample_rate:.1f} ms at {self.config.sample_rate} Hz): pad it or skip it."
            )

    def encode(
        self,
        features: Tensor,
        frame_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> BaseModelOutput:
        """Project the features, mask frames, run the transformer.

        Args:
            features: [batch, frames, feature_dim] from `extract`.
            frame_mask: [batch, frames] bool, True for valid frames; None: all valid.
            mask_time_indices: [batch, frames] bool, True where the learned mask embedding replaces the projected frame.
            output_hidden_states: give all `layers` hidden states.

        Returns:
            `last_hidden_state` [batch, frames, dim] and, if asked for, `hidden_states`, a tuple of `layers` such
            tensors: the input of block 1, then each block's output, as in Hugging Face's HuBERT.
        """
        hidden = self.feature_projection(features)
        if mask_time_indices is not None:
            embedding = self.masked_spec_embed.to(hidden.dtype)
            hidden = torch.where(mask_time_indices[..., None], embedding, hidden)
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


MertConfig.register_for_auto_class()
MertModel.register_for_auto_class("AutoModel")
