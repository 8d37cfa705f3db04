"""What a step would take on a GPU by its kernels: the larger of arithmetic and memory traffic each, or the host's time.

The recipe's own step runs twice on a pretended GPU, with two crops and with four, without the products; each kernel's
FLOPs and bytes grow in proportion to crops, so the two give them for any micro-batch. The speeds are assumptions, said
in `ASSUMED`: none of this is a measurement.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...data.track import Manifest
from ..recipe import Recipe
from ..run.hardware import BANDWIDTH_GBS, PEAK_BF16
from .pretended_gpu import Kernel
from .pretended_run import of_size, on_pretended_gpu

PEAK = 989e12  # dense bf16 FLOP/s of an H200's data sheet, of which utilisation is a share
PRODUCTS_16, PRODUCTS_32 = 790e12, 395e12  # measured on one in bf16; half of it in TF32
BANDWIDTH = 4.3e12  # bytes/s, measured on one
MATRICES, CONVOLUTIONS, MEMORY = 0.6, 0.45, 0.85  # shares of these that long kernels reach
CONVOLUTIONS_TF32 = 0.3
SHORTEST, LAUNCH = 2.5e-6, 7e-6  # seconds of the shortest kernel; of the host per kernel
CARD = "H200"
ASSUMED = (
    f"one {CARD}: 790 TFLOP/s in bf16 (half in TF32) and 4.3 TB/s; matrix products at 60 %, convolutions at 45 % "
    "(30 % in TF32), memory at 85 %; no kernel under 2.5 us, 7 us of the host per kernel; compiled: what lies between "
    "two products in what --compile compiles, and in the backward pass, is one kernel"
)
CROPS = (2, 4)


@dataclass(frozen=True)
class Estimate:
    """A step on one GPU."""

    kernels: int
    waits: int
    flops: float
    device_seconds: float
    host_seconds: float
    audio_seconds: float

    @property
    def seconds(self) -> float:
        """Of the step: the device's, or the host's where it can't launch as fast."""
        return max(self.device_seconds, self.host_seconds)

    @property
    def utilisation(self) -> float:
        """Share of the dense bf16 peak."""
        return self.flops / self.seconds / PEAK


def counted(recipe: Recipe, micro: int, manifest: Manifest, run: Path) -> tuple[list[Kernel], int]:
    """The kernels of a usual step of `micro` crops, and how often it waits.

    Where the two steps launch other kernels, as with augmentation that hits no crop of the smaller one, the larger
    one's all grow in proportion.
    """
    optim = dataclasses.replace(recipe.optim, fused=True)  # a GPU's foreach kernels are as few
    steps = []
    for crops in CROPS:
        small = dataclasses.replace(of_size(recipe, crops, recipe.precision), optim=optim)
        steps.append(on_pretended_gpu(small, manifest, run, 2, multiplies=False))
    few, more = (step.kernels[-1] for step in steps)
    waits = sum(steps[1].waits().values())
    if [kernel.name for kernel in few] != [kernel.name for kernel in more]:
        return [_multiplied(kernel, micro / CROPS[1]) for kernel in more], waits
    return [_grown(*pair, micro) for pair in zip(few, more, strict=True)], waits


def _multiplied(kernel: Kernel, times: float) -> Kernel:
    sizes = tuple(times * size for size in kernel.sizes)
    return dataclasses.replace(kernel, flops=times * kernel.flops, bytes=times * kernel.bytes, sizes=sizes)


def _grown(few: Kernel, more: Kernel, crops: int) -> Kernel:
    def at(a: float, b: float) -> float:
        return max(0.0, a + (b - a) / (CROPS[1] - CROPS[0]) * (crops - CROPS[0]))

    alike = len(few.sizes) == len(more.sizes)
    sizes = tuple(at(*pair) for pair in zip(few.sizes, more.sizes, strict=True)) if alike else few.sizes
    flops, moved = at(few.flops, more.flops), at(few.bytes, more.bytes)
    return dataclasses.replace(few, flops=flops, bytes=moved, sizes=sizes, least=max(few.least, more.least))


def fused(kernels: Sequence[Kernel]) -> list[Kernel]:
    """The kernels as a compiler leaves them: what lies between two products of what is compiled is one kernel.

    Such a kernel reads what was made before it and writes what is read after it; the rest stays in registers. The
    backward pass counts as compiled.
    """
    last_read: dict[int, int] = {}
    for number, kernel in enumerate(kernels):
        last_read |= dict.fromkeys(kernel.reads, number)
    found: list[Kernel] = []
    group: list[Kernel] = []
    for number, kernel in enumerate(kernels):
        if _pointwise(kernel):
            group.append(kernel)
            continue
        if group:
            found.append(_one(group, number - 1, last_read))
            group = []
        found.append(kernel)
    return [*found, _one(group, len(kernels) - 1, last_read)] if group else found


def _pointwise(kernel: Kernel) -> bool:
    inside = kernel.compiled or kernel.place.startswith("backward of")
    return inside and not kernel.flops and not kernel.least and "fft" not in kernel.name and "index" not in kernel.name


def _one(group: list[Kernel], last: int, last_read: dict[int, int]) -> Kernel:
    if len(group) == 1:
        return group[0]
    made: dict[int, float] = {}
    read: dict[int, float] = {}
    for kernel in group:
        sizes = dict(zip((*kernel.reads, *kernel.writes), kernel.sizes, strict=False))
        read |= {name: sizes.get(name, 0.0) for name in kernel.reads if name not in made and name not in read}
        made |= {name: sizes.get(name, 0.0) for name in kernel.writes}
    kept = sum(size for name, size in made.items() if last_read.get(name, -1) > last)
    whole = sum(kernel.bytes for kernel in group)
    moved = min(whole, sum(read.values()) + kept)
    return dataclasses.replace(group[0], name=f"{len(group)} fused", bytes=moved)


def seconds_of(kernel: Kernel, card: str = CARD) -> float:
    """The longest of its arithmetic, its traffic and the shortest there is.

    Another card than the one that was measured reaches the same shares of its data sheet.
    """
    faster, wider = (sheet[card] / sheet[CARD] for sheet in (PEAK_BF16, BANDWIDTH_GBS))
    whole = kernel.dtype == torch.float32
    if "conv" in kernel.name:
        rate = PRODUCTS_32 * CONVOLUTIONS_TF32 if whole else PRODUCTS_16 * CONVOLUTIONS
    else:
        rate = (PRODUCTS_32 if whole else PRODUCTS_16) * MATRICES
    moving = kernel.bytes / (BANDWIDTH * wider * MEMORY)
    return max(SHORTEST, kernel.least, moving, kernel.flops / (rate * faster))


def estimate(recipe: Recipe, kernels: Sequence[Kernel], waits: int, micro: int, card: str = CARD) -> Estimate:
    """Put the kernels of a step of `micro` crops together."""
    audio = micro * recipe.crops.views * recipe.crop_seconds
    return Estimate(
        len(kernels), waits, sum(kernel.flops for kernel in kernels),
        sum(seconds_of(kernel, card) for kernel in kernels), LAUNCH * len(kernels), audio,
    )  # fmt: skip


def by_file(kernels: Sequence[Kernel]) -> Counter[str]:
    """How many kernels each file of the package launches."""
    return Counter(kernel.place.split(":")[0] for kernel in kernels)
