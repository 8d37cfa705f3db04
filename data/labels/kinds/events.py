"""What sounds when: named spans that may overlap, such as instruments or sections of a song."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..kind import Array, OverTime, Settings, index_of, sorted_names
from .chords import are_spans, frame_edges, spans_of

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SHORTEST = (0.1, 0.25, 0.5, 1.0)  # s; shorter spans are left out and shorter pauses bridged


class Events(OverTime):
    """Labels and answers are spans {"start", "end", "label"} in s. Scored by the seconds on which both agree."""

    name = "events"
    words = ("events", "event")
    metrics = {"event_f": "event F, by time", "event_precision": "", "event_recall": ""}
    measures = ("event_f", "event_precision", "event_recall")
    link = "sigmoid"
    slowest = 2.0
    rank = 11
    jams = "segment_open"

    def convert(self, values: Sequence[Any], columns: Sequence[str]) -> Any:
        """As they are."""
        return spans_of(values[0], columns, self.name)

    def names(self, labels: Sequence[Any], columns: Sequence[str]) -> tuple[str, ...]:
        """All that occur."""
        return sorted_names({str(span["label"]) for spans in labels if spans for span in spans})

    def frames(self, label: Any, times: Array, names: Sequence[str]) -> npt.NDArray[Any]:
        """[frames, names]: 1 where the middle of a frame lies in a span of that name."""
        index = index_of(names)
        found = np.zeros((len(times), len(names)), dtype=np.int64)
        for span in label:
            here = (times >= float(span["start"])) & (times < float(span["end"]))
            found[here, index[str(span["label"])]] = 1
        return found

    def decoders(self, labels: Sequence[Any], quick: bool) -> list[Settings]:
        """Thresholds; then each with a shortest length of spans and pauses."""
        if quick:
            return [{"name": "threshold", "threshold": level, "shortest": 0.0} for level in THRESHOLDS]
        return [
            {"name": "threshold", "threshold": level, "shortest": seconds}
            for level in THRESHOLDS
            for seconds in SHORTEST
        ]

    def untuned(self, labels: Sequence[Any]) -> Settings:
        """The likelier."""
        return {"name": "threshold", "threshold": 0.5, "shortest": 0.0}

    def decode(self, activity: Array, times: Array, names: Sequence[str], settings: Settings) -> Any:
        """Spans, by their start."""
        edges = frame_edges(times)
        edges[-1] = 2 * times[-1] - edges[-2]  # the last frame ends as far after its middle as it begins before it
        spans = []
        for column, name in enumerate(names):
            sounding = activity[:, column] >= settings["threshold"]
            changes = np.flatnonzero(np.diff(sounding, prepend=False, append=False))
            found = [[float(edges[a]), float(edges[b])] for a, b in zip(changes[::2], changes[1::2])]
            spans += [
                {"start": start, "end": end, "label": name} for start, end in _lasting(found, settings["shortest"])
            ]
        return sorted(spans, key=lambda span: (span["start"], span["label"]))

    def said(self, settings: Settings) -> str:
        """In words."""
        lasting = f", at least {settings['shortest']:g} s" if settings["shortest"] else ""
        return f"above {settings['threshold']:g}{lasting}"

    def score(self, label: Any, answer: Any) -> tuple[float, ...]:
        """See `event_scores`."""
        return event_scores(label, answer)

    def deaf(self, labels: Sequence[Any], seconds: float) -> Any:
        """The names that sound longest, all the time: as many as have the best F on the training tracks."""
        sounded: dict[str, float] = {}
        for label in labels:
            for name in {str(span["label"]) for span in label}:
                sounded[name] = sounded.get(name, 0.0) + _length(_merged(label, name))
        order = sorted(sounded, key=lambda name: (-sounded[name], name))
        length = sum(max((float(span["end"]) for span in label), default=0.0) for label in labels)
        right = np.cumsum([sounded[name] for name in order])
        wanted = right[-1] if len(right) else 0.0
        f = [2 * hit / (wanted + length * (number + 1)) for number, hit in enumerate(right)]
        best = order[: int(np.argmax(f)) + 1] if f else []
        return [{"start": 0.0, "end": seconds, "label": name} for name in best]

    def fits(self, values: Sequence[Any]) -> bool:
        """Spans."""
        return are_spans(values)


def event_scores(reference: Sequence[Any], estimate: Sequence[Any]) -> tuple[float, float, float]:
    """F, precision and recall of time: seconds of the same name in both, over those in either.

    Both empty is F 1: nothing sounds and nothing is said to.
    """
    names = {str(span["label"]) for span in (*reference, *estimate)}
    both = wanted = said = 0.0
    for name in names:
        truth, guess = _merged(reference, name), _merged(estimate, name)
        wanted, said = wanted + _length(truth), said + _length(guess)
        both += sum(max(0.0, min(b, d) - max(a, c)) for a, b in truth for c, d in guess)
    if not wanted and not said:
        return 1.0, 1.0, 1.0
    return 2 * both / (wanted + said), both / said if said else 0.0, both / wanted if wanted else 0.0


def _merged(spans: Sequence[Any], name: str) -> list[list[float]]:
    """[start, end] of a name without overlaps."""
    found: list[list[float]] = []
    for start, end in sorted((float(s["start"]), float(s["end"])) for s in spans if str(s["label"]) == name):
        if found and start <= found[-1][1]:
            found[-1][1] = max(found[-1][1], end)
        else:
            found.append([start, end])
    return found


def _length(spans: list[list[float]]) -> float:
    return sum(end - start for start, end in spans)


def _lasting(spans: list[list[float]], shortest: float) -> list[list[float]]:
    """Without pauses, then without spans, that are shorter."""
    joined: list[list[float]] = []
    for start, end in spans:
        if joined and start - joined[-1][1] < shortest:
            joined[-1][1] = end
        else:
            joined.append([start, end])
    return [span for span in joined if span[1] - span[0] >= shortest]


KIND = Events()
