"""What must be exact over ranks: gathered embeddings, summed statistics, synchronised batch norm.

Every function is the identity (or the local result) where there is one process, so objectives need no second path.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, broadcast_object_list
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor, distribute_tensor

from ..data import locks
from .clock import section

STOPPED = 75
"""Exit code of a run that SIGTERM, Ctrl-C or a lost rank ended (EX_TEMPFAIL): the same command goes on."""
COLLECTIVE_MINUTES = float(os.environ.get("GROUNDBASS_COLLECTIVE_MINUTES", "30"))
"""A collective that waits longer than this has lost a rank: the process ends instead of hanging."""
DEEPSPEED_BUCKET = 50_000_000
"""Elements of DeepSpeed's buffers for what is being sent; its default of 5·10⁸ is made for far larger models."""
STALE_SECONDS = 600.0  # no extension compiles longer
_LOST = ("Connection closed by peer", "Connection reset", "Broken pipe", "Timed out waiting", "NCCL", "ncclRemoteError")


class RankLost(OSError):
    """Another rank died or doesn't answer. The same command goes on from the last checkpoint."""


def join() -> PartialState:
    """Join the other processes that `accelerate launch` or `torchrun` started: NCCL on GPUs, gloo on CPUs."""
    several, deepspeed = among_others(), told("DEEPSPEED")
    cpu = told("CPU") or not torch.cuda.is_available()
    limit = {"timeout": timedelta(minutes=COLLECTIVE_MINUTES)}
    if deepspeed:
        _wait_for_compilers()
    if several and cpu and deepspeed:
        return PartialState(backend="gloo", **limit)  # without it DeepSpeed sees two processes and Accelerate one
    return PartialState(cpu=cpu and (several or torch.cuda.is_available()), **limit)


@contextmanager
def placed(device: str | None) -> Iterator[None]:
    """Train on this device in here. Accelerate places the processes, and is told by ACCELERATE_USE_CPU.

    Raises:
        ValueError: a card by its number, or a GPU where there is none or the launcher has taken CPUs.
    """
    if device not in (None, "cpu", "cuda"):
        raise ValueError(
            f"--device is {device}, but Accelerate places the processes of training: take cpu or cuda, and choose a "
            "card by CUDA_VISIBLE_DEVICES=1, or several by `groundbass launch`."
        )
    if device == "cuda" and (told("CPU") or not torch.cuda.is_available()):
        why = "the launcher has taken CPUs (ACCELERATE_USE_CPU)" if told("CPU") else "torch sees no GPU here"
        raise ValueError(f"--device is cuda, but {why}: take cpu, or run groundbass doctor.")
    if device != "cpu" or told("CPU"):
        yield
        return
    os.environ["ACCELERATE_USE_CPU"] = "true"
    alone = not among_others()
    try:
        if alone:
            AcceleratorState._reset_state(True)  # an earlier run of this process may have had a GPU
        yield
    finally:
        del os.environ["ACCELERATE_USE_CPU"]
        if alone:
            AcceleratorState._reset_state(True)


def to_an_end(work: Callable[[], int]) -> int:
    """The exit code of a command's work: its own, or STOPPED with a sentence where another rank was lost."""
    try:
        with all_or_none("before or after the steps"):
            return work()
    except RankLost as lost:
        print(f"groundbass: {lost}", file=sys.stderr)
        return STOPPED


def _wait_for_compilers() -> None:
    """Wait while another process compiles DeepSpeed's parts; the lock of one that was killed meanwhile is removed.

    PyTorch would wait for ever. A compiler whose folder has been still for STALE_SECONDS is gone.
    """
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in root.glob("**/lock"):
        said = False
        with suppress(FileNotFoundError):  # it is done, or another rank was faster
            while time.time() - max(file.stat().st_mtime for file in (lock, *lock.parent.iterdir())) < STALE_SECONDS:
                if not said:
                    print(
                        f"Another process compiles DeepSpeed's parts, or was killed: waiting for {lock}",
                        file=sys.stderr,
                    )
                said = True
                time.sleep(0.2)
            lock.unlink()


def forget_strategy() -> None:
    """Forget the precision and the strategy of an earlier run in this process, of a tokenizer's say.

    Accelerate shards by FSDP only what it knows as several GPUs, and after the first run it knows them as FSDP.
    """
    AcceleratorState._reset_state()
    if PartialState().distributed_type == DistributedType.FSDP:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def sending(model: Any) -> dict[str, float]:
    """How long gradients were on their way in DDP's last measured step, and the share of it that the backward pass hid.

    DDP measures its first ten steps and then every hundredth. Empty without DDP, and before it has measured.
    """
    if not isinstance(model, nn.parallel.DistributedDataParallel):
        return {}
    told = model._get_ddp_logging_data()
    took = told.get("backward_comm_time", 0)
    if not took:
        return {}
    hidden = told["backward_compute_comm_overlap_time"] / took
    return {"gradients_sent_seconds": took / 1e9, "gradients_sent_hidden": min(1.0, hidden)}


def among_others() -> bool:
    """Whether this process was launched as one of several ranks."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def told(name: str) -> bool:
    """Whether the launcher says ACCELERATE_USE_`name`."""
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true", "yes")


@contextmanager
def all_or_none(what: str) -> Iterator[None]:
    """Turn a collective that failed since another rank is gone into a `RankLost` that says so.

    what: was going on, as in "in step 7".
    """
    try:
        yield
    except RuntimeError as error:
        if ranks() == 1 or not (isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST)):
            raise
        timed = "Timed out" in str(error) or "timeout" in str(error).lower()
        told = f"doesn't answer within {COLLECTIVE_MINUTES:g} minutes" if timed else "is gone"
        raise RankLost(
            f"Rank {rank()} of {ranks()}: another rank {told} {what}; its own message says why. The last checkpoint "
            "stands, and the same command goes on from it."
        ) from error


@contextmanager
def whole(*parameters: Tensor) -> Iterator[None]:
    """Whole tensors where ZeRO-3 has divided them; a change in place (alike on every rank) stays."""
    divided = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not divided:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(divided, modifier_rank=0):
        yield


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Let no other start write into `run` meanwhile. Rank 0 holds the lock; where another has it, all refuse alike.

    Raises:
        OSError: another process writes there, or nobody may.
    """
    refused: list[str | None] = [None]
    with ExitStack() as held:
        if rank() == 0:
            try:
                held.enter_context(locks.alone(run / ".lock", str(run)))
            except OSError as error:
                refused = [str(error)]
        (said,) = broadcast_object_list(refused)
        if said is not None:
            raise OSError(said)
        yield


def divided(module: nn.Module) -> bool:
    """Whether ZeRO-3 or FSDP have divided a module's weights among the ranks."""
    return any(hasattr(weight, "ds_id") or isinstance(weight, DTensor) for weight in module.parameters())


def numbers(parameter: Tensor) -> int:
    """How many numbers a parameter has on all ranks together."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def read(parameter: Tensor) -> Tensor:
    """A copy of a whole parameter, wherever FSDP or ZeRO-3 have divided it (a collective)."""
    with whole(parameter):
        return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter.detach().clone()


def overwrite(parameter: Tensor, value: Tensor) -> None:
    """Put a value, alike on every rank, into a parameter in place; where FSDP has divided it, each rank its part.

    DeepSpeed's optimiser keeps a copy of its own, from which the next step would bring back the old value.
    """
    with whole(parameter):
        if isinstance(parameter, DTensor):
            parameter.copy_(distribute_tensor(value, parameter.device_mesh, parameter.placements))
        else:
            parameter.copy_(value)
    if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
        from deepspeed.utils import safe_set_full_fp32_param

        safe_set_full_fp32_param(parameter, value)


def main_first() -> AbstractContextManager[None]:
    """Let rank 0 go through a `with` block first, then the others."""
    block: AbstractContextManager[None] = PartialState().main_process_first()
    return block


def ranks() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of the own process, 0 the first."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(tensor: Tensor) -> Tensor:
    """[batch, …] on each rank (all alike in shape) -> [ranks · batch, …] on all, in the order of the ranks.

    The gradient is full: a rank's part gets the sum of what *all* ranks' losses say about it. SimCLR's GatherLayer
    returned only the own loss's part, and so did its descendants (Spijkervet/SimCLR issues 30 and 37).
    """
    if ranks() == 1:
        return tensor
    gathered: Tensor = _Gather.apply(tensor)
    return gathered


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over ranks, on all of them; the gradient is summed over ranks too, as each rank's loss used the sum."""
    if ranks() == 1:
        return tensor
    total: Tensor = _AllReduceSum.apply(tensor)
    return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(ranks())]
        with section("communication"):
            dist.all_gather(parts, tensor.contiguous())
        ctx.batch = len(tensor)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # reduce_scatter would send less, but gloo has none
        total = gradient.contiguous().clone()
        with section("communication"):
            dist.all_reduce(total)
        return total[rank() * ctx.batch : (rank() + 1) * ctx.batch]


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        with section("communication"):
            dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        with section("communication"):
            dist.all_reduce(total)
        return total


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the joint batch of all ranks, on any device and backend; torch's own refuses CPU ranks.

    Equal to `nn.BatchNorm` on the concatenated batch, in output, gradients and running statistics. Without it a rank's
    own statistics let a contrastive objective tell positives (same rank) from negatives (other ranks).
    Two small collectives per call: the variance is taken around the joint mean, which stays exact where E[x²] − E[x]²
    cancels.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"Batch norm needs [batch, channels, …], but got the shape {tuple(input.shape)}.")

    def forward(self, input: Tensor) -> Tensor:
        """[batch, channels, …] -> the same shape; evaluation mode is torch's."""
        if not self.training or ranks() == 1:
            return super().forward(input)
        x = input.float()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums = all_reduce_sum(torch.cat([x.sum(axes), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = x - mean.view(shape)
        variance = all_reduce_sum(centred.square().sum(axes)) / total
        self._follow(mean.detach(), variance.detach(), total)
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        """Move the running statistics, with the unbiased variance as torch does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_((variance * total / (total - 1)).to(self.running_var.dtype), momentum)


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm under `module` by one over all ranks, keeping its parameters, buffers and names.

    On CUDA it is torch's own (fused kernels), elsewhere :class:`SyncBatchNorm`.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, SyncBatchNorm):
            setattr(module, name, _synchronised(child))
        else:
            synchronise_batch_norm(child)
    return module


def _synchronised(norm: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    on_cuda = any(tensor.is_cuda for tensor in (*norm.parameters(), *norm.buffers()))
    if on_cuda:
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
        return converted
    ours = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    ours.train(norm.training)
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(ours, name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(ours, name, buffer)
    return ours
