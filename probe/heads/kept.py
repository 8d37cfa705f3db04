"""Trained heads as plain maps of features, which is what of them is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .forms import Solved
from .linear import Basis


@dataclass(frozen=True)
class LinearMap:
    """A linear head on standardised, rotated features."""

    space: Basis
    solved: Solved


@dataclass(frozen=True)
class NetworkMap:
    """A network with one hidden layer on features as they are, as `marble.forward` reads `values`.

    mixed: the layers of a weighted sum; none: one layer. mean, scale: take the standardisation of numbers back.
    """

    values: Sequence[Tensor]
    mixed: Sequence[int]
    mean: Tensor
    scale: Tensor


Map = LinearMap | NetworkMap
