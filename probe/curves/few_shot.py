"""Few-shot curves: the linear protocol on a handful of training tracks, drawn several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..fit import learn
from ..heads.frames import fit_fold
from ..heads.head import Features, Rows, answer, items_of
from ..listen.features import Frames
from ..task import Task

DRAWS = 5


@dataclass(frozen=True)
class Point:
    """shots: tracks per class (or per output); clips: training tracks in all; values: the test score of each draw."""

    shots: int
    clips: int
    values: tuple[float, ...]

    @property
    def value(self) -> float:
        """The mean over draws."""
        return float(np.mean(self.values)) if self.values else float("nan")

    def to_json(self) -> dict[str, object]:
        """As a result's file has it."""
        return {
            "shots": self.shots,
            "clips": self.clips,
            "value": self.value,
            "deviation": float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None,
            "draws": list(self.values),
        }


def curve(
    task: Task, features: Features | Frames, shots: Sequence[int], layers: Sequence[int], draws: int = DRAWS
) -> list[Point]:
    """The main metric of the test tracks against the number of training tracks.

    shots: tracks per class for classes and keys (all, where a class has fewer), per output for tags and numbers, tracks
    in all for frames. Validation chooses pooling, layer, strength and decoder for each draw anew, from all its tracks;
    draw k of a number contains draw k of every smaller one. Of several folds, the first is used.
    """
    points = []
    for number in shots:
        parts = [subset(task, task.folds[0].train, number, draw) for draw in range(draws)]
        values = tuple(_score(task, features, train, layers) for train in parts)
        points.append(Point(number, len(parts[0]), values))
    return points


def _score(task: Task, features: Features | Frames, train: Rows, layers: Sequence[int]) -> float:
    """The test score of what is learned from `train` alone."""
    fold = replace(task.folds[0], train=train)
    if isinstance(features, Frames):
        guess = fit_fold(task, features, fold)[0].scores(task, features, fold.test)
    else:
        heads, _, _ = learn(task, fold, features, layers)
        items = items_of(features.owner, fold.test)
        guess = answer(task.label_kind, heads[0].respond(features.array, items), features.owner[items])
    return task.measure(task.targets[fold.test], guess)[task.metric]


def subset(task: Task, train: Rows, shots: int, draw: int) -> Rows:
    """`shots` training tracks per class, output or in all (see `curve`), in a seeded order; sorted."""
    order = np.random.default_rng(draw).permutation(train)
    if task.label_kind.one_of:
        names = task.targets[order]
        return np.sort(np.concatenate([order[names == name][:shots] for name in np.unique(names)]))
    return np.sort(order[: shots if task.unit == "frame" else max(2, shots * len(task.classes))])
