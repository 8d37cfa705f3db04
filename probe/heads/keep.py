"""Heads folders: what `groundbass probe` keeps of a task, for who wants its answers about other sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...models.head_files import HeadFacts, write_head
from ...models.heads import POOLINGS
from ..fit import Outcome
from ..listen.features import Frames
from ..task import Task
from .head import WEIGHTED, Features, items_of, track_means
from .kept import Place, calibrated

if TYPE_CHECKING:
    from ...models.heads import Head

FOLDER = "heads"
PROTOCOLS = ("linear", "marble")
"""Whose heads are plain maps."""


def keep_head(task: Task, outcome: Outcome, features: Features | Frames, layers: int) -> tuple[Head, HeadFacts]:
    """The head of the first fold (and seed) as a plain map, and how its answers become a track's.

    features: what it was chosen on; layers: of the encoder.
    """
    if isinstance(features, Frames):
        frame_head = outcome.frame_heads[0][0]
        width = int(features.array.shape[-1])
        place = Place(task.label_kind, task.classes, width, frame_head.layer, layers)
        facts = HeadFacts(unit="frame", decoder=dict(frame_head.decoder))
        return frame_head.map.build(place), facts
    trained = outcome.heads[0][0]
    if trained.map is None:
        raise ValueError(f"Heads of {task.name} by this protocol are no plain maps; those of {PROTOCOLS} are.")
    pooling = trained.pooling
    width = features.widths.get(pooling, int(features.array.shape[-1])) // POOLINGS[pooling]
    layer = layers - 1 if trained.layer == WEIGHTED else trained.layer
    head = trained.map.build(Place(task.label_kind, task.classes, width, layer, layers, pooling))
    fold = task.folds[0]
    items = items_of(features.owner, fold.valid)
    said = track_means(trained.respond(features.array, items), features.owner[items])
    head, thresholds = calibrated(head, task.label_kind, task.targets[fold.valid], said)
    windows = task.unit == "window" and task.seconds is not None
    way: Literal["logits", "moments"] = "logits" if windows else "moments"
    facts = HeadFacts(
        unit=task.unit, aggregation=way, thresholds=thresholds, stretch_seconds=task.seconds if windows else None
    )
    return head, facts


@dataclass(frozen=True)
class Origin:
    """What is written beside a head about where it comes from; task, scores: as JSON has them."""

    encoder: str
    encoder_hash: str
    window_seconds: float
    task: Mapping[str, Any]
    scores: Mapping[str, Any]


def write_kept(folder: Path, name: str, head: Head, facts: HeadFacts, origin: Origin) -> Path:
    """FOLDER/heads/NAME.json and NAME.safetensors, with what the result says of encoder, task and scores."""
    whole = replace(
        facts, window_seconds=origin.window_seconds, encoder=origin.encoder, encoder_hash=origin.encoder_hash,
        task=dict(origin.task), scores=dict(origin.scores),
    )  # fmt: skip
    return write_head(folder / FOLDER, name, head, whole)


def is_kept(folder: Path, name: str) -> bool:
    """Whether a result's head is there."""
    return (folder / FOLDER / f"{name}.json").is_file()
