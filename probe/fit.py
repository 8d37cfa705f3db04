"""Fit the heads of a task, choose among them on validation, read the test set once.

A protocol makes candidates: heads of every layer and setting, learned on the training tracks. `linear` has one strength
of regularisation per head, `marble` one learning rate (and seeds), `knn` one number of neighbours, `gmm` one of
Gaussians per class, `svm` one cost, `forest` one least size of a leaf (and seeds). Whatever the protocol, the choice is
made by the main metric of the validation tracks, ties broken by their loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from . import metrics
from .heads.linear import RIDGE_STRENGTHS, STRENGTHS, basis, logistic, ridge
from .listen.features import forget
from .splits import Fold
from .task import Task

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Protocol = Literal["linear", "marble", "knn", "gmm", "svm", "forest"]
SETTINGS = {"linear": "strength", "marble": "learning rate", "knn": "neighbours", "gmm": "components"}
SETTINGS |= {"svm": "cost", "forest": "least leaf"}
WEIGHTED = -1  # the "layer" of a learned weighted sum of all layers


@dataclass(frozen=True)
class Features:
    """array: [layers, items, dim], an item being a track or a window of one; owner: [items] the track's row."""

    array: Floats
    owner: Rows


@dataclass(frozen=True)
class Head:
    """A trained head. layer: which it reads, or `WEIGHTED`; setting: strength, learning rate or neighbours.

    respond: (features [layers, items, dim], item numbers) -> [items, outputs] log probabilities for classes, logits for
    tags, values for numbers.
    """

    layer: int
    setting: float
    seed: int
    respond: Callable[[Floats, Rows], Array]
    importance: Array | None = None
    """[dim] share of a forest's splits that each feature explains"""


@dataclass(frozen=True)
class Lesson:
    """What a protocol learns from: items of the training and validation tracks of one fold, never of the test tracks.

    array: [layers, items, dim] of all; train, valid: item numbers; targets: [items, …] as `Task.targets`; outputs: how
    many a head has; layers: which may be read; owner: [items] the track's row; seeds: for protocols that have any.
    judge: predictions of the validation tracks [tracks, outputs] -> (main metric, loss), for early stopping.
    """

    kind: str
    array: Floats
    owner: Rows
    train: Rows
    valid: Rows
    targets: npt.NDArray[Any]
    outputs: int
    layers: Sequence[int]
    seeds: Sequence[int]
    judge: Callable[[Array], tuple[float, float]]


@dataclass(frozen=True)
class Choice:
    """What validation chose in one fold; valid: its score there."""

    layer: int
    strength: float
    valid: float


@dataclass(frozen=True)
class Outcome:
    """Predictions for all test tracks, pooled over folds.

    rows: [tests] of the task's manifest; truth, guess: as `metrics.measure` takes them; choices: one per fold;
    layers: the best validation score of each layer, mean over folds; more: the guesses of further seeds;
    heads, frame_heads: the chosen one of each fold and seed.
    """

    rows: Rows
    truth: npt.NDArray[Any]
    guess: Array
    choices: tuple[Choice, ...]
    layers: tuple[float, ...]
    more: tuple[Array, ...] = ()
    heads: tuple[tuple[Head, ...], ...] = field(default=(), repr=False)
    frame_heads: tuple[tuple[Any, ...], ...] = field(default=(), repr=False)

    @property
    def guesses(self) -> tuple[Array, ...]:
        """One per seed."""
        return (self.guess, *self.more)

    @property
    def layer(self) -> int:
        """The layer that most folds chose."""
        return Counter(choice.layer for choice in self.choices).most_common(1)[0][0]

    @property
    def strength(self) -> float:
        """The setting that most folds chose."""
        return Counter(choice.strength for choice in self.choices).most_common(1)[0][0]


def fit(
    task: Task,
    features: Floats | Features,
    layers: Sequence[int] | None = None,
    protocol: Protocol = "linear",
    seeds: Sequence[int] = (0,),
) -> Outcome:
    """Probe pooled features of the task's manifest: [layers, tracks, dim], or windows with their owners.

    layers: which may be chosen. seeds: of the heads, where the protocol draws anything (marble); one head of the chosen
    layer and setting is tested per seed. Each fold's head is learned on its training tracks alone; it isn't fitted
    again on training and validation together.
    """
    given = features if isinstance(features, Features) else Features(features, np.arange(features.shape[1]))
    used = list(range(len(given.array))) if layers is None else list(layers)
    guesses, choices, curves, heads = [], [], [], []
    for fold in task.folds:
        lesson = lesson_of(task, given, fold.train, fold.valid, used, seeds)
        winners, choice, curve = choose(task, fold, given, candidates(protocol, lesson))
        test = items_of(given.owner, fold.test)
        guesses.append([answer(task.kind, head.respond(given.array, test), given.owner[test]) for head in winners])
        choices.append(choice)
        curves.append([curve.get(layer, np.nan) for layer in range(len(given.array))])
        heads.append(tuple(winners))
    rows = np.concatenate([fold.test for fold in task.folds])
    pooled = [np.concatenate(parts) for parts in zip(*guesses)]
    table = np.mean(curves, axis=0)
    return Outcome(
        rows, task.targets[rows], pooled[0], tuple(choices), tuple(table.tolist()), tuple(pooled[1:]), tuple(heads)
    )


def candidates(protocol: Protocol, lesson: Lesson) -> Iterable[Head]:
    """All heads of a protocol, trained."""
    if protocol == "linear":
        return linear(lesson)
    if protocol == "knn":
        from .heads.knn import nearest

        return nearest(lesson)
    if protocol == "gmm":
        from .heads.gmm import mixtures

        return mixtures(lesson)
    if protocol in ("svm", "forest"):
        from .heads.classic import forests, machines

        return machines(lesson) if protocol == "svm" else forests(lesson)
    from .heads.marble import grid

    return grid(lesson)


def lesson_of(
    task: Task, features: Features, train: Rows, valid: Rows, layers: Sequence[int], seeds: Sequence[int] = (0,)
) -> Lesson:
    """What is learned from; train, valid: rows of the task's manifest."""
    truth = task.targets[valid]

    def judge(guess: Array) -> tuple[float, float]:
        score = metrics.main(task.kind, truth, guess, list(task.classes))
        return (score if np.isfinite(score) else -np.inf), loss(task.kind, truth, guess)

    owner = features.owner
    return Lesson(
        task.kind, features.array, owner, items_of(owner, train), items_of(owner, valid), task.targets[owner],
        len(task.classes), layers, seeds, judge,
    )  # fmt: skip


def items_of(owner: Rows, rows: Rows) -> Rows:
    """The items of these tracks, in the order of the tracks: each track's items lie together."""
    first = np.searchsorted(owner, rows, "left")
    end = np.searchsorted(owner, rows, "right")
    return np.concatenate([np.arange(a, b) for a, b in zip(first, end)]) if len(rows) else first


def answer(kind: str, logits: Array, owner: Rows) -> Array:
    """[items, outputs] logits -> [tracks, outputs] probabilities or values: the mean over each track's items, then a
    softmax over classes or a sigmoid per tag. owner: [items], each track's items together.
    """
    starts = np.flatnonzero(np.diff(owner, prepend=owner[:1] - 1))
    mean = np.add.reduceat(logits, starts) / np.diff([*starts, len(owner)])[:, None]
    if kind == "numbers":
        return np.asarray(mean)
    known = torch.from_numpy(mean)
    return np.asarray((torch.sigmoid(known) if kind == "tags" else torch.softmax(known, -1)).numpy())


def choose(
    task: Task, fold: Fold, features: Features, heads: Iterable[Head]
) -> tuple[list[Head], Choice, dict[int, float]]:
    """The heads (one per seed) of the best layer and setting, the choice, and each layer's best validation score."""
    truth, classes = task.targets[fold.valid], list(task.classes)
    items = items_of(features.owner, fold.valid)
    found: dict[tuple[int, float], list[tuple[Head, float, float]]] = {}
    last = None
    for head in heads:
        if head.layer != last:
            forget(features.array)
            last = head.layer
        guess = answer(task.kind, head.respond(features.array, items), features.owner[items])
        score, penalty = metrics.main(task.kind, truth, guess, classes), loss(task.kind, truth, guess)
        found.setdefault((head.layer, head.setting), []).append((head, score, penalty))

    def rank(place: tuple[int, float]) -> tuple[float, float]:
        score = float(np.mean([score for _, score, _ in found[place]]))
        penalty = float(np.mean([penalty for _, _, penalty in found[place]]))
        return (score if np.isfinite(score) else -np.inf), -(penalty if np.isfinite(penalty) else np.inf)

    best = max(found, key=rank)  # of equals the first: the lowest layer, the weakest regularisation
    curve: dict[int, float] = {}
    for layer, setting in found:
        score = rank((layer, setting))[0]
        curve[layer] = max(curve.get(layer, -np.inf), score)
    curve = {layer: score if np.isfinite(score) else float("nan") for layer, score in curve.items()}
    score = float(np.mean([score for _, score, _ in found[best]]))
    return [head for head, _, _ in found[best]], Choice(*best, score), curve


def loss(kind: str, truth: npt.NDArray[Any], guess: Array) -> float:
    """The convex loss on validation: it breaks ties of a coarse metric."""
    tiny = 1e-12
    if kind in ("classes", "key"):
        return float(-np.log(guess[np.arange(len(truth)), truth] + tiny).mean())
    if kind == "tags":
        return float(-(truth * np.log(guess + tiny) + (1 - truth) * np.log(1 - guess + tiny)).mean())
    return float(np.square(truth - guess).mean())


def linear(lesson: Lesson) -> Iterator[Head]:
    """Linear heads of every layer and strength: standardised features, convex losses, solved to the optimum."""
    for layer in lesson.layers:
        yield from _linear_layer(lesson, layer)


def _linear_layer(lesson: Lesson, layer: int) -> Iterator[Head]:
    train = torch.from_numpy(np.ascontiguousarray(lesson.array[layer][lesson.train]))
    targets, kind, outputs = lesson.targets[lesson.train], lesson.kind, lesson.outputs
    space = basis(train)
    coordinates = space.project(train)

    def seen(array: Floats, items: Rows) -> torch.Tensor:
        return space.project(torch.from_numpy(np.ascontiguousarray(array[layer][items])))

    if kind == "numbers":
        wanted = torch.from_numpy(targets)
        mean, scale = wanted.mean(0), wanted.std(0, correction=0)
        scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale))
        lines = ridge(coordinates, (wanted - mean) / scale, RIDGE_STRENGTHS)
        for number, strength in enumerate(RIDGE_STRENGTHS):
            one = lines.of(number)

            def values(array: Floats, items: Rows, one: Any = one) -> Array:
                return np.asarray((one(seen(array, items)) * scale + mean).numpy())

            yield Head(layer, strength, 0, values)
        return
    fixed, learned = constants(kind, targets, outputs)
    form: Literal["classes", "tags"] = "tags" if kind == "tags" else "classes"
    table = np.eye(outputs, dtype=np.float32)[targets] if form == "classes" else targets
    fitted = (
        logistic(coordinates, torch.from_numpy(table[:, learned].astype(np.float32)), STRENGTHS, form)
        if len(learned)
        else None
    )
    for number, strength in enumerate(STRENGTHS):
        head = fitted.of(number) if fitted is not None else None

        def logits(array: Floats, items: Rows, head: Any = head) -> Array:
            result = np.tile(fixed, (len(items), 1))
            if head is not None:
                found = head(seen(array, items))
                result[:, learned] = (torch.log_softmax(found, -1) if form == "classes" else found).numpy()
            return result

        yield Head(layer, strength, 0, logits)


def constants(kind: str, targets: npt.NDArray[Any], outputs: int) -> tuple[Array, Rows]:
    """Logits of the outputs that can't be learned, and the numbers of those that can.

    A class without a training clip gets probability 0, an only class 1; a tag that all or no training clips carry is
    certain.
    """
    if kind == "tags":
        share = targets.mean(0)
        learned = np.flatnonzero((share > 0) & (share < 1))
        return np.where(share > 0, np.inf, -np.inf), learned
    present = np.unique(targets)
    fixed = np.full(outputs, -np.inf)
    if len(present) == 1:
        fixed[present] = 0.0
        return fixed, present[:0]
    return fixed, present
