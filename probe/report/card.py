"""What a model card says of measurements: text that `models` puts into the card without knowing what a result is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...models.card import NOT_PROBED
from ...reading import json_of
from . import tables
from .bootstrap import mark
from .result import Baseline, Result, read_all, title
from .table import Table

WORDS = (
    "Frozen, with heads (linear, unless the task's name says otherwise) on the layer that was best on validation "
    "tracks; test tracks were used once. In brackets: 95 % bootstrap intervals over tracks (artists, where known). "
    "*Random copy*: the same architecture, untrained. *Hand-crafted*: the best of the feature sets in that column."
)
STALE = "† measured on other weights of this run (an earlier checkpoint), not on the published ones."
HEAD = ("task", "metric", "score", "random copy", "gain over it (paired)", "hand-crafted", "constant", "layer", "clips")
WEIGHTED = -1  # the layer number of a learned weighted sum


def probed(folder: Path | None, weights: str) -> str:
    """The results of a folder as a table with its sentences, in Markdown. weights: the hash of the published ones."""
    results = _whole(folder) if folder is not None and folder.is_dir() else []
    if not results:
        return NOT_PROBED
    by = [mark(result.difference) for result in results]
    table = Table(HEAD, [_row(result, weights) for result in results])
    parts = [
        WORDS, table.markdown(),
        f"Against its random copy, outside the interval: better on {by.count('▲')} of {len(results)} tasks, worse on "
        f"{by.count('▼')}.", *_advice(results),
    ]  # fmt: skip
    stale = any(result.weights_hash != weights for result in results)
    return "\n\n".join([*parts, *([STALE] if stale else [])])


def _whole(folder: Path) -> list[Result]:
    """The results of a folder; a damaged one isn't passed over, since its score would be missing unseen."""
    for path in folder.glob("*.json"):
        json_of(path)
    return read_all(folder)


def _row(result: Result, weights: str) -> tuple[str, ...]:
    random, constant = result.baselines.get("random"), result.baselines.get("constant")
    return (
        title(result) + (" †" if result.weights_hash != weights else ""), result.metric_name,
        tables.with_interval(result.score), _of(random), tables.with_interval(result.difference),
        _crafted(result), _of(constant),
        "weighted sum" if result.layer == WEIGHTED else str(result.layer), str(result.counts.test),
    )  # fmt: skip


def _of(found: Baseline | None) -> str:
    return "–" if found is None else tables.with_interval(found.score)


def _crafted(result: Result) -> str:
    """The best hand-crafted feature set and its name."""
    known = {
        name: found
        for name, found in result.baselines.items()
        if name not in ("random", "constant") and found.score.known
    }
    best = max(known, key=lambda name: known[name].score.value, default=None)
    return "–" if best is None else f"{_of(known[best])} {best.replace('_', '-')}"


def _advice(results: Sequence[Result]) -> list[str]:
    """Which layer for what, where there is more than one."""
    chosen: dict[int, list[str]] = {}
    for result in results:
        if result.layer != WEIGHTED and len(result.layers) > 1:
            chosen.setdefault(result.layer, []).append(title(result))
    if not chosen:
        return []
    lines = [f"- layer {layer}: {', '.join(dict.fromkeys(tasks))}" for layer, tasks in sorted(chosen.items())]
    return ["**Which layer?** Chosen on validation tracks (0 is the front end):", "\n".join(lines)]
