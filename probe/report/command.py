"""`groundbass report DIR…`: what was learned, as a table in the terminal, Markdown, and one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from ...data.writing import write_text
from . import comparison
from .result import title
from .sections import Section, distinct, sections_of
from .tables import cell_of, confusion, markdown, table, verdict

MOST_CLASSES = 24  # of a confusion matrix in Markdown


def report(
    dirs: tyro.conf.Positional[tuple[Path, ...]],
    *,
    out: Path | None = None,
    truth_in: Literal["rows", "columns"] = "rows",
) -> None:
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
    sections = distinct([section for place in dirs for section in sections_of(place)])
    own = [section for section in sections if section.whole]
    found = comparison.lines(sections)
    console = Console()
    for section in own:
        console.print(table(section.records, console.width))
        console.print(f"{section.name}: {verdict(section.records)}", highlight=False, markup=False)
    if len(sections) > 1:
        console.print(comparison.terminal(sections, found))
        console.print(comparison.verdict(sections, found), highlight=False, markup=False)
    figures = comparison.published(found)
    if figures is not None:
        console.print(figures)
    for line in found:
        for note in line.notes:
            console.print(note, style="dim", highlight=False, markup=False)
    target = out or (dirs[0] if dirs[0].is_dir() else dirs[0].parent) / "report.html"
    if target.suffix == ".md":
        each = "\n\n".join(
            f"## {cell_of(s.name)}\n\n{cell_of(verdict(s.records))}\n\n{markdown(s.records)}{_matrices(s, truth_in)}"
            for s in own
        )
        text = f"{comparison.markdown(sections, found)}\n\n{each}".strip() + "\n"
    elif target.suffix == ".tex":
        text = comparison.latex(sections, found)
    else:
        from .page import page  # matplotlib is needed for the page alone

        text = page(sections, found, truth_in)
    write_text(target, text)
    console.print(f"Page: {target}", highlight=False, markup=False, soft_wrap=True)


def _matrices(section: Section, truth_in: str) -> str:
    """Confusion matrices of the tasks with few classes."""
    shown = [r for r in section.records if r.get("confusion") and len(r["confusion"]["classes"]) <= MOST_CLASSES]
    return "".join(f"\n\n### {cell_of(title(record))}\n\n{confusion(record, truth_in)}" for record in shown)
