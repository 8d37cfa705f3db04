"""The `svm` and `forest` protocols: support vector machines and random forests, as scikit-learn has them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.svm import SVC, SVR

from ..fit import Array, Floats, Head, Lesson, Rows, constants
from .linear import standardisation

COSTS = (0.1, 1.0, 10.0, 100.0)
LEAVES = (1, 2, 5, 10)
TREES = 300
SHARP = 3.0  # of a margin of 1, in nats
PRIOR = 1e-3  # weight of the training shares in a forest's votes: what no tree says stays possible


def machines(lesson: Lesson) -> Iterator[Head]:
    """Heads of every layer and cost: radial kernels on standardised features, one against the rest per class or tag,
    regression per number.
    """
    for layer in lesson.layers:
        seen = _Standardised(lesson, layer)
        train, targets = seen(lesson.array, lesson.train), lesson.targets[lesson.train]
        for cost in COSTS:
            answer = _machine(lesson, train, targets, cost)
            yield Head(layer, cost, 0, partial(_heard, seen=seen, answer=answer))


def forests(lesson: Lesson) -> Iterator[Head]:
    """Heads of every layer, least size of a leaf and seed; each says how much of its splits each feature explains."""
    for layer in lesson.layers:
        seen = _Standardised(lesson, layer)
        train, targets = seen(lesson.array, lesson.train), lesson.targets[lesson.train]
        for leaf in LEAVES:
            for seed in lesson.seeds:
                settings = {"n_estimators": TREES, "min_samples_leaf": leaf, "random_state": seed, "n_jobs": 1}
                kind: Any = RandomForestRegressor if lesson.kind == "numbers" else RandomForestClassifier
                forest = kind(max_features=1 / 3 if lesson.kind == "numbers" else "sqrt", **settings)
                forest.fit(train, targets)

                respond = partial(_heard, seen=seen, answer=partial(_votes, lesson, forest, targets))
                yield Head(layer, float(leaf), seed, respond, forest.feature_importances_)


def _heard(array: Floats, items: Rows, seen: Any, answer: Any) -> Array:
    return np.asarray(answer(seen(array, items)))


class _Standardised:
    """Features of a layer with zero mean and unit deviation over the training clips."""

    def __init__(self, lesson: Lesson, layer: int) -> None:
        self.layer = layer
        train = torch.from_numpy(np.ascontiguousarray(lesson.array[layer][lesson.train]))
        self.mean, self.scale = (part.float().numpy() for part in standardisation(train))

    def __call__(self, array: Floats, items: Rows) -> Floats:
        return np.asarray((array[self.layer][items] - self.mean) / self.scale, dtype=np.float32)


def _machine(lesson: Lesson, train: Floats, targets: Any, cost: float) -> Any:
    """A function from standardised features to log probabilities, logits or numbers."""
    if lesson.kind == "numbers":
        mean, scale = targets.mean(0), np.maximum(targets.std(0), 1e-12)
        lines = [SVR(C=cost).fit(train, column) for column in ((targets - mean) / scale).T]
        return lambda features: np.column_stack([line.predict(features) for line in lines]) * scale + mean
    fixed, learned = constants(lesson.kind, targets, lesson.outputs)
    truth = targets[:, learned] if lesson.kind == "tags" else targets[:, None] == learned[None]
    each = [SVC(C=cost).fit(train, column) for column in truth.T]
    prior = np.log(truth.mean(0)) if each else 0.0  # decides where the margins don't

    def answer(features: Floats) -> Array:
        result = np.tile(fixed, (len(features), 1))
        if each:
            margins = np.column_stack([machine.decision_function(features) for machine in each])
            result[:, learned] = margins if lesson.kind == "tags" else log_softmax(SHARP * margins + prior, axis=1)
        return result

    return answer


def _votes(lesson: Lesson, forest: Any, targets: Any, features: Floats) -> Array:
    """Log shares of the trees' votes, their logits for tags, or mean numbers."""
    if lesson.kind == "numbers":
        return np.asarray(forest.predict(features)).reshape(len(features), -1)
    if lesson.kind == "tags":
        found = forest.predict_proba(features)
        found, known = (found, forest.classes_) if isinstance(found, list) else ([found], [forest.classes_])
        votes = np.column_stack([v[:, list(c).index(1)] if 1 in c else np.zeros(len(v)) for v, c in zip(found, known)])
        shares = targets.mean(0)
    else:
        votes = np.zeros((len(features), lesson.outputs))
        votes[:, forest.classes_] = forest.predict_proba(features)
        shares = np.bincount(targets, minlength=lesson.outputs) / len(targets)
    votes = (1 - PRIOR) * votes + PRIOR * shares
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(votes) - (np.log1p(-votes) if lesson.kind == "tags" else 0.0))
