"""Bootstrap intervals over tracks, or over artists where known, and paired differences on the same resamples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return math.isfinite(self.value)

    @property
    def bounded(self) -> bool:
        """Whether its bounds are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @classmethod
    def from_json(cls, told: Mapping[str, Any] | None) -> Interval:
        """From a file, where null stands for what isn't known."""
        told = told or {}
        numbers = [told.get(name) for name in ("value", "low", "high")]
        return cls(*(math.nan if number is None else float(number) for number in numbers))

    def to_json(self) -> dict[str, float]:
        """As files have it."""
        return {"value": self.value, "low": self.low, "high": self.high}


def draw(groups: Sequence[str | int], resamples: int = RESAMPLES, seed: int = 0) -> tuple[Array, int]:
    """Resampling counts [resamples, clips] and the number of groups; the clips of a group are drawn together.

    groups: one name per clip (the artist, or the clip itself). Songs of one artist resemble each other: drawing them
    one by one would make the interval too narrow.
    """
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    number = int(member.max()) + 1
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(number, np.full(number, 1 / number), size=resamples).astype(np.float64)
    return counts[:, member], number


def pick_copies(replicates: Sequence[Array], seed: int) -> Array:
    """One value per resample from those of several trained copies, [copies] of [resamples]: each resample draws its
    copies too, since whoever trains once draws one initialisation.
    """
    number = len(replicates)
    drawn = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=len(replicates[0]))
    return np.asarray((np.stack(replicates, 1) * drawn).sum(1) / number)


def interval(value: float, replicates: Array, groups: int, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Interval:
    """95 % percentile interval around `value`, widened for few groups.

    The percentile bootstrap of G groups is too narrow by sqrt((G-1)/G) and by the step from the normal to Student's t
    with G-1 degrees of freedom; both factors go to 1 as G grows. (Efron and Tibshirani 1993, chapters 12 and 13.)
    A score at a finite bound has no spread to resample; it gets the interval of G hits in G trials, or of none (Clopper
    and Pearson 1934).
    """
    replicates = replicates[np.isfinite(replicates)]
    if len(replicates) < 10 or groups < 2 or not np.isfinite(value):
        return Interval(value, float("nan"), float("nan"))
    wider = float(np.sqrt(groups / (groups - 1)) * stats.t.ppf(0.975, groups - 1) / stats.norm.ppf(0.975))
    low, high = np.percentile(replicates, [2.5, 97.5])
    low, high = value + wider * (min(low, value) - value), value + wider * (max(high, value) - value)
    low, high = max(low, bounds[0]), min(high, bounds[1])
    if np.isfinite(bounds).all() and high - low < 1e-12 and value in bounds:
        error = (1 - 0.025 ** (1 / groups)) * (bounds[1] - bounds[0])
        low, high = (low - error, high) if value == bounds[1] else (low, high + error)
    return Interval(value, float(low), float(high))


def mark(difference: Interval | None) -> str:
    """▲ when the whole interval of a difference is above 0, ▼ when it is below, = when it holds 0, ? when unknown."""
    if difference is None or not np.isfinite(difference.low):
        return "?"
    return "▲" if difference.low > 0 else "▼" if difference.high < 0 else "="
