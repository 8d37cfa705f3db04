"""Fit the heads of a task, choose among them on validation, read the test set once.

A protocol makes candidates: heads of every layer and setting, learned on the training tracks. `linear` has one strength
of regularisation per head, `marble` one learning rate (and seeds), `knn` one number of neighbours, `gmm` one of
Gaussians per class, `svm` one cost, `forest` one least size of a leaf (and seeds). Whatever the protocol, the choice is
made by the main metric of the validation tracks, ties broken by their loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ..data.labels.splits import Fold
from .heads.classic import forests, machines
from .heads.forms import Solved, form_of
from .heads.gmm import mixtures
from .heads.head import Array, Features, Floats, Head, Rows, TrainingData, answer, items_of
from .heads.kept import LinearMap
from .heads.knn import nearest
from .heads.linear import Basis, basis
from .heads.marble import grid
from .heads.side_by_side import side_by_side
from .listen.features import forget
from .task import Task

Protocol = Literal["linear", "marble", "knn", "gmm", "svm", "forest"]
SETTINGS = {"linear": "strength", "marble": "learning rate", "knn": "neighbours", "gmm": "components"}
TOGETHER = 2_000  # training items up to which heads of several layers and poolings are solved together
SETTINGS |= {"svm": "cost", "forest": "least leaf"}


@dataclass(frozen=True)
class Choice:
    """What validation chose in one fold; valid: its score there."""

    layer: int
    strength: float
    valid: float
    pooling: str = "mean"


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
    def pooling(self) -> str:
        """The pooling that most folds chose."""
        return Counter(choice.pooling for choice in self.choices).most_common(1)[0][0]

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
        winners, choice, curve = learn(task, fold, given, used, protocol, seeds)
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


def learn(
    task: Task, fold: Fold, features: Features, layers: Sequence[int], protocol: Protocol = "linear",
    seeds: Sequence[int] = (0,),
) -> tuple[list[Head], Choice, dict[int, float]]:  # fmt: skip
    """Train the protocol's heads on the fold's training tracks; what validation chose among them: see `choose`."""
    return choose(task, fold, features, _of_all_poolings(task, fold, features, layers, protocol, seeds))


def _of_all_poolings(
    task: Task, fold: Fold, features: Features, layers: Sequence[int], protocol: Protocol, seeds: Sequence[int]
) -> Iterator[Head]:
    """The protocol's heads, pooling by pooling; they respond to the widest features."""
    parts = [
        (name, training_data(task, part, fold.train, fold.valid, layers, seeds)) for name, part in features.poolings()
    ]
    trained: Iterable[tuple[str, TrainingData, Iterable[Head]]]
    if protocol == "linear":
        found = linear_heads([(data, layer) for _, data in parts for layer in layers])
        trained = ((name, data, next(found)) for name, data in parts for _ in layers)
    else:
        trained = ((name, data, candidates(protocol, data)) for name, data in parts)
    for name, data, heads in trained:
        width = data.array.shape[-1]
        whole = width == features.array.shape[-1]
        for head in heads:
            yield replace(head, pooling=name, respond=head.respond if whole else _reading(head, width))


def candidates(protocol: Protocol, data: TrainingData) -> Iterable[Head]:
    """All heads of a protocol on features of one pooling, trained."""
    return PROTOCOLS[protocol](data)


def _reading(head: Head, width: int) -> Callable[[Floats, Rows], Array]:
    """The head's answers to features of which it reads the first `width` columns."""
    return lambda array, items: head.respond(array[..., :width], items)


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
    """The heads (one per seed) of the best pooling, layer and setting, the choice, each layer's best score."""
    truth = task.targets[fold.valid]
    items = items_of(features.owner, fold.valid)
    found: dict[tuple[str, int, float], list[tuple[Head, float, float]]] = {}
    last = None
    for head in heads:
        if head.layer != last:
            forget(features.array)
            last = head.layer
        guess = answer(task.label_kind, head.respond(features.array, items), features.owner[items])
        score, penalty = task.main(truth, guess), task.label_kind.loss(truth, guess)
        found.setdefault((head.pooling, head.layer, head.setting), []).append((head, score, penalty))

    def rank(place: tuple[str, int, float]) -> tuple[float, float]:
        score = float(np.mean([score for _, score, _ in found[place]]))
        penalty = float(np.mean([penalty for _, _, penalty in found[place]]))
        return (score if np.isfinite(score) else -np.inf), -(penalty if np.isfinite(penalty) else np.inf)

    best = max(found, key=rank)  # of equals the first: narrowest, lowest, least regularised
    curve: dict[int, float] = {}
    for place in found:
        layer, score = place[1], rank(place)[0]
        curve[layer] = max(curve.get(layer, -np.inf), score)
    curve = {layer: score if np.isfinite(score) else float("nan") for layer, score in curve.items()}
    score = float(np.mean([score for _, score, _ in found[best]]))
    pooling, layer, setting = best
    return [head for head, _, _ in found[best]], Choice(layer, setting, score, pooling), curve


def linear(data: TrainingData) -> Iterator[Head]:
    """Linear heads of every layer and strength: standardised features, convex losses, solved to the optimum."""
    for heads in linear_heads([(data, layer) for layer in data.layers]):
        yield from heads


def linear_heads(places: Sequence[tuple[TrainingData, int]]) -> Iterator[list[Head]]:
    """Linear heads of every strength, for each layer of each features of the same items: small ones solved together."""
    together = 1 if len(places[0][0].train) > TOGETHER else -(-len(places) // 2)
    works = [places[start : start + together] for start in range(0, len(places), together)]
    for found in side_by_side(_linear_heads, works, most=1 if together == 1 else None):
        yield from found


def _linear_heads(places: Sequence[tuple[TrainingData, int]]) -> list[list[Head]]:
    trains = [torch.from_numpy(np.ascontiguousarray(data.array[layer][data.train])) for data, layer in places]
    spaces = [basis(train) for train in trains]
    tables = [space.project(train) for space, train in zip(spaces, trains)]
    data = places[0][0]
    paths = form_of(data.kind).solve_all(tables, data.targets[data.train], data.outputs)
    return [
        [_linear_head(layer, space, solved) for solved in path]
        for (_, layer), space, path in zip(places, spaces, paths)
    ]


def _linear_head(layer: int, space: Basis, solved: Solved) -> Head:
    def respond(array: Floats, items: Rows) -> Array:
        return np.asarray(solved(space.project(torch.from_numpy(np.ascontiguousarray(array[layer][items])))))

    return Head(layer, solved.strength, 0, respond, LinearMap(space, solved))


PROTOCOLS: dict[str, Callable[[TrainingData], Iterable[Head]]] = {
    "linear": linear,
    "marble": grid,
    "knn": nearest,
    "gmm": mixtures,
    "svm": machines,
    "forest": forests,
}
