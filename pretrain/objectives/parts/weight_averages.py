"""Averages of a run's weights, which are what gets published: exponential ones, or the plain mean of epochs.

The averages are buffers of the objective, so that checkpoints hold them and a run that goes on goes on with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ...distributed import whole

PREFIX = "averaged_"


@dataclass(frozen=True)
class MeanOfWeights:
    """The plain mean of the weights after `first`, `first + every` … `last` steps, as AST's epochs are averaged.

    Until the first of them the weights are published as they are.
    """

    every: int = 0
    """steps, an epoch, say; 0: no mean"""
    first: int = 0
    """steps of the first weights that count"""
    last: int | None = None
    """steps of the last ones that may; None: until the run ends"""

    def __post_init__(self) -> None:
        """Refuse a span that holds nothing."""
        if self.every < 0 or self.first < 0 or (self.last is not None and self.last < self.first):
            raise ValueError(f"{self}: steps from 0 on, and a last one that isn't before the first.")

    def share(self, taken: int) -> float:
        """What of the mean is the weights' after so many steps: 1 until the first, 0 where they don't count."""
        if taken <= self.first:
            return 1.0
        counts = (taken - self.first) % self.every == 0 and (self.last is None or taken <= self.last)
        return 1.0 / ((taken - self.first) // self.every + 1) if counts else 0.0


def begin_averages(module: nn.Module) -> None:
    """Buffers of `module` for the averages of all parameters that train."""
    for name, parameter in list(module.named_parameters()):
        if parameter.requires_grad:
            module.register_buffer(_name(name), parameter.detach().clone())


@torch.no_grad()
def follow(module: nn.Module, share: float) -> None:
    """Move the averages by `share` of the way towards the weights."""
    for name, parameter in module.named_parameters() if share else ():
        if parameter.requires_grad:
            average = module.get_buffer(_name(name))
            with whole(parameter):
                weights = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
                average.lerp_(weights.to(average.dtype), share)


def averaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the averages in the place of what they are averages of."""
    pairs = {name: state.get(_name(name), value) for name, value in state.items()}
    return {name: value for name, value in pairs.items() if not name.startswith(PREFIX)}


def _name(name: str) -> str:
    """Of the buffer with a parameter's average; names of buffers have no dots."""
    return PREFIX + name.replace(".", "__")
