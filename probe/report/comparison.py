"""Several encoders side by side: paired differences on the same test tracks, published figures beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from rich import box
from rich.table import Table

from ...data.labels.lookup import kind_of, metric_name
from . import result
from .bootstrap import Interval, draw, interval, mark, pick_copies
from .sections import Record, Section
from .tables import cell_of, names, text

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One task (and protocol) of a comparison.

    scores: an interval per encoder, None where it wasn't probed. differences: encoder minus the first encoder that has
    the task, paired on the same tracks; None for that one, and where the test tracks differ. published: {paper:
    {system: {metric: value}}} as the literature has it.
    """

    task: str
    protocol: str
    metric: str
    scores: tuple[Interval | None, ...]
    differences: tuple[Interval | None, ...]
    published: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return result.title({"task": self.task, "protocol": self.protocol})

    @property
    def best(self) -> float:
        return max(score.value for score in self.scores if score is not None)


def lines(sections: Sequence[Section]) -> list[Line]:
    """One line per task and protocol that any encoder has, in the order in which they are met."""
    names = dict.fromkeys((r["task"], r["protocol"]) for section in sections for r in section.records)
    return [_line(sections, *name) for name in names]


def _line(sections: Sequence[Section], task: str, protocol: str) -> Line:
    found = [
        next((r for r in section.records if (r["task"], r["protocol"]) == (task, protocol)), None)
        for section in sections
    ]
    first = next(place for place, record in enumerate(found) if record is not None)
    base = found[first]
    assert base is not None
    differences: list[Interval | None] = []
    notes = []
    for place, record in enumerate(found):
        if place == first or record is None:
            differences.append(None)
            continue
        difference, why = difference_of(sections[first], base, sections[place], record)
        differences.append(difference)
        if why:
            notes.append(f"{task}: {sections[place].name} can't be compared with {sections[first].name}: {why}.")
    scores = tuple(None if record is None else result.as_interval(record["score"]) for record in found)
    return Line(
        task, protocol, base["metric_name"], scores, tuple(differences), base["published"], tuple(notes)
    )  # fmt: skip


def difference_of(a: Section, base: Record, b: Section, other: Record) -> tuple[Interval | None, str]:
    """Other minus base with its interval, both resampled on the same tracks (artists, where known); or why not."""
    if base["fingerprint"] != other["fingerprint"]:
        return None, "clips, labels or splits differ"
    tables = []
    for section, record in ((a, base), (b, other)):
        if not section.whole:
            return None, f"{section.folder} is a long table, which has no predictions"
        path = section.home / f"{result.file_name(record['task'], record['protocol'])}.predictions.parquet"
        if not path.is_file():
            return None, f"{path} is missing"
        tables.append(pq.read_table(path))
    if tables[0]["track"].to_pylist() != tables[1]["track"].to_pylist():
        return None, "the test tracks differ"
    counts, number = draw(tables[0]["group"].to_pylist())
    (first, first_copies), (second, second_copies) = (
        _replicates(base, table, counts, seed) for seed, table in enumerate(tables, start=1)
    )
    return interval(second - first, second_copies - first_copies, number), ""


def _replicates(record: Record, table: Any, counts: Array, seed: int) -> tuple[float, Array]:
    """The main metric on the test tracks, and on every resample of tracks and of the head's seeds."""
    kind, classes = kind_of(record["kind"]), record["classes"]
    truth = kind.stored(np.array(table["target"].to_pylist(), dtype=np.float64))
    names = [name for name in table.column_names if name.startswith("guess.")]
    guesses = [np.array(table[name].to_pylist(), dtype=np.float64) for name in names]
    values = [kind.measure(truth, guess, classes)[record["metric"]] for guess in guesses]
    return float(np.mean(values)), pick_copies(
        [kind.resampled(truth, guess, classes, counts) for guess in guesses], seed
    )


LITERATURE = ("task", "system", "metric", "value", "source")


def literature(found: Sequence[Line]) -> list[list[str]]:
    """Published figures, as `LITERATURE` names the columns; each task once, whatever its protocols."""
    rows = {
        (line.task, system, metric_name(metric), f"{value:.3f}", paper): None
        for line in found
        for paper, systems in line.published.items()
        for system, figures in systems.items()
        for metric, value in figures.items()
    }
    return [list(row) for row in rows]


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
    view = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    view.add_column("task", overflow="fold", min_width=14)
    for section in sections:
        view.add_column(section.name, justify="right", overflow="fold", min_width=7)
    for line in found:
        view.add_row(f"{line.name}\n[dim]{line.metric}[/]", *(_cell(line, place) for place in range(len(sections))))
    return view


def published(found: Sequence[Line]) -> Table | None:
    """Figures of the literature with their sources, for the terminal; None where there are none."""
    view = Table(title="Published figures, by other protocols than ours", title_justify="left", header_style="bold",
                 box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)  # fmt: skip
    for name in LITERATURE:
        view.add_column(name, overflow="fold", justify="right" if name == "value" else "left")
    for cells in literature(found):
        view.add_row(*cells)
    return view if view.row_count else None


def _cell(line: Line, place: int, interval_too: bool = False) -> str:
    score = line.scores[place]
    if score is None:
        return "–"
    sign = f" {mark(line.differences[place])}" if line.differences[place] is not None else ""
    return (text(score) if interval_too else f"{score.value:.3f}") + sign


def header(sections: Sequence[Section]) -> list[str]:
    """The first line of a table: metric, encoders, and differences from the first."""
    return ["task", "metric", *(s.name for s in sections), *(f"{s.name} − {sections[0].name}" for s in sections[1:])]


def cells(line: Line) -> list[str]:
    """One line of a table, as `header` names its columns."""
    scores = [_cell(line, place, interval_too=True) for place in range(len(line.scores))]
    return [line.name, line.metric, *scores, *(text(difference, sign=True) for difference in line.differences[1:])]


def markdown(sections: Sequence[Section], found: Sequence[Line]) -> str:
    """The comparison and the published figures as Markdown."""
    head = header(sections)
    table = [
        f"| {' | '.join(map(cell_of, head))} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(map(cell_of, cells(line)))} |" for line in found),
    ]
    parts = [cell_of(verdict(sections, found)), "\n".join(table)] if len(sections) > 1 else []
    figures = literature(found)
    if figures:
        rows = [LITERATURE, ["---"] * len(LITERATURE), *figures]
        parts.append("Published figures, by other protocols than ours:")
        parts.append("\n".join(f"| {' | '.join(map(cell_of, cells))} |" for cells in rows))
    return "\n\n".join(parts)


def latex(sections: Sequence[Section], found: Sequence[Line]) -> str:
    """A table for the package booktabs: every score with its interval, the best in bold; published figures below."""
    width = len(sections)
    rows = []
    for line in found:
        shown = []
        for place, score in enumerate(line.scores):
            if score is None:
                shown.append("--")
                continue
            value = f"\\textbf{{{score.value:.3f}}}" if width > 1 and score.value == line.best else f"{score.value:.3f}"
            sign = f" ${MARKS[mark(line.differences[place])]}$" if line.differences[place] is not None else ""
            shown.append(f"{value}{sign} {{\\scriptsize [{score.low:.3f}, {score.high:.3f}]}}")
        rows.append([_tex(line.name), _tex(line.metric), *shown])
    first = f"{verdict(sections, found)} Marks are against {sections[0].name}." if width > 1 else "groundbass report"
    head = ["task", "metric", *(_tex(section.name) for section in sections)]
    text = f"% {' '.join(first.split())}\n{_tabular('ll' + 'r' * width, head, rows)}"
    figures = [[_tex(cell) for cell in cells] for cells in literature(found)]
    if figures:
        text += f"\n% Published figures, by other protocols than ours.\n{_tabular('lllrl', LITERATURE, figures)}"
    return text


MARKS = {"▲": "\\uparrow", "=": "=", "▼": "\\downarrow", "?": "?"}


def _tabular(columns: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" & ".join(cells) + " \\\\" for cells in rows]
    return "\n".join(
        [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", " & ".join(head) + " \\\\", "\\midrule", *lines,
         "\\bottomrule", "\\end{tabular}", ""]
    )  # fmt: skip


def _tex(words: str) -> str:
    """Words with LaTeX's special signs escaped."""
    signs = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "²": "$^2$", "−": "$-$"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"[": "{[}", "]": "{]}"}
    return "".join(signs.get(letter, letter) for letter in words)


def html(sections: Sequence[Section], found: Sequence[Line]) -> str:
    """The comparison as a part of the page."""
    parts = []
    if len(sections) > 1:
        title = f"{len(sections)} encoders side by side"
        parts += [f"<h1>{title}</h1>", f'<p class="verdict">{escape(verdict(sections, found))}</p>']
        parts.append(
            "<p>Differences are paired: both encoders are resampled on the same test tracks, whole artists at a time "
            f"where known. ▲ above {escape(sections[0].name)} outside the 95 % interval, = inside, ▼ below.</p>"
        )
        parts.append(_grid(header(sections), [cells(line) for line in found]))
        parts += [f'<p class="soft">{escape(note)}</p>' for line in found for note in line.notes]
    return "\n".join(parts)


def published_html(found: Sequence[Line]) -> str:
    """Figures of the literature, with their sources."""
    rows = literature(found)
    if not rows:
        return ""
    words = "<h2>Published figures</h2><p>By other protocols than ours (heads, windows, splits): for orientation.</p>"
    return words + _grid(LITERATURE, rows)


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>'
