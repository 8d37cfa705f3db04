"""HTS-AT: a Swin transformer on a spectrogram folded into a square, whose last tokens still know their time.

Paper: K. Chen et al., "HTS-AT: a hierarchical token-semantic audio transformer for sound classification and detection",
2022, arXiv:2202.00874. The front end is PANNs'; the trunk is that of CLAP's audio tower (`transformers.ClapAudioModel`
with the same weights gives the same numbers), the head a convolution over 32 steps of 0.31 s.

Names of weights are those of the published code behind `network.`, without what can be computed (STFT kernels, mel
matrix, index tables, shift masks) and without `head`, which no output uses.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from .layers import gelu
from .tagger import DecibelMel, Heard, Tagger, check_windows, init_default, refill

MELS, SQUARE, FOLDS, PATCH, WINDOW = 64, 256, 4, 4, 8
STEPS = SQUARE * FOLDS // PATCH  # 256 patches in time, halved from stage to stage


class HtsatConfig(PretrainedConfig):
    """Everything that fixes an HTS-AT; the defaults are the published ones for AudioSet.

    Raises:
        ValueError: sizes that don't fit together.
    """

    model_type = "groundbass_htsat"

    classes: int = 527
    """Outputs."""
    hidden_size: int = 96
    """Width of the first stage, doubled from stage to stage (768 in the last of four)."""
    depths: Sequence[int] = (2, 2, 6, 2)
    """Blocks of each stage."""
    heads: Sequence[int] = (4, 8, 16, 32)
    """Attention heads of each stage."""
    drop_path: float = 0.1
    """Probability that a block is skipped in training, per clip, rising linearly to this."""
    sample_rate: int = 32_000
    """Hz of the waveform."""
    hop: int = 320
    """Samples from one spectrum to the next."""
    high: float = 14_000.0
    """Hz where the mel filters end (they begin at 50)."""
    window_samples: int = 320_000
    """Crop that the network answers on: 10 s; its spectra (up to 1,024) are stretched to 1,024."""
    window_frames: int = 0
    """Hidden states per window; 0: the network's 32 steps."""
    windows: str = "row"
    """"row": one after the other, to the end; "whole": without the rest; "even": `window_count` windows spread evenly
    over a track; "first": its beginning alone."""
    window_count: int = 16
    """Of "even"."""
    aggregation: str = "probabilities"
    """Of windows: the mean of "probabilities" or "logits". Within a window, the head's logits are averaged over its
    steps, as published."""
    repeat_short: bool = False
    """A clip shorter than the window is repeated to fill it, as ESC-50's 5 s were; else it is filled up with zeros."""
    shifts: int = 1
    """Circular shifts of a window whose answers are averaged; the published test on AudioSet takes 10."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.problem_type = self.problem_type or "multi_label_classification"
        super().__post_init__(**kwargs)
        self.depths, self.heads = list(self.depths), list(self.heads)
        self.window_frames = self.window_frames or STEPS >> 3
        check_windows(self)
        if self.shifts < 1:
            raise ValueError(f"shifts = {self.shifts}: a window is heard once, as it is, or more often.")
        if len(self.depths) != 4 or len(self.heads) != 4:
            raise ValueError(f"HTS-AT has four stages, not depths {self.depths} with heads {self.heads}.")
        wrong = [head for i, head in enumerate(self.heads) if (self.hidden_size << i) % head]
        if wrong:
            raise ValueError(f"A stage's channels, {self.hidden_size} · 2^i, don't divide among {wrong[0]} heads.")
        if self.window_samples // self.hop + 1 > SQUARE * FOLDS:
            raise ValueError(
                f"A window of {self.window_samples} samples makes {self.window_samples // self.hop + 1} spectra, and "
                f"the square takes {SQUARE * FOLDS}: shorten window_samples or lengthen the hop."
            )


class WindowAttention(nn.Module):
    """Attention among the 8 × 8 tokens of a window, with a learned bias per offset."""

    index: Tensor

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("index", self.tables()["index"].to(torch.empty(0).device), persistent=False)

    def tables(self) -> dict[str, Tensor]:
        """[64 · 64] which entry of the bias table belongs to a pair of tokens: rows first, then columns."""
        at = torch.arange(WINDOW, device="cpu")
        row, column = at.repeat_interleave(WINDOW), at.repeat(WINDOW)
        rows = row[:, None] - row + WINDOW - 1
        columns = column[:, None] - column + WINDOW - 1
        return {"index": (rows * (2 * WINDOW - 1) + columns).flatten()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WindowAttention:
        """Fill the table on leaving the meta device."""
        was_meta = self.index.is_meta
        super()._apply(fn, recurse)
        if was_meta and not self.index.is_meta:
            self.index = self.tables()["index"].to(self.index.device)
        return self

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: [batch, windows, 64, dim]; mask: [windows, 1, 64, 64] to be added, or None."""
        batch, windows, tokens, _ = x.shape
        query, key, value = (
            part.flatten(0, 1).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1)
        )
        bias = self.relative_position_bias_table[self.index].T.unflatten(-1, (tokens, tokens))[None]
        if mask is not None:
            bias = (bias + mask.to(bias.dtype)).repeat(batch, 1, 1, 1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(mixed.transpose(1, 2).flatten(2).unflatten(0, (batch, windows)))


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x)))


class DropPath(nn.Module):
    """In training, a clip skips the branch with probability `rate`; the others are scaled up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * kept / (1 - self.rate)


class SwinBlock(nn.Module):
    """A pre-LN block on a square of tokens, attention within windows that every other block shifts by half."""

    mask: Tensor | None

    def __init__(self, dim: int, heads: int, size: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.size, self.shift = size, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        self.drop_path = DropPath(drop_path)
        if shift:
            self.register_buffer("mask", self.tables()["mask"].to(torch.empty(0).device), persistent=False)

    def tables(self) -> dict[str, Tensor]:
        """[windows, 1, 64, 64], -100 between tokens that the shift brought together from opposite edges."""
        if not self.shift:
            return {}
        edges = [0, self.size - WINDOW, self.size - self.shift, self.size]
        region = torch.zeros(1, self.size, self.size, 1, device="cpu")
        for i, ((top, bottom), (left, right)) in enumerate(itertools.product(itertools.pairwise(edges), repeat=2)):
            region[:, top:bottom, left:right] = i
        same = cut(region)[0, :, :, 0]
        return {"mask": (same[:, None, :, None] != same[:, None, None, :]) * -100.0}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SwinBlock:
        """Keep the mask in float32, and fill it on leaving the meta device."""
        if not self.shift:
            super()._apply(fn, recurse)
            return self
        return refill(self, super()._apply, fn, recurse)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, size, size, dim] to the same."""
        inner = self.norm1(x)
        if self.shift:
            inner = inner.roll((-self.shift, -self.shift), (1, 2))
        inner = join(self.attn(cut(inner), self.mask if self.shift else None), self.size)
        if self.shift:
            inner = inner.roll((self.shift, self.shift), (1, 2))
        x = x + self.drop_path(inner)
        return x + self.drop_path(self.mlp(self.norm2(x)))


def cut(x: Tensor) -> Tensor:
    """[batch, size, size, dim] -> [batch, windows, 64, dim]."""
    x = x.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def join(x: Tensor, size: int) -> Tensor:
    """[batch, windows, 64, dim] -> [batch, size, size, dim]."""
    x = x.unflatten(2, (WINDOW, WINDOW)).unflatten(1, (size // WINDOW, size // WINDOW))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class Downsample(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, dim=-1)))


class Stage(nn.Module):
    """Blocks on one size of square, then a step to half of it, unless it is the last."""

    def __init__(self, dim: int, depth: int, heads: int, size: int, drop_paths: Sequence[float], last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(dim, heads, size, WINDOW // 2 if i % 2 and size > WINDOW else 0, drop_paths[i])
            for i in range(depth)
        )
        self.downsample = None if last else Downsample(dim)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class Patches(nn.Module):
    """4 × 4 patches, with a layer norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, dim, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class Htsat(nn.Module):
    """The network; see the file's head."""

    frame_wise = True
    axes = (2, 3)

    def __init__(self, config: HtsatConfig) -> None:
        super().__init__()
        dims = [config.hidden_size << i for i in range(4)]
        self.widths = [*dims, dims[-1]]
        self.spectrum = DecibelMel(config.sample_rate, 1024, config.hop, MELS, 50.0, config.high, "slaney", True)
        self.bn0 = nn.BatchNorm2d(MELS)
        self.patch_embed = Patches(dims[0])
        rates = torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").tolist()
        begins = [sum(config.depths[:i]) for i in range(4)]
        self.layers = nn.ModuleList(
            Stage(dim, depth, heads, (SQUARE // PATCH) >> i, rates[begins[i] :], i == 3)
            for i, (dim, depth, heads) in enumerate(zip(dims, config.depths, config.heads))
        )
        self.norm = nn.LayerNorm(dims[-1])
        self.tscam_conv = nn.Conv2d(dims[-1], config.classes, (2, 3), padding=(0, 1))

    def features(self, windows: Tensor, counted: Tensor | None = None) -> Tensor:
        """[windows, samples] -> [windows, 1, spectra, mels], standardised per bin: what SpecAugment masks."""
        mel = self.spectrum(windows)[:, None].to(self.norm.weight.dtype)
        return self.bn0(mel.transpose(1, 3)).transpose(1, 3)

    def hear(self, features: Tensor) -> Heard:
        """Features to layers and logits."""
        x = self.patch_embed(self._square(features))
        squares = [x]
        for stage in self.layers:
            x = stage(x)
            squares.append(x)
        squares[-1] = self.norm(x)
        maps = [self._unfold(square) for square in squares]
        steps = self.tscam_conv(maps[-1])[:, :, 0]
        return Heard([image.mean(dim=2) for image in maps], steps.mean(dim=-1), steps.transpose(1, 2))

    def _square(self, features: Tensor) -> Tensor:
        """[windows, 1, spectra, mels] -> [windows, 1, 256, 256]: four quarters of the time above each other."""
        if features.shape[2] < SQUARE * FOLDS:
            size = (SQUARE * FOLDS, MELS)
            features = F.interpolate(features, size, mode="bicubic", align_corners=True)
        return features.unflatten(2, (FOLDS, SQUARE)).transpose(3, 4).flatten(2, 3)

    def _unfold(self, square: Tensor) -> Tensor:
        """[windows, size, size, dim] -> [windows, dim, frequencies, steps]: the quarters of time in a row again."""
        quarters = square.unflatten(1, (FOLDS, -1))  # [windows, quarter, frequency, time, dim]
        return quarters.permute(0, 4, 2, 1, 3).flatten(3)


class HtsatModel(Tagger, PreTrainedModel):
    """HTS-AT; see `tagger.py` for what it answers."""

    config: HtsatConfig
    config_class = HtsatConfig
    base_model_prefix = "htsat"
    main_input_name = "input_values"
    _no_split_modules = ["SwinBlock"]

    def __init__(self, config: HtsatConfig) -> None:
        super().__init__(config)
        self.network = Htsat(config)
        self.post_init()

    def embedding(self, windows: Tensor) -> Tensor:
        """[windows, window_samples] -> [windows, dim]: the published `latent_output`, the mean of the last tokens."""
        hidden: Tensor = self.network.hear(self.network.features(windows)).states[-1].mean(dim=-1)
        return hidden

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights of 0.02, no bias: the initialisation of Swin transformers."""
        if isinstance(module, WindowAttention):
            init_default(module)
            nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        else:
            init_default(module)


HtsatConfig.register_for_auto_class()
HtsatModel.register_for_auto_class("AutoModel")
