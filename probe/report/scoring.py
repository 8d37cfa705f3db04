"""From outcomes to a result: scores and paired differences on the same resamples, and what a report wants to draw."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from ...data.labels.lookup import metric_name
from ..evaluation import Evaluation
from ..fit import SETTINGS, Outcome, Protocol
from ..task import AGGREGATION, Task, describe
from .bootstrap import Interval, draw, interval, pick_copies
from .result import Baseline, Confusion, Counts, EncoderFacts, Groups, Projection, Result

Array = npt.NDArray[np.float64]
PACKAGES = ("groundbass", "torch", "scikit-learn", "mir_eval", "numpy")


def result_of(
    task: Task, found: Evaluation, encoder: str, about: Mapping[str, Any], protocol: Protocol = "linear", *,
    key: str = "", window_seconds: float = 10.0,
) -> Result:  # fmt: skip
    """The whole result of a task, as `write` puts it in a file.

    encoder: as it was named; about: what `features.identity` says of it; key: of what decides the figures.
    """
    trained, folds = found.trained, task.folds
    score, baselines, number = compare(task, trained, found.others)
    facts = EncoderFacts.from_json(about)
    return Result(
        task=task.name, version=task.version, address=task.address, question=task.question, kind=task.kind,
        encoder=encoder, weights_hash=facts.weights, about=facts, metric=task.metric,
        metric_name=metric_name(task.metric), unit=task.unit, aggregation=AGGREGATION[task.unit], corpus=task.corpus,
        protocol=protocol, setting=SETTINGS[protocol], decoder=trained.decoder, fingerprint=task.fingerprint(),
        published=task.published,
        counts=Counts(
            round(float(np.mean([len(fold.train) for fold in folds]))),
            round(float(np.mean([len(fold.valid) for fold in folds]))), len(trained.rows), len(folds),
        ),
        layer=trained.layer, strength=trained.strength, folds=trained.choices, score=score,
        values=tuple(_values(task, [trained])), metrics=task.measure(trained.truth, trained.guess),
        groups=Groups(number, "artist" if task.grouped else "track"), baselines=baselines, layers=trained.layers,
        classes=tuple(map(str, task.classes)), confusion=_confusion(task, trained),
        projection=_projection(task, trained, found.features), notes=(*describe(task), *found.notes), key=key,
        versions={name: version(name) for name in PACKAGES}, pooling=trained.pooling, window_seconds=window_seconds,
        few_shot=tuple(found.few_shot), robustness=found.robustness, importance=found.importance,
        units=tuple(found.units),
    )  # fmt: skip


def compare(
    task: Task, trained: Outcome, others: Mapping[str, Sequence[Outcome]]
) -> tuple[Interval, dict[str, Baseline], int]:
    """The score, the baselines with their paired differences (trained minus other), and how many groups were drawn:
    all on the same resamples of the test tracks.

    others: name -> its outcomes; several outcomes (random copies of several seeds) are averaged; each resample draws
    tracks and copies, so that the interval holds the luck of both.
    """
    counts, number = draw([task.groups[row] for row in trained.rows])
    bounds = task.label_kind.bounds
    value, replicates = _replicates(task, [trained], counts, 1)
    baselines = {}
    for name, outcomes in others.items():
        if outcomes:
            base, base_replicates = _replicates(task, outcomes, counts, 2)
            baselines[name] = Baseline(
                interval(base, base_replicates, number, bounds),
                interval(value - base, replicates - base_replicates, number),
                outcomes[0].layer, outcomes[0].layers, tuple(_values(task, outcomes)),
                tuple(outcome.pooling for outcome in outcomes),
            )  # fmt: skip
    return interval(value, replicates, number, bounds), baselines, number


def _values(task: Task, outcomes: Sequence[Outcome]) -> list[float]:
    """The main metric of every outcome and seed."""
    return [task.measure(o.truth, guess)[task.metric] for o in outcomes for guess in o.guesses]


def _replicates(task: Task, outcomes: Sequence[Outcome], counts: Array, seed: int) -> tuple[float, Array]:
    values, kind = _values(task, outcomes), task.label_kind
    each = [kind.resampled(o.truth, guess, task.classes, counts) for o in outcomes for guess in o.guesses]
    return float(np.mean(values)), pick_copies(each, seed)


def _confusion(task: Task, outcome: Outcome) -> Confusion | None:
    if not task.label_kind.one_of:
        return None
    table = np.zeros((len(task.classes), len(task.classes)), dtype=int)
    np.add.at(table, (outcome.truth, outcome.guess.argmax(1)), 1)
    return Confusion(tuple(map(str, task.classes)), tuple(map(tuple, table.tolist())))


def _projection(task: Task, outcome: Outcome, features: npt.NDArray[np.float32] | None) -> Projection | None:
    """Test embeddings of the chosen layer in two dimensions, for tasks with few classes.

    features: [layers, tracks, dim].
    """
    rows = outcome.rows[:1000]
    if (
        features is None
        or features.shape[1] != len(task.manifest)
        or outcome.layer < 0
        or not task.label_kind.one_of
        or len(task.classes) > 12
        or len(rows) < 20
    ):
        return None
    layer = features[outcome.layer][rows].astype(np.float64)
    layer = (layer - layer.mean(0)) / np.where(layer.std(0) > 1e-9, layer.std(0), 1.0)
    if not layer.any():
        return None  # a constant encoder: one point
    flat = PCA(min(30, *layer.shape), random_state=0).fit_transform(layer)
    if len(rows) < 50:
        points, method = flat[:, :2], "PCA"
    else:
        points = TSNE(2, perplexity=min(30, len(rows) / 4), init="pca", random_state=0).fit_transform(flat)
        method = "t-SNE"
    x, y = np.round(points, 3).T.tolist()
    return Projection(method, tuple(x), tuple(y), tuple(str(task.labels[row]) for row in rows))


def predictions(task: Task, trained: Outcome, others: Mapping[str, Sequence[Outcome]]) -> pa.Table:
    """One row per test track: key, artist or track, truth and every system's answer as text; and truth and guess as
    numbers, by which two encoders are compared.
    """
    columns: dict[str, list[Any]] = {
        "track": [task.manifest[int(row)].key for row in trained.rows],
        "group": [task.groups[row] for row in trained.rows],
        "truth": [json.dumps(task.labels[row], default=str) for row in trained.rows],
        "encoder": _answers(task, trained),
    }
    for name, outcomes in others.items():
        if outcomes:
            columns[name] = _answers(task, outcomes[0])
    columns["target"] = np.atleast_2d(trained.truth.T).T.astype(np.float64).tolist()
    for seed, guess in enumerate(trained.guesses):
        columns[f"guess.{seed}"] = guess.tolist()
    return pa.table(columns)


def _answers(task: Task, outcome: Outcome) -> list[str]:
    return task.label_kind.told(outcome.guess, task.classes)
