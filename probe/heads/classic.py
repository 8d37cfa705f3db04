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

from .forms import form_of
from .head import Array, Floats, Head, Rows, TrainingData
from .linear import standardisation

COSTS = (0.1, 1.0, 10.0, 100.0)
LEAVES = (1, 2, 5, 10)
TREES = 300
SHARP = 3.0  # of a margin of 1, in nats
PRIOR = 1e-3  # weight of the training shares in a forest's votes: what no tree says stays possible


def machines(data: TrainingData) -> Iterator[Head]:
    """Heads of every layer and cost: radial kernels on standardised features, one against the rest per class or tag,
    regression per number.
    """
    for layer in data.layers:
        seen = _Standardised(data, layer)
        train, targets = seen(data.array, data.train), data.targets[data.train]
        for cost in COSTS:
            answer = _machine(data, train, targets, cost)
            yield Head(layer, cost, 0, partial(_heard, seen=seen, answer=answer))


def forests(data: TrainingData) -> Iterator[Head]:
    """Heads of every layer, least size of a leaf and seed; each says how much of its splits each feature explains."""
    for layer in data.layers:
        seen = _Standardised(data, layer)
        train, targets = seen(data.array, data.train), data.targets[data.train]
        for leaf in LEAVES:
            for seed in data.seeds:
                settings = {"n_estimators": TREES, "min_samples_leaf": leaf, "random_state": seed, "n_jobs": 1}
                numbers = not hasattr(form_of(data.kind), "constants")
                kind: Any = RandomForestRegressor if numbers else RandomForestClassifier
                forest = kind(max_features=1 / 3 if numbers else "sqrt", **settings)
                forest.fit(train, targets)

                respond = partial(_heard, seen=seen, answer=partial(_votes, data, forest, targets))
                yield Head(layer, float(leaf), seed, respond, importance=forest.feature_importances_)


def _heard(array: Floats, items: Rows, seen: Any, answer: Any) -> Array:
    return np.asarray(answer(seen(array, items)))


class _Standardised:
    """Features of a layer with zero mean and unit deviation over the training clips."""

    def __init__(self, data: TrainingData, layer: int) -> None:
        self.layer = layer
        train = torch.from_numpy(np.ascontiguousarray(data.array[layer][data.train]))
        self.mean, self.scale = (part.float().numpy() for part in standardisation(train))

    def __call__(self, array: Floats, items: Rows) -> Floats:
        return np.asarray((array[self.layer][items] - self.mean) / self.scale, dtype=np.float32)


def _machine(data: TrainingData, train: Floats, targets: Any, cost: float) -> Any:
    """A function from standardised features to log probabilities, logits or numbers."""
    form: Any = form_of(data.kind)
    if not hasattr(form, "constants"):
        mean, scale = targets.mean(0), np.maximum(targets.std(0), 1e-12)
        lines = [SVR(C=cost).fit(train, column) for column in ((targets - mean) / scale).T]
        return lambda features: np.column_stack([line.predict(features) for line in lines]) * scale + mean
    fixed, learned = form.constants(targets, data.outputs)
    truth = form.table(targets, data.outputs)[:, learned]
    each = [SVC(C=cost).fit(train, column) for column in truth.T]
    prior = np.log(truth.mean(0)) if each else 0.0  # decides where the margins don't

    def answer(features: Floats) -> Array:
        result = np.tile(fixed, (len(features), 1))
        if each:
            margins = np.column_stack([machine.decision_function(features) for machine in each])
            result[:, learned] = log_softmax(SHARP * margins + prior, axis=1) if data.kind.one_of else margins
        return result

    return answer


def _votes(data: TrainingData, forest: Any, targets: Any, features: Floats) -> Array:
    """Log shares of the trees' votes, their logits for tags, or mean numbers."""
    form: Any = form_of(data.kind)
    if not hasattr(form, "constants"):
        return np.asarray(forest.predict(features)).reshape(len(features), -1)
    found, known = forest.predict_proba(features), forest.classes_
    if data.kind.one_of:
        votes = np.zeros((len(features), data.outputs))
        votes[:, known] = found
    else:
        found, known = (found, known) if isinstance(found, list) else ([found], [known])
        votes = np.column_stack([v[:, list(c).index(1)] if 1 in c else np.zeros(len(v)) for v, c in zip(found, known)])
    return np.asarray(form.votes(votes, form.table(targets, data.outputs), PRIOR))
