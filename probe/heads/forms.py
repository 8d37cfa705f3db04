"""What heads of any kind do in one of three ways, by the kind's link: choose one of several, judge each, tell numbers.

A form owns its convex problem (`solve`), its loss for gradient descent, its votes of neighbours, and what its logits
mean. Kinds of labels say which form they have; no protocol asks for a kind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...data.labels.kind import Kind
from .linear import RIDGE_STRENGTHS, STRENGTHS, TOLERANCE, LinearHead, logistics, ridge

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
UNHEARD = -1e3  # log probability over time of a name that training never has


@dataclass(frozen=True)
class Solved:
    """A head of one strength on coordinates.

    head: of the outputs that can be learned; fixed: [outputs] logits of the others; learned: their numbers.
    offset, scale: [outputs], what takes the standardisation of numbers back.
    """

    strength: float
    form: Form
    head: LinearHead | None
    fixed: Array
    learned: Rows
    offset: Tensor | None = None
    scale: Tensor | None = None

    def __call__(self, coordinates: Tensor) -> Array:
        """coordinates: [items, rank] -> [items, outputs] as `Head.respond`."""
        result = np.tile(self.fixed, (len(coordinates), 1))
        if self.head is not None:
            found = self.form.said(self.head(coordinates))
            if self.scale is not None and self.offset is not None:
                found = found * self.scale + self.offset
            result[:, self.learned] = found.numpy()
        return result


class Form(ABC):
    """See the module."""

    calibrates: bool = True
    """whether a temperature changes what its logits mean"""

    def said(self, logits: Tensor) -> Tensor:
        """What a head answers about an item, from its logits [..., outputs]."""
        return logits

    @abstractmethod
    def likely(self, said: Array) -> Array:
        """Probabilities or values from means of what heads answered."""

    def activity(self, said: Array) -> Array:
        """What decoders over time read, from what a head answered about frames [frames, outputs]."""
        return self.likely(said)

    @abstractmethod
    def table(self, targets: npt.NDArray[Any], outputs: int) -> Array:
        """Targets as numbers [items, outputs]."""

    def solve(
        self,
        coordinates: Tensor,
        targets: npt.NDArray[Any],
        outputs: int,
        strengths: tuple[float, ...] | None = None,
        tolerance: float = TOLERANCE,
    ) -> list[Solved]:
        """The heads of every strength at the optimum. coordinates: [items, rank]; targets: [items, …].

        tolerance: of the gradient's largest entry, where a head is found by iteration.
        """
        return self.solve_all([coordinates], targets, outputs, strengths, tolerance)[0]

    @abstractmethod
    def solve_all(
        self,
        tables: Sequence[Tensor],
        targets: npt.NDArray[Any],
        outputs: int,
        strengths: tuple[float, ...] | None = None,
        tolerance: float = TOLERANCE,
    ) -> list[list[Solved]]:
        """`solve` on several tables of coordinates of the same items at once, each as if alone."""

    @abstractmethod
    def votes(self, shares: Array, table: Array, prior: float) -> Array:
        """Neighbours' mean answers [items, outputs] as `Head.respond`. table: of all training items."""

    @abstractmethod
    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """[heads, items, outputs] -> mean loss [heads]."""

    def prepared(self, targets: npt.NDArray[Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Targets for `criterion`, and the mean and scale that take their standardisation back."""
        return torch.from_numpy(targets), torch.zeros(1), torch.ones(1)


class _Logistic(Form):
    """Outputs that training can't teach have fixed logits."""

    link: Literal["softmax", "sigmoid"]

    def solve_all(
        self,
        tables: Sequence[Tensor],
        targets: npt.NDArray[Any],
        outputs: int,
        strengths: tuple[float, ...] | None = None,
        tolerance: float = TOLERANCE,
    ) -> list[list[Solved]]:
        """Logistic regression."""
        strengths = STRENGTHS if strengths is None else strengths
        fixed, learned = self.constants(targets, outputs)
        if not len(learned):
            return [[Solved(strength, self, None, fixed, learned) for strength in strengths] for _ in tables]
        wanted = torch.from_numpy(self.table(targets, outputs)[:, learned].astype(np.float32))
        return [
            [Solved(strength, self, heads.of(number), fixed, learned) for number, strength in enumerate(strengths)]
            for heads in logistics(tables, wanted, strengths, self.link, tolerance)
        ]

    @abstractmethod
    def constants(self, targets: npt.NDArray[Any], outputs: int) -> tuple[Array, Rows]:
        """[outputs] logits of the outputs that can't be learned, and the numbers of those that can."""


class OneOf(_Logistic):
    """One of several names: softmax. A name without a training item gets probability 0, an only one 1."""

    link = "softmax"

    def said(self, logits: Tensor) -> Tensor:
        """Log probabilities."""
        return torch.log_softmax(logits, -1)

    def activity(self, said: Array) -> Array:
        """Log probabilities."""
        return np.where(np.isneginf(said), UNHEARD, said)

    def likely(self, said: Array) -> Array:
        """Probabilities."""
        return np.asarray(torch.softmax(torch.from_numpy(said), -1).numpy())

    def table(self, targets: npt.NDArray[Any], outputs: int) -> Array:
        """One 1 per row."""
        return np.eye(outputs)[targets]

    def constants(self, targets: npt.NDArray[Any], outputs: int) -> tuple[Array, Rows]:
        """See the class."""
        present = np.unique(targets)
        fixed = np.full(outputs, -np.inf)
        if len(present) == 1:
            fixed[present] = 0.0
            return fixed, present[:0]
        return fixed, present

    def votes(self, shares: Array, table: Array, prior: float) -> Array:
        """Log shares."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log((1 - prior) * shares + prior * table.mean(0)))

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy."""
        return -torch.log_softmax(logits, -1)[:, torch.arange(len(targets)), targets].mean(1)


class Each(_Logistic):
    """Each name for itself: sigmoid. A name that all or no training items carry is certain."""

    link = "sigmoid"

    def likely(self, said: Array) -> Array:
        """Probabilities."""
        return np.asarray(torch.sigmoid(torch.from_numpy(said)).numpy())

    def table(self, targets: npt.NDArray[Any], outputs: int) -> Array:
        """As they are."""
        return targets.astype(np.float64)

    def constants(self, targets: npt.NDArray[Any], outputs: int) -> tuple[Array, Rows]:
        """See the class."""
        share = targets.mean(0)
        learned = np.flatnonzero((share > 0) & (share < 1))
        return np.where(share > 0, np.inf, -np.inf), learned

    def votes(self, shares: Array, table: Array, prior: float) -> Array:
        """Logits of shares."""
        shares = (1 - prior) * shares + prior * table.mean(0)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(shares) - np.log1p(-shares))

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean binary cross-entropy."""
        return (torch.nn.functional.softplus(logits) - logits * targets).mean((1, 2))

    def prepared(self, targets: npt.NDArray[Any]) -> tuple[Tensor, Tensor, Tensor]:
        """As float."""
        return torch.from_numpy(targets).float(), torch.zeros(1), torch.ones(1)


class Values(Form):
    """Numbers: what a head says is meant."""

    calibrates = False

    def likely(self, said: Array) -> Array:
        """As they are."""
        return np.asarray(said)

    def table(self, targets: npt.NDArray[Any], outputs: int) -> Array:
        """As they are."""
        return targets.astype(np.float64)

    def solve_all(
        self,
        tables: Sequence[Tensor],
        targets: npt.NDArray[Any],
        outputs: int,
        strengths: tuple[float, ...] | None = None,
        tolerance: float = TOLERANCE,
    ) -> list[list[Solved]]:
        """Ridge regression on standardised numbers."""
        wanted = torch.from_numpy(targets)
        mean, scale = _standard(wanted)
        strengths = RIDGE_STRENGTHS if strengths is None else strengths
        paths = [ridge(table, (wanted - mean) / scale, strengths) for table in tables]
        none, learned = np.zeros(outputs), np.arange(outputs)
        return [
            [Solved(strength, self, lines.of(k), none, learned, mean, scale) for k, strength in enumerate(strengths)]
            for lines in paths
        ]

    def votes(self, shares: Array, table: Array, prior: float) -> Array:
        """Means."""
        return np.asarray(shares)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error."""
        return (logits - targets).square().mean((1, 2))

    def prepared(self, targets: npt.NDArray[Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Standardised."""
        found = torch.from_numpy(targets)
        mean, scale = _standard(found)
        return ((found - mean) / scale).float(), mean, scale


def _standard(values: Tensor) -> tuple[Tensor, Tensor]:
    mean, scale = values.mean(0), values.std(0, correction=0)
    return mean, torch.where(scale > 1e-12, scale, torch.ones_like(scale))


FORMS: dict[str, Form] = {"softmax": OneOf(), "sigmoid": Each(), "identity": Values()}


def form_of(kind: Kind) -> Form:
    """How heads of a kind learn and answer."""
    return FORMS[kind.link]
