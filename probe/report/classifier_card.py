"""What a classifier's card says of measurements: by fine-tuning, by the probe that fitted its heads, or by their files.

The results of `groundbass probe` lie beside its heads folder, and know each test track's answer: from them come scores
per class. Where they are elsewhere, what a head's own file says is all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ...data.labels.lookup import kind_of, metric_name
from ...models.card import plain
from . import per_class, tables
from .bootstrap import Interval
from .finetuned import Compared
from .per_class import ClassScore
from .result import Result, read
from .table import Column, Table

INTERVALS = (
    "In brackets: 95 % intervals over test tracks, whole artists at a time where known; none where one track (or "
    "artist) alone is of a class."
)
FROZEN, COMMONEST = "frozen encoder, linear probe", "commonest class"
RANDOM, CRAFTED, CONSTANT = "random copy of the encoder", "hand-crafted features", "constant answer"
Facts = Mapping[str, Any]
Counts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Measured:
    """One head's scores. score: its main metric's; baselines: title -> cell; besides: other metrics; tracks: tested.

    about: sentences on data and split; classes: per class, tag or number; names, confusion: [truth][guess].
    """

    task: str
    metric: str
    score: str
    baselines: Mapping[str, str] = field(default_factory=dict)
    tracks: int | None = None
    about: tuple[str, ...] = ()
    besides: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[ClassScore, ...] = ()
    names: tuple[str, ...] = ()
    confusion: Counts = ()

    def said(self) -> list[str]:
        """Paragraphs that stand under the table."""
        more = "; ".join(f"{metric_name(name)} {value:.3f}" for name, value in self.besides.items())
        sentences = [*map(plain, self.about), *([f"Measured besides: {more}."] if more else [])]
        parts = [f"**{plain(self.task)}**: {' '.join(sentences)}"] if sentences else []
        if self.classes:
            parts.append(per_class.table_of(f"{self.task}, each", self.classes).markdown())
        elif self.confusion:
            parts.append(_recalls(self.task, self.names, self.confusion))
        return parts


def classified(found: Sequence[Measured], picture: str | None) -> str:
    """Scores in Markdown. picture: the name of the file of confusions, where there is one."""
    if not found:
        return "Not measured."
    titles = list(dict.fromkeys(title for one in found for title in one.baselines))
    head: tuple[str | Column, ...] = ("task", "metric", "this classifier", *titles, Column("test tracks", right=True))
    rows = [
        (one.task, one.metric, one.score, *(one.baselines.get(title, "–") for title in titles),
         "–" if one.tracks is None else str(one.tracks))
        for one in found
    ]  # fmt: skip
    bracketed = any("[" in cell for row in rows for cell in row[2:])
    parts = [Table(head, rows).markdown(), *([INTERVALS] if bracketed else [])]
    return "\n\n".join([*parts, *(text for one in found for text in one.said()),
                        *([f"![Confusions]({picture})"] if picture else [])])  # fmt: skip


def measured(compared: Sequence[Compared], heads: Mapping[str, Facts], results: Path) -> list[Measured]:
    """Of every head, in order. compared: what fine-tuning measured; heads: name -> facts; results: of the probe."""
    found = [_finetuned(one) for one in compared]
    for name, facts in heads.items():
        result = _result_of(name, facts, results)
        found += _told(name, facts.get("scores") or {}) if result is None else [_probed(result, facts, results, name)]
    return found


def _finetuned(one: Compared) -> Measured:
    baselines = {} if one.probe is None else {FROZEN: tables.with_interval(one.probe)}
    baselines |= {} if one.constant is None else {COMMONEST: f"{one.constant:.3f}"}
    return Measured(
        one.task, metric_name(one.metric), tables.with_interval(one.finetuned), baselines, one.tracks,
        classes=one.classes, names=one.names, confusion=one.confusion,
    )  # fmt: skip


def _result_of(name: str, facts: Facts, folder: Path) -> Result | None:
    """The result that a head was kept from, by its name; None where it isn't there or is about other things."""
    found = read(folder / f"{name}.json")
    task = facts.get("task") or {}
    same = found is not None and (found.weights_hash, found.fingerprint) == (
        facts.get("encoder_hash"), task.get("fingerprint"),
    )  # fmt: skip
    return found if same else None


def _probed(result: Result, facts: Facts, folder: Path, name: str) -> Measured:
    counts, folds = result.counts, result.counts.folds
    about = [
        f"{result.question or result.task}{f' ({result.corpus})' if result.corpus else ''}; {counts.train} tracks "
        f"trained the head, {counts.valid} chose its layer and settings, {counts.test} tested it."
    ]
    if folds > 1:
        about.append(f"Scores are over the test tracks of {folds} folds, and this head is the first fold's.")
    values = {title: tables.with_interval(one.score) for title, one in result.baselines.items()}
    known = {title: one.score.value for title, one in result.baselines.items() if one.score.known}
    predictions = folder / f"{name}.predictions.parquet"
    besides = {title: value for title, value in result.metrics.items() if title != result.metric}
    return Measured(
        result.task, result.metric_name, tables.with_interval(result.score), _columns(values, known), counts.test,
        (*about, *result.notes), besides,
        _classes(result, pq.read_table(predictions), facts) if predictions.is_file() else (),
        *((result.confusion.classes, result.confusion.counts) if result.confusion else ((), ())),
    )  # fmt: skip


def _columns(cells: Mapping[str, str], values: Mapping[str, float]) -> dict[str, str]:
    """Baselines by the table's titles: of the hand-crafted ones the best. cells, values: by the baseline's name."""
    crafted = {name: value for name, value in values.items() if name not in ("random", "constant")}
    found = {RANDOM: cells["random"]} if "random" in cells else {}
    if crafted:
        best = max(crafted, key=lambda name: crafted[name])
        found[CRAFTED] = f"{cells[best]} {best.replace('_', '-')}"
    return found | ({CONSTANT: cells["constant"]} if "constant" in cells else {})


def _classes(result: Result, table: Any, facts: Facts) -> tuple[ClassScore, ...]:
    """Per class, tag or number; nothing of labels over time, whose tracks are scored whole."""
    kind, names = kind_of(result.kind), result.classes
    if kind.over_time:
        return ()
    groups = table["group"].to_pylist()
    truth, guess = (np.array(table[column].to_pylist(), dtype=np.float64) for column in ("target", "guess.0"))
    if kind.one_of:
        index = {name: number for number, name in enumerate(names)}
        others = {
            title: np.array([index.get(said, -1) for said in table[column].to_pylist()])
            for column, title in (("random", RANDOM), ("constant", CONSTANT)) if column in table.column_names
        }  # fmt: skip
        return per_class.of_classes(truth[:, 0].astype(np.int64), guess.argmax(1), names, groups, others)
    if kind.several:
        return per_class.of_tags(truth.astype(np.int64), guess, names, groups, facts.get("thresholds") or ())
    return per_class.of_numbers(truth, guess, names, groups)


def _told(name: str, scores: Mapping[str, Any]) -> list[Measured]:
    """What a head's own file says: of `groundbass probe`, the main metric with interval and baselines; else each."""
    if "metric" in scores and "value" in scores:
        known = {title: float(value) for title, value in (scores.get("baselines") or {}).items() if value is not None}
        cells = {title: f"{value:.3f}" for title, value in known.items()}
        besides = {
            title: float(value) for title, value in scores.items()
            if isinstance(value, (int, float)) and title not in (scores["metric"], "value", "low", "high")
        }  # fmt: skip
        interval = tables.with_interval(Interval.from_json(scores))
        return [Measured(name, metric_name(scores["metric"]), interval, _columns(cells, known), besides=besides)]
    return [
        Measured(name, metric_name(metric), _cell(value)) for metric, value in scores.items()
        if isinstance(value, (int, float, dict))
    ]  # fmt: skip


def _cell(value: Any) -> str:
    """A number, or an interval; whatever else a head's file says as it is."""
    if not isinstance(value, dict):
        return f"{value:.3f}"
    return tables.text(Interval.from_json(value)) if "low" in value else str(value)


def _recalls(task: str, names: Sequence[str], confusion: Counts) -> str:
    """Recall per class beside its share of the test tracks, where no more than their counts is known."""
    total = sum(map(sum, confusion))
    rows = [
        (name, f"{row[number] / sum(row):.2f}", f"{sum(row) / total:.2f}", str(sum(row)))
        for number, (name, row) in enumerate(zip(names, confusion, strict=True))
        if sum(row)
    ]
    return Table((f"{task}, class", "recall", "share of tracks", "tracks"), rows).markdown()


def draw_confusion(found: Sequence[Measured], picture: Path) -> bool:
    """The confusions of every task of classes, one under the other, as a PNG; False where there are none."""
    shown = [one for one in found if one.confusion]
    if not shown:
        return False
    from matplotlib.figure import Figure

    sizes = [1.8 + 0.42 * len(one.names) for one in shown]
    figure = Figure(figsize=(max(sizes) + 0.6, sum(sizes) + 0.3 * len(shown)), layout="constrained")
    rows = figure.subplots(len(shown), 1, squeeze=False, height_ratios=sizes)
    for (axes,), one in zip(rows, shown, strict=True):
        _draw(axes, one)
    figure.savefig(picture, dpi=120)
    return True


def _draw(axes: Any, one: Measured) -> None:
    table = np.array(one.confusion, dtype=np.float64)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(one.task, fontsize=9)
    axes.set_xticks(range(len(one.names)), one.names, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(one.names)), one.names, fontsize=8)
    axes.set_xlabel("heard")
    axes.set_ylabel("true")
    for (row, column), number in np.ndenumerate(table):
        if number:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{number:.0f}", ha="center", va="center", fontsize=7, color=colour)
