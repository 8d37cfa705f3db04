"""When beats are: times in s, found by peaks or by a tempo-aware tracker, scored by mir_eval."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import mir_eval
import numpy as np
import numpy.typing as npt

from ..decoding import bar_positions, peaks, track_beats
from ..kind import Array, FrameAnswers, OverTime, Settings, Timed

THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
TIGHTNESS = (30.0, 100.0, 300.0)
REACH = 0.07  # s between a beat and what counts as it


class Beats(OverTime):
    """Labels are ascending times in s; answers arrays of times."""

    name = "beats"
    words = ("beats", "beat")
    metrics = {"f_measure": "beat F, 70 ms"}
    measures = ("f_measure", "cmlc", "cmlt", "amlc", "amlt")
    link = "sigmoid"
    slowest = 10.0  # a frame of 100 ms can't hit ±70 ms reliably
    rank = 12
    nameless = True
    jams = "beat"
    ending = ".beats"

    def convert(self, values: Sequence[Any], columns: Sequence[str]) -> Any:
        """A list of times as it is; of a beats file's [time, position in the bar], the times."""
        return [row[0] if isinstance(row, (list, tuple)) else row for row in _listed(values[0], columns)]

    def names(self, labels: Sequence[Any], columns: Sequence[str]) -> tuple[str, ...]:
        """One output."""
        return ("beat",)

    def frames(self, label: Any, times: Array, names: Sequence[str]) -> npt.NDArray[Any]:
        """[frames, 1]: a frame is a beat when its middle lies within half a frame or 30 ms of one."""
        beats = np.asarray(label, dtype=np.float64)
        reach = max(0.03, float(np.median(np.diff(times))) / 2 if len(times) > 1 else 0.03)
        near = np.abs(times[:, None] - beats[None]).min(1) <= reach if len(beats) else np.zeros(len(times), bool)
        return near.astype(np.int64)[:, None]

    def decoders(self, labels: Sequence[Any], quick: bool) -> list[Settings]:
        """Peaks above several levels; trackers of several tightness."""
        usual = usual_step(labels)
        if quick:
            return [{"name": "peaks", "threshold": level, "usual": usual} for level in THRESHOLDS]
        return [{"name": "tracker", "tightness": value, "usual": usual} for value in TIGHTNESS]

    def untuned(self, labels: Sequence[Any]) -> Settings:
        """A tracker."""
        return {"name": "tracker", "tightness": 100.0, "usual": usual_step(labels)}

    def decode(self, activity: Array, times: Array, names: Sequence[str], settings: Settings) -> Any:
        """Beat times in s."""
        if "threshold" in settings:
            return peaks(activity[:, 0], times, settings["threshold"], apart=min(1.0, 0.4 * settings["usual"]))
        return track_beats(activity[:, 0], times, settings["usual"], settings["tightness"])

    def heard(self, frames: FrameAnswers, settings: Settings) -> Timed:
        """Beats and, by a second output of downbeats, their places in the bar; "bars" names a head of chords."""
        likely, times, usual = frames.likely, frames.times, float(settings.get("usual", 0.5))
        if settings.get("name") == "peaks":
            found = peaks(likely[:, 0], times, float(settings.get("threshold", 0.2)), min(1.0, 0.4 * usual))
        else:
            tightness, parts = float(settings.get("tightness", 100.0)), int(settings.get("parts", 1))
            found = track_beats(likely[:, 0], times, usual, tightness, parts)
        if likely.shape[1] < 2:
            return Timed(found)
        chords = frames.beside.get(str(settings.get("bars", "")))
        return Timed(found, bar_positions(found, likely[:, 1], times, chords))

    def text(self, heard: Timed) -> str | None:
        """Lines of a time in s and, where known, the position in the bar."""
        if heard.times is None:
            return None
        if heard.positions is None:
            return "".join(f"{time:.3f}\n" for time in heard.times)
        return "".join(f"{time:.3f}\t{position}\n" for time, position in zip(heard.times, heard.positions))

    def said(self, settings: Settings) -> str:
        """As results name decoders."""
        if "threshold" in settings:
            return f"peaks above {settings['threshold']:g}"
        return f"tracker, tightness {settings['tightness']:g}"

    def answered(self, heard: Timed) -> Any:
        """Their times."""
        return heard.times

    def score(self, label: Any, answer: Any) -> tuple[float, ...]:
        """See `beat_scores`."""
        return beat_scores(label, np.asarray(answer, dtype=np.float64))

    def main_scores(
        self, label: Any, activity: Array, times: Array, names: Sequence[str], decoders: Sequence[Settings]
    ) -> list[float]:
        """F, without the continuity scores."""
        truth = np.asarray(label, dtype=np.float64)
        return [f_measure(truth, self.decode(activity, times, names, settings)) for settings in decoders]

    def deaf(self, labels: Sequence[Any], seconds: float) -> Any:
        """A metronome from 0 s on at the usual distance."""
        return np.arange(0.0, seconds, usual_step(labels))

    def fits(self, values: Sequence[Any]) -> bool:
        """Lists of ascending numbers, or [time, position] from a file."""
        return bool(values) and all(
            isinstance(value, (list, tuple))
            and all(_is_time(row[0] if isinstance(row, (list, tuple)) and row else row) for row in value)
            for value in values
        )


def usual_step(labels: Sequence[Any]) -> float:
    """The median distance of beats, in s."""
    steps = [np.diff(label) for label in labels if label is not None and len(label) > 1]
    return float(np.median(np.concatenate(steps))) if steps else 0.5


def f_measure(truth: Array, estimate: Array) -> float:
    """mir_eval's F at ±70 ms of ascending times: on a line, taking each beat's first free partner pairs the most."""
    if not len(truth) or not len(estimate):
        return 0.0
    wanted, said = truth.tolist(), estimate.tolist()
    pairs = place = 0
    for beat in wanted:
        while place < len(said) and said[place] < beat and beat - said[place] > REACH:
            place += 1
        if place == len(said):
            break
        if abs(said[place] - beat) <= REACH:
            pairs, place = pairs + 1, place + 1
    precision, recall = pairs / len(said), pairs / len(wanted)
    return 2 * precision * recall / (precision + recall) if pairs else 0.0


def beat_scores(reference: Sequence[float], estimate: Array) -> tuple[float, ...]:
    """F at ±70 ms and the four continuity scores of mir_eval; nothing is trimmed. An empty estimate scores 0."""
    truth = np.asarray(reference, dtype=np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # empty beats score 0, which is what we want to know
        return (float(mir_eval.beat.f_measure(truth, estimate)), *map(float, mir_eval.beat.continuity(truth, estimate)))


def _listed(value: Any, columns: Sequence[str]) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(
            f"--label {columns[0]}:beats needs a list of times in s, or the name of a .beats file beside labels.csv, "
            f"and one value is {value!r}."
        )
    return value


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


KIND = Beats()
