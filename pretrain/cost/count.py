"""What a crop costs, counted: the recipe's real objective runs once, forward and backward, on two crops of noise.

FLOPs are those of `flops.flop_counter`, memory is the bytes of all storages that are alive at a time. Both see what the
CPU computes in float32, with two things as on a GPU. Attention counts as one fused kernel, which keeps queries, keys,
values, bias, output and one number per query, never the square of scores (Dao et al. 2022, arXiv:2205.14135), and
computes the scores again in the backward pass. And for bf16 and fp16 the bytes are multiplied by what the encoder's
forward pass keeps under CUDA's autocast, over what it keeps without; that is found on tensors without content.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...data.batch import Batch
from ...data.track import Manifest
from ...models.loading import quiet
from ..objective import Objective
from ..recipe import Recipe
from ..run.flops import flop_counter
from ..run.trial_step import random_batches
from ..targets.target import NOISE
from .fused_attention import fused_attention

CROPS = 2  # the fewest that a mixture or batch norm works with


@dataclass(frozen=True)
class Count:
    """What was counted; `flops` and `activations` are per crop (all views), and grow in proportion to crops."""

    encoder: int
    """parameters of what is published"""
    trained: int
    """parameters with a gradient"""
    matrices: int
    """trained parameters with more than one dimension, of which autocast keeps a copy"""
    frozen: int
    """parameters without a gradient that are state: EMA teachers"""
    buffers: int
    """bytes of buffers: codebooks, running statistics, tables"""
    teachers: int
    """bytes of frozen teachers, which are no state"""
    block: int
    """parameters of the largest transformer block; 0: there is none"""
    beside_blocks: int
    """parameters outside of blocks"""
    flops: float
    """of forward and backward pass; activation checkpointing's second forward pass is included"""
    backward_share: float
    """of them, in the backward pass"""
    float32_activations: float
    """bytes alive at the peak beyond weights, gradients and batch, in float32"""
    kept_share: float
    """bytes that the encoder keeps for its backward pass in the recipe's precision, over those in float32"""
    notes: tuple[str, ...]
    """what stood in for what a machine without network doesn't have"""
    seconds: float
    """that counting took"""

    @property
    def activations(self) -> float:
        """Bytes per crop in the recipe's precision: float32_activations · kept_share."""
        return self.float32_activations * self.kept_share


def count(recipe: Recipe) -> Count:
    """Run the recipe's objective on two crops of noise, in float32 on the CPU, and count; a line on stderr says so."""
    began = time.perf_counter()
    print("Counting: one forward and backward pass of two crops on this CPU …", file=sys.stderr, flush=True)
    # what libraries say about themselves isn't asked for
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr), quiet():
        config, said = recipe.objective.stand_in(Path(folder), recipe.crops.crop_samples)
        recipe = dataclasses.replace(recipe, objective=config)
        objective = built(recipe)
        flops, forward, peak = run(objective, two_crops(recipe))
    share = 1.0 if recipe.precision == "no" else kept_share(objective.network, recipe.crops.crop_samples)
    seconds = time.perf_counter() - began
    parameters = list(objective.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    blocks = [_size(block.parameters()) for block in objective.blocks()]
    return Count(
        encoder=_size(objective.encoder.parameters()),
        trained=_size(trained),
        matrices=_size(parameter for parameter in trained if parameter.dim() > 1),
        frozen=_size(parameters) - _size(trained),
        buffers=sum(buffer.nbytes for buffer in objective.buffers()),
        teachers=sum(tensor.nbytes for teacher in objective.teachers() for tensor in _state(teacher)),
        block=max(blocks, default=0),
        beside_blocks=_size(parameters) - sum(blocks),
        flops=flops / CROPS,
        backward_share=1 - forward / flops if flops else 0.0,
        float32_activations=peak / CROPS,
        kept_share=share,
        notes=(said,) if said else (),
        seconds=seconds,
    )


def _size(tensors: Any) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _state(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


# ---- what is run


def built(recipe: Recipe) -> Objective:
    """The objective as the trainer makes it, but with nothing fitted to data."""
    torch.manual_seed(0)
    objective: Objective = recipe.objective.build()
    objective.seed = recipe.seed
    objective.train()
    objective.prepare_for_counting()
    if recipe.checkpoint_activations:
        if not objective.encoder.supports_gradient_checkpointing:
            raise ValueError(
                f"{type(objective.encoder).__name__} can't compute its activations again; drop "
                "--checkpoint-activations and lower --micro-batch."
            )
        objective.encoder.gradient_checkpointing_enable({"use_reentrant": False})
    return objective


def two_crops(recipe: Recipe) -> Batch:
    """Noise in the recipe's shapes."""
    recipe = dataclasses.replace(recipe, batch_size=CROPS, micro_batch=None)
    return next(random_batches(recipe, Manifest.from_tracks([NOISE], ".")))


def run(objective: nn.Module, batch: Batch) -> tuple[float, float, int]:
    """One forward and backward pass: FLOPs of both, FLOPs of the forward pass, peak of bytes beyond what was there.

    The gradients are there before, as in every micro-batch but the first, so they don't count as new bytes.
    """
    for parameter in objective.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    flops, alive = flop_counter(), LiveBytes()
    torch.manual_seed(0)
    with fused_attention(), flops, alive:
        loss = objective(batch, 0)
        forward = flops.get_total_flops()
        (loss.value * loss.weight.float()).backward()
    return float(flops.get_total_flops()), float(forward), alive.peak


# ---- bytes


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that are made inside, now and at the most; a storage is forgotten when it is freed.

    What an operation allocates for itself and frees again isn't seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {id(storage) for storage in _storages((args, kwargs))}
        for storage in {id(storage): storage for storage in _storages(result)}.values():
            if id(storage) not in given:  # else it is a view, or changed in place
                self._note(storage)
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, size).atexit = False

    def _forget(self, size: int) -> None:
        self.now -= size


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
            yield leaf.untyped_storage()


def kept_share(encoder: nn.Module, samples: int) -> float:
    """Bytes that the encoder's forward pass keeps for its backward pass under CUDA's bf16 autocast, over float32's.

    The difference of four and two crops, so that weights' copies don't count. No GPU is needed: the tensors are fake
    ones, with shapes and types only.
    """
    per_crop = [kept(encoder, 4, samples, half) - kept(encoder, 2, samples, half) for half in (True, False)]
    return per_crop[0] / per_crop[1] if per_crop[1] else 1.0


def kept(encoder: nn.Module, crops: int, samples: int, half: bool) -> int:
    """Bytes alive after a forward pass, weights and waveform [crops, samples] excluded."""
    alive = LiveBytes()
    with FakeTensorMode(), fused_attention(), _autocast(half), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that CUDA isn't there
        state = {name: _fake(tensor) for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]}
        waveform = torch.empty(crops, samples, device="cuda")
        with alive:
            output = torch.func.functional_call(encoder, state, (waveform,))
        found = alive.now
        del output
    return found


def _fake(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda", requires_grad=tensor.requires_grad)


@contextmanager
def _autocast(enabled: bool) -> Iterator[None]:
    """CUDA's bf16 autocast, which `torch.autocast` refuses where there is no CUDA."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", enabled)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
        torch.clear_autocast_cache()
