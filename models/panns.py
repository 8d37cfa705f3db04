"""PANNs: convolutional networks for the 527 sounds of AudioSet, clip by clip or over time.

Paper: Q. Kong et al., "PANNs: large-scale pretrained audio neural networks for audio pattern recognition", 2020,
arXiv:1912.10211. `config.network` is one of Cnn6, Cnn10, Cnn14 (its 16-kHz version by `PannsConfig.at_16k`), and
Cnn14_DecisionLevelMax, …Avg and …Att, whose heads answer per segment of 0.32 s.

Names of weights are those of the published code behind `network.`. Two of its parts are frozen tables there, an STFT
as convolutions and a mel matrix; here an FFT and the same matrix take their place (in nearly empty bins the two differ
by up to 0.1 dB, which is the rounding of the convolutions), and `bn_att`, which no output ever used, is left out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from .tagger import DecibelMel, Heard, Tagger, check_windows, init_default, logit

CHANNELS = {"Cnn6": 4, "Cnn10": 4, "Cnn14": 6}  # 64, 128, …, doubled from block to block
DECISIONS = ("Max", "Avg", "Att")
NETWORKS = (*CHANNELS, *(f"Cnn14_DecisionLevel{decision}" for decision in DECISIONS))


class PannsConfig(PretrainedConfig):
    """Which PANN, and how large; the defaults are the published Cnn14's at 32 kHz.

    Raises:
        ValueError: an unknown network, or a window that is shorter than one segment.
    """

    model_type = "groundbass_panns"

    network: str = "Cnn14"
    """Cnn6, Cnn10, Cnn14, Cnn14_DecisionLevelMax, Cnn14_DecisionLevelAvg or Cnn14_DecisionLevelAtt."""
    classes: int = 527
    """Outputs."""
    width: float = 1.0
    """Multiplies all channels (at least 4 remain), for small machines."""
    sample_rate: int = 32_000
    """Hz of the waveform."""
    n_fft: int = 1024
    """Samples of the window."""
    hop: int = 320
    """Samples from one spectrum to the next."""
    mel_bins: int = 64
    """Filters (Slaney's)."""
    low: float = 50.0
    """Hz where they begin."""
    high: float = 14_000.0
    """Hz where they end."""
    window_samples: int = 320_000
    """Crop that the network answers on: AudioSet's clips of 10 s. Any that makes 32 spectra works."""
    window_frames: int = 0
    """Hidden states per window; 0: one per 32 spectra (16 with Cnn6 and Cnn10)."""
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
        if self.network not in NETWORKS:
            raise ValueError(f"There is no network {self.network!r} among PANNs': choose one of {', '.join(NETWORKS)}.")
        segments = (self.window_samples // self.hop + 1) // self.segment_spectra
        self.window_frames = self.window_frames or segments
        if segments < 1:
            raise ValueError(
                f"{self.network} needs {(self.segment_spectra - 1) * self.hop} samples "
                f"({(self.segment_spectra - 1) * self.hop / self.sample_rate:.3g} s), and the window has "
                f"{self.window_samples}: lengthen window_samples."
            )
        check_windows(self)

    @classmethod
    def at_16k(cls, **changes: Any) -> PannsConfig:
        """The published settings for sound at 16 kHz (Cnn14_16k)."""
        published = {"sample_rate": 16_000, "n_fft": 512, "hop": 160, "high": 8000.0, "window_samples": 160_000}
        return cls(**{**published, **changes})

    @classmethod
    def at_8k(cls, **changes: Any) -> PannsConfig:
        """The published settings for sound at 8 kHz (Cnn14_8k)."""
        published = {"sample_rate": 8000, "n_fft": 256, "hop": 80, "high": 4000.0, "window_samples": 80_000}
        return cls(**{**published, **changes})

    @property
    def family(self) -> str:
        """Cnn6, Cnn10 or Cnn14."""
        return self.network.partition("_")[0]

    @property
    def decision(self) -> str:
        """Max, Avg or Att where the network decides per segment, else nothing."""
        return self.network.partition("DecisionLevel")[2]

    @property
    def segment_spectra(self) -> int:
        """Spectra that the pools bring together into one step: 2 to the number of halving blocks."""
        return 16 if self.family in ("Cnn6", "Cnn10") else 32

    @property
    def block_channels(self) -> list[int]:
        """Output channels of every block, `width` applied."""
        published = [64 * 2**i for i in range(CHANNELS[self.family])]
        return published if self.width == 1 else [max(4, round(c * self.width)) for c in published]


class ConvBlock(nn.Module):
    """Convolutions without bias, batch norm and ReLU; the mean over 2×2; dropout."""

    def __init__(self, inputs: int, outputs: int, kernel: int, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        self.conv1 = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        if kernel == 3:  # pairs of small ones, or one of 5×5
            self.conv2 = nn.Conv2d(outputs, outputs, kernel, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
        self.paired = kernel == 3
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        if self.paired:
            x = torch.relu(self.bn2(self.conv2(x)))
        return self.dropout(F.avg_pool2d(x, 2) if self.pooled else x)


class AttentionBlock(nn.Module):
    """Per class, a softmax over time says how much each segment's probability counts."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.att = nn.Conv1d(inputs, classes, 1)
        self.cla = nn.Conv1d(inputs, classes, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[windows, channels, segments] -> probabilities [windows, classes], logits [windows, classes, segments]."""
        counts = self.att(x).clamp(-10, 10).softmax(dim=-1)
        steps = self.cla(x)
        return (counts * steps.sigmoid()).sum(dim=-1), steps


class Pann(nn.Module):
    """Log-mel, blocks, and the head that `config.network` names; see the file's head."""

    axes = (2, 3)

    def __init__(self, config: PannsConfig) -> None:
        super().__init__()
        self.decision, self.frame_wise = config.decision, bool(config.decision)
        widths = config.block_channels
        dim, kernel, halvings = widths[-1], 5 if config.family == "Cnn6" else 3, 5
        self.widths = [config.mel_bins, *widths]
        self.spectrum = DecibelMel(
            config.sample_rate, config.n_fft, config.hop, config.mel_bins, config.low, config.high, "slaney", True
        )
        self.bn0 = nn.BatchNorm2d(config.mel_bins)
        for i, (inputs, outputs) in enumerate(zip([1, *widths], widths)):
            setattr(self, f"conv_block{i + 1}", ConvBlock(inputs, outputs, kernel, pooled=i < halvings))
        self.blocks = len(widths)
        self.fc1 = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(0.5)
        if self.decision == "Att":
            self.att_block = AttentionBlock(dim, config.classes)
        else:
            self.fc_audioset = nn.Linear(dim, config.classes)

    def features(self, windows: Tensor, counted: Tensor | None = None) -> Tensor:
        """[windows, samples] -> [windows, 1, spectra, mel_bins], standardised per bin: what SpecAugment masks."""
        mel = self.spectrum(windows)[:, None].to(self.fc1.weight.dtype)
        return self.bn0(mel.transpose(1, 3)).transpose(1, 3)

    def hear(self, features: Tensor) -> Heard:
        """Features to layers and logits."""
        x, states = features, [features[:, 0].transpose(1, 2)]
        for i in range(self.blocks):
            x = getattr(self, f"conv_block{i + 1}")(x)
            states.append(x.mean(dim=3))
        if not self.decision:
            return Heard(states, self.fc_audioset(self._embed(states[-1])))
        return Heard(states, *self._decide(states[-1]))

    def _embed(self, x: Tensor) -> Tensor:
        """[windows, dim, segments] -> [windows, dim]: what the clip's classes are read from."""
        pooled = x.amax(dim=2) + x.mean(dim=2)
        return torch.relu(self.fc1(self.dropout(pooled)))

    def _decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[windows, dim, segments] -> logits [windows, classes] and [windows, segments, classes]."""
        smooth = F.max_pool1d(x, 3, 1, 1) + F.avg_pool1d(x, 3, 1, 1)
        hidden = self.dropout(torch.relu(self.fc1(self.dropout(smooth).transpose(1, 2))))
        if self.decision == "Att":
            probability, steps = self.att_block(hidden.transpose(1, 2))
            return logit(probability.float()), steps.transpose(1, 2)
        steps = self.fc_audioset(hidden)
        if self.decision == "Max":
            return steps.amax(dim=1), steps
        return logit(steps.float().sigmoid().mean(dim=1)), steps


class PannsModel(Tagger, PreTrainedModel):
    """One of the PANNs; see `tagger.py` for what it answers."""

    config: PannsConfig
    config_class = PannsConfig
    base_model_prefix = "panns"
    main_input_name = "input_values"

    def __init__(self, config: PannsConfig) -> None:
        super().__init__(config)
        self.network = Pann(config)
        self.post_init()

    def embedding(self, windows: Tensor) -> Tensor:
        """[windows, window_samples] -> [windows, dim]: the published `embedding`, between the head's two layers."""
        hidden: Tensor = self.network._embed(self.network.hear(self.network.features(windows)).states[-1])
        return hidden

    def _init_weights(self, module: nn.Module) -> None:
        """Xavier's uniform weights, no bias, as in the published training."""
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv1d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        else:
            init_default(module)


def repeat_segments(steps: Tensor, spectra: int, ratio: int = 32) -> Tensor:
    """[windows, segments, classes] -> [windows, spectra, classes]: the published frame-wise output, 10 ms each.

    Every segment `ratio` times, then the last one until the spectra are through.
    """
    long = steps.repeat_interleave(ratio, dim=1)
    return torch.cat([long, long[:, -1:].expand(-1, max(0, spectra - long.shape[1]), -1)], dim=1)[:, :spectra]


PannsConfig.register_for_auto_class()
PannsModel.register_for_auto_class("AutoModel")
