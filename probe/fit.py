"""Fit the heads of a task on every layer, choose layer and strength on validation, read the test set once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import metrics
from .heads import RIDGE_STRENGTHS, STRENGTHS, Heads, basis, logistic, ridge
from .splits import Fold
from .task import Task

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """What validation chose in one fold."""

    layer: int
    strength: float
    valid: float


@dataclass(frozen=True)
class Outcome:
    """Predictions for all test tracks, pooled over folds.

    rows: [tests] of the task's manifest; truth, guess: as `metrics.measure` takes them; choices: one per fold;
    layers: the best validation score of each layer, mean over folds.
    """

    rows: npt.NDArray[np.int64]
    truth: npt.NDArray[Any]
    guess: Array
    choices: tuple[Choice, ...]
    layers: tuple[float, ...]

    @property
    def layer(self) -> int:
        """The layer that most folds chose."""
        return Counter(choice.layer for choice in self.choices).most_common(1)[0][0]

    @property
    def strength(self) -> float:
        """The strength that most folds chose."""
        return Counter(choice.strength for choice in self.choices).most_common(1)[0][0]


def fit(task: Task, features: npt.NDArray[np.float32], layers: Sequence[int] | None = None) -> Outcome:
    """Probe pooled features: [layers, tracks, dim] of the task's manifest; `layers` restricts which may be chosen.

    Each fold's head is learned on its training tracks alone; it isn't fitted again on training and validation together.
    """
    used = list(range(len(features))) if layers is None else list(layers)
    guesses, choices, curves = [], [], []
    for fold in task.folds:
        guess, choice, curve = _fold(task, fold, features, used)
        guesses.append(guess)
        choices.append(choice)
        curves.append(curve)
    rows = np.concatenate([fold.test for fold in task.folds])
    table = np.full(len(features), np.nan)
    table[used] = np.mean(curves, axis=0)
    return Outcome(rows, task.targets[rows], np.concatenate(guesses), tuple(choices), tuple(table.tolist()))


def _fold(
    task: Task, fold: Fold, features: npt.NDArray[np.float32], used: list[int]
) -> tuple[Array, Choice, list[float]]:
    truth = task.targets[fold.valid]
    best: tuple[tuple[float, float], Choice, Array] | None = None
    curve = []
    for layer in used:
        rows = [
            torch.from_numpy(np.ascontiguousarray(features[layer][part]))
            for part in (fold.train, fold.valid, fold.test)
        ]
        strengths, predictions = predictions_of(
            task.kind, rows[0], task.targets[fold.train], rows[1:], len(task.classes)
        )
        scores = []
        for number, strength in enumerate(strengths):
            valid = predictions[0][number]
            score = main(task.kind, truth, valid, list(task.classes))
            scores.append(score)
            rank = (score if np.isfinite(score) else -np.inf, -loss(task.kind, truth, valid))
            if best is None or rank > best[0]:
                best = rank, Choice(layer, strength, score), predictions[1][number]
        curve.append(float(np.nanmax(scores)) if np.isfinite(scores).any() else float("nan"))
    assert best is not None  # `used` is never empty: the command checks it
    return best[2], best[1], curve


def main(kind: str, truth: npt.NDArray[Any], guess: Array, classes: list[str]) -> float:
    """The main metric of a kind on one split (by its fast form; the test set's is scikit-learn's)."""
    return float(metrics.resampled(kind, truth, guess, classes, np.ones((1, len(truth))))[0])


def loss(kind: str, truth: npt.NDArray[Any], guess: Array) -> float:
    """The convex loss on validation: it breaks ties of a coarse metric."""
    tiny = 1e-12
    if kind in ("classes", "key"):
        return float(-np.log(guess[np.arange(len(truth)), truth] + tiny).mean())
    if kind == "tags":
        return float(-(truth * np.log(guess + tiny) + (1 - truth) * np.log(1 - guess + tiny)).mean())
    return float(np.square(truth - guess).mean())


def predictions_of(
    kind: str, train: Tensor, targets: npt.NDArray[Any], others: Sequence[Tensor], outputs: int
) -> tuple[tuple[float, ...], list[Array]]:
    """Learn all strengths on `train` [clips, dim]; predict for each of `others`.

    Returns the strengths and, per other, [strengths, clips, outputs] probabilities or values. Classes without a
    training clip get probability 0; tags that all or no training clips carry get that constant.
    """
    space = basis(train)
    coordinates = [space.project(other) for other in others]
    if kind == "numbers":
        wanted = torch.from_numpy(targets)
        mean, scale = wanted.mean(0), wanted.std(0, correction=0)
        scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale))
        heads = ridge(space.project(train), (wanted - mean) / scale, RIDGE_STRENGTHS)
        return RIDGE_STRENGTHS, [(heads(c) * scale + mean).numpy() for c in coordinates]
    table = np.eye(outputs)[targets] if kind in ("classes", "key") else targets.astype(np.float64)
    share = table.mean(0)
    learned = np.flatnonzero((share > 0) & ((share < 1) | (kind != "tags")))
    guesses = [np.tile(np.where(kind == "tags", share, 0.0), (len(STRENGTHS), len(c), 1)) for c in coordinates]
    if kind != "tags" and len(learned) == 1:  # one class in the training clips: it is certain of it
        for guess in guesses:
            guess[:, :, learned] = 1.0
    elif len(learned):
        form: Literal["classes", "tags"] = "tags" if kind == "tags" else "classes"
        heads = logistic(space.project(train), torch.from_numpy(table[:, learned]), STRENGTHS, form)
        for guess, c in zip(guesses, coordinates):
            guess[:, :, learned] = probabilities(heads, c, form).numpy()
    return STRENGTHS, guesses


def probabilities(heads: Heads, coordinates: Tensor, kind: Literal["classes", "tags"]) -> Tensor:
    """[strengths, clips, outputs]: softmax over outputs for classes, a sigmoid each for tags."""
    logits = heads(coordinates)
    return torch.softmax(logits, -1) if kind == "classes" else torch.sigmoid(logits)
