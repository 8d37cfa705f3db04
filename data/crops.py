"""Crops: what we train on. A crop is a pure function of (seed, epoch, position), in whatever process it is cut."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from .batch import Example
from .draws import scramble_array
from .track import WEIGHT, Manifest

ROUNDS = 8  # of the Feistel network behind `order`
_ORDER, _START, _SHARE = 0, 1, 2  # what a random number is for: the streams never meet


@dataclass(frozen=True)
class CropConfig:
    """What is cut.

    Attributes:
        sample_rate: Hz of the crops; files of another rate are resampled.
        crop_samples: length of a crop at that rate.
        views: crops of the same track in one example, each with a start of its own.
        align: starts are multiples of this many samples (a hop, so that stored codes fit).
        epoch: "track" hears each track once; "duration" as often as it is long in crops.
        min_seconds: shorter tracks are left out; 0 keeps and pads them.
    """

    sample_rate: int
    crop_samples: int
    views: int = 1
    align: int = 1
    epoch: Literal["track", "duration"] = "track"
    min_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("sample_rate", "crop_samples", "views", "align"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.epoch not in ("track", "duration"):
            raise ValueError(f'epoch={self.epoch!r} must be "track" or "duration"')

    @property
    def crop_seconds(self) -> float:
        return self.crop_samples / self.sample_rate


class Crops(Dataset[Example]):
    """All crops of a manifest: `crops[epoch, position]`, position below `epoch_length`.

    With epoch="track" an epoch is a permutation of the tracks. With "duration" its length is the whole duration over
    the crop's, rounded; every track gets its share, up or down to a whole number, and which of the two changes from
    epoch to epoch (systematic sampling), so that short tracks are heard in proportion too. A column `weight` in the
    manifest multiplies what a track counts; the lightest counts as without one.

    Raises:
        ValueError: no track is left.
    """

    def __init__(self, manifest: Manifest, config: CropConfig, seed: int = 0) -> None:
        manifest.check_rate(config.sample_rate)
        self.manifest, self.config, self.seed = manifest, config, seed
        self.tracks = np.flatnonzero(manifest.seconds() >= config.min_seconds)
        if not len(self.tracks):
            longest = manifest.seconds().max(initial=0.0)
            raise ValueError(
                f"None of the {len(manifest)} tracks has min_seconds={config.min_seconds} s (the longest has "
                f"{longest:.1f} s): lower min_seconds or scan another folder"
            )
        own = manifest.column("samples")[self.tracks].astype(np.int64)
        rate = manifest.column("sample_rate")[self.tracks].astype(np.int64)
        self.lengths = own * config.sample_rate // rate  # samples at our rate, rounded down: all of them can be read
        self._keys, self._paths = manifest.table["key"].combine_chunks(), manifest.table["path"].combine_chunks()
        weights = manifest.column(WEIGHT)[self.tracks] if WEIGHT in manifest.table.column_names else None
        self._weighted = weights is not None and bool((weights != weights[0]).any())
        mass = self.lengths if config.epoch == "duration" else np.ones(len(self.tracks), dtype=np.int64)
        self._heard = np.cumsum(mass * weights / weights.min() if weights is not None and self._weighted else mass)
        unit = config.crop_samples if config.epoch == "duration" else 1
        self.epoch_length = max(1, round(float(self._heard[-1]) / unit))

    def __len__(self) -> int:
        return self.epoch_length

    def __getitem__(self, where: tuple[int, int] | int) -> Example:
        """`crops[epoch, position]`; `crops[i]` is position i of epoch 0."""
        epoch, position = where if isinstance(where, tuple) else (0, where)
        if not 0 <= position < self.epoch_length:
            raise IndexError(f"position {position} of an epoch of {self.epoch_length} examples")
        return self.example(epoch, position)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """[epoch_length] the manifest's row behind each position."""
        return self.rows(epoch, np.arange(self.epoch_length))

    def rows(self, epoch: int, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The manifest's rows behind some positions; nothing is stored that grows with the epoch."""
        shuffled = permute(positions, self.epoch_length, _hash(self.seed, epoch, _ORDER))
        if self.config.epoch == "track" and not self._weighted:
            return np.asarray(self.tracks[shuffled])
        share = _hash(self.seed, epoch, _SHARE) / 2.0**64
        # crop n belongs to the track in whose stretch of the total duration the point (n + share) / epoch_length lies
        points = (shuffled + share) / self.epoch_length * self._heard[-1]
        found = np.searchsorted(self._heard, points, side="right")
        return np.asarray(self.tracks[np.minimum(found, len(self.tracks) - 1)])

    def rows_at(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The manifest's rows behind global indices, as `Batch.index` counts them: epoch × epoch_length + position."""
        epochs, positions = np.divmod(indices, self.epoch_length)
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            rows[epochs == epoch] = self.rows(epoch, positions[epochs == epoch])
        return rows

    def key_of(self, row: int) -> str:
        return str(self._keys[row].as_py())

    def starts(self, epoch: int, position: int, length: int) -> npt.NDArray[np.int64]:
        """[views] where the crops start in a track of `length` samples: uniform over the multiples of `align`."""
        choices = max(0, length - self.config.crop_samples) // self.config.align + 1
        draws = [_hash(self.seed, epoch, _START, position, view) for view in range(self.config.views)]
        return np.array([(draw * choices >> 64) * self.config.align for draw in draws], dtype=np.int64)

    def example(self, epoch: int, position: int) -> Example:
        """Cut it.

        Raises:
            ValueError: it can't be read as the manifest says; the sentence names the file.
            OSError: it can't be read as the manifest says; the sentence names the file.
        """
        row = int(self.rows(epoch, np.array([position]))[0])
        return self.cut(row, epoch * self.epoch_length + position)

    def cut(self, row: int, index: int, out: npt.NDArray[np.float32] | None = None) -> Example:
        """The example with the global `index`, whose track is in the manifest's `row`, written into `out` if given."""
        config = self.config
        length = int(self.lengths[np.searchsorted(self.tracks, row)])
        path = os.path.join(self.manifest.root, self._paths[row].as_py())
        starts = self.starts(*divmod(index, self.epoch_length), length)
        waveform = np.empty((config.views, config.crop_samples), dtype=np.float32) if out is None else out
        valid = np.minimum(config.crop_samples, length - starts)
        for view, (start, count) in enumerate(zip(starts.tolist(), valid.tolist(), strict=True)):
            sound = self.manifest.read(row, config.sample_rate, start, count)
            if len(sound) < count:
                raise ValueError(
                    f"{path} ends at sample {start + len(sound)} (at {config.sample_rate} Hz), the manifest says "
                    f"{length}: the file has changed, scan the folder again"
                )
            waveform[view, :count] = sound
            waveform[view, count:] = 0
        if not np.isfinite(waveform.sum()):  # no nan or infinity leaves the sum finite
            raise ValueError(f"{path} holds samples that are not a number: the file has changed, scan the folder again")
        return Example(waveform, valid.astype(np.int64), starts, self.key_of(row), index)


def permute(positions: npt.NDArray[Any], length: int, key: int) -> npt.NDArray[np.int64]:
    """Where a keyed random permutation of range(length) sends `positions`, in constant memory.

    A Feistel network over the next even number of bits, walked until it falls inside the range (Black & Rogaway 2002,
    "Ciphers with arbitrary finite domains"): an epoch of 1e8 crops needs no table, in no worker.
    """
    half = np.uint64(max(1, ((length - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = [np.uint64(_hash(key, n)) for n in range(ROUNDS)]
    result = positions.astype(np.uint64)
    outside = np.ones(result.shape, dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        for round_key in keys:
            left, right = right, left ^ (scramble_array(right + round_key) & mask)
        result[outside] = left << half | right
        outside = result >= np.uint64(length)
    return result.astype(np.int64)


def _hash(*numbers: int) -> int:
    """64 random bits that depend on these integers only: the same on every machine and in every version of numpy."""
    packed = b"".join(number.to_bytes(9, "little", signed=True) for number in numbers)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")
