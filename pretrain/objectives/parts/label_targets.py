"""Labels as targets of crops: what a track's label says of the part of it that is heard, one class per kind of label.

A label is what the manifest holds (`data/track.py`): a class name, a key, a list of tags, numbers, beat times in s, or
spans {"start", "end", "label"}. Labels over time are cut to the crop by its start, and follow what augmentation does to
pitch and speed. A label that is missing stays missing: its mark (−1, NaN) is what heads leave out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ....data.labels.kind import Kind, sorted_names
from ....data.labels.kinds import chords, classes, key
from ....data.labels.kinds.tags import parted
from ....data.labels.lookup import guess, kind_of
from ....models.heads import widened


@dataclass(frozen=True)
class LabelTask:
    """One thing to learn from labels, and the head that learns it."""

    label: str
    """the label's name in the manifest; several of numbers or beats as one head, joined by +: beats+downbeats"""
    kind: str = ""
    """classes, key, tags, numbers, beats, chords or events; empty: guessed from the labels"""
    weight: float = 1.0
    """of its loss in the sum"""
    names: tuple[str, ...] = ()
    """of the outputs, in their order; empty: what the training labels hold"""
    layer: int = -1
    """of the encoder, which the head reads; negative ones count from the last"""
    mixed: int = 0
    """more than 0: a learned, weighted sum of the last so many layers in place of `layer`"""
    pooling: str = "mean"
    """of a clip's frames: mean, mean+std, mean+std+change or attention"""
    hidden: int = 0
    """units of a hidden layer; 0: the head is linear"""
    dropout: float = 0.0
    """before the head's last map"""
    smoothing: float = 0.0
    """label smoothing: share of certainty that is spread evenly"""
    positive_weight: float = 1.0
    """of positives in the loss of tags, beats and events"""
    beside: float = 0.5
    """target of the frames beside a beat, which itself is 1"""
    log2: bool = False
    """learn the logarithm of numbers: an octave of tempo weighs the same everywhere"""
    semitones: bool = False
    """the classes are numbers of semitones (MIDI pitch), which move when the sound is transposed"""
    tempo: bool = False
    """the numbers are tempi, which move when the sound is sped up"""

    @property
    def columns(self) -> tuple[str, ...]:
        """The labels of the manifest that it reads."""
        return tuple(self.label.split("+"))

    @property
    def name(self) -> str:
        """In metrics and files."""
        return self.label


@dataclass(frozen=True)
class Clips:
    """What is heard of some tracks, and what was done to it.

    starts: [batch] float64 s in the track; frames: of the encoder; frame_rate: Hz; valid: [batch] frames of sound.
    semitones: [batch] int64 by which the sound was transposed; speed: [batch] float64, 2 for twice as fast.
    """

    starts: Tensor
    frames: int
    frame_rate: float
    valid: Tensor
    semitones: Tensor | None = None
    speed: Tensor | None = None

    def shift(self, item: int) -> int:
        """Semitones up of one clip."""
        return 0 if self.semitones is None else int(self.semitones[item])

    def rate(self, item: int) -> float:
        """How many times faster one clip is."""
        return 1.0 if self.speed is None else float(self.speed[item])

    def place(self, item: int, time: float) -> float:
        """Where a time of the track lies in a clip, in frames: frame n reaches from n to n + 1."""
        return (time - float(self.starts[item])) / self.rate(item) * self.frame_rate


class _CropTargets:
    """What all have."""

    def first(self, label: Any) -> Any:
        """A label as `data/labels` has it: of several columns, the first."""
        return label


@dataclass(frozen=True)
class Classes(_CropTargets):
    """One of several names: int64 [batch], −1 for none."""

    def convert(self, values: Sequence[Any], task: LabelTask) -> Any:
        """A track's values in the task's columns -> its label, None for none."""
        return None if values[0] in (None, "") else classes.KIND.convert(values, task.columns)

    def names(self, labels: Sequence[Any], task: LabelTask) -> tuple[str, ...]:
        """Of the outputs, from the training tracks' labels."""
        return sorted_names(set(labels))

    def targets(self, labels: Sequence[Any], names: Sequence[str], clips: Clips, task: LabelTask) -> Tensor:
        """What a head shall answer; labels: one per clip, None for none. A name that training lacks is none."""
        index = {name: number for number, name in enumerate(names)}
        return torch.tensor(
            [-1 if label is None else index.get(self.moved(label, clips.shift(item), task), -1)
             for item, label in enumerate(labels)],
            dtype=torch.int64,
        )  # fmt: skip

    def moved(self, label: str, semitones: int, task: LabelTask) -> str:
        """The label of the transposed sound."""
        return str(int(label) + semitones) if task.semitones and semitones else label


@dataclass(frozen=True)
class Key(Classes):
    """A major or minor key; as classes."""

    def convert(self, values: Sequence[Any], task: LabelTask) -> Any:
        """Spelt with flats.

        Raises:
            ValueError: what is no key.
        """
        return None if values[0] in (None, "") else key.KIND.convert(values, task.columns)

    def names(self, labels: Sequence[Any], task: LabelTask) -> tuple[str, ...]:
        """All 24."""
        return key.KEYS

    def moved(self, label: str, semitones: int, task: LabelTask) -> str:
        """The key of the transposed sound."""
        return key.KIND.transposed(label, semitones)


@dataclass(frozen=True)
class Tags(_CropTargets):
    """Any number of names: float32 [batch, names], NaN for none."""

    def convert(self, values: Sequence[Any], task: LabelTask) -> Any:
        """A list of names."""
        value = values[0]
        if value is None or isinstance(value, (list, tuple)):
            return value
        return parted(str(value)) or None

    def names(self, labels: Sequence[Any], task: LabelTask) -> tuple[str, ...]:
        """All that occur."""
        return sorted_names({str(tag) for tags in labels for tag in tags})

    def targets(self, labels: Sequence[Any], names: Sequence[str], clips: Clips, task: LabelTask) -> Tensor:
        """See `Classes.targets`."""
        index = {name: number for number, name in enumerate(names)}
        found = torch.zeros(len(labels), len(names))
        for item, tags in enumerate(labels):
            if tags is None:
                found[item] = math.nan
            else:
                found[item, [index[str(tag)] for tag in tags if str(tag) in index]] = 1.0
        return found


@dataclass(frozen=True)
class Numbers(_CropTargets):
    """Numbers in their units: float32 [batch, names], NaN for none."""

    def convert(self, values: Sequence[Any], task: LabelTask) -> Any:
        """One number per column, NaN where there is none; None where all are missing."""
        found = [_number(value, task) for value in values]
        return None if all(math.isnan(number) for number in found) else found

    def names(self, labels: Sequence[Any], task: LabelTask) -> tuple[str, ...]:
        """The columns."""
        return tuple(f"log2 {column}" if task.log2 else column for column in task.columns)

    def targets(self, labels: Sequence[Any], names: Sequence[str], clips: Clips, task: LabelTask) -> Tensor:
        """See `Classes.targets`."""
        rows = [[math.nan] * len(names) if label is None else label for label in labels]
        found = torch.tensor(rows, dtype=torch.float64)
        if task.tempo and clips.speed is not None:
            speed = clips.speed.double().cpu()[:, None]
            found = found + speed.log2() if task.log2 else found * speed
        return found.float()


def _times(rows: Sequence[Any], downbeats: bool) -> list[float]:
    """Times of a list of them, or of [time, position] rows."""
    paired = [row if isinstance(row, list | tuple) else [row] for row in rows]
    return [float(row[0]) for row in paired if not downbeats or len(row) < 2 or row[1] == 1]


@dataclass(frozen=True)
class Beats(_CropTargets):
    """Beats, or beats and downbeats: float32 [batch, frames, names], NaN for none and beyond the sound."""

    def convert(self, values: Sequence[Any], task: LabelTask) -> Any:
        """A list of times in s per column, or None; of a file's [time, position in the bar], those of a second column
        are the downbeats, at position 1.
        """
        found = [None if value is None else _times(value, number > 0) for number, value in enumerate(values)]
        return None if all(times is None for times in found) else found

    def first(self, label: Any) -> Any:
        """Times of the first column."""
        return label[0]

    def names(self, labels: Sequence[Any], task: LabelTask) -> tuple[str, ...]:
        """The columns."""
        return task.columns

    def targets(self, labels: Sequence[Any], names: Sequence[str], clips: Clips, task: LabelTask) -> Tensor:
        """1 at the frame in which a beat lies, `task.beside` at its neighbours."""
        hits = torch.zeros(len(labels), len(names), clips.frames)
        for item, columns in enumerate(labels):
            for number, times in enumerate(columns or [None] * len(names)):
                if times is None:
                    hits[item, number] = math.nan
                    continue
                places = [math.floor(clips.place(item, time)) for time in times]
                hits[item, number, [place for place in places if 0 <= place < clips.frames]] = 1.0
        known = ~torch.isnan(hits)
        wanted = torch.where(known, widened(hits.nan_to_num(), task.beside), math.nan)
        return _silenced(rearrange(wanted, "batch names frames -> batch frames names"), clips, math.nan)


@dataclass(frozen=True)
class Chords(_CropTargets):
    """A major or minor triad, or none, per frame: int64 [batch, frames], −1 for other chords and beyond the sound."""

    def convert(self, values: Sequence[Any], task: LabelTask) -> Any:
        """Spans {"start", "end", "label"} in s and Harte's syntax."""
        return values[0]

    def names(self, labels: Sequence[Any], task: LabelTask) -> tuple[str, ...]:
        """24 triads and N."""
        return chords.CHORDS

    def targets(self, labels: Sequence[Any], names: Sequence[str], clips: Clips, task: LabelTask) -> Tensor:
        """The chord at the middle of each frame."""
        found = torch.full((len(labels), clips.frames), -1, dtype=torch.int64)
        for item, spans in enumerate(labels):
            for span in spans or ():
                first, end = _frames(clips, item, span)
                found[item, first:end] = chords.KIND.transposed(
                    chords.chord_class(str(span["label"])), clips.shift(item)
                )
        return _silenced(found, clips, -1)


@dataclass(frozen=True)
class Events(_CropTargets):
    """What sounds when: float32 [batch, frames, names], NaN for none and beyond the sound."""

    def convert(self, values: Sequence[Any], task: LabelTask) -> Any:
        """Spans {"start", "end", "label"} in s, which may overlap."""
        return values[0]

    def names(self, labels: Sequence[Any], task: LabelTask) -> tuple[str, ...]:
        """All that occur."""
        return sorted_names({str(span["label"]) for spans in labels for span in spans})

    def targets(self, labels: Sequence[Any], names: Sequence[str], clips: Clips, task: LabelTask) -> Tensor:
        """1 where the middle of a frame lies in a span of that name."""
        index = {name: number for number, name in enumerate(names)}
        found = torch.zeros(len(labels), clips.frames, len(names))
        for item, spans in enumerate(labels):
            if spans is None:
                found[item] = math.nan
            for span in spans or ():
                first, end = _frames(clips, item, span)
                if str(span["label"]) in index:
                    found[item, first:end, index[str(span["label"])]] = 1.0
        return _silenced(found, clips, math.nan)


CropTargets = Classes | Key | Tags | Numbers | Beats | Chords | Events
TARGETS: dict[str, CropTargets] = {
    "classes": Classes(), "key": Key(), "tags": Tags(), "numbers": Numbers(), "beats": Beats(), "chords": Chords(),
    "events": Events(),
}  # fmt: skip
BY_LINK: dict[str, CropTargets] = {"softmax": Classes(), "sigmoid": Tags(), "identity": Numbers()}


def targets_of(kind: Kind) -> CropTargets:
    """How labels of a kind become targets of crops; kinds over whole tracks that aren't listed go by their link."""
    if kind.head in TARGETS:
        return TARGETS[kind.head]
    if kind.over_time:
        raise ValueError(f"Labels of the kind {kind.name} can't be learned from crops yet.")
    return BY_LINK[kind.link]


@dataclass(frozen=True)
class Answers:
    """A task that has met its tracks. labels: key → label; names: of the outputs; kind: of its labels."""

    task: LabelTask
    kind: Kind
    names: tuple[str, ...]
    labels: dict[str, Any] = field(repr=False)

    def targets(self, keys: Sequence[str], clips: Clips) -> Tensor:
        """For the tracks of these keys; what has no label is marked as missing."""
        return targets_of(self.kind).targets([self.labels.get(key) for key in keys], self.names, clips, self.task)


def resolved(task: LabelTask, values: Sequence[Any] = ()) -> Kind:
    """The kind that a task names, else what its values look like.

    Raises:
        ValueError: an unknown one.
    """
    try:
        return kind_of(task.kind) if task.kind else guess(values)
    except ValueError as error:
        raise ValueError(f"{task.label}: {error}") from None


def meet(task: LabelTask, columns: dict[str, dict[str, Any]]) -> Answers:
    """Read a task's labels. columns: label name → key → value.

    Raises:
        ValueError: a label that isn't there, an unknown kind, and labels that leave nothing to learn.
    """
    missing = [column for column in task.columns if column not in columns]
    if missing:
        known = ", ".join(sorted(columns)) or "no labels"
        raise ValueError(f"The manifest has no label {missing[0]!r}: it has {known}.")
    read = [columns[column] for column in task.columns]
    keys = dict.fromkeys(name for column in read for name in column)
    kind = resolved(task, list(read[0].values()))
    targets = targets_of(kind)
    labels = {name: targets.convert([column.get(name) for column in read], task) for name in keys}
    labels = {name: label for name, label in labels.items() if label is not None}
    if not labels:
        raise ValueError(f"No track has the label {task.label!r}, so nothing can be learned from it.")
    names = task.names or targets.names(list(labels.values()), task)
    if kind.one_of and len(names) < 2:
        raise ValueError(f"The label {task.label!r} has one class only ({names[0]}): there is nothing to tell apart.")
    return Answers(task, kind, tuple(names), labels)


def _frames(clips: Clips, item: int, span: dict[str, Any]) -> tuple[int, int]:
    """The frames of a clip whose middle lies in a span."""
    first = math.ceil(clips.place(item, float(span["start"])) - 0.5)
    end = math.ceil(clips.place(item, float(span["end"])) - 0.5)
    return min(max(0, first), clips.frames), min(max(0, end), clips.frames)


def _silenced(targets: Tensor, clips: Clips, mark: float) -> Tensor:
    """Mark the frames beyond the sound; targets: [batch, frames, …]."""
    outside = torch.arange(clips.frames) >= clips.valid.cpu()[:, None]
    return targets.masked_fill(outside if targets.dim() == 2 else outside[..., None], mark)


def _number(value: Any, task: LabelTask) -> float:
    if value is None or value == "":
        return math.nan
    number = float(value)
    if not math.isfinite(number):
        return math.nan
    if task.log2 and number <= 0:
        raise ValueError(f"{task.label} is {number:g} for a track: the logarithm needs numbers above 0.")
    return math.log2(number) if task.log2 else number
