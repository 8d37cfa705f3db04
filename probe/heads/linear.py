"""Linear heads: every strength of an L2 path trained at once, to the optimum, on cached features.

The heads are convex (multinomial logistic regression, one-vs-rest logistic regression, ridge), so there is no learning
rate, no seed and no early stopping to tune. Features are standardised with the statistics of the training clips and
rotated into
their principal axes: a rotation changes no L2-penalised optimum, and in those axes the Hessian is nearly diagonal, so
that a diagonal preconditioner makes L-BFGS converge in tens of iterations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

STRENGTHS = tuple(float(10.0**exponent) for exponent in (-5.0, -4.25, -3.5, -2.75, -2.0, -1.25, -0.5, 0.25, 1.0))
RIDGE_STRENGTHS = tuple(float(10.0**exponent) for exponent in (-4.0, -3.25, -2.5, -1.75, -1.0, -0.25, 0.5, 1.25, 2.0))

LARGE = 100_000  # clips from which coordinates are kept as float32; sums are always float64
CHUNK = 16_384  # clips whose standardised features are in memory at a time
LOGITS = 2e7  # numbers that the logits of all strengths take at a time

# A batch of problems: (points [problems, parameters], problem numbers) -> values [problems], gradients [problems,
# parameters]
Function = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


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
    link: Literal["softmax", "sigmoid"],
    tolerance: float = 1e-5,
    iterations: int = 1000,
) -> Heads:
    """Minimise mean cross-entropy + strength / 2 * |weight|^2 for all strengths at once, the bias free.

    coordinates: [clips, rank] of `Basis.project` on the same clips; targets: [clips, outputs] of 0 and 1, one 1 per row
    for "softmax", any number for "sigmoid" (each output by itself; the cross-entropies are summed over outputs,
    which makes each output its own problem). scikit-learn's C is 1 / (strength * clips). Every output needs a positive.
    """
    (clips, outputs), rank = targets.shape, coordinates.shape[1]
    penalties = torch.tensor(strengths, dtype=torch.float64)
    size = max(256, int(LOGITS // (len(strengths) * outputs)))
    chunks = list(zip(coordinates.split(size), targets.split(size)))
    share = targets.double().mean(0)
    curvature = (share * (1 - share)).clamp_min(1e-4)  # of the loss at the constant prediction, per output
    variances = torch.stack([part.double().square().sum(0) for part, _ in chunks]).sum(0) / clips
    step = torch.rsqrt(variances[None, :, None] * curvature + penalties[:, None, None])  # [strengths, rank, outputs]
    bias_step = torch.rsqrt(curvature)

    def split(points: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
        weight = points[:, : rank * outputs].view(len(points), rank, outputs) * step[problems]
        return weight, points[:, rank * outputs :] * bias_step

    def value(points: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = split(points, problems)
        flat = weight.permute(1, 0, 2).reshape(rank, -1)
        loss = torch.zeros(len(points), dtype=torch.float64)
        slope, bias_slope = torch.zeros_like(flat), torch.zeros_like(bias)
        for part, wanted in chunks:
            part, wanted = part.double(), wanted.double()
            logits = (part @ flat).view(len(part), -1, outputs) + bias
            if link == "softmax":
                log_normaliser = torch.logsumexp(logits, -1)
                loss += (log_normaliser - torch.einsum("nsk,nk->ns", logits, wanted)).sum(0)
                residual = (logits - log_normaliser[..., None]).exp() - wanted[:, None]
            else:
                loss += (torch.nn.functional.softplus(logits) - logits * wanted[:, None]).sum((0, 2))
                residual = logits.sigmoid() - wanted[:, None]
            slope += part.T @ residual.flatten(1)
            bias_slope += residual.sum(0)
        penalty = penalties[problems]
        loss = loss / clips + penalty / 2 * weight.square().sum((1, 2))
        slope = slope.view(rank, -1, outputs).permute(1, 0, 2) / clips
        gradient = (slope + penalty[:, None, None] * weight) * step[problems]
        return loss, torch.cat([gradient.flatten(1), bias_slope / clips * bias_step], 1)

    start = torch.zeros(len(strengths), rank * outputs + outputs, dtype=torch.float64)
    if link == "softmax":
        start[:, rank * outputs :] = share.clamp_min(1e-6).log() / bias_step
    else:
        start[:, rank * outputs :] = torch.logit(share.clamp(1e-6, 1 - 1e-6)) / bias_step
    best = minimise(value, start, tolerance, iterations)
    weight, bias = split(best, torch.arange(len(strengths)))
    return Heads(weight, bias.clone())


# A pair of L-BFGS: step and change of the gradient [problems, parameters], inverse of their inner product [problems]
Pair = tuple[Tensor, Tensor, Tensor]


def minimise(function: Function, start: Tensor, tolerance: float, iterations: int, memory: int = 8) -> Tensor:
    """L-BFGS on many independent smooth problems at once, each with its own line search and its own end.

    start: [problems, parameters]. A problem ends when the largest entry of its gradient is below `tolerance`, or when
    no step lowers its value any more (rounding). Nocedal and Wright, Numerical Optimization, algorithm 7.4.
    """
    points = start.clone()
    active = torch.arange(len(points))
    values, gradients = function(points, active)
    pairs: list[Pair] = []
    going = gradients.abs().amax(1) > tolerance
    for _ in range(iterations):
        if not going.all():
            active, values, gradients = active[going], values[going], gradients[going]
            pairs = [(step[going], change[going], inverse[going]) for step, change, inverse in pairs]
        if not len(active):
            break
        direction = _direction(gradients, pairs)
        slope = (direction * gradients).sum(1)
        at = points[active]
        rate = torch.ones_like(values)
        if not pairs:
            rate = torch.minimum(rate, 1 / gradients.norm(dim=1).clamp_min(1e-12))
        new, values, new_gradients, moved = _search(function, at, values, gradients, direction, slope, rate, active)
        points[active] = new
        pairs = [*pairs, _pair(new - at, new_gradients - gradients)][-memory:]
        gradients = new_gradients
        going = moved & (gradients.abs().amax(1) > tolerance)
    return points


def _pair(step: Tensor, change: Tensor) -> Pair:
    """A pair without positive curvature gets the inverse 0, which takes it out."""
    product = (step * change).sum(1)
    return step, change, torch.where(product > 1e-300, 1 / product.clamp_min(1e-300), 0.0)


def _direction(gradients: Tensor, pairs: list[Pair]) -> Tensor:
    """The two-loop recursion, one row per problem."""
    direction = -gradients
    weights = []
    for step, change, inverse in reversed(pairs):
        alpha = inverse * (step * direction).sum(1)
        direction = torch.addcmul(direction, alpha[:, None], change, value=-1)
        weights.append(alpha)
    if pairs:
        _, change, inverse = pairs[-1]
        length = inverse * change.square().sum(1)  # of the newest change, in units of its product with the step
        direction = direction / torch.where(length > 0, length, 1.0)[:, None]
    for (step, change, inverse), alpha in zip(pairs, reversed(weights)):
        beta = inverse * (change * direction).sum(1)
        direction = torch.addcmul(direction, (alpha - beta)[:, None], step)
    uphill = (direction * gradients).sum(1) >= 0
    return torch.where(uphill[:, None], -gradients, direction)


def _search(
    function: Function,
    at: Tensor,
    values: Tensor,
    gradients: Tensor,
    direction: Tensor,
    slope: Tensor,
    rate: Tensor,
    active: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Backtrack each problem until Armijo's condition holds; a problem that can't move stays and says so."""
    new, new_values, new_gradients = at.clone(), values.clone(), gradients.clone()
    waiting = torch.arange(len(active))
    for _ in range(25):
        trial = at[waiting] + rate[waiting, None] * direction[waiting]
        trial_values, trial_gradients = function(trial, active[waiting])
        fine = trial_values <= values[waiting] + 1e-4 * rate[waiting] * slope[waiting]
        hit = waiting[fine]
        new[hit], new_values[hit], new_gradients[hit] = trial[fine], trial_values[fine], trial_gradients[fine]
        waiting = waiting[~fine]
        if not len(waiting):
            break
        rate[waiting] = rate[waiting] / 2
    moved = torch.ones(len(active), dtype=torch.bool)
    moved[waiting] = False
    return new, new_values, new_gradients, moved
