"""How often predictions are right: `groundbass predict --labels labels.csv`."""

from __future__ import annotations

import csv
import functools
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape
from sklearn import metrics as sk

from ...data.labels.annotations import gathered, is_spans, names_annotation, read_annotation
from ...data.labels.kind import Kind, OverTime
from ...data.labels.kinds.classes import Classes
from ...data.labels.lookup import kind_of
from ..report.bootstrap import Interval, interval
from ..report.result import plain
from ..report.table import Column, Table
from ..report.tables import text
from .classify import Prediction

Truth = Mapping[str, Mapping[str, Any]]
"""Recording → column → value."""
MOST_NAMES = 20  # of a confusion matrix that is shown


@dataclass(frozen=True)
class Verdict:
    """A head against the truth. scores: metric → value with 95 % interval over tracks; confusion: [truth][guess];
    unknown: what the truth says and the head can't, with how often; column: of the truth.
    """

    head: str
    tracks: int
    scores: dict[str, Interval]
    names: tuple[str, ...] = ()
    confusion: list[list[int]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    unknown: dict[str, int] = field(default_factory=dict)
    column: str = ""

    def tables(self) -> Iterator[Table]:
        """The scores, and the confusions where there are few names."""
        head = ("metric", Column("value", right=True))
        rows = [(name, text(score)) for name, score in self.scores.items()]
        yield Table(head, rows, f"{self.head}, {self.tracks} recordings")
        if self.confusion and len(self.names) <= MOST_NAMES:
            counts = [(name, *map(str, row)) for name, row in zip(self.names, self.confusion)]
            yield Table((Column("truth \\ guess"), *(Column(name, right=True) for name in self.names)), counts)


@dataclass(frozen=True)
class Comparison:
    """Every head that has a column of the truth."""

    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON has it; null where a score isn't known."""
        found: dict[str, Any] = plain(asdict(self))
        return found

    def show(self, console: Console) -> None:
        """In the terminal."""
        for verdict in self.verdicts:
            for table in verdict.tables():
                console.print(table.terminal())
            for note in verdict.notes:
                console.print(escape(note))
        for note in self.notes:
            console.print(escape(note))


def read_truth(table: Path, heard: Sequence[str]) -> dict[str, dict[str, Any]]:
    """labels.csv as recording → column → value; a row is found by its path, absolute, as given, or beside the table.

    A value is a cell's text or, where it names a `.beats` or `.lab` file beside the table or the table has a row per
    onset, offset and label, what is said over time.

    Raises:
        ValueError: no row names one of the recordings; what is said over time can't be read.
    """
    if not table.is_file():
        raise FileNotFoundError(f"There is no table of labels {table}.")
    with table.open(newline="", encoding="utf-8-sig") as lines:
        rows: list[dict[str, Any]] = list(csv.DictReader(lines))
    if not rows or "path" not in rows[0]:
        raise ValueError(f"{table} needs a column path, by which recordings are found, and a column per head.")
    rows = gathered(rows, table) if is_spans(list(rows[0])) else rows
    places = {str(Path(name).resolve()): name for name in heard}
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for place in (Path(row["path"]), table.parent / row["path"]):
            name = places.get(str(place.resolve()))
            if name is not None:
                told = {column: value for column, value in row.items() if column and value not in (None, "")}
                found[name] = {column: _opened(value, table.parent) for column, value in told.items()}
    if not found:
        raise ValueError(
            f"None of the {len(rows)} rows of {table} is a recording that is heard; the first is {rows[0]['path']!r}."
        )
    return found


def _opened(value: Any, folder: Path) -> Any:
    """What is in the file that a cell names, where it names one of annotations."""
    return read_annotation(folder / value) if names_annotation(value) else value


@dataclass(frozen=True)
class Asked:
    """A head as the truth is about it. kind: of its labels; names: of its outputs."""

    name: str
    kind: Kind
    names: Sequence[str]

    def columns(self, truth: Truth) -> list[tuple[str, int, str]]:
        """(what is scored, number of the output, column), one per output of numbers; none where nothing fits.

        A head takes the column of its name or of its last part (of beats+downbeats, of either); one that has none, as a
        network's own is often called after nothing, that of which most values are among its names. Each number takes
        the column of its own name, the only one that of the head too.
        """
        columns = sorted({column for row in truth.values() for column in row})
        if self.kind.nominal:
            column = _column(self.name, columns) or _by_values(self, columns, truth)
            return [] if column is None else [(self.name, 0, column)]
        if len(self.names) == 1:
            column = _column(self.name, columns) or _column(self.names[0], columns)
            return [] if column is None else [(self.name, 0, column)]
        own = ((number, name, _column(name, columns)) for number, name in enumerate(self.names))
        return [(f"{self.name}, {name}", number, column) for number, name, column in own if column is not None]


def check(heads: Sequence[tuple[str, str, Sequence[str]]], truth: Truth, table: Path) -> None:
    """That the truth is about one of the heads and can be read, before hours of listening. heads: name, kind, names.

    Raises:
        ValueError: no head has a column; a value is no label of its kind; of numbers, none is one.
    """
    asked = [Asked(name, kind_of(kind), names) for name, kind, names in heads]
    found = [(one, column) for one in asked for _, _, column in one.columns(truth)]
    if not found:
        raise _nothing_asked(truth, [one.name for one in asked])
    for one, column in found:
        values = [(path, row[column]) for path, row in truth.items() if column in row]
        if not one.kind.nominal and not any(_finite(value) for _, value in values):
            path, value = values[0]
            raise ValueError(
                f"{table} has no number in the column {column!r}, which the head {one.name!r} answers about: the row "
                f"of {path} has {value!r}."
            )
        for path, value in values if one.kind.over_time else []:
            try:
                one.kind.recognised(value, column, one.names)
            except ValueError as error:
                raise ValueError(f"{table} can't be compared at the row of {path}: {error}") from error


def compare(
    results: Mapping[str, Mapping[str, Prediction]], truth: Truth, threshold: float | None = None
) -> Comparison:
    """Score every head that has a column; see `Asked.columns`.

    threshold: above which tags hold; None: the heads' own.
    """
    notes = [
        f"{len(results) - len(truth)} of {len(results)} recordings have no row: they aren't scored."
    ] if len(truth) < len(results) else []  # fmt: skip
    names = list(dict.fromkeys(name for found in results.values() for name in found))
    verdicts: list[Verdict] = []
    for name in names:
        said = next(found[name] for found in results.values() if name in found)
        asked = Asked(name, said.label_kind, said.names)
        for title, output, column in asked.columns(truth):
            answers = {path: found[name] for path, found in results.items() if name in found}
            verdicts += _verdicts(title, output, column, answers, truth, threshold)
    if not verdicts:
        raise _nothing_asked(truth, names)
    return Comparison(tuple(verdicts), tuple(notes))


def _verdicts(
    title: str, output: int, column: str, answers: Mapping[str, Prediction], truth: Truth, threshold: float | None
) -> list[Verdict]:
    """Of one head (of numbers, of one output) over its recordings, and over their windows."""
    pairs = [(answers[path], row[column]) for path, row in truth.items() if column in row and path in answers]
    if not pairs:
        return []
    kind = pairs[0][0].label_kind
    if kind.over_time:
        return list(_over_time(title, column, pairs))
    notes: tuple[str, ...] = ()
    if not kind.nominal:
        pairs, notes = _of_numbers(pairs, column, output)
    if not pairs:
        return []
    score = functools.partial(_verdict, column=column, threshold=threshold)
    return [score(title, *map(list, zip(*pairs)), notes=notes), *_by_window(title, pairs, score)]


def _of_numbers(
    pairs: list[tuple[Prediction, Any]], column: str, output: int
) -> tuple[list[tuple[Prediction, Any]], tuple[str, ...]]:
    """Answers of one output with their numbers, and a sentence on cells that hold none."""
    lost = [value for _, value in pairs if not _finite(value)]
    kept = [(_one_output(said, output), float(value)) for said, value in pairs if _finite(value)]
    more = f"{len(lost)} of {len(pairs)} values in the column {column!r} are no finite numbers"
    return kept, (f"{more} ({lost[0]!r}): they aren't scored.",) if lost else ()


def _one_output(said: Prediction, output: int) -> Prediction:
    """A head of one number, of a head of several."""
    values = None if said.values is None else said.values[:, [output]]
    windows = None if said.windows is None else _one_output(said.windows, output)
    return replace(said, names=(said.names[output],), values=values, windows=windows)


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _nothing_asked(truth: Truth, heads: Sequence[str]) -> ValueError:
    columns = sorted({column for row in truth.values() for column in row})
    return ValueError(
        f"The labels have the columns {', '.join(columns)}, and no head is called like one, nor has its "
        f"values among its names: the heads are {', '.join(heads)}."
    )


def _column(head: str, columns: Sequence[str]) -> str | None:
    """The longest that a head, or a part of its name, is called after."""
    parts = (head, *head.split("+"))
    parts = (*parts, *(re.sub(r"\.\d+$", "", part) for part in parts if "+" not in head))  # of numbers, after training
    called = (c for c in columns if any(part == c or part.endswith((f"_{c}", f"/{c}")) for part in parts))
    return max(called, key=len, default=None)


def _by_values(asked: Asked, columns: Sequence[str], truth: Truth) -> str | None:
    """The column of which most values are among the names of a head; None where no column has half of them there."""
    if asked.kind.over_time:
        return None
    known, tags = set(asked.names), kind_of("tags")
    shares = {}
    for column in columns:
        values = [row[column] for row in truth.values() if isinstance(row.get(column), str)]
        held = [not known.isdisjoint([value, *tags.recognised(value, column, asked.names)]) for value in values]
        shares[column] = sum(held) / len(held) if held else 0.0
    best = max(sorted(shares), key=lambda column: shares[column], default="")
    return best if shares.get(best, 0.0) >= 0.5 else None


def _over_time(name: str, column: str, pairs: list[tuple[Prediction, Any]]) -> Iterator[Verdict]:
    """As the kind measures tracks; where beats have positions, those that begin a bar too."""
    kind, names = pairs[0][0].label_kind, pairs[0][0].names
    asked = [(name, kind)]
    if all(said.positions is not None for said, _ in pairs):
        asked.append((f"{name}, downbeats", kind_of("downbeats")))
    for called, one in asked:
        if not isinstance(one, OverTime):
            continue
        labels = [one.recognised(value, column, names) for _, value in pairs]
        answers = [one.answered(said.timed) for said, _ in pairs]
        known = [(a, b) for a, b in zip(labels, answers) if a is not None and b is not None]
        if known:
            scores = np.array([one.score(label, answer) for label, answer in known])
            titles = [one.metrics.get(measure) or measure.replace("_", " ") for measure in one.measures]
            measured = functools.partial(_means, scores, titles)
            unknown = _counted(one, [label for label, _ in known], names)
            notes = (f"Nothing that this head can say, in the truth: {_listed(unknown)}.",) if unknown else ()
            yield Verdict(
                called, len(known), _scored(measured, np.arange(len(known))), notes=notes, unknown=unknown,
                column=column,
            )  # fmt: skip


def _counted(kind: Kind, labels: Sequence[Any], names: Sequence[str]) -> dict[str, int]:
    """How often the truth says what no head with these names can, the commonest first."""
    return dict(Counter(word for label in labels for word in kind.unknown(label, names)).most_common())


def _listed(counts: Mapping[str, int], most: int = 8) -> str:
    shown = ", ".join(f"{word} ({count})" for word, count in list(counts.items())[:most])
    return f"{shown} and {len(counts) - most} more" if len(counts) > most else shown


def _means(scores: npt.NDArray[Any], names: Sequence[str], rows: npt.NDArray[np.int64]) -> dict[str, float]:
    return dict(zip(names, scores[rows].mean(axis=0).tolist()))


def _by_window(name: str, pairs: list[tuple[Prediction, Any]], score: Callable[..., Verdict]) -> list[Verdict]:
    """Every window by itself, against its recording's label; nothing where no recording has several."""
    pieces = [
        (one, value, row) for row, (said, value) in enumerate(pairs)
        for one in (said.windows or said).units()
    ]  # fmt: skip
    if len(pieces) == len(pairs):
        return []
    said, values, owner = (list(column) for column in zip(*pieces))
    return [score(f"{name}, each of {len(pieces)} windows", said, values, owner=np.array(owner))]


def _verdict(
    name: str, said: list[Prediction], values: list[Any], *, column: str, threshold: float | None = None,
    owner: npt.NDArray[np.int64] | None = None, notes: tuple[str, ...] = (),
) -> Verdict:  # fmt: skip
    """owner: of which recording each answer is, where there are several of one; intervals are over recordings."""
    owner = np.arange(len(said)) if owner is None else owner
    tracks = int(owner[-1]) + 1
    if not said[0].label_kind.nominal:
        guess, truth = np.array([one.values.mean(0)[0] for one in said if one.values is not None]), np.array(values)
        scores = _scored(lambda rows: _distance(truth[rows], guess[rows]), owner)
        return Verdict(name, tracks, scores, notes=notes, column=column)
    likely = np.stack([one.probabilities.mean(0) for one in said if one.probabilities is not None])
    if said[0].label_kind.several:
        return _tags(name, said[0], likely, values, owner, column, threshold)
    names, kind = said[0].names, said[0].label_kind
    values = [_spelt(kind, value) for value in values]
    index = {label: number for number, label in enumerate(names)}
    first = np.unique(owner, return_index=True)[1]  # a recording's label counts once
    strange = dict(Counter(values[row] for row in first if values[row] not in index).most_common())
    kept = np.array([value in index for value in values])
    notes = (f"Not among the classes, so always wrong: {_listed(strange)}.",) if strange else ()
    truth = np.array([index.get(value, -1) for value in values])
    order = np.argsort(-likely, axis=1)
    gains = kind.gains(names) if isinstance(kind, Classes) and kind.related else None

    def measure(rows: npt.NDArray[np.int64]) -> dict[str, float]:
        top, right = order[rows], truth[rows]
        precision, recall, f, _ = sk.precision_recall_fscore_support(
            right, top[:, 0], average="macro", zero_division=0.0, labels=sorted(set(right.tolist()) - {-1})
        )
        earned = {} if gains is None else {
            kind.metrics[kind.metric]: float(gains[right, top[:, 0]][right >= 0].sum()) / len(right)
        }  # fmt: skip
        return earned | {
            "accuracy, top 1": float(np.mean(top[:, 0] == right)),
            "accuracy, top 3": float(np.mean((top[:, :3] == right[:, None]).any(1))),
            "precision, macro": float(precision), "recall, macro": float(recall), "F, macro": float(f),
        }  # fmt: skip

    matrix = (
        sk.confusion_matrix(truth[kept], order[kept, 0], labels=range(len(names))) if kept.any() else np.zeros((0, 0))
    )
    return Verdict(
        name, tracks, _scored(measure, owner), names, matrix.astype(int).tolist(), notes, unknown=strange, column=column
    )


def _spelt(kind: Kind, value: str) -> str:
    """As the kind spells it; what can't be one of its labels stays."""
    try:
        return str(kind.convert([value], [kind.name]))
    except ValueError:
        return value


def _distance(truth: npt.NDArray[Any], guess: npt.NDArray[Any]) -> dict[str, float]:
    r2 = sk.r2_score(truth, guess) if len(set(truth.tolist())) > 1 else np.nan
    return {"R²": float(r2), "mean absolute error": float(sk.mean_absolute_error(truth, guess))}


def _tags(
    name: str, said: Prediction, likely: npt.NDArray[Any], values: list[Any], owner: npt.NDArray[np.int64],
    column: str, threshold: float | None,
) -> Verdict:  # fmt: skip
    kind = said.label_kind
    tags = [kind.recognised(value, column, said.names) for value in values]
    truth = np.array([[int(label in row) for label in said.names] for row in tags])
    limits = np.array((threshold,) * len(said.names) if threshold is not None else _limits(said))
    first = np.unique(owner, return_index=True)[1]  # a recording's label counts once
    unknown = _counted(kind, [tags[row] for row in first], said.names)
    notes = [f"Tags in the truth that this head doesn't know, so none of them is scored: {_listed(unknown)}."]
    notes = notes if unknown else []
    notes += [] if threshold is None else [f"Precision, recall and F are those at the threshold {threshold:g}."]

    def measure(rows: npt.NDArray[np.int64]) -> dict[str, float]:
        right, guess = truth[rows], likely[rows]
        used = np.flatnonzero((right.sum(0) > 0) & (right.sum(0) < len(right)))
        chosen = guess >= limits
        precision, recall, f, _ = sk.precision_recall_fscore_support(right, chosen, average="macro", zero_division=0.0)
        best = [max(sk.f1_score(right[:, c], guess[:, c] >= t, zero_division=0.0) for t in np.linspace(0.05, 0.95, 19))
                for c in used]  # fmt: skip
        areas = [sk.roc_auc_score(right[:, c], guess[:, c]) for c in used]
        averages = [sk.average_precision_score(right[:, c], guess[:, c]) for c in used]
        mixed = 0 < right.sum() < right.size
        return {
            "ROC-AUC, macro": float(np.mean(areas)) if areas else np.nan,
            "ROC-AUC, micro": float(sk.roc_auc_score(right.ravel(), guess.ravel())) if mixed else np.nan,
            "average precision, macro": float(np.mean(averages)) if averages else np.nan,
            "precision at the thresholds": float(precision), "recall at the thresholds": float(recall),
            "F at the thresholds": float(f), "F at the best thresholds": float(np.mean(best)) if best else np.nan,
        }  # fmt: skip

    scores = _scored(measure, owner, resamples=100)
    return Verdict(name, int(owner[-1]) + 1, scores, said.names, notes=tuple(notes), unknown=unknown, column=column)


def _limits(said: Prediction) -> tuple[float, ...]:
    return said.thresholds or (0.5,) * len(said.names)


BOUNDS = {"R²": (-math.inf, 1.0), "mean absolute error": (0.0, math.inf)}
"""Of metrics that aren't from 0 to 1."""


def _scored(measure: Any, owner: npt.NDArray[np.int64], resamples: int = 400) -> dict[str, Interval]:
    """Each metric with its bootstrap interval over tracks. owner: of each answer, its track, in rising order."""
    tracks = int(owner[-1]) + 1
    edges = np.searchsorted(owner, np.arange(tracks + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that a resample lacks
        whole = measure(np.arange(len(owner)))
        draws = np.random.default_rng(0).integers(tracks, size=(resamples, tracks))
        rows = [np.concatenate([np.arange(edges[k], edges[k + 1]) for k in drawn]) for drawn in draws]
        found = [measure(chosen) for chosen in rows] if tracks > 1 else []
    return {
        name: interval(value, np.array([one[name] for one in found]), tracks, BOUNDS.get(name, (0.0, 1.0)))
        for name, value in whole.items()
    }
