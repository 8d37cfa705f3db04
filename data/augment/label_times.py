"""Labels over time after a chain of degradations: moments and spans go where the sound goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .degradations import DegradationChain, Times

TIMES = ("beats", "downbeats", "onsets")  # labels that are lists of moments in s
TEMPI = ("tempo", "bpm")  # numbers that grow with speed
SPANS = ("start", "end")
NOTHING = 1e-6  # s: a span that a cut leaves less of is gone


@dataclass(frozen=True)
class TimeMap:
    """Where the moments of one recording go: `samples` long before, at `rate` Hz, changed under `seed`."""

    chain: DegradationChain
    samples: int
    rate: int
    seed: int

    def moments(self, times: Sequence[float] | Times) -> Times:
        """Moments in s where they are now, NaN for what is cut away."""
        return self.chain.moved(np.asarray(times, dtype=np.float64), self.samples, self.rate, self.seed)

    def edges(self, times: Sequence[float]) -> Times:
        """Edges of spans in s where they are now: one that is cut away is where the cut is."""
        return self.chain.moved(np.asarray(times, dtype=np.float64), self.samples, self.rate, self.seed, nearest=True)

    def speed(self) -> float:
        """How much faster the recording runs: over the widest part that nothing was cut from."""
        fine = np.linspace(0, self.samples / self.rate, 1001)
        return float(np.diff(fine)[0] / np.nanmedian(np.diff(self.moments(fine))))


def are_spans(rows: Sequence[Any]) -> bool:
    """Whether each row is a dictionary with a start and an end in s."""
    return all(isinstance(row, Mapping) and set(SPANS) <= row.keys() for row in rows)


def moved_rows(rows: Sequence[Any], where: TimeMap) -> list[Any]:
    """The rows of one label where they are now, without those that were cut away.

    rows: moments in s, [moment, position in the bar], or spans (dictionaries with start and end in s). A span that a
    cut shortens keeps what is left of it.
    """
    if not rows:
        return []
    if are_spans(rows):
        starts, ends = (where.edges([row[edge] for row in rows]).tolist() for edge in SPANS)
        points = where.moments([row["start"] for row in rows])  # spans of no length are moments
        kept = []
        for row, start, end, point in zip(rows, starts, ends, points, strict=True):
            if end - start > NOTHING or (row["end"] - row["start"] <= NOTHING and not np.isnan(point)):
                kept.append({**row, "start": start, "end": end})
        return kept
    paired = [row if isinstance(row, list | tuple) else [row] for row in rows]
    moved = zip(where.moments([row[0] for row in paired]).tolist(), rows, strict=True)
    found = [(time, row) for time, row in moved if not np.isnan(time)]
    return [[time, *row[1:]] if isinstance(row, list | tuple) else time for time, row in found]


def moved_labels(labels: dict[str, Any], where: TimeMap) -> tuple[dict[str, Any], int]:
    """Labels of one recording after the chain, and how many moments and spans were cut away.

    Lists of moments (beats, downbeats, onsets) and of spans move; a tempo grows with the speed.
    """
    if not where.chain.moves:
        return labels, 0
    result, cut = dict(labels), 0
    for name, value in labels.items():
        if isinstance(value, list) and value and (name in TIMES or are_spans(value)):
            result[name] = moved_rows(value, where)
            cut += len(value) - len(result[name])
        elif name in TEMPI and isinstance(value, int | float) and not isinstance(value, bool):
            result[name] = value * where.speed()
    return result, cut
