"""A step on random audio before the first real one: it fails in seconds where training would fail in hours."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate.utils import DistributedType
from torch import Tensor

from ...data.batch import Batch
from ...data.track import Manifest
from .. import distributed
from ..objective import TrainingStopped
from ..recipe import Recipe
from ..step import Training, train_step
from .flops import flop_counter
from .prefetch import on_device


class Snapshot:
    """All that a step changes: parameters, buffers (batch norm, codebooks, EMA), optimiser, scaler, random state."""

    def __init__(self, training: Training) -> None:
        """Copy it."""
        self._training = training
        self._tensors = {name: tensor.detach().clone() for name, tensor in _tensors(training)}
        self._optimizer = copy.deepcopy(training.optimizer.state_dict())
        self._scaler = None if training.accelerator.scaler is None else training.accelerator.scaler.state_dict()
        self._random = _random_state()

    @torch.no_grad()
    def restore(self) -> None:
        """Put it back, in place, so that what holds the tensors needn't know."""
        for name, tensor in _tensors(self._training):
            tensor.copy_(self._tensors[name])
        self._training.optimizer.zero_grad()
        self._training.optimizer.load_state_dict(self._optimizer)
        if self._scaler is not None:
            self._training.accelerator.scaler.load_state_dict(self._scaler)
        _set_random_state(self._random)


def trial_step(training: Training, manifest: Manifest) -> bool:
    """Train one step on random audio in the recipe's shapes, count its FLOPs, then put everything back as it was.

    Returns False under DeepSpeed, whose engine can't be put back: there nothing is done. What an objective says about
    labels without information is not heard here, since those of noise may carry none.
    """
    if training.accelerator.distributed_type == DistributedType.DEEPSPEED:
        return False
    before = Snapshot(training)
    counter = flop_counter()
    try:
        # a compiled graph can't be counted
        with nullcontext() if training.recipe.compile else counter:
            noise = on_device(random_batches(training.recipe, manifest), training.accelerator.device, ahead=False)
            train_step(training, noise, step=0)
        training.flops = float(counter.get_total_flops()) or None
    except TrainingStopped:
        pass
    finally:
        before.restore()
    return True


def random_batches(recipe: Recipe, manifest: Manifest) -> Iterator[Batch]:
    """Endless micro-batches of noise (standard deviation 0.1), under the keys of the manifest's first tracks."""
    batch = recipe.micro(distributed.ranks())
    views, samples = recipe.crops.views, recipe.crops.crop_samples
    draw = torch.Generator().manual_seed(distributed.rank())
    names = [manifest[position % len(manifest)].key for position in range(min(batch, len(manifest)))]
    for count in itertools.count():
        yield Batch(
            waveform=(0.1 * torch.randn(batch, views, samples, generator=draw)).clamp(-1, 1),
            sample_rate=recipe.crops.sample_rate,
            valid=torch.full((batch, views), samples),
            starts=torch.zeros(batch, views, dtype=torch.int64),
            keys=[names[position % len(names)] for position in range(batch)],
            index=torch.arange(batch) + batch * (count * distributed.ranks() + distributed.rank()),
        )


def _tensors(training: Training) -> Iterator[tuple[str, Tensor]]:
    yield from training.objective.named_parameters()
    yield from training.objective.named_buffers()


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": np.random.get_state(), "python": random.getstate()}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
