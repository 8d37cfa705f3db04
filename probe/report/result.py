"""One task's result: the score with its interval, the baselines beside it, and what a report wants to draw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from ...data.labels.lookup import metric_name
from ...data.writing import write_text, written
from ..fit import SETTINGS, Outcome
from ..task import AGGREGATION, Task, describe
from .bootstrap import Interval, draw, interval, pick_copies
from .checked import checked

SCHEMA = 3
Array = npt.NDArray[np.float64]


def compare(task: Task, trained: Outcome, others: dict[str, list[Outcome]]) -> dict[str, Any]:
    """Scores, intervals and paired differences (trained minus other), all on the same resamples of the test tracks.

    others: name -> its outcomes; several outcomes (random copies of several seeds) are averaged; each
    resample draws tracks and copies, so that the interval holds the luck of both.
    """
    counts, number = draw([task.groups[row] for row in trained.rows])
    bounds = task.label_kind.bounds
    value, replicates = _replicates(task, [trained], counts, 1)
    result: dict[str, Any] = {
        "score": interval(value, replicates, number, bounds).to_json(),
        "values": _values(task, [trained]),
        "metrics": task.measure(trained.truth, trained.guess),
        "groups": {"number": number, "of": "artist" if task.grouped else "track"},
        "baselines": {},
    }
    for name, outcomes in others.items():
        if not outcomes:
            continue
        base, base_replicates = _replicates(task, outcomes, counts, 2)
        difference = interval(value - base, replicates - base_replicates, number)
        result["baselines"][name] = {
            **interval(base, base_replicates, number, bounds).to_json(),
            "difference": difference.to_json(),
            "layer": outcomes[0].layer,
            "layers": list(outcomes[0].layers),
            "values": _values(task, outcomes),
        }
    return result


def _values(task: Task, outcomes: Sequence[Outcome]) -> list[float]:
    """The main metric of every outcome and seed."""
    return [task.measure(o.truth, guess)[task.metric] for o in outcomes for guess in o.guesses]


def _replicates(task: Task, outcomes: Sequence[Outcome], counts: Array, seed: int) -> tuple[float, Array]:
    values, kind = _values(task, outcomes), task.label_kind
    each = [kind.resampled(o.truth, guess, task.classes, counts) for o in outcomes for guess in o.guesses]
    return float(np.mean(values)), pick_copies(each, seed)


def result_json(
    task: Task, encoder: str, about: dict[str, Any], key: str, trained: Outcome, others: dict[str, list[Outcome]],
    features: npt.NDArray[np.float32] | None, notes: Sequence[str], protocol: str = "linear",
) -> dict[str, Any]:  # fmt: skip
    """The whole record of a task, as `write` puts it in a file. features: [layers, tracks, dim] for the projection."""
    folds = task.folds
    return {
        "schema": SCHEMA,
        "task": task.name,
        "version": task.version,
        "address": task.address,
        "question": task.question,
        "kind": task.kind,
        "encoder": encoder,
        "weights_hash": about["weights"],
        "about": about,
        "metric": task.metric,
        "metric_name": metric_name(task.metric),
        "unit": task.unit,
        "aggregation": AGGREGATION[task.unit],
        "corpus": task.corpus,
        "protocol": protocol,
        "setting": SETTINGS[protocol],
        "decoder": trained.decoder,
        "fingerprint": task.fingerprint(),
        "published": {
            paper: {system: dict(figures) for system, figures in rows.items()} for paper, rows in task.published.items()
        },
        "counts": {
            "train": round(float(np.mean([len(f.train) for f in folds]))),
            "valid": round(float(np.mean([len(f.valid) for f in folds]))),
            "test": len(trained.rows),
            "folds": len(folds),
        },
        "layer": trained.layer,
        "strength": trained.strength,
        "folds": [asdict(choice) for choice in trained.choices],
        **compare(task, trained, others),
        "layers": list(trained.layers),
        "classes": [str(name) for name in task.classes],
        "confusion": _confusion(task, trained),
        "projection": _projection(task, trained, features),
        "notes": [*describe(task), *notes],
        "key": key,
        "versions": {name: version(name) for name in ("groundbass", "torch", "scikit-learn", "mir_eval", "numpy")},
    }


def _confusion(task: Task, outcome: Outcome) -> dict[str, Any] | None:
    """Counts [truth, guess] of the pooled test tracks."""
    if not task.label_kind.one_of:
        return None
    table = np.zeros((len(task.classes), len(task.classes)), dtype=int)
    np.add.at(table, (outcome.truth, outcome.guess.argmax(1)), 1)
    return {"classes": [str(name) for name in task.classes], "counts": table.tolist()}


def _projection(task: Task, outcome: Outcome, features: npt.NDArray[np.float32] | None) -> dict[str, Any] | None:
    """Test embeddings of the chosen layer in two dimensions, for tasks with few classes."""
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
    labels = [str(task.labels[row]) for row in rows]
    return {
        "method": method,
        "x": np.round(points[:, 0], 3).tolist(),
        "y": np.round(points[:, 1], 3).tolist(),
        "label": labels,
    }


def predictions(task: Task, trained: Outcome, others: dict[str, list[Outcome]]) -> pa.Table:
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


def file_name(task: str, protocol: str) -> str:
    """The name of a result without its ending: results of other protocols stand beside the linear ones."""
    return task if protocol == "linear" else f"{task}.{protocol}"


def title(record: dict[str, Any]) -> str:
    """What readers call a result: the task, and its protocol where that isn't the linear one."""
    protocol = record.get("protocol", "linear")
    return str(record["task"]) if protocol == "linear" else f"{record['task']} ({protocol})"


def write(folder: Path, result: dict[str, Any], table: pa.Table) -> Path:
    """FOLDER/NAME.json and NAME.predictions.parquet (see `file_name`), written beside and renamed, the JSON last."""
    name = file_name(result["task"], result["protocol"])
    parquet, path = folder / f"{name}.predictions.parquet", folder / f"{name}.json"
    with written(parquet) as beside:
        pq.write_table(table, beside)
    write_text(path, json.dumps(_finite(result), indent=1, ensure_ascii=False) + "\n")
    return path


def read(path: Path) -> dict[str, Any] | None:
    """A result, or None when the file isn't one of this schema.

    Raises:
        ValueError: it says that it is one, and its content is of other kinds than ours: it may come from anyone.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(result, dict) or result.get("schema") != SCHEMA or "task" not in result:
        return None
    return checked(result, path)


def as_interval(numbers: dict[str, Any] | None) -> Interval | None:
    """{"value", "low", "high"} as an Interval; null becomes nan."""
    if numbers is None or numbers.get("value") is None:
        return None
    return Interval(*(float("nan") if numbers.get(k) is None else float(numbers[k]) for k in ("value", "low", "high")))


def _finite(content: Any) -> Any:
    """Put null for nan and inf: JSON has no word for them."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    if isinstance(content, (float, np.floating)):
        return float(content) if np.isfinite(content) else None
    return content
