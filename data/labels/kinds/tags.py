"""Any number of names at once: moods, instruments."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.stats import norm, rankdata
from sklearn import metrics as sk

from ..kind import Array, Kind, best_thresholds, index_of, sorted_names
from ..splits import Fold

SEPARATORS = re.compile(r"[|;,]")


class Tags(Kind):
    """Labels are lists of names; targets int64 [tracks, names] of 0 and 1; guesses probabilities."""

    name = "tags"
    words = ("tags", "tag")
    metrics = {"roc_auc": "ROC-AUC, macro", "average_precision": "average precision, macro", "tags_scored": ""}
    more_metrics = {"d_prime": "d′ of the mean ROC-AUC"}
    link = "sigmoid"
    rank = 20

    def convert(self, values: Sequence[Any], columns: Sequence[str]) -> Any:
        """A list as it is; text is parted, see `parted`."""
        return self.recognised(values[0], columns[0], ())

    def recognised(self, value: Any, column: str, names: Sequence[str]) -> Any:
        """A name with a comma in it is found among the names."""
        return value if isinstance(value, (list, tuple)) else sorted(set(parted(str(value), names)))

    def unknown(self, label: Any, names: Sequence[str]) -> list[str]:
        """Tags that aren't among the names."""
        return [tag for tag in label if tag not in names]

    def names(self, labels: Sequence[Any], columns: Sequence[str]) -> tuple[str, ...]:
        """All that occur."""
        return sorted_names({tag for tags in labels if tags for tag in tags})

    def encode(self, labels: Sequence[Any], names: Sequence[str]) -> npt.NDArray[Any]:
        """A row of zeros where there is no label."""
        index = index_of(names)
        table = np.zeros((len(labels), len(names)), dtype=np.int64)
        for row, tags in enumerate(labels):
            table[row, [index[tag] for tag in tags or ()]] = 1
        return table

    def measure(self, truth: npt.NDArray[Any], guess: Array, names: Sequence[str]) -> dict[str, float]:
        """Macro means over the tags that have positives and negatives."""
        used = scored(truth)
        if not used.any():
            return {"roc_auc": float("nan"), "average_precision": float("nan"), "tags_scored": 0.0}
        area = float(np.mean([sk.roc_auc_score(truth[:, c], guess[:, c]) for c in np.flatnonzero(used)]))
        return {
            "roc_auc": area,
            "average_precision": float(
                np.mean([sk.average_precision_score(truth[:, c], guess[:, c]) for c in np.flatnonzero(used)])
            ),
            "tags_scored": float(used.sum()),
            **({"d_prime": d_prime(area)} if 0 < area < 1 else {}),
        }

    def main(self, truth: npt.NDArray[Any], guess: Array, names: Sequence[str]) -> float:
        """Mann and Whitney's U from the positives' ranks."""
        used = scored(truth)
        if not used.any():
            return float("nan")
        truth, positives = truth[:, used], truth[:, used].sum(0)
        ranks = (rankdata(guess[:, used], axis=0) * truth).sum(0)
        return float(np.mean((ranks - positives * (positives + 1) / 2) / (positives * (len(truth) - positives))))

    def resampled(self, truth: npt.NDArray[Any], guess: Array, names: Sequence[str], counts: Array) -> Array:
        """See `Kind.resampled`; a resample without any scorable tag is nan."""
        drawn = np.ascontiguousarray(counts.T)
        columns = [_auc(truth[:, c], guess[:, c], drawn) for c in np.flatnonzero(scored(truth))]
        if not columns:
            return np.full(len(counts), np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return np.asarray(np.nanmean(np.stack(columns), axis=0))

    def loss(self, truth: npt.NDArray[Any], guess: Array) -> float:
        """Mean binary cross-entropy."""
        tiny = 1e-12
        return float(-(truth * np.log(guess + tiny) + (1 - truth) * np.log(1 - guess + tiny)).mean())

    def fits(self, values: Sequence[Any]) -> bool:
        """A value is a list, or text with a separator."""
        if any(isinstance(value, (list, tuple)) for value in values):
            return True
        return not _numeric(values) and any(SEPARATORS.search(str(value)) for value in values)

    def remarks(
        self, labels: Sequence[Any], names: Sequence[str], targets: npt.NDArray[Any], folds: Sequence[Fold]
    ) -> list[str]:
        """How many tags the mean is over."""
        test = np.concatenate([fold.test for fold in folds])
        used = int(scored(targets[test]).sum())
        return [f"{used} of {len(names)} tags have positives and negatives in the test set: the mean is theirs."]

    def thresholds(self, truth: npt.NDArray[Any], probabilities: Array) -> tuple[float, ...]:
        """Of the highest F."""
        return best_thresholds(truth, probabilities)


def parted(text: str, names: Collection[str] = ()) -> list[str]:
    """The tags in a cell: parted at | and ; where it has one, else at commas, but not inside one of the names.

    "Male speech, man speaking|Music" is two tags, "calm, wild" two, and "Male speech, man speaking|" one; without the
    bar it is one where it is among the names.
    """
    if "|" in text or ";" in text:
        return [part.strip() for part in re.split(r"[|;]", text) if part.strip()]
    pieces = [part.strip() for part in text.split(",") if part.strip()]
    whole = {tuple(part.strip() for part in name.split(",")): name for name in names if "," in name}
    longest = max(map(len, whole), default=1)
    found, first = [], 0
    while first < len(pieces):
        sizes = range(min(longest, len(pieces) - first), 1, -1)
        size = next((size for size in sizes if tuple(pieces[first : first + size]) in whole), 1)
        found.append(pieces[first] if size == 1 else whole[tuple(pieces[first : first + size])])
        first += size
    return found


def d_prime(area: float) -> float:
    """√2 Φ⁻¹(AUC) of the mean area under the curve: the distance of two normals in their widths, as for AudioSet."""
    return float(np.sqrt(2) * norm.ppf(area))


def scored(truth: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which tags of truth: [tracks, tags] have a positive and a negative; only these enter a macro mean."""
    positives = truth.sum(0)
    return np.asarray((positives > 0) & (positives < len(truth)))


def _numeric(values: Sequence[Any]) -> bool:
    try:
        return all(isinstance(float(value), float) for value in values)
    except (TypeError, ValueError):
        return False


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


KIND = Tags()
