"""`groundbass report DIR…`: what was learned, as a table in the terminal, Markdown, and one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from ...data.writing import remove_leftovers, write_text
from . import comparison, long_table, tables
from .comparison import Line
from .result import title
from .sections import Section, distinct, sections_of
from .table import markdown_of

MOST_CLASSES = 24  # of a confusion matrix in Markdown
DAMAGED = "The trained heads on damaged test tracks, from mild to severe"


def report(
    dirs: tyro.conf.Positional[tuple[Path, ...]],
    *,
    out: Path | None = None,
    truth_in: Literal["rows", "columns"] = "rows",
) -> dict[str, Any]:
    """Compare probe results: a table here, and one page with pictures to read or send.

    Several encoders stand side by side, each further one with its paired difference from the first; every encoder's
    own baselines follow. Of a long table alone (results.parquet, results.json) come scores, without differences.

    Args:
        dirs: run folders, folders with probe results, or the long tables of others.
        out: the page, .html, .md or .tex; report.html in the first folder by default.
        truth_in: of confusion matrices: true classes in rows, or in columns as courses print them.
    """
    if not dirs:
        raise ValueError("Which results? Give run folders, or the folders that groundbass probe wrote.")
    if out is not None and out.suffix not in (".html", ".md", ".tex"):
        raise ValueError(f"--out {out}: the ending says what to write, .html, .md or .tex.")
    once: dict[Path, Path] = {}  # a folder that is named twice stands there once
    for place in dirs:
        once.setdefault(place.resolve(), place)
    sections = distinct([section for place in once.values() for section in sections_of(place)])
    found = comparison.lines(sections)
    console = Console()
    _show(console, sections, found)
    target = out or (dirs[0] if dirs[0].is_dir() else dirs[0].parent) / "report.html"
    if target.suffix == ".md":
        text = _markdown(sections, found, truth_in)
    elif target.suffix == ".tex":
        text = comparison.latex(sections, found)
    else:
        from .page import page  # matplotlib is needed for the page alone

        text = page(sections, found, truth_in)
    remove_leftovers(target)
    write_text(target, text)
    console.print(f"Page: {target}", highlight=False, markup=False, soft_wrap=True)
    left_out = [sentence for section in sections for sentence in section.left_out]
    return {"page": target, "encoders": [_figures(section) for section in sections], "left_out": left_out}


def _figures(section: Section) -> dict[str, Any]:
    """The scores of an encoder, and of its baselines where they are known."""
    rows = [row for result in section.results for row in long_table.rows(result)]
    scores = [
        {"task": one.task, "protocol": one.protocol, "metric": one.metric_name, **asdict(one.score)}
        for one in section.scores
    ]
    return {"name": section.name, "scores": scores, "rows": rows}


def _show(console: Console, sections: Sequence[Section], found: Sequence[Line]) -> None:
    """Everything that the page says in tables and sentences."""
    for section in sections:
        if section.whole:
            console.print(tables.terminal(section.results, console.width).terminal())
            console.print(f"{section.name}: {tables.verdict(section.results)}", highlight=False, markup=False)
    if len(sections) > 1:
        console.print(comparison.terminal(sections, found).terminal())
        console.print(comparison.verdict(sections, found), highlight=False, markup=False)
    if damaged := tables.robustness([(section.name, section.results) for section in sections]):
        console.print(damaged.terminal())
    if figures := comparison.literature(found):
        console.print(figures.terminal())
    for sentence in (one for section in sections for one in section.left_out):
        console.print(sentence, style="bold", highlight=False, markup=False, soft_wrap=True)
    for line in found:
        for note in line.notes:
            console.print(note, style="dim", highlight=False, markup=False)


def _markdown(sections: Sequence[Section], found: Sequence[Line], truth_in: str) -> str:
    each = [
        f"## {markdown_of(section.name)}\n\n{markdown_of(tables.verdict(section.results))}\n\n"
        f"{tables.markdown(section.results)}{_matrices(section, truth_in)}"
        for section in sections if section.whole
    ]  # fmt: skip
    damaged = tables.robustness([(section.name, section.results) for section in sections])
    more = [] if damaged is None else [f"{DAMAGED}:\n\n{damaged.markdown()}"]
    return "\n\n".join([comparison.markdown(sections, found), *more, *each]).strip() + "\n"


def _matrices(section: Section, truth_in: str) -> str:
    """Confusion matrices of the tasks with few classes."""
    return "".join(
        f"\n\n### {markdown_of(title(one))}\n\n{tables.confusion(one.confusion, truth_in).markdown(aligned=True)}"
        for one in section.results
        if one.confusion and len(one.confusion.classes) <= MOST_CLASSES
    )
