"""One of the 24 major and minor keys, scored as mir_eval scores them: near keys are half right."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import mir_eval
import numpy as np
import numpy.typing as npt

from ..kind import Array
from .classes import Classes

TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in TONICS)
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
"""How well each pitch class fits a key of C (Krumhansl 1990, Cognitive Foundations of Musical Pitch, table 2.1)."""
_SHARPS = {"C#": "Db", "D#": "Eb", "F#": "Gb", "G#": "Ab", "A#": "Bb"}


class Key(Classes):
    """As classes, but names are given and wrong ones may be near."""

    name = "key"
    words = ()
    metrics = {"key_score": "weighted key score", "accuracy": "accuracy", "balanced_accuracy": ""}
    related = True
    pitched = True
    rank = 40
    jams = "key_mode"

    def jams_value(self, name: str) -> str:
        """C:major."""
        return name.replace(" ", ":")

    def convert(self, values: Sequence[Any], columns: Sequence[str]) -> Any:
        """Spelt as in `KEYS`."""
        return key_name(values[0])

    def names(self, labels: Sequence[Any], columns: Sequence[str]) -> tuple[str, ...]:
        """All 24."""
        return KEYS

    def measure(self, truth: npt.NDArray[Any], guess: Array, names: Sequence[str]) -> dict[str, float]:
        """mir_eval's weighted score before what classes have."""
        weighted = [mir_eval.key.weighted_score(names[t], names[g]) for t, g in zip(truth, guess.argmax(1))]
        return {"key_score": float(np.mean(weighted)), **super().measure(truth, guess, names)}

    def gains(self, names: Sequence[str]) -> Array:
        """mir_eval's weighted score of every pair."""
        index = [KEYS.index(name) for name in names]
        return np.asarray(_table()[np.ix_(index, index)])

    def fits(self, values: Sequence[Any]) -> bool:
        """All are spelt as keys."""
        return bool(values) and all(_is_key(value) for value in values)

    def transposed(self, label: str, semitones: int) -> str:
        """The key of the sound that many semitones higher."""
        tonic, _, mode = label.partition(" ")
        return f"{TONICS[(TONICS.index(tonic) + semitones) % 12]} {mode}"


@cache
def _table() -> Array:
    return np.array([[mir_eval.key.weighted_score(truth, guess) for guess in KEYS] for truth in KEYS])


def key_name(text: Any) -> str:
    """Spell a key as "Db minor": flats, mode in lower case.

    Raises:
        ValueError: anything that isn't a major or minor key.
    """
    parts = str(text).strip().split()
    tonic = parts[0][:1].upper() + parts[0][1:].lower() if parts else ""
    tonic = _SHARPS.get(tonic, tonic)
    if len(parts) != 2 or f"{tonic} {parts[1].lower()}" not in KEYS:
        raise ValueError(f"{text!r} is no key: expected a tonic and a mode, such as 'C major' or 'Db minor'.")
    return f"{tonic} {parts[1].lower()}"


def _is_key(value: Any) -> bool:
    try:
        return bool(key_name(value))
    except ValueError:
        return False


KIND = Key()
