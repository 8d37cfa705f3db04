"""One encoder against its baselines, as a table for the terminal or Markdown, and in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from . import result
from .bootstrap import Interval, mark
from .sections import Record


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
        (f"{chosen} of 0–{layers - 1}" if layers > 1 else "0") + pooling_of(record),
    ]


CRAFTED = {
    "log_mel": "log-mel",
    "mfcc": "MFCC",
    "chroma": "chroma",
    "log_cqt": "log-CQT",
    "nnaudio_cqt": "log-CQT (nnAudio)",
    "all_crafted": "all hand-crafted",
    "tzanetakis": "Tz.",
    "tzanetakis_knn": "Tz. kNN",
    "tzanetakis_gmm": "Tz. GMM",
    "lecture": "classic",
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
    return "\n".join([*lines, *("| " + " | ".join(map(cell_of, row(record))) + " |" for record in records)])


def cell_of(text: str) -> str:
    """A cell of a Markdown table, whatever is in it."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`").replace("<", "&lt;")


def pooling_of(record: Record) -> str:
    """The pooling behind a score, where it isn't the plain mean: ", mean+std"."""
    pooling = record.get("pooling", "mean")
    return "" if pooling == "mean" or record.get("unit") == "frame" else f", {pooling}"


def units(record: Record) -> Table:
    """The main metric of frames, windows and songs by one head."""
    shown = Table("heard", "rule", "number", record["metric_name"], box=box.SIMPLE, title=result.title(record))
    for line in record["units"]:
        shown.add_row(line["unit"], line["rule"], f"{line['number']:,}", f"{line['value']:.3f}")
    return shown


def confusion(record: Record, truth_in: str = "columns") -> str:
    """Counts of answers as Markdown: a column per true class and a row per answer, or the other way round."""
    names = [cell_of(name) for name in record["confusion"]["classes"]]
    counts = record["confusion"]["counts"]
    table = counts if truth_in == "rows" else [list(column) for column in zip(*counts)]
    corner = "truth ↓ answer →" if truth_in == "rows" else "answer ↓ truth →"
    lines = [f"| {corner} | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(map(str, row))} |" for name, row in zip(names, table))])


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
