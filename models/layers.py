"""Layers that several models share. Published with them: torch only, and flat siblings by `from .x import Y`."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

RESAMPLE_ZEROS = 64  # zero crossings on each side; with the Kaiser window about -100 dB beyond the pass band
RESAMPLE_ROLLOFF = 0.9475937167399596  # of the lower Nyquist frequency, and the window's beta: resampy's "kaiser_best"
RESAMPLE_BETA = 14.769656459379492
RESAMPLE_MAX_TAPS = 2**25  # 256 MB of filter in float64


def convert_rate(waveform: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Change the sample rate with a windowed sinc (J. O. Smith, "Digital audio resampling"), polyphase, differentiable.

    Args:
        waveform: [..., samples] at `source_rate` Hz.
        source_rate: Hz of the input.
        target_rate: Hz of the output.

    Returns:
        [..., ceil(samples * target_rate / source_rate)] at `target_rate` Hz, same type and device.

    Raises:
        ValueError: rates that aren't positive whole numbers, or with so small a common divisor that the filter bank
            would not fit into memory.
    """
    if source_rate != int(source_rate) or target_rate != int(target_rate) or min(source_rate, target_rate) < 1:
        raise ValueError(f"convert_rate needs positive whole rates in Hz, not {source_rate} and {target_rate}.")
    if source_rate == target_rate:
        return waveform
    divisor = math.gcd(int(source_rate), int(target_rate))
    source, target = int(source_rate) // divisor, int(target_rate) // divisor
    samples = waveform.shape[-1]
    kernel, width = _sinc_bank(source, target)
    flat = waveform.reshape(-1, 1, samples)
    padded = nn.functional.pad(flat, (width, width + source))
    phases = nn.functional.conv1d(padded, kernel.to(flat), stride=source)  # [batch, target, steps]
    length = math.ceil(samples * target / source)
    return phases.transpose(1, 2).flatten(1)[:, :length].reshape(*waveform.shape[:-1], length)


def gelu(inner: Tensor) -> Tensor:
    """GELU of what nobody else reads: in place where no gradient is asked for.

    A block's widest tensor is then made once; fetching memory for it twice costs a CPU time.
    """
    return nn.functional.gelu(inner) if _kept_apart() else torch.ops.aten.gelu_(inner)


def silu(inner: Tensor) -> Tensor:
    """Swish of what nobody else reads; see `gelu`."""
    return nn.functional.silu(inner, inplace=not _kept_apart())


def _kept_apart() -> bool:
    """Whether what goes into an activation is still needed, or a compiler decides by itself."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling()


@lru_cache(maxsize=16)
def _sinc_bank(source: int, target: int) -> tuple[Tensor, int]:
    """One filter for each of the `target` phases in a step of `source` samples: [target, 1, taps]; half its width."""
    cutoff = min(source, target) * RESAMPLE_ROLLOFF
    width = math.ceil(RESAMPLE_ZEROS * source / cutoff)
    taps = 2 * width + source
    if taps * target > RESAMPLE_MAX_TAPS:
        raise ValueError(
            f"Resampling by {target}/{source} needs a filter bank of {taps * target:,} values; bring the file to a "
            "common rate first (groundbass.data.audio.read.read does it while decoding)."
        )
    index = torch.arange(-width, width + source, dtype=torch.float64) / source
    phase = -torch.arange(target, dtype=torch.float64)[:, None] / target
    t = ((phase + index) * cutoff).clamp(-RESAMPLE_ZEROS, RESAMPLE_ZEROS)
    beta = torch.tensor(RESAMPLE_BETA, dtype=torch.float64)
    window = torch.i0(beta * (1 - (t / RESAMPLE_ZEROS) ** 2).sqrt()) / torch.i0(beta)
    kernel = torch.sinc(t) * window * (cutoff / source)
    return kernel[:, None], width
