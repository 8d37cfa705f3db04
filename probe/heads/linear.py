"""Linear heads: every strength of an L2 path trained at once, to the optimum, on cached features.

The heads are convex (multinomial logistic regression, one-vs-rest logistic regression, ridge), so there is no learning
rate, no seed and no early stopping to tune. Features are standardised with the statistics of the training clips and
rotated into
their principal axes: a rotation changes no L2-penalised optimum, and in those axes the Hessian is nearly diagonal, so
that a diagonal preconditioner makes L-BFGS converge in tens of iterations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .solver import Function, Phase, minimise

Link = Literal["softmax", "sigmoid"]
STRENGTHS = tuple(float(10.0**exponent) for exponent in (-5.0, -4.25, -3.5, -2.75, -2.0, -1.25, -0.5, 0.25, 1.0))
RIDGE_STRENGTHS = tuple(float(10.0**exponent) for exponent in (-4.0, -3.25, -2.5, -1.75, -1.0, -0.25, 0.5, 1.25, 2.0))
TOLERANCE = 1e-5  # of the gradient, in units in which the curvature at the constant prediction is 1

LARGE = 100_000  # clips from which coordinates are kept as float32; sums are always float64
MANY = 100_000  # targets from which products are in float32 until the optimum is near
ROUGH = 1e-4  # of the gradient, that products in float32 reach
LOGITS = 200_000  # numbers that the logits of all heads take at a time: they stay in a core's cache
CHUNK = 16_384  # clips whose standardised features are in memory at a time


@dataclass(frozen=True)
class Basis:
    """Standardisation and rotation learned from training clips.

    mean, scale: [dim] of the training clips; a feature that doesn't vary has scale inf, so it becomes 0.
    rotation: [dim, rank] orthonormal principal axes of the standardised features.
    variances: [rank] variance along each axis, falling.
    """

    mean: Tensor
    scale: Tensor
    rotation: Tensor
    variances: Tensor

    def project(self, features: Tensor) -> Tensor:
        """features: [clips, dim] -> coordinates [clips, rank] float64; float32 of more than `LARGE` clips."""
        kind = torch.float64 if len(features) <= LARGE else torch.float32
        found = torch.empty(len(features), self.rotation.shape[1], dtype=kind)
        for start in range(0, len(features), CHUNK):
            part = features[start : start + CHUNK].double()
            found[start : start + CHUNK] = ((part - self.mean) / self.scale) @ self.rotation
        return found


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale [dim] float64 of features: [clips, dim]; a feature that doesn't vary has scale inf."""
    clips, chunks = len(features), features.split(CHUNK)
    mean = torch.stack([chunk.double().sum(0) for chunk in chunks]).sum(0) / clips
    scale = (torch.stack([(chunk.double() - mean).square().sum(0) for chunk in chunks]).sum(0) / clips).sqrt()
    # float32 features of a constant differ in their last digit: that is rounding, not information
    still = scale <= 1e-6 * mean.abs().clamp_min(1e-12)
    return mean, torch.where(still, torch.full_like(scale, torch.inf), scale)


def basis(features: Tensor) -> Basis:
    """Learn the standardisation and the principal axes of features: [clips, dim]."""
    clips, chunks = len(features), features.split(CHUNK)
    mean, scale = standardisation(features)
    if clips >= features.shape[1]:
        gram = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
        for chunk in chunks:
            standard = (chunk.double() - mean) / scale
            gram += standard.T @ standard
        variances, axes = torch.linalg.eigh(gram / clips)
    else:
        standard = (features.double() - mean) / scale
        variances, left = torch.linalg.eigh(standard @ standard.T / clips)
        axes = standard.T @ (left / (variances.clamp_min(1e-300) * clips).sqrt())
    keep = variances > 1e-10 * variances.max().clamp_min(1e-10)
    keep[-1] = True  # features that never vary keep one axis, on which every clip lies at 0
    order = torch.argsort(variances[keep], descending=True)
    return Basis(mean, scale, axes[:, keep][:, order], variances[keep][order])


@dataclass(frozen=True)
class Heads:
    """One head per strength. weight: [strengths, rank, outputs]; bias: [strengths, outputs]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, coordinates: Tensor) -> Tensor:
        """coordinates: [clips, rank] -> logits or values [strengths, clips, outputs]."""
        return torch.einsum("nr,srk->snk", coordinates, self.weight) + self.bias[:, None]

    def of(self, strength: int) -> LinearHead:
        """The head of one strength, by its number."""
        return LinearHead(self.weight[strength].clone(), self.bias[strength].clone())


@dataclass(frozen=True)
class LinearHead:
    """One head. weight: [rank, outputs]; bias: [outputs]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, coordinates: Tensor) -> Tensor:
        """coordinates: [clips, rank] -> logits or values [clips, outputs]."""
        return coordinates @ self.weight + self.bias


def ridge(coordinates: Tensor, targets: Tensor, strengths: tuple[float, ...]) -> Heads:
    """Minimise mean squared error / 2 + strength / 2 * |weight|^2 in closed form, the bias free.

    coordinates: [clips, rank] of `Basis.project` on the same clips; targets: [clips, outputs]. The scale of a target is
    the caller's business: standardise it so that one path of strengths fits all. scikit-learn's alpha is strength *
    clips.
    """
    mean = targets.mean(0)
    pairs = list(zip(coordinates.split(CHUNK), targets.split(CHUNK)))
    variances = torch.stack([part.double().square().sum(0) for part, _ in pairs]).sum(0) / len(targets)
    slope = torch.stack([part.double().T @ (wanted - mean) for part, wanted in pairs]).sum(0) / len(targets)
    weight = torch.stack([slope / (variances + strength)[:, None] for strength in strengths])
    return Heads(weight, mean.expand(len(strengths), -1).clone())


def logistic(
    coordinates: Tensor,
    targets: Tensor,
    strengths: tuple[float, ...],
    link: Link,
    tolerance: float = TOLERANCE,
    iterations: int = 1000,
) -> Heads:
    """Minimise mean cross-entropy + strength / 2 * |weight|^2 for all strengths at once, the bias free.

    coordinates: [clips, rank] of `Basis.project` on the same clips; targets: [clips, outputs] of 0 and 1, one 1 per row
    for "softmax", any number for "sigmoid" (each output by itself; the cross-entropies are summed over outputs,
    which makes each output its own problem). scikit-learn's C is 1 / (strength * clips). Every output needs a positive.
    """
    return logistics([coordinates], targets, strengths, link, tolerance, iterations)[0]


def logistics(
    tables: Sequence[Tensor],
    targets: Tensor,
    strengths: tuple[float, ...],
    link: Link,
    tolerance: float = TOLERANCE,
    iterations: int = 1000,
) -> list[Heads]:
    """`logistic` on several tables of the same clips (layers, poolings), which share their steps and nothing else.

    The strongest penalty comes first; each weaker one starts where the line through the two before it leads, since
    weights grow about evenly with the logarithm of its inverse. Many clips are first fitted with products in float32;
    float64 goes on from near the optimum, to the same tolerance.
    """
    problem = CrossEntropy(tables, targets, link)
    found: dict[float, Tensor] = {}
    for strength in sorted(set(strengths), reverse=True):
        step = problem.step(strength)
        phases = [Phase(problem.value(strength, step, torch.float64), tolerance)]
        if targets.numel() >= MANY:
            phases.insert(0, Phase(problem.value(strength, step, torch.float32), max(tolerance, ROUGH), rounding=1e-7))
        start = (_foreseen(found, strength) if found else problem.constant()) / step
        found[strength] = minimise(phases, start.flatten(1), iterations).view_as(step) * step
    paths = [torch.stack([found[strength][number].T for strength in strengths]) for number in range(len(tables))]
    return [
        Heads(path[:, : table.shape[1]].contiguous(), path[:, -1].contiguous()) for path, table in zip(paths, tables)
    ]


def _foreseen(found: dict[float, Tensor], strength: float) -> Tensor:
    """Weights at a strength, on the line through the last two in its logarithm; of one, the same."""
    if len(found) == 1:
        return next(iter(found.values()))
    (before, earlier), (last, newest) = list(found.items())[-2:]
    share = math.log(strength / last) / math.log(last / before)
    return newest + share * (newest - earlier)


class CrossEntropy:
    """The problems of several tables as one: points [tables, outputs · (rank + 1)].

    A point is [outputs, rank + 1] weights, the bias last, in units (`step`) in which the curvature at the constant
    prediction is 1; narrower tables leave their last weights at 0.
    """

    def __init__(self, tables: Sequence[Tensor], targets: Tensor, link: Link) -> None:
        self.targets, self.link = targets, link
        (self.clips, self.outputs), self.rank = targets.shape, max(table.shape[1] for table in tables)
        self.share = targets.double().mean(0)
        self.variances = torch.zeros(len(tables), self.rank + 1, dtype=torch.float64)
        for table, row in zip(tables, self.variances):
            parts = [part.double().square().sum(0) for part in table.split(CHUNK)]
            row[: table.shape[1]] = torch.stack(parts).sum(0) / self.clips
        self.variances[:, -1] = 1.0
        self.tables = [self._padded(table, table.dtype) for table in tables] if self.clips <= LARGE else [*tables]
        self._rough: tuple[list[Tensor], Tensor] | None = None

    def penalties(self, strength: float) -> Tensor:
        """[rank + 1], none for the bias."""
        found = torch.full((self.rank + 1,), strength, dtype=torch.float64)
        found[-1] = 0.0
        return found

    def step(self, strength: float) -> Tensor:
        """[tables, outputs, rank + 1], the inverse root of the curvature at the constant."""
        curvature = (self.share * (1 - self.share)).clamp_min(1e-4)  # of the loss, per output
        return torch.rsqrt(self.variances[:, None] * curvature[:, None] + self.penalties(strength))

    def constant(self) -> Tensor:
        """The weights [tables, outputs, rank + 1] of the constant prediction."""
        weights = torch.zeros(len(self.tables), self.outputs, self.rank + 1, dtype=torch.float64)
        share = self.share
        softmax = self.link == "softmax"
        weights[..., -1] = share.clamp_min(1e-6).log() if softmax else torch.logit(share.clamp(1e-6, 1 - 1e-6))
        return weights

    def value(self, strength: float, step: Tensor, kind: torch.dtype) -> Function:
        """What `minimise` minimises, its large products in this precision."""
        penalty = self.penalties(strength)
        tables, targets = self._in(kind)
        held: list[Tensor] = []  # the steps of the last call's problems, which rarely change

        def function(points: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
            if not held or held[0] is not problems:
                held[:] = [problems, step[problems]]
            weight = points.view_as(held[1]) * held[1]
            losses, slope = self._sums(weight, [tables[number] for number in problems.tolist()], targets, kind)
            shrink = penalty * weight
            losses = losses / self.clips + torch.einsum("pkr,pkr->p", shrink, weight) / 2
            return losses, shrink.add_(slope, alpha=1 / self.clips).mul_(held[1]).flatten(1)

        return function

    def _in(self, kind: torch.dtype) -> tuple[list[Tensor], Tensor]:
        """Tables and targets [outputs, clips] in a precision, unless they are too large to be kept twice."""
        targets = self.targets.T.to(kind).contiguous() if self.clips <= LARGE else self.targets.T
        if kind == torch.float64 or self.clips > LARGE:
            return self.tables, targets
        if self._rough is None:
            self._rough = [table.to(kind) for table in self.tables], targets
        return self._rough

    def _sums(self, weight: Tensor, tables: list[Tensor], targets: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """Summed cross-entropies [problems] and their slopes [problems, outputs, rank + 1], both float64."""
        cast = weight.to(kind)
        slope, losses = torch.zeros_like(cast), torch.zeros(len(weight), dtype=torch.float64)
        size = max(256, LOGITS // (len(weight) * self.outputs))
        for first in range(0, self.clips, size):
            wanted = targets[:, first : first + size].to(kind)
            parts = [self._padded(table[first : first + size], kind) for table in tables]
            logits = torch.empty(len(weight), self.outputs, wanted.shape[1], dtype=kind)
            for number, part in enumerate(parts):
                torch.mm(cast[number], part.T, out=logits[number])
            losses += residuals(logits, wanted, self.link)
            for number, part in enumerate(parts):
                slope[number].addmm_(logits[number], part)
        return losses, slope.double()

    def _padded(self, table: Tensor, kind: torch.dtype) -> Tensor:
        """[clips, rank + 1] of a table, zeros where it is narrower, ones at the end; a table that is so stays."""
        if table.dtype == kind and table.shape[1] == self.rank + 1:
            return table
        whole = torch.zeros(len(table), self.rank + 1, dtype=kind)
        whole[:, : table.shape[1]] = table
        whole[:, -1] = 1.0
        return whole


def residuals(logits: Tensor, wanted: Tensor, link: Link) -> Tensor:
    """Cross-entropies summed over clips [problems]; leaves answer minus target in the place of the logits.

    logits: [problems, outputs, clips]; wanted: [outputs, clips] of 0 and 1.
    """
    if link == "sigmoid":
        loss = (torch.nn.functional.softplus(logits) - logits * wanted).sum((1, 2), dtype=torch.float64)
        logits.sigmoid_().sub_(wanted)
        return loss
    logits -= logits.amax(1, keepdim=True)
    right = (logits * wanted).sum((1, 2), dtype=torch.float64)
    total = logits.exp_().sum(1, keepdim=True)
    logits.div_(total).sub_(wanted)
    return total.log_().sum((1, 2), dtype=torch.float64) - right
