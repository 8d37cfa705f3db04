"""What every target is: something computed from clean sound for each encoder frame, and a loss of its prediction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...data.track import Track

Metrics = dict[str, Tensor | float]

NOISE = Track("noise", "noise", 1, 1, 1, "0" * 32)
"""The track of the noise that steps are counted on."""


@dataclass(frozen=True)
class FrameGrid:
    """The encoder's time axis: frame k starts at sample k × hop."""

    sample_rate: int
    """Hz."""
    hop: int
    """Samples per encoder frame."""

    @property
    def frame_rate(self) -> float:
        """Frames per second: sample_rate / hop."""
        return self.sample_rate / self.hop


class Head(nn.Module):
    """Predicts targets from hidden states; code heads also watch their labels."""

    def forward(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Metrics]:
        """Score predictions from hidden [n, dim] for targets [n, …]: the scalar mean with gradient, and metrics."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(hidden, targets)")

    def observe(self, targets: Tensor) -> None:
        """Count what a batch's valid frames [n, …] hold, masked or not."""

    def follow(self, step: int) -> None:
        """Take the step's labels into account, and raise TrainingStopped where they carry no information.

        Called after every step, on all ranks.
        """


class Target(nn.Module):
    """A teacher that computes targets from clean sound, and the head that predicts them.

    A subclass sets `name` (the prefix of its metrics), `weight` (of its loss in the sum) and `head`, and implements
    `targets`. Frozen teachers are kept out of parameters and state_dict (in a tuple), and moved by `place`.
    """

    name: str
    weight: float
    head: Head

    def targets(self, waveform: Tensor, starts: Tensor, keys: list[str]) -> Tensor:
        """Compute targets [batch, frames, …] at the encoder's frame rate; the caller trims to the encoder's frames.

        waveform: [batch, samples] clean; starts: int64 [batch] on the CPU, sample index of the crop in its track;
        keys: [batch].
        """
        raise NotImplementedError

    def loss(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Metrics]:
        """Score predictions from hidden [n, dim] (masked frames only) for targets [n, …]: scalar mean, and metrics."""
        value, metrics = self.head(hidden, targets)
        return value, {f"{self.name}/{key}": entry for key, entry in metrics.items()}

    def observe(self, targets: Tensor) -> None:
        """Count what a batch's valid frames [n, …] hold, masked or not."""
        self.head.observe(targets)

    def follow(self, step: int) -> None:
        """Judge the labels after a step, on all ranks; raises TrainingStopped where they carry no information."""
        self.head.follow(step)

    def prepare(self, manifest: Any, run: Path) -> None:
        """Fit or load what has to exist before training, in the folder `run`; called once, on all ranks."""

    def prepare_for_counting(self) -> None:
        """Load what `targets` needs, without data."""

    def provenance(self) -> dict[str, Any]:
        """Return what else decides the targets (hashes of teachers), JSON-able."""
        return {}

    def place(self, device: torch.device) -> None:
        """Move frozen teachers, which `Module.to` doesn't see."""
