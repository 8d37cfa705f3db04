"""Beats from frames: a logistic head on single frames, peaks of its probability, F at 70 ms per track."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import mir_eval
import numpy as np
import numpy.typing as npt
import torch

from .features import Frames
from .fit import Choice, Outcome
from .heads import basis, logistic
from .task import Task

Array = npt.NDArray[np.float64]
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
TRAINING_FRAMES = 60_000
SLOWEST = 10.0  # frames per second; a frame of 100 ms can't hit a window of ±70 ms reliably


def fit_beats(task: Task, frames: Frames, all_layers: int) -> Outcome:
    """Layer, strength and threshold are chosen by the mean F of the validation tracks.

    frames: of all labelled tracks of the task. The guess of the outcome is the F of each test track: [tests, 1].
    """
    values, choices, curves = [], [], []
    for fold in task.folds:
        x, y = _training(task, frames, fold.train)
        best: tuple[float, Choice, int, Array] | None = None
        curve = np.full(all_layers, np.nan)
        for place, layer in enumerate(frames.layers):
            space = basis(torch.from_numpy(frames.array[place][x]))
            coordinates = space.project(torch.from_numpy(frames.array[place][x]))
            heads = logistic(coordinates, torch.from_numpy(y)[:, None], STRENGTHS, "tags")
            tracks = {}
            for row in [*fold.valid, *fold.test]:
                first, end = frames.spans[int(row)]
                local = space.project(torch.from_numpy(frames.array[place, first:end].copy()))
                tracks[int(row)] = torch.sigmoid(heads(local))[..., 0].numpy()
            for number, strength in enumerate(STRENGTHS):
                for threshold in THRESHOLDS:
                    valid = float(np.mean(_scores(task, frames, fold.valid, tracks, number, threshold)))
                    curve[layer] = np.nanmax([curve[layer], valid])
                    if best is None or valid > best[0]:
                        test = _scores(task, frames, fold.test, tracks, number, threshold)
                        best = valid, Choice(layer, strength, valid), number, test
        assert best is not None
        values.append(best[3])
        choices.append(best[1])
        curves.append(curve)
    rows = np.concatenate([fold.test for fold in task.folds])
    layers = tuple(np.mean(curves, axis=0).tolist())
    return Outcome(rows, task.targets[rows], np.concatenate(values)[:, None], tuple(choices), layers)


def _training(task: Task, frames: Frames, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Array]:
    """Frame numbers and 0/1 targets; a frame is a beat when its middle lies within half a frame or 30 ms of one."""
    numbers, targets = [], []
    for row in rows:
        first, end = frames.spans[int(row)]
        times, beats = frames.times[first:end], np.asarray(task.labels[int(row)], dtype=np.float64)
        reach = max(0.03, float(np.median(np.diff(times))) / 2 if len(times) > 1 else 0.03)
        near = np.abs(times[:, None] - beats[None]).min(1) <= reach if len(beats) else np.zeros(len(times), bool)
        numbers.append(np.arange(first, end))
        targets.append(near.astype(np.float64))
    x, y = np.concatenate(numbers), np.concatenate(targets)
    if len(x) > TRAINING_FRAMES:
        chosen = np.sort(np.random.default_rng(0).permutation(len(x))[:TRAINING_FRAMES])
        x, y = x[chosen], y[chosen]
    return x, y


def _scores(
    task: Task,
    frames: Frames,
    rows: Sequence[int] | npt.NDArray[np.int64],
    tracks: dict[int, Array],
    head: int,
    threshold: float,
) -> Array:
    result = []
    for row in rows:
        first, end = frames.spans[int(row)]
        result.append(
            f_measure(task.labels[int(row)], peaks(tracks[int(row)][head], frames.times[first:end], threshold))
        )
    return np.array(result)


def peaks(probability: Array, times: Array, threshold: float, apart: float = 0.2) -> Array:
    """Times of the frames that are at least `threshold` and the largest within `apart` seconds on both sides."""
    if len(times) < 2:
        return times[:0]
    reach = max(1, round(apart / float(np.median(np.diff(times)))))
    padded = np.pad(probability, reach, constant_values=-np.inf)
    highest = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(1)
    chosen = np.flatnonzero((probability >= threshold) & (probability >= highest))
    keep = np.concatenate([[True], np.diff(chosen) > 1])[: len(chosen)]  # of a plateau, the first frame
    return np.asarray(times[chosen[keep]])


def f_measure(reference: Sequence[float], estimate: Array) -> float:
    """mir_eval's beat F at ±70 ms; nothing is trimmed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an empty estimate scores 0, which is what we want to know
        return float(
            mir_eval.beat.f_measure(np.asarray(reference, dtype=np.float64), np.asarray(estimate, dtype=np.float64))
        )


def constant_beats(task: Task) -> Outcome:
    """A metronome from 0 s on, at the median beat distance of the training tracks."""
    values, choices = [], []
    for fold in task.folds:
        steps = np.concatenate(
            [np.diff(task.labels[int(row)]) for row in fold.train if len(task.labels[int(row)]) > 1] or [[0.5]]
        )
        period = float(np.median(steps))
        values += [
            f_measure(task.labels[int(row)], np.arange(0.0, task.manifest[int(row)].seconds, period))
            for row in fold.test
        ]
        choices.append(Choice(-1, float("nan"), float("nan")))
    rows = np.concatenate([fold.test for fold in task.folds])
    return Outcome(rows, task.targets[rows], np.array(values)[:, None], tuple(choices), ())
