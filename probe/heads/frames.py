"""Frame tasks: a logistic head on single frames, decoded into beats or chords, scored track by track.

Layer and strength are chosen by the validation score under the plainest decoder (peaks; the likeliest chord of each
frame), the decoder by the validation score on that layer. The test tracks are decoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from .. import metrics
from ..fit import Choice, Outcome
from ..listen.features import Frames
from ..splits import Fold
from ..task import Task
from . import decoding
from .linear import Basis, One, basis, logistic

Array = npt.NDArray[np.float64]
Decoder = Callable[[Array, Array], "Array | npt.NDArray[np.int64]"]
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
TIGHTNESS = (30.0, 100.0, 300.0)
SWITCHES = (0.0, 1.0, 3.0, 6.0, 12.0, 24.0)  # nats that a change of chord costs
TRAINING_FRAMES = 60_000
SLOWEST = {"beats": 10.0, "chords": 2.0}  # frames per second; one of 100 ms can't hit ±70 ms reliably


@dataclass(frozen=True)
class FrameHead:
    """A trained head with its decoder. layer: which it reads; decoder: its name, for the reader."""

    layer: int
    setting: float
    space: Basis
    head: One
    outputs: npt.NDArray[np.int64]
    decoder: str
    decode: Decoder

    def scores(self, task: Task, frames: Frames, rows: Sequence[int] | npt.NDArray[np.int64]) -> Array:
        """[rows, measures] of `metrics.FRAME_MEASURES`; `frames` must hold the layer."""
        place = frames.layers.index(self.layer)
        activity = _activity(task, frames, place, rows, self.space, self.head, self.outputs)
        return _scores(task, frames, rows, activity, self.decode)


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
    x, y = _training(task, frames, fold.train)
    outputs = np.unique(y) if task.kind == "chords" else np.array([0])
    table = (y[:, None] == outputs).astype(np.float64) if task.kind == "chords" else y[:, None].astype(np.float64)
    usual = _usual(task, fold.train)
    plain = decoders(task.kind, usual, plain=True)
    best: tuple[float, FrameHead] | None = None
    curve: dict[int, float] = {}
    for place, layer in enumerate(frames.layers):
        found = torch.from_numpy(frames.array[place][x])
        space = basis(found)
        form = "classes" if task.kind == "chords" else "tags"
        trained = logistic(space.project(found), torch.from_numpy(table), STRENGTHS, form)  # type: ignore[arg-type]
        for number, strength in enumerate(STRENGTHS):
            one = trained.of(number)
            activity = _activity(task, frames, place, fold.valid, space, one, outputs)
            for name, decode in plain.items():
                valid = float(_scores(task, frames, fold.valid, activity, decode)[:, 0].mean())
                curve[layer] = max(curve.get(layer, -np.inf), valid)
                if best is None or valid > best[0]:
                    best = valid, FrameHead(layer, strength, space, one, outputs, name, decode)
    assert best is not None
    valid, head = best
    activity = _activity(task, frames, frames.layers.index(head.layer), fold.valid, head.space, head.head, outputs)
    for name, decode in decoders(task.kind, usual, plain=False).items():
        score = float(_scores(task, frames, fold.valid, activity, decode)[:, 0].mean())
        if score > valid:
            valid = score
            head = FrameHead(head.layer, head.setting, head.space, head.head, outputs, name, decode)
    return head, Choice(head.layer, head.setting, valid), curve


def decoders(kind: str, usual: float, plain: bool) -> dict[str, Decoder]:
    """The decoders that validation chooses from, by name: the quick ones, or those tried on the chosen head only."""
    if kind == "chords":
        switches = SWITCHES[:1] if plain else SWITCHES[1:]
        return {f"Viterbi, switch {cost:g}": partial(_path, switch=cost) for cost in switches}
    if plain:
        return {f"peaks above {level:g}": partial(_peaks, threshold=level, usual=usual) for level in THRESHOLDS}
    return {
        f"tracker, tightness {value:g}": partial(decoding.track_beats, usual=usual, tightness=value)
        for value in TIGHTNESS
    }


def _path(scores: Array, times: Array, switch: float) -> npt.NDArray[np.int64]:
    return decoding.viterbi(scores, switch)


def _peaks(probability: Array, times: Array, threshold: float, usual: float) -> Array:
    return decoding.peaks(probability, times, threshold, apart=min(1.0, 0.4 * usual))


def _usual(task: Task, rows: npt.NDArray[np.int64]) -> float:
    """The median distance of beats of the training tracks, in s."""
    if task.kind != "beats":
        return 0.5
    steps = [np.diff(task.labels[int(row)]) for row in rows if len(task.labels[int(row)]) > 1]
    return float(np.median(np.concatenate(steps))) if steps else 0.5


def _training(
    task: Task, frames: Frames, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Frame numbers and targets: 0/1 for beats, where a frame is a beat when its middle lies within half a frame or
    30 ms of one; chord numbers, frames without a major or minor chord left out.
    """
    numbers, targets = [], []
    for row in rows:
        first, end = frames.spans[int(row)]
        times, label = frames.times[first:end], task.labels[int(row)]
        if task.kind == "chords":
            found = chord_classes(label, times)
            kept = np.flatnonzero(found >= 0)
            numbers.append(first + kept)
            targets.append(found[kept])
            continue
        beats = np.asarray(label, dtype=np.float64)
        reach = max(0.03, float(np.median(np.diff(times))) / 2 if len(times) > 1 else 0.03)
        near = np.abs(times[:, None] - beats[None]).min(1) <= reach if len(beats) else np.zeros(len(times), bool)
        numbers.append(np.arange(first, end))
        targets.append(near.astype(np.int64))
    x, y = np.concatenate(numbers), np.concatenate(targets)
    if len(x) > TRAINING_FRAMES:
        chosen = np.sort(np.random.default_rng(0).permutation(len(x))[:TRAINING_FRAMES])
        x, y = x[chosen], y[chosen]
    return x, y


def chord_classes(label: Sequence[dict[str, float | str]], times: Array) -> npt.NDArray[np.int64]:
    """[frames] number in `metrics.CHORDS` of the chord at each time; -1 where it is neither major, minor nor none."""
    result = np.full(len(times), -1, dtype=np.int64)
    for span in label:
        here = (times >= float(span["start"])) & (times < float(span["end"]))
        result[here] = metrics.chord_class(str(span["label"]))
    return result


def _activity(
    task: Task,
    frames: Frames,
    place: int,
    rows: Sequence[int] | npt.NDArray[np.int64],
    space: Basis,
    head: One,
    outputs: npt.NDArray[np.int64],
) -> dict[int, Array]:
    """What the decoder reads, per row: beat probabilities [frames], or log probabilities of all chords [frames, 25]."""
    found = {}
    for row in rows:
        first, end = frames.spans[int(row)]
        logits = head(space.project(torch.from_numpy(frames.array[place, first:end].copy())))
        if task.kind == "chords":
            full = np.full((end - first, len(metrics.CHORDS)), -1e3)
            full[:, outputs] = torch.log_softmax(logits, -1).numpy()
            found[int(row)] = full
        else:
            found[int(row)] = torch.sigmoid(logits)[:, 0].numpy()
    return found


def _scores(
    task: Task,
    frames: Frames,
    rows: Sequence[int] | npt.NDArray[np.int64],
    activity: dict[int, Array],
    decode: Decoder,
) -> Array:
    """[rows, measures]."""
    result: list[tuple[float, ...]] = []
    for row in rows:
        first, end = frames.spans[int(row)]
        times = frames.times[first:end]
        estimate = decode(activity[int(row)], times)
        if task.kind == "chords":
            spans = chord_spans(np.asarray(estimate), times)
            result.append(metrics.chord_scores(task.labels[int(row)], spans))
        else:
            result.append(metrics.beat_scores(task.labels[int(row)], np.asarray(estimate, dtype=np.float64)))
    return np.array(result)


def chord_spans(path: npt.NDArray[np.int64], times: Array) -> list[dict[str, float | str]]:
    """A chord per frame as spans; a frame reaches halfway to its neighbours, the first from 0 s."""
    edges = np.concatenate(
        [[0.0], (times[1:] + times[:-1]) / 2, [2 * times[-1] - (times[-2] if len(times) > 1 else 0.0)]]
    )
    starts = np.flatnonzero(np.diff(path, prepend=-1))
    ends = [*starts[1:], len(path)]
    return [
        {"start": float(edges[a]), "end": float(edges[b]), "label": metrics.CHORDS[path[a]]}
        for a, b in zip(starts, ends)
    ]


def constant_frames(task: Task) -> Outcome:
    """A metronome from 0 s on at the median beat distance of the training tracks; for chords the commonest one."""
    values: list[tuple[float, ...]] = []
    choices = []
    for fold in task.folds:
        answer = _commonest(task, fold.train) if task.kind == "chords" else ""
        period = _usual(task, fold.train)
        for row in fold.test:
            seconds = task.manifest[int(row)].seconds
            if task.kind == "chords":
                whole: list[dict[str, float | str]] = [{"start": 0.0, "end": seconds, "label": answer}]
                values.append(metrics.chord_scores(task.labels[int(row)], whole))
            else:
                values.append(metrics.beat_scores(task.labels[int(row)], np.arange(0.0, seconds, period)))
        choices.append(Choice(-1, float("nan"), float("nan")))
    rows = np.concatenate([fold.test for fold in task.folds])
    return Outcome(rows, task.targets[rows], np.array(values), tuple(choices), ())


def _commonest(task: Task, rows: npt.NDArray[np.int64]) -> str:
    seconds = np.zeros(len(metrics.CHORDS))
    for row in rows:
        for span in task.labels[int(row)]:
            number = metrics.chord_class(str(span["label"]))
            if number >= 0:
                seconds[number] += float(span["end"]) - float(span["start"])
    return str(metrics.CHORDS[int(seconds.argmax())])
