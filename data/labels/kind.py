"""What a kind of label owns: how a label is read, named, encoded, measured, guessed without listening and decoded.

A kind is one file of `data/labels/kinds/` with a `KIND`. Its head and loss as torch modules stand in `models/heads.py`;
who learns it (a probe's heads, a fine-tuned encoder) asks the kind and never compares its name.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from .decoding import spans_above
from .splits import Fold

Array = npt.NDArray[np.float64]
Link = Literal["softmax", "sigmoid", "identity"]
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class FrameAnswers:
    """What a head says of a recording's frames.

    likely: [frames, names] probabilities; times: [frames] middles in s; seconds: of the recording.
    beside: what other heads say of the same frames, as `likely`, by the head's name.
    """

    likely: Array
    times: Array
    seconds: float
    names: Sequence[str]
    beside: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Timed:
    """What was heard over time; None for what a kind hasn't.

    times: [beats] s, with positions [beats] in the bar where downbeats are known; segments: (start, end, label) in s.
    """

    times: Array | None = None
    positions: npt.NDArray[np.int64] | None = None
    segments: list[tuple[float, float, str]] | None = None

    def lines(self) -> str | None:
        """The segments as lines of start and end in s, and the label; None where there are none to be had."""
        if self.segments is None:
            return None
        return "".join(f"{start:.3f} {end:.3f} {label}\n" for start, end, label in self.segments)


class Kind(ABC):
    """A kind of label. Arrays have one row per track; `names` are those of a head's outputs, in their order.

    name: in tasks, results and `models/heads.py`. words: what COLUMN:WORD may say for it besides.
    metrics: what is measured, the main one first, with the words readers see; bounds: of the main one.
    link: how an answer follows from logits: one of several names, each name for itself, or values as they are.
    one_of: a label is one of the names, so that there are confusions and shots per class. related: some wrong names are
    nearer than others. over_time: labels are about moments (see `OverTime`). pitched: labels move with pitch.
    slowest: frames per second that an encoder needs. rank: guesses try low ranks first. nameless: outputs are called
    after the labels they learn from. jams: its namespace in JAMS (Humphrey et al. 2014). ending: of files of labels.
    """

    name: ClassVar[str]
    words: ClassVar[tuple[str, ...]] = ()
    metrics: ClassVar[dict[str, str]]
    more_metrics: ClassVar[dict[str, str]] = {}
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    link: ClassVar[Link]
    one_of: ClassVar[bool] = False
    related: ClassVar[bool] = False
    over_time: ClassVar[bool] = False
    pitched: ClassVar[bool] = False
    slowest: ClassVar[float] = 0.0
    rank: ClassVar[int] = 100
    nameless: ClassVar[bool] = False
    jams: ClassVar[str] = "tag_open"
    ending: ClassVar[str] = ""

    @property
    def metric(self) -> str:
        """The main one."""
        return next(iter(self.metrics))

    @property
    def head(self) -> str:
        """The class of `models/heads.py`, by its kind."""
        return self.name

    @property
    def nominal(self) -> bool:
        """Whether answers are about names, not values."""
        return self.link != "identity"

    @property
    def exclusive(self) -> bool:
        """Whether one name holds at a time."""
        return self.link == "softmax"

    @property
    def several(self) -> bool:
        """Whether any number of names may hold at a time, each above its threshold."""
        return self.link == "sigmoid"

    def jams_value(self, name: str) -> str:
        """A name as its namespace in JAMS spells it."""
        return name

    def heard(self, frames: FrameAnswers, settings: Settings) -> Timed:
        """What the frames say over a recording; of any kind, the spans in which a name holds.

        settings: of the head's decoder, which a file may lack.
        """
        threshold = float(settings.get("threshold", 0.5))
        return Timed(segments=spans_above(frames.likely, frames.times, frames.seconds, frames.names, threshold))

    def text(self, heard: Timed) -> str | None:
        """The content of a file of this kind's ending; None where it has none."""
        return None

    def untuned(self, labels: Sequence[Any]) -> Settings:
        """A decoder where none was chosen on validation; none where nothing is decoded. labels: of training tracks."""
        return {}

    @abstractmethod
    def convert(self, values: Sequence[Any], columns: Sequence[str]) -> Any:
        """A track's values in the columns it reads, none of them missing -> its label; None for none.

        Raises:
            ValueError: what can't be one.
        """

    def recognised(self, value: Any, column: str, names: Sequence[str]) -> Any:
        """As `convert` a value, where the names of a head's outputs are known.

        Raises:
            ValueError: what can't be one.
        """
        return self.convert([value], [column])

    def unknown(self, label: Any, names: Sequence[str]) -> list[str]:
        """What of a label no head with these names can say."""
        return []

    @abstractmethod
    def names(self, labels: Sequence[Any], columns: Sequence[str]) -> tuple[str, ...]:
        """Of the outputs, from all labels (None: no label).

        Raises:
            ValueError: labels that leave nothing to ask.
        """

    @abstractmethod
    def encode(self, labels: Sequence[Any], names: Sequence[str]) -> npt.NDArray[Any]:
        """Labels as an array with a mark for what is missing."""

    @abstractmethod
    def measure(self, truth: npt.NDArray[Any], guess: Array, names: Sequence[str]) -> dict[str, float]:
        """All metrics on one whole split, by scikit-learn and mir_eval; the first is the main one.

        truth: as `encode` gives it; guess: [tracks, names] probabilities or values, or [tracks, measures] of labels
        over time.
        """

    @abstractmethod
    def resampled(self, truth: npt.NDArray[Any], guess: Array, names: Sequence[str], counts: Array) -> Array:
        """The main metric on every resample. counts: [resamples, tracks], how often each was drawn -> [resamples]."""

    def main(self, truth: npt.NDArray[Any], guess: Array, names: Sequence[str]) -> float:
        """The main metric, quickly: heads are judged by it thousands of times."""
        return float(self.resampled(truth, guess, names, np.ones((1, len(truth))))[0])

    def loss(self, truth: npt.NDArray[Any], guess: Array) -> float:
        """A loss without steps on validation: it breaks ties of a coarse metric."""
        return float(np.square(truth - guess).mean())

    def constant(self, targets: npt.NDArray[Any], names: Sequence[str]) -> Array:
        """[names]: the best answer that doesn't listen, learned from the training tracks' targets."""
        return np.asarray(targets.astype(np.float64).mean(0))

    def stored(self, table: Array) -> npt.NDArray[Any]:
        """Targets back from [tracks, numbers] of a file."""
        return table

    def fits(self, values: Sequence[Any]) -> bool:
        """Whether a column's values (none missing) look like labels of this kind and of no kind of a lower rank."""
        return False

    def told(self, guess: Array, names: Sequence[str]) -> list[str]:
        """What readers see of guesses [tracks, numbers]."""
        return [json.dumps(np.round(row, 5).tolist()) for row in guess]

    def remarks(
        self, labels: Sequence[Any], names: Sequence[str], targets: npt.NDArray[Any], folds: Sequence[Fold]
    ) -> list[str]:
        """Sentences that readers should know about the labels."""
        return []

    def thresholds(self, truth: npt.NDArray[Any], probabilities: Array) -> tuple[float, ...]:
        """Per name, above which it is said to hold; none where nothing is decided so."""
        return ()


class OverTime(Kind):
    """A kind whose labels are about moments. Heads answer for every frame; a decoder makes a track's answer of it.

    measures: of one track, the main one first.
    """

    measures: ClassVar[tuple[str, ...]]
    over_time = True

    def encode(self, labels: Sequence[Any], names: Sequence[str]) -> npt.NDArray[Any]:
        """Labels over time have no array; [tracks] of −1."""
        return np.full(len(labels), -1, dtype=np.int64)

    def measure(self, truth: npt.NDArray[Any], guess: Array, names: Sequence[str]) -> dict[str, float]:
        """Means of guess: [tracks, measures], the later of which an older file may lack; the truth is in them."""
        return {name: float(np.mean(column)) for name, column in zip(self.measures, guess.T)}

    def resampled(self, truth: npt.NDArray[Any], guess: Array, names: Sequence[str], counts: Array) -> Array:
        """See `Kind.resampled`."""
        return np.asarray(counts @ guess[:, 0] / counts.sum(1))

    @abstractmethod
    def frames(self, label: Any, times: Array, names: Sequence[str]) -> npt.NDArray[Any]:
        """What a head shall answer at these times in s: [frames] numbers of names, −1 for what it can't, where one of
        several holds; else [frames, names] of 0 and 1.
        """

    @abstractmethod
    def decoders(self, labels: Sequence[Any], quick: bool) -> list[Settings]:
        """What validation chooses from: the quick decoders, or those that are tried on the chosen head only.

        labels: of the training tracks.
        """

    @abstractmethod
    def decode(self, activity: Array, times: Array, names: Sequence[str], settings: Settings) -> Any:
        """[frames, names] probabilities (log probabilities, where one of several holds) -> a label of this kind."""

    @abstractmethod
    def said(self, settings: Settings) -> str:
        """A decoder in words."""

    def answered(self, heard: Timed) -> Any:
        """What was heard as `decode` would give it; None where it hasn't been."""
        if heard.segments is None:
            return None
        return [{"start": start, "end": end, "label": label} for start, end, label in heard.segments]

    @abstractmethod
    def score(self, label: Any, answer: Any) -> tuple[float, ...]:
        """The measures of one track. answer: as `decode` gives it."""

    def main_scores(
        self, label: Any, activity: Array, times: Array, names: Sequence[str], decoders: Sequence[Settings]
    ) -> list[float]:
        """The main measure of one track under each decoder, quickly: heads are judged by it thousands of times."""
        return [self.score(label, self.decode(activity, times, names, settings))[0] for settings in decoders]

    @abstractmethod
    def deaf(self, labels: Sequence[Any], seconds: float) -> Any:
        """The best answer that doesn't listen for a track of this length, learned from training labels."""


def sorted_names(names: set[Any]) -> tuple[Any, ...]:
    """By the alphabet; whole numbers by size, before the rest."""
    return tuple(sorted(names, key=lambda name: (0, float(name), "") if _is_whole(name) else (1, 0.0, name)))


def _is_whole(name: Any) -> bool:
    return str(name).lstrip("-").isdigit()


def index_of(names: Sequence[str]) -> dict[str, int]:
    """Name -> its number."""
    return {name: number for number, name in enumerate(names)}


def best_thresholds(truth: npt.NDArray[Any], probabilities: Array) -> tuple[float, ...]:
    """Per column, the threshold of the highest F on these tracks: midway between the lowest score that is said to hold
    and the highest that isn't. 0.5 where a column has no positive.

    truth: [tracks, names] of 0 and 1; probabilities: the same shape.
    """
    found = []
    for hits, scores in zip(truth.T > 0, probabilities.T):
        if not hits.any():
            found.append(0.5)
            continue
        order = np.argsort(-scores, kind="stable")
        right = np.cumsum(hits[order])
        f = 2 * right / (np.arange(1, len(order) + 1) + hits.sum())
        ranked = scores[order]
        f[:-1][ranked[1:] == ranked[:-1]] = -1.0  # a threshold can't part equal scores
        best = int(f.argmax())
        below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
        found.append(float(np.clip((ranked[best] + below) / 2, 0.0, 1.0)))
    return tuple(found)
