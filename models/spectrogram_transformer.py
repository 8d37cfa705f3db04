"""AST: patches of a log-mel spectrogram in a transformer, without any convolution but the one that cuts the patches.

Paper: Y. Gong, Y.-A. Chung, J. Glass, "AST: audio spectrogram transformer", 2021, arXiv:2104.01778. Ten seconds at
16 kHz are 1,024 spectra of 128 mels, 12 × 101 overlapping patches of 16 × 16 and 1,214 tokens.

Names of weights are those of the published code behind `network.`, without the two ImageNet heads that came along in
its files. The blocks are those of `transformers.ASTModel` with a layer norm eps of 1e-6, which a test holds them to.
They are written here so that what is published depends on no name of that class, some of which have changed from one of
its versions to the next, and keeps one matrix for queries, keys and values, as the published files do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from .fbank import KaldiFbank
from .layers import gelu
from .tagger import Heard, Tagger, check_windows, init_default

MELS, PATCH = 128, 16
EPS = 1e-6  # of the blocks; the head's is PyTorch's 1e-5


class SpectrogramTransformerConfig(PretrainedConfig):
    """Everything that fixes an AST; the defaults are the published one's for AudioSet.

    Raises:
        ValueError: sizes that don't fit together.
    """

    model_type = "groundbass_spectrogram_transformer"

    classes: int = 527
    """Outputs."""
    hidden_size: int = 768
    """Width."""
    num_hidden_layers: int = 12
    """Blocks."""
    num_attention_heads: int = 12
    """Per block."""
    spectra: int = 1024
    """Time steps that the positions are for: 1,024 for 10 s, 512 for ESC-50's 5 s, 128 for a spoken word."""
    stride: int = 10
    """Steps from one patch to the next, in time and in frequency; 10 in the best published model."""
    mean: float = -4.2677393
    """Of the log-mel energies, taken off."""
    std: float = 4.5689974
    """Of them; twice this divides."""
    sample_rate: int = 16_000
    """Hz of the waveform."""
    window_samples: int = 0
    """Crop that the network answers on; 0: `spectra` spectra of 10 ms, rounded down to half seconds (10 s for
    1,024)."""
    window_frames: int = 0
    """Hidden states per window; 0: one per patch in time."""
    windows: str = "row"
    """"row": one after the other, to the end; "whole": without the rest; "even": `window_count` windows spread evenly
    over a track; "first": its beginning alone."""
    window_count: int = 16
    """Of "even"."""
    aggregation: str = "probabilities"
    """Of windows: the mean of "probabilities" or "logits"."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.problem_type = self.problem_type or "multi_label_classification"
        super().__post_init__(**kwargs)
        half_seconds = max(1, self.spectra // 50)
        self.window_samples = self.window_samples or self.sample_rate * half_seconds // 2
        hop = self.sample_rate // 100
        columns = min(self.columns, max(1, self.window_samples // (hop * self.stride)))
        self.window_frames = self.window_frames or columns
        check_windows(self)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"{self.hidden_size} channels don't divide among {self.num_attention_heads} heads.")
        if self.spectra < PATCH or self.window_samples > (self.spectra - 1) * hop + self.sample_rate // 40:
            raise ValueError(
                f"A window of {self.window_samples} samples at {self.sample_rate} Hz doesn't fit into {self.spectra} "
                f"spectra of 10 ms (at least {PATCH}): shorten window_samples or raise `spectra`."
            )

    @property
    def rows(self) -> int:
        """Patches in frequency: 12."""
        return (MELS - PATCH) // self.stride + 1

    @property
    def columns(self) -> int:
        """Patches in time: 101 of 1,024 spectra."""
        return (self.spectra - PATCH) // self.stride + 1


class Attention(nn.Module):
    """Self-attention with one matrix for queries, keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        # one piece in memory each, which a CPU's attention reads faster
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).contiguous().unbind(0)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner)
        self.fc2 = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-LN block of a vision transformer."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Trunk(nn.Module):
    """The distilled vision transformer, under the names that `v.` has in the published files."""

    def __init__(self, config: SpectrogramTransformerConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 2 + config.rows * config.columns, dim))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, dim, PATCH, stride=config.stride)})
        self.blocks = nn.ModuleList(Block(dim, config.num_attention_heads) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, features: Tensor) -> list[Tensor]:
        """[windows, spectra, mels] -> the tokens, then what every block gives: [windows, 2 + rows · columns, dim]."""
        patches = self.patch_embed["proj"](features.transpose(1, 2)[:, None]).flatten(2).transpose(1, 2)
        special = torch.cat([self.cls_token, self.dist_token], dim=1).expand(patches.shape[0], -1, -1)
        states = [torch.cat([special, patches], dim=1) + self.pos_embed]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states


class SpectrogramTransformer(nn.Module):
    """The network; see the file's head."""

    frame_wise = False
    axes = (1, 2)

    def __init__(self, config: SpectrogramTransformerConfig) -> None:
        super().__init__()
        self.widths = [config.hidden_size] * (config.num_hidden_layers + 1)
        self.rows, self.columns, self.spectra = config.rows, config.columns, config.spectra
        self.mean, self.std, self.frames = config.mean, config.std, config.window_frames
        self.fbank = KaldiFbank(config.sample_rate, MELS, 25.0, 10.0, 20.0, 1.0, povey=False)
        self.v = Trunk(config)
        self.mlp_head = nn.Sequential(nn.LayerNorm(config.hidden_size), nn.Linear(config.hidden_size, config.classes))

    def features(self, windows: Tensor, counted: Tensor | None = None) -> Tensor:
        """[windows, samples] -> [windows, spectra, mels], standardised; beyond a window's sound they are (0 - mean)."""
        count, samples = windows.shape
        if counted is None:
            counted = torch.full((count,), samples, device=windows.device)
        sound = torch.arange(samples, device=windows.device) < counted[:, None]
        mean = windows.sum(-1, keepdim=True) / counted.clamp(min=1)[:, None]
        centred = torch.where(sound, windows - mean, 0.0)
        energies = F.pad(self.fbank(centred), (0, 0, 0, self.spectra))[:, : self.spectra]
        ends = torch.arange(self.spectra, device=windows.device) * self.fbank.shift + self.fbank.length
        heard = ends <= counted[:, None]
        energies = torch.where(heard[..., None], energies, 0.0)
        return ((energies - self.mean) / (2 * self.std)).to(self.v.cls_token.dtype)

    def hear(self, features: Tensor) -> Heard:
        """Features to layers (mean over the patches of one time) and logits."""
        states = self.v(features)
        last = self.v.norm(states[-1])
        logits = self.mlp_head((last[:, 0] + last[:, 1]) / 2)
        return Heard([self._over_time(state) for state in (*states[:-1], last)], logits)

    def _over_time(self, tokens: Tensor) -> Tensor:
        """Tokens, frequency by frequency, to [windows, dim, columns] without those that only padding filled."""
        columns = min(self.frames, self.columns)
        return tokens[:, 2:].unflatten(1, (self.rows, self.columns)).mean(dim=1)[:, :columns].transpose(1, 2)


class SpectrogramTransformerModel(Tagger, PreTrainedModel):
    """AST; see `tagger.py` for what it answers."""

    config: SpectrogramTransformerConfig
    config_class = SpectrogramTransformerConfig
    base_model_prefix = "spectrogram_transformer"
    main_input_name = "input_values"
    _no_split_modules = ["Block"]

    def __init__(self, config: SpectrogramTransformerConfig) -> None:
        super().__init__(config)
        self.network = SpectrogramTransformer(config)
        self.post_init()

    def fitted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of an AST of another window, for this one: positions cut from the middle, or stretched."""
        name, (rows, columns) = "network.v.pos_embed", (self.network.rows, self.network.columns)
        places = weights[name]
        if (places.shape[1] - 2) % rows:
            return dict(weights)
        grid = places[:, 2:].unflatten(1, (rows, -1)).permute(0, 3, 1, 2)
        first = max(0, grid.shape[3] // 2 - columns // 2)
        if grid.shape[3] < columns:
            grid = F.interpolate(grid, (rows, columns), mode="bilinear")
        grid = grid[..., first : first + columns].permute(0, 2, 3, 1).flatten(1, 2)
        return {**weights, name: torch.cat([places[:, :2], grid], dim=1)}

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights of 0.02, no bias: the initialisation of vision transformers."""
        if isinstance(module, Trunk):
            for token in (module.cls_token, module.dist_token, module.pos_embed):
                nn.init.trunc_normal_(token, std=0.02)
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        else:
            init_default(module)


SpectrogramTransformerConfig.register_for_auto_class()
SpectrogramTransformerModel.register_for_auto_class("AutoModel")
