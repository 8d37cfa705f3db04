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


def peak_flops(precision: str) -> float | None:
    """Dense FLOP/s of one rank's GPU in this precision (float32: TF32, half of bf16); None where it isn't known."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    peak = next((value for key, value in PEAK_BF16.items() if key in name), None)
    return peak if peak is None or precision != "no" else peak / 2
