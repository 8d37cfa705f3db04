"""Memory and time of a step by formula, from what `count` counted.

What strategies divide among N GPUs follows ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054), and in the details the
defaults of DeepSpeed 0.19, PyTorch's DDP, and FSDP2 as Accelerate sets it up. Under every strategy weights, gradients
and what is sent are float32, and 16 bits come from autocast, whose copies of the matrices live until the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from ..distributed import DEEPSPEED_BUCKET
from ..recipe import Recipe
from ..run.hardware import MEMORY_GB, PEAK_BF16
from .count import Count

Strategy = Literal["ddp", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload", "fsdp2"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
"""By their files in pretrain/launch."""
DIVIDED = ("zero3", "zero3_offload", "fsdp2")
"""Those that divide the weights too, and gather them while they compute."""

GIB = 2**30
USABLE = 0.92
"""Assumed: share of a card's memory that tensors get; the rest is CUDA's context, NCCL's buffers, fragmentation."""
MAX_LIVE = 1_000_000_000
"""Parameters that ZeRO-3 leaves gathered (`stage3_max_live_parameters` and `stage3_max_reuse_distance`)."""
HOST_GBS = 25.0
"""Assumed: GB/s between a GPU and the machine's memory."""

PARTS = (
    "weights", "gradients", "float32 copy", "Adam's means", "16-bit copies", "gathered", "whole gradients", "buckets",
    "frozen state", "buffers", "frozen teachers", "activations",
)  # fmt: skip
"""What a GPU may hold, in the order of the table."""


@dataclass(frozen=True)
class Term:
    """A part of a sum, and where it comes from."""

    name: str
    value: float
    """bytes, or seconds"""
    formula: str
    """with the numbers put in"""


@dataclass(frozen=True)
class Case:
    """A counted recipe on so many cards of one kind."""

    count: Count
    recipe: Recipe
    gpus: int
    gpu: str

    @property
    def half(self) -> bool:
        """Whether the arithmetic is in 16 bits."""
        return self.recipe.precision != "no"

    @property
    def peak(self) -> float:
        """FLOP/s of a card in the recipe's precision; float32 runs as TF32, at half of bf16's."""
        return PEAK_BF16[self.gpu] / (1 if self.half else 2)

    @property
    def usable(self) -> float:
        """Bytes of a card that tensors may take."""
        return MEMORY_GB[self.gpu] * GIB * USABLE


def memory(case: Case, strategy: Strategy, micro: int) -> list[Term]:
    """What a GPU holds at the peak of a micro-batch of `micro` crops, in bytes; parts of 0 are left out."""
    count = case.count
    terms = [*_states(case, strategy), *_copies(case, strategy, micro)]
    terms.append(Term("buffers", count.buffers, f"{count.buffers:,} B: codebooks, running statistics, tables"))
    terms.append(Term("frozen teachers", count.teachers, f"{count.teachers:,} B"))
    held = min(micro, getattr(case.recipe.objective, "chunk", None) or micro)  # gradient caching: one chunk at a time
    formula = (
        f"{held} crop{'s' * (held > 1)} · {count.float32_activations / 1e6:,.1f} MB of float32 · {count.kept_share:.3f}"
    )
    terms.append(Term("activations", held * count.activations, formula))
    return sorted((term for term in terms if term.value), key=lambda term: PARTS.index(term.name))


def _states(case: Case, strategy: Strategy) -> Iterator[Term]:
    """Weights, gradients, optimiser: 16 bytes per parameter where nothing is divided, in any precision."""
    trained, n = case.count.trained, case.gpus
    deepspeed, offload = strategy.startswith("zero"), strategy.endswith("offload")
    if strategy != "zero3_offload":
        yield _numbers("weights", 4, trained, n if strategy in DIVIDED else 1)
        yield _numbers("frozen state", 4, case.count.frozen, n if strategy in DIVIDED else 1)
    if not offload:
        yield _numbers("gradients", 4, trained, 1 if strategy in ("ddp", "zero1") else n)
        yield _numbers("Adam's means", 8, trained, 1 if strategy == "ddp" else n)
        yield _numbers("float32 copy", 4 if deepspeed else 0, trained, n)  # DeepSpeed's Adam works on a copy


def _copies(case: Case, strategy: Strategy, micro: int) -> Iterator[Term]:
    """What stands beside the states: autocast's copies, gathered weights, gradients under way."""
    count = case.count
    whole = count.trained + count.frozen
    if case.half:
        yield _numbers("16-bit copies", 2, count.matrices, 1)
    if strategy == "ddp":
        if case.gpus > 1:
            yield _numbers("buckets", 4, count.trained, 1)
        return
    if strategy == "fsdp2":
        gathered = min(whole, count.beside_blocks + 2 * count.block)
        yield _numbers("gathered", 4, gathered, 1)
        summed = case.recipe.rank_batch(case.gpus) > micro  # without synchronisation, gradients stay whole
        yield _numbers("whole gradients", 4, count.trained if summed else gathered, 1)
        return
    if strategy in DIVIDED:
        yield _numbers("gathered", 4, min(whole, MAX_LIVE), 1)
    yield _numbers("buckets", 4, DEEPSPEED_BUCKET, 1)


def _numbers(name: str, width: int, numbers: int, among: int) -> Term:
    formula = f"{width} B · {numbers:,}" + (f" / {among}" if among > 1 else "")
    return Term(name, width * numbers / among, formula)


def host(case: Case, strategy: Strategy) -> list[Term]:
    """What a rank holds in the machine's memory; nothing but under offload."""
    if not strategy.endswith("offload"):
        return []
    trained, n = case.count.trained, case.gpus
    terms = [
        _numbers("gradients", 4, trained, n),
        _numbers("float32 copy", 4, trained, n),
        _numbers("Adam's means", 8, trained, n),
        _numbers("weights", 4, trained, n),  # to send, under ZeRO-2
        _numbers("frozen state", 4 if strategy in DIVIDED else 0, case.count.frozen, n),
    ]
    return [term for term in terms if term.value]


def total(terms: list[Term]) -> float:
    """Their sum."""
    return sum(term.value for term in terms)


def largest_micro(case: Case, strategy: Strategy) -> int | None:
    """The largest micro-batch that divides a GPU's share of the batch and fits; None: not even one crop."""
    share = case.recipe.rank_batch(case.gpus)
    dividing = (micro for micro in range(share, 0, -1) if share % micro == 0)
    return next((micro for micro in dividing if total(memory(case, strategy, micro)) <= case.usable), None)


@dataclass(frozen=True)
class Time:
    """A step's seconds: compute + what of the communication isn't hidden behind it + transfers to the host."""

    compute: Term
    communication: Term
    hidden: Term
    transfers: Term

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.compute.value + max(0.0, self.communication.value - self.hidden.value) + self.transfers.value


def by_utilisation(case: Case, utilisation: float) -> Term:
    """The seconds that a step computes, as a share of the card's peak."""
    count, share = case.count, case.recipe.rank_batch(case.gpus)
    seconds = share * count.flops / (case.peak * utilisation)
    crops, speed = f"{share} crop{'s' * (share > 1)}", f"({case.peak / 1e12:g} TFLOP/s · {utilisation:g})"
    return Term("compute", seconds, f"{crops} · {count.flops / 1e9:,.4g} GFLOP / {speed}")


def time(case: Case, strategy: Strategy, compute: Term, network_gbs: float) -> Time:
    """The seconds of a step's parts; network_gbs: GB/s from a GPU to the next one in the ring."""
    count, n, k, seconds = case.count, case.gpus, case.recipe.accumulation(case.gpus), compute.value
    if strategy == "ddp":
        window = count.backward_share * seconds / k
        said = f"behind the last backward pass: {count.backward_share:.2f} · {seconds:.4g} s / {k}"
    elif strategy in DIVIDED:
        window, said = seconds, "behind all of the computing"
    else:
        window, said = 0.0, "DeepSpeed's overlap_comm is off by default below ZeRO-3"
    transfers = Term("transfers", 0.0, "")
    if strategy.endswith("offload"):
        times = 3 * k if strategy in DIVIDED else k + 1
        sent = _numbers("", 4, count.trained, n)
        formula = f"{times} · {sent.formula} / {HOST_GBS:g} GB/s to and from the host"
        transfers = Term("transfers", times * sent.value / (HOST_GBS * 1e9), formula)
    communication = _communication(case, strategy, k, network_gbs)
    hidden = Term("hidden", min(window, communication.value), said if communication.value else "")
    return Time(compute, communication, hidden, transfers)


def _communication(case: Case, strategy: Strategy, k: int, network_gbs: float) -> Term:
    """Rings: each pass of a tensor over N GPUs sends (N − 1) / N of its bytes per GPU, an all-reduce is two passes."""
    n = case.gpus
    if strategy == "ddp":
        passes, said = 2, "all-reduce of gradients, two passes"
    else:
        scatters = 1 if strategy in ("zero1", "fsdp2") else k
        gathers = 2 * k if strategy in DIVIDED else 1
        passes = scatters + gathers
        said = f"gradients scattered {scatters} ×, weights gathered {gathers} ×"
    if n == 1:
        return Term("communication", 0.0, "")
    seconds = passes * (n - 1) / n * 4 * case.count.trained / (network_gbs * 1e9)
    formula = f"{passes} · {n - 1}/{n} · 4 B · {case.count.trained:,} / {network_gbs:g} GB/s"
    return Term("communication", seconds, f"{formula} ({said})")
