"""A transformer over patches of a filter bank, fixed positions, a class token: M2D's, MATPAC's and EAT's encoder.

Patches are time-major: token = time × bands + band. Each gets a sine position of its time and of its band (He et al.
2022's, time first), the class token gets none; then come the blocks of `transformer.py`, pre-LN with a norm at the end
(M2D, MATPAC) or post-LN with a norm before them (EAT).

`forward` gives frames: the patches of a time step side by side, as M2D's authors read their features (their mean over
the bands loses pitch), or that mean. Clips longer than a training crop are heard in stretches of one, as published.
Padding changes no valid frame. `embed`, `place` and `encode` are the parts that masked pretraining calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from .fbank import KaldiFbank
from .frontends import mel_filterbank
from .transformer import Transformer, time_mask

LOG_FLOOR = torch.finfo(torch.float32).eps


@dataclass
class ViTFields:
    """What a recipe chooses of a `ViTModel`; the defaults are M2D's and MATPAC++'s."""

    frontend: Literal["mel", "kaldi"] = "mel"
    """"mel", natural-log mel of Slaney's filters (M2D, MATPAC); "kaldi", Kaldi's filter bank with a Hann window on the
    unscaled waveform (EAT)."""
    mel_bins: int = 80
    """Filters; a multiple of patch_bins."""
    low_frequency: float = 50.0
    """Hz of the lowest filter's lower corner; 50 (M2D), 20 (Kaldi)."""
    frame_samples: int = 400
    """Samples of a filter bank's frame."""
    shift_samples: int = 160
    """Samples from one to the next."""
    fbank_mean: float = -7.056
    """Subtracted from the log energies."""
    fbank_std: float = 4.193
    """They are divided by this."""
    patch_frames: int = 16
    """Filter-bank frames of a patch."""
    patch_bins: int = 16
    """Mel bins of a patch."""
    hidden_size: int = 768
    """Width of the hidden states; a multiple of 4."""
    num_hidden_layers: int = 12
    """Blocks."""
    num_attention_heads: int = 12
    """Heads per block."""
    intermediate_size: int = 3072
    """Width of the feed-forward layers."""
    norm_first: bool = True
    """Pre-LN blocks."""
    hidden_dropout: float = 0.0
    """Of the blocks' outputs."""
    attention_dropout: float = 0.0
    """Of the attention weights."""
    initializer_range: float | None = None
    """Standard deviation of the linear layers' initial weights; None: Xavier's uniform."""
    class_token_std: float = 0.02
    """Standard deviation of the first class token."""
    stretch: int = 38
    """Time steps that are heard at once; longer clips are cut."""
    bands: Literal["side_by_side", "mean"] = "side_by_side"
    """"side_by_side", a frame is the patches of a time step one after the other; "mean", their mean."""


class ViTConfig(PretrainedConfig, ViTFields):
    """Configuration of `ViTModel`; the defaults are M2D's and MATPAC++'s: 85,254,144 parameters."""

    model_type = "groundbass_vit"

    sample_rate: int = 16_000
    """Hz of the waveform."""
    layer_norm_eps: float = 1e-6
    """Of all layer norms."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self._check()

    def _check(self) -> None:
        if self.frontend not in ("mel", "kaldi"):
            raise ValueError(f"The front end {self.frontend!r} isn't known: choose 'mel' or 'kaldi'.")
        if self.mel_bins % self.patch_bins:
            raise ValueError(
                f"{self.mel_bins} mel bins don't divide into patches of {self.patch_bins}: choose a multiple."
            )
        if self.hidden_size % self.num_attention_heads or self.hidden_size % 4:
            raise ValueError(
                f"A hidden size of {self.hidden_size} doesn't divide into {self.num_attention_heads} heads, and into "
                "sines and cosines of time and band: choose a multiple of both 4 and the heads."
            )

    @property
    def rows(self) -> int:
        """Patches of one time step: mel_bins / patch_bins."""
        return self.mel_bins // self.patch_bins

    @property
    def frame_rate(self) -> float:
        """Time steps per second: 6.25 Hz with the defaults."""
        return self.sample_rate / (self.shift_samples * self.patch_frames)

    @property
    def min_samples(self) -> int:
        """Samples that one time step needs: 2,800."""
        return self.frame_samples + (self.patch_frames - 1) * self.shift_samples

    def times(self, samples: int) -> int:
        """Time steps in so many samples: 38 in 97,520. A last one that isn't whole is dropped."""
        return max(0, (samples - self.frame_samples) // self.shift_samples + 1) // self.patch_frames


class SlaneyFbank(nn.Module):
    """Waveform to natural-log mel energies: whole frames only, periodic Hann window, Slaney's filters and norm."""

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, mel_bins: int, length: int, shift: int, low: float) -> None:
        super().__init__()
        self.length, self.shift, self._arguments = length, shift, (sample_rate, length, mel_bins, low)
        for name, table in self.tables().items():
            self.register_buffer(name, table, persistent=False)

    def tables(self) -> dict[str, Tensor]:
        """The buffers' values, computed afresh on the CPU (a model built on the meta device has none)."""
        with torch.device("cpu"):
            filters = mel_filterbank(*self._arguments, scale="slaney", area_norm=True)
            return {"window": torch.hann_window(self.length), "filters": filters}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SlaneyFbank:
        """Follow the model to another device, but not to another dtype; fill the tables on leaving the meta device."""
        was_meta = self.window.is_meta
        super()._apply(fn, recurse)
        if was_meta or self.window.dtype != torch.float32:
            for name, table in self.tables().items():
                setattr(self, name, table.to(self.window.device))
        return self

    def forward(self, waveform: Tensor) -> Tensor:
        """waveform: [batch, samples] in [-1, 1] -> [batch, frames, mel_bins] float32; no autocast inside."""
        with torch.autocast(waveform.device.type, enabled=False):
            traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()  # a graph knows no number of clips
            if waveform.device.type == "cpu" and not traced and len(waveform) > 1:  # a clip stays in the cache
                return torch.cat([self._energies(clip) for clip in waveform.split(1)])
            return self._energies(waveform)

    def _energies(self, waveform: Tensor) -> Tensor:
        frames = waveform.float().unfold(1, self.length, self.shift) * self.window
        power = torch.fft.rfft(frames).abs().square()
        return (power @ self.filters + LOG_FLOOR).log()


def sine_positions(times: int, rows: int, dim: int, device: torch.device) -> Tensor:
    """Fixed positions [times · rows, dim] float32: sines and cosines of the time, then of the band.

    Frequencies are 10,000^(-4 i / dim) for i below dim / 4 (He et al. 2022, masked autoencoders).
    """
    speed = torch.exp(torch.arange(dim // 4, device=device) * (-4.0 * math.log(10_000.0) / dim))
    time = torch.arange(times, device=device)[:, None] * speed
    band = torch.arange(rows, device=device)[:, None] * speed
    of_time = torch.cat([time.sin(), time.cos()], 1)[:, None].expand(-1, rows, -1)
    of_band = torch.cat([band.sin(), band.cos()], 1)[None].expand(times, -1, -1)
    return torch.cat([of_time, of_band], -1).flatten(0, 1)


class ViTModel(PreTrainedModel):
    """Waveform in, hidden states of time steps out."""

    config_class = ViTConfig
    config: ViTConfig
    base_model_prefix = "vit"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Block"]

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        rate, bins, low = config.sample_rate, config.mel_bins, config.low_frequency
        length, shift = config.frame_samples, config.shift_samples
        if config.frontend == "kaldi":
            per_ms = 1000.0 / rate
            self.filter_bank: nn.Module = KaldiFbank(rate, bins, length * per_ms, shift * per_ms, low, 1.0, povey=False)
        else:
            self.filter_bank = SlaneyFbank(rate, bins, length, shift, low)
        size = (config.patch_frames, config.patch_bins)
        self.patch_embedding = nn.Conv2d(1, config.hidden_size, size, stride=size)
        self.class_token = nn.Parameter(torch.empty(config.hidden_size))
        self.encoder = Transformer(
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.intermediate_size,
            norm_first=config.norm_first,
            dropout=config.hidden_dropout,
            attention_dropout=config.attention_dropout,
            eps=config.layer_norm_eps,
            conv_positions=None,
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The published initialisation; `init` leaves weights alone that come from a checkpoint."""
        if isinstance(module, ViTModel):
            init.normal_(module.class_token, std=self.config.class_token_std)
        elif isinstance(module, KaldiFbank | SlaneyFbank):
            for name, table in module.tables().items():
                init.copy_(getattr(module, name), table)
        elif isinstance(module, nn.Linear):
            if self.config.initializer_range is None:
                init.xavier_uniform_(module.weight)
            else:
                init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            width = module.weight[0].numel()  # Xavier of the patch as one row, as if it were a linear layer
            bound = math.sqrt(6.0 / (width + module.weight.shape[0]))
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.zeros_(module.bias)

    @property
    def frame_rate(self) -> float:
        """Time steps per second, in Hz."""
        return self.config.frame_rate

    @property
    def dim(self) -> int:
        """Width of a frame."""
        return self.config.hidden_size * (self.config.rows if self.config.bands == "side_by_side" else 1)

    @property
    def layers(self) -> int:
        """Number of hidden states: the input of the first block and the output of each."""
        return self.config.num_hidden_layers + 1

    def valid_frames(self, valid: Tensor) -> Tensor:
        """[batch] int64 valid samples to [batch] int64 time steps of valid samples only."""
        frames = ((valid - self.config.frame_samples) // self.config.shift_samples + 1).clamp(min=0)
        return frames // self.config.patch_frames

    def fbank(self, waveform: Tensor) -> Tensor:
        """Normalised filter bank [batch, frames, mel_bins] float32 of a waveform [batch, samples] in [-1, 1].

        Raises:
            ValueError: the waveform isn't [batch, samples], or shorter than one time step.
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
        return (features - self.config.fbank_mean) / self.config.fbank_std

    def embed(self, fbank: Tensor) -> Tensor:
        """Project the patches of a filter bank [batch, frames, mel_bins]: tokens [batch, times · rows, hidden_size]."""
        patches = self.patch_embedding(fbank[:, None].to(self.patch_embedding.weight.dtype))
        return patches.flatten(2).transpose(1, 2)

    def place(self, tokens: Tensor) -> Tensor:
        """Add the positions of the first times to tokens [batch, times · rows, hidden_size]."""
        times = tokens.shape[1] // self.config.rows
        found = sine_positions(times, self.config.rows, self.config.hidden_size, tokens.device)
        return tokens + found.to(tokens.dtype)

    def encode(
        self, tokens: Tensor, mask: Tensor | None = None, keep_all: bool = False, blocks: nn.Module | None = None
    ) -> tuple[Tensor, ...]:
        """Run the blocks over placed tokens, or any of them.

        Args:
            tokens: [batch, n, hidden_size] from `place`.
            mask: [batch, n] bool, True for valid tokens; None: all.
            keep_all: the state before the blocks and after each, else the last one only.
            blocks: a teacher's in place of the model's own.

        Returns:
            Hidden states [batch, 1 + n, hidden_size]; the first token is the class token.
        """
        start = self.class_token.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        mask = None if mask is None else F.pad(mask, (1, 0), value=True)
        through = self.encoder if blocks is None else blocks
        states: tuple[Tensor, ...] = through(torch.cat([start, tokens], 1), mask, keep_all=keep_all)
        return states

    def tokens(self, waveform: Tensor, valid: Tensor, flat: bool = False) -> tuple[Tensor, Tensor]:
        """What the blocks hear of a waveform [batch, samples], of which `valid` [batch] samples are sound.

        flat: without each band's mean over the clip, that is without level and mean spectrum.

        Returns:
            Placed tokens [batch, n, hidden_size], and bool [batch, n], True for those of sound.
        """
        with torch.no_grad():
            fbank = self.fbank(waveform)
            if flat:
                count = self.valid_frames(valid).clamp(min=1) * self.config.patch_frames
                inside = time_mask(count, fbank.shape[1])[..., None]
                fbank = fbank - fbank.masked_fill(~inside, 0.0).sum(1, keepdim=True) / count[:, None, None]
        found = self.place(self.embed(fbank))
        return found, self.token_mask(valid, found.shape[1])

    def token_mask(self, valid: Tensor, total: int) -> Tensor:
        """Bool [batch, total], True for the tokens of `tokens` that are sound, of `valid` [batch] samples."""
        return time_mask(self.valid_frames(valid) * self.config.rows, total)

    def encode_some(self, tokens: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """The last states [batch, kept, hidden_size] where only the tokens at `positions` [batch, kept] are heard.

        tokens: [batch, n, hidden_size] of `tokens`; mask: bool [batch, kept], False for places that hold nothing; None
        where every place holds one.
        """
        kept = tokens.gather(1, positions[..., None].expand(-1, -1, tokens.shape[2]))
        return self.encode(kept, mask)[-1][:, 1:]

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Waveform [batch, samples] to hidden states [batch, times, dim].

        Args:
            input_values: [batch, samples] waveform at `config.sample_rate`, in [-1, 1].
            attention_mask: [batch, samples], 1 for audio and 0 for the padding after it; None: no padding.
            output_hidden_states: give all `layers` hidden states.
            return_dict: a `BaseModelOutput`, else a tuple.
        """
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        tokens = self.embed(self.fbank(input_values))
        rows, stretch = self.config.rows, self.config.stretch
        batch, times = tokens.shape[0], tokens.shape[1] // rows
        valid = torch.full((batch,), input_values.shape[1], device=tokens.device)
        if attention_mask is not None:
            valid = attention_mask.long().sum(-1)
        # the second is torch.compile, which calls itself exporting too
        exporting = torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
        if exporting or times > stretch:  # a graph knows no length: there, always whole stretches, and one of silence
            tokens = F.pad(tokens, (0, 0, 0, stretch * rows - (0 if exporting else 1)))
            tokens = tokens[:, : tokens.shape[1] // (stretch * rows) * (stretch * rows)]
        else:
            stretch = times
        inside = time_mask(self.valid_frames(valid) * rows, tokens.shape[1])
        tokens, mask = tokens.reshape(-1, stretch * rows, tokens.shape[2]), inside.reshape(-1, stretch * rows)
        states = self.encode(self.place(tokens), mask, keep_all=True)
        frames = tuple(self._frames(state, batch)[:, :times] for state in states)
        output = BaseModelOutput(
            last_hidden_state=frames[-1],
            hidden_states=frames if output_hidden_states else None,
        )
        if return_dict is None:
            return_dict = bool(self.config.return_dict)
        return output if return_dict else output.to_tuple()

    def _frames(self, state: Tensor, batch: int) -> Tensor:
        """[batch · pieces, 1 + n, hidden_size] of patches to [batch, times, dim] of time steps."""
        patches = state[:, 1:].unflatten(1, (-1, self.config.rows))
        frames = patches.flatten(2) if self.config.bands == "side_by_side" else patches.mean(2)
        return frames.reshape(batch, -1, frames.shape[-1])


ViTConfig.register_for_auto_class()
ViTModel.register_for_auto_class("AutoModel")
