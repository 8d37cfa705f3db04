"""Annotation files as they are found: any line ending, padded cells, and a sentence where a file isn't what it was."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

DEPTH = 4  # folders below the root in which a misplaced file is looked for
_TABBED = re.compile(r",[ \t]*\t[ \t]*")  # padding after a comma, which would hide an opening quote
LOOKED_AT = 2000  # folders, so that a wrong root such as / costs nothing


def find(root: Path, places: Sequence[str], source: str) -> Path:
    """The first of `places` (relative to `root`) that exists.

    Raises:
        FileNotFoundError: none does; the sentence says where a file of that name was seen instead.
    """
    if not root.is_dir():
        problem = "is no folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"{root} {problem}: give the folder that holds the corpus. {source}")
    for place in places:
        if (root / place).exists():
            return root / place
    raise FileNotFoundError(f"{root} has no {places[0]}. {_hint(root, places)}{source}")


def text_of(file: Path) -> str:
    """The text of a file with plain line ends: UTF-8 (a byte-order mark is dropped), else Latin-1."""
    data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def rows(file: Path, columns: Iterable[str], source: str, delimiter: str = ",") -> list[dict[str, str]]:
    """A table with a header, cells stripped of padding and quotes, empty lines left out.

    Raises:
        ValueError: one of `columns` is missing, or a row has other cells than the header.
    """
    text = text_of(file)
    header, table = _cells(text, delimiter)
    if delimiter == "," and not _fit(header, table):  # quotes that padding hides
        header, table = _cells(_TABBED.sub(",", text), delimiter)
    check_columns(file, header, columns, source)
    for number, cells in table:
        if not _fit(header, [(number, cells)]):
            raise ValueError(
                f"{file}, line {number}, has {len(cells)} cells where the header has {len(header)}: the file was "
                f"edited, or its download broke off. {source}"
            )
    return [dict(zip(header, cells)) for _, cells in table]


def _cells(text: str, delimiter: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and (number of its line, cells) of every row with something in it."""
    reader = csv.reader(text.split("\n"), delimiter=delimiter, skipinitialspace=delimiter == ",")
    header = [clean(cell) for cell in next(reader, [])]
    table = [(reader.line_num, [clean(cell) for cell in cells]) for cells in reader]
    return header, [(number, cells) for number, cells in table if any(cells)]


def _fit(header: Sequence[str], table: Sequence[tuple[int, Sequence[str]]]) -> bool:
    return all(len(cells) >= len(header) and not any(cells[len(header) :]) for _, cells in table)


def check_columns(file: Path, header: Sequence[str], columns: Iterable[str], source: str) -> None:
    """Raise ValueError where a column is missing."""
    missing = [name for name in columns if name not in header]
    if missing:
        shown = ", ".join(header[:8]) + (f", … ({len(header)} in all)" if len(header) > 8 else "")
        raise ValueError(
            f"{file} has no column {' and no column '.join(map(repr, missing))}: it has {shown or 'nothing'}. "
            f"It isn't the published file, or was edited. {source}"
        )


def clean(cell: str) -> str:
    return cell.strip().strip('"').strip()


def number_of(cell: str, file: Path, what: str) -> float:
    """A cell as a number.

    Raises:
        ValueError: it is none; the sentence names the file and the cell.
    """
    try:
        return float(cell)
    except ValueError:
        raise ValueError(
            f"{file} says {cell!r} for {what}, and a number is expected: the file was edited, or its columns moved."
        ) from None


def _hint(root: Path, places: Sequence[str]) -> str:
    """Where a file of that name is seen below or just above the root, if it is."""
    name = Path(places[0]).name
    for found in _seen(root, name):
        inside = found.relative_to(root)
        for place in places:
            parts = len(Path(place).parts)
            if parts > 1 and len(inside.parts) > parts and inside.parts[-parts:] == Path(place).parts:
                return f"It is in {root.joinpath(*inside.parts[:-parts])}: give that folder. "
        return (
            f"There is {inside}, so a folder has been renamed or moved: put it back to {places[0]}, or give the folder "
            "that holds the audio too. "
        )
    for above in (root.parent, root.parent.parent):
        if any((above / place).exists() for place in places):
            return f"It is in {above}: give that folder. "
    held = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    return f"The folder holds {', '.join(held[:6])}{', …' if len(held) > 6 else ''}. " if held else "It is empty. "


def _seen(root: Path, name: str) -> Iterator[Path]:
    for count, (here, folders, files) in enumerate(os.walk(root)):
        folders[:] = sorted(folder for folder in folders if not folder.startswith((".", "__")))
        if name in files or name in folders:
            yield Path(here, name)
        if len(Path(here).relative_to(root).parts) >= DEPTH:
            folders.clear()
        if count > LOOKED_AT:
            return
