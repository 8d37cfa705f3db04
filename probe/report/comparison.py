"""Several encoders side by side: paired differences on the same test tracks, published figures beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ...data.labels.lookup import kind_of, metric_name
from .bootstrap import Interval, draw, interval, mark, pick_copies
from .result import Published, Result, Scored, file_name, title
from .sections import Section
from .table import Cell, Column, Table, markdown_of
from .tables import bounds, names, number, text

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One task (and protocol) of a comparison.

    scores: an interval per encoder, None where it wasn't probed. differences: encoder minus the first encoder that has
    the task, paired on the same tracks; None for that one, and where the test tracks differ. published: {paper:
    {system: {metric: value}}} as the literature has it.
    """

    task: str
    name: str
    metric: str
    protocol: str
    scores: tuple[Interval | None, ...]
    differences: tuple[Interval | None, ...]
    published: Published = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> float:
        return max(score.value for score in self.scores if score is not None)


def lines(sections: Sequence[Section]) -> list[Line]:
    """One line per task and protocol that any encoder has, in the order in which they are met."""
    asked = dict.fromkeys((found.task, found.protocol) for section in sections for found in section.scores)
    return [_line(sections, *one) for one in asked]


def _line(sections: Sequence[Section], task: str, protocol: str) -> Line:
    def of(found: Sequence[Any]) -> Any:
        return next((one for one in found if (one.task, one.protocol) == (task, protocol)), None)

    found: list[Scored | None] = [of(section.scores) for section in sections]
    first = next(place for place, one in enumerate(found) if one is not None)
    base = found[first]
    assert base is not None
    differences: list[Interval | None] = []
    notes = []
    for place, one in enumerate(found):
        if place == first or one is None:
            differences.append(None)
            continue
        difference, why = difference_of(sections[first], base, sections[place], one)
        differences.append(difference)
        if why:
            notes.append(f"{task}: {sections[place].name} can't be compared with {sections[first].name}: {why}.")
    scores = tuple(None if one is None or not one.score.known else one.score for one in found)
    return Line(
        task, title(base), base.metric_name, protocol, scores, tuple(differences), base.published, tuple(notes)
    )  # fmt: skip


def difference_of(a: Section, base: Scored, b: Section, other: Scored) -> tuple[Interval | None, str]:
    """Other minus base with its interval, both resampled on the same tracks (artists, where known); or why not."""
    if base.fingerprint != other.fingerprint:
        return None, "clips, labels or splits differ"
    tables = []
    for section, found in ((a, base), (b, other)):
        if not section.whole:
            return None, f"{section.folder} is a long table, which has no predictions"
        path = section.home / f"{file_name(found.task, found.protocol)}.predictions.parquet"
        if not path.is_file():
            return None, f"{path} is missing"
        tables.append(pq.read_table(path))
    if tables[0]["track"].to_pylist() != tables[1]["track"].to_pylist():
        return None, "the test tracks differ"
    assert isinstance(base, Result)
    counts, groups = draw(tables[0]["group"].to_pylist())
    (first, first_copies), (second, second_copies) = (
        _replicates(base, table, counts, seed) for seed, table in enumerate(tables, start=1)
    )
    return interval(second - first, second_copies - first_copies, groups), ""


def _replicates(result: Result, table: Any, counts: Array, seed: int) -> tuple[float, Array]:
    """The main metric on the test tracks, and on every resample of tracks and of the head's seeds."""
    kind, classes = kind_of(result.kind), result.classes
    truth = kind.stored(np.array(table["target"].to_pylist(), dtype=np.float64))
    seeds = [name for name in table.column_names if name.startswith("guess.")]
    guesses = [np.array(table[name].to_pylist(), dtype=np.float64) for name in seeds]
    values = [kind.measure(truth, guess, classes)[result.metric] for guess in guesses]
    return float(np.mean(values)), pick_copies(
        [kind.resampled(truth, guess, classes, counts) for guess in guesses], seed
    )


def literature(found: Sequence[Line]) -> Table | None:
    """Published figures with their sources, each task once, whatever its protocols; None where there are none."""
    rows = {
        (line.task, system, metric_name(metric), f"{value:.3f}", paper): None
        for line in found
        for paper, systems in line.published.items()
        for system, figures in systems.items()
        for metric, value in figures.items()
    }
    head = ("task", "system", "metric", Column("value", right=True), "source")
    return Table(head, list(rows), PUBLISHED) if rows else None


PUBLISHED = "Published figures, by other protocols than ours"


def verdict(sections: Sequence[Section], found: Sequence[Line]) -> str:
    """Each further encoder against the first, in plain words."""
    sentences = []
    for place, section in enumerate(sections[1:], start=1):
        by: dict[str, list[str]] = {"▲": [], "=": [], "▼": []}
        for line in found:
            if line.differences[place] is not None:
                by.setdefault(mark(line.differences[place]), []).append(line.name)
        words = {"▲": "above", "=": "not shown to differ", "▼": "below"}
        parts = [f"{words[sign]} on {len(by[sign])} ({names(by[sign])})" for sign in words if by[sign]]
        known = f"{section.name} against {sections[0].name}: {'; '.join(parts) or 'no task in common'}."
        sentences.append(known)
    return " ".join(sentences)


def terminal(sections: Sequence[Section], found: Sequence[Line]) -> Table:
    """Rows are tasks, columns encoders; a mark says how an encoder stands against the first."""
    head = [Column("task", least=14), *(Column(section.name, right=True, least=7) for section in sections)]
    rows = [
        (Cell(line.name, under=line.metric), *(_cell(line, place, False) for place in range(len(sections))))
        for line in found
    ]
    return Table(head, rows)


def _cell(line: Line, place: int, interval_too: bool = True) -> Cell:
    score, difference = line.scores[place], line.differences[place]
    if score is None:
        return Cell("–")
    best = len(line.scores) > 1 and score.value == line.best
    sign = "" if difference is None else mark(difference)
    return Cell(number(score), bounds(score) if interval_too else "", sign, best)


def scores(sections: Sequence[Section], found: Sequence[Line]) -> Table:
    """Metric and encoders, each with its interval and, of the further ones, how it stands against the first."""
    head = (Column("task"), Column("metric"), *(Column(section.name, right=True) for section in sections))
    return Table(head, [_scores(line) for line in found])


def _scores(line: Line) -> tuple[Cell | str, ...]:
    return line.name, line.metric, *(_cell(line, place) for place in range(len(line.scores)))


def differences(sections: Sequence[Section], found: Sequence[Line]) -> Table:
    """`scores`, and the differences from the first encoder."""
    more = (Column(f"{section.name} − {sections[0].name}", right=True) for section in sections[1:])
    rows = [(*_scores(line), *(text(difference, sign=True) for difference in line.differences[1:])) for line in found]
    return Table((*scores(sections, ()).head, *more), rows)


def markdown(sections: Sequence[Section], found: Sequence[Line]) -> str:
    """The comparison and the published figures as Markdown."""
    parts = []
    if len(sections) > 1:
        parts += [markdown_of(verdict(sections, found)), differences(sections, found).markdown()]
    if figures := literature(found):
        parts += [f"{PUBLISHED}:", figures.markdown()]
    return "\n\n".join(parts)


def latex(sections: Sequence[Section], found: Sequence[Line]) -> str:
    """A table for the package booktabs: every score with its interval, the best in bold; published figures below."""
    several = len(sections) > 1
    first = f"{verdict(sections, found)} Marks are against {sections[0].name}." if several else "groundbass report"
    parts = [f"% {' '.join(first.split())}\n{scores(sections, found).latex()}"]
    if figures := literature(found):
        parts.append(f"% {PUBLISHED}.\n{figures.latex()}")
    return "\n".join(parts)
