"""What a task's heads read of a track: pooled features, in the task's unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...models.encoder import Encoder
from ...models.heads import POOLINGS
from ..listen.features import WIDEST, Change, FeatureStore
from ..task import Task
from .head import Features, Floats

AUTO = "auto"
POOLED = ("mean", "mean+std", "mean+std+change")
"""The poolings that validation chooses from, where none is told."""


def features_of(
    task: Task, encoder: Encoder, store: FeatureStore, pooling: Any, name: str,
    rows: npt.NDArray[np.int64] | None = None, change: Change | None = None,
) -> Features:  # fmt: skip
    """Pooled features of a task's tracks, or of windows of them where the task asks for these.

    pooling: one, or AUTO: all, to choose from; name: shown while they are computed; rows: of the manifest, None: all;
    change: what is done to the sound first.
    """
    manifest = task.manifest if rows is None else task.manifest.select(rows)
    widest = WIDEST if pooling == AUTO else pooling
    names = (*POOLED,) if pooling == AUTO else (pooling,)
    widths = {one: encoder.dim * POOLINGS[one] for one in names}
    if task.unit == "window" and task.seconds is not None:
        found = store.windows(encoder, manifest, task.seconds, widest, name, change)
        return Features(found.array, found.owner, widths)
    array: Floats = store.clips(encoder, manifest, widest, name, change)
    return Features(array, np.arange(len(manifest)), widths)
