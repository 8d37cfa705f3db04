"""What is asked of an encoder: a corpus, a label, a split and a metric."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..data import corpora
from ..data.track import Manifest
from . import metrics
from .splits import Fold, official, rotating

Kind = Literal["classes", "key", "tags", "numbers", "beats", "chords"]
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

    manifest: the corpus (or the part of it) that the question is about; tasks of one manifest share one feature store.
    labels: one per track of the manifest, None where there is none: a class name, a key name, a list of tags, a list of
    numbers (one per target), a list of beat times in s, or a list of chords {"start", "end", "label"}.
    classes: the class, tag or target names, in the order of a head's outputs.
    folds: row numbers of the manifest; predictions of all test sets are pooled.
    unit: heads learn on whole clips, on windows of `seconds`, or on frames.
    published: {paper: {system: {metric: value}}} as the literature has it, by other protocols than ours.
    notes: sentences that stand beside the score.
    """

    name: str
    version: int
    kind: Kind
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

    @property
    def metric(self) -> str:
        return metrics.MAIN[self.kind]

    @cached_property
    def hashes(self) -> list[str]:
        return [track.hash for track in self.manifest]

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
        """[tracks] class numbers (-1: none), [tracks, tags] of 0/1, or [tracks, targets] of numbers (nan: none)."""
        return encode(self.kind, self.labels, self.classes)

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


def encode(kind: str, labels: Sequence[Any], classes: Sequence[str]) -> npt.NDArray[Any]:
    """Labels as arrays; see `Task.targets`."""
    index = {name: number for number, name in enumerate(classes)}
    if kind in ("classes", "key"):
        return np.array([-1 if label is None else index[label] for label in labels], dtype=np.int64)
    if kind == "tags":
        table = np.zeros((len(labels), len(classes)), dtype=np.int64)
        for row, tags in enumerate(labels):
            table[row, [index[tag] for tag in tags or ()]] = 1
        return table
    if kind == "numbers":
        return np.array([[np.nan] * len(classes) if label is None else label for label in labels], dtype=np.float64)
    return np.full(len(labels), -1, dtype=np.int64)


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
    kind: Kind
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
        """Ask this of a corpus. Raises ValueError when the corpus lacks the label or a split."""
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
        return Task(
            self.name, self.version, self.kind, manifest.select(used), labels, self._classes(labels), folds, self.unit,
            self.seconds, self.question, self.corpus, self.published, (*self.notes, *notes), address,
        )  # fmt: skip

    def _answer(self, values: tuple[Any, ...]) -> Any:
        if self.convert is not None:
            return self.convert(*values)
        if self.kind == "numbers":
            return [float(value) for value in values]
        if self.kind == "key":
            return metrics.key_name(values[0])
        return values[0] if self.kind in ("tags", "beats", "chords") else str(values[0])

    def _classes(self, labels: Sequence[Any]) -> tuple[str, ...]:
        if self.kind == "numbers":
            return self.targets or self.label
        return class_names(self.kind, labels)


def _compact(folds: tuple[Fold, ...]) -> tuple[list[int], tuple[Fold, ...]]:
    """The rows that take part, and the folds with their places among these: tracks without a part aren't encoded."""
    used = np.unique(np.concatenate([part for fold in folds for part in (fold.train, fold.valid, fold.test)]))
    moved = [Fold(*(np.searchsorted(used, part) for part in (fold.train, fold.valid, fold.test))) for fold in folds]
    return used.tolist(), tuple(moved)


def class_names(kind: str, labels: Sequence[Any]) -> tuple[str, ...]:
    """Names of the outputs: all 24 keys, else the values that occur, numbers in their order."""
    if kind == "key":
        return metrics.KEYS
    if kind == "beats":
        return ("beat",)
    if kind == "chords":
        return metrics.CHORDS
    names = {tag for tags in labels if tags for tag in tags} if kind == "tags" else {x for x in labels if x is not None}
    return tuple(sorted(names, key=lambda name: (0, float(name), "") if _is_number(name) else (1, 0.0, name)))


def _is_number(name: str) -> bool:
    return str(name).lstrip("-").isdigit()


def _column(manifest: Manifest, name: str) -> list[Any]:
    return [track.labels.get(name) for track in manifest]


def questions() -> dict[str, Question]:
    """Every file of `probe/tasks/` by its name."""
    from . import tasks

    names = sorted(module.name for module in pkgutil.iter_modules(tasks.__path__) if module.name != "folder")
    return {name: importlib.import_module(f"{tasks.__name__}.{name}").TASK for name in names}


def find_tasks(address: str, label: Sequence[str] = (), store: Path | None = None) -> list[Task]:
    """Open an address: `synth_key`, `synth_key:PATH`, `synth:PATH` (all tasks of a corpus), `folder:PATH` with labels.

    PATH is the corpus's folder, or a manifest of it (.parquet); without one, `$GROUNDBASS_DATA/<corpus>`.
    label: for `folder:` only, `COLUMN[:class|tags|number|key]` each. store: where the scan of a folder is remembered.
    Raises ValueError naming the nearest tasks for an unknown address, FileNotFoundError for a corpus that isn't there.
    """
    name, _, place = address.partition(":")
    if name == "folder":
        from .tasks.folder import folder_tasks

        if not place:
            raise ValueError("folder: needs a path, for example folder:my_music --label genre.")
        return folder_tasks(Path(place), label, store)
    known = questions()
    chosen = [known[name]] if name in known else [q for q in known.values() if q.corpus == name]
    if not chosen:
        near = get_close_matches(name, [*known, *{q.corpus for q in known.values()}, "folder"], 3) or sorted(known)
        raise ValueError(
            f"There is no task {name!r}. Near or known: {', '.join(near)}. Your own labels: folder:PATH --label NAME."
        )
    where = Path(place) if place else corpora.place_of(chosen[0].corpus)
    manifest = _open(chosen[0].corpus, where)
    return [_checked(question, question.meet(manifest, f"{question.name}:{where}"), manifest) for question in chosen]


def available() -> tuple[list[str], list[str]]:
    """The names of the corpora that lie in `$GROUNDBASS_DATA`, and a sentence for each that doesn't."""
    names = sorted({question.corpus for question in questions().values()})
    root = os.environ.get("GROUNDBASS_DATA")
    here = [name for name in names if root and (Path(root) / name).exists()]
    missing = (
        [] if root else ["GROUNDBASS_DATA isn't set: let it name the folder that holds the corpora, each by name."]
    )
    for name in names:
        if name not in here:
            tasks = ", ".join(q.name for q in questions().values() if q.corpus == name)
            place = Path(root or "$GROUNDBASS_DATA") / name
            missing.append(f"{name} isn't in {place} ({tasks}). {_source(name, place)}")
    return here, missing


def _source(corpus: str, place: Path) -> str:
    if corpus == "synth":
        return f"`groundbass data synth {place}` makes it."
    known = corpora.corpus(corpus)
    return f"{known.source} Licence: {known.licence}"


def _open(corpus: str, path: Path) -> Manifest:
    """A manifest file, the manifest in the folder, or what the corpus's reader finds in the folder."""
    manifest = path / "manifest.parquet" if path.is_dir() else path
    if manifest.is_file():
        return Manifest.open(manifest)
    if corpus in corpora.names():
        return corpora.manifest(corpus, path)
    raise FileNotFoundError(f"There is no manifest {manifest}; make it with `groundbass data synth {path}`.")


def _checked(question: Question, task: Task, manifest: Manifest) -> Task:
    """With sentences about what the corpus lacks of its published size."""
    if question.corpus not in corpora.names():
        return task
    return replace(task, notes=(*task.notes, *corpora.shortfall(question.corpus, manifest, question.split)))


def describe(task: Task) -> list[str]:
    """Sentences that a reader should know: missing classes, classes of one clip, unlabelled tracks."""
    sentences = list(task.notes)
    missing = sum(label is None for label in task.labels)
    if missing:
        share = missing / len(task.labels)
        sentences.append(f"{missing} of {len(task.labels)} tracks ({share:.1%}) have no label and are left out.")
    if task.kind in ("classes", "key"):
        counts = Counter(label for label in task.labels if label is not None)
        alone = [str(name) for name, count in counts.items() if count == 1]
        if alone:
            sentences.append(f"Classes of one clip, which can't be both learned and tested: {', '.join(alone[:8])}.")
        for number, fold in enumerate(task.folds):
            learned = {task.labels[row] for row in fold.train}
            unknown = sorted({str(task.labels[row]) for row in fold.test} - {str(name) for name in learned})
            if unknown:
                place = f"fold {number}" if len(task.folds) > 1 else "the test split"
                sentences.append(f"Not in the training clips, so always wrong in {place}: {', '.join(unknown[:8])}.")
    if task.kind == "tags":
        test = np.concatenate([fold.test for fold in task.folds])
        used = int(metrics.scored(task.targets[test]).sum())
        sentences.append(
            f"{used} of {len(task.classes)} tags have positives and negatives in the test set: the mean is theirs."
        )
    return sentences
