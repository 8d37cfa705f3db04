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

from ..data.labels.splits import Fold
from .heads.classic import forests, machines
from .heads.forms import form_of
from .heads.gmm import mixtures
from .heads.head import Array, Features, Floats, Head, Rows, TrainingData, answer, items_of
from .heads.kept import LinearMap
from .heads.knn import nearest
from .heads.linear import basis
from .heads.marble import grid
from .listen.features import forget
from .task import Task

Protocol = Literal["linear", "marble", "knn", "gmm", "svm", "forest"]
SETTINGS = {"linear": "strength", "marble": "learning rate", "knn": "neighbours", "gmm": "components"}
SETTINGS |= {"svm": "cost", "forest": "least leaf"}


@dataclass(frozen=True)
class Choice:
    """What validation chose in one fold; valid: its score there."""

    layer: int
    strength: float
    valid: float


@dataclass(frozen=True)
class Outcome:
    """Predictions for all test tracks, pooled over folds.

    rows: [tests] of the task's manifest; truth, guess: as `Kind.measure` takes them; choices: one per fold;
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
    def decoder(self) -> str | None:
        """How the first fold's head over time is decoded, in words."""
        return self.frame_heads[0][0].said if self.frame_heads else None

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
        data = training_data(task, given, fold.train, fold.valid, used, seeds)
        winners, choice, curve = choose(task, fold, given, candidates(protocol, data))
        test = items_of(given.owner, fold.test)
        guesses.append(
            [answer(task.label_kind, head.respond(given.array, test), given.owner[test]) for head in winners]
        )
        choices.append(choice)
        curves.append([curve.get(layer, np.nan) for layer in range(len(given.array))])
        heads.append(tuple(winners))
    rows = np.concatenate([fold.test for fold in task.folds])
    pooled = [np.concatenate(parts) for parts in zip(*guesses)]
    table = np.mean(curves, axis=0)
    return Outcome(
        rows, task.targets[rows], pooled[0], tuple(choices), tuple(table.tolist()), tuple(pooled[1:]), tuple(heads)
    )


def candidates(protocol: Protocol, data: TrainingData) -> Iterable[Head]:
    """All heads of a protocol, trained."""
    return PROTOCOLS[protocol](data)


def training_data(
    task: Task, features: Features, train: Rows, valid: Rows, layers: Sequence[int], seeds: Sequence[int] = (0,)
) -> TrainingData:
    """What is learned from; train, valid: rows of the task's manifest."""
    truth = task.targets[valid]

    def judge(guess: Array) -> tuple[float, float]:
        score = task.main(truth, guess)
        return (score if np.isfinite(score) else -np.inf), task.label_kind.loss(truth, guess)

    owner = features.owner
    return TrainingData(
        task.label_kind, features.array, owner, items_of(owner, train), items_of(owner, valid), task.targets[owner],
        len(task.classes), layers, seeds, judge, task.name,
    )  # fmt: skip


def choose(
    task: Task, fold: Fold, features: Features, heads: Iterable[Head]
) -> tuple[list[Head], Choice, dict[int, float]]:
    """The heads (one per seed) of the best layer and setting, the choice, and each layer's best validation score."""
    truth = task.targets[fold.valid]
    items = items_of(features.owner, fold.valid)
    found: dict[tuple[int, float], list[tuple[Head, float, float]]] = {}
    last = None
    for head in heads:
        if head.layer != last:
            forget(features.array)
            last = head.layer
        guess = answer(task.label_kind, head.respond(features.array, items), features.owner[items])
        score, penalty = task.main(truth, guess), task.label_kind.loss(truth, guess)
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


def linear(data: TrainingData) -> Iterator[Head]:
    """Linear heads of every layer and strength: standardised features, convex losses, solved to the optimum."""
    for layer in data.layers:
        yield from _linear_layer(data, layer)


def _linear_layer(data: TrainingData, layer: int) -> Iterator[Head]:
    train = torch.from_numpy(np.ascontiguousarray(data.array[layer][data.train]))
    space = basis(train)

    def seen(array: Floats, items: Rows) -> torch.Tensor:
        return space.project(torch.from_numpy(np.ascontiguousarray(array[layer][items])))

    for solved in form_of(data.kind).solve(space.project(train), data.targets[data.train], data.outputs):

        def respond(array: Floats, items: Rows, solved: Any = solved) -> Array:
            return np.asarray(solved(seen(array, items)))

        yield Head(layer, solved.strength, 0, respond, LinearMap(space, solved))


PROTOCOLS: dict[str, Callable[[TrainingData], Iterable[Head]]] = {
    "linear": linear,
    "marble": grid,
    "knn": nearest,
    "gmm": mixtures,
    "svm": machines,
    "forest": forests,
}
