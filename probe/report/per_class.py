"""A task's score taken apart: per class, tag or number, with 95 % bootstrap intervals over tracks, and baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

from ...data.labels.kinds import numbers, tags
from . import tables
from .bootstrap import Array, Interval, draw, interval
from .table import Column, Table

MOST = 60  # rows of a table
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClassScore:
    """One class, tag or number. tracks: of the test set that are of it; baselines: what others reach, by title."""

    name: str
    tracks: int
    scores: Mapping[str, Interval]
    baselines: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> ClassScore:
        """From a file, where null stands for what isn't known."""
        scores = {name: Interval.from_json(one) for name, one in told["scores"].items()}
        others = told.get("baselines") or {}
        return cls(
            str(told["name"]), int(told["tracks"]), scores,
            {name: float("nan") if value is None else float(value) for name, value in others.items()},
        )  # fmt: skip


def of_classes(
    truth: Labels,
    guess: Labels,
    names: Sequence[str],
    groups: Sequence[str | int],
    others: Mapping[str, Labels] | None = None,
) -> tuple[ClassScore, ...]:
    """Recall and F of every class that the test tracks have.

    truth, guess: [tracks] numbers of names; groups: [tracks] artists, or tracks, which are drawn together; others:
    title -> [tracks] what a baseline guesses, whose F stands beside.
    """
    counts, _ = draw(groups)
    found = []
    for number, name in enumerate(names):
        there, said = truth == number, guess == number
        if not there.any():
            continue
        among, either = _number_of(groups, there), _number_of(groups, there | said)
        scores = {
            "recall": _interval(counts, there & said, there, among),
            "F": _interval(counts, 2.0 * (there & said), there.astype(float) + said, either),
        }
        beside = {f"F, {title}": _f(there, other == number) for title, other in (others or {}).items()}
        found.append(ClassScore(name, int(there.sum()), scores, beside))
    return tuple(found)


def of_tags(
    truth: Labels, guess: Array, names: Sequence[str], groups: Sequence[str | int], thresholds: Sequence[float] = ()
) -> tuple[ClassScore, ...]:
    """ROC-AUC of every tag that has positives and negatives, F at its threshold; beside: F of saying it always.

    truth: [tracks, tags] of 0 and 1; guess: [tracks, tags] probabilities; thresholds: [tags], none: 0.5.
    """
    counts, number = draw(groups)
    limits = np.array(thresholds or (0.5,) * len(names))
    found = []
    for column in np.flatnonzero(tags.scored(truth)).tolist():
        there, said = truth[:, column] > 0, guess[:, column] >= limits[column]
        one = truth[:, [column]], guess[:, [column]]
        smaller = min(_number_of(groups, there), _number_of(groups, ~there))
        area = tags.KIND.resampled(*one, [names[column]], counts)
        scores = {
            "ROC-AUC": interval(tags.KIND.main(*one, [names[column]]), area, min(number, smaller), (0.0, 1.0)),
            "F": _interval(
                counts, 2.0 * (there & said), there.astype(float) + said, _number_of(groups, there | said)
            ),
        }  # fmt: skip
        always = {"F, always said": _f(there, np.ones_like(there))}
        found.append(ClassScore(str(names[column]), int(there.sum()), scores, always))
    return tuple(found)


def of_numbers(truth: Array, guess: Array, names: Sequence[str], groups: Sequence[str | int]) -> tuple[ClassScore, ...]:
    """R² and mean absolute error of every number; beside: the error of always saying the test tracks' mean.

    truth, guess: [tracks, numbers].
    """
    counts, number = draw(groups)
    found = []
    for column, name in enumerate(names):
        right, said = truth[:, column], guess[:, column]
        off = np.abs(right - said)
        r2 = float(sk.r2_score(right, said)) if len(set(right.tolist())) > 1 else float("nan")
        share = numbers.KIND.resampled(right[:, None], said[:, None], [name], counts)
        scores = {
            "R²": interval(r2, share, number, (-np.inf, 1.0)),
            "mean absolute error": interval(
                float(off.mean()), counts @ off / counts.sum(1), number, (0.0, np.inf)
            ),
        }  # fmt: skip
        deaf = {"error of their mean": float(np.abs(right - right.mean()).mean())}
        found.append(ClassScore(name, len(right), scores, deaf))
    return tuple(found)


def table_of(task: str, found: Sequence[ClassScore], digits: int = 2) -> Table:
    """In the order given; where they are many, those of most tracks."""
    shown = found if len(found) <= MOST else sorted(found, key=lambda one: -one.tracks)[:MOST]
    scores, others = list(found[0].scores), list(found[0].baselines)
    head: tuple[str | Column, ...] = (
        task if len(shown) == len(found) else f"{task}, the commonest {MOST} of {len(found)}", *scores, *others,
        Column("test tracks", right=True),
    )  # fmt: skip
    rows = [
        (one.name, *(tables.with_interval(one.scores[name], digits) for name in scores),
         *(f"{one.baselines.get(name, float('nan')):.{digits}f}".replace("nan", "–") for name in others),
         str(one.tracks))
        for one in shown
    ]  # fmt: skip
    return Table(head, rows)


def _number_of(groups: Sequence[str | int], there: npt.NDArray[np.bool_]) -> int:
    """How many groups have one of these tracks: as many trials as there are, whatever the size of the test set."""
    return len({group for group, held in zip(groups, there, strict=True) if held})


def _interval(counts: Array, part: Any, whole: Any, groups: int) -> Interval:
    """Part over whole, each summed over tracks, and on every resample."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    sums = counts @ whole
    with np.errstate(invalid="ignore", divide="ignore"):
        replicates = np.where(sums > 0, (counts @ part) / sums, np.nan)  # a resample without the class says nothing
    return interval(float(part.sum() / whole.sum()), replicates, groups, (0.0, 1.0))


def _f(there: npt.NDArray[np.bool_], said: npt.NDArray[np.bool_]) -> float:
    return float(2 * (there & said).sum() / max(there.sum() + said.sum(), 1))
