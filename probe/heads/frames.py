"""Frame tasks: a logistic head on single frames, decoded into a label over time, scored track by track.

Layer and strength are chosen by the validation score under the quickest decoders of the label's kind (peaks; the
likeliest chord of each frame), the decoder by the validation score on that layer. The test tracks are decoded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from .side_by_side import side_by_side

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
TRAINING_FRAMES = 60_000
TOLERANCE = 1e-4
"""Of the gradient: ten times what heads of clips have, which moves scores by less than 0.001 and halves the time."""
GROUP = 20_000  # frames that heads answer at a time
TOGETHER = 2**24  # numbers of training features up to which layers are fitted side by side


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

    def activities(self, task: Task, frames: Frames, rows: Sequence[int] | Rows) -> dict[int, Array]:
        """[frames, names] of every row: what its decoder reads; `frames` must hold the layer."""
        return _activities(task, frames, self.layer, self.space, [self.solved], rows)[0]

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

    def best_of(layer: int) -> tuple[float, FrameHead]:
        return _fit_layer(task, frames, layer, fold.valid, x, y, quick)

    few = len(x) * frames.array.shape[2] <= TOGETHER
    found = list(side_by_side(best_of, frames.layers, most=None if few else 1))
    curve = {head.layer: score for score, head in found}
    valid, head = max(found, key=lambda pair: pair[0])  # of equals the first
    activity = head.activities(task, frames, fold.valid)
    more = kind.decoders(labels, quick=False)
    for decoder, score in zip(more, _main_scores(task, frames, activity, more)):
        if score > valid:
            valid, head = score, replace(head, decoder=decoder, said=kind.said(decoder))
    return head, Choice(head.layer, head.setting, valid), curve


def _fit_layer(
    task: Task, frames: Frames, layer: int, valid: Rows, x: Rows, y: npt.NDArray[np.int64], decoders: list[Settings]
) -> tuple[float, FrameHead]:
    """The best validation score of a layer and its head, the first of equals. x, y: training frames, their targets."""
    kind = over_time(task)
    train = torch.from_numpy(frames.array[frames.layers.index(layer)][x])
    space = basis(train)
    path = form_of(kind).solve(space.project(train), y, len(task.classes), STRENGTHS, TOLERANCE)
    best: tuple[float, FrameHead] | None = None
    for solved, activity in zip(path, _activities(task, frames, layer, space, path, valid)):
        for decoder, score in zip(decoders, _main_scores(task, frames, activity, decoders)):
            if best is None or score > best[0]:
                best = score, FrameHead(layer, solved.strength, space, solved, decoder, kind.said(decoder))
    assert best is not None
    return best


def _activities(
    task: Task, frames: Frames, layer: int, space: Basis, path: Sequence[Solved], rows: Sequence[int] | Rows
) -> list[dict[int, Array]]:
    """What decoders read of every row, for each of several heads on one layer; some tracks at a time."""
    array, form = frames.array[frames.layers.index(layer)], form_of(task.label_kind)
    found: list[dict[int, Array]] = [{} for _ in path]
    for group in _groups(frames, rows):
        spans = [frames.spans[row] for row in group]
        coordinates = space.project(torch.from_numpy(np.concatenate([array[first:end] for first, end in spans])))
        edges = np.cumsum([end - first for first, end in spans])[:-1]
        for solved, kept in zip(path, found):
            kept.update(zip(group, np.split(form.activity(solved(coordinates)), edges)))
    return found


def _groups(frames: Frames, rows: Sequence[int] | Rows) -> Iterator[list[int]]:
    """Rows in their order, so many at a time that they have about `GROUP` frames."""
    group: list[int] = []
    size = 0
    for row in map(int, rows):
        first, end = frames.spans[row]
        if group and size + end - first > GROUP:
            yield group
            group, size = [], 0
        group.append(row)
        size += end - first
    if group:
        yield group


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


def _main_scores(task: Task, frames: Frames, activity: dict[int, Array], decoders: Sequence[Settings]) -> list[float]:
    """Under each decoder, the mean of the main measure."""
    kind, found = over_time(task), []
    for row, curve in activity.items():
        first, end = frames.spans[row]
        found.append(kind.main_scores(task.labels[row], curve, frames.times[first:end], task.classes, decoders))
    return [float(score) for score in np.mean(found, axis=0)]


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
