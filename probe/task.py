"""What is asked of an encoder: a corpus, a label, a split and a metric."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..data.labels.kind import Kind
from ..data.labels.lookup import kind_of
from ..data.labels.splits import Fold, official, rotating
from ..data.track import Manifest

Array = npt.NDArray[np.float64]
Unit = Literal["clip", "window", "frame"]
Published = Mapping[str, Mapping[str, Mapping[str, float]]]
AGGREGATION = {
    "clip": "features averaged over the track",
    "window": "logits (or numbers) averaged over the windows of a track",
    "frame": "frames decoded, then a score per track",
}


@dataclass(frozen=True)
class Task:
    """A question with its answers, ready to be fitted.

    kind: the name of a file of `data/labels/kinds/`, which says what a label is.
    manifest: the corpus (or the part of it) that the question is about; tasks of one manifest share one feature store.
    labels: one per track of the manifest, None where there is none.
    classes: the class, tag or target names, in the order of a head's outputs.
    folds: row numbers of the manifest; predictions of all test sets are pooled.
    unit: heads learn on whole clips, on windows of `seconds`, or on frames.
    published: {paper: {system: {metric: value}}} as the literature has it, by other protocols than ours.
    notes: sentences that stand beside the score.
    """

    name: str
    version: int
    kind: str
    manifest: Manifest
    labels: Sequence[Any]
    classes: tuple[str, ...]
    folds: tuple[Fold, ...]
    unit: Unit = "clip"
    seconds: float | None = None
    question: str = ""
    corpus: str = ""
    published: Published = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    address: str = ""

    @cached_property
    def label_kind(self) -> Kind:
        """What its labels are."""
        return kind_of(self.kind)

    @property
    def metric(self) -> str:
        return self.label_kind.metric

    def measure(self, truth: npt.NDArray[Any], guess: Array) -> dict[str, float]:
        """All metrics of predictions; see `Kind.measure`."""
        return self.label_kind.measure(truth, guess, self.classes)

    def main(self, truth: npt.NDArray[Any], guess: Array) -> float:
        """The main metric, quickly."""
        return self.label_kind.main(truth, guess, self.classes)

    @cached_property
    def hashes(self) -> list[str]:
        return self.manifest.hashes()

    @cached_property
    def groups(self) -> list[str]:
        """Who made each track: the artist where known, else the track itself. Intervals are drawn over these."""
        return [f"artist {t.artist}" if t.artist else f"track {t.key}" for t in self.manifest]

    @cached_property
    def rows(self) -> list[int]:
        """Of the manifest: the tracks that take part in any fold."""
        parts = [part for fold in self.folds for part in (fold.train, fold.valid, fold.test)]
        return [int(row) for row in np.unique(np.concatenate(parts))]

    @property
    def grouped(self) -> bool:
        return any(name.startswith("artist ") for name in self.groups)

    @cached_property
    def targets(self) -> npt.NDArray[Any]:
        """One row per track, as its kind encodes labels."""
        return self.label_kind.encode(self.labels, self.classes)

    def fingerprint(self) -> str:
        """Changes when the question, a clip, a label or the split changes."""
        content = {
            "task": [self.name, self.version, self.kind, self.unit, self.seconds, list(self.classes)],
            "clips": self.hashes,
            "labels": list(self.labels),
            "groups": self.groups,
            "folds": [[part.tolist() for part in (f.train, f.valid, f.test)] for f in self.folds],
        }
        return hashlib.blake2b(json.dumps(content, default=str).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Question:
    """A task before it has met its corpus: what a file of `probe/tasks/` states.

    corpus: names `$GROUNDBASS_DATA/<corpus>`; part: only tracks whose label `part` is this; label: the manifest's
    labels it reads; convert: from the values of those labels to what `Task.labels` holds; split: the label that says
    who trains, validates and tests, "split" being the manifest's own; folds: in its place, the label that numbers
    folds, each of which tests once; the rest as in `Task`.
    """

    name: str
    version: int
    corpus: str
    kind: str
    label: tuple[str, ...]
    question: str
    part: str | None = None
    split: str = "split"
    folds: str | None = None
    unit: Unit = "clip"
    seconds: float | None = None
    convert: Callable[..., Any] | None = None
    targets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    published: Published = field(default_factory=dict)

    def meet(self, manifest: Manifest, address: str = "") -> Task:
        """Ask this of a corpus.

        Raises:
            ValueError: the corpus lacks the label or a split.
        """
        if self.part is not None:
            parts = _column(manifest, "part")
            manifest = manifest.select([row for row, part in enumerate(parts) if part == self.part])
            if not len(manifest):
                raise ValueError(
                    f"{self.name} needs tracks of the part {self.part!r}, and {address} has none: is it this corpus?"
                )
        columns = [_column(manifest, name) for name in self.label]
        labels = [None if any(v is None for v in values) else self._answer(values) for values in zip(*columns)]
        present = np.array([label is not None for label in labels], dtype=bool)
        if not present.any():
            raise ValueError(
                f"{self.name} needs the label {' and '.join(self.label)}, and no track of {address} has it."
            )
        sides = [t.split for t in manifest] if self.split == "split" else _column(manifest, self.split)
        if self.folds is not None:
            folds, notes = rotating(_column(manifest, self.folds), [t.artist for t in manifest], present)
            sides = _column(manifest, self.folds)
        else:
            folds, notes = official(sides, present)
        used, folds = _compact(folds)
        labels = [labels[row] for row in used]
        unlabelled = int((~present & np.array([side is not None for side in sides])).sum())
        if unlabelled:
            share = unlabelled / len(present)
            notes.append(f"{unlabelled} of {len(present)} tracks ({share:.1%}) have no label and are left out.")
        names = self.targets or kind_of(self.kind).names(labels, self.label)
        return Task(
            self.name, self.version, self.kind, manifest.select(used), labels, names, folds, self.unit,
            self.seconds, self.question, self.corpus, self.published, (*self.notes, *notes), address,
        )  # fmt: skip

    def _answer(self, values: tuple[Any, ...]) -> Any:
        return kind_of(self.kind).convert(values, self.label) if self.convert is None else self.convert(*values)


def _compact(folds: tuple[Fold, ...]) -> tuple[list[int], tuple[Fold, ...]]:
    """The rows that take part, and the folds with their places among these: tracks without a part aren't encoded."""
    used = np.unique(np.concatenate([part for fold in folds for part in (fold.train, fold.valid, fold.test)]))
    moved = [Fold(*(np.searchsorted(used, part) for part in (fold.train, fold.valid, fold.test))) for fold in folds]
    return used.tolist(), tuple(moved)


def _column(manifest: Manifest, name: str) -> list[Any]:
    return [track.labels.get(name) for track in manifest]


def describe(task: Task) -> list[str]:
    """Sentences that a reader should know: missing classes, classes of one clip, unlabelled tracks."""
    sentences = list(task.notes)
    missing = sum(label is None for label in task.labels)
    if missing:
        share = missing / len(task.labels)
        sentences.append(f"{missing} of {len(task.labels)} tracks ({share:.1%}) have no label and are left out.")
    return [*sentences, *task.label_kind.remarks(task.labels, task.classes, task.targets, task.folds)]
