"""Music Tagging Transformer: residual convolutions down to 107 tokens, a small pre-LN transformer, a class token.

Paper: M. Won, K. Choi, X. Serra, "Semi-supervised music tagging transformer", 2021, arXiv:2111.13457. Teacher (256
wide, 4.57 M weights) and student (64 wide, 1.11 M), both on 10 s at 22,050 Hz.

Names of weights are those of the published code behind `network.`; mel filters and window are computed here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from .tagger import DecibelMel, Heard, Tagger, check_windows, init_default

POSITIONS = 513  # of the class token and 512 others: 47.5 s


class TaggingTransformerConfig(PretrainedConfig):
    """Everything that fixes a Music Tagging Transformer; the defaults are the published teacher's.

    Raises:
        ValueError: sizes that don't fit together.
    """

    model_type = "groundbass_tagging_transformer"

    classes: int = 50
    """Outputs."""
    hidden_size: int = 256
    """Width of the transformer; the student's is 64."""
    channels: int = 128
    """Of the convolutions."""
    num_hidden_layers: int = 4
    """Transformer blocks."""
    num_attention_heads: int = 8
    """Per block."""
    sample_rate: int = 22_050
    """Hz of the waveform."""
    window_samples: int = 220_500
    """Crop that the network answers on; the published training takes 10 s, and longer input would meet positions that
    were never trained."""
    window_frames: int = 0
    """Hidden states per window; 0: one per token."""
    windows: str = "even"
    """"even": `window_count` windows spread evenly over a track; "row": one after the other, to the end; "whole":
    without the rest; "first": its beginning alone."""
    window_count: int = 8
    """Of "even"; eight were meant in the published evaluation."""
    aggregation: str = "probabilities"
    """Of windows: the mean of "probabilities" (published) or "logits"."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.problem_type = self.problem_type or "multi_label_classification"
        super().__post_init__(**kwargs)
        tokens = (self.window_samples // 512 + 1) // 4
        self.window_frames = self.window_frames or tokens
        check_windows(self)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"{self.hidden_size} channels don't divide among {self.num_attention_heads} heads.")
        if tokens >= POSITIONS:
            raise ValueError(
                f"A window of {self.window_samples} samples makes {tokens} tokens, and there are positions for "
                f"{POSITIONS - 1}: choose a shorter window."
            )


class PooledBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (a convolution where the channels change), then a maximum."""

    def __init__(self, inputs: int, outputs: int, pools: tuple[int, int]) -> None:
        super().__init__()
        self.pools, self.projected = pools, inputs != outputs
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.bn_1 = nn.BatchNorm2d(outputs)
        self.conv_2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.bn_2 = nn.BatchNorm2d(outputs)
        if self.projected:
            self.conv_3 = nn.Conv2d(inputs, outputs, 3, padding=1)
            self.bn_3 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn_2(self.conv_2(torch.relu(self.bn_1(self.conv_1(x)))))
        shortcut = self.bn_3(self.conv_3(x)) if self.projected else x
        return F.max_pool2d(torch.relu(inner + shortcut), self.pools)


class FrontEnd(nn.Module):
    """[windows, 1, 128, steps] dB -> tokens [windows, steps / 4, hidden]."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.input_bn = nn.BatchNorm2d(1)
        self.layer1 = PooledBlock(1, channels, (2, 2))
        self.layer2 = PooledBlock(channels, channels, (2, 2))
        self.layer3 = PooledBlock(channels, channels, (2, 1))
        self.fc = nn.Linear(16 * channels, hidden)

    def forward(self, features: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(features)))
        return self.fc(x.flatten(1, 2).transpose(1, 2))  # channel by channel


class Normed(nn.Module):
    """Layer norm, then `fn`."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class Residual(nn.Module):
    """x + fn(x), under the published name."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x) + x


class SelfAttention(nn.Module):
    """Queries, keys and values from one matrix without bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.to_qkv(x).chunk(3, dim=-1)
        )
        return self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * dim, dim), nn.Dropout(0.1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Blocks(nn.Module):
    """The transformer's blocks, by their published names: `layers.N.0` attends, `layers.N.1` feeds forward."""

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([Residual(Normed(dim, SelfAttention(dim, heads))), Residual(Normed(dim, FeedForward(dim)))])
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Tokens to what every block gives."""
        states = []
        for block in self.layers:
            for part in block.children():
                x = part(x)
            states.append(x)
        return states


class TaggingTransformer(nn.Module):
    """The network; see the file's head."""

    frame_wise = False
    axes = (3, 2)

    def __init__(self, config: TaggingTransformerConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.widths = [dim] * (config.num_hidden_layers + 1)
        self.spec = DecibelMel(config.sample_rate, 1024, 512, 128)
        self.frontend = FrontEnd(config.channels, dim)
        self.pos_embedding = nn.Parameter(torch.randn(1, POSITIONS, dim))
        self.cls_token = nn.Parameter(torch.randn(dim))
        self.dropout = nn.Dropout(0.1)
        self.transformer = Blocks(dim, config.num_hidden_layers, config.num_attention_heads)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, config.classes))

    def features(self, windows: Tensor, counted: Tensor | None = None) -> Tensor:
        """[windows, samples] -> [windows, 1, 128, steps], standardised."""
        mel = self.spec(windows).transpose(1, 2)[:, None]
        return self.frontend.input_bn(mel.to(self.cls_token.dtype))

    def hear(self, features: Tensor) -> Heard:
        """Features to layers (the tokens, then every block) and logits."""
        tokens = self.frontend(features)
        x = torch.cat([self.cls_token.expand(tokens.shape[0], 1, -1), tokens], dim=1)
        x = self.dropout(x + self.pos_embedding[:, : x.shape[1]])
        states = [x, *self.transformer(x)]
        return Heard([state[:, 1:].transpose(1, 2) for state in states], self.mlp_head(states[-1][:, 0]))


class TaggingTransformerModel(Tagger, PreTrainedModel):
    """The Music Tagging Transformer; see `tagger.py` for what it answers."""

    config: TaggingTransformerConfig
    config_class = TaggingTransformerConfig
    base_model_prefix = "tagging_transformer"
    main_input_name = "input_values"

    def __init__(self, config: TaggingTransformerConfig) -> None:
        super().__init__(config)
        self.network = TaggingTransformer(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's defaults, normal positions and class token, as in the published training."""
        if isinstance(module, TaggingTransformer):
            nn.init.normal_(module.pos_embedding)
            nn.init.normal_(module.cls_token)
        else:
            init_default(module)


TaggingTransformerConfig.register_for_auto_class()
TaggingTransformerModel.register_for_auto_class("AutoModel")
