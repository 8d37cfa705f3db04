"""What a model card says of measurements: text that `models` puts into the card without knowing what a result is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...models.card import NOT_PROBED
from . import tables
from .bootstrap import Interval, mark
from .finetuned import Compared
from .result import Baseline, Result, read_all, title
from .table import Table

WORDS = (
    "Frozen, with heads (linear, unless the task's name says otherwise) on the layer that was best on validation "
    "tracks; test tracks were used once. In brackets: 95 % bootstrap intervals over tracks (artists, where known). "
    "*Random copy*: the same architecture, untrained. *Hand-crafted*: the best of the feature sets in that column."
)
STALE = "† measured on other weights of this run (an earlier checkpoint), not on the published ones."
HEAD = ("task", "metric", "score", "random copy", "gain over it (paired)", "hand-crafted", "constant", "layer", "clips")
WEIGHTED = -1  # the layer number of a learned weighted sum


def probed(folder: Path | None, weights: str) -> str:
    """The results of a folder as a table with its sentences, in Markdown. weights: the hash of the published ones."""
    results = _whole(folder) if folder is not None and folder.is_dir() else []
    if not results:
        return NOT_PROBED
    by = [mark(result.difference) for result in results]
    table = Table(HEAD, [_row(result, weights) for result in results])
    parts = [
        WORDS, table.markdown(),
        f"Against its random copy, outside the interval: better on {by.count('▲')} of {len(results)} tasks, worse on "
        f"{by.count('▼')}.", *_advice(results),
    ]  # fmt: skip
    stale = any(result.weights_hash != weights for result in results)
    return "\n\n".join([*parts, *([STALE] if stale else [])])


def _whole(folder: Path) -> list[Result]:
    """The results of a folder; a damaged one isn't passed over, since its score would be missing unseen."""
    for path in folder.glob("*.json"):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is no JSON ({error}); write it again, or remove it.") from error
    return read_all(folder)


def _row(result: Result, weights: str) -> tuple[str, ...]:
    random, constant = result.baselines.get("random"), result.baselines.get("constant")
    return (
        title(result) + (" †" if result.weights_hash != weights else ""), result.metric_name,
        _with_interval(result.score), _of(random), _with_interval(result.difference), _crafted(result), _of(constant),
        "weighted sum" if result.layer == WEIGHTED else str(result.layer), str(result.counts.test),
    )  # fmt: skip


def _with_interval(found: Interval | None) -> str:
    """0.71 [0.65, 0.77], without what isn't known."""
    return tables.text(found) if found is None or found.bounded else tables.number(found)


def _of(found: Baseline | None) -> str:
    return "–" if found is None else _with_interval(found.score)


def _crafted(result: Result) -> str:
    """The best hand-crafted feature set and its name."""
    known = {
        name: found
        for name, found in result.baselines.items()
        if name not in ("random", "constant") and found.score.known
    }
    best = max(known, key=lambda name: known[name].score.value, default=None)
    return "–" if best is None else f"{_of(known[best])} {best.replace('_', '-')}"


def _advice(results: Sequence[Result]) -> list[str]:
    """Which layer for what, where there is more than one."""
    chosen: dict[int, list[str]] = {}
    for result in results:
        if result.layer != WEIGHTED and len(result.layers) > 1:
            chosen.setdefault(result.layer, []).append(title(result))
    if not chosen:
        return []
    lines = [f"- layer {layer}: {', '.join(dict.fromkeys(tasks))}" for layer, tasks in sorted(chosen.items())]
    return ["**Which layer?** Chosen on validation tracks (0 is the front end):", "\n".join(lines)]


FINETUNED = (
    "task", "metric", "this classifier", "frozen encoder, linear probe", "commonest class", "test tracks",
)  # fmt: skip
INTERVALS = "Intervals are 95 % over test tracks, whole artists at a time where known."


def classified(found: Sequence[Compared], heads: Mapping[str, Mapping[str, Any]], picture: str | None) -> str:
    """Scores of a classifier in Markdown.

    found: what fine-tuning measured; heads: name -> metric -> value or interval, as the heads' files have them;
    picture: the name of the file of confusions, where there is one.
    """
    rows = [
        (one.task, one.metric, _with_interval(one.finetuned), _with_interval(one.probe),
         "–" if one.constant is None else f"{one.constant:.3f}", str(one.tracks))
        for one in found
    ]  # fmt: skip
    for name, scores in heads.items():
        for metric, value in scores.items():
            if isinstance(value, (int, float, dict)):
                rows.append((name, metric, _measured(value), "–", "–", "–"))
    if not rows:
        return "Not measured."
    parts = [Table(FINETUNED, rows).markdown(), INTERVALS, *(_per_class(one) for one in found if one.confusion)]
    return "\n\n".join([*parts, *([f"![Confusions]({picture})"] if picture else [])])


def _measured(value: Any) -> str:
    """A number, or an interval; whatever else a head's file says as it is."""
    if not isinstance(value, dict):
        return f"{value:.3f}"
    return tables.text(Interval.from_json(value)) if "low" in value else str(value)


def _per_class(found: Compared) -> str:
    """Recall per class beside its share of the test tracks, which is what guessing gives."""
    total = sum(map(sum, found.confusion))
    rows = [
        (name, f"{row[number] / sum(row):.2f}", f"{sum(row) / total:.2f}", str(sum(row)))
        for number, (name, row) in enumerate(zip(found.names, found.confusion, strict=True))
        if sum(row)
    ]
    return Table((f"{found.task}, class", "recall", "share of tracks", "tracks"), rows).markdown()


def draw_confusion(found: Sequence[Compared], picture: Path) -> bool:
    """The first task's confusions as a PNG; False where there are none."""
    shown = next((one for one in found if one.confusion), None)
    if shown is None:
        return False
    from matplotlib.figure import Figure

    table = np.array(shown.confusion, dtype=np.float64)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    size = 1.8 + 0.42 * len(shown.names)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(shown.names)), shown.names, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(shown.names)), shown.names, fontsize=8)
    axes.set_xlabel("heard")
    axes.set_ylabel("true")
    for (row, column), number in np.ndenumerate(table):
        if number:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{number:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.savefig(picture, dpi=120)
    return True
