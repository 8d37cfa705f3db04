"""Which chord sounds when: major and minor triads by third and fifth, as in mir_eval's majmin."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import mir_eval
import numpy as np
import numpy.typing as npt

from ..decoding import spans_of_path, viterbi
from ..kind import Array, FrameAnswers, OverTime, Settings, Timed
from .key import TONICS

CHORDS = (*(f"{tonic}:{mode}" for mode in ("maj", "min") for tonic in TONICS), "N")
SWITCHES = (0.0, 1.0, 3.0, 6.0, 12.0, 24.0)  # nats that a change of chord costs
_THIRDS = {(1, 0, 0, 0, 1, 0, 0, 1): 0, (1, 0, 0, 1, 0, 0, 0, 1): 1}


class Chords(OverTime):
    """Labels and answers are spans {"start", "end", "label"} in s, chords in Harte's syntax."""

    name = "chords"
    words = ("chords", "chord")
    metrics = {"majmin": "chord majmin"}
    measures = ("majmin", "root")
    link = "softmax"
    pitched = True
    slowest = 2.0
    rank = 10
    jams = "chord"
    ending = ".lab"

    def convert(self, values: Sequence[Any], columns: Sequence[str]) -> Any:
        """As they are."""
        return spans_of(values[0], columns, self.name)

    def recognised(self, value: Any, column: str, names: Sequence[str]) -> Any:
        """As `convert`; every name must be a chord."""
        spans = self.convert([value], [column])
        strange = next((span["label"] for span in spans if not _is_chord(str(span["label"]))), None)
        if strange is not None:
            raise ValueError(f"{strange!r} in the column {column} is no chord in Harte's syntax, such as C:min or N.")
        return spans

    def unknown(self, label: Any, names: Sequence[str]) -> list[str]:
        """Chords that are neither major, minor nor none: the score leaves their time out."""
        return [str(span["label"]) for span in label if chord_class(str(span["label"])) < 0]

    def names(self, labels: Sequence[Any], columns: Sequence[str]) -> tuple[str, ...]:
        """24 triads and N."""
        return CHORDS

    def frames(self, label: Any, times: Array, names: Sequence[str]) -> npt.NDArray[Any]:
        """[frames] numbers of names; −1 where the chord is neither major, minor nor none."""
        return chord_classes(label, times)

    def decoders(self, labels: Sequence[Any], quick: bool) -> list[Settings]:
        """The likeliest chord of each frame; paths on which changes cost something."""
        return [{"name": "viterbi", "switch": cost} for cost in (SWITCHES[:1] if quick else SWITCHES[1:])]

    def untuned(self, labels: Sequence[Any]) -> Settings:
        """Changes cost something."""
        return {"name": "viterbi", "switch": 3.0}

    def decode(self, activity: Array, times: Array, names: Sequence[str], settings: Settings) -> Any:
        """Spans."""
        return chord_spans(viterbi(activity, settings["switch"]), times, names)

    def heard(self, frames: FrameAnswers, settings: Settings) -> Timed:
        """One chord at a time."""
        path = viterbi(np.log(np.maximum(frames.likely, 1e-12)), float(settings.get("switch", 3.0)))
        return Timed(segments=spans_of_path(path, frames.times, frames.seconds, frames.names))

    def text(self, heard: Timed) -> str | None:
        """Lines of start and end in s, and the chord."""
        return heard.lines()

    def said(self, settings: Settings) -> str:
        """As results name decoders."""
        return f"Viterbi, switch {settings['switch']:g}"

    def score(self, label: Any, answer: Any) -> tuple[float, ...]:
        """See `chord_scores`."""
        return chord_scores(label, answer)

    def main_scores(
        self, label: Any, activity: Array, times: Array, names: Sequence[str], decoders: Sequence[Settings]
    ) -> list[float]:
        """majmin, on numbers of chords in the place of their names."""
        starts = np.array([float(span["start"]) for span in label])
        ends = np.array([float(span["end"]) for span in label])
        numbers = np.array([chord_class(str(span["label"])) for span in label], dtype=np.int64)
        found = []
        for settings in decoders:
            cost = settings["switch"]
            path = viterbi(activity, cost) if cost else activity.argmax(1)  # where changes are free
            found.append(majmin(starts, ends, numbers, path, frame_edges(times)))
        return found

    def deaf(self, labels: Sequence[Any], seconds: float) -> Any:
        """The chord that sounds longest in training."""
        sounded = np.zeros(len(CHORDS))
        for label in labels:
            for span in label:
                number = chord_class(str(span["label"]))
                if number >= 0:
                    sounded[number] += float(span["end"]) - float(span["start"])
        return [{"start": 0.0, "end": seconds, "label": CHORDS[int(sounded.argmax())]}]

    def fits(self, values: Sequence[Any]) -> bool:
        """Spans whose names are chords."""
        return are_spans(values) and all(_is_chord(str(span["label"])) for value in values for span in value)

    def transposed(self, number: int, semitones: int) -> int:
        """The number of the chord that many semitones higher; −1 and N stay."""
        if number < 0 or number == len(CHORDS) - 1:
            return number
        return 12 * (number // 12) + (number % 12 + semitones) % 12


def spans_of(value: Any, columns: Sequence[str], kind: str) -> Any:
    """Spans as they are.

    Raises:
        ValueError: it is anything else.
    """
    if not are_spans([value]):
        raise ValueError(
            f"--label {columns[0]}:{kind} needs spans of start, end and label, or the name of a .lab file beside "
            f"labels.csv, and one value is {value!r}."
        )
    return value


def are_spans(values: Sequence[Any]) -> bool:
    """Whether all values are lists of {"start", "end", "label"}."""
    return bool(values) and all(
        isinstance(value, (list, tuple))
        and all(isinstance(span, Mapping) and {"start", "end", "label"} <= set(span) for span in value)
        for value in values
    )


@cache
def chord_class(label: str) -> int:
    """The number in `CHORDS` of a label in Harte's syntax: by its third and fifth, so C:7 is C:maj; -1 for others.

    The same rule as mir_eval's majmin: the lower eight semitones must be those of a major or minor triad, or nothing.
    """
    root, bitmap, _ = mir_eval.chord.encode(label)
    if root < 0:
        return len(CHORDS) - 1 if label == "N" else -1
    mode = _THIRDS.get(tuple(bitmap[:8]))
    return -1 if mode is None else 12 * mode + int(root)


def chord_classes(label: Sequence[Mapping[str, Any]], times: Array) -> npt.NDArray[np.int64]:
    """[frames] number in `CHORDS` of the chord at each time; -1 where it is neither major, minor nor none."""
    result = np.full(len(times), -1, dtype=np.int64)
    for span in label:
        here = (times >= float(span["start"])) & (times < float(span["end"]))
        result[here] = chord_class(str(span["label"]))
    return result


def chord_spans(path: npt.NDArray[np.int64], times: Array, names: Sequence[str] = CHORDS) -> list[dict[str, Any]]:
    """A chord per frame as spans; a frame reaches halfway to its neighbours, the first from 0 s."""
    edges = frame_edges(times)
    starts = np.flatnonzero(np.diff(path, prepend=-1))
    ends = [*starts[1:], len(path)]
    return [{"start": float(edges[a]), "end": float(edges[b]), "label": names[path[a]]} for a, b in zip(starts, ends)]


def frame_edges(times: Array) -> Array:
    """[frames + 1] in s: a frame reaches halfway to its neighbours, the first from 0 s."""
    last = 2 * times[-1] - (times[-2] if len(times) > 1 else 0.0)
    return np.concatenate([[0.0], (times[1:] + times[:-1]) / 2, [last]])


def chord_scores(reference: Sequence[Mapping[str, Any]], estimate: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """mir_eval's majmin and root scores of one track, weighted by duration; nan is 0 where no chord can be compared."""
    (truth, names), (spans, guesses) = (_intervals(chords) for chords in (reference, estimate))
    spans, guesses = mir_eval.util.adjust_intervals(spans, guesses, truth.min(), truth.max(), "N", "N")
    merged, names, guesses = mir_eval.util.merge_labeled_intervals(truth, names, spans, guesses)
    weight = mir_eval.util.intervals_to_durations(merged)
    scores = []
    for compare in (mir_eval.chord.majmin, mir_eval.chord.root):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            scores.append(float(mir_eval.chord.weighted_accuracy(compare(names, guesses), weight)))
    return scores[0], scores[1]


def majmin(
    starts: Array, ends: Array, numbers: npt.NDArray[np.int64], path: npt.NDArray[np.int64], edges: Array
) -> float:
    """The share of the time of triads and N that is named right, as mir_eval has it; 0 where there is none.

    starts, ends, numbers: of adjacent spans, in s and in `CHORDS` (−1: no triad); path: [frames] numbers; edges:
    [frames + 1] in s; beyond them the answer is N.
    """
    cuts = np.concatenate([starts, ends[-1:], edges[(edges > starts[0]) & (edges < ends[-1])]])
    cuts = np.unique(cuts)
    seconds, middles = np.diff(cuts), (cuts[1:] + cuts[:-1]) / 2
    truth = numbers[np.searchsorted(starts, middles, "right") - 1]
    padded = np.concatenate([[len(CHORDS) - 1], path, [len(CHORDS) - 1]])
    said = padded[np.searchsorted(edges, middles, "right")]
    asked = truth >= 0
    total = float(seconds[asked].sum())
    return float(seconds[asked & (truth == said)].sum()) / total if total else 0.0


def _intervals(chords: Sequence[Mapping[str, Any]]) -> tuple[Array, list[str]]:
    return np.array([[c["start"], c["end"]] for c in chords], dtype=np.float64), [str(c["label"]) for c in chords]


def _is_chord(label: str) -> bool:
    try:
        mir_eval.chord.encode(label)
    except mir_eval.chord.InvalidChordException:
        return False
    return True


KIND = Chords()
