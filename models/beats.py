"""BEATs (Chen et al. 2022, arXiv:2212.09058): a transformer over 16 × 16 patches of a Kaldi filter bank.

Tokens are time-major: token = time × bands + band, with eight bands of 16 mel bins per 160 ms. Blocks are post-LN with
deep norm; positions come from a convolution over the token sequence and from one table of bucketed relative biases that
all blocks share, each scaling it by a gate of its own (WavLM's GRU-like gate, from the projected, unscaled query).

Parameters have the names of Microsoft's files (`beats_file.py` reads those). Padding changes no valid token. `encode`
takes any subset of the tokens with their true positions, which is how masked pretraining hears a quarter of a clip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from .fbank import KaldiFbank
from .layers import gelu
from .transformer import time_mask


@dataclass
class BeatsFields:
    """What a recipe chooses of a `BeatsModel`; the defaults are BEATs base."""

    mel_bins: int = 128
    """Filters; a multiple of patch_size."""
    fbank_mean: float = 15.41663
    """Subtracted from the log energies."""
    fbank_std: float = 6.55582
    """The log energies are divided by twice this."""
    patch_dim: int = 512
    """Width of the patch embedding."""
    hidden_size: int = 768
    """Width of the hidden states."""
    num_hidden_layers: int = 12
    """Blocks."""
    num_attention_heads: int = 12
    """Heads per block."""
    intermediate_size: int = 3072
    """Width of the feed-forward layers."""
    hidden_dropout: float = 0.1
    """After attention and feed-forward, and before the blocks."""
    attention_dropout: float = 0.1
    """Of the attention weights."""
    activation_dropout: float = 0.0
    """Between the feed-forward layers."""
    layerdrop: float = 0.0
    """Probability that a block is skipped in training."""
    conv_pos: int = 128
    """Kernel of the positional convolution, in tokens; 0: no such convolution."""
    conv_pos_groups: int = 16
    """Its groups."""
    num_buckets: int = 320
    """Relative distances told apart; 0: no relative bias."""
    max_distance: int = 800
    """From here on all distances share a bucket."""


class BeatsConfig(PretrainedConfig, BeatsFields):
    """Configuration of `BeatsModel`; the defaults are BEATs base: 90,311,792 parameters."""

    model_type = "groundbass_beats"

    sample_rate: int = 16_000
    """Hz of the waveform."""
    frame_length: float = 25.0
    """ms of a filter bank's frame."""
    frame_shift: float = 10.0
    """ms from one to the next."""
    low_frequency: float = 20.0
    """Hz of the lowest filter's lower corner."""
    waveform_scale: float = 32768.0
    """Factor on the waveform (Kaldi expects 16-bit integers)."""
    patch_size: int = 16
    """Frames and bins of a patch."""
    patch_bias: bool = False
    """Whether the patch embedding has a bias."""
    deep_norm: bool = True
    """Residuals times (2 · layers)^¼, initial weights scaled down (Wang et al. 2022)."""
    input_dropout: float = 0.0
    """After the projection of the patches."""
    gated_bias: bool = True
    """Each block scales the bias by a gate of its query."""
    classes: int = 0
    """Outputs of a fine-tuned head; 0: none."""
    head_dropout: float = 0.1
    """Before that head."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self._check()

    def _check(self) -> None:
        if self.mel_bins % self.patch_size:
            raise ValueError(
                f"{self.mel_bins} mel bins don't divide into patches of {self.patch_size}: choose a multiple."
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"A hidden size of {self.hidden_size} doesn't divide into {self.num_attention_heads} heads: choose a "
                "multiple."
            )
        if self.conv_pos and self.hidden_size % self.conv_pos_groups:
            raise ValueError(
                f"A hidden size of {self.hidden_size} doesn't divide into {self.conv_pos_groups} groups of the "
                "positional convolution: change conv_pos_groups."
            )

    @property
    def bands(self) -> int:
        """Patches of one time step: mel_bins / patch_size."""
        return self.mel_bins // self.patch_size

    @property
    def frame_samples(self) -> int:
        """Samples of a filter bank's frame: 400."""
        return int(self.sample_rate * self.frame_length * 0.001)

    @property
    def shift_samples(self) -> int:
        """Samples from one filter-bank frame to the next: 160."""
        return int(self.sample_rate * self.frame_shift * 0.001)

    @property
    def frame_rate(self) -> float:
        """Time steps per second: 6.25 Hz with the defaults."""
        return self.sample_rate / (self.shift_samples * self.patch_size)

    @property
    def min_samples(self) -> int:
        """Samples that one row of patches needs: 2,800."""
        return self.frame_samples + (self.patch_size - 1) * self.shift_samples

    def times(self, samples: int) -> int:
        """Rows of patches in so many samples: 62 in 10 s. A last row that isn't whole is dropped, as published."""
        return max(0, (samples - self.frame_samples) // self.shift_samples + 1) // self.patch_size


def relative_buckets(distance: Tensor, buckets: int, furthest: int) -> Tensor:
    """Bucket of each signed distance (key position minus query position), int64; T5's rule for both directions.

    Half of the buckets are for keys behind the query; of each half, the first half counts distances one by one, the
    rest grows with the logarithm up to `furthest`. Source: Raffel et al. 2020, and Microsoft's BEATs.
    """
    half = buckets // 2
    exact = half // 2
    size = distance.abs()
    grown = (size.clamp(min=1).float() / exact).log() / math.log(furthest / exact) * (half - exact)
    far = (exact + grown.to(torch.int64)).clamp(max=half - 1)
    return (distance > 0).to(torch.int64) * half + torch.where(size < exact, size, far)


class SelfAttention(nn.Module):
    """Multi-head self-attention whose relative bias is scaled by a gate of the query."""

    def __init__(self, dim: int, heads: int, dropout: float, gated: bool) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.gated = gated
        if gated:
            self.grep_linear = nn.Linear(dim // heads, 8)
            self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))

    def _split(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def gate(self, query: Tensor) -> Tensor:
        """Scale of the bias [batch, heads, tokens, 1] from the projected query [batch, heads, tokens, head_dim]."""
        update, reset = self.grep_linear(query).unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)
        scale: Tensor = update * (reset * self.grep_a - 1.0) + 2.0
        return scale

    def forward(self, hidden: Tensor, bias: Tensor | None, blocked: Tensor | None) -> Tensor:
        """Attend.

        Args:
            hidden: [batch, tokens, dim].
            bias: [batch or 1, heads, tokens, tokens] relative bias; None: none.
            blocked: [batch, 1, 1, tokens] bool, True for tokens that mustn't be looked at; None: all may.
        """
        query, key, value = (self._split(part(hidden)) for part in (self.q_proj, self.k_proj, self.v_proj))
        added = None
        if bias is not None:
            added = (self.gate(query) * bias if self.gated else bias).to(query.dtype)
            if blocked is not None:
                added = added.masked_fill(blocked, -torch.inf)
        elif blocked is not None:
            added = torch.zeros_like(blocked, dtype=query.dtype).masked_fill(blocked, -torch.inf)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=added, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class BeatsBlock(nn.Module):
    """Post-LN block: layer_norm(alpha · x + f(x)) around attention and around the feed-forward layers."""

    def __init__(self, config: BeatsConfig, layers: int) -> None:
        super().__init__()
        dim = config.hidden_size
        self.alpha = (2.0 * layers) ** 0.25 if config.deep_norm else 1.0
        gated = config.gated_bias and config.num_buckets > 0
        self.self_attn = SelfAttention(dim, config.num_attention_heads, config.attention_dropout, gated)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        if config.deep_norm:
            self._mark_gains((8.0 * layers) ** -0.25)

    def _mark_gains(self, small: float) -> None:
        """Deep norm's initial weights: xavier normal, gain 1 for queries and keys (Wang et al. 2022, table 2)."""
        attention: Any = self.self_attn
        for layer in (attention.q_proj, attention.k_proj):
            layer.initial_gain = 1.0
        for layer in (attention.v_proj, attention.out_proj, self.fc1, self.fc2):
            layer.initial_gain = small

    def forward(self, hidden: Tensor, bias: Tensor | None, blocked: Tensor | None) -> Tensor:
        attended = self.dropout(self.self_attn(hidden, bias, blocked))
        hidden = self.self_attn_layer_norm(hidden * self.alpha + attended)
        inner = self.activation_dropout(gelu(self.fc1(hidden)))
        return self.final_layer_norm(hidden * self.alpha + self.dropout(self.fc2(inner)))


class BeatsTransformer(nn.Module):
    """Positions and blocks over a sequence of tokens, or over some tokens of it.

    Args:
        config: widths, dropouts, positions.
        layers: blocks; the depth that deep norm counts with.
        conv_pos: kernel of the positional convolution; 0: none. None: the configuration's.
    """

    def __init__(self, config: BeatsConfig, layers: int | None = None, conv_pos: int | None = None) -> None:
        super().__init__()
        self.depth = config.num_hidden_layers if layers is None else layers
        self.heads, self.layerdrop, self.deep_norm = config.num_attention_heads, config.layerdrop, config.deep_norm
        self.buckets, self.furthest = config.num_buckets, config.max_distance
        kernel = config.conv_pos if conv_pos is None else conv_pos
        self.pos_conv = _positional_convolution(config, kernel) if kernel else None
        self.relative_attention_bias = nn.Embedding(self.buckets, self.heads) if self.buckets else None
        self.layers = nn.ModuleList(BeatsBlock(config, self.depth) for _ in range(self.depth))
        self.layer_norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.gradient_checkpointing = False

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        total: int | None = None,
        keep_all: bool = False,
    ) -> tuple[Tensor, ...]:
        """Mix tokens.

        Args:
            tokens: [batch, n, dim].
            positions: [batch, n] int64, where each token stands in a sequence of `total`; None: 0 to n - 1.
            mask: [batch, n] bool, True for valid tokens; None: all.
            total: length of the whole sequence; needed with positions.
            keep_all: give the state after every block, else the last one only.

        Returns:
            Hidden states [batch, n, dim]: the input of block 1, then each block's output.
        """
        blocked = None
        if mask is not None:
            tokens = tokens.masked_fill(~mask[..., None], 0.0)
            # an item without a valid token looks at everything: its output means nothing, but isn't NaN
            blocked = ~(mask | ~mask.any(-1, keepdim=True))[:, None, None]
        hidden = self.dropout(self.layer_norm(tokens + self._convolved(tokens, positions, mask, total)))
        bias = self._bias(hidden, positions)
        kept = torch.rand(self.depth, device=hidden.device) >= self.layerdrop if self._drops() else None
        states = [hidden]
        for index, block in enumerate(self.layers):
            if self.gradient_checkpointing and self.training:
                output = checkpoint(block, hidden, bias, blocked, use_reentrant=False)
            else:
                output = block(hidden, bias, blocked)
            hidden = output if kept is None else torch.where(kept[index], output, hidden)
            states.append(hidden)
        return tuple(states) if keep_all else (hidden,)

    def _drops(self) -> bool:
        return self.training and self.layerdrop > 0.0

    def _convolved(
        self, tokens: Tensor, positions: Tensor | None, mask: Tensor | None, total: int | None
    ) -> Tensor | float:
        """The positional convolution; some tokens of a sequence are laid onto it first, zeros between them."""
        if self.pos_conv is None:
            return 0.0
        if positions is None:
            return self._pos_conv(tokens)
        if total is None:
            raise ValueError("Tokens with positions need `total`, the length of the sequence that they stand in.")
        where = positions if mask is None else positions.masked_fill(~mask, total)  # padding goes behind the end
        index = where[..., None].expand_as(tokens)
        grid = tokens.new_zeros(tokens.shape[0], total + 1, tokens.shape[2]).scatter(1, index, tokens)
        return self._pos_conv(grid[:, :total]).gather(1, index.clamp(max=total - 1))

    def _pos_conv(self, tokens: Tensor) -> Tensor:
        assert self.pos_conv is not None
        convolved = self.pos_conv(tokens.transpose(1, 2))[..., : tokens.shape[1]]  # an even kernel gives one too many
        return F.gelu(convolved).transpose(1, 2)

    def _bias(self, hidden: Tensor, positions: Tensor | None) -> Tensor | None:
        """Relative bias [batch or 1, heads, n, n]."""
        if self.relative_attention_bias is None:
            return None
        place = torch.arange(hidden.shape[1], device=hidden.device)[None] if positions is None else positions
        buckets = relative_buckets(place[:, None, :] - place[:, :, None], self.buckets, self.furthest)
        found: Tensor = self.relative_attention_bias(buckets)
        return found.permute(0, 3, 1, 2)


def _positional_convolution(config: BeatsConfig, kernel: int) -> nn.Module:
    conv = nn.Conv1d(
        config.hidden_size, config.hidden_size, kernel, padding=kernel // 2, groups=config.conv_pos_groups
    )  # fmt: skip
    return parametrizations.weight_norm(conv, name="weight", dim=2)


@torch.no_grad()
def init_weights(module: nn.Module) -> None:
    """Initial weights of one module: BERT's (normal, 0.02), or deep norm's where a block asked for them.

    `init` leaves weights alone that come from a checkpoint.
    """
    if isinstance(module, KaldiFbank):
        for name, table in module.tables().items():
            init.copy_(getattr(module, name), table)
    elif isinstance(module, SelfAttention) and module.gated:
        init.ones_(module.grep_a)
    elif isinstance(module, nn.Linear):
        gain = getattr(module, "initial_gain", None)
        if gain is None:
            init.normal_(module.weight, std=0.02)
        else:
            init.xavier_normal_(module.weight, gain=gain)
        init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        init.normal_(module.weight, std=0.02)
    elif isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        init.xavier_uniform_(module.weight)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, nn.Conv1d) and hasattr(module, "parametrizations"):
        conv: Any = module
        gains, directions = conv.parametrizations.weight.original0, conv.parametrizations.weight.original1
        init.normal_(directions, std=math.sqrt(4 / (directions.shape[2] * directions.shape[0])))
        init.copy_(gains, directions.norm(dim=(0, 1), keepdim=True))
        init.zeros_(conv.bias)


class BeatsModel(PreTrainedModel):
    """Waveform in, hidden states of patches out.

    `forward` gives tokens in their order; as an encoder (`load_encoder`), the bands of a time step are averaged.
    """

    config_class = BeatsConfig
    config: BeatsConfig
    base_model_prefix = "beats"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["BeatsBlock"]

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__(config)
        self.filter_bank = KaldiFbank(
            config.sample_rate, config.mel_bins, config.frame_length, config.frame_shift, config.low_frequency,
            config.waveform_scale,
        )  # fmt: skip
        size = config.patch_size
        self.patch_embedding = nn.Conv2d(1, config.patch_dim, size, stride=size, bias=config.patch_bias)
        self.layer_norm = nn.LayerNorm(config.patch_dim)
        self.post_extract_proj = (
            nn.Linear(config.patch_dim, config.hidden_size) if config.patch_dim != config.hidden_size else None
        )
        self.dropout_input = nn.Dropout(config.input_dropout)
        self.encoder = BeatsTransformer(config)
        self.predictor = nn.Linear(config.hidden_size, config.classes) if config.classes else None
        self.predictor_dropout = nn.Dropout(config.head_dropout)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        init_weights(module)

    @property
    def frame_rate(self) -> float:
        """Time steps per second, in Hz."""
        return self.config.frame_rate

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return self.config.hidden_size

    @property
    def layers(self) -> int:
        """Number of hidden states: the input of the first block and the output of each."""
        return self.config.num_hidden_layers + 1

    @property
    def bands(self) -> int:
        """Tokens of one time step; an encoder averages them."""
        return self.config.bands

    def valid_frames(self, valid: Tensor) -> Tensor:
        """[batch] int64 valid samples to [batch] int64 time steps (rows of patches) of valid samples only."""
        frames = ((valid - self.config.frame_samples) // self.config.shift_samples + 1).clamp(min=0)
        return frames // self.config.patch_size

    def valid_patches(self, valid: Tensor) -> Tensor:
        """[batch] int64 valid samples to [batch] int64 valid tokens."""
        return self.valid_frames(valid) * self.config.bands

    def fbank(self, waveform: Tensor) -> Tensor:
        """Normalised filter bank [batch, frames, mel_bins] float32 of a waveform [batch, samples] in [-1, 1].

        Raises:
            ValueError: the waveform isn't [batch, samples], or shorter than one row of patches.
        """
        if waveform.ndim != 2:
            raise ValueError(
                f"The waveform has the shape {list(waveform.shape)}, expected [batch, samples]: mix channels to mono "
                "and fold views into the batch."
            )
        least = self.config.min_samples
        if waveform.shape[1] < least:
            raise ValueError(
                f"The audio has {waveform.shape[1]} samples, but one row of patches needs {least} "
                f"({1000 * least / self.config.sample_rate:.0f} ms at {self.config.sample_rate} Hz): pad it or skip it."
            )
        features: Tensor = self.filter_bank(waveform)
        return (features - self.config.fbank_mean) / (2 * self.config.fbank_std)

    def embed_patches(self, fbank: Tensor) -> Tensor:
        """Project the patches of a filter bank [batch, frames, mel_bins]: tokens [batch, n, hidden_size].

        Frames of a last row of patches that isn't whole are dropped.
        """
        patches = self.patch_embedding(fbank[:, None].to(self.patch_embedding.weight.dtype))
        tokens = self.layer_norm(patches.flatten(2).transpose(1, 2))
        return self.dropout_input(tokens if self.post_extract_proj is None else self.post_extract_proj(tokens))

    def encode(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        total: int | None = None,
        keep_all: bool = False,
    ) -> tuple[Tensor, ...]:
        """Run the transformer over tokens from `embed`, or over some of them; see `BeatsTransformer.forward`."""
        states: tuple[Tensor, ...] = self.encoder(tokens, positions, mask, total, keep_all)
        return states

    def logits(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Class logits [batch, classes] of a fine-tuned head: the mean over valid tokens of [batch, n, dim].

        Raises:
            ValueError: this model has no head.
        """
        if self.predictor is None:
            raise ValueError("This BEATs model has no fine-tuned head (classes = 0): load a fine-tuned checkpoint.")
        scores: Tensor = self.predictor(self.predictor_dropout(hidden))
        if mask is None:
            return scores.mean(1)
        return scores.masked_fill(~mask[..., None], 0.0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    def token_mask(self, attention_mask: Tensor | None, tokens: int) -> Tensor | None:
        """[batch, samples], 1 for audio and 0 for the padding after it, to [batch, tokens] bool; None stays None."""
        if attention_mask is None:
            return None
        return time_mask(self.valid_patches(attention_mask.long().sum(-1)), tokens)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Waveform [batch, samples] to hidden states [batch, tokens, dim].

        Args:
            input_values: [batch, samples] waveform at `config.sample_rate`, in [-1, 1].
            attention_mask: [batch, samples], 1 for audio and 0 for the padding after it; None: no padding.
            output_hidden_states: give all `layers` hidden states.
            return_dict: a `BaseModelOutput`, else a tuple.
        """
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        tokens = self.embed_patches(self.fbank(input_values))
        states = self.encode(tokens, mask=self.token_mask(attention_mask, tokens.shape[1]), keep_all=True)
        output = BaseModelOutput(
            last_hidden_state=states[-1],
            hidden_states=states if output_hidden_states else None,
        )
        if return_dict is None:
            return_dict = bool(self.config.return_dict)
        return output if return_dict else output.to_tuple()


BeatsConfig.register_for_auto_class()
BeatsModel.register_for_auto_class("AutoModel")
