"""From a score to sound: the players through the sampler, mixed, and heard through the band's room."""

from dataclasses import dataclass

import numpy as np
from einops import rearrange
from scipy.signal import firwin2, oaconvolve

from .score import Player, Score
from .soundfont import SAMPLE_RATE, Sampler, Waveform

_FRAME = SAMPLE_RATE // 20
PEAK = 0.97  # no sample of a clip exceeds it


@dataclass(frozen=True)
class Room:
    """How a band is recorded: one impulse response for equaliser and reverberation; `delay` samples of latency."""

    response: Waveform
    delay: int
    drive: float = 0.0
    """How hard the tape is driven: the loudest sample over where it saturates; 0: not at all."""


def draw_room(
    rng: np.random.Generator,
    wet: tuple[float, float] = (0.03, 0.25),
    tilt: float = 4.0,
    bump: float = 3.0,
    longest: float = 0.5,
    drive: float = 0.0,
) -> Room:
    """An equaliser (tilt and two bumps within ± so many dB) and a decaying noise tail of 0.15 to `longest` s."""
    frequencies = np.geomspace(60.0, 11_900.0, 24)
    octaves = np.log2(frequencies / 800.0) / 3.8
    gain = rng.uniform(-tilt, tilt) * octaves
    for _ in range(2):
        gain += rng.uniform(-bump, bump) * np.exp(-(((octaves - rng.uniform(-0.9, 0.9)) / 0.25) ** 2))
    amplitude = 10.0 ** (gain / 20.0)
    points = np.concatenate([[0.0], frequencies / (SAMPLE_RATE / 2), [1.0]])
    equaliser = firwin2(255, points, np.concatenate([amplitude[:1], amplitude, amplitude[-1:]]))
    decay = rng.uniform(0.15, longest)  # s to fall by 60 dB
    length = round(decay * SAMPLE_RATE)
    tail = rng.standard_normal(length) * 10.0 ** (-3.0 * np.arange(length) / length)
    tail[: round(rng.uniform(0.005, 0.02) * SAMPLE_RATE)] = 0.0
    tail *= rng.uniform(*wet) ** 0.5 / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return Room(np.convolve(equaliser, tail).astype(np.float32), 127, drive)


def through(room: Room, wave: Waveform) -> Waveform:
    """The sound in the room, as long as before, without latency."""
    heard = oaconvolve(wave, room.response)[room.delay : room.delay + len(wave)]
    if room.drive:
        scale = room.drive / max(float(np.abs(heard).max()), 1e-9)
        heard = np.tanh(heard * scale) / scale
    return heard.astype(np.float32)


def add(target: Waveform, wave: Waveform, time: float) -> None:
    """Adds a note at `time` seconds; what passes the end is lost."""
    at = round(time * SAMPLE_RATE)
    count = min(len(wave), len(target) - at)
    if count > 0:
        target[at : at + count] += wave[:count]


def render_player(sampler: Sampler, player: Player, samples: int, tuning: float) -> Waveform:
    """One player's notes, [samples]."""
    out = np.zeros(samples, dtype=np.float32)
    cents = 0.0 if player.role == "drums" else tuning
    for note in player.notes:
        longest = samples / SAMPLE_RATE - note.time
        wave = sampler.note(
            player.program, note.key, note.velocity, min(note.seconds, longest), bank=player.bank, cents=cents
        )
        add(out, wave, note.time)
    return out


def loudness(wave: Waveform) -> float:
    """RMS level in dB of full scale."""
    return float(10.0 * np.log10(np.mean(np.square(wave, dtype=np.float64)) + 1e-12))


def _loud_level(wave: Waveform) -> float:
    """RMS of the loud 50 ms frames (95th percentile): compares a snare with a pad fairly."""
    frames = rearrange(wave[: len(wave) // _FRAME * _FRAME], "(frames samples) -> frames samples", samples=_FRAME)
    return float(np.sqrt(np.percentile(np.mean(np.square(frames, dtype=np.float64), axis=1), 95.0)))


def set_level(wave: Waveform, decibels: float) -> Waveform:
    """Scales to an RMS level in dB of full scale, less where the peak would pass PEAK; fades 10 ms at the end."""
    gain = 10.0 ** ((decibels - loudness(wave)) / 20.0)
    peak = float(np.abs(wave).max())
    out = wave * np.float32(min(gain, PEAK / max(peak, 1e-9)))
    fade = min(len(out), SAMPLE_RATE // 100)
    out[len(out) - fade :] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
    return out


def render_score(sampler: Sampler, score: Score, room: Room, seconds: float, tuning: float, level: float) -> Waveform:
    """A clip, [samples] at SAMPLE_RATE, at `level` dB RMS."""
    samples = round(seconds * SAMPLE_RATE)
    mix = np.zeros(samples, dtype=np.float32)
    for player in score.players:
        wave = render_player(sampler, player, samples, tuning)
        mix += wave * np.float32(10.0 ** (player.level / 20.0) / max(_loud_level(wave), 1e-6))
    return set_level(through(room, mix), level)
