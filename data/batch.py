"""Batch: the one tensor that travels, `[batch, views, samples]`, and what goes with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

from .draws import sent


@dataclass
class OnHost:
    """What Python may look at without waiting for a device: valid, starts [batch, views], index [batch] on the CPU."""

    valid: Tensor
    starts: Tensor
    index: Tensor

    def by_view(self) -> tuple[Tensor, Tensor]:
        """Every view as an item of its own: valid and its number (`Batch.item_numbers`), int64 [batch · views]."""
        return rearrange(self.valid, "batch views -> (batch views)"), _numbers(self.index, self.valid.shape[1])


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
    ids: Tensor | None = None
    """[batch] int64, hashes of the keys, where the loader made them already"""
    host: OnHost | None = None
    """what of it was read before it went to a GPU"""
    changed: bool = False
    """whether it is augmented already"""

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

    def item_numbers(self) -> Tensor:
        """A number for every view of every example, int64 [batch · views]: what its random draws are a function of."""
        return _numbers(self.index, self.waveform.shape[1])

    def on_host(self) -> OnHost:
        """`valid` and `index` on the CPU; waits for the device only where the batch was made on it."""
        if self.host is not None and self.valid.device.type != "cpu":
            return self.host
        return OnHost(self.valid.cpu(), self.starts.cpu(), self.index.cpu())

    def to(self, device: torch.device | str) -> Batch:
        """The batch on `device`; the copy doesn't wait where the memory is pinned."""
        moved: dict[str, Any] = {name: part.to(device, non_blocking=True) for name, part in self.tensors().items()}
        return replace(self, **moved, host=self.on_host())

    def pin_memory(self) -> Batch:
        pinned: dict[str, Any] = {name: part.pin_memory() for name, part in self.tensors().items()}
        return replace(self, **pinned)

    def tensors(self) -> dict[str, Tensor]:
        """What travels to a device, by name."""
        found = {name: getattr(self, name) for name in ("waveform", "valid", "starts", "index", "ids")}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def key_ids(self) -> Tensor:
        """[batch] int64, the same for the same key in any process: what NT-Xent compares."""
        return sent(_ids(self.keys), self.index.device) if self.ids is None else self.ids


def _numbers(index: Tensor, views: int) -> Tensor:
    return (index[:, None] * views + torch.arange(views, device=index.device)).flatten()


def _ids(keys: Sequence[str]) -> Tensor:
    return torch.tensor([key_id(key) for key in keys], dtype=torch.int64)


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
        ids=_ids([example.key for example in examples]),
    )
