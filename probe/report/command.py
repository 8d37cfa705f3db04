"""`groundbass report DIR…`: what was learned, as a table in the terminal, Markdown, and one self-contained page."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import long_table, result
from .bootstrap import Interval, mark

Record = dict[str, Any]


def report(dirs: tyro.conf.Positional[tuple[Path, ...]], *, out: Path | None = None) -> None:
    """Compare probe results: a table here, and one page with pictures to read or send.

    Several encoders stand side by side, each further one with its paired difference from the first; every encoder's
    own baselines follow. Of a long table alone (results.parquet, results.json) come scores, without differences.

    Args:
        dirs: run folders, folders with probe results, or the long tables of others.
        out: the page, .html, .md or .tex; report.html in the first folder by default.
    """
    from . import comparison  # it reads this module's tables

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
        each = "\n\n".join(f"## {s.name}\n\n{verdict(s.records)}\n\n{markdown(s.records)}" for s in own)
        text = f"{comparison.markdown(sections, found)}\n\n{each}".strip() + "\n"
    elif target.suffix == ".tex":
        text = comparison.latex(sections, found)
    else:
        from .page import page  # matplotlib is needed for the page alone

        text = page(sections, found)
    beside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside.write_text(text, encoding="utf-8")
    beside.replace(target)
    console.print(f"Page: {target}", highlight=False, markup=False, soft_wrap=True)


class Section:
    """One encoder's results and, where the folder is a run, its recipe and losses."""

    def __init__(self, folder: Path, home: Path, records: list[Record], run: Path | None) -> None:
        self.folder, self.home, self.records, self.run = folder, home, records, run
        self.name = run.name if run is not None else str(records[0]["encoder"])

    @property
    def whole(self) -> bool:
        """Whether more is known than a long table tells."""
        return "baselines" in self.records[0]

    @property
    def losses(self) -> list[Record]:
        """The lines of RUN/loss.jsonl."""
        path = None if self.run is None else self.run / "loss.jsonl"
        if path is None or not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

    @property
    def probes(self) -> list[tuple[int, Record]]:
        """What `groundbass pretrain --probe-every` measured on the way: (step, result), the first step first."""
        if self.run is None:
            return []
        return [(step, record) for step, folder in on_the_way(self.run) for record in results_in(folder)]

    @property
    def recipe(self) -> Record:
        """RUN/recipe.json."""
        path = None if self.run is None else self.run / "recipe.json"
        content: Record = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}
        return content


def sections_of(place: Path) -> list[Section]:
    """The results of a folder, or those of every encoder in a long table."""
    if place.suffix in (".parquet", ".json") and place.is_file():
        return [Section(place, place.parent, records, None) for records in long_table.records(place)]
    return [collect(place)]


def collect(folder: Path) -> Section:
    """The results in a run folder or a folder of results; of a run that was probed on the way only, its last ones.

    Raises:
        FileNotFoundError: there are none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    home = folder / "probe" if (folder / "probe").is_dir() else folder
    records, probed = results_in(home), on_the_way(folder)
    if not records and probed:
        home = probed[-1][1]
        records = results_in(home)
    if not records:
        raise FileNotFoundError(
            f"{home} holds no probe results; make them with `groundbass probe {folder} synth:PATH`."
        )
    run = folder if home is not folder else folder.parent if (folder.parent / "recipe.json").is_file() else None
    return Section(folder, home, records, run)


def results_in(folder: Path) -> list[Record]:
    """The results in a folder, by task, the linear protocol first."""
    found = [result.read(path) for path in sorted(folder.glob("*.json"))]
    records = [record for record in found if record is not None]
    return sorted(records, key=lambda record: (record["task"], record["protocol"] != "linear", record["protocol"]))


def on_the_way(run: Path) -> list[tuple[int, Path]]:
    """The folders RUN/probes/step_N that hold results, by step."""
    found = [(int(path.name[5:]), path) for path in run.glob("probes/step_*") if path.name[5:].isdigit()]
    return [(step, path) for step, path in sorted(found) if (path / "results.json").is_file()]


def distinct(sections: list[Section]) -> list[Section]:
    """Runs of the same name get their whole path, encoders in a table the table's."""
    names = [section.name for section in sections]
    for section in sections:
        if names.count(section.name) > 1:
            section.name = str(section.folder) if section.whole else f"{section.name} in {section.folder}"
    return sections


def table(records: Sequence[Record], width: int = 160) -> Table:
    """One row per task for a terminal of `width` characters; under 150 the two scores lose their intervals."""
    several = len({record["encoder"] for record in records}) > 1
    title = None if several else str(records[0]["encoder"])
    view = Table(
        title=title,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    narrow = width < 150
    for name in [*(["encoder"] if several else []), "task", *([] if narrow else ["metric"])]:
        view.add_column(name, overflow="fold", min_width=16 if name == "task" else 8)
    shorter = ("n", "score", "random", "difference", "", "crafted", "const.")
    for name in (
        shorter if narrow else ("n", "score", "random copy", "difference", "", "hand-crafted", "constant", "layer")
    ):
        view.add_column(name, justify="right", no_wrap=True)
    colour = {"▲": "green", "▼": "red"}
    for record in records:
        cells = [escape(cell) for cell in row(record)]
        if narrow:
            random = record["baselines"].get("random") or {}
            cells[3], cells[4], cells[7] = short(record["score"]), short(random), cells[7].partition(" ")[0]
            cells[5] = escape(text(result.as_interval(random.get("difference")), sign=True, digits=2))
            cells[:2] = [f"{cells[0]}\n[dim]{cells[1]}, layer {cells.pop(9).partition(' ')[0]}[/]"]
        place = -3 if narrow else -4  # of the mark
        cells[place] = f"[{colour[cells[place]]}]{cells[place]}[/]" if cells[place] in colour else cells[place]
        view.add_row(*([escape(str(record["encoder"]))] if several else []), *cells)
    return view


def row(record: Record) -> list[str]:
    """task, metric, n test, score, random copy, difference, mark, best hand-crafted, constant, layer."""
    base = record["baselines"]
    random = base.get("random") or {}
    difference = result.as_interval(random.get("difference"))
    layers = len(record["layers"])
    chosen = "all" if record["layer"] < 0 else str(record["layer"])
    return [
        result.title(record),
        record["metric_name"],
        f"{record['counts']['test']:,}",
        text(result.as_interval(record["score"])),
        text(result.as_interval(random)),
        text(difference, sign=True),
        mark(difference),
        _crafted(base),
        short(base.get("constant")),
        f"{chosen} of 0–{layers - 1}" if layers > 1 else "0",
    ]


CRAFTED = {
    "log_mel": "log-mel",
    "mfcc": "MFCC",
    "chroma": "chroma",
    "tzanetakis": "Tz.",
    "tzanetakis_knn": "Tz. kNN",
    "tzanetakis_gmm": "Tz. GMM",
}


def crafted(baselines: Record) -> str | None:
    """The hand-crafted baseline with the best test score, which makes it a hard one to beat."""
    known = {name: baselines[name]["value"] for name in CRAFTED if (baselines.get(name) or {}).get("value") is not None}
    return max(known, key=lambda name: known[name]) if known else None


def _crafted(baselines: Record) -> str:
    best = crafted(baselines)
    return "–" if best is None else f"{baselines[best]['value']:.3f} {CRAFTED[best]}"


def text(found: Interval | None, sign: bool = False, digits: int = 3) -> str:
    """0.62 [0.58, 0.66]."""
    if found is None:
        return "–"
    plus = "+" if sign else ""
    value, low, high = (f"{number:{plus}.{digits}f}" for number in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def short(numbers: Record | None) -> str:
    return "–" if not numbers or numbers.get("value") is None else f"{numbers['value']:.3f}"


def markdown(records: Sequence[Record]) -> str:
    """The same table for a README or a model card."""
    head = [
        "task",
        "metric",
        "n test",
        "score [95 %]",
        "random copy [95 %]",
        "difference [95 %]",
        "",
        "best hand-crafted",
        "constant",
        "layer",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row(record)) + " |" for record in records)])


def marks(records: Sequence[Record]) -> dict[str, list[str]]:
    """Task names by ▲, =, ▼ and ? against the random copy."""
    sorted_: dict[str, list[str]] = {"▲": [], "=": [], "▼": [], "?": []}
    for record in records:
        random = record["baselines"].get("random") or {}
        sorted_[mark(result.as_interval(random.get("difference")))].append(result.title(record))
    return sorted_


def said(records: Sequence[Record]) -> dict[str, list[str]]:
    """Sentences about the tasks, each once, with the names of the tasks that they hold for."""
    found: dict[str, list[str]] = {}
    for record in records:
        for note in record["notes"]:
            found.setdefault(note, []).append(result.title(record))
    return found


def names(found: Sequence[str], most: int = 6) -> str:
    """a, b and c; long lists end in their number."""
    return ", ".join(found) if len(found) <= most + 1 else f"{', '.join(found[:most])} and {len(found) - most} more"


def verdict(records: Sequence[Record]) -> str:
    """In plain words: where the encoder beats its random copy, where it doesn't, and where a log-mel may do as well."""
    by = marks(records)
    known = len(records) - len(by["?"])
    if not known:
        return "Nothing can be said against a random copy: none was probed."
    sentences = [
        f"On {len(by['▲'])} of {known} tasks the encoder is above its random copy, outside the 95 % interval "
        "of the paired difference"
    ]
    sentences[0] += f" ({names(by['▲'])})." if by["▲"] else "."
    if by["="]:
        sentences.append(f"On {len(by['='])} no difference can be shown ({names(by['='])}).")
    if by["▼"]:
        sentences.append(
            f"On {len(by['▼'])} it is below its random copy ({names(by['▼'])}): pretraining cost something there."
        )
    else:
        sentences.append("On none is it below.")
    weak = []
    for record in records:
        best = crafted(record["baselines"])
        if best is not None and mark(result.as_interval(record["baselines"][best]["difference"])) != "▲":
            weak.append(result.title(record))
    if weak:
        where = "no task can it" if len(weak) == len(records) else f"{len(weak)} ({names(weak)}) it can't"
        sentences.append(f"On {where} be shown to be above the best hand-crafted features.")
    return " ".join(sentences)
