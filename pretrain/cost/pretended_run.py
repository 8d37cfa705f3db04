"""Whole training steps of a recipe, on the CPU and on a pretended GPU: does it do the same, and when does it wait?"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import DistributedType
from torch import Tensor

from ...data.batch import Batch
from ...data.draws import draw_seed
from ...data.track import Manifest
from .. import optim
from ..objective import Objective
from ..recipe import Recipe
from ..run.prefetch import on_device
from ..run.trial_step import random_batches
from ..step import Training, train_step
from . import pretended_backward
from .pretended_gpu import DEVICE, Event, Kernel, PretendedGpu, autocast

CPU = torch.device("cpu")


class Machine:
    """What a training step asks of Accelerate, for one process on one device, pretended or not."""

    num_processes, process_index, scaler, sync_gradients = 1, 0, None, True
    distributed_type = DistributedType.NO

    def __init__(self, device: torch.device, gpu: PretendedGpu | None = None) -> None:
        """gpu: where `device` is a pretended one."""
        self.device, self.gpu = device, gpu

    def no_sync(self, _: Any) -> contextlib.AbstractContextManager[None]:
        """Nobody to wait for."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Autograd's, or the pretended one."""
        if self.gpu is None:
            loss.backward()
        else:
            pretended_backward.backward(self.gpu, loss)

    def clip_grad_norm_(self, parameters: Any, most: float) -> Tensor:
        """torch's; on a pretended GPU its foreach kernels, which it takes on a real one."""
        if self.gpu is None:
            return torch.nn.utils.clip_grad_norm_(parameters, most)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(gradients))))
        torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp(max=1.0))
        return norm


@dataclass
class Steps:
    """What some steps did on a device."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    events: list[Counter[Event]] = field(default_factory=list)
    """of each step"""
    kernels: list[list[Kernel]] = field(default_factory=list)

    def waits(self, step: int = -1) -> Counter[str]:
        """How often a step waits, by what and file."""
        found: Counter[str] = Counter()
        for event, count in self.events[step].items():
            if event.kind == "wait":
                found[f"{event.what} · {event.file}"] += count
        return found

    def refused(self) -> list[Event]:
        """What a GPU would refuse: mixed devices, dtypes that it hasn't."""
        return [event for step in self.events for event in step if event.kind != "wait"]


def made(recipe: Recipe, manifest: Manifest, run: Path, fits: bool = True) -> Objective:
    """The objective as the trainer makes it; fits: False leaves out what is fitted to data (tokenizers, k-means)."""
    torch.manual_seed(draw_seed(recipe.seed, 0x1417))
    objective: Objective = recipe.objective.build()
    objective.seed = recipe.seed
    objective.train()
    if fits:
        objective.prepare(manifest, run)
    else:
        objective.prepare_for_counting()
    return objective


def of_size(recipe: Recipe, crops: int, precision: Literal["no", "bf16", "fp16"]) -> Recipe:
    """The recipe with one micro-batch of `crops`, metrics never logged."""
    return dataclasses.replace(
        recipe, batch_size=crops, micro_batch=crops, precision=precision, log_every=10**9, steps=max(recipe.steps, 8)
    )


def padded(batches: Iterator[Batch], share: float) -> Iterator[Batch]:
    """The same batches, of the second half of each only the first `share` of the samples being sound."""
    for batch in batches:
        samples = batch.waveform.shape[2]
        valid = batch.valid.clone()
        valid[len(valid) // 2 :] = int(samples * share)
        inside = torch.arange(samples) < valid[..., None]
        yield dataclasses.replace(batch, waveform=batch.waveform * inside, valid=valid)


def on_cpu(recipe: Recipe, manifest: Manifest, run: Path, steps: int, share: float = 1.0) -> Steps:
    """Train `steps` steps of noise on the CPU in the recipe's precision."""
    objective = made(recipe, manifest, run)
    objective.place(CPU)
    training = _training(recipe, Machine(CPU), objective, "cpu")
    found, batches = Steps(), noise(recipe, manifest, share)
    for step in range(steps):
        taken = train_step(training, batches, step)
        found.losses.append(taken.loss)
        found.norms.append(taken.gradient_norm)
    return found


def on_pretended_gpu(
    recipe: Recipe,
    manifest: Manifest,
    run: Path,
    steps: int,
    share: float = 1.0,
    multiplies: bool = True,
    ahead: bool = False,
) -> Steps:
    """The same on a pretended GPU; without `multiplies` (see there) nothing is fitted either: kernels are counted.

    ahead: the next batch is copied and augmented while one is trained on; streams have to be pretended, too.

    Raises:
        RuntimeError: what CUDA too would refuse.
    """
    objective = made(recipe, manifest, run, fits=multiplies)
    found = Steps()
    with PretendedGpu(multiplies) as gpu:
        objective.to(DEVICE)
        objective.place(DEVICE)
        gpu.would_compile(objective)
        training = _training(recipe, Machine(DEVICE, gpu), objective, "cuda")
        batches = on_device(noise(recipe, manifest, share), DEVICE, ahead, objective.ahead)
        for step in range(steps):
            gpu.events.clear()
            gpu.kernels.clear()
            taken = train_step(training, batches, step)
            found.losses.append(taken.loss)
            found.norms.append(taken.gradient_norm)
            found.events.append(Counter(gpu.events))
            found.kernels.append(list(gpu.kernels))
    return found


def noise(recipe: Recipe, manifest: Manifest, share: float) -> Iterator[Batch]:
    batches = random_batches(recipe, manifest)
    return batches if share == 1 else padded(batches, share)


def _training(recipe: Recipe, machine: Any, objective: Objective, kind: str) -> Training:
    model = _Cast(objective, kind, recipe.precision == "bf16")
    return Training(recipe, machine, objective, model, optim.build(recipe.optim, objective))


class _Cast:
    """The objective under autocast, as Accelerate wraps it."""

    def __init__(self, objective: Objective, kind: str, enabled: bool) -> None:
        self.objective, self.kind, self.enabled = objective, kind, enabled
        self.parameters = objective.parameters

    def __call__(self, batch: Batch, step: int) -> Any:
        cast: Any = (
            autocast(self.enabled) if self.kind == "cuda" else torch.autocast("cpu", torch.bfloat16, self.enabled)
        )
        with cast:
            return self.objective(batch, step)
