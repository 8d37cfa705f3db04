"""What every protocol shares: features, what heads learn from, trained heads, and how items become a track's answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...data.labels.kind import Kind
from .forms import form_of
from .kept import Map

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
WEIGHTED = -1  # the "layer" of a learned weighted sum of all layers


@dataclass(frozen=True)
class Features:
    """array: [layers, items, dim], an item being a track or a window of one; owner: [items] the track's row."""

    array: Floats
    owner: Rows


@dataclass(frozen=True)
class Head:
    """A trained head. layer: which it reads, or `WEIGHTED`; setting: strength, learning rate or neighbours.

    respond: (features [layers, items, dim], item numbers) -> [items, outputs] log probabilities for classes, logits for
    tags, values for numbers. map: the same as plain linear maps, where it is one.
    importance: [dim] share of a forest's splits that each feature explains.
    """

    layer: int
    setting: float
    seed: int
    respond: Callable[[Floats, Rows], Array]
    map: Map | None = field(default=None, repr=False)
    importance: Array | None = field(default=None, repr=False)


@dataclass(frozen=True)
class TrainingData:
    """What a protocol learns from: items of the training and validation tracks of one fold, never of the test tracks.

    array: [layers, items, dim] of all; train, valid: item numbers; targets: [items, …] as `Task.targets`; outputs: how
    many a head has; layers: which may be read; owner: [items] the track's row; seeds: for protocols that have any.
    judge: predictions of the validation tracks [tracks, outputs] -> (main metric, loss), for early stopping; name: of
    the task.
    """

    kind: Kind
    array: Floats
    owner: Rows
    train: Rows
    valid: Rows
    targets: npt.NDArray[Any]
    outputs: int
    layers: Sequence[int]
    seeds: Sequence[int]
    judge: Callable[[Array], tuple[float, float]]
    name: str = ""


def items_of(owner: Rows, rows: Rows) -> Rows:
    """The items of these tracks, in the order of the tracks: each track's items lie together."""
    first = np.searchsorted(owner, rows, "left")
    end = np.searchsorted(owner, rows, "right")
    return np.concatenate([np.arange(a, b) for a, b in zip(first, end)]) if len(rows) else first


def answer(kind: Kind, logits: Array, owner: Rows) -> Array:
    """[items, outputs] logits -> [tracks, outputs] probabilities or values: the mean over each track's items, then what
    the kind makes of logits. owner: [items], each track's items together.
    """
    return form_of(kind).likely(track_means(logits, owner))


def track_means(values: Array, owner: Rows) -> Array:
    """[items, …] -> [tracks, …]: the mean over each track's items, which lie together."""
    starts = np.flatnonzero(np.diff(owner, prepend=owner[:1] - 1))
    return np.asarray(np.add.reduceat(values, starts) / np.diff([*starts, len(owner)])[:, None])
