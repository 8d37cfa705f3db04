"""The `marble` protocol: MARBLE's constrained track (Yuan et al. 2023, appendix A), all heads of a grid at once.

A head is Linear, ReLU, dropout 0.2, Linear, with 512 hidden units, trained by Adam with batches of 64 at six learning
rates on every single layer and on a learned, softmax-weighted sum of all layers but the front end's. The learning rate
halves when the validation score hasn't risen for 5 epochs, training ends after 15 such epochs or 100 in all, and the
best epoch's weights are kept; on MARBLE's own tasks it waits as long as there (`WAITS`). Features aren't standardised,
as in MARBLE's code.

The heads of one layer share batches, dropout masks and their inputs' products, so that they train as one wide network
without sharing anything that matters: a head's initialisation, batches and masks depend on the seed alone, and each
head stops by its own validation score. So a head gives the same result alone as in the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..listen.features import forget
from .forms import Form, form_of
from .head import WEIGHTED, Array, Floats, Head, Rows, TrainingData, answer
from .kept import NetworkMap
from .side_by_side import side_by_side

RATES = (5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2)
HIDDEN = 512
DROPOUT = 0.2
BATCH = 64
EPOCHS = 100
PATIENCE = 15  # epochs without a better validation score until the end
HALVING = 5  # such epochs until the learning rate halves
_PATIENT = ("emomusic", "giantsteps_key", "gtzan_genre")
_TAGS = ("mtt_tags", "mtt_tags_filtered", "jamendo_genre", "jamendo_instrument", "jamendo_mood", "jamendo_top50")
WAITS = dict.fromkeys(_PATIENT, (20, 5)) | dict.fromkeys(_TAGS, (10, 3))
"""Patience and halving by task, as MARBLE v1's configurations have them; other tasks take the two above."""
BETAS, EPSILON = (0.9, 0.999), 1e-8
CHUNK = 4096  # items that are judged at a time


def grid(data: TrainingData, rates: Sequence[float] = RATES, epochs: int = EPOCHS) -> Iterator[Head]:
    """Every layer (and the weighted sum of several) × learning rate × seed; layers train side by side in threads."""
    layers = [*data.layers, *([WEIGHTED] if len(data.layers) > 1 else [])]
    works = list(product(layers, data.seeds))
    for heads in side_by_side(lambda work: _group(data, work[0], work[1], rates, epochs), works):
        yield from heads


@dataclass(frozen=True)
class Table:
    """What heads of one layer read, item by item from a table that may be larger than the memory.

    array: [layers, items, dim]; layer: which, or `WEIGHTED`; mixed: the layers of the weighted sum.
    """

    array: Floats
    layer: int
    mixed: Sequence[int]

    def of(self, items: Rows) -> Tensor:
        """[items, dim] of the layer, or [layers, items, dim] for the weighted sum."""
        if self.layer != WEIGHTED:
            return torch.from_numpy(np.array(self.array[self.layer][items]))
        return torch.from_numpy(np.stack([self.array[number][items] for number in self.mixed]))


@dataclass
class State:
    """Parameters of several heads that read the same layer, with Adam's moments.

    values, first, second: tensors [heads, …]: input weights [512, dim], hidden biases, output weights [outputs, 512],
    output biases, and for a weighted sum the logits of the layers' shares.
    """

    values: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]

    def of(self, keep: Tensor) -> State:
        """Only the heads of these numbers."""
        return State(*([tensor[keep] for tensor in part] for part in (self.values, self.first, self.second)))


def begin(heads: int, dim: int, outputs: int, layers: int, generator: torch.Generator) -> State:
    """torch.nn.Linear's initialisation, the same for all heads; normal logits for `layers` shares (0: one layer)."""

    def uniform(*shape: int, fan_in: int) -> Tensor:
        bound = fan_in**-0.5
        return ((torch.rand(shape, generator=generator) * 2 - 1) * bound).expand(heads, *shape).clone()

    values = [
        uniform(HIDDEN, dim, fan_in=dim),
        uniform(HIDDEN, fan_in=dim),
        uniform(outputs, HIDDEN, fan_in=HIDDEN),
        uniform(outputs, fan_in=HIDDEN),
    ]
    if layers:
        values.append(torch.randn(layers, generator=generator).expand(heads, layers).clone())
    return State(values, [torch.zeros_like(v) for v in values], [torch.zeros_like(v) for v in values])


def forward(values: Sequence[Tensor], x: Tensor, mask: Tensor | None) -> Tensor:
    """x: [items, dim], or [layers, items, dim] for a weighted sum -> logits [heads, items, outputs].

    mask: [items, 512] of 0 and 1 / (1 - dropout), None for evaluation.
    """
    weight, bias, out_weight, out_bias = values[:4]
    if len(values) == 5:
        mixed = torch.einsum("hl,lid->hid", torch.softmax(values[4], -1), x)
        hidden = torch.relu(torch.baddbmm(bias[:, None], mixed, weight.transpose(1, 2)))
    else:
        wide = torch.nn.functional.linear(x, weight.flatten(0, 1), bias.flatten())
        hidden = torch.relu(wide).view(len(x), len(weight), HIDDEN).transpose(0, 1)
    if mask is not None:
        hidden = hidden * mask
    return torch.baddbmm(out_bias[:, None], hidden, out_weight.transpose(1, 2))


def _adam(state: State, gradients: Sequence[Tensor], rates: Tensor, step: int) -> None:
    """One step of Adam (Kingma and Ba 2015), a learning rate per head."""
    beta1, beta2 = BETAS
    size = rates / (1 - beta1**step)
    root = (1 - beta2**step) ** 0.5
    for value, first, second, gradient in zip(state.values, state.first, state.second, gradients):
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = second.sqrt().div_(root).add_(EPSILON)
        value.sub_(scale.reciprocal_().mul_(first).mul_(size.view(-1, *[1] * (value.ndim - 1))))


def _group(data: TrainingData, layer: int, seed: int, rates: Sequence[float], epochs: int) -> list[Head]:
    """Train the heads of all learning rates on one layer (or the weighted sum) with one seed."""
    generator = torch.Generator().manual_seed(seed)
    table = Table(data.array, layer, [number for number in data.layers if number > 0])
    form = form_of(data.kind)
    targets, mean, scale = form.prepared(data.targets[data.train])
    shares = len(table.mixed) if layer == WEIGHTED else 0
    state = begin(len(rates), data.array.shape[-1], data.outputs, shares, generator)
    alive = list(range(len(rates)))
    speed = torch.tensor(rates)
    best: list[tuple[float, float]] = [(-np.inf, -np.inf)] * len(rates)
    kept: list[list[Tensor]] = [[v[head].clone() for v in state.values] for head in alive]
    since = [0] * len(rates)
    patience, halving = WAITS.get(data.name, (PATIENCE, HALVING))
    step = 0
    for _ in range(epochs):
        order = torch.randperm(len(data.train), generator=generator)
        for batch in order.split(BATCH):
            step += 1
            mask = (torch.rand(len(batch), HIDDEN, generator=generator) >= DROPOUT).float() / (1 - DROPOUT)
            _step(form, state, table.of(data.train[batch.numpy()]), targets[batch], mask, speed, step)
            if step % 16 == 0:
                forget(data.array)
        logits = _logits(state.values, table, data.valid)
        gone = []
        for place, head in enumerate(alive):
            found = (logits[place] * scale + mean).numpy()
            score, penalty = (-np.inf, np.inf)
            if np.isfinite(found).all():
                score, penalty = data.judge(answer(data.kind, found, data.owner[data.valid]))
            if (score, -penalty) > best[head]:
                kept[head] = [v[place].clone() for v in state.values]
                since[head] = 0 if score > best[head][0] else since[head] + 1
                best[head] = (score, -penalty)
            else:
                since[head] += 1
            if since[head] and since[head] % halving == 0:
                speed[place] /= 2
            if since[head] >= patience:
                gone.append(place)
        if gone:
            keep = torch.tensor([place for place in range(len(alive)) if place not in gone], dtype=torch.long)
            alive = [alive[place] for place in keep.tolist()]
            state, speed = state.of(keep), speed[keep]
        if not alive:
            break
    mixed = table.mixed if layer == WEIGHTED else ()
    return [
        Head(layer, rate, seed, _respond(form, values, table, mean, scale), NetworkMap(values, mixed, mean, scale))
        for rate, values in zip(rates, kept)
    ]


def _step(form: Form, state: State, x: Tensor, targets: Tensor, mask: Tensor, speed: Tensor, step: int) -> None:
    values = [value.detach().requires_grad_() for value in state.values]
    loss = form.criterion(forward(values, x, mask), targets).sum()
    gradients = torch.autograd.grad(loss, values)
    _adam(state, gradients, speed, step)


def _logits(values: Sequence[Tensor], table: Table, items: Rows) -> Tensor:
    """[heads, items, outputs] float64 in evaluation mode, `CHUNK` items at a time."""
    with torch.no_grad():
        parts = [forward(values, table.of(part), None) for part in np.split(items, range(CHUNK, len(items), CHUNK))]
    return torch.cat(parts, 1).double()


def _respond(
    form: Form, values: list[Tensor], table: Table, mean: Tensor, scale: Tensor
) -> Callable[[Floats, Rows], Array]:
    def respond(array: Floats, items: Rows) -> Array:
        logits = _logits([v[None] for v in values], replace(table, array=array), items)[0]
        return np.asarray(form.said(logits * scale + mean).numpy())

    return respond
