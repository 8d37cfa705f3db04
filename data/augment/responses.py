"""Rooms, loudspeakers and dust that are computed, for degradations without recordings: `synth:NAME` is their path.

They are made for the rate that asks. None is a measurement of a real device: each has the bandwidth, the decay or the
rate of clicks that its kind is known for.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Sound = npt.NDArray[np.float32]
PREFIX = "synth:"
# Hz and dB, straight lines between them over the logarithm of frequency
CURVES: dict[str, tuple[tuple[float, float], ...]] = {
    "phone_speaker": ((100, -60), (300, -18), (600, -3), (1000, 0), (2500, 3), (3400, 0), (5000, -18), (8000, -40)),
    "phone_microphone": ((60, -30), (200, -9), (400, 0), (2000, 0), (4000, 4), (6000, 0), (9000, -18), (14000, -40)),
    "turntable": ((15, -24), (40, 0), (200, 1), (1000, 0), (6000, -1), (11000, -4), (15000, -15), (20000, -40)),
}
DUST_SECONDS, CLICKS_PER_SECOND = 10.0, 12.0


def sound_of(path: str, rate: int) -> Sound:
    """The sound `synth:NAME` at `rate` Hz; `synth:room_SECONDS` is a room that decays by 60 dB in so many seconds.

    Raises:
        ValueError: there is none of that name; the sentence names the nearest.
    """
    name = path.removeprefix(PREFIX)
    if decay := re.fullmatch(r"room_(\d+(?:\.\d+)?)", name):
        return _room(float(decay[1]), rate)
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=3, cutoff=0.3) or sorted(NAMES)
        raise ValueError(f"There is no {path!r}; nearest: {', '.join(PREFIX + known for known in near)}.")
    return _made(name, rate)


@lru_cache(maxsize=32)
def _made(name: str, rate: int) -> Sound:
    return NAMES[name](rate).astype(np.float32)


@lru_cache(maxsize=32)
def _room(decay: float, rate: int) -> Sound:
    """Decaying noise behind the direct sound, of equal energy.

    Raises:
        ValueError: a decay beyond 60 s.
    """
    if not 0 < decay <= 60:
        raise ValueError(f"A room decays within 60 s, not {decay:g} s.")
    time = np.arange(max(2, round(decay * rate))) / rate
    tail = np.random.default_rng(3).standard_normal(len(time)) * 10 ** (-3 * time / decay)
    tail[: max(1, round(0.005 * rate))] = 0
    room = tail / max(1e-9, float(np.linalg.norm(tail)))
    room[0] = 1.0
    return room.astype(np.float32)


def hall(rate: int) -> npt.NDArray[np.float64]:
    """A hall: the direct sound, early reflections, noise that decays by 60 dB in 2 s (1 s above 4 kHz)."""
    draw = np.random.default_rng(1)
    time = np.arange(round(2.0 * rate)) / rate
    slow, fast = (draw.standard_normal(len(time)) * 10 ** (-3 * time / decay) for decay in (2.0, 1.0))
    spectrum, above = np.fft.rfft(slow), np.fft.rfft(fast)
    high = np.fft.rfftfreq(len(time), 1 / rate) > 4000
    tail = np.fft.irfft(np.where(high, above, spectrum), len(time))
    tail[: round(0.02 * rate)] = 0
    room = 0.7 * tail / np.linalg.norm(tail)
    room[0] += 1.0
    for delay, strength in ((0.011, 0.35), (0.017, 0.3), (0.023, 0.25), (0.031, 0.2)):
        room[round(delay * rate)] += strength
    return room


def device(name: str) -> Callable[[int], npt.NDArray[np.float64]]:
    """An impulse response of least phase with the magnitudes of `CURVES[name]`."""

    def made(rate: int) -> npt.NDArray[np.float64]:
        size = 4096
        hertz = np.maximum(np.fft.rfftfreq(size, 1 / rate), 1.0)
        known = np.array(CURVES[name])
        decibels = np.interp(np.log(hertz), np.log(known[:, 0]), known[:, 1])
        cepstrum = np.fft.irfft(np.log(10 ** (decibels / 20)), size)
        cepstrum[1 : size // 2] *= 2  # folded: what lies before time 0 goes behind it
        cepstrum[size // 2 + 1 :] = 0
        return np.fft.irfft(np.exp(np.fft.rfft(cepstrum)), size)[: size // 2]

    return made


def dust(rate: int) -> npt.NDArray[np.float64]:
    """Ten seconds of clicks at random times, each a decaying burst of some tenths of a millisecond."""
    draw = np.random.default_rng(2)
    sound = np.zeros(round(DUST_SECONDS * rate))
    burst = np.arange(round(0.004 * rate)) / rate
    for _ in range(round(DUST_SECONDS * CLICKS_PER_SECOND)):
        start = int(draw.integers(0, len(sound) - len(burst)))
        decay = draw.uniform(2e-4, 8e-4)
        click = draw.standard_normal(len(burst)) * np.exp(-burst / decay)
        sound[start : start + len(burst)] += click * draw.lognormal(0.0, 0.8)
    return sound / np.abs(sound).max()


NAMES: dict[str, Callable[[int], npt.NDArray[np.float64]]] = {
    "hall": hall,
    **{name: device(name) for name in CURVES},
    "dust": dust,
}
