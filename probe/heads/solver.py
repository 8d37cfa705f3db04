"""L-BFGS on many independent smooth problems at once, each with its own line search and its own end.

Nocedal and Wright, Numerical Optimization, algorithm 7.4. The two loops run on inner products (Chen et al. 2014,
Large-scale L-BFGS using MapReduce), so that an iteration reads the remembered steps twice however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# A batch of problems: (points [problems, parameters], problem numbers) -> values [problems], gradients [problems,
# parameters]
Function = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Array = npt.NDArray[np.float64]
MEMORY = 8  # steps that are remembered
SHORTEST = 25  # halvings of a step before a problem is said not to move


@dataclass(frozen=True)
class Phase:
    """What is minimised until the largest entry of a problem's gradient is below `tolerance`.

    rounding: of values, relative; a step that raises them by less isn't held against it.
    """

    function: Function
    tolerance: float
    rounding: float = 0.0


class History:
    """The last steps of some problems, what the gradient changed on them, and all inner products.

    vectors: [problems, 2 · memory, parameters], steps before changes; products: [problems, 2 · memory + 1, the same],
    the gradient last; order: places of the steps, the oldest first.
    """

    def __init__(self, vectors: Tensor, products: Array, order: tuple[int, ...] = ()) -> None:
        self.vectors, self.products, self.order = vectors, products, order

    @classmethod
    def empty(cls, problems: int, parameters: int, memory: int = MEMORY) -> History:
        """Of problems that haven't moved."""
        vectors = torch.zeros(problems, 2 * memory, parameters, dtype=torch.float64)
        return cls(vectors, np.zeros((problems, 2 * memory + 1, 2 * memory + 1)))

    @property
    def memory(self) -> int:
        """How many steps fit."""
        return self.vectors.shape[1] // 2

    def of(self, going: Tensor) -> History:
        """Of some of the problems."""
        return History(self.vectors[going], self.products[going.numpy()], self.order)

    def add(self, before: Tensor, after: Tensor, slope: Tensor, new_slope: Tensor) -> None:
        """Remember a step and what it changed, in the place of the oldest, and look from where it led."""
        place = len(self.order) if len(self.order) < self.memory else self.order[0]
        self.order = (*(kept for kept in self.order if kept != place), place)
        torch.sub(after, before, out=self.vectors[:, place])
        torch.sub(new_slope, slope, out=self.vectors[:, self.memory + place])
        newest = torch.stack([self.vectors[:, place], self.vectors[:, self.memory + place], new_slope], 1)
        found = torch.bmm(self.vectors, newest.transpose(1, 2)).numpy()
        for column, row in enumerate((place, self.memory + place, -1)):
            self.products[:, :-1, row] = self.products[:, row, :-1] = found[..., column]
        self.products[:, -1, -1] = _squares(new_slope)

    def see(self, gradients: Tensor) -> None:
        """Take the inner products with the gradients [problems, parameters]."""
        found = torch.bmm(self.vectors, gradients[..., None])[..., 0].numpy()
        self.products[:, :-1, -1] = self.products[:, -1, :-1] = found
        self.products[:, -1, -1] = _squares(gradients)

    def direction(self, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Where to go [problems, parameters], and the slope there [problems]; downhill where the memory misleads."""
        share = self._shares()
        slope = np.einsum("pk,pk->p", share, self.products[:, -1])
        uphill = slope >= 0
        share[uphill] = 0.0
        share[uphill, -1] = -1.0
        slope = np.where(uphill, -self.products[:, -1, -1], slope)
        found = torch.bmm(torch.from_numpy(share[:, None, :-1]), self.vectors)[:, 0]
        return found.addcmul_(torch.from_numpy(share[:, -1:]), gradients), torch.from_numpy(slope)

    def _shares(self) -> Array:
        """The two-loop recursion: how much of each vector, and of the gradient, makes the direction."""
        products, memory = self.products, self.memory
        share = np.zeros(products.shape[:2])
        share[:, -1] = -1.0
        inverses, weights = {}, {}
        for place in reversed(self.order):
            curvature = products[:, place, memory + place]
            positive = curvature > 1e-300  # a pair without positive curvature is left out
            inverses[place] = np.where(positive, 1 / np.where(positive, curvature, 1.0), 0.0)
            weights[place] = inverses[place] * np.einsum("pk,pk->p", products[:, place], share)
            share[:, memory + place] -= weights[place]
        if self.order:
            newest = self.order[-1]
            length = inverses[newest] * products[:, memory + newest, memory + newest]
            share /= np.where(length > 0, length, 1.0)[:, None]
        for place in self.order:
            beta = inverses[place] * np.einsum("pk,pk->p", products[:, memory + place], share)
            share[:, place] += weights[place] - beta
        return share


def _squares(vectors: Tensor) -> Array:
    """[problems]."""
    return np.asarray(torch.bmm(vectors[:, None], vectors[..., None])[:, 0, 0].numpy())


def minimise(phases: Sequence[Phase], start: Tensor, iterations: int) -> Tensor:
    """Minimise by one function after the other, each going on where the last one ended, with what it remembers.

    start: [problems, parameters]. A problem ends a phase when its gradient is small enough, or when no step lowers its
    value any more (rounding).
    """
    points = start.clone()
    whole = History.empty(*points.shape)
    for number, phase in enumerate(phases):
        whole = _minimise(phase, points, whole, iterations, number + 1 < len(phases))
    return points


def _minimise(phase: Phase, points: Tensor, history: History, iterations: int, remember: bool) -> History:
    """One phase, in place; returns what all problems remember at its end, if that is wanted."""
    active, at = torch.arange(len(points)), points.clone()
    ended = History(history.vectors.clone(), history.products.copy()) if remember else history
    values, gradients = phase.function(at, active)
    history.see(gradients)
    going = gradients.abs().amax(1) > phase.tolerance
    for _ in range(iterations):
        if not going.all():
            points[active] = at
            if remember:
                ended.vectors[active[~going]] = history.vectors[~going]
                ended.products[active[~going].numpy()] = history.products[(~going).numpy()]
            active, at, values, gradients = active[going], at[going], values[going], gradients[going]
            history = history.of(going)
        if not len(active):
            break
        direction, slope = history.direction(gradients)
        rate = torch.ones_like(values)
        if not history.order:
            rate = torch.minimum(rate, 1 / gradients.norm(dim=1).clamp_min(1e-12))
        new, values, new_gradients, moved = _search(phase, at, values, gradients, direction, slope, rate, active)
        history.add(at, new, gradients, new_gradients)
        at, gradients = new, new_gradients
        going = moved & (gradients.abs().amax(1) > phase.tolerance)
    points[active] = at
    ended.order = history.order
    return ended


def _search(
    phase: Phase, at: Tensor, values: Tensor, gradients: Tensor, direction: Tensor, slope: Tensor, rate: Tensor,
    active: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Backtrack each problem until Armijo's condition holds; a problem that can't move stays and says so."""
    allowed = values + phase.rounding * values.abs()
    trial = torch.addcmul(at, rate[:, None], direction)
    trial_values, trial_gradients = phase.function(trial, active)
    fine = trial_values <= allowed + 1e-4 * rate * slope
    if fine.all():
        return trial, trial_values, trial_gradients, fine
    new, new_values, new_gradients = at.clone(), values.clone(), gradients.clone()
    waiting, rate = torch.arange(len(active)), rate.clone()
    for attempt in range(SHORTEST):
        if attempt:
            trial = torch.addcmul(at[waiting], rate[waiting, None], direction[waiting])
            trial_values, trial_gradients = phase.function(trial, active[waiting])
            fine = trial_values <= allowed[waiting] + 1e-4 * rate[waiting] * slope[waiting]
        hit = waiting[fine]
        new[hit], new_values[hit], new_gradients[hit] = trial[fine], trial_values[fine], trial_gradients[fine]
        waiting = waiting[~fine]
        if not len(waiting):
            break
        rate[waiting] = rate[waiting] / 2
    moved = torch.ones(len(active), dtype=torch.bool)
    moved[waiting] = False
    return new, new_values, new_gradients, moved
