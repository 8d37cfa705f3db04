"""BEST-RQ's codes: a frozen random projection of normalised mel frames, and the nearest of random codewords.

Chiu et al. 2022; MusicFM (one codebook of 4096 × 16 on four stacked 128-mel frames) and OMAR-RQ (four of 8192 × 16).
Projection and codewords are drawn from a seed of their own, before and apart from the model's weights; both sides are
l2-normalised. MusicFM calls normalising the input by the corpus's mean and deviation essential: they are measured once,
into the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from ...models.quantizers import StackedMel
from ..distributed import main_first
from .codes import CodeHead, CodeHeadSettings
from .first_crops import first_crops, valid_mel
from .target import FrameGrid, Target

if TYPE_CHECKING:
    from ...data.track import Manifest


@dataclass(frozen=True)
class RandomProjectionSettings:
    """The random-projection target of a recipe."""

    weight: float = 0.0
    """Weight of the summed cross entropy; 0 turns the target off."""
    codebooks: int = 4
    codebook_size: int = 8192
    dim: int = 16
    """Width of projections and codewords."""
    stack: int = 4
    mels: int = 128
    window: int = 2048
    """Samples of the mel spectrum's window."""
    seed: int = 2022
    """Of projections and codewords."""
    crops: int = 64
    """Five-second crops that mean and deviation are measured on."""
    head: CodeHeadSettings = field(default_factory=CodeHeadSettings)

    def build(self, grid: FrameGrid, dim: int) -> RandomProjectionTarget:
        """Build the target for an encoder's frame grid and width."""
        return RandomProjectionTarget(self, grid, dim)


class RandomProjector(nn.Module):
    """Stacked log-mel frames → codes of several random codebooks; everything is a buffer."""

    projections: Tensor
    codewords: Tensor

    def __init__(self, settings: RandomProjectionSettings, grid: FrameGrid) -> None:
        super().__init__()
        self.features = StackedMel(grid.sample_rate, grid.hop, settings.stack, settings.mels, settings.window)
        draw = torch.Generator().manual_seed(settings.seed)
        width = settings.stack * settings.mels
        spread = (6 / (width + settings.dim)) ** 0.5  # Xavier, as BEST-RQ
        shape = (settings.codebooks, width, settings.dim)
        self.register_buffer("projections", (2 * torch.rand(shape, generator=draw, device="cpu") - 1) * spread)
        shape = (settings.codebooks, settings.codebook_size, settings.dim)
        words = torch.randn(shape, generator=draw, device="cpu")
        self.register_buffer("codewords", functional.normalize(words, dim=-1))

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Compute codes int64 [batch, samples // hop, codebooks] of [batch, samples]."""
        with torch.autocast(waveform.device.type, enabled=False):
            frames = self.features(waveform)
            codes = []
            for projection, words in zip(self.projections, self.codewords):
                # the codeword nearest on the sphere has the largest product; the projection's length changes nothing
                codes.append(((frames @ projection) @ words.T).argmax(-1))
            return torch.stack(codes, -1)


class RandomProjectionTarget(Target):
    """Predict random-projection codes."""

    def __init__(self, settings: RandomProjectionSettings, grid: FrameGrid, dim: int) -> None:
        super().__init__()
        self.name, self.weight, self.settings, self.grid = "random_projection", settings.weight, settings, grid
        self._teacher = (RandomProjector(settings, grid),)  # in a tuple, out of parameters and state_dict
        self.head = CodeHead(dim, (settings.codebook_size,) * settings.codebooks, settings.head, self.name)

    @torch.no_grad()
    def prepare(self, manifest: Manifest, run: Path) -> None:
        """Load the corpus's mean and deviation per mel bin from RUN/tokenizer, or measure them first."""
        features = self._teacher[0].features
        file = run / "tokenizer" / "mel_statistics.safetensors"
        with main_first():
            self._measure(manifest, file)
        measured = load_file(file)
        features.mean.copy_(measured["mean"])
        features.deviation.copy_(measured["deviation"])

    def _measure(self, manifest: Manifest, file: Path) -> None:
        features, settings = self._teacher[0].features, self.settings
        if not file.exists():
            batch = first_crops(manifest, self.grid.sample_rate, settings.crops, settings.seed)
            features.measure(valid_mel(features, batch))
            file.parent.mkdir(parents=True, exist_ok=True)
            beside = file.with_name(file.name + ".part")
            save_file({"mean": features.mean.clone(), "deviation": features.deviation.clone()}, beside)
            beside.rename(file)

    def targets(self, waveform: Tensor, starts: Tensor, keys: list[str]) -> Tensor:
        """Compute codes of clean sound: int64 [batch, samples // hop, codebooks]."""
        codes: Tensor = self._teacher[0](waveform)
        return codes

    def place(self, device: torch.device) -> None:
        """Move the teacher."""
        self._teacher[0].to(device)
