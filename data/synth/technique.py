"""Single notes and playing techniques.

The SoundFont is played straight: vibrato, slides, bends, scoops and falls are pitch curves (a time-varying reading
speed of the sampled note), tremolo and swells are gains, trills, staccato, repeats and arpeggios are notes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .render import Room, add, set_level, through
from .soundfont import SAMPLE_RATE, Sampler, Waveform

Curve = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Instrument:
    """A General MIDI program and the keys where its sampled pitch is true (within 35 cents) and plain to hear."""

    family: str
    program: int
    low: int
    high: int


def _family(family: str, *programs: tuple[int, int, int]) -> tuple[Instrument, ...]:
    return tuple(Instrument(family, *program) for program in programs)


# Families follow General MIDI. Left out: drawbar and church organs (they sound an octave lower), bells and celesta
# (inharmonic), whistle (mistuned in this SoundFont), and notes where a sample is out of tune or too short.
FAMILIES: dict[str, tuple[Instrument, ...]] = {
    "piano": _family("piano", (0, 36, 90), (2, 36, 90), (4, 36, 84), (5, 36, 90), (6, 48, 84), (7, 48, 78)),
    "mallet": _family("mallet", (10, 60, 96), (11, 54, 90), (12, 54, 90), (13, 60, 96), (15, 60, 84), (108, 54, 84)),
    "organ": _family("organ", (20, 40, 88), (21, 48, 66), (22, 50, 84), (23, 44, 70)),
    "guitar": _family("guitar", *((program, 40, 82) for program in (24, 25, 26, 27, 28, 29, 30))),
    "bass": _family("bass", (32, 40, 55), *((program, 28, 55) for program in (33, 34, 35, 36, 37, 39))),
    "strings": _family("strings", (40, 55, 94), (41, 48, 82), (42, 36, 72), (43, 30, 60), (45, 40, 80), (46, 40, 86)),
    "ensemble": _family("ensemble", (48, 40, 84), (49, 40, 84), (50, 40, 84), (51, 42, 84), (53, 48, 78), (54, 48, 84)),
    "brass": _family("brass", (56, 52, 82), (57, 40, 72), (58, 32, 60), (59, 52, 80), (60, 40, 76), (61, 44, 82)),
    "reed": _family(
        "reed", (64, 54, 86), (65, 48, 80), (66, 42, 76), (67, 38, 68), (69, 52, 80), (70, 36, 70), (71, 50, 88)
    ),
    "pipe": _family("pipe", (72, 74, 100), (73, 60, 94), (74, 60, 94), (75, 60, 90), (79, 60, 92)),
    "lead": _family("lead", (80, 40, 86), (81, 40, 86), (82, 40, 86), (85, 48, 86), (87, 40, 86)),
}

# for the techniques: programs that hold their tone, each able to play every technique
SUSTAINED = tuple(
    Instrument(family, program, low, high)
    for family, programs in {
        "organ": ((20, 50, 79), (22, 52, 80)),
        "guitar": ((26, 45, 72), (29, 45, 76), (30, 45, 76)),
        "strings": ((40, 57, 84), (41, 50, 77), (42, 42, 67)),
        "brass": ((56, 54, 79), (57, 45, 69), (59, 54, 77), (61, 48, 77)),
        "reed": ((64, 57, 81), (66, 47, 71), (69, 55, 77), (71, 52, 81)),
        "pipe": ((74, 62, 86), (75, 62, 84), (79, 62, 86)),
        "lead": ((80, 48, 81), (81, 48, 81), (87, 48, 81)),
    }.items()
    for program, low, high in programs
)

TECHNIQUES = (
    "sustain", "vibrato", "tremolo", "slide", "bend", "scoop",
    "fall", "trill", "staccato", "swell", "repeat", "arpeggio",
)  # fmt: skip


@dataclass(frozen=True)
class Musician:
    """Who plays single notes: an instrument, its tuning (cents) and the room. Splits are disjoint by musician."""

    instrument: Instrument
    tuning: float
    room: Room


def _smooth(samples: int) -> Curve:
    """A rise from 0 to 1 without corners."""
    return 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, max(2, samples)))


def _count(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def _hold(level: float, seconds: float) -> Curve:
    return np.full(_count(seconds), level)


def _glide(start: float, end: float, seconds: float) -> Curve:
    return start + (end - start) * _smooth(_count(seconds))


def vibrato(rate: float, depth: float, delay: float, seconds: float) -> Curve:
    """Cents of a sine of `rate` Hz and `depth` cents that sets in after `delay` s, within 0.15 s."""
    time = np.arange(_count(seconds)) / SAMPLE_RATE
    return depth * np.clip((time - delay) / 0.15, 0.0, 1.0) * np.sin(2.0 * np.pi * rate * (time - delay))


def tremolo(rate: float, depth: float, samples: int) -> Waveform:
    """Gain between 1 and 1 - depth at `rate` Hz."""
    phase = 2.0 * np.pi * rate * np.arange(samples) / SAMPLE_RATE
    return (1.0 - depth * (0.5 - 0.5 * np.cos(phase))).astype(np.float32)


class Phrase:
    """One technique clip in the making: `rate` is what oscillates in it (Hz), 0 where nothing does."""

    def __init__(self, sampler: Sampler, musician: Musician, key: int, velocity: int, rng: np.random.Generator) -> None:
        self.sampler, self.musician, self.key, self.velocity, self.rng = sampler, musician, key, velocity, rng
        self.length = float(rng.uniform(1.5, 2.3))
        self.rate = 0.0

    def _note(self, curve: Curve | None = None, key: int | None = None, seconds: float | None = None) -> Waveform:
        tuned = self.musician.tuning if curve is None else curve + self.musician.tuning
        held = len(curve) / SAMPLE_RATE if curve is not None else (seconds or self.length)
        program = self.musician.instrument.program
        return self.sampler.play(program, key or self.key, self.velocity, held, cents=tuned)

    def _sequence(self, keys: list[int], spacing: float, gate: float) -> Waveform:
        """Notes one after another, each held for `gate` of the spacing (s)."""
        out = np.zeros(_count(spacing * len(keys) + 1.0), dtype=np.float32)
        accent = self.rng.uniform(0.8, 1.0, len(keys))
        for k, key in enumerate(keys):
            wave = self._note(key=key, seconds=spacing * gate)
            add(out, wave * np.float32(accent[k]), k * spacing + float(self.rng.normal(0.0, 0.003)) * (k > 0))
        return out

    def play(self, technique: str) -> Waveform:
        """The technique's sound from its first onset on."""
        made: Waveform = getattr(self, f"_{technique}")()
        return made

    def _sustain(self) -> Waveform:
        return self._note()

    def _vibrato(self) -> Waveform:
        self.rate = float(self.rng.uniform(4.5, 7.5))
        return self._note(vibrato(self.rate, self.rng.uniform(25.0, 80.0), self.rng.uniform(0.1, 0.4), self.length))

    def _tremolo(self) -> Waveform:
        self.rate = float(self.rng.uniform(4.5, 8.0))
        wave = self._note()
        return wave * tremolo(self.rate, self.rng.uniform(0.5, 0.9), len(wave))

    def _slide(self) -> Waveform:
        """From another note, 3 to 7 semitones off, to the labelled one."""
        start = 100.0 * float(self.rng.choice([-7.0, -5.0, -4.0, -3.0, 3.0, 4.0, 5.0, 7.0]))
        before, during = self.rng.uniform(0.3, 0.6), self.rng.uniform(0.25, 0.6)
        return self._note(
            np.concatenate([_hold(start, before), _glide(start, 0.0, during), _hold(0.0, self.length - 0.7)])
        )

    def _bend(self) -> Waveform:
        """Up by one or two semitones from the labelled note, held, and back."""
        top = 100.0 * float(self.rng.choice([1.0, 2.0, 2.0]))
        rise, fall = self.rng.uniform(0.12, 0.35), self.rng.uniform(0.12, 0.35)
        rest = self.rng.uniform(0.3, 0.6)
        parts = [
            _hold(0.0, self.rng.uniform(0.3, 0.6)),
            _glide(0.0, top, rise),
            _hold(top, rest),
            _glide(top, 0.0, fall),
        ]
        return self._note(np.concatenate([*parts, _hold(0.0, self.length - 1.3)]))

    def _scoop(self) -> Waveform:
        """Into the note from one to three and a half semitones below, in a tenth to a quarter of a second."""
        start = -float(self.rng.uniform(120.0, 350.0))
        return self._note(
            np.concatenate([_glide(start, 0.0, self.rng.uniform(0.1, 0.25)), _hold(0.0, self.length - 0.2)])
        )

    def _fall(self) -> Waveform:
        """Off the end of the note, 5 to 12 semitones down, fading."""
        hold, drop = self.rng.uniform(0.7, 1.3), self.rng.uniform(0.3, 0.7)
        wave = self._note(np.concatenate([_hold(0.0, hold), _glide(0.0, -self.rng.uniform(500.0, 1200.0), drop)]))
        gain = np.ones(len(wave), dtype=np.float32)
        at, end = _count(hold), _count(hold + drop)
        gain[at:end] = np.linspace(1.0, 0.25, end - at)
        gain[end:] = 0.25
        return wave * gain

    def _trill(self) -> Waveform:
        """The labelled note and its upper neighbour, 7 to 11 notes a second."""
        notes = self.rng.uniform(7.0, 11.0)
        self.rate = float(notes / 2.0)
        upper = self.key + int(self.rng.integers(1, 3))
        return self._sequence([self.key, upper] * int(self.length * notes / 2.0), 1.0 / notes, 0.95)

    def _staccato(self) -> Waveform:
        spacing = self.rng.uniform(0.3, 0.5)
        return self._sequence([self.key] * max(3, int(self.length / spacing)), spacing, 0.07 / spacing)

    def _swell(self) -> Waveform:
        wave = self._note()
        at = _count(self.length)
        gain = np.ones(len(wave))
        gain[:at] = 10.0 ** (np.linspace(-self.rng.uniform(22.0, 32.0), 0.0, at) / 20.0)
        return (wave * gain).astype(np.float32)

    def _repeat(self) -> Waveform:
        self.rate = float(self.rng.uniform(5.0, 9.0))
        return self._sequence([self.key] * int(self.length * self.rate), 1.0 / self.rate, 0.7)

    def _arpeggio(self) -> Waveform:
        """Up and down a broken triad on the labelled note, 4 to 8 notes a second."""
        third = 3 + int(self.rng.integers(2))
        turn = [0, third, 7, 12, 7, third]
        self.rate = float(self.rng.uniform(4.0, 8.0))
        keys = [self.key + turn[k % len(turn)] for k in range(int(self.length * self.rate))]
        return self._sequence(keys, 1.0 / self.rate, 0.95)


def clip(wave: Waveform, room: Room, seconds: float, rng: np.random.Generator) -> Waveform:
    """A sound in its room within `seconds`, after a silence of up to 0.25 s, at a level of -30 to -14 dB RMS."""
    out = np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)
    add(out, wave, float(rng.uniform(0.02, 0.25)))
    return set_level(through(room, out), float(rng.uniform(-30.0, -14.0)))


def single_note(sampler: Sampler, musician: Musician, key: int, seconds: float, rng: np.random.Generator) -> Waveform:
    """A plain note clip, [samples]."""
    held = float(rng.uniform(0.4, 1.0)) * (seconds - 0.5)
    wave = sampler.play(musician.instrument.program, key, int(rng.integers(50, 125)), held, cents=musician.tuning)
    return clip(wave, musician.room, seconds, rng)


def technique_clip(
    sampler: Sampler, musician: Musician, technique: str, key: int, seconds: float, rng: np.random.Generator
) -> tuple[Waveform, float]:
    """A technique clip, [samples], and the rate (Hz) of what oscillates in it."""
    phrase = Phrase(sampler, musician, key, int(rng.integers(60, 125)), rng)
    wave = phrase.play(technique)
    return clip(wave, musician.room, seconds, rng), phrase.rate
