"""The robustness axis: the trained head hears the test tracks degraded, more and more.

Head and decoder are those of the clean result, learned on clean audio; nothing is chosen anew. The damage is that of
`data/augment/degradations.py`, one degradation or preset at a time.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...data.augment.degradations import PRESETS, DegradationChain, chain_of
from ...models.encoder import Encoder
from ..fit import Outcome
from ..heads.head import Features, answer, items_of
from ..heads.heard import features_of
from ..listen.features import FeatureStore
from ..task import Task

VERSION = 2
Sound = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """A degradation of which one parameter grows. level: that parameter's name, a number from `levels`, mild first."""

    unit: str
    levels: tuple[float, ...]
    name: str
    level: str
    others: dict[str, Any] = field(default_factory=dict)
    pattern: str = ""
    """a text parameter that the level goes into"""

    def chain(self, level: float) -> DegradationChain:
        """At one level."""
        if self.name in PRESETS:
            return chain_of(PRESETS[self.name])
        value: Any = self.pattern.format(f"{level:g}") if self.pattern else level
        if self.name == "delay":
            value = round(level)  # one for a whole batch
        return chain_of([{"name": self.name, self.level: value, **self.others}])


HISS = {"color": "white"}
LEVELS: dict[str, Kind] = {
    "noise": Kind("dB signal to white noise", (40.0, 30.0, 20.0, 10.0, 0.0), "noise", "snr", HISS),
    "pink-noise": Kind("dB signal to pink noise", (40.0, 30.0, 20.0, 10.0, 0.0), "noise", "snr"),
    "dust": Kind("dB signal to clicks", (40.0, 30.0, 20.0, 10.0, 0.0), "mix", "snr", {"path": "synth:dust"}),
    "mp3": Kind("kb/s, mono", (128.0, 64.0, 32.0, 16.0, 8.0), "mp3", "bitrate"),
    "gain": Kind("dB", (-3.0, -6.0, -12.0, -24.0, -36.0), "gain", "volume"),
    "low-pass": Kind("Hz, 6 dB per octave", (4000.0, 2000.0, 1000.0, 500.0, 250.0), "low_pass", "cutoff"),
    "high-pass": Kind("Hz, 6 dB per octave", (100.0, 200.0, 500.0, 1000.0, 2000.0), "high_pass", "cutoff"),
    "equalizer": Kind(
        "dB at 1 kHz, 2 octaves", (-3.0, -6.0, -12.0, -18.0, -30.0), "equalizer", "gain", {"bandwidth": 2}
    ),
    "compression": Kind(
        "dB threshold, 4 : 1", (-20.0, -30.0, -40.0, -50.0, -60.0), "dynamic_range_compression", "threshold"
    ),
    "reverb": Kind("s until -60 dB", (0.2, 0.4, 0.8, 1.6, 3.2), "impulse_response", "path", pattern="synth:room_{}"),
    "clipping": Kind("% of samples", (0.1, 1.0, 5.0, 20.0, 50.0), "clipping", "percent_samples"),
    "distortion": Kind("passes of a sine", (1.0, 2.0, 3.0, 5.0, 8.0), "harmonic_distortion", "num_passes"),
    "resampling": Kind("Hz, and back", (16000.0, 11025.0, 8000.0, 4000.0, 2000.0), "resample", "rate"),
    "aliasing": Kind("Hz, without a filter", (16000.0, 11025.0, 8000.0, 4000.0, 2000.0), "aliasing", "dest_frequency"),
    "pitch": Kind("octaves", (0.01, 0.02, 0.05, 0.1, 0.2), "pitch_shift", "octaves"),
    "speed": Kind("times as fast", (1.01, 1.02, 1.05, 1.1, 1.2), "speedup", "speed"),
    "stretch": Kind("times as fast, pitch kept", (1.02, 1.05, 1.1, 1.2, 1.4), "time_stretch", "factor"),
    "wow": Kind("% of speed, 0.5 Hz", (0.2, 0.5, 1.0, 2.0, 4.0), "wow_flutter", "intensity"),
    "delay": Kind("samples of silence first", (200.0, 1000.0, 4000.0, 10000.0, 20000.0), "delay", "samples"),
    "trim": Kind("ms cut from the start", (10.0, 50.0, 200.0, 500.0, 1000.0), "trim_millis", "amount"),
    **{name: Kind("preset", (1.0,), name, "") for name in ("live", "phone", "radio", "vinyl")},
}
ALL = "all"


@dataclass(frozen=True)
class Degradation:
    """One kind of damage at one level; see `LEVELS` for units. Levels are relative to each window's own level."""

    kind: str
    level: float

    @property
    def name(self) -> str:
        return f"{self.kind} {self.level:g}, version {VERSION}"

    @cached_property
    def chain(self) -> DegradationChain:
        return LEVELS[self.kind].chain(self.level)

    def __call__(self, waveform: Sound, sample_rate: int, seed: int) -> Sound:
        """waveform: [samples] in [-1, 1] -> the same length, float32; the same seed, the same noise and room."""
        least = round(2 * sample_rate)  # what cuts a second off needs more
        sound = torch.from_numpy(np.pad(waveform, (0, max(0, least - len(waveform)))))[None]
        found = self.chain(sound, sample_rate, torch.tensor([seed]))[0, : len(waveform)].numpy()
        return np.pad(found, (0, len(waveform) - len(found)))


def kinds_of(names: Sequence[str]) -> tuple[str, ...]:
    """The kinds that were asked for, "all" being every one.

    Raises:
        ValueError: an unknown one; the sentence names the nearest.
    """
    for name in names:
        if name not in LEVELS and name != ALL:
            near = difflib.get_close_matches(name, [*LEVELS, ALL], n=3, cutoff=0.3) or [*LEVELS]
            raise ValueError(f"There is no damage {name!r}; nearest: {', '.join(near)}. `{ALL}` is every kind.")
    return tuple(LEVELS) if ALL in names else tuple(dict.fromkeys(names))


def changes_truth(task: Task, kind: str) -> str | None:
    """What a kind changes of the answers themselves, so that a score would say nothing; None: nothing."""
    chain = LEVELS[kind].chain(LEVELS[kind].levels[0])
    timed = task.unit == "frame" or task.label_kind.over_time or "tempo" in task.name
    pitched = task.label_kind.pitched or "pitch" in task.name
    if chain.moves and timed:
        return "times"
    return "pitches" if chain.shifts and pitched else None


@dataclass(frozen=True)
class DamageCurve:
    """The main metric at every level of one kind of damage. unit: of the levels."""

    unit: str
    levels: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Robustness:
    """clean: the score without damage; kinds: curves by name; left_out: what would change the answers themselves."""

    clean: float
    kinds: Mapping[str, DamageCurve]
    left_out: tuple[str, ...] = ()

    @property
    def tried(self) -> tuple[str, ...]:
        """All kinds that were asked for."""
        return (*self.kinds, *self.left_out)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Robustness:
        """From a result's file; null stands for what isn't known."""
        clean, *_ = _numbers([told.get("clean")])
        kinds = {
            name: DamageCurve(curve["unit"], tuple(curve["levels"]), _numbers(curve["values"]))
            for name, curve in told["kinds"].items()
        }
        return cls(clean, kinds, tuple(told.get("left_out") or ()))


def _numbers(told: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(math.nan if value is None else float(value) for value in told)


def curves(
    task: Task, encoder: Encoder, store: FeatureStore, trained: Outcome, kinds: tuple[str, ...], pooling: Any
) -> Robustness:
    """The main metric at every level of every kind."""
    clean = task.measure(trained.truth, trained.guess)[task.metric]
    found: dict[str, DamageCurve] = {}
    left_out = []
    for kind in kinds:
        if moved := changes_truth(task, kind):
            print(f"{task.name}: {kind} changes the {moved} that are asked for, so it is left out.", file=sys.stderr)
            left_out.append(kind)
            continue
        unit, levels = LEVELS[kind].unit, LEVELS[kind].levels
        values = [_score(task, encoder, store, trained, Degradation(kind, level), pooling) for level in levels]
        found[kind] = DamageCurve(unit, levels, tuple(values))
    return Robustness(clean, found, tuple(left_out))


def _score(
    task: Task, encoder: Encoder, store: FeatureStore, trained: Outcome, change: Degradation, pooling: Any
) -> float:
    """The test score of the trained heads on damaged test tracks; only these are encoded."""
    tests = np.concatenate([fold.test for fold in task.folds])
    rows, places = np.unique(tests, return_inverse=True)
    name = f"{task.name}, {change.kind} {change.level:g}"
    guesses = []
    if task.unit == "frame":
        layers = sorted({heads[0].layer for heads in trained.frame_heads})
        frames = store.frames(encoder, task.manifest, rows.tolist(), layers, name, change)
        for fold, heads in zip(task.folds, trained.frame_heads):
            guesses.append(heads[0].scores(task, frames, fold.test))
    else:
        given = features_of(task, encoder, store, pooling, name, rows, change)
        start = 0
        for fold, heads in zip(task.folds, trained.heads):
            here = places[start : start + len(fold.test)]
            start += len(fold.test)
            guesses.append(_answer(task, given, here, heads[0].respond))
    guess = np.concatenate(guesses)
    return task.measure(task.targets[tests], guess)[task.metric]


def _answer(task: Task, given: Features, rows: npt.NDArray[np.int64], respond: Any) -> npt.NDArray[np.float64]:
    items = items_of(given.owner, rows)
    return answer(task.label_kind, respond(given.array, items), given.owner[items])
