"""Batch: the one tensor that travels, `[batch, views, samples]`, and what goes with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor


@dataclass
class Batch:
    """Crops on their way to an objective.

    waveform: [batch, views, samples] float32 in [-1, 1], zeros after `valid`. sample_rate: Hz.
    valid: [batch, views] samples of sound. starts: [batch, views] sample index in the track, at `sample_rate`.
    keys: track key per item. index: [batch] global example index, epoch × epoch_length + position: seeds augmentations.
    """

    waveform: Tensor
    sample_rate: int
    valid: Tensor
    starts: Tensor
    keys: list[str]
    index: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def seconds(self) -> float:
        """Of sound, padding left out, all views together."""
        return float(self.valid.sum()) / self.sample_rate

    def by_view(self) -> tuple[Tensor, Tensor]:
        """Every view as an item of its own: waveform [batch · views, samples], valid [batch · views]."""
        waveform = rearrange(self.waveform, "batch views samples -> (batch views) samples")
        return waveform, rearrange(self.valid, "batch views -> (batch views)")

    def to(self, device: torch.device | str) -> Batch:
        """The batch on `device`; the copy doesn't wait where the memory is pinned."""
        moved = {n: getattr(self, n).to(device, non_blocking=True) for n in ("waveform", "valid", "starts", "index")}
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        pinned = {n: getattr(self, n).pin_memory() for n in ("waveform", "valid", "starts", "index")}
        return replace(self, **pinned)

    def key_ids(self) -> Tensor:
        """[batch] int64, the same for the same key in any process: what NT-Xent compares."""
        return torch.tensor([key_id(key) for key in self.keys], dtype=torch.int64, device=self.index.device)


def key_id(key: str) -> int:
    """A 63-bit hash of a track's key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Example:
    """One item of a batch: waveform [views, samples] float32, valid and starts [views] in samples."""

    waveform: npt.NDArray[np.float32]
    valid: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    key: str
    index: int


def collate(examples: Sequence[Example], sample_rate: int, waveform: Tensor | None = None) -> Batch:
    """Examples into a batch, in their order; `waveform` [batch, views, samples] is the tensor they lie in already."""
    if waveform is None:
        waveform = torch.from_numpy(np.stack([example.waveform for example in examples]))
    return Batch(
        waveform=waveform,
        sample_rate=sample_rate,
        valid=torch.from_numpy(np.stack([example.valid for example in examples])),
        starts=torch.from_numpy(np.stack([example.starts for example in examples])),
        keys=[example.key for example in examples],
        index=torch.tensor([example.index for example in examples], dtype=torch.int64),
    )
