"""Freeverb's reverberation in closed form: eight combs with damped feedback in parallel, four all-passes in series.

The recursion would be sequential over the samples. Here its transfer function is written down on the grid of one FFT,
for all items at once. Evaluated on a circle outside the unit circle (|z|^length = `DECAY`), what would wrap around the
end of the FFT is 20 log10(DECAY) = 66 dB down, so the grid needs no room for the tail, which can ring for seconds.
"""

import math
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor

from ..draws import sent
from .pitch import blocks, fast_length

# sox's reverb.c, after Jezar's Freeverb (public domain): delays in samples at 44,100 Hz
COMBS = (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617)
ALL_PASSES = (225, 341, 441, 556)
ALL_PASS_FEEDBACK = 0.5
WET_GAIN = 0.015
DECAY = 2000.0
COLUMNS = 256
AT_ONCE = 2**27  # complex numbers: a gigabyte


def reverberate(
    waveform: Tensor, sample_rate: int, reverberance: Tensor, damping: Tensor, room: Tensor, wet: float = 1.0
) -> Tensor:
    """Add reverberation to each item: the dry sound plus `wet` times that of the room, cut to the item's length.

    Args:
        waveform: [batch, samples] float32.
        sample_rate: Hz.
        reverberance: [batch] 0 to 100, how much of the sound each reflection keeps (feedback 0.3 to 0.98).
        damping: [batch] 0 to 100, how much duller each reflection is (one-pole low-pass, coefficient 0.2 to 0.5).
        room: [batch] 0 to 100, length of the room (delays 0.1 to 1 times Freeverb's).
        wet: gain of the reverberation; 0 returns the input, 1 is sox's default.

    Returns: [batch, samples] float32. The three scales and the wet gain are those of sox's `reverb`.
    """
    samples = waveform.shape[1]
    length = fast_length(samples)
    decay = torch.exp(torch.arange(samples, device=waveform.device) * (-math.log(DECAY) / length))
    spectrum = torch.fft.rfft(waveform * decay, length)
    all_passes = _all_passes(length, sample_rate, waveform.device)
    for first, last in blocks(waveform.shape[0], length // 2, waveform.device):
        rows = slice(first, last)
        combs = _combs(length, sample_rate, reverberance[rows], damping[rows], room[rows])
        spectrum[rows] *= combs.mul_(all_passes)
    sound = torch.fft.irfft(spectrum, length)[:, :samples]
    return waveform + sound.div_(decay).mul_(wet * WET_GAIN)


def feedback(reverberance: Tensor) -> Tensor:
    """Of the combs, for reverberance 0 to 100: 0.3 to 0.98, as in sox."""
    a = -1 / math.log(1 - 0.3)
    b = 100 / (math.log(1 - 0.98) * a + 1)
    return 1 - torch.exp((reverberance - b) / (a * b))


def _combs(length: int, sample_rate: int, reverberance: Tensor, damping: Tensor, room: Tensor) -> Tensor:
    """Complex [batch, length // 2 + 1]: the sum of the combs on the circle |z| = DECAY ** (1 / length)."""
    room_scale = room.float()[:, None] * 0.009 + 0.1
    delays = _delays(COMBS, sample_rate, room_scale)
    pole = damping.float()[:, None] * 0.003 + 0.2
    gain = feedback(reverberance.float())[:, None] * (1 - pole)
    damped = 1 - pole * _power(delays.new_ones(1), length)
    # A comb is u / (1 - loop u), u = z^-delay, with loop = gain / damped; summed as (1 / (1 - loop u) - 1) / loop.
    # Reciprocals, since torch's complex division costs six times as much.
    loop = damped.reciprocal().mul_(gain)
    if loop.device.type != "cpu" and len(COMBS) * loop.numel() < AT_ONCE:  # few kernels for a GPU
        combs = rearrange(_power(delays.flatten(), length), "(batch combs) bins -> batch combs bins", combs=len(COMBS))
        total = -len(COMBS) - combs.mul_(loop[:, None]).sub_(1).reciprocal_().sum(1)
        return total.mul_(damped.div_(gain))
    total = torch.full_like(loop, -len(COMBS))
    for delay in delays.unbind(1):
        total -= _power(delay, length).mul_(loop).sub_(1).reciprocal_()
    return total.mul_(damped.div_(gain))


def _delays(at_44100: tuple[int, ...], sample_rate: int, scale: Tensor) -> Tensor:
    """Whole samples, at least one: [batch, delays] for scale [batch, 1]."""
    delays = sent(torch.tensor(at_44100), scale.device) * (sample_rate / 44100 * scale)
    return (delays + 0.5).long().clamp_(min=1)


@lru_cache(maxsize=8)
def _all_passes(length: int, sample_rate: int, device: torch.device) -> Tensor:
    """Complex [length // 2 + 1]: the four in series, the same for every room."""
    delays = _delays(ALL_PASSES, sample_rate, torch.ones(1, 1, device=device))
    series = torch.ones(length // 2 + 1, dtype=torch.complex64, device=device)
    for delay in delays.unbind(1):
        u = _power(delay, length)[0]
        series *= (u * (1 + ALL_PASS_FEEDBACK) - 1) * (1 - u * ALL_PASS_FEEDBACK).reciprocal()
    return series


def _power(delay: Tensor, length: int) -> Tensor:
    """Complex [batch, length // 2 + 1]: z^-delay for the delays [batch] on the grid.

    Bin = COLUMNS * row + column, and a power of a sum is a product: few sines, then one multiplication a bin.
    """
    bins = length // 2 + 1
    delay = delay[:, None]
    column = torch.arange(COLUMNS, device=delay.device)
    row = torch.arange(math.ceil(bins / COLUMNS), device=delay.device) * COLUMNS
    loss = torch.exp(delay * (-math.log(DECAY) / length))
    turns = 2 * math.pi / length  # the product below is taken modulo the length in whole numbers: exact
    coarse = torch.polar(loss.expand(-1, len(row)), (delay * row % length) * -turns)
    fine = torch.polar(torch.ones_like(loss).expand(-1, COLUMNS), (delay * column % length) * -turns)
    return rearrange(coarse[:, :, None] * fine[:, None, :], "batch rows columns -> batch (rows columns)")[:, :bins]
