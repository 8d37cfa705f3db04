"""Metrics on whole splits in float64, and the same metrics on thousands of bootstrap resamples at once.

`measure` asks scikit-learn and mir_eval. `resampled` computes the main metric for a matrix of resampling counts by sums
and cumulative sums; with counts of 1 it equals `measure` (tested).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import mir_eval
import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.stats import norm, rankdata
from sklearn import metrics as sk

Array = npt.NDArray[np.float64]

TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in TONICS)
_SHARPS = {"C#": "Db", "D#": "Eb", "F#": "Gb", "G#": "Ab", "A#": "Bb"}

CHORDS = (*(f"{tonic}:{mode}" for mode in ("maj", "min") for tonic in TONICS), "N")

MAIN = {
    "classes": "accuracy",
    "key": "key_score",
    "tags": "roc_auc",
    "numbers": "r2",
    "beats": "f_measure",
    "chords": "majmin",
}
FRAME_MEASURES = {"beats": ("f_measure", "cmlc", "cmlt", "amlc", "amlt"), "chords": ("majmin", "root")}
NAMES = {
    "accuracy": "accuracy",
    "key_score": "weighted key score",
    "roc_auc": "ROC-AUC, macro",
    "r2": "R²",
    "f_measure": "beat F, 70 ms",
    "majmin": "chord majmin",
    "average_precision": "average precision, macro",
    "d_prime": "d′ of the mean ROC-AUC",
    "r2_arousal": "R² of arousal",
    "r2_valence": "R² of valence",
}
BOUNDS = {
    "accuracy": (0.0, 1.0),
    "key_score": (0.0, 1.0),
    "roc_auc": (0.0, 1.0),
    "r2": (-np.inf, 1.0),
    "f_measure": (0.0, 1.0),
    "majmin": (0.0, 1.0),
}


def key_name(text: str) -> str:
    """Spell a key as "Db minor": flats, mode in lower case. Raises ValueError for anything that isn't a major or minor
    key.
    """
    parts = str(text).strip().split()
    tonic = parts[0][:1].upper() + parts[0][1:].lower() if parts else ""
    tonic = _SHARPS.get(tonic, tonic)
    if len(parts) != 2 or f"{tonic} {parts[1].lower()}" not in KEYS:
        raise ValueError(f"{text!r} is no key: expected a tonic and a mode, such as 'C major' or 'Db minor'.")
    return f"{tonic} {parts[1].lower()}"


@cache
def _key_table() -> Array:
    return np.array([[mir_eval.key.weighted_score(truth, guess) for guess in KEYS] for truth in KEYS])


def key_scores(classes: list[str]) -> Array:
    """mir_eval's weighted score of every (truth, guess) pair of `classes`: [classes, classes]."""
    index = [KEYS.index(name) for name in classes]
    return _key_table()[np.ix_(index, index)]


def measure(kind: str, truth: npt.NDArray[Any], guess: Array, classes: list[str]) -> dict[str, float]:
    """All metrics of a kind on one whole split; the first is the main one.

    truth: [clips] class numbers for "classes" and "key", [clips, classes] of 0/1 for "tags", [clips, targets] for
    "numbers"; ignored for "beats" and "chords". guess: [clips, classes] probabilities, [clips, targets] values, or
    [clips, measures] of each track's `FRAME_MEASURES`.
    """
    if kind in ("classes", "key"):
        chosen = guess.argmax(1)
        plain = {
            "accuracy": float(sk.accuracy_score(truth, chosen)),
            "balanced_accuracy": float(np.mean([np.mean(chosen[truth == c] == c) for c in np.unique(truth)])),
        }
        if kind == "classes":
            return plain
        weighted = [mir_eval.key.weighted_score(classes[t], classes[g]) for t, g in zip(truth, chosen)]
        return {"key_score": float(np.mean(weighted)), **plain}
    if kind == "tags":
        used = scored(truth)
        if not used.any():
            return {"roc_auc": float("nan"), "average_precision": float("nan"), "tags_scored": 0.0}
        area = float(np.mean([sk.roc_auc_score(truth[:, c], guess[:, c]) for c in np.flatnonzero(used)]))
        return {
            "roc_auc": area,
            "average_precision": float(
                np.mean([sk.average_precision_score(truth[:, c], guess[:, c]) for c in np.flatnonzero(used)])
            ),
            **({"d_prime": d_prime(area)} if 0 < area < 1 else {}),
            "tags_scored": float(used.sum()),
        }
    if kind == "numbers":
        each = [float(sk.r2_score(truth[:, t], guess[:, t])) for t in range(truth.shape[1])]
        result = {"r2": float(np.mean(each)), "mae": float(sk.mean_absolute_error(truth, guess))}
        if len(classes) > 1:
            result |= {f"r2_{name}": value for name, value in zip(classes, each)}
        return result
    return {name: float(np.mean(guess[:, column])) for column, name in enumerate(FRAME_MEASURES[kind])}


def d_prime(area: float) -> float:
    """√2 Φ⁻¹(AUC) of the mean area under the curve: the distance of two normals in their widths, as for AudioSet."""
    return float(np.sqrt(2) * norm.ppf(area))


def beat_scores(reference: Sequence[float], estimate: Array) -> tuple[float, ...]:
    """F at ±70 ms and the four continuity scores of mir_eval; nothing is trimmed. An empty estimate scores 0."""
    truth = np.asarray(reference, dtype=np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # empty beats score 0, which is what we want to know
        return (float(mir_eval.beat.f_measure(truth, estimate)), *map(float, mir_eval.beat.continuity(truth, estimate)))


@cache
def chord_class(label: str) -> int:
    """The number in `CHORDS` of a label in Harte's syntax: by its third and fifth, so C:7 is C:maj; -1 for others.

    The same rule as mir_eval's majmin: the lower eight semitones must be those of a major or minor triad, or nothing.
    """
    root, bitmap, _ = mir_eval.chord.encode(label)
    if root < 0:
        return len(CHORDS) - 1 if label == "N" else -1
    low = tuple(bitmap[:8])
    mode = {(1, 0, 0, 0, 1, 0, 0, 1): 0, (1, 0, 0, 1, 0, 0, 0, 1): 1}.get(low)
    return -1 if mode is None else 12 * mode + int(root)


def chord_scores(reference: Sequence[Mapping[str, Any]], estimate: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """mir_eval's majmin and root scores of one track, weighted by duration; nan is 0 where no chord can be compared."""
    (truth, names), (spans, guesses) = (_spans(chords) for chords in (reference, estimate))
    spans, guesses = mir_eval.util.adjust_intervals(spans, guesses, truth.min(), truth.max(), "N", "N")
    merged, names, guesses = mir_eval.util.merge_labeled_intervals(truth, names, spans, guesses)
    weight = mir_eval.util.intervals_to_durations(merged)
    scores = []
    for compare in (mir_eval.chord.majmin, mir_eval.chord.root):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            scores.append(float(mir_eval.chord.weighted_accuracy(compare(names, guesses), weight)))
    return scores[0], scores[1]


def _spans(chords: Sequence[Mapping[str, Any]]) -> tuple[Array, list[str]]:
    return np.array([[c["start"], c["end"]] for c in chords], dtype=np.float64), [str(c["label"]) for c in chords]


def scored(truth: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which tags of truth: [clips, tags] have a positive and a negative; only these enter a macro mean."""
    positives = truth.sum(0)
    return np.asarray((positives > 0) & (positives < len(truth)))


def main(kind: str, truth: npt.NDArray[Any], guess: Array, classes: list[str]) -> float:
    """The main metric of one split, quickly: heads are judged by it thousands of times."""
    if kind != "tags":
        return float(resampled(kind, truth, guess, classes, np.ones((1, len(truth))))[0])
    used = scored(truth)
    if not used.any():
        return float("nan")
    truth, positives = truth[:, used], truth[:, used].sum(0)
    ranks = (rankdata(guess[:, used], axis=0) * truth).sum(0)  # Mann and Whitney's U from the positives' ranks
    return float(np.mean((ranks - positives * (positives + 1) / 2) / (positives * (len(truth) - positives))))


def resampled(kind: str, truth: npt.NDArray[Any], guess: Array, classes: list[str], counts: Array) -> Array:
    """The main metric on every resample. counts: [resamples, clips], how often each clip was drawn -> [resamples]."""
    if kind in ("classes", "key"):
        chosen = guess.argmax(1)
        each = key_scores(classes)[truth, chosen] if kind == "key" else (truth == chosen).astype(np.float64)
        return counts @ each / counts.sum(1)
    if kind == "tags":
        drawn = np.ascontiguousarray(counts.T)
        columns = [_auc(truth[:, c], guess[:, c], drawn) for c in np.flatnonzero(scored(truth))]
        if not columns:
            return np.full(len(counts), np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a resample without any scorable tag is nan, and stays nan
            return np.asarray(np.nanmean(np.stack(columns), axis=0))
    if kind == "numbers":
        return np.mean([_r2(truth[:, t], guess[:, t], counts) for t in range(truth.shape[1])], axis=0)
    return counts @ guess[:, 0] / counts.sum(1)


def _r2(truth: Array, guess: Array, counts: Array) -> Array:
    total = counts.sum(1)
    mean = counts @ truth / total
    error = counts @ np.square(truth - guess)
    spread = counts @ np.square(truth) - total * np.square(mean)
    return np.asarray(np.where(spread > 1e-12, 1 - error / np.maximum(spread, 1e-300), np.nan))


def _auc(truth: npt.NDArray[Any], guess: Array, counts: Array) -> Array:
    """ROC-AUC with sample counts: the share of (positive, negative) pairs in the right order, ties counting half.

    counts: [clips, resamples]. Only sums between the scores of neighbouring positives are needed: with C(s) the weight
    of all clips below s, ties counting half, and P that of the positives, the share is (sum of w C(s) over positives -
    P^2 / 2) / (P N).
    """
    positive = truth > 0
    levels = np.unique(guess[positive])
    above = np.searchsorted(levels, guess)
    tied = levels[np.minimum(above, len(levels) - 1)] == guess
    places = (2 * above + tied, np.arange(len(guess)))  # below the first level, on it, between it and the second, …
    bins = sparse.csr_array((np.ones(len(guess)), places), shape=(2 * len(levels) + 1, len(guess)))
    right = (bins[1::2] * positive) @ counts
    below = np.cumsum(bins @ counts, axis=0)
    positives = right.sum(0)
    ordered = (right * (below[:-1:2] + below[1::2])).sum(0) / 2 - np.square(positives) / 2
    pairs = positives * (below[-1] - positives)
    return np.asarray(np.where(pairs > 0, ordered / np.maximum(pairs, 1e-300), np.nan))
