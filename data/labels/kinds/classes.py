"""One of several names: a genre, a singer, a pitch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

from ..kind import Array, Kind, index_of, sorted_names
from ..splits import Fold


class Classes(Kind):
    """Labels are names; targets int64 [tracks], −1 where there is none; guesses probabilities."""

    name = "classes"
    words: ClassVar[tuple[str, ...]] = ("class",)
    metrics = {"accuracy": "accuracy", "balanced_accuracy": ""}
    link = "softmax"
    one_of = True
    rank = 90

    def convert(self, values: Sequence[Any], columns: Sequence[str]) -> Any:
        """The name; a whole number is written without a point."""
        value = values[0]
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

    def names(self, labels: Sequence[Any], columns: Sequence[str]) -> tuple[str, ...]:
        """All that occur."""
        found = sorted_names({label for label in labels if label is not None})
        if len(found) < 2:
            raise ValueError(
                f"The label {columns[0]!r} has one value only ({', '.join(found)}): there is nothing to tell apart."
            )
        return found

    def encode(self, labels: Sequence[Any], names: Sequence[str]) -> npt.NDArray[Any]:
        """Numbers of names."""
        index = index_of(names)
        return np.array([-1 if label is None else index[label] for label in labels], dtype=np.int64)

    def measure(self, truth: npt.NDArray[Any], guess: Array, names: Sequence[str]) -> dict[str, float]:
        """Accuracy, and its mean over the classes that occur."""
        chosen = guess.argmax(1)
        return {
            "accuracy": float(sk.accuracy_score(truth, chosen)),
            "balanced_accuracy": float(np.mean([np.mean(chosen[truth == c] == c) for c in np.unique(truth)])),
        }

    def resampled(self, truth: npt.NDArray[Any], guess: Array, names: Sequence[str], counts: Array) -> Array:
        """Means of what each track earns."""
        return np.asarray(counts @ self.gains(names)[truth, guess.argmax(1)] / counts.sum(1))

    def gains(self, names: Sequence[str]) -> Array:
        """[truth, guess]: what an answer earns."""
        return np.eye(len(names))

    def loss(self, truth: npt.NDArray[Any], guess: Array) -> float:
        """Cross-entropy."""
        return float(-np.log(guess[np.arange(len(truth)), truth] + 1e-12).mean())

    def constant(self, targets: npt.NDArray[Any], names: Sequence[str]) -> Array:
        """The name that earns most on the training tracks: the commonest, the key with the best mean score."""
        counts = np.bincount(targets, minlength=len(names)).astype(np.float64)
        return np.asarray(np.eye(len(names))[int((counts @ self.gains(names)).argmax())])

    def stored(self, table: Array) -> npt.NDArray[Any]:
        """See `Kind.stored`."""
        return table[:, 0].astype(np.int64)

    def fits(self, values: Sequence[Any]) -> bool:
        """Whatever nothing else fits."""
        return True

    def told(self, guess: Array, names: Sequence[str]) -> list[str]:
        """The likeliest name."""
        return [str(names[number]) for number in guess.argmax(1)]

    def remarks(
        self, labels: Sequence[Any], names: Sequence[str], targets: npt.NDArray[Any], folds: Sequence[Fold]
    ) -> list[str]:
        """Classes of one track, and classes that are tested and never learned."""
        sentences = []
        counts = Counter(label for label in labels if label is not None)
        alone = [str(name) for name, count in counts.items() if count == 1]
        if alone:
            sentences.append(f"Classes of one clip, which can't be both learned and tested: {', '.join(alone[:8])}.")
        for number, fold in enumerate(folds):
            learned = {labels[row] for row in fold.train}
            unknown = sorted({str(labels[row]) for row in fold.test} - {str(name) for name in learned})
            if unknown:
                place = f"fold {number}" if len(folds) > 1 else "the test split"
                sentences.append(f"Not in the training clips, so always wrong in {place}: {', '.join(unknown[:8])}.")
        return sentences


KIND = Classes()
