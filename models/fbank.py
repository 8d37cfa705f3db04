"""Kaldi's log-mel filter bank, for a whole batch at once on its device: the front end of BEATs and of AST.

The numbers are those of `torchaudio.compliance.kaldi.fbank` with its defaults and no dither, clip by clip: whole frames
only, mean removed per frame, pre-emphasis 0.97, Povey's window (or Hann's), power spectrum, HTK-like mel triangles,
natural log.
This file is published with the models, so it imports torch only.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PREEMPHASIS = 0.97
LOG_FLOOR = torch.finfo(torch.float32).eps


def povey_window(samples: int) -> Tensor:
    """Return Kaldi's default window [samples] float32: a symmetric Hann window to the power of 0.85."""
    return torch.hann_window(samples, periodic=False, dtype=torch.float32).pow(0.85)


def mel_scale(hertz: Tensor) -> Tensor:
    """Mel of a frequency in Hz: 1127 ln(1 + f / 700)."""
    return 1127.0 * (1.0 + hertz / 700.0).log()


def mel_triangles(bins: int, n_fft: int, sample_rate: int, low: float) -> Tensor:
    """Weights [n_fft / 2 + 1, bins] of triangles whose corners are even in mel, from `low` Hz to half the rate.

    The triangles are straight in mel, not in Hz, and the bin at half the rate belongs to none of them, as in Kaldi.
    """
    edges = mel_scale(torch.tensor([low, sample_rate / 2], dtype=torch.float64))
    corner = torch.linspace(0, 1, bins + 2, dtype=torch.float64) * (edges[1] - edges[0]) + edges[0]
    frequency = mel_scale(torch.arange(n_fft // 2, dtype=torch.float64)[:, None] * (sample_rate / n_fft))
    rising = (frequency - corner[:-2]) / (corner[1:-1] - corner[:-2])
    falling = (corner[2:] - frequency) / (corner[2:] - corner[1:-1])
    triangles = torch.minimum(rising, falling).clamp(min=0.0)
    return F.pad(triangles, (0, 0, 0, 1)).float()


class KaldiFbank(nn.Module):
    """Waveform to natural-log mel energies.

    Args:
        sample_rate: Hz.
        mel_bins: filters.
        frame_length: ms.
        frame_shift: ms.
        low: Hz of the lowest filter's lower corner.
        scale: factor on the waveform first; Kaldi expects 16-bit integers, so 2^15.
        povey: Povey's window, Kaldi's default; False: Hann's, symmetric.
    """

    window: Tensor
    triangles: Tensor

    def __init__(
        self,
        sample_rate: int,
        mel_bins: int,
        frame_length: float,
        frame_shift: float,
        low: float,
        scale: float,
        povey: bool = True,
    ) -> None:
        super().__init__()
        self.sample_rate, self.mel_bins, self.low, self.scale = sample_rate, mel_bins, low, scale
        self.povey = povey
        self.length = int(sample_rate * frame_length * 0.001)
        self.shift = int(sample_rate * frame_shift * 0.001)
        self.n_fft = 2 ** math.ceil(math.log2(self.length))
        for name, table in self.tables().items():
            self.register_buffer(name, table, persistent=False)

    def tables(self) -> dict[str, Tensor]:
        """The buffers' values, computed afresh on the CPU (a model built on the meta device has none)."""
        with torch.device("cpu"):
            triangles = mel_triangles(self.mel_bins, self.n_fft, self.sample_rate, self.low)
            hann = torch.hann_window(self.length, periodic=False, dtype=torch.float32)
            return {"window": povey_window(self.length) if self.povey else hann, "triangles": triangles}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KaldiFbank:
        """Follow the model to another device, but not to another dtype; fill the tables on leaving the meta device."""
        was_meta = self.window.is_meta
        super()._apply(fn, recurse)
        if was_meta or self.window.dtype != torch.float32:
            for name, table in self.tables().items():
                setattr(self, name, table.to(self.window.device))
        return self

    def frames(self, samples: int) -> int:
        """Whole frames in so many samples: 998 in 10 s at 16 kHz."""
        return max(0, (samples - self.length) // self.shift + 1)

    def forward(self, waveform: Tensor) -> Tensor:
        """waveform: [batch, samples] in [-1, 1] -> [batch, frames, mel_bins] float32; no autocast inside.

        The whole batch at once on a GPU; a CPU takes clip after clip, whose frames then stay in its cache (three times
        as fast for 16 clips of 10 s).
        """
        with torch.autocast(waveform.device.type, enabled=False):
            # a graph knows no number of clips, and fuses what lies between them
            traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()
            if waveform.device.type == "cpu" and not traced and len(waveform) > 1:
                return torch.cat([self._energies(clip) for clip in waveform.split(1)])
            return self._energies(waveform)

    def _energies(self, waveform: Tensor) -> Tensor:
        frames = (waveform.float() * self.scale).unfold(1, self.length, self.shift)
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], -1)  # the first sample precedes itself
        frames = (frames - PREEMPHASIS * before) * self.window
        power = torch.fft.rfft(frames, n=self.n_fft).abs().square()
        return (power @ self.triangles).clamp(min=LOG_FLOOR).log()
