"""Labels as targets of crops: what a track's label says of the part of it that is heard, one class per kind of label.

A label is what the manifest holds (`data/track.py`): a class name, a key, a list of tags, numbers, beat times in s, or
spans {"start", "end", "label"}. Labels over time are cut to the crop by its start, and follow what augmentation does to
pitch and speed. A label that is missing stays missing: its mark (−1, NaN) is what heads leave out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import mir_eval
import torch
from torch import Tensor

from ....models.heads import widened

TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in TONICS)
CHORDS = (*(f"{tonic}:{mode}" for mode in ("maj", "min") for tonic in TONICS), "N")
_SHARPS = {"C#": "Db", "D#": "Eb", "F#": "Gb", "G#": "Ab", "A#": "Bb"}
_THIRDS = {(1, 0, 0, 0, 1, 0, 0, 1): 0, (1, 0, 0, 1, 0, 0, 0, 1): 1}


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


@dataclass(frozen=True)
class Classes:
    """One of several names: int64 [batch], −1 for none."""

    def convert(self, values: Sequence[Any], task: LabelTask) -> Any:
        """A track's values in the task's columns -> its label, None for none."""
        return None if values[0] in (None, "") else _name(values[0])

    def names(self, labels: Sequence[Any], task: LabelTask) -> tuple[str, ...]:
        """Of the outputs, from the training tracks' labels."""
        return _sorted(set(labels))

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
        """Spelt with flats. Raises ValueError for what is no key."""
        return None if values[0] in (None, "") else key_name(values[0])

    def names(self, labels: Sequence[Any], task: LabelTask) -> tuple[str, ...]:
        """All 24."""
        return KEYS

    def moved(self, label: str, semitones: int, task: LabelTask) -> str:
        """The key of the transposed sound."""
        tonic, _, mode = label.partition(" ")
        return f"{TONICS[(TONICS.index(tonic) + semitones) % 12]} {mode}"


@dataclass(frozen=True)
class Tags:
    """Any number of names: float32 [batch, names], NaN for none."""

    def convert(self, values: Sequence[Any], task: LabelTask) -> Any:
        """A list of names."""
        value = values[0]
        if value is None or isinstance(value, (list, tuple)):
            return value
        parts = [part.strip() for part in str(value).replace("|", ";").replace(",", ";").split(";")]
        return [part for part in parts if part] or None

    def names(self, labels: Sequence[Any], task: LabelTask) -> tuple[str, ...]:
        """All that occur."""
        return _sorted({str(tag) for tags in labels for tag in tags})

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
class Numbers:
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


@dataclass(frozen=True)
class Beats:
    """Beats, or beats and downbeats: float32 [batch, frames, names], NaN for none and beyond the sound."""

    def convert(self, values: Sequence[Any], task: LabelTask) -> Any:
        """A list of times in s per column, or None."""
        found = [None if value is None else [float(time) for time in value] for value in values]
        return None if all(times is None for times in found) else found

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
        return _silenced(wanted.transpose(1, 2), clips, math.nan)


@dataclass(frozen=True)
class Chords:
    """A major or minor triad, or none, per frame: int64 [batch, frames], −1 for other chords and beyond the sound."""

    def convert(self, values: Sequence[Any], task: LabelTask) -> Any:
        """Spans {"start", "end", "label"} in s and Harte's syntax."""
        return values[0]

    def names(self, labels: Sequence[Any], task: LabelTask) -> tuple[str, ...]:
        """24 triads and N."""
        return CHORDS

    def targets(self, labels: Sequence[Any], names: Sequence[str], clips: Clips, task: LabelTask) -> Tensor:
        """The chord at the middle of each frame."""
        found = torch.full((len(labels), clips.frames), -1, dtype=torch.int64)
        for item, spans in enumerate(labels):
            for span in spans or ():
                first, end = _frames(clips, item, span)
                found[item, first:end] = _transposed_chord(chord_class(str(span["label"])), clips.shift(item))
        return _silenced(found, clips, -1)


@dataclass(frozen=True)
class Events:
    """What sounds when: float32 [batch, frames, names], NaN for none and beyond the sound."""

    def convert(self, values: Sequence[Any], task: LabelTask) -> Any:
        """Spans {"start", "end", "label"} in s, which may overlap."""
        return values[0]

    def names(self, labels: Sequence[Any], task: LabelTask) -> tuple[str, ...]:
        """All that occur."""
        return _sorted({str(span["label"]) for spans in labels for span in spans})

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


Kind = Classes | Key | Tags | Numbers | Beats | Chords | Events
KINDS: dict[str, Kind] = {
    "classes": Classes(), "key": Key(), "tags": Tags(), "numbers": Numbers(), "beats": Beats(), "chords": Chords(),
    "events": Events(),
}  # fmt: skip
ALIASES = {"class": "classes", "number": "numbers", "tag": "tags", "chord": "chords", "beat": "beats"}


@dataclass(frozen=True)
class Answers:
    """A task that has met its tracks. labels: key → label; names: of the outputs; kind: resolved."""

    task: LabelTask
    kind: str
    names: tuple[str, ...]
    labels: dict[str, Any] = field(repr=False)

    def targets(self, keys: Sequence[str], clips: Clips) -> Tensor:
        """For the tracks of these keys; what has no label is marked as missing."""
        return KINDS[self.kind].targets([self.labels.get(key) for key in keys], self.names, clips, self.task)


def meet(task: LabelTask, columns: dict[str, dict[str, Any]]) -> Answers:
    """Read a task's labels. columns: label name → key → value.

    Raises ValueError for a label that isn't there, an unknown kind, and labels that leave nothing to learn.
    """
    missing = [column for column in task.columns if column not in columns]
    if missing:
        known = ", ".join(sorted(columns)) or "no labels"
        raise ValueError(f"The manifest has no label {missing[0]!r}: it has {known}.")
    read = [columns[column] for column in task.columns]
    keys = dict.fromkeys(key for column in read for key in column)
    kind = ALIASES.get(task.kind, task.kind) or guess_kind(list(read[0].values()))
    if kind not in KINDS:
        raise ValueError(f"There is no kind of label {task.kind!r} (of {task.label}); there is {', '.join(KINDS)}.")
    labels = {key: KINDS[kind].convert([column.get(key) for column in read], task) for key in keys}
    labels = {key: label for key, label in labels.items() if label is not None}
    if not labels:
        raise ValueError(f"No track has the label {task.label!r}, so nothing can be learned from it.")
    names = task.names or KINDS[kind].names(list(labels.values()), task)
    if kind == "classes" and len(names) < 2:
        raise ValueError(f"The label {task.label!r} has one class only ({names[0]}): there is nothing to tell apart.")
    return Answers(task, kind, tuple(names), labels)


def guess_kind(values: Sequence[Any]) -> str:
    """From the values of a column: spans are chords (or events), lists of numbers beats, lists of words tags, …"""
    known = [value for value in values if value not in (None, "", [])]
    first = known[0] if known else ""
    if isinstance(first, (list, tuple)):
        if isinstance(first[0], dict):
            return "chords" if all(_is_chord(str(span["label"])) for span in first) else "events"
        return "beats" if isinstance(first[0], (int, float)) else "tags"
    try:
        numbers = [float(value) for value in known]
    except (TypeError, ValueError):
        if all(_is_key(value) for value in known):
            return "key"
        return "tags" if any(mark in str(value) for value in known for mark in "|;,") else "classes"
    whole = all(number.is_integer() for number in numbers)
    return "classes" if whole and len(set(numbers)) <= 20 else "numbers"


def key_name(text: Any) -> str:
    """Spell a key as "Db minor". Raises ValueError for anything else than a major or minor key."""
    parts = str(text).strip().split()
    tonic = parts[0][:1].upper() + parts[0][1:].lower() if parts else ""
    tonic = _SHARPS.get(tonic, tonic)
    if len(parts) != 2 or f"{tonic} {parts[1].lower()}" not in KEYS:
        raise ValueError(f"{text!r} is no key: expected a tonic and a mode, such as 'C major' or 'Db minor'.")
    return f"{tonic} {parts[1].lower()}"


@cache
def chord_class(label: str) -> int:
    """The number in `CHORDS` of a label in Harte's syntax by its third and fifth; −1 for others (mir_eval's majmin)."""
    root, bitmap, _ = mir_eval.chord.encode(label)
    if root < 0:
        return len(CHORDS) - 1 if label == "N" else -1
    mode = _THIRDS.get(tuple(bitmap[:8]))
    return -1 if mode is None else 12 * mode + int(root)


def _transposed_chord(number: int, semitones: int) -> int:
    if number < 0 or number == len(CHORDS) - 1:
        return number
    return 12 * (number // 12) + (number % 12 + semitones) % 12


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


def _name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _sorted(names: set[str]) -> tuple[str, ...]:
    """By the alphabet; whole numbers by size, before the rest."""
    return tuple(sorted(names, key=lambda name: (0, float(name), "") if _is_whole(name) else (1, 0.0, name)))


def _is_whole(name: str) -> bool:
    return name.lstrip("-").isdigit()


def _is_key(value: Any) -> bool:
    try:
        return bool(key_name(value))
    except ValueError:
        return False


def _is_chord(label: str) -> bool:
    try:
        mir_eval.chord.encode(label)
    except mir_eval.chord.InvalidChordException:
        return False
    return True
