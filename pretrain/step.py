"""One step of training: micro-batches forward and backward, weighted exactly, then clip, step and follow."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from torch import Tensor

from ..data.batch import Batch
from ..data.draws import draw_seed
from . import distributed
from .clock import section
from .objective import Loss, Objective, TrainingStopped
from .optim import schedule
from .recipe import Recipe
from .run.prefetch import Ahead

KEYS_SHOWN = 8


@dataclass
class Training:
    """What a step works on: the recipe, the machine as Accelerate sees it, module bare and wrapped, optimiser."""

    recipe: Recipe
    accelerator: Accelerator
    objective: Objective
    model: Any  # the objective as Accelerate wrapped it (DDP, DeepSpeed, FSDP)
    optimizer: Any
    flops: float | None = None  # of a step on this rank, counted in the trial step

    @property
    def sharded(self) -> bool:
        """Whether DeepSpeed or FSDP holds the parameters, which then are saved by Accelerate."""
        return self.accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)

    def autocast(self) -> AbstractContextManager[Any]:
        """The recipe's precision under FSDP; elsewhere Accelerate and DeepSpeed see to it."""
        enabled = self.accelerator.distributed_type == DistributedType.FSDP and self.recipe.precision == "bf16"
        return torch.autocast(self.accelerator.device.type, torch.bfloat16) if enabled else nullcontext()


@dataclass
class Step:
    """What a step says about itself; `loss` and `metrics` are means over all micro-batches and ranks."""

    loss: float
    learning_rate: float
    gradient_norm: float
    stop_asked: bool
    skipped: str | None = None
    wait_seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


def train_step(training: Training, batches: Iterator[Batch], step: int, stop_asked: bool = False) -> Step:
    """Train one step.

    The gradient is that of sum(value · weight) / sum(weight) over all micro-batches and ranks. The sum of weights is
    known only after the last micro-batch; until then the first one's stands in for all, and the gradient is corrected
    at the end (by exactly 1 where weights are equal, as they are without padding).

    Raises:
        TrainingStopped: the loss or the gradient is no number, unless the recipe says to skip such steps.
    """
    recipe, accelerator = training.recipe, training.accelerator
    accumulation = recipe.accumulation(accelerator.num_processes)
    settings, begin, end = recipe.phase_at(step)
    learning_rate = schedule(settings, step - begin, end - begin)
    for group in training.optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_scale", 1.0)

    kept = _followers(training) if recipe.nonfinite == "skip" else []
    training.objective.logs = (step + 1) % recipe.log_every == 0 or step + 1 == recipe.steps
    wait = 0.0
    losses: list[Loss] = []
    tallies: list[Tensor] = []
    keys: list[str] = []
    reference = torch.ones((), device=accelerator.device, dtype=torch.float64)
    for micro in range(accumulation):
        began = time.perf_counter()
        with section("data"):
            batch = next(batches)
        wait += time.perf_counter() - began
        keys += batch.keys
        torch.manual_seed(draw_seed(recipe.seed, step, micro, accelerator.process_index))
        last = accelerator.sync_gradients = micro == accumulation - 1
        with nullcontext() if last else accelerator.no_sync(training.model):
            with section("forward"), training.autocast():
                loss: Loss = training.model(batch, step)
            tallies.append(_tally(loss, stop_asked))
            if micro == 0:
                reference = (tallies[0][1] * accumulation).clamp(min=1e-12)
            with section("backward"):
                _backward(training, loss.value * (loss.weight * accelerator.num_processes / reference).float(), last)
        if isinstance(batches, Ahead):  # while the device computes
            began = time.perf_counter()
            with section("data"):
                batches.begin()
            wait += time.perf_counter() - began
        losses.append(Loss(loss.value.detach(), loss.weight.detach().float(), loss.metrics))

    tally = torch.stack(tallies).sum(0)
    with section("optimiser"):
        # with one micro-batch the reference is the weight
        correction = reference / tally[1].clamp(min=1e-12) if accumulation > 1 else None
        norm = _finish_gradient(training, correction, settings.clip)
        # what the step itself waits for the device: what follows depends on these numbers
        total, weight, asked, length = torch.cat([tally, norm.detach().to(tally)[None]]).tolist()
        mean = total / weight if weight else 0.0
        skipped = _complaint(training, step, mean, length, losses, keys)
        if skipped is None or accelerator.scaler is not None:  # the fp16 scaler skips by itself, and must be told
            training.optimizer.step()
        training.optimizer.zero_grad()
        torch.manual_seed(draw_seed(recipe.seed, step))
        with torch.no_grad():
            training.objective.after_step(step)
            if skipped is not None:
                for tensor, before in kept:
                    tensor.copy_(before)
    metrics = _mean_metrics(losses, weight) if training.objective.logs else {}
    return Step(mean, learning_rate, length, asked > 0, skipped, wait, metrics)


def _tally(loss: Loss, stop_asked: bool) -> Tensor:
    """[value · weight, weight, asked to stop] of a micro-batch, summed over ranks."""
    weight = loss.weight.detach().double()
    tally = torch.stack([loss.value.detach().double() * weight, weight, torch.full_like(weight, float(stop_asked))])
    return distributed.all_reduce_sum(tally)


def _followers(training: Training) -> list[tuple[Tensor, Tensor]]:
    """What follows a step without a gradient (batch norm, codebooks, EMA teachers), each with a copy."""
    objective = training.objective
    frozen = [tensor for tensor in objective.parameters() if not tensor.requires_grad and not hasattr(tensor, "ds_id")]
    return [(tensor, tensor.detach().clone()) for tensor in (*objective.buffers(), *frozen)]


def _backward(training: Training, loss: Tensor, last: bool) -> None:
    """The backward pass of a micro-batch; DeepSpeed's engine is told whether it is the step's last."""
    if training.accelerator.distributed_type == DistributedType.DEEPSPEED:
        training.model.set_gradient_accumulation_boundary(is_boundary=last)
        training.model.backward(loss)
    else:
        training.accelerator.backward(loss)


def _finish_gradient(training: Training, correction: Tensor | None, clip: float | None) -> Tensor:
    """Correct the gradient's weight, clip it, and return its norm before clipping: [] on the device."""
    device = training.accelerator.device
    if training.accelerator.distributed_type == DistributedType.DEEPSPEED:  # the engine clips and steps
        optimizer = training.model.optimizer
        if correction is not None:
            optimizer.override_loss_scale(1.0 / float(correction))  # by which it divides the gradient
        training.model.step()
        if correction is not None:
            optimizer.override_loss_scale(1.0)
        return torch.as_tensor(float(training.model.get_global_grad_norm() or 0.0), device=device)
    if correction is not None:
        _scale([p.grad for p in training.objective.parameters() if p.grad is not None], correction)
    norm = training.accelerator.clip_grad_norm_(training.model.parameters(), math.inf if clip is None else clip)
    whole = getattr(norm, "full_tensor", lambda: norm)()  # of FSDP's shards
    return torch.as_tensor(0.0 if whole is None else whole, device=device)


def _scale(gradients: list[Tensor], factor: Tensor) -> None:
    """Multiply by factor [], in a few large kernels where nothing is sharded."""
    if all(type(gradient) is Tensor and gradient.dtype == torch.float32 for gradient in gradients):
        torch._foreach_mul_(gradients, factor.float())
        return
    for gradient in gradients:
        gradient.mul_(factor)


def _complaint(
    training: Training, step: int, mean: float, norm: float, losses: list[Loss], keys: list[str]
) -> str | None:
    """A sentence where the step must not be taken; None where all is well. Stops the run if the recipe says so."""
    scaled = training.accelerator.scaler is not None  # fp16 expects infinite gradients: its scaler skips them itself
    if math.isfinite(mean) and (scaled or math.isfinite(norm)):
        return None
    bad_here = not all(bool(torch.isfinite(loss.value)) for loss in losses)
    culprits = [(distributed.rank(), keys)] if bad_here or math.isfinite(mean) else []
    everyone = gather_object(culprits) if distributed.ranks() > 1 else culprits
    where = "; ".join(f"rank {rank} with the tracks {_shown(tracks)}" for rank, tracks in everyone)
    what = "gradient" if math.isfinite(mean) else "loss"
    sentence = f"In step {step + 1} the {what} is {norm if what == 'gradient' else mean} on {where}."
    if training.recipe.nonfinite == "skip":
        return sentence + " The step is skipped."
    raise TrainingStopped(
        sentence + " The weights before it stand in the last checkpoint. Lower --optim.lr, set --optim.clip, train in "
        "bf16 rather than fp16, or skip such steps with --nonfinite skip."
    )


def _shown(keys: list[str]) -> str:
    return ", ".join(keys[:KEYS_SHOWN]) + (f" and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else "")


def _mean_metrics(losses: list[Loss], weight: float) -> dict[str, float]:
    """The metrics' weighted means over micro-batches and ranks."""
    names = list(losses[0].metrics)
    if not names or not weight:
        return {}
    device = losses[0].value.device
    rows = [
        torch.stack([torch.as_tensor(loss.metrics[name], device=device).detach().double() for name in names])
        * loss.weight.double()
        for loss in losses
    ]
    means = distributed.all_reduce_sum(torch.stack(rows).sum(0)) / weight
    return dict(zip(names, means.tolist(), strict=True))
