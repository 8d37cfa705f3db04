"""BEST-RQ's codes: a frozen random projection of normalised features, and the nearest of random codewords.

Chiu et al. 2022; MusicFM (one codebook of 4096 × 16 on four stacked 128-mel frames) and OMAR-RQ (four of 8192 × 16; or
several features, each with codebooks of its own). Projection and codewords are drawn from a seed of their own, before
and apart from the model's weights; both sides are l2-normalised. MusicFM calls normalising the input by the corpus's
mean and deviation essential: they are measured once, into the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from ...data.writing import written
from ...models.quantizers import FLOOR, StackedMel
from ...models.transformer import time_mask
from ..distributed import main_first
from .codes import CodeHead, CodeHeadSettings
from .cqt import CQT
from .first_crops import first_crops, valid_mel
from .target import FrameGrid, Target

if TYPE_CHECKING:
    from ...data.batch import Batch
    from ...data.track import Manifest

Feature = Literal["mel", "cqt", "waveform"]


@dataclass(frozen=True)
class RandomProjectionSettings:
    """The random-projection target of a recipe."""

    weight: float = 0.0
    """Weight of the cross entropy; 0 turns the target off."""
    features: tuple[Feature, ...] = ("mel",)
    """What is projected, each with codebooks of its own: mel; cqt, 188 bins at 24 per octave from C1; waveform, the
    samples themselves"""
    codebooks: int = 4
    """Per feature."""
    codebook_size: int = 8192
    dim: int = 16
    """Width of projections and codewords."""
    stack: int = 4
    """Frames of mel and cqt that make one encoder frame."""
    mels: int = 128
    window: int = 2048
    """Samples of the mel spectrum's window."""
    compress: Literal["decibels", "log1p"] = "decibels"
    """decibels, with HTK's filters (MusicFM); log1p: log10(1 + 10,000 · mel), with Slaney's (OMAR-RQ)"""
    edges: Literal["zeros", "reflect"] = "zeros"
    """What the mel spectrum hears beyond a crop's ends; the published ones reflect."""
    statistics: Literal["bins", "corpus"] = "bins"
    """Mean and deviation per bin, or one pair for all bins (as published)."""
    seed: int = 2022
    """Of projections and codewords."""
    crops: int = 64
    """Five-second crops that mean and deviation are measured on."""
    head: CodeHeadSettings = field(default_factory=CodeHeadSettings)

    def __post_init__(self) -> None:
        """Refuse no features, or one twice."""
        if not self.features or len(set(self.features)) < len(self.features):
            raise ValueError(f"random_projection.features is {self.features}: name mel, cqt, waveform, each once.")

    def build(self, grid: FrameGrid, dim: int) -> RandomProjectionTarget:
        """Build the target for an encoder's frame grid and width."""
        return RandomProjectionTarget(self, grid, dim)


class StackedCQT(nn.Module):
    """Waveform → log10(1 + 10,000 · power) of a constant-Q transform, `stack` frames side by side per encoder frame."""

    BINS, PER_OCTAVE, LOWEST = 188, 24, 32.703
    mean: Tensor
    deviation: Tensor

    def __init__(self, grid: FrameGrid, stack: int) -> None:
        super().__init__()
        self.stack, self.hop = stack, grid.hop
        self.cqt = CQT(grid.sample_rate, grid.hop // stack, self.BINS, self.PER_OCTAVE, self.LOWEST)
        self.register_buffer("mean", torch.zeros(self.BINS))
        self.register_buffer("deviation", torch.ones(self.BINS))

    def compressed(self, waveform: Tensor) -> Tensor:
        """[batch, samples] to [batch, samples × stack // hop, bins]."""
        magnitude = self.cqt(waveform)[:, : waveform.shape[1] // self.hop * self.stack]
        return torch.log1p(10_000.0 * magnitude.square()) / math.log(10.0)

    def forward(self, waveform: Tensor) -> Tensor:
        """[batch, samples] to [batch, samples // hop, stack × bins]."""
        frames = (self.compressed(waveform) - self.mean) / self.deviation
        return rearrange(frames, "batch (frames stack) bins -> batch frames (stack bins)", stack=self.stack)

    def measure(self, values: Tensor, together: bool) -> None:
        """Take mean and deviation of frames [n, bins]."""
        self.mean.copy_(values.mean() if together else values.mean(0))
        self.deviation.copy_((values.std() if together else values.std(0)).clamp(min=0.05))


class WaveformFrames(nn.Module):
    """The samples of an encoder frame, divided by the corpus's deviation."""

    deviation: Tensor

    def __init__(self, grid: FrameGrid) -> None:
        super().__init__()
        self.hop = grid.hop
        self.register_buffer("deviation", torch.ones(1))

    def forward(self, waveform: Tensor) -> Tensor:
        """[batch, samples] to [batch, samples // hop, hop]."""
        whole = waveform[:, : waveform.shape[1] // self.hop * self.hop]
        return rearrange(whole, "batch (frames hop) -> batch frames hop", hop=self.hop).float() / self.deviation

    def measure(self, values: Tensor, together: bool) -> None:
        """Take the deviation of samples [n]."""
        self.deviation.fill_(float(values.float().std().clamp(min=1e-4)))


class RandomProjector(nn.Module):
    """Features → codes of several random codebooks each; everything is a buffer."""

    def __init__(self, settings: RandomProjectionSettings, grid: FrameGrid) -> None:
        super().__init__()
        self.inputs = nn.ModuleDict({name: _feature(name, settings, grid) for name in settings.features})
        draw = torch.Generator().manual_seed(settings.seed)
        for name in settings.features:
            width = {
                "mel": settings.stack * settings.mels, "cqt": settings.stack * StackedCQT.BINS, "waveform": grid.hop
            }[name]  # fmt: skip
            spread = (6 / (width + settings.dim)) ** 0.5  # Xavier, as BEST-RQ
            shape = (settings.codebooks, width, settings.dim)
            projections = (2 * torch.rand(shape, generator=draw, device="cpu") - 1) * spread
            self.register_buffer(f"projections_{name}", projections)
            shape = (settings.codebooks, settings.codebook_size, settings.dim)
            words = torch.randn(shape, generator=draw, device="cpu")
            self.register_buffer(f"codewords_{name}", functional.normalize(words, dim=-1))

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Compute codes int64 [batch, samples // hop, features × codebooks] of [batch, samples]."""
        with torch.autocast(waveform.device.type, enabled=False):
            codes = []
            for name, feature in self.inputs.items():
                frames = feature(waveform)
                pairs = zip(self.get_buffer(f"projections_{name}"), self.get_buffer(f"codewords_{name}"), strict=True)
                for projection, words in pairs:
                    # the codeword nearest on the sphere has the largest product; the length changes nothing
                    codes.append(((frames @ projection) @ words.T).argmax(-1))
            return torch.stack(codes, -1)

    @torch.no_grad()
    def measure(self, batch: Batch, together: bool) -> None:
        """Take each feature's mean and deviation from the valid part of a batch."""
        waveform, valid = batch.by_view()
        for feature in self.inputs.values():
            if isinstance(feature, StackedMel):
                feature.measure(valid_mel(feature, batch), together)
            elif isinstance(feature, StackedCQT):
                frames = feature.compressed(waveform)
                feature.measure(frames[time_mask(valid * feature.stack // feature.hop, frames.shape[1])], together)
            else:
                assert isinstance(feature, WaveformFrames)
                feature.measure(waveform[time_mask(valid, waveform.shape[1])], together)

    def statistics(self) -> dict[str, Tensor]:
        """The measured buffers, by name."""
        return {name: value for name, value in self.inputs.named_buffers() if name.endswith(("mean", "deviation"))}


def _feature(name: Feature, settings: RandomProjectionSettings, grid: FrameGrid) -> nn.Module:
    if name == "cqt":
        return StackedCQT(grid, settings.stack)
    if name == "waveform":
        return WaveformFrames(grid)
    omar = settings.compress == "log1p"
    return StackedMel(
        grid.sample_rate, grid.hop, settings.stack, settings.mels, settings.window, settings.edges,
        floor=FLOOR if settings.edges == "zeros" else -100.0, scale="slaney" if omar else "htk",
        compress=settings.compress,
    )  # fmt: skip


class RandomProjectionTarget(Target):
    """Predict random-projection codes."""

    def __init__(self, settings: RandomProjectionSettings, grid: FrameGrid, dim: int) -> None:
        super().__init__()
        self.name, self.weight, self.settings, self.grid = "random_projection", settings.weight, settings, grid
        self._teacher = (RandomProjector(settings, grid),)  # in a tuple, out of parameters and state_dict
        sizes = (settings.codebook_size,) * settings.codebooks * len(settings.features)
        self.head = CodeHead(dim, sizes, settings.head, self.name)

    @torch.no_grad()
    def prepare(self, manifest: Manifest, run: Path) -> None:
        """Load the corpus's mean and deviation from RUN/tokenizer, or measure them first."""
        file = run / "tokenizer" / "feature_statistics.safetensors"
        with main_first():
            self._measure(manifest, file)
        measured = load_file(file)
        for name, value in self._teacher[0].statistics().items():
            value.copy_(measured[name])

    def _measure(self, manifest: Manifest, file: Path) -> None:
        teacher, settings = self._teacher[0], self.settings
        if not file.exists():
            batch = first_crops(manifest, self.grid.sample_rate, settings.crops, settings.seed)
            teacher.measure(batch, settings.statistics == "corpus")
            with written(file, locked=True) as beside:
                save_file({name: value.clone() for name, value in teacher.statistics().items()}, beside)

    def targets(self, waveform: Tensor, starts: Tensor, keys: list[str]) -> Tensor:
        """Compute codes of clean sound: int64 [batch, samples // hop, features × codebooks]."""
        codes: Tensor = self._teacher[0](waveform)
        return codes

    def place(self, device: torch.device) -> None:
        """Move the teacher."""
        self._teacher[0].to(device)
