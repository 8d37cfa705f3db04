"""Frame tasks: a logistic head on single frames, decoded into a label over time, scored track by track.

Layer and strength are chosen by the validation score under the quickest decoders of the label's kind (peaks; the
likeliest chord of each frame), the decoder by the validation score on that layer. The test tracks are decoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from ...data.labels.kind import OverTime, Settings
from ...data.labels.splits import Fold
from ..fit import Choice, Outcome
from ..listen.features import Frames
from ..task import Task
from .forms import Solved, form_of
from .kept import LinearMap
from .linear import Basis, basis

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
TRAINING_FRAMES = 60_000


@dataclass(frozen=True)
class FrameHead:
    """A trained head with its decoder. layer: which it reads; decoder: its settings, as its kind has them, and
    said: in words.
    """

    layer: int
    setting: float
    space: Basis
    solved: Solved
    decoder: Settings
    said: str = ""

    @property
    def map(self) -> LinearMap:
        """The head as a plain map of frames."""
        return LinearMap(self.space, self.solved)

    def activity(self, task: Task, frames: Frames, row: int) -> Array:
        """[frames, names] of a track: what its decoder reads; `frames` must hold the layer."""
        first, end = frames.spans[row]
        place = frames.layers.index(self.layer)
        found = self.solved(self.space.project(torch.from_numpy(frames.array[place, first:end].copy())))
        return form_of(task.label_kind).activity(found)

    def activities(self, task: Task, frames: Frames, rows: Sequence[int] | Rows) -> dict[int, Array]:
        """`activity` of every row."""
        return {int(row): self.activity(task, frames, int(row)) for row in rows}

    def scores(self, task: Task, frames: Frames, rows: Sequence[int] | Rows) -> Array:
        """[rows, measures] of the kind; `frames` must hold the layer."""
        return _scores(task, frames, self.activities(task, frames, rows), self.decoder)


def over_time(task: Task) -> OverTime:
    """Its kind.

    Raises:
        ValueError: a kind that isn't about moments.
    """
    if not isinstance(task.label_kind, OverTime):
        raise ValueError(f"{task.name} asks about frames, and labels of the kind {task.kind} say nothing about them.")
    return task.label_kind


def fit_frames(task: Task, frames: Frames, all_layers: int) -> Outcome:
    """frames: of all tracks of the task, of the layers that may be chosen. The guess is each test track's scores."""
    values, choices, curves, heads = [], [], [], []
    for fold in task.folds:
        head, choice, curve = fit_fold(task, frames, fold)
        values.append(head.scores(task, frames, fold.test))
        choices.append(choice)
        curves.append([curve.get(layer, np.nan) for layer in range(all_layers)])
        heads.append((head,))
    rows = np.concatenate([fold.test for fold in task.folds])
    layers = tuple(np.mean(curves, axis=0).tolist())
    return Outcome(rows, task.targets[rows], np.concatenate(values), tuple(choices), layers, frame_heads=tuple(heads))


def fit_fold(task: Task, frames: Frames, fold: Fold) -> tuple[FrameHead, Choice, dict[int, float]]:
    """The head that validation chose, the choice, each layer's best validation score; no test track is looked at."""
    kind, labels = over_time(task), [task.labels[int(row)] for row in fold.train]
    x, y = _training(task, frames, fold.train)
    quick = kind.decoders(labels, quick=True)
    best: tuple[float, FrameHead] | None = None
    curve: dict[int, float] = {}
    for place, layer in enumerate(frames.layers):
        found = torch.from_numpy(frames.array[place][x])
        space = basis(found)
        for solved in form_of(kind).solve(space.project(found), y, len(task.classes), STRENGTHS):
            head = FrameHead(layer, solved.strength, space, solved, quick[0])
            activity = head.activities(task, frames, fold.valid)
            for decoder in quick:
                valid = float(_scores(task, frames, activity, decoder)[:, 0].mean())
                curve[layer] = max(curve.get(layer, -np.inf), valid)
                if best is None or valid > best[0]:
                    best = valid, replace(head, decoder=decoder, said=kind.said(decoder))
    assert best is not None
    valid, head = best
    activity = head.activities(task, frames, fold.valid)
    for decoder in kind.decoders(labels, quick=False):
        score = float(_scores(task, frames, activity, decoder)[:, 0].mean())
        if score > valid:
            valid, head = score, replace(head, decoder=decoder, said=kind.said(decoder))
    return head, Choice(head.layer, head.setting, valid), curve


def _training(task: Task, frames: Frames, rows: Rows) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Frame numbers and targets as the kind has them; frames that no head can answer are left out."""
    kind = over_time(task)
    numbers, targets = [], []
    for row in rows:
        first, end = frames.spans[int(row)]
        found = kind.frames(task.labels[int(row)], frames.times[first:end], task.classes)
        kept = np.flatnonzero(found >= 0 if found.ndim == 1 else (found >= 0).all(1))
        numbers.append(first + kept)
        targets.append(found[kept])
    x, y = np.concatenate(numbers), np.concatenate(targets)
    if len(x) > TRAINING_FRAMES:
        chosen = np.sort(np.random.default_rng(0).permutation(len(x))[:TRAINING_FRAMES])
        x, y = x[chosen], y[chosen]
    return x, y


def _scores(task: Task, frames: Frames, activity: dict[int, Array], decoder: Settings) -> Array:
    """[rows, measures], in the order of `activity`."""
    kind = over_time(task)
    result = []
    for row, curve in activity.items():
        first, end = frames.spans[row]
        answer = kind.decode(curve, frames.times[first:end], task.classes, decoder)
        result.append(kind.score(task.labels[row], answer))
    return np.array(result)


def constant_frames(task: Task) -> Outcome:
    """The kind's best answer that doesn't listen, learned from each fold's training tracks."""
    kind = over_time(task)
    values, choices = [], []
    for fold in task.folds:
        labels = [task.labels[int(row)] for row in fold.train]
        for row in fold.test:
            values.append(kind.score(task.labels[int(row)], kind.deaf(labels, task.manifest[int(row)].seconds)))
        choices.append(Choice(-1, float("nan"), float("nan")))
    rows = np.concatenate([fold.test for fold in task.folds])
    return Outcome(rows, task.targets[rows], np.array(values), tuple(choices), ())
