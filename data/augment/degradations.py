"""What recordings suffer: noise, codecs, filters, rooms, clipping, wrong speed; one after the other as a chain.

The names and parameters are those of the Audio Degradation Toolbox (Mauch and Ewert 2013) in its Python edition, so its
JSON files say the same here; where that edition errs (a rate that is relabelled, so that a shift can't be heard or is
heard upside down; levels that are lost; integer overflow), this doesn't. Any number may also be a range [low, high]:
each item then draws its own, from its own seed.

Everything is batched and runs where the waveform is, but for what goes through a codec or a resampler (mp3, resample).
Levels aren't clipped to ±1: a file format does that.
"""

from __future__ import annotations

import dataclasses
import difflib
import io
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import soundfile as sf
import torch
from torch import Tensor
from torch.nn import functional

from ...reading import json_of
from ..audio import read as audio
from ..draws import Draws, scramble, sent
from . import pitch, responses
from .chain import Augmentation, check_rate

Number = float | tuple[float, float]
Times = npt.NDArray[np.float64]
COLORS = {"white": 0, "pink": -1, "brown": -2, "blue": 1, "violet": 2}  # power is frequency to the power of this
NOISE_FROM = 20.0  # Hz: below it coloured noise is flat, else pink and brown noise would be all rumble
MP3_RATES = {48000: (32, 320), 44100: (32, 320), 32000: (32, 320), 24000: (8, 160), 22050: (8, 160), 16000: (8, 160)}
MP3_RATES |= {12000: (8, 64), 11025: (8, 64), 8000: (8, 64)}  # Hz, and the bitrates in kb/s that it allows
MP3_DELAY = 1105  # samples: 576 of LAME and 529 of any decoder
SILENT = 1e-10  # mean square: -100 dB
CACHED = 2**19  # numbers that are worked on at once on a CPU: two megabytes, so that a few tensors stay in its caches
RING = 4096  # samples of silence behind the end in which a filter may ring


@dataclass(frozen=True)
class Degradation:
    """One kind of damage; its fields are the parameters, each a number or a range that an item draws from."""

    NAME: ClassVar[str] = ""
    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {}  # of each number: least and greatest
    ALIASES: ClassVar[dict[str, str]] = {}
    IGNORED: ClassVar[tuple[str, ...]] = ()  # parameters of the toolbox that nothing depends on here
    MOVES: ClassVar[bool] = False  # whether time changes
    SHIFTS: ClassVar[bool] = False  # whether pitch changes

    def __post_init__(self) -> None:
        """Refuse numbers that make no sound."""
        for name, (least, greatest) in self.LIMITS.items():
            value = getattr(self, name)
            ends = tuple(value) if isinstance(value, list | tuple) else (value, value)
            if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or isinstance(ends[0], bool):
                raise ValueError(f"{self.NAME}: {name} is {value!r}; give a number, or a range [low, high].")
            if not least <= ends[0] <= ends[1] <= greatest:
                raise ValueError(
                    f"{self.NAME}: {name} is {value!r}; give a number from {least:g} to {greatest:g}, or a range "
                    "[low, high] within them."
                )
            if isinstance(value, list):
                object.__setattr__(self, name, (float(ends[0]), float(ends[1])))

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        """sound: [batch, samples] -> [batch, samples'], every item changed; the same draws, the same change."""
        raise NotImplementedError

    def moved(self, times: Times, samples: int, rate: int, draws: Draws) -> Times:
        """Where moments (s) of the one item go to, NaN for what is cut away; samples: of the item before the change."""
        return times

    def nearest(self, times: Times, samples: int, rate: int, draws: Draws) -> Times:
        """As `moved`, but what is cut away goes to the place of the cut: no moment overtakes another."""
        return self.moved(times, samples, rate, draws)

    def draw(self, name: str, draws: Draws, here: bool = False) -> Tensor:
        """[batch] float32: each item's value of a parameter; here: on the CPU."""
        value = getattr(self, name)
        low, high = value if isinstance(value, tuple) else (value, value)
        return draws.uniform(low, high, here)


# ---- levels


def power(sound: Tensor) -> Tensor:
    """[batch, 1] mean square."""
    return sound.square().mean(1, keepdim=True)


def peak(sound: Tensor) -> Tensor:
    """[batch, 1] largest magnitude; 1 for silence, so that it may divide."""
    highest = sound.abs().amax(1, keepdim=True)
    return torch.where(highest > 0, highest, torch.ones_like(highest))


def at_snr(sound: Tensor, noise: Tensor, snr: Tensor) -> Tensor:
    """Sound and noise [batch, samples] added, the noise `snr` [batch] dB below by mean power; silence stays silent."""
    level = power(sound)
    loud = (level / power(noise).clamp_min(1e-20) * 10 ** (-snr[:, None] / 10)).sqrt()
    return torch.addcmul(sound, noise, loud * (level > SILENT))


@dataclass(frozen=True)
class Gain(Degradation):
    """`volume` dB louder."""

    NAME = "gain"
    LIMITS = {"volume": (-120, 60)}
    volume: Number = 10.0

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        return sound * 10 ** (self.draw("volume", draws) / 20)[:, None]


@dataclass(frozen=True)
class Normalize(Degradation):
    """The peak to -0.1 dB of full scale; silence stays silent."""

    NAME = "normalize"

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        return sound / peak(sound) * 10 ** (-0.1 / 20)


@dataclass(frozen=True)
class Noise(Degradation):
    """Noise of a colour at `snr` dB below the item's mean power: an exact spectrum, random phases."""

    NAME = "noise"
    LIMITS = {"snr": (-60, 120)}
    snr: Number = 20.0
    color: str = "pink"

    def __post_init__(self) -> None:
        """Refuse colours that aren't known."""
        super().__post_init__()
        if self.color not in COLORS:
            raise ValueError(f"noise: color is {self.color!r}; choose {', '.join(COLORS)}.")

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        snr = self.draw("snr", draws)
        size = pitch.fast_length(sound.shape[1])
        hertz = torch.arange(size // 2 + 1, device=sound.device) * (rate / size)
        shape = hertz.clamp_min(min(NOISE_FROM, rate / size)) ** (COLORS[self.color] / 2)
        shape = torch.where(hertz < NOISE_FROM, shape.new_full((), NOISE_FROM ** (COLORS[self.color] / 2)), shape)
        shape[0] = 0
        turns = draws.uniforms(size // 2 + 1).mul_(2 * math.pi)
        spectrum = torch.complex(turns.cos().mul_(shape), turns.sin_().mul_(shape))  # torch.polar takes thrice as long
        noise = torch.fft.irfft(spectrum, size)[:, : sound.shape[1]]
        return at_snr(sound, noise, snr)


@dataclass(frozen=True)
class Mix(Degradation):
    """Another recording `snr` dB below, looped or cut to the length; `anywhere` begins at a random place of it."""

    NAME = "mix"
    LIMITS = {"snr": (-60, 120)}
    path: str = ""
    snr: Number = 20.0
    anywhere: bool = False

    def __post_init__(self) -> None:
        """Refuse a mix with nothing."""
        super().__post_init__()
        _check_path(self.NAME, self.path)

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        snr = self.draw("snr", draws)
        other = _on(sound.device, self.path, rate)
        first = (draws.uniform() * len(other)).long() if self.anywhere else torch.zeros_like(snr).long()
        places = (first[:, None] + torch.arange(sound.shape[1], device=sound.device)) % len(other)
        return at_snr(sound, other[places], snr)


# ---- filters


Response = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Of a filter: from z^-1 on the unit circle [bins] to its two polynomials [batch, bins] complex, above and below."""


@lru_cache(maxsize=8)
def unit_circle(size: int, device: torch.device) -> Tensor:
    """z^-1 for every bin of a transform of `size` samples."""
    angle = torch.arange(size // 2 + 1, device=device, dtype=torch.float64) * (-2 * math.pi / size)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def filtered(sound: Tensor, responses: Sequence[Response]) -> Tensor:
    """Each item through its filters, all at once."""
    size = pitch.fast_length(sound.shape[1] + RING)
    back = unit_circle(size, sound.device)
    above, below = responses[0](back)
    for response in responses[1:]:
        over, under = response(back)
        above, below = above.mul_(over), below.mul_(under)
    spectrum = torch.fft.rfft(sound, size).mul_(above.div_(below))
    return torch.fft.irfft(spectrum, size)[:, : sound.shape[1]]


class Filter(Degradation):
    """A linear filter; neighbours in a chain share their Fourier transforms."""

    def response(self, rate: int, draws: Draws) -> Response:
        """The filter of each item."""
        raise NotImplementedError

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        return filtered(sound, [self.response(rate, draws)])


@dataclass(frozen=True)
class LowPass(Filter):
    """A low-pass of first order (6 dB per octave): 3 dB down at `cutoff` Hz."""

    NAME = "low_pass"
    LIMITS = {"cutoff": (10, 96_000)}
    cutoff: Number = 1000.0

    def response(self, rate: int, draws: Draws) -> Response:
        pole = first_order(self.draw("cutoff", draws), rate)
        return lambda back: ((1 + back) * ((1 - pole) / 2), 1 - pole * back)


@dataclass(frozen=True)
class HighPass(Filter):
    """A high-pass of first order (6 dB per octave): 3 dB down at `cutoff` Hz."""

    NAME = "high_pass"
    LIMITS = {"cutoff": (10, 96_000)}
    cutoff: Number = 1000.0

    def response(self, rate: int, draws: Draws) -> Response:
        pole = first_order(self.draw("cutoff", draws), rate)
        return lambda back: ((1 - back) * ((1 + pole) / 2), 1 - pole * back)


def first_order(cutoff: Tensor, rate: int) -> Tensor:
    """[batch, 1] pole of the bilinear RC filter; from 0.499 of the rate on it stays there."""
    tangent = torch.tan(math.pi * (cutoff / rate).clamp(max=0.499))
    return ((1 - tangent) / (1 + tangent))[:, None]


@dataclass(frozen=True)
class Equalizer(Filter):
    """A peak of `gain` dB at `frequency` Hz, `bandwidth` octaves wide (R. Bristow-Johnson's cookbook)."""

    NAME = "equalizer"
    LIMITS = {"frequency": (10, 96_000), "bandwidth": (0.05, 8), "gain": (-60, 60)}
    frequency: Number = 1000.0
    bandwidth: Number = 1.0
    gain: Number = -3.0

    def response(self, rate: int, draws: Draws) -> Response:
        turn = 2 * math.pi * (self.draw("frequency", draws) / rate).clamp(max=0.49)[:, None]
        octaves, decibels = self.draw("bandwidth", draws)[:, None], self.draw("gain", draws)[:, None]
        alpha = turn.sin() * torch.sinh(math.log(2) / 2 * octaves * turn / turn.sin())
        height, cosine = 10 ** (decibels / 40), -2 * turn.cos()

        def peaked(back: Tensor) -> tuple[Tensor, Tensor]:
            # (1 + a) + c z^-1 + (1 - a) z^-2, both over z^-1: real and imaginary parts are plain
            even, odd = 2 * back.real + cosine, -2 * alpha * back.imag
            return torch.complex(even, odd * height), torch.complex(even, odd / height)

        return peaked


@dataclass(frozen=True)
class ImpulseResponse(Degradation):
    """Played in a room or through a device: convolved with a recording of it, its direct sound kept in time.

    The item's mean power stays. path: a file (resampled to the item's rate), or synth:hall, synth:phone_speaker,
    synth:phone_microphone, synth:turntable.
    """

    NAME = "impulse_response"
    path: str = ""

    def __post_init__(self) -> None:
        """Refuse a room without a file."""
        super().__post_init__()
        _check_path(self.NAME, self.path)

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        room = _on(sound.device, self.path, rate)
        direct = int(np.abs(recording(self.path, rate)).argmax())
        size = pitch.fast_length(sound.shape[1] + len(room))
        wet = torch.fft.irfft(torch.fft.rfft(sound, size) * torch.fft.rfft(room, size), size)
        wet = wet[:, direct : direct + sound.shape[1]]
        return wet * (power(sound) / power(wet).clamp_min(1e-20)).sqrt()


# ---- distortion


@dataclass(frozen=True)
class Clipping(Degradation):
    """The loudest samples cut off, then the old peak restored: so many `samples`, or `percent_samples` % of all."""

    NAME = "clipping"
    LIMITS = {"samples": (0, 1e9), "percent_samples": (0, 100)}
    samples: Number = 0
    percent_samples: Number = 0

    def __post_init__(self) -> None:
        """Refuse both and neither."""
        super().__post_init__()
        if (self.samples == 0) == (self.percent_samples == 0):
            raise ValueError("clipping: give either samples or percent_samples, more than 0 and not both.")

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        length = sound.shape[1]
        if self.samples:
            wanted = self.draw("samples", draws, here=True)
        else:
            wanted = self.draw("percent_samples", draws, here=True) * (length / 100)
        count: list[int] = wanted.round().long().clamp(1, length).tolist()
        level = sound.abs()
        edge = torch.stack([_largest(row, n) for row, n in zip(level, count, strict=True)])[:, None]
        top = level.amax(1, keepdim=True)
        audible = edge > 0  # where fewer samples than that aren't silent, nothing is cut
        edge = torch.where(audible, edge, top)
        return sound.clamp(-edge, edge).mul_(torch.where(audible, top / edge.clamp_min(1e-20), 1.0))


def _largest(row: Tensor, number: int) -> Tensor:
    """The `number`-th largest of [samples]; numpy's selection is three times as fast as torch's on a CPU."""
    place = len(row) - number
    if row.device.type == "cpu":
        return torch.tensor(np.partition(row.numpy(), place)[place])
    return row.kthvalue(place + 1).values


@dataclass(frozen=True)
class HarmonicDistortion(Degradation):
    """The waveform bent by sin(πx / 2) around its peak, `num_passes` times: odd harmonics."""

    NAME = "harmonic_distortion"
    LIMITS = {"num_passes": (0, 20)}
    num_passes: Number = 3

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        wanted = self.draw("num_passes", draws, here=True).round()
        passes = sent(wanted, sound.device)[:, None]
        bent, top = sound / peak(sound), peak(sound)
        for number in range(int(wanted.max())):
            bent = torch.where(number < passes, torch.sin(bent * (math.pi / 2)), bent)
        return bent * top


@dataclass(frozen=True)
class DynamicRangeCompression(Degradation):
    """Above `threshold` dB of full scale a level grows by 1 / `ratio` only.

    The level is the mean square of the past 10 ms; the attenuation follows with time constants `attack` and `release`
    in ms.
    """

    NAME = "dynamic_range_compression"
    LIMITS = {"threshold": (-100, 0), "ratio": (1, 100), "attack": (0.01, 10_000), "release": (0.01, 10_000)}
    threshold: Number = -20.0
    ratio: Number = 4.0
    attack: Number = 5.0
    release: Number = 50.0

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        hop, past = max(1, round(rate / 1000)), max(1, round(rate / 100))
        heard = functional.pad(sound.double().square().cumsum(1), (past, 0))
        level = ((heard[:, past:] - heard[:, :-past])[:, hop - 1 :: hop] / past).clamp_min(1e-12)
        if not level.shape[1]:
            return sound
        over = (10 * level.log10() - self.draw("threshold", draws)[:, None]).clamp_min(0)
        target = (over * (1 - 1 / self.draw("ratio", draws)[:, None])).cpu().numpy()
        steps = [np.exp(-1 / self.draw(name, draws, here=True).double().numpy()) for name in ("attack", "release")]
        attenuation, now = np.empty_like(target), np.zeros(len(target))
        for column in range(target.shape[1]):  # a millisecond each
            wanted = target[:, column]
            keep = np.where(wanted > now, steps[0], steps[1])
            now = attenuation[:, column] = wanted + (now - wanted) * keep
        slow = torch.from_numpy(attenuation).float().to(sound.device)[:, None]
        slow = functional.pad(slow, (1, 0), mode="replicate")
        every = functional.interpolate(slow, size=(slow.shape[2] - 1) * hop + 1, mode="linear", align_corners=True)[
            :, 0
        ]
        every = functional.pad(every, (0, max(0, sound.shape[1] - every.shape[1])), mode="replicate")
        return sound * 10 ** (-every[:, : sound.shape[1]] / 20)


@dataclass(frozen=True)
class Aliasing(Degradation):
    """Sampled at `dest_frequency` Hz without a filter (the nearest sample) and drawn back with straight lines."""

    NAME = "aliasing"
    LIMITS = {"dest_frequency": (100, 192_000)}
    dest_frequency: Number = 8000.0

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        step = (rate / self.draw("dest_frequency", draws).double()).clamp_min(1.0)[:, None]
        place = torch.arange(sound.shape[1], device=sound.device) / step
        low, last = place.long(), sound.shape[1] - 1
        before = sound.gather(1, (low * step).round().long().clamp(max=last))
        after = sound.gather(1, ((low + 1) * step).round().long().clamp(max=last))
        return torch.lerp(before, after, (place - low).float())


@dataclass(frozen=True)
class Mp3(Degradation):
    """Through the LAME encoder at a constant `bitrate` of kb/s, and back; it stays in time to the sample.

    Rates between the format's (8 to 48 kHz) go through the next higher one. A bitrate beyond what the rate allows
    becomes its nearest.
    """

    NAME = "mp3"
    LIMITS = {"bitrate": (8, 320)}
    bitrate: Number = 320.0

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        if "MP3" not in sf.available_formats():
            raise ValueError(
                "mp3: this libsndfile has no MP3 encoder (it came with version 1.1); install soundfile 0.13 or newer."
            )
        near = min((known for known in MP3_RATES if known >= rate), default=48_000)
        rows = [
            audio.resample(_round_trip(audio.resample(row, rate, near), near, bitrate), near, rate)
            for row, bitrate in zip(sound.cpu().numpy(), self.draw("bitrate", draws, here=True).tolist(), strict=True)
        ]
        return _as_long(rows, sound)


def _round_trip(sound: npt.NDArray[np.float32], rate: int, bitrate: float) -> npt.NDArray[np.float32]:
    low, high = MP3_RATES[rate]
    level = min(max((high - bitrate) / (high - low), 0.0), 0.999)  # libsndfile's scale of constant bitrates
    data = io.BytesIO()
    settings = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": level}
    top = max(1.0, float(np.abs(sound).max(initial=0.0)))  # the encoder clips at full scale
    with sf.SoundFile(data, "w", rate, 1, **settings) as file:
        file.write(sound / top)
    data.seek(0)
    decoded: npt.NDArray[np.float32] = sf.read(data, dtype="float32")[0]
    if len(decoded) > len(sound):  # frames so small that none holds the tag by which a decoder leaves the delay out
        decoded = decoded[MP3_DELAY : MP3_DELAY + len(sound)]
    return decoded * np.float32(top)


@dataclass(frozen=True)
class Resample(Degradation):
    """To `rate` Hz with a good filter, and back: what lies above half of it is lost. A higher rate changes nothing."""

    NAME = "resample"
    LIMITS = {"rate": (100, 384_000)}
    rate: Number = 8000.0

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        rows = []
        for row, wanted in zip(
            sound.cpu().numpy(), self.draw("rate", draws, here=True).round().long().tolist(), strict=True
        ):
            there = row if wanted >= rate else audio.resample(audio.resample(row, rate, wanted), wanted, rate)
            rows.append(there)
        return _as_long(rows, sound)


def _as_long(rows: Sequence[npt.NDArray[np.float32]], like: Tensor) -> Tensor:
    """Rows cut or filled with zeros to [batch, samples] as `like`, on its device."""
    found = np.zeros(like.shape, np.float32)
    for out, row in zip(found, rows, strict=True):
        out[: len(row)] = row[: len(out)]
    return torch.from_numpy(found).to(like.device)


# ---- time and pitch


@dataclass(frozen=True)
class TrimMillis(Degradation):
    """A span of `amount` ms cut out, `offset` ms from the start; -1: at the end."""

    NAME = "trim_millis"
    LIMITS = {"amount": (0, 1e9), "offset": (-1, 1e9)}
    MOVES = True
    amount: float = 100.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        """Refuse ranges: a batch has one length."""
        super().__post_init__()
        for name in ("amount", "offset"):
            if isinstance(getattr(self, name), tuple):
                raise ValueError(f"trim_millis: {name} is a range; give one number, since a batch has one length.")

    def _span(self, samples: int, rate: int) -> tuple[int, int]:
        count = round(self.amount * rate / 1000)
        if count >= samples:
            raise ValueError(
                f"trim_millis: {self.amount:g} ms are to be cut from {1000 * samples / rate:g} ms, so nothing would be "
                "left; give a smaller amount."
            )
        first = samples - count if self.offset < 0 else min(round(self.offset * rate / 1000), samples)
        return first, min(first + count, samples)

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        first, last = self._span(sound.shape[1], rate)
        return torch.cat([sound[:, :first], sound[:, last:]], 1)

    def moved(self, times: Times, samples: int, rate: int, draws: Draws) -> Times:
        first, last = (edge / rate for edge in self._span(samples, rate))
        return np.where((times >= first) & (times < last), np.nan, self.nearest(times, samples, rate, draws))

    def nearest(self, times: Times, samples: int, rate: int, draws: Draws) -> Times:
        first, last = (edge / rate for edge in self._span(samples, rate))
        return np.where(times >= last, times - (last - first), np.minimum(times, first))


@dataclass(frozen=True)
class Delay(Degradation):
    """`samples` of silence before the start."""

    NAME = "delay"
    LIMITS = {"samples": (0, 1e9)}
    ALIASES = {"n_samples": "samples"}
    MOVES = True
    samples: int = 0

    def __post_init__(self) -> None:
        """Refuse ranges and parts of samples."""
        super().__post_init__()
        if not isinstance(self.samples, int):
            raise ValueError(
                f"delay: samples is {self.samples!r}; give one whole number, since a batch has one length."
            )

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        return functional.pad(sound, (self.samples, 0))

    def moved(self, times: Times, samples: int, rate: int, draws: Draws) -> Times:
        return times + self.samples / rate


@dataclass(frozen=True)
class SpeedUp(Degradation):
    """`speed` times as fast, as a tape or a turntable: higher too, and shorter. The rate stays what it was."""

    NAME = "speedup"
    LIMITS = {"speed": (0.25, 4)}
    MOVES, SHIFTS = True, True
    speed: Number = 1.02

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        speed = self.draw("speed", draws, here=True).double()
        order = speed.argsort()
        there = sent(torch.stack([order, order.argsort()]), sound.device)
        found = pitch.change_speed(sound[there[0]], speed[order], margin=0)
        return found[there[1], : _longest(sound, speed)]

    def moved(self, times: Times, samples: int, rate: int, draws: Draws) -> Times:
        return times / float(self.draw("speed", draws).double()[0])


@dataclass(frozen=True)
class TimeStretch(Degradation):
    """`factor` times as fast with the pitch kept (a phase vocoder); above 1 is shorter."""

    NAME = "time_stretch"
    LIMITS = {"factor": (0.25, 4)}
    MOVES = True
    factor: Number = 1.1

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        return pitch.stretch_time(sound, self.draw("factor", draws, here=True).double(), rate)

    def moved(self, times: Times, samples: int, rate: int, draws: Draws) -> Times:
        return times / float(self.draw("factor", draws).double()[0])


def _longest(sound: Tensor, speed: Tensor) -> int:
    return int(torch.ceil(sound.shape[1] / speed.min()))


@dataclass(frozen=True)
class PitchShift(Degradation):
    """`octaves` higher, the duration kept; 1 / 12 is a semitone."""

    NAME = "pitch_shift"
    LIMITS = {"octaves": (-1, 1)}
    SHIFTS = True
    octaves: Number = 1 / 12

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        return pitch.shift_pitch(sound, self.draw("octaves", draws, here=True) * 1200, rate)


@dataclass(frozen=True)
class WowFlutter(Degradation):
    """The speed swings by `intensity` %, `frequency` times a second: y(t) = x(t + a / (2πf) · sin 2πft)."""

    NAME = "wow_flutter"
    LIMITS = {"intensity": (0, 50), "frequency": (0.05, 100)}
    IGNORED = ("upsampling",)
    MOVES = True
    intensity: Number = 1.5
    frequency: Number = 0.5

    def _depth(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """[batch, 1] seconds that it leads at most, and radians per second."""
        share = self.draw("intensity", draws).double()[:, None] / 100
        turn = 2 * math.pi * self.draw("frequency", draws).double()[:, None]
        return share / turn, turn

    def change(self, sound: Tensor, rate: int, draws: Draws) -> Tensor:
        depth, turn = self._depth(draws)
        time = torch.arange(sound.shape[1], device=sound.device, dtype=torch.float64) / rate
        return pitch.read_at(sound, (time + depth * torch.sin(turn * time)) * rate)

    def moved(self, times: Times, samples: int, rate: int, draws: Draws) -> Times:
        depth, turn = (float(value[0, 0]) for value in self._depth(draws))
        found = times.copy()
        for _ in range(60):  # t + depth sin(turn t) = time; the speed swings by less than 50 %, so this comes nearer
            found = times - depth * np.sin(turn * found)
        return found


KINDS: dict[str, type[Degradation]] = {
    kind.NAME: kind
    for kind in (
        Noise, Mp3, Gain, Normalize, LowPass, HighPass, TrimMillis, Mix, SpeedUp, Resample, PitchShift,
        DynamicRangeCompression, ImpulseResponse, Equalizer, TimeStretch, Delay, Clipping, WowFlutter, Aliasing,
        HarmonicDistortion,
    )
}  # fmt: skip


# ---- recordings


def _check_path(name: str, path: str) -> None:
    if not path:
        known = ", ".join(responses.PREFIX + each for each in responses.NAMES)
        raise ValueError(f"{name}: there is no path; give an audio file, or one of {known}.")


@lru_cache(maxsize=64)
def recording(path: str, rate: int) -> npt.NDArray[np.float32]:
    """A file, or a computed sound, at `rate` Hz.

    Raises:
        FileNotFoundError: it isn't there.
        ValueError: it can't be decoded or is silent.
    """
    sound = responses.sound_of(path, rate) if path.startswith(responses.PREFIX) else audio.read(path, rate)
    if not len(sound) or not float(np.square(sound, dtype=np.float64).mean()) > SILENT:
        raise ValueError(f"{path} is silent: nothing can be mixed or convolved with it; give another file.")
    return sound


@lru_cache(maxsize=64)
def _on(device: torch.device, path: str, rate: int) -> Tensor:
    """The same on a device, sent once."""
    return torch.from_numpy(recording(path, rate)).to(device)


# ---- chains


@dataclass(frozen=True)
class DegradationChain:
    """Degradations one after the other; two of the same kind draw different numbers."""

    steps: tuple[Degradation, ...]
    name: str = ""

    @torch.no_grad()
    def __call__(self, sound: Tensor, rate: int, seeds: Tensor) -> Tensor:
        """Degrade a batch.

        sound: [batch, samples] float32; rate: Hz; seeds: int64 [batch]. Returns [batch, samples'], longer or shorter
        where time changes; an item that ends before the longest is filled up with silence.
        """
        check_rate(rate)
        seeds = seeds.cpu()
        if self.moves or sound.device.type != "cpu":
            return self._degrade(sound, rate, seeds)
        some = max(1, CACHED // sound.shape[1])  # an item depends on its own seed alone, and a few fit the cache
        parts = zip(sound.split(some), seeds.split(some), strict=True)
        return torch.cat([self._degrade(part, rate, own) for part, own in parts])

    def _degrade(self, sound: Tensor, rate: int, seeds: Tensor) -> Tensor:
        waiting: list[Response] = []
        for number, step in enumerate(self.steps):
            draws = _draws(seeds, step, number, sound.device)
            if isinstance(step, Filter):
                waiting.append(step.response(rate, draws))
                continue
            if waiting:
                sound = filtered(sound, waiting)
                waiting = []
            sound = step.change(sound, rate, draws)
        return filtered(sound, waiting) if waiting else sound

    def moved(self, times: Times, samples: int, rate: int, seed: int, nearest: bool = False) -> Times:
        """Where moments (s) of an item of `samples` go to under this seed.

        What is cut away is NaN; with `nearest` it goes to the place of the cut, so that the edges of a span become
        those of what is left of it.
        """
        times = np.asarray(times, dtype=np.float64)
        for number, step in enumerate(self.steps):
            if step.MOVES:
                with_end = np.append(times, samples / rate)
                map_times = step.nearest if nearest else step.moved
                moved = map_times(with_end, samples, rate, _draws(torch.tensor([seed]), step, number))
                times, samples = moved[:-1], round(float(moved[-1]) * rate)
        return times

    @property
    def moves(self) -> bool:
        """Whether time changes."""
        return any(step.MOVES for step in self.steps)

    @property
    def shifts(self) -> bool:
        """Whether pitch changes."""
        return any(step.SHIFTS for step in self.steps)

    @property
    def needs_level(self) -> bool:
        """Whether a step sets a level against the item's own, which silence has none of."""
        return any(isinstance(step, Noise | Mix) for step in self.steps)


def _draws(seeds: Tensor, step: Degradation, number: int, device: torch.device | None = None) -> Draws:
    return Draws(seeds, zlib.crc32(f"{step.NAME} {number}".encode()), device)


def chain_of(entries: Any, place: Path | None = None, name: str = "") -> DegradationChain:
    """A chain from JSON: a list of {"name": …, parameters}, as the toolbox has it.

    place: the folder that paths are relative to.

    Raises:
        ValueError: no list, an unknown name or parameter (the nearest is named), a number out of range.
    """
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError('A chain is a list of degradations, for example [{"name": "noise", "snr": 20}].')
    return DegradationChain(tuple(_step(entry, place) for entry in entries), name)


def _step(entry: dict[str, Any], place: Path | None) -> Degradation:
    given = dict(entry)
    name = given.pop("name", None)
    if name not in KINDS:
        near = difflib.get_close_matches(str(name), KINDS, n=3, cutoff=0.4) or sorted(KINDS)
        raise ValueError(f"There is no degradation {name!r}; nearest: {', '.join(near)}.")
    kind = KINDS[name]
    fields = [field.name for field in dataclasses.fields(kind)]
    values = {}
    for key, value in given.items():
        key = kind.ALIASES.get(key, key)
        if key in kind.IGNORED:
            continue
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=2, cutoff=0.3) or fields
            raise ValueError(f"{name} has no {key!r}; it has {', '.join(near) or 'no parameters'}.")
        values[key] = value
    path = values.get("path")
    if place is not None and isinstance(path, str) and path and not path.startswith(responses.PREFIX):
        values["path"] = str(place / Path(path).expanduser())
    return kind(**values)


def find_chain(address: str) -> DegradationChain:
    """A preset by its name, or a JSON file; its paths are relative to it.

    Raises:
        FileNotFoundError: it isn't there.
        ValueError: what is no chain.
    """
    if address in PRESETS:
        return chain_of(PRESETS[address], name=address)
    path = Path(address).expanduser()
    if path.suffix != ".json":
        near = difflib.get_close_matches(address, PRESETS, n=3, cutoff=0.3) or sorted(PRESETS)
        raise ValueError(f"There is no preset {address!r}; nearest: {', '.join(near)}. A chain's file ends in .json.")
    return chain_of(json_of(path), path.parent, path.stem)


# The toolbox's presets, with computed rooms, devices and dust for its recordings; its `radio` and `phone` also put
# 9,600 samples of silence first, which damages nothing and would only move labels.
PRESETS: dict[str, list[dict[str, Any]]] = {
    "live": [
        {"name": "impulse_response", "path": "synth:hall"},
        {"name": "noise", "color": "pink", "snr": 40},
        {"name": "normalize"},
    ],
    "radio": [
        {"name": "dynamic_range_compression", "threshold": -40, "ratio": 1.7, "attack": 0.2, "release": 0.2},
        {"name": "speedup", "speed": 1.02},
        {"name": "normalize"},
    ],
    "phone": [
        {"name": "impulse_response", "path": "synth:phone_microphone"},
        {"name": "dynamic_range_compression", "threshold": -35, "ratio": 2, "attack": 0.2, "release": 0.2},
        {"name": "clipping", "percent_samples": 0.3},
        {"name": "noise", "color": "pink", "snr": 35},
        {"name": "normalize"},
    ],
    "phone_speaker": [
        {"name": "impulse_response", "path": "synth:phone_speaker"},
        {"name": "noise", "color": "pink", "snr": 40},
        {"name": "normalize"},
    ],
    "vinyl": [
        {"name": "impulse_response", "path": "synth:turntable"},
        {"name": "mix", "path": "synth:dust", "snr": 40},
        {"name": "noise", "color": "pink", "snr": 40},
        {"name": "wow_flutter", "intensity": 1.3, "frequency": 0.55},
        {"name": "normalize"},
    ],
    "strong_mp3": [{"name": "mp3", "bitrate": 32}, {"name": "normalize"}],
    "dopbandpass": [
        {"name": "low_pass", "cutoff": 5000},
        {"name": "high_pass", "cutoff": 133.33},
        {"name": "normalize"},
    ],
}


class Degrade(Augmentation):
    """A part of recipes: with probability p an item goes through one of the chains, all as likely, its length kept."""

    def __init__(self, sample_rate: int, chains: Sequence[str | DegradationChain], p: float = 0.5) -> None:
        """chains: presets, JSON files or chains.

        Raises:
            ValueError: there is none.
        """
        super().__init__(p)
        if not chains:
            raise ValueError(f"There is no chain to degrade with: name one of {', '.join(PRESETS)}, or a JSON file.")
        self.sample_rate = check_rate(sample_rate)
        self.chains = [find_chain(chain) if isinstance(chain, str) else chain for chain in chains]

    def change(self, waveform: Tensor, draws: Draws) -> Tensor:
        chosen = draws.integer(0, len(self.chains) - 1, here=True)
        result = torch.zeros_like(waveform)
        for number, chain in enumerate(self.chains):
            index = (chosen == number).nonzero()[:, 0]
            if len(index):
                rows = sent(index, waveform.device)
                sound = chain(waveform[rows], self.sample_rate, scramble(draws.seeds[index]))
                kept = min(sound.shape[1], waveform.shape[1])
                result[rows, :kept] = sound[:, :kept]
        return result


__all__ = ["KINDS", "PRESETS", "Degradation", "DegradationChain", "Degrade", "chain_of", "find_chain"]
