"""Trained heads as plain maps of features: what of them is kept, in the format of `models/heads.py`.

Standardisation, rotation and the scale of numbers are folded in, so that a kept head needs nothing of the probe and
answers as it did there. Over clips it is calibrated on the validation tracks: a temperature, and thresholds of tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from ...data.labels.kind import Kind
from ...models import heads as published
from .forms import Solved, form_of
from .linear import Basis

if TYPE_CHECKING:
    from ...models.heads import Head

Array = npt.NDArray[np.float64]
COOLEST, HOTTEST = 0.05, 20.0  # bounds of a temperature


@dataclass(frozen=True)
class Place:
    """Where a head stands. names: of its outputs; width: of the encoder's frames; pooling: of frames, as features say.

    layer: which it reads; layers: how many the encoder has.
    """

    kind: Kind
    names: tuple[str, ...]
    width: int
    layer: int
    layers: int
    pooling: str = "mean"

    def config(self, **more: Any) -> published.HeadConfig:
        """As plain data."""
        common = {"layer": self.layer, "pooling": self.pooling, **more}
        return published.HeadConfig(self.kind.head, self.names, self.width, **common)


@dataclass(frozen=True)
class LinearMap:
    """A linear head on standardised, rotated features."""

    space: Basis
    solved: Solved

    @torch.no_grad()
    def build(self, place: Place) -> Head:
        """One linear map of features as they are."""
        head = place.config().build().eval()
        outputs, learned = len(place.names), torch.from_numpy(self.solved.learned)
        weight = torch.zeros(len(self.space.variances), outputs, dtype=torch.float64)
        bias = torch.from_numpy(self.solved.fixed.copy())
        if self.solved.head is not None:
            weight[:, learned], bias[learned] = self.solved.head.weight, self.solved.head.bias
        space = self.space
        head.first = published.folded(weight, bias, space.mean, space.scale, space.rotation)
        _scaled(head, self.solved.offset, self.solved.scale)
        return head


@dataclass(frozen=True)
class NetworkMap:
    """A network with one hidden layer on features as they are, as `marble.forward` reads `values`.

    mixed: the layers of a weighted sum; none: one layer. mean, scale: take the standardisation of numbers back.
    """

    values: Sequence[Tensor]
    mixed: Sequence[int]
    mean: Tensor
    scale: Tensor

    @torch.no_grad()
    def build(self, place: Place) -> Head:
        """The same network; layers that a weighted sum leaves out have the share 0."""
        weight, bias, out_weight, out_bias = self.values[:4]
        spread = place.layers - min(self.mixed) if self.mixed else 0
        head = place.config(hidden=len(weight), mixed=spread).build().eval()
        head.first.weight.copy_(weight)
        head.first.bias.copy_(bias)
        last = head.last
        assert isinstance(last, nn.Linear)
        last.weight.copy_(out_weight)
        last.bias.copy_(out_bias)
        if head.shares is not None:
            head.shares.fill_(-published.CERTAIN)
            head.shares[[layer - min(self.mixed) for layer in self.mixed]] = self.values[4]
        _scaled(head, self.mean, self.scale)
        return head


def _scaled(head: Head, offset: Tensor | None, scale: Tensor | None) -> None:
    """Give a head of numbers its scale."""
    buffers = dict(head.named_buffers(recurse=False))
    if "scale" in buffers and offset is not None and scale is not None:
        buffers["offset"].copy_(offset)
        buffers["scale"].copy_(scale)


Map = LinearMap | NetworkMap


def calibrated(head: Head, kind: Kind, truth: npt.NDArray[Any], said: Array) -> tuple[Head, tuple[float, ...]]:
    """The head at the temperature of the lowest loss on validation tracks, and thresholds of the best F there.

    said: [tracks, outputs], means of what the head answered (`Head.respond`); truth: [tracks, …] targets.
    """
    form = form_of(kind)
    if not form.calibrates:
        return head, ()

    def loss(log_temperature: float) -> float:
        return kind.loss(truth, form.likely(said / np.exp(log_temperature)))

    found = minimize_scalar(loss, bounds=(np.log(COOLEST), np.log(HOTTEST)), method="bounded")
    temperature = float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0
    warm = replace(head.config, temperature=temperature).build().eval()
    warm.load_state_dict(head.state_dict())
    return warm, kind.thresholds(truth, form.likely(said / temperature))
