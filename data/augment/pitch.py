"""Pitch shift with the duration kept: resample, then stretch back in time with a phase vocoder.

Why this one: a phase vocoder keeps the frequency of every partial to a fraction of a cent, also in a chord, where sox's
overlap-add (which CLMR calls) has to compromise; and its work is a fixed number of FFTs, whatever the shift, so items
with different shifts share one batch.

Two choices make it cheap and steady. Each synthesis frame has two analysis frames exactly one hop apart, so the phase
advance over a hop is read off directly: no unwrapping, no interpolation (Laroche & Dolson 1999, section III). And the
rotation of each bin is averaged with its neighbours', weighted by energy, so the bins of one partial turn together and
the sound doesn't get phasey (the "loose phase lock" of Puckette 1995). Where a sound has no clear partials the average
amplifies rounding errors: there, devices may differ by what lies some 50 dB below the sound.
"""

import math
from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ..draws import sent

# 3,072 samples at 22,050 Hz. Shifted down by 700 cents, a minor third on C3 stays within 4 cents; with 2,048 samples
# it is off by 40. The price is the smear of an attack: up to 25 ms at 700 cents.
WINDOW_SECONDS = 0.139
OVERLAP = 3  # frames over each sample: the least for which squared Hann windows add up to a constant
OVERSAMPLING = 2  # of the signal that the interpolation reads
PASS = 0.9  # share of the band kept before the resampler's filter falls to zero at the band edge
CACHED = 2**18  # numbers that are worked on at once on a CPU: a megabyte, about a core's second-level cache
# A bin 50 dB below a sine with the frame's energy isn't turned: it keeps the input's phase. Else rounding errors in
# silent bins decide the phases of what starts there later; and so an attack after a pause starts in phase.
FLOOR = 1e-5


def shift_pitch(waveform: Tensor, cents: Tensor, sample_rate: int) -> Tensor:
    """Move the pitch of each item by its own number of cents; duration and loudness stay.

    Args:
        waveform: [batch, samples] float32.
        cents: [batch] 100 per semitone, positive is up; within an octave either way. On the CPU: else read back.
        sample_rate: Hz.

    Returns: [batch, samples] float32.
    """
    cents = cents.cpu()
    order = cents.argsort()  # the longest after resampling first
    there = sent(torch.stack([order, order.argsort()]), waveform.device)
    waveform, ratio = waveform[there[0]], torch.exp2(cents[order].double() / 1200)
    size = window_samples(sample_rate)
    moved = change_speed(waveform, ratio, margin=2 * size)
    return stretch(moved, sent(ratio, waveform.device), waveform.shape[1], size, margin=2 * size)[there[1]]


def window_samples(sample_rate: int) -> int:
    """Samples of the vocoder's window: 3 or 9 times a power of two, nearest to `WINDOW_SECONDS`."""
    sizes = (factor * 2**k for factor in (3, 9) for k in range(1, 16))
    return min(sizes, key=lambda size: abs(math.log(size / (WINDOW_SECONDS * sample_rate))))


def fast_length(samples: int) -> int:
    """The least length of at least `samples` that an FFT likes: 4, 5, 6 or 7 times a power of two."""
    power = 2 ** max(0, math.ceil(math.log2(max(samples, 1))) - 3)
    return next(power * factor for factor in (4, 5, 6, 7, 8) if power * factor >= samples)


def change_speed(waveform: Tensor, ratio: Tensor, margin: int) -> Tensor:
    """Read each item `ratio` times as fast: sample m of the result is the input at m * ratio, band-limited.

    waveform: [batch, samples]. ratio: [batch] float64 on the CPU, the least first. Returns [batch, length], with at
    least `margin` samples of silence before the start and after the end of each item.
    """
    batch, samples = waveform.shape
    ratio = ratio.cpu()
    fine = _oversample(waveform, sent(1 / ratio.clamp(min=1).float(), waveform.device))
    ends = torch.ceil(samples / ratio).long()
    lengths: list[int] = ends.tolist()
    count = math.ceil(lengths[0] / 32) * 32
    out = waveform.new_zeros(batch, margin + count + margin)
    # Positions in fixed point (32 bits after the point): exact on every device, and float32 would jitter at the end.
    step = sent((ratio * (OVERSAMPLING * 2.0**32)).round().long()[:, None], waveform.device)
    for first, last in blocks(count, 4 * batch, waveform.device):  # some are int64, and there are many
        longer = sum(length > first for length in lengths)
        position = step[:longer] * torch.arange(first, last, device=waveform.device)
        whole = (position >> 32).clamp_(max=fine.shape[1] - 5)
        fraction = position.bitwise_and_(0xFFFFFFFF).float().mul_(2.0**-32)
        _interpolate(fine, whole, fraction, out[:longer, margin + first : margin + last])
    after = torch.arange(lengths[-1], count, device=waveform.device) >= sent(ends[:, None], waveform.device)
    out[:, margin + lengths[-1] : margin + count].masked_fill_(after, 0)
    return out


def blocks(count: int, width: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) over `count` things of `width` numbers each; on a CPU, a range's numbers fit the cache.

    Where they can be, they are of a multiple of 32 things: whole SIMD vectors.
    """
    size = max(1, CACHED // width) if device.type == "cpu" else count
    size = size // 32 * 32 or size
    return ((first, min(first + size, count)) for first in range(0, count, size))


def _oversample(waveform: Tensor, cutoff: Tensor) -> Tensor:
    """[batch, 2 * length]: coefficients of the cubic spline through the low-passed item, at twice its rate, from -2 on.

    cutoff: [batch], 1 is the band edge.
    """
    size = fast_length(waveform.shape[1] + 128)  # silence between end and start, where the filter rings
    spectrum = torch.fft.rfft(functional.pad(waveform, (1, size - 1 - waveform.shape[1])))
    bins = torch.arange(size // 2 + 1, device=waveform.device)
    spline = torch.sinc(bins / (OVERSAMPLING * size)) ** 4
    slope = -1 / ((1 - PASS) * (size // 2) * cutoff[:, None])  # from 1 at PASS to 0 at 1 times the cut-off
    spectrum *= torch.addcmul(slope.new_full((), 1 / (1 - PASS)), slope, bins).clamp_(0, 1).div_(spline)
    if len(spectrum) == 1:  # MKL transforms a single long row by another algorithm: slower, and rounded otherwise
        spectrum = spectrum.expand(2, -1)
    return torch.fft.irfft(spectrum, OVERSAMPLING * size)[: len(waveform)].mul_(OVERSAMPLING)


def _interpolate(fine: Tensor, whole: Tensor, x: Tensor, out: Tensor) -> None:
    """Add to out [batch, count] the cubic spline at x in [0, 1) past the coefficient 2 after `whole`.

    Four neighbours, and images 68 dB down at 5.5 kHz (of 22,050 Hz); a polynomial through six has them 59 dB down.
    """
    y = 1 - x
    x2, y2 = x * x, y * y
    x3, y3 = x2 * x, y2 * y
    weights = (y3 / 6, torch.sub(x3 / 2, x2).add_(2 / 3), torch.sub(y3 / 2, y2).add_(2 / 3), x3 / 6)
    for tap, weight in enumerate(weights, start=1):
        out.addcmul_(fine[:, tap:].gather(1, whole), weight)


def stretch(moved: Tensor, ratio: Tensor, samples: int, size: int, margin: int) -> Tensor:
    """Stretch each item by `ratio` in time, pitch kept.

    moved: [batch, length], with `margin` samples of silence first and last. Returns [batch, samples].
    """
    hop = size // OVERLAP
    frames = math.ceil(samples / hop) + 1
    batch, device = moved.shape[0], moved.device
    window = torch.hann_window(size, device=device)
    centre = (torch.arange(frames, device=device)[:, None] * (hop / ratio)).round().long()  # [frames, batch]
    start = centre + (margin - size // 2)
    # A frame of the reversed signal has the conjugate spectrum (the window is symmetric and its sample 0 is zero).
    reversed_start = moved.shape[1] - 1 - size - (start - hop)
    reversed_moved = moved.flip(1)
    state = _State(moved.new_zeros(batch, size // 2, dtype=torch.complex64))
    sums = _OverlapAdd(window, frames, batch, hop)
    for first, last in blocks(frames, batch * size, device):
        frame = _frames(moved, start[first:last], size).mul_(window)
        floor = torch.linalg.vector_norm(frame, dim=-1).square_().mul_(FLOOR * size / 3).add_(1e-15)
        now = torch.fft.rfft(frame)
        back = torch.fft.rfft(_frames(reversed_moved, reversed_start[first:last], size).mul_(window))
        # Without the last bin, which the resampler emptied: whole SIMD vectors a row, so that an item's rounding errors
        # don't depend on its place in the batch.
        now[..., :-1] *= state.turn(now[..., :-1], back[..., :-1], floor)
        sums.add(first, torch.fft.irfft(now, size).mul_(window))
    return sums.result()[:, size // 2 :][:, :samples]


def _frames(waveform: Tensor, start: Tensor, size: int) -> Tensor:
    """[frames, batch, size]: `size` samples of each item [batch, length] from each start [frames, batch]."""
    rows = torch.arange(waveform.shape[0], device=waveform.device)
    return waveform.unfold(1, size, 1)[rows, start]


class _State:
    """What the vocoder carries from frame to frame: the last frame and the rotation of its bins."""

    def __init__(self, last: Tensor) -> None:
        """last: complex [batch, bins], silence: the frame before the first."""
        self.last = last
        self.rotation = torch.ones_like(last)
        self.product = functional.pad(last, (1, 1))  # a silent bin either side of the band
        self.total = torch.zeros_like(last)

    def turn(self, now: Tensor, back: Tensor, floor: Tensor) -> Tensor:
        """The rotation of each bin that continues the phase of the frame before, of size 1.

        now: complex [frames, batch, bins]. back: the conjugate of the same one hop earlier in the input. floor:
        [frames, batch], energy below which a bin isn't turned. Returns complex [frames, batch, bins].
        """
        advance, turn = now.new_empty(now.shape), now.new_empty(now.shape)
        torch.mul(self.last, back[0], out=advance[0])
        torch.mul(now[:-1], back[1:], out=advance[1:])
        self.last = now[-1].clone()
        if now.device.type != "cpu":
            return self._turn_in_few(advance, floor[..., None], turn)
        low, middle, high = self.product[:, :-2], self.product[:, 1:-1], self.product[:, 2:]
        rotation, parts = self.rotation, torch.view_as_real(self.total)
        for step, least, out in zip(advance.unbind(0), floor[..., None].unbind(0), turn.unbind(0), strict=True):
            torch.mul(step, rotation, out=middle)
            torch.add(low, high, out=self.total).add_(middle).add_(least)
            real, imag = (parts * parts).unbind(-1)
            rotation = torch.mul(self.total, (real + imag).rsqrt_(), out=out)
        self.rotation = rotation
        return turn

    def _turn_in_few(self, advance: Tensor, floor: Tensor, turn: Tensor) -> Tensor:
        """The same in half as many kernels, which is what a GPU's time goes to; a CPU takes longer over these."""
        middle, neighbours = self.product[:, 1:-1], self.product.unfold(1, 3, 1)
        for step, least, out in zip(advance.unbind(0), floor.unbind(0), turn.unbind(0), strict=True):
            torch.mul(step, self.rotation, out=middle)
            self.rotation = torch.sgn(neighbours.sum(-1).add_(least), out=out)
        return turn


class _OverlapAdd:
    """The sum of windowed frames a hop apart, over the sum of the squared windows."""

    def __init__(self, window: Tensor, frames: int, batch: int, hop: int) -> None:
        self.sum = window.new_zeros(batch, frames + OVERLAP - 1, hop)
        self.weight = window.new_zeros(frames + OVERLAP - 1, hop)
        for part, squared in enumerate(rearrange(window.square(), "(parts hop) -> parts hop", hop=hop)):
            self.weight[part : part + frames] += squared

    def add(self, first: int, frames: Tensor) -> None:
        """Put frames [frames, batch, size] in place, the first of them at index `first`."""
        parts = rearrange(frames, "frames batch (parts hop) -> batch frames parts hop", parts=OVERLAP)
        for part in range(OVERLAP):
            self.sum[:, first + part : first + part + parts.shape[1]] += parts[:, :, part]

    def result(self) -> Tensor:
        """[batch, samples]; where less than a tenth of a window lies (before the start), the sum fades."""
        return rearrange(self.sum / self.weight.clamp_(min=0.1), "batch frames hop -> batch (frames hop)")


def read_at(waveform: Tensor, positions: Tensor) -> Tensor:
    """The sound between its samples: the low-passed item's cubic spline at its own positions.

    waveform: [batch, samples]. positions: [batch, count] float64 samples from the start; before the start and after the
    end it is the edge. Returns [batch, count] float32.
    """
    fine = _oversample(waveform, waveform.new_ones(len(waveform)))
    place = (positions.clamp(0, waveform.shape[1] - 1)) * OVERSAMPLING
    whole = place.long()
    out = waveform.new_zeros(positions.shape)
    _interpolate(fine, whole, (place - whole).float(), out)
    return out


def stretch_time(waveform: Tensor, factor: Tensor, sample_rate: int) -> Tensor:
    """Play each item `factor` times as fast with its pitch kept; what is shorter than the longest ends in silence.

    waveform: [batch, samples]. factor: [batch] float64. Returns [batch, ceil(samples / min(factor))].
    """
    size, factor = window_samples(sample_rate), factor.cpu()
    samples = torch.ceil(waveform.shape[1] / factor).long()
    padded = functional.pad(waveform, (2 * size, 3 * size))
    sound = stretch(padded, sent(1 / factor, waveform.device), int(samples.max()), size, margin=2 * size)
    inside = torch.arange(sound.shape[1], device=sound.device) < sent(samples[:, None], sound.device)
    return sound * inside
