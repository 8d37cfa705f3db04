"""The machine, in words and in numbers."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

import torch

PEAK_BF16 = {
    "B200": 2250e12, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12, "A10": 125e12,
}  # fmt: skip
"""Dense bf16 FLOP/s by the vendor's data sheets."""
PEAK_FP32 = {
    "B200": 75e12, "H200": 67e12, "H100": 67e12, "A100": 19.5e12, "L40S": 91.6e12, "4090": 82.6e12, "A10": 31.2e12,
}  # fmt: skip
"""FLOP/s of float32 without TF32, by the same."""
BANDWIDTH_GBS = {
    "B200": 8000.0, "H200": 4800.0, "H100": 3350.0, "A100": 2039.0, "L40S": 864.0, "4090": 1008.0, "A10": 600.0,
}  # fmt: skip
"""GB/s of a card's memory by the same: the SXM forms, the A100 with 80 GB."""
HOPPER = (9, 0)
MEMORY_GB = {"B200": 180, "H200": 141, "H100": 80, "A100": 80, "L40S": 48, "4090": 24, "A10": 24}


def hardware() -> str:
    """What one rank computes on, in a few words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def peak_flops(precision: str, tf32: bool = True) -> float | None:
    """Dense FLOP/s of one rank's GPU as it really computes; None where it isn't known.

    precision: a recipe's; "no" is float32, whose products run as TF32 (half of bf16's speed) where `tf32` says so.
    """
    if not torch.cuda.is_available():
        return None
    name = next((key for key in PEAK_BF16 if key in torch.cuda.get_device_name()), None)
    if name is None:
        return None
    if precision != "no":
        return PEAK_BF16[name]
    return PEAK_BF16[name] / 2 if tf32 else PEAK_FP32[name]


def choose_arithmetic(device: torch.device, tf32: bool) -> str:
    """Say to torch how a GPU multiplies and attends; returns a line about it, nothing for a CPU.

    TF32 is said for products and convolutions alike (torch's defaults differ). cuDNN's attention, torch's first choice
    on Hopper, is left out there: it plans for a second per new shape, and with a mask its gradient of the queries has
    been NaN where the tokens are 64 modulo 128.
    """
    if device.type != "cuda":
        return ""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    hopper = torch.cuda.get_device_capability(device) == HOPPER
    torch.backends.cuda.enable_cudnn_sdp(not hopper)
    kinds = {
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "memory-efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "cuDNN": torch.backends.cuda.cudnn_sdp_enabled(),
    }
    said = ", ".join(name for name, on in kinds.items() if on)
    learned = "; a bias that learns by memory-efficient" if kinds["memory-efficient"] else ""
    return f"\n  kernels attention by {said}{learned}; float32 as {'TF32' if tf32 else 'float32'}"
