"""Numbers in their own units: tempo, arousal and valence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

from ..kind import Array, Kind

FEW = 20  # whole numbers that are no more than this many different ones are names


class Numbers(Kind):
    """Labels are lists of numbers, one per column; targets float64 [tracks, columns], nan where there is none."""

    name = "numbers"
    words = ("number",)
    metrics = {"r2": "R²", "mae": ""}
    more_metrics = {"r2_arousal": "R² of arousal", "r2_valence": "R² of valence"}
    bounds = (-np.inf, 1.0)
    link = "identity"
    rank = 30
    jams = "vector"

    def convert(self, values: Sequence[Any], columns: Sequence[str]) -> Any:
        """A number per column; None where one isn't finite."""
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            wrong = next(value for value in values if not _is_number(value))
            raise ValueError(f"--label {columns[0]}:number needs numbers, and one value is {wrong!r}.") from None
        return numbers if np.isfinite(numbers).all() else None

    def names(self, labels: Sequence[Any], columns: Sequence[str]) -> tuple[str, ...]:
        """The columns."""
        return tuple(columns)

    def encode(self, labels: Sequence[Any], names: Sequence[str]) -> npt.NDArray[Any]:
        """As they are."""
        return np.array([[np.nan] * len(names) if label is None else label for label in labels], dtype=np.float64)

    def measure(self, truth: npt.NDArray[Any], guess: Array, names: Sequence[str]) -> dict[str, float]:
        """R², the mean over columns, the mean absolute error, and each column's R²."""
        each = [float(sk.r2_score(truth[:, t], guess[:, t])) for t in range(truth.shape[1])]
        result = {"r2": float(np.mean(each)), "mae": float(sk.mean_absolute_error(truth, guess))}
        if len(names) > 1:
            result |= {f"r2_{name}": value for name, value in zip(names, each)}
        return result

    def resampled(self, truth: npt.NDArray[Any], guess: Array, names: Sequence[str], counts: Array) -> Array:
        """See `Kind.resampled`."""
        return np.asarray(np.mean([_r2(truth[:, t], guess[:, t], counts) for t in range(truth.shape[1])], axis=0))

    def fits(self, values: Sequence[Any]) -> bool:
        """All are numbers, and not a few whole ones."""
        if not values or not all(_is_number(value) for value in values):
            return False
        numbers = [float(value) for value in values]
        return not (all(number.is_integer() for number in numbers) and len(set(numbers)) <= FEW)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _r2(truth: Array, guess: Array, counts: Array) -> Array:
    total = counts.sum(1)
    mean = counts @ truth / total
    error = counts @ np.square(truth - guess)
    spread = counts @ np.square(truth) - total * np.square(mean)
    return np.asarray(np.where(spread > 1e-12, 1 - error / np.maximum(spread, 1e-300), np.nan))


KIND = Numbers()
