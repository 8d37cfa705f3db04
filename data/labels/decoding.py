"""From frame probabilities to beats, chords and spans: peaks, a tempo-aware beat tracker, bars, a Viterbi path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def peaks(probability: Array, times: Array, threshold: float, apart: float = 0.2) -> Array:
    """Times of the frames that are at least `threshold` and the largest within `apart` seconds on both sides."""
    if len(times) < 2:
        return times[:0]
    reach = max(1, round(apart / float(np.median(np.diff(times)))))
    padded = np.pad(probability, reach, constant_values=-np.inf)
    highest = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(1)
    chosen = np.flatnonzero((probability >= threshold) & (probability >= highest))
    keep = np.concatenate([[True], np.diff(chosen) > 1])[: len(chosen)]  # of a plateau, the first frame
    return np.asarray(times[chosen[keep]])


def between_frames(probability: Array, times: Array, parts: int) -> tuple[Array, Array]:
    """Frames [n] and their times, with parts - 1 more between every two, on straight lines."""
    if parts == 1 or len(times) < 2:
        return probability, times
    place = np.arange((len(times) - 1) * parts + 1) / parts
    frames = np.arange(len(times), dtype=np.float64)
    return np.interp(place, frames, probability), np.interp(place, frames, times)


def track_beats(probability: Array, times: Array, usual: float, tightness: float = 100.0, parts: int = 1) -> Array:
    """Beat times by dynamic programming: high probability, steady steps (Ellis 2007, Beat Tracking by Dynamic
    Programming, equations 1 to 4).

    parts: of a frame that a beat may fall on. With frames of 40 ms, whole frames are too coarse for a tempo: two steps
    of 12 and 13 frames are 4 % either side of 120 beats per minute. usual: the commonest distance of beats in s; the
    track's own is where the autocorrelation of the probability, weighted by a log-normal window of one octave around
    `usual`, is highest. tightness: the cost of leaving it. Where nothing is heard, the answer is that of a metronome: a
    beat every `usual` seconds from the start.
    """
    if len(times) < 4:
        return times[:0]
    probability, times = between_frames(probability, times, parts)
    step = float(np.median(np.diff(times)))
    period = _period(probability, usual / step)
    if period is None:
        return np.arange(0.0, times[-1] + step / 2, usual)
    onset = probability / max(float(probability.std()), 1e-9)
    near, far = max(1, round(period / 2)), round(2 * period)
    steps = np.arange(far, near - 1, -1)
    cost = -tightness * np.square(np.log(steps / period))
    padded = np.full(len(onset) + far, 0.0)  # what is before the track scores 0
    before = np.full(len(onset), -1)
    for frame in range(len(onset)):
        found = cost + padded[frame : frame + far - near + 1]
        best = int(found.argmax())
        gain = max(0.0, float(found[best]))
        before[frame] = frame - steps[best] if found[best] > 0 else -1
        padded[frame + far] = onset[frame] + gain
    total = padded[far:]
    frame = (
        len(onset) - far + int(total[max(0, len(onset) - far) :].argmax()) if len(onset) > far else int(total.argmax())
    )
    path = [frame]
    while before[path[-1]] >= 0:
        path.append(int(before[path[-1]]))
    return np.asarray(times[path[::-1]])


def _period(probability: Array, usual: float) -> float | None:
    """Frames per beat, or None where nothing varies or the track is shorter than two beats."""
    centred = probability - probability.mean()
    size = 1 << (2 * len(centred) - 1).bit_length()
    correlation = np.fft.irfft(np.abs(np.fft.rfft(centred, size)) ** 2)[: len(centred)]
    lags = np.arange(max(2, round(usual / 4)), min(len(centred), round(usual * 4)))
    if not len(lags) or correlation[0] <= 1e-12:
        return None
    window = np.exp(-0.5 * np.square(np.log2(lags / usual)))
    return float(lags[int((correlation[lags] * window).argmax())])


def viterbi(scores: Array, switch: float) -> npt.NDArray[np.int64]:
    """The path through [frames, states] log scores with the highest sum, each change of state costing `switch`."""
    frames, states = scores.shape
    back = np.empty((frames, states), dtype=np.int64)
    stay = np.arange(states)
    total = scores[0].copy()
    for frame in range(1, frames):
        best = int(total.argmax())
        changed = total[best] - switch > total
        back[frame] = np.where(changed, best, stay)
        total = np.where(changed, total[best] - switch, total) + scores[frame]
    path = np.empty(frames, dtype=np.int64)
    path[-1] = int(total.argmax())
    for frame in range(frames - 1, 0, -1):
        path[frame - 1] = back[frame, path[frame]]
    return path


def bar_positions(beats: Array, downbeat: Array, times: Array, chords: Array | None = None) -> npt.NDArray[np.int64]:
    """The place of every beat in its bar, 1 for the first: of bars of 3 and 4, the length and phase whose first beats
    are likeliest to be downbeats.

    Harmony changes at bars more often than inside (Goto 2001, An Audio-based Real-time Beat Tracking System): where
    chords are known, a beat's claim is the sum of the logarithm of its odds and of the harmony's change, each
    standardised over the beats.

    downbeat: [frames] probability; a beat has the highest within a frame of it. chords: [frames, names] probabilities
    on the same frames, or None.
    """
    if not len(beats):
        return np.zeros(0, np.int64)
    near = np.searchsorted(times, beats).clip(1, max(1, len(times) - 2))
    heard = np.max([downbeat[(near + step).clip(0, len(downbeat) - 1)] for step in (-1, 0, 1)], axis=0)
    claim = heard
    if chords is not None and len(beats) > 2:
        odds = np.log((heard + 1e-3) / (1 - heard + 1e-3))
        claim = _standardised(odds) + _standardised(harmony_change(beats, chords, times))
    scores = {
        (meter, phase): claim[phase::meter].mean() - np.delete(claim, np.s_[phase::meter]).mean()
        for meter in (4, 3) for phase in range(min(meter, len(beats)))
        if len(beats) > meter
    }  # fmt: skip
    meter, phase = max(scores, key=lambda key: scores[key]) if scores else (4, int(heard[:4].argmax()))
    return (np.arange(len(beats)) - phase) % meter + 1


def harmony_change(beats: Array, chords: Array, times: Array) -> Array:
    """[beats] the share of the chords' probability that is another after a beat than before it, 0 for the first.

    chords: [frames, names] probabilities; from a beat to the next one (or the end) they are averaged.
    """
    first = np.searchsorted(times, beats)
    last = np.maximum([*first[1:], len(times)], first + 1)
    each = np.array([chords[min(begin, len(chords) - 1) : end].mean(0) for begin, end in zip(first, last)])
    return np.concatenate([[0.0], 0.5 * np.abs(np.diff(each, axis=0)).sum(1)])


def _standardised(values: Array) -> Array:
    return (values - values.mean()) / (values.std() + 1e-6)


def spans_of_path(
    path: npt.NDArray[Any], times: Array, seconds: float, names: Sequence[str]
) -> list[tuple[float, float, str]]:
    """Equal neighbours as spans; a frame reaches halfway to its neighbours, the first and last to the ends.

    path: [frames] numbers of names; times: [frames] middles in s; seconds: of the recording.
    """
    edges = np.array([0.0, *((times[1:] + times[:-1]) / 2), max(seconds, float(times[-1]))])
    starts = np.flatnonzero(np.diff(path, prepend=-1))
    ends = [*starts[1:], len(path)]
    return [(float(edges[a]), float(edges[b]), names[int(path[a])]) for a, b in zip(starts, ends)]


def spans_above(
    likely: Array, times: Array, seconds: float, names: Sequence[str], threshold: float
) -> list[tuple[float, float, str]]:
    """The spans in which a name is at least as likely as the threshold, by their start; see `spans_of_path`."""
    found = [
        (start, end, name)
        for column, name in enumerate(names)
        for start, end, on in spans_of_path((likely[:, column] >= threshold).astype(int), times, seconds, ("", name))
        if on
    ]
    return sorted(found)
