"""A table that shows itself: in the terminal, in Markdown, in LaTeX, on a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from rich import box
from rich.markup import escape
from rich.table import Table as Rich

from ..pages.render import render

UP, DOWN = "up", "down"
COLOURS = {UP: "green", DOWN: "red"}
LATEX_MARKS = {"▲": "\\uparrow", "=": "=", "▼": "\\downarrow", "?": "?"}


@dataclass(frozen=True)
class Column:
    """A column's head. right: at the right, as numbers are; least: of letters, in the terminal; whole: never broken."""

    name: str
    right: bool = False
    least: int | None = None
    whole: bool = False


@dataclass(frozen=True)
class Cell:
    """What stands in a cell.

    text: as it is; interval: of the number before it; mark: of a difference; best: of its row; tone: UP or DOWN;
    under: a second line in the terminal, where there is little room.
    """

    text: str
    interval: str = ""
    mark: str = ""
    best: bool = False
    tone: str = ""
    under: str = ""

    @property
    def words(self) -> str:
        """All of it in one line."""
        return " ".join(part for part in (self.text, self.interval, self.mark) if part)

    def terminal(self) -> str:
        """In rich's markup."""
        words = escape(self.words)
        words = f"[{COLOURS[self.tone]}]{words}[/]" if self.tone else words
        return f"{words}\n[dim]{escape(self.under)}[/]" if self.under else words

    def latex(self) -> str:
        """For booktabs: the mark stands by the number, the interval is small."""
        text = f"\\textbf{{{tex(self.text)}}}" if self.best else tex(self.text)
        mark = f" ${LATEX_MARKS[self.mark]}$" if self.mark else ""
        return f"{text}{mark} {{\\scriptsize {self.interval}}}" if self.interval else text + mark


class Table:
    """A head and rows of cells; a text in place of a column or a cell is one without more."""

    def __init__(
        self, head: Iterable[Column | str], rows: Iterable[Sequence[Cell | str]], title: str | None = None
    ) -> None:
        self.head = tuple(Column(column) if isinstance(column, str) else column for column in head)
        self.rows = tuple(tuple(Cell(cell) if isinstance(cell, str) else cell for cell in row) for row in rows)
        self.title = title
        wrong = next((row for row in self.rows if len(row) != len(self.head)), None)
        if wrong is not None:
            raise ValueError(f"A row has {len(wrong)} cells and the head {len(self.head)}: {[c.words for c in wrong]}.")

    def terminal(self) -> Rich:
        """For a rich console."""
        title = None if self.title is None else escape(self.title)
        view = Rich(
            title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
            show_edge=False,
        )  # fmt: skip
        for column in self.head:
            view.add_column(
                escape(column.name), justify="right" if column.right else "left", overflow="fold",
                min_width=column.least, no_wrap=column.whole,
            )  # fmt: skip
        for row in self.rows:
            view.add_row(*(cell.terminal() for cell in row))
        return view

    def markdown(self, *, aligned: bool = False) -> str:
        """aligned: say which columns stand at the right."""
        rules = ["---:" if aligned and column.right else "---" for column in self.head]
        lines = [[markdown_of(column.name) for column in self.head]]
        lines += [[markdown_of(cell.words) for cell in row] for row in self.rows]
        first, *rest = (f"| {' | '.join(line)} |" for line in lines)
        return "\n".join([first, f"|{'|'.join(rules)}|", *rest])

    def latex(self) -> str:
        """A tabular for the package booktabs."""
        columns = "".join("r" if column.right else "l" for column in self.head)
        lines = [" & ".join(cell.latex() for cell in row) + " \\\\" for row in self.rows]
        head = " & ".join(tex(column.name) for column in self.head) + " \\\\"
        parts = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", head, "\\midrule", *lines]
        return "\n".join([*parts, "\\bottomrule", "\\end{tabular}", ""])

    def html(self) -> Markup:
        """A part of a page."""
        return Markup(render("table.html", table=self))


def markdown_of(text: str) -> str:
    """A text as Markdown that stays one: a cell, a heading, a sentence, whatever is in it."""
    return re.sub(r"[`|\\]|\](?=\()", lambda found: f"\\{found[0]}", text.replace("<", "&lt;"))


def tex(words: str) -> str:
    """Words with LaTeX's special signs escaped."""
    signs = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "²": "$^2$", "−": "$-$"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"[": "{[}", "]": "{]}", "–": "--"}
    return "".join(signs.get(letter, letter) for letter in words)
