"""What sounds when: named spans that may overlap, such as instruments or sections of a song."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mir_eval
import numpy as np
import numpy.typing as npt
from scipy.ndimage import median_filter

from ..kind import Array, FrameAnswers, OverTime, Settings, Timed, index_of, sorted_names
from .chords import are_spans, frame_edges, spans_of

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SHORTEST = (0.1, 0.25, 0.5, 1.0)  # s; shorter spans are left out and shorter pauses bridged
MEDIANS = (0.25, 0.5, 1.0)  # s of probabilities whose median stands for each
SEGMENT = 1.0  # s; the F of segments says which names sound in each, anywhere
COLLAR = 0.2  # s that an onset may be off; an offset too, or a fifth of the event where that is more


class Events(OverTime):
    """Labels and answers are spans {"start", "end", "label"} in s.

    Scored by the seconds on which both agree, by the segments of a second in which a name sounds anywhere, and by whole
    events, whose onsets and offsets are matched by mir_eval; each a mean over tracks.
    """

    name = "events"
    words = ("events", "event")
    metrics = {
        "event_f": "event F, by time", "event_precision": "", "event_recall": "",
        "segment_f": "event F, segments of 1 s", "onset_offset_f": "event F, onset and offset",
    }  # fmt: skip
    measures = ("event_f", "event_precision", "event_recall", "segment_f", "onset_offset_f")
    link = "sigmoid"
    slowest = 2.0
    rank = 11
    jams = "segment_open"
    ending = ".lab"

    def convert(self, values: Sequence[Any], columns: Sequence[str]) -> Any:
        """As they are."""
        return spans_of(values[0], columns, self.name)

    def unknown(self, label: Any, names: Sequence[str]) -> list[str]:
        """Events that aren't among the names: a head always misses them."""
        return [str(span["label"]) for span in label if str(span["label"]) not in names]

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
        """Thresholds; then each with a shortest length of spans and pauses, or with a median filter."""
        plain: list[Settings] = [{"name": "threshold", "threshold": level, "shortest": 0.0} for level in THRESHOLDS]
        if quick:
            return plain
        lasting = [{**one, "shortest": seconds} for one in plain for seconds in SHORTEST]
        return lasting + [{**one, "median": seconds} for one in plain for seconds in MEDIANS]

    def untuned(self, labels: Sequence[Any]) -> Settings:
        """The likelier."""
        return {"name": "threshold", "threshold": 0.5, "shortest": 0.0}

    def decode(self, activity: Array, times: Array, names: Sequence[str], settings: Settings) -> Any:
        """Spans, by their start: frames whose probability (or the median around it) reaches the threshold."""
        edges = frame_edges(times)
        edges[-1] = 2 * times[-1] - edges[-2]  # the last frame ends as far after its middle as it begins before it
        spans = []
        activity = smoothed(activity, times, float(settings.get("median", 0.0)))
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
        median = f", median of {settings['median']:g} s" if settings.get("median") else ""
        return f"above {settings['threshold']:g}{median}{lasting}"

    def heard(self, frames: FrameAnswers, settings: Settings) -> Timed:
        """As `decode` says, within the recording."""
        way = {"threshold": 0.5, "shortest": 0.0, **settings}
        spans = self.decode(frames.likely, frames.times, frames.names, way)
        found = [(span["start"], min(span["end"], frames.seconds), span["label"]) for span in spans]
        return Timed(segments=[span for span in found if span[1] > span[0]])

    def text(self, heard: Timed) -> str | None:
        """Lines of start and end in s, and the name."""
        return heard.lines()

    def score(self, label: Any, answer: Any) -> tuple[float, ...]:
        """See `event_scores`, `segment_f` and `onset_offset_f`."""
        return (*event_scores(label, answer), segment_f(label, answer), onset_offset_f(label, answer))

    def main_scores(
        self, label: Any, activity: Array, times: Array, names: Sequence[str], decoders: Sequence[Settings]
    ) -> list[float]:
        """F by time alone."""
        return [event_scores(label, self.decode(activity, times, names, settings))[0] for settings in decoders]

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


def segment_f(reference: Sequence[Any], estimate: Sequence[Any]) -> float:
    """F over pairs of a name and a segment of a second in which it sounds, be it for an instant (Mesaros et al. 2016).

    Both empty is 1.
    """
    truth, guess = _segments(reference), _segments(estimate)
    return 2 * len(truth & guess) / (len(truth) + len(guess)) if truth or guess else 1.0


def _segments(spans: Sequence[Any]) -> set[tuple[str, int]]:
    return {
        (str(span["label"]), number)
        for span in spans
        for number in range(int(float(span["start"]) // SEGMENT), math.ceil(float(span["end"]) / SEGMENT))
    }


def onset_offset_f(reference: Sequence[Any], estimate: Sequence[Any]) -> float:
    """F over events: one is found by an answer of its name with its onset and offset (see `COLLAR`).

    mir_eval pairs the most; names are told apart as notes of different pitch are. Both empty is 1.
    """
    if not reference or not estimate:
        return float(not reference and not estimate)
    number = index_of(sorted_names({str(span["label"]) for span in (*reference, *estimate)}))
    sides = []
    for spans in (reference, estimate):
        sides.append(np.array([[float(span["start"]), float(span["end"])] for span in spans]))
        sides.append(np.array([440.0 * 2 ** (number[str(span["label"])] / 12) for span in spans]))
    pairs = mir_eval.transcription.match_notes(
        *sides, onset_tolerance=COLLAR, offset_ratio=0.2, offset_min_tolerance=COLLAR
    )
    return 2 * len(pairs) / (len(reference) + len(estimate))


def smoothed(activity: Array, times: Array, seconds: float) -> Array:
    """[frames, names], each number the median of the `seconds` around it (an odd number of frames); 0: as it is."""
    if not seconds or len(times) < 2:
        return activity
    reach = round(seconds / float(np.median(np.diff(times))) / 2)
    return np.asarray(median_filter(activity, size=(2 * reach + 1, 1), mode="nearest")) if reach else activity


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
