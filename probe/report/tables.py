"""One encoder against its baselines: as a table, and in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..curves.robustness import Robustness
from .bootstrap import Interval, mark
from .result import Baseline, Confusion, Result, title
from .table import DOWN, UP, Cell, Column, Table

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
TONES = {"▲": UP, "▼": DOWN}
WIDE = 150  # letters of a terminal that holds the whole table


def scores(results: Sequence[Result]) -> Table:
    """One row per task."""
    numbers = ("n test", "score", "random copy", "difference", "", "best hand-crafted", "constant", "layer")
    return Table(("task", "metric", *(Column(name, right=True) for name in numbers)), map(_row, results))


def markdown(results: Sequence[Result]) -> str:
    """The table for a README, where no sentence above says what is in brackets."""
    numbers = ("n test", "score [95 %]", "random copy [95 %]", "difference [95 %]", "", "best hand-crafted", "constant")
    return Table(("task", "metric", *numbers, "layer"), map(_row, results)).markdown()


def _row(result: Result) -> tuple[Cell | str, ...]:
    random, difference = result.baselines.get("random"), result.difference
    tone = TONES.get(mark(difference), "")
    return (
        title(result), result.metric_name, f"{result.counts.test:,}", text(result.score),
        text(random.score if random else None), Cell(text(difference, sign=True), tone=tone),
        Cell(mark(difference), tone=tone), _crafted(result.baselines), short(result.baselines.get("constant")),
        layer_of(result),
    )  # fmt: skip


def terminal(results: Sequence[Result], width: int = 160) -> Table:
    """One row per task for a terminal of `width` characters; under `WIDE` the two scores lose their intervals."""
    several = len({result.encoder for result in results}) > 1
    name = None if several else results[0].encoder
    numbers: tuple[str, ...] = ("n", "score", "random copy", "difference", "", "hand-crafted", "constant", "layer")
    texts, rows = [Column("task", least=16), Column("metric", least=8)], [_row(result) for result in results]
    if width < WIDE:
        numbers = ("n", "score", "random", "difference", "", "crafted", "const.")
        texts, rows = texts[:1], [_narrow(result) for result in results]
    if several:
        texts.insert(0, Column("encoder", least=8))
        rows = [(result.encoder, *row) for result, row in zip(results, rows)]
    return Table([*texts, *(Column(name, right=True, whole=True) for name in numbers)], rows, name)


def _narrow(result: Result) -> tuple[Cell | str, ...]:
    difference, best = result.difference, crafted(result.baselines)
    return (
        Cell(title(result), under=f"{result.metric_name}, layer {chosen_layer(result)}"), f"{result.counts.test:,}",
        number(result.score), short(result.baselines.get("random")), text(difference, sign=True, digits=2),
        Cell(mark(difference), tone=TONES.get(mark(difference), "")),
        short(result.baselines[best]) if best else "–", short(result.baselines.get("constant")),
    )  # fmt: skip


def hand_crafted(results: Sequence[Result]) -> Table | None:
    """Scores of every hand-crafted baseline; None where there is none."""
    names = [name for name in CRAFTED if any(name in result.baselines for result in results)]
    if not names:
        return None
    head = (Column("task"), *(Column(name, right=True) for name in ("encoder", *(CRAFTED[name] for name in names))))
    rows = [
        (title(result), number(result.score), *(short(result.baselines.get(name)) for name in names))
        for result in results
    ]
    return Table(head, rows)


def crafted(baselines: Mapping[str, Baseline]) -> str | None:
    """The hand-crafted baseline with the best test score, which makes it a hard one to beat."""
    known = {name: baselines[name].score for name in CRAFTED if name in baselines and baselines[name].score.known}
    return max(known, key=lambda name: known[name].value) if known else None


def _crafted(baselines: Mapping[str, Baseline]) -> str:
    best = crafted(baselines)
    return "–" if best is None else f"{short(baselines[best])} {CRAFTED[best]}"


def chosen_layer(result: Result) -> str:
    """Its number, or all, of a weighted sum."""
    if len(result.layers) < 2:
        return "0"
    return "all" if result.layer < 0 else str(result.layer)


def layer_of(result: Result) -> str:
    """The chosen layer among all, and the pooling behind the score, where it isn't the plain mean."""
    plain = result.pooling == "mean" or result.unit == "frame"
    among = f" of 0–{len(result.layers) - 1}" if len(result.layers) > 1 else ""
    return f"{chosen_layer(result)}{among}{'' if plain else f', {result.pooling}'}"


def text(found: Interval | None, sign: bool = False, digits: int = 3) -> str:
    """0.62 [0.58, 0.66]."""
    if found is None or not found.known:
        return "–"
    plus = "+" if sign else ""
    return f"{found.value:{plus}.{digits}f} {bounds(found, sign, digits)}"


def bounds(found: Interval, sign: bool = False, digits: int = 3) -> str:
    """[0.58, 0.66]."""
    plus = "+" if sign else ""
    return f"[{found.low:{plus}.{digits}f}, {found.high:{plus}.{digits}f}]"


def number(found: Interval | None, digits: int = 3) -> str:
    """0.620, without its interval."""
    return "–" if found is None or not found.known else f"{found.value:.{digits}f}"


def with_interval(found: Interval | None, digits: int = 3) -> str:
    """0.71 [0.65, 0.77], without what isn't known."""
    return text(found, digits=digits) if found is None or found.bounded else number(found, digits)


def short(found: Baseline | None) -> str:
    """A baseline's score alone."""
    return "–" if found is None else number(found.score)


def units(result: Result) -> Table:
    """The main metric of frames, windows and songs by one head."""
    head = ("heard", "rule", Column("number", right=True), Column(result.metric_name, right=True))
    rows = [(piece.unit, piece.rule, f"{piece.number:,}", f"{piece.value:.3f}") for piece in result.units]
    return Table(head, rows, title(result))


def robustness(encoders: Sequence[tuple[str, Sequence[Result]]]) -> Table | None:
    """The main metric on damaged audio: a row per task and kind of damage, a column per encoder; None without any.

    encoders: names and results. The levels of a row, and the scores under each encoder, go from mild to severe.
    """
    found = {
        name: {title(result): result.robustness for result in results if result.robustness}
        for name, results in encoders
    }  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for task in dict.fromkeys(task for by_task in found.values() for task in by_task):
        having = [by_task.get(task) for by_task in found.values()]
        rows.append((task, "none", "", *("" if one is None else f"{one.clean:.3f}" for one in having)))
        curves = {kind: curve for one in having if one for kind, curve in one.kinds.items()}
        for kind, curve in curves.items():
            levels = "" if len(curve.levels) == 1 else f"{' '.join(f'{level:g}' for level in curve.levels)} "
            rows.append((task, kind, f"{levels}{curve.unit}", *(_falling(one, kind) for one in having)))
    head: list[Column | str] = ["task", "damage", "levels"]
    head += [Column(name, right=True, least=24) for name in found]
    return Table(head, rows) if rows else None


def _falling(found: Robustness | None, kind: str) -> str:
    """Scores at a kind's levels; a point instead of those that aren't known."""
    if found is None or kind not in found.kinds:
        return "–"
    return " ".join("–" if math.isnan(value) else f"{value:.2f}" for value in found.kinds[kind].values)


def confusion(found: Confusion, truth_in: str = "columns") -> Table:
    """Counts of answers: a column per true class and a row per answer, or the other way round."""
    counts = found.counts if truth_in == "rows" else tuple(zip(*found.counts))
    corner = "truth ↓ answer →" if truth_in == "rows" else "answer ↓ truth →"
    head = (Column(corner), *(Column(name, right=True) for name in found.classes))
    return Table(head, [(name, *map(str, row)) for name, row in zip(found.classes, counts)])


def marks(results: Sequence[Result]) -> dict[str, list[str]]:
    """Task names by ▲, =, ▼ and ? against the random copy."""
    by: dict[str, list[str]] = {"▲": [], "=": [], "▼": [], "?": []}
    for result in results:
        by[mark(result.difference)].append(title(result))
    return by


def said(results: Sequence[Result]) -> dict[str, list[str]]:
    """Sentences about the tasks, each once, with the names of the tasks that they hold for."""
    found: dict[str, list[str]] = {}
    for result in results:
        for note in result.notes:
            found.setdefault(note, []).append(title(result))
    return found


def names(found: Sequence[str], most: int = 6) -> str:
    """a, b and c; long lists end in their number."""
    return ", ".join(found) if len(found) <= most + 1 else f"{', '.join(found[:most])} and {len(found) - most} more"


def verdict(results: Sequence[Result]) -> str:
    """In plain words: where the encoder beats its random copy, where it doesn't, and where a log-mel may do as well."""
    by = marks(results)
    known = len(results) - len(by["?"])
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
    weak = [
        title(result) for result in results
        if (best := crafted(result.baselines)) and mark(result.baselines[best].difference) != "▲"
    ]  # fmt: skip
    if weak:
        where = "no task can it" if len(weak) == len(results) else f"{len(weak)} ({names(weak)}) it can't"
        sentences.append(f"On {where} be shown to be above the best hand-crafted features.")
    return " ".join(sentences)
