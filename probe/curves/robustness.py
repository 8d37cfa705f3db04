"""The robustness axis: the trained head hears the test tracks degraded, more and more.

Head and decoder are those of the clean result, learned on clean audio; nothing is chosen anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import signal

from ...models.encoder import Encoder
from .. import metrics
from ..fit import Features, Floats, Outcome, answer, items_of
from ..listen.features import FeatureStore
from ..task import Task

VERSION = 1
Sound = npt.NDArray[np.float32]

# name -> (unit, levels from mild to severe)
LEVELS: dict[str, tuple[str, tuple[float, ...]]] = {
    "noise": ("dB signal to noise", (40.0, 30.0, 20.0, 10.0, 0.0)),
    "low-pass": ("Hz, as of a codec", (11000.0, 7000.0, 4000.0, 2000.0, 1000.0)),
    "gain": ("dB", (-3.0, -6.0, -12.0, -24.0, -36.0)),
    "reverb": ("s until -60 dB", (0.2, 0.4, 0.8, 1.6, 3.2)),
    "clipping": ("share of the peak that is left", (0.7, 0.5, 0.3, 0.15, 0.05)),
    "resampling": ("Hz, and back", (16000.0, 11025.0, 8000.0, 4000.0, 2000.0)),
}


@dataclass(frozen=True)
class Degradation:
    """One kind of damage at one level; see `LEVELS` for units. Levels are relative to each window's own level."""

    kind: str
    level: float

    @property
    def name(self) -> str:
        return f"{self.kind} {self.level:g}, version {VERSION}"

    def __call__(self, waveform: Sound, sample_rate: int, seed: int) -> Sound:
        """waveform: [samples] in [-1, 1] -> the same length, float32; the same seed, the same noise and room."""
        return np.ascontiguousarray(DAMAGE[self.kind](waveform, self.level, sample_rate, seed), dtype=np.float32)


def noise(waveform: Sound, level: float, sample_rate: int, seed: int) -> Sound:
    """White noise at `level` dB below the window's mean power; silence stays silent."""
    power = float(np.mean(np.square(waveform, dtype=np.float64)))
    sound = np.random.default_rng(seed).standard_normal(len(waveform))
    return waveform + (np.sqrt(power / 10 ** (level / 10)) * sound).astype(np.float32)


def low_pass(waveform: Sound, level: float, sample_rate: int, seed: int) -> Sound:
    """A steep zero-phase low-pass at `level` Hz, as codecs of low rate cut; above the Nyquist rate nothing happens."""
    if level >= 0.499 * sample_rate:
        return waveform
    sections = signal.ellip(8, 0.1, 80.0, level, fs=sample_rate, output="sos")
    edge = min(len(waveform) - 1, 3 * sample_rate // 10)
    return np.asarray(signal.sosfiltfilt(sections, waveform, padlen=edge), dtype=np.float32)


def gain(waveform: Sound, level: float, sample_rate: int, seed: int) -> Sound:
    """`level` dB."""
    return waveform * np.float32(10 ** (level / 20))


def reverb(waveform: Sound, level: float, sample_rate: int, seed: int) -> Sound:
    """A room that decays by 60 dB in `level` s: decaying noise after the direct sound, of equal energy."""
    time = np.arange(round(level * sample_rate)) / sample_rate
    tail = np.random.default_rng(seed).standard_normal(len(time)) * 10 ** (-3 * time / level)
    tail[: max(1, round(0.005 * sample_rate))] = 0
    room = tail / max(1e-9, float(np.linalg.norm(tail)))
    room[0] = 1.0
    return np.asarray(signal.oaconvolve(waveform, room)[: len(waveform)] / np.sqrt(2), dtype=np.float32)


def clipping(waveform: Sound, level: float, sample_rate: int, seed: int) -> Sound:
    """Cut at `level` of the peak, then raised to the old peak."""
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak == 0:
        return waveform
    return np.clip(waveform, -level * peak, level * peak) / np.float32(level)


def resampling(waveform: Sound, level: float, sample_rate: int, seed: int) -> Sound:
    """To `level` Hz and back; a rate above the encoder's changes nothing."""
    rate = round(level)
    if rate >= sample_rate:
        return waveform
    common = gcd(rate, sample_rate)
    up, down = rate // common, sample_rate // common
    there = signal.resample_poly(waveform, up, down)
    back = np.asarray(signal.resample_poly(there, down, up), dtype=np.float32)
    return np.pad(back, (0, max(0, len(waveform) - len(back))))[: len(waveform)]


DAMAGE: dict[str, Callable[[Sound, float, int, int], Sound]] = {
    "noise": noise,
    "low-pass": low_pass,
    "gain": gain,
    "reverb": reverb,
    "clipping": clipping,
    "resampling": resampling,
}


def curves(
    task: Task, encoder: Encoder, store: FeatureStore, trained: Outcome, kinds: tuple[str, ...], pooling: Any
) -> dict[str, Any]:
    """The main metric at every level of every kind: {kind: {"unit", "levels", "values"}}, "clean" being the first."""
    clean = metrics.measure(task.kind, trained.truth, trained.guess, list(task.classes))[task.metric]
    found: dict[str, Any] = {"clean": clean, "kinds": {}}
    for kind in kinds:
        unit, levels = LEVELS[kind]
        values = [_score(task, encoder, store, trained, Degradation(kind, level), pooling) for level in levels]
        found["kinds"][kind] = {"unit": unit, "levels": list(levels), "values": values}
    return found


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
    return metrics.measure(task.kind, task.targets[tests], guess, list(task.classes))[task.metric]


def _answer(task: Task, given: Features, rows: npt.NDArray[np.int64], respond: Any) -> npt.NDArray[np.float64]:
    items = items_of(given.owner, rows)
    return answer(task.kind, respond(given.array, items), given.owner[items])


def features_of(
    task: Task, encoder: Encoder, store: FeatureStore, pooling: Any, name: str,
    rows: npt.NDArray[np.int64] | None = None, change: Degradation | None = None,
) -> Features:  # fmt: skip
    """Pooled features in the task's unit; of some rows only, if told."""
    manifest = task.manifest if rows is None else task.manifest.select(rows)
    if task.unit == "window" and task.seconds is not None:
        found = store.windows(encoder, manifest, task.seconds, pooling, name, change)
        return Features(found.array, found.owner)
    array: Floats = store.clips(encoder, manifest, pooling, name, change)
    return Features(array, np.arange(len(manifest)))
