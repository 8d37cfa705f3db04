"""Few-shot curves: the linear protocol on a handful of training tracks, drawn several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import metrics
from .fit import Features, Floats, Rows, answer, choose, items_of, lesson_of, linear
from .task import Task

DRAWS = 5


@dataclass(frozen=True)
class Point:
    """shots: tracks per class (or per output); clips: training tracks in all; values: the test score of each draw."""

    shots: int
    clips: int
    values: tuple[float, ...]

    def to_json(self) -> dict[str, object]:
        return {
            "shots": self.shots,
            "clips": self.clips,
            "value": float(np.mean(self.values)),
            "deviation": float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None,
            "draws": list(self.values),
        }


def curve(
    task: Task, features: Floats | Features, shots: Sequence[int], layers: Sequence[int], draws: int = DRAWS
) -> list[Point]:
    """The main metric of the test tracks against the number of training tracks.

    shots: tracks per class for classes and keys (all, where a class has fewer); for other kinds, tracks per output.
    Validation chooses layer and strength for each draw anew, from all validation tracks; draw k of a number contains
    draw k of every smaller one. Of several folds, the first is used.
    """
    given = features if isinstance(features, Features) else Features(features, np.arange(features.shape[1]))
    fold = task.folds[0]
    truth = task.targets[fold.test]
    points = []
    for number in shots:
        values = []
        for draw in range(draws):
            train = subset(task, fold.train, number, draw)
            heads, _, _ = choose(task, fold, given, linear(lesson_of(task, given, train, fold.valid, layers)))
            items = items_of(given.owner, fold.test)
            guess = answer(task.kind, heads[0].respond(given.array, items), given.owner[items])
            values.append(metrics.measure(task.kind, truth, guess, list(task.classes))[task.metric])
        points.append(Point(number, len(train), tuple(values)))
    return points


def subset(task: Task, train: Rows, shots: int, draw: int) -> Rows:
    """`shots` training tracks per class (per output for other kinds), in a seeded order; sorted."""
    order = np.random.default_rng(draw).permutation(train)
    if task.kind in ("classes", "key"):
        names = task.targets[order]
        chosen = np.concatenate([order[names == name][:shots] for name in np.unique(names)])
    else:
        chosen = order[: max(2, shots * len(task.classes))]
    return np.sort(chosen)
