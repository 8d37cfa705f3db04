"""Labels over time as files have them: `.beats`, `.lab`, and rows with onset and offset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

SUFFIXES = (".beats", ".lab")
ONSETS, OFFSETS, NAMES = ("onset", "start"), ("offset", "end"), ("label", "event", "event_label")


def names_annotation(value: Any) -> bool:
    """Whether a cell is the name of such a file."""
    return isinstance(value, str) and Path(value).suffix.lower() in SUFFIXES


def name_annotations(values: Iterable[Any]) -> bool:
    """Whether a column holds names of such files: there are some, and nothing else."""
    named = [names_annotation(value) for value in values if value is not None]
    return bool(named) and all(named)


def read_annotation(file: Path) -> list[Any]:
    """`.beats`: [time in s] or [time, position in the bar] per line; `.lab`: {"start", "end", "label"} per line.

    Raises:
        FileNotFoundError: it isn't there.
        ValueError: a line can't be read; the sentence names it.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}, which a label (of labels.csv or a manifest) names.")
    lines = [line.split() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    numbered = [(number, cells) for number, cells in enumerate(lines, start=1) if cells and cells[0][:1] != "#"]
    if file.suffix.lower() == ".lab":
        return [_span(cells, file, number) for number, cells in numbered]
    beats = [[_seconds(cell, file, number) for cell in cells[:2]] for number, cells in numbered]
    if any(later[0] <= earlier[0] for earlier, later in pairwise(beats)):
        raise ValueError(f"{file} should list ascending beat times, one a line, and doesn't.")
    return beats


def annotation_text(rows: Sequence[Any]) -> str:
    """The lines of what `read_annotation` read, times in s to a millionth; spans as `.lab`, else as `.beats`."""
    return "".join(f"{_line(row)}\n" for row in rows)


def _line(row: Any) -> str:
    if isinstance(row, Mapping):
        return f"{row['start']:.6f}\t{row['end']:.6f}\t{row['label']}"
    time, *position = row
    return "\t".join([f"{time:.6f}", *(f"{number:.12g}" for number in position)])


def _span(cells: Sequence[str], file: Path, number: int) -> dict[str, Any]:
    if len(cells) < 3:
        raise ValueError(f"Line {number} of {file} should be start, end and label, and is {' '.join(cells)!r}.")
    start, end = (_seconds(cell, file, number) for cell in cells[:2])
    if end < start:
        raise ValueError(f"Line {number} of {file} ends at {end:g} s, before its start at {start:g} s.")
    return {"start": start, "end": end, "label": " ".join(cells[2:])}


def _seconds(cell: str, file: Path, number: int) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise ValueError(f"Line {number} of {file} should hold numbers, and has {cell!r}.")
    return value


def is_spans(columns: Sequence[str]) -> bool:
    """Whether a table has a row per span: an onset, an offset and a label."""
    return all(any(name in columns for name in wanted) for wanted in (ONSETS, OFFSETS, NAMES))


def gathered(rows: Sequence[Mapping[str, str]], file: Path) -> list[dict[str, Any]]:
    """A row per span as a row per path: the label's column holds the spans, the others what the first row has.

    Raises:
        ValueError: a row can't be read; the sentence names it.
    """
    onset, offset, label = (next(name for name in wanted if name in rows[0]) for wanted in (ONSETS, OFFSETS, NAMES))
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, start=2):
        path = Path(row["path"]).as_posix()
        others = {name: value for name, value in row.items() if name not in (onset, offset, label)}
        kept = found.setdefault(path, {**others, "path": path, label: []})
        if row[label]:
            kept[label].append(_span([row[onset], row[offset], row[label]], file, number))
    return list(found.values())
