"""Read a SoundFont 2 file and play its sampled instruments, note by note.

Why not a ready-made renderer: symusic 0.5.9 ignores `overridingRootKey` (a piano C4 of TimGM6mb sounds as G#5), note
velocities, envelopes and pitch bends, and labels must be true of the sound. This sampler follows the SoundFont 2.04
specification for what single notes need: zones, root keys and tuning, loops, volume envelope, attenuation, velocity,
and a low-pass filter (static, at the modulation envelope's plateau). LFOs, pan and the modulation of pitch are left
out: a technique clip's vibrato must be ours alone. A pitch curve is a time-varying reading speed of the sample.
"""

import importlib.util
import struct
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import firwin, lfilter, upfirdn

Waveform = npt.NDArray[np.float32]

SAMPLE_RATE = 24_000
SOUNDFONT = "TimGM6mb.sf2"
DRUM_BANK = 128
CURE = 'Install the extra: pip install "groundbass[synth]".'

# SoundFont 2.04 generator numbers (section 8.1.2)
_START, _END, _LOOP_START, _LOOP_END = 0, 1, 2, 3
_COARSE = {4: _START, 12: _END, 45: _LOOP_START, 50: _LOOP_END}  # the same offsets in units of 32,768 samples
_FILTER, _MOD_TO_FILTER, _MOD_SUSTAIN = 8, 11, 29
_DELAY, _ATTACK, _HOLD, _DECAY, _SUSTAIN, _RELEASE = 33, 34, 35, 36, 37, 38
_INSTRUMENT, _KEYS, _VELOCITIES, _ATTENUATION, _COARSE_TUNE, _FINE_TUNE = 41, 43, 44, 48, 51, 52
_SAMPLE, _MODES, _SCALE, _ROOT = 53, 54, 56, 58
_DEFAULTS = {_FILTER: 13_500, _DELAY: -12_000, _ATTACK: -12_000, _HOLD: -12_000, _DECAY: -12_000, _RELEASE: -12_000}
_DEFAULTS |= {_SCALE: 100, _ROOT: -1, _KEYS: 127 << 8, _VELOCITIES: 127 << 8}

_ATTENUATION_SCALE = 0.4  # every EMU-derived player, FluidSynth included, weighs initialAttenuation so
_LONGEST_RELEASE = 1.0  # s for 100 dB; longer tails blur the chords
_FLOOR = 60.0  # dB below full level where a release ends


@dataclass(frozen=True)
class Zone:
    """One sample of a preset with the keys and velocities that it serves; positions count in the sample data."""

    keys: tuple[int, int]
    velocities: tuple[int, int]
    start: int
    end: int
    loop_start: int
    loop_end: int
    looped: bool
    loop_in_release: bool
    sample_rate: int
    root: int  # MIDI key at which the sample sounds as recorded
    tune: float  # cents
    scale: float  # cents per key
    gain: float
    delay: float  # s, as the next three
    attack: float
    hold: float
    decay: float  # for 100 dB
    sustain: float  # dB below the peak
    release: float  # s for 100 dB
    cutoff: float  # Hz of the low-pass at full velocity


def soundfont_path() -> Path:
    """Where pretty_midi keeps TimGM6mb.sf2.

    Raises:
        FileNotFoundError: it isn't installed; the sentence has the cure.
    """
    spec = importlib.util.find_spec("pretty_midi")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"The embedded corpus needs {SOUNDFONT}, which the package pretty_midi brings. {CURE}")
    path = Path(spec.origin).parent / SOUNDFONT
    if not path.is_file():
        raise FileNotFoundError(
            f"pretty_midi is installed, but {path} is missing; use pretty_midi>=0.2.10,<0.3. {CURE}"
        )
    return path


def _seconds(timecents: int) -> float:
    return float(2.0 ** (timecents / 1200.0)) if timecents > -12_000 else 0.0


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """The leaf chunks of a RIFF file by their four letters."""
    found: dict[bytes, bytes] = {}

    def walk(at: int, stop: int) -> None:
        while at + 8 <= stop:
            name, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
            if name in (b"RIFF", b"LIST"):
                walk(at + 12, at + 8 + size)
            else:
                found[name] = data[at + 8 : at + 8 + size]
            at += 8 + size + size % 2

    walk(0, len(data))
    return found


Generators = dict[int, int]


def _read_zones(bags: bytes, generators: bytes, first: int, last: int) -> list[Generators]:
    zones = []
    for bag in range(first, last):
        begin, stop = struct.unpack_from("<H", bags, 4 * bag)[0], struct.unpack_from("<H", bags, 4 * bag + 4)[0]
        zone: Generators = {}
        for at in range(begin, stop):
            kind, low, high = struct.unpack_from("<HBB", generators, 4 * at)
            word = low | high << 8
            unsigned = kind in (_KEYS, _VELOCITIES, _INSTRUMENT, _SAMPLE)
            zone[kind] = word if unsigned or word < 32_768 else word - 65_536
        zones.append(zone)
    return zones


def _with_global(zones: list[Generators], leaf: int) -> list[Generators]:
    """A first zone without the leaf generator gives defaults to the others (section 7.3)."""
    if zones and leaf not in zones[0]:
        return [zones[0] | zone for zone in zones[1:] if leaf in zone]
    return [zone for zone in zones if leaf in zone]


def _ranges(word: int) -> tuple[int, int]:
    return word & 255, word >> 8


def _overlap(a: int, b: int) -> int:
    (low_a, high_a), (low_b, high_b) = _ranges(a), _ranges(b)
    return max(low_a, low_b) | min(high_a, high_b) << 8


def _add(instrument: Generators, preset: Generators) -> Generators:
    """Preset generators add to the instrument's; ranges intersect (section 8.5)."""
    merged = dict(_DEFAULTS) | instrument
    for kind, value in preset.items():
        if kind in (_KEYS, _VELOCITIES):
            merged[kind] = _overlap(merged[kind], value)
        elif kind != _INSTRUMENT:
            merged[kind] = merged.get(kind, 0) + value
    return merged


def _zone(g: Generators, header: tuple[Any, ...]) -> Zone:
    start, end, loop_start, loop_end, rate, pitch, correction = header
    at = [start, end, loop_start, loop_end]
    for k in range(4):
        at[k] += g.get(k, 0)
    for coarse, k in _COARSE.items():
        at[k] += g.get(coarse, 0) * 32_768
    mode = g.get(_MODES, 0) & 3
    plateau = g.get(_MOD_TO_FILTER, 0) * (1.0 - min(1000, max(0, g.get(_MOD_SUSTAIN, 0))) / 2000.0)
    return Zone(
        keys=_ranges(g[_KEYS]), velocities=_ranges(g[_VELOCITIES]),
        start=at[0], end=at[1], loop_start=at[2], loop_end=at[3],
        looped=mode in (1, 3) and at[3] - at[2] > 8, loop_in_release=mode == 1,
        sample_rate=rate, root=g[_ROOT] if 0 <= g[_ROOT] <= 127 else pitch,
        tune=100.0 * g.get(_COARSE_TUNE, 0) + g.get(_FINE_TUNE, 0) + correction, scale=float(g[_SCALE]),
        gain=10.0 ** (-_ATTENUATION_SCALE * max(0, g.get(_ATTENUATION, 0)) / 200.0),
        delay=min(0.05, _seconds(g[_DELAY])), attack=_seconds(g[_ATTACK]), hold=_seconds(g[_HOLD]),
        decay=max(0.001, _seconds(g[_DECAY])), sustain=min(100.0, max(0.0, g.get(_SUSTAIN, 0) / 10.0)),
        release=min(_LONGEST_RELEASE, max(0.03, _seconds(g[_RELEASE]))),
        cutoff=8.176 * 2.0 ** ((g[_FILTER] + plateau) / 1200.0),
    )  # fmt: skip


class SoundFont:
    """The presets of a SoundFont 2 file: `zones(bank, program)`, and `data`, all samples as float32 in [-1, 1]."""

    def __init__(self, path: Path) -> None:
        chunks = _chunks(path.read_bytes())
        self.data: Waveform = np.frombuffer(chunks[b"smpl"], dtype="<i2").astype(np.float32) / np.float32(32_768)
        self._presets = self._read(chunks)

    @staticmethod
    def _read(chunks: dict[bytes, bytes]) -> dict[tuple[int, int], tuple[Zone, ...]]:
        shdr, inst, phdr = chunks[b"shdr"], chunks[b"inst"], chunks[b"phdr"]
        headers = [struct.unpack_from("<IIIIIBb", shdr, 46 * k + 20) for k in range(len(shdr) // 46)]
        firsts = [struct.unpack_from("<H", inst, 22 * k + 20)[0] for k in range(len(inst) // 22)]
        instruments = [
            _with_global(_read_zones(chunks[b"ibag"], chunks[b"igen"], a, b), _SAMPLE) for a, b in pairwise(firsts)
        ]
        presets = [struct.unpack_from("<HHH", phdr, 38 * k + 20) for k in range(len(phdr) // 38)]
        found: dict[tuple[int, int], tuple[Zone, ...]] = {}
        for (program, bank, first), (_, _, last) in pairwise(presets):
            zones = []
            for preset in _with_global(_read_zones(chunks[b"pbag"], chunks[b"pgen"], first, last), _INSTRUMENT):
                for instrument in instruments[preset[_INSTRUMENT]]:
                    merged = _add(instrument, preset)
                    zones.append(_zone(merged, headers[merged[_SAMPLE]]))
            found[bank, program] = tuple(zones)
        return found

    def zones(self, bank: int, program: int) -> tuple[Zone, ...]:
        """Zones of a preset; ValueError when the SoundFont has no such preset."""
        if (bank, program) not in self._presets:
            raise ValueError(f"The SoundFont has no preset {program} in bank {bank}; choose one of a General MIDI set.")
        return self._presets[bank, program]


@lru_cache(maxsize=64)
def _interpolator(step: int) -> Waveform:
    """Taps that double the rate and cut what reading 2**(step / 2) times faster would alias."""
    cutoff = min(1.0, 2.0 ** (-step / 2.0))
    return (2.0 * firwin(65, 0.96 * cutoff / 2.0)).astype(np.float32)


def _answering(zones: tuple[Zone, ...], key: int, velocity: int) -> list[Zone]:
    """The zones that a key sounds; where the preset has a hole (E4 of the alto saxophone), its nearest neighbour's."""
    awake = [zone for zone in zones if zone.velocities[0] <= velocity <= zone.velocities[1]]
    gaps = [max(zone.keys[0] - key, key - zone.keys[1], 0) for zone in awake]
    return [zone for zone, gap in zip(awake, gaps) if gap == min(gaps)]


class Sampler:
    """Plays notes of a SoundFont at SAMPLE_RATE, mono. Everything it returns is a pure function of the arguments."""

    def __init__(self, path: Path | None = None, cached_notes: int = 600) -> None:
        self.soundfont = SoundFont(path or soundfont_path())
        self._sources: dict[tuple[int, int, int, int], Waveform] = {}
        self._notes: OrderedDict[tuple[int, int, int, int, int, float], Waveform] = OrderedDict()
        self._cached_notes = cached_notes

    def note(
        self, program: int, key: int, velocity: int, seconds: float, *, bank: int = 0, cents: float = 0.0
    ) -> Waveform:
        """A plain note as `play` makes it, its length rounded to 10 ms; cached, so never write into it."""
        frames = max(1, round(seconds * SAMPLE_RATE / 240)) * 240  # equal notes meet in the cache
        name = (bank, program, key, velocity, frames, cents)
        if name in self._notes:
            self._notes.move_to_end(name)
            return self._notes[name]
        wave = self.play(program, key, velocity, frames / SAMPLE_RATE, bank=bank, cents=cents)
        self._notes[name] = wave
        if len(self._notes) > self._cached_notes:
            self._notes.popitem(last=False)
        return wave

    def play(
        self, program: int, key: int, velocity: int, seconds: float, *,
        bank: int = 0, cents: npt.NDArray[np.float64] | float = 0.0,
    ) -> Waveform:  # fmt: skip
        """Play one note.

        program: General MIDI program from 0, or the kit with bank=DRUM_BANK; key: MIDI; velocity: 1..127.
        seconds: time until the key is released; the release follows.
        cents: deviation of pitch, constant or [samples] over time (its last value holds through the release).
        Returns [samples] float32; its first sample is the note's onset.
        """
        zones = _answering(self.soundfont.zones(bank, program), key, velocity)
        parts = [self._play(zone, key, velocity, seconds, cents) for zone in zones]
        out = np.zeros(max((len(part) for part in parts), default=0), dtype=np.float32)
        for part in parts:
            out[: len(part)] += part
        return out * np.float32((velocity / 127.0) ** 2 / max(1, len(parts)))

    def _play(
        self, zone: Zone, key: int, velocity: int, seconds: float, cents: npt.NDArray[np.float64] | float
    ) -> Waveform:
        held = round(seconds * SAMPLE_RATE)
        count = held + round(zone.release * _FLOOR / 100.0 * SAMPLE_RATE)
        base = (key - zone.root) * zone.scale + zone.tune
        speed = zone.sample_rate / SAMPLE_RATE * 2.0 ** (base / 1200.0)  # source samples per output sample
        if isinstance(cents, np.ndarray):
            curve = np.concatenate([cents[:count], np.full(max(0, count - len(cents)), cents[-1])])
            steps = speed * np.exp2(curve / 1200.0)
            position = np.cumsum(steps) - steps
            fastest = float(steps.max())
        else:
            fastest = speed * 2.0 ** (cents / 1200.0)
            position = np.arange(count) * fastest
        wave = self._read(zone, position, fastest, held)
        envelope = _envelope(zone, len(wave), held)
        wave = wave * envelope
        cutoff = zone.cutoff * 2.0 ** (velocity / 127.0 - 1.0)  # the softest note is an octave darker
        if cutoff < 0.45 * SAMPLE_RATE:
            wave = _low_pass(wave, max(cutoff, 1.5 * 440.0 * 2.0 ** ((key - 69) / 12.0)))
        return (wave * np.float32(zone.gain)).astype(np.float32, copy=False)

    def _read(self, zone: Zone, position: npt.NDArray[np.float64], fastest: float, held: int) -> Waveform:
        source = self._source(zone, fastest)
        end = zone.end - zone.start
        if zone.looped:
            begin, length = zone.loop_start - zone.start, zone.loop_end - zone.loop_start
            beyond = position >= begin + length
            if not zone.loop_in_release:
                beyond[held:] = False
            position = np.where(beyond, begin + np.mod(position - begin, length), position)
        inside = int(np.searchsorted(position, end - 2)) if not zone.looped else len(position)
        at = np.minimum(2.0 * position[:inside], len(source) - 2.0)
        whole = at.astype(np.int64)
        fraction = (at - whole).astype(np.float32)
        left = source[whole]
        return left + fraction * (source[whole + 1] - left)

    def _source(self, zone: Zone, fastest: float) -> Waveform:
        """The zone's sample at twice its rate, band-limited for reading it `fastest` times as fast."""
        step = max(0, int(np.ceil(2.0 * np.log2(max(fastest, 1e-3)) - 0.1)))
        name = (zone.start, zone.end, zone.loop_end if zone.looped else -1, step)
        if name not in self._sources:
            raw = self.soundfont.data[zone.start : zone.end]
            if zone.looped:  # what follows the loop's end is its beginning, also for the filter
                begin, stop = zone.loop_start - zone.start, zone.loop_end - zone.start
                tail = np.resize(raw[begin:stop], 64)
                raw = np.concatenate([raw[:stop], tail])
            taps = _interpolator(step)
            self._sources[name] = upfirdn(taps, raw, up=2)[len(taps) // 2 :][: 2 * len(raw)].astype(np.float32)
        return self._sources[name]


def _envelope(zone: Zone, count: int, held: int) -> Waveform:
    """Attack linear in amplitude, decay and release linear in decibels, as the specification has it."""
    t_peak = zone.delay + zone.attack + zone.hold
    t_sustain = t_peak + zone.decay * zone.sustain / 100.0
    t_off = held / SAMPLE_RATE
    points_t, points_db = np.array([0.0, t_peak, t_sustain]), np.array([0.0, 0.0, -zone.sustain])
    level = float(np.interp(t_off, points_t, points_db))
    before = points_t < t_off
    points_t = np.concatenate([points_t[before], [t_off, t_off + zone.release]])
    points_db = np.concatenate([points_db[before], [level, level - 100.0]])
    decibels = np.interp(np.arange(count) / SAMPLE_RATE, points_t, points_db)
    envelope = np.exp(decibels * (np.log(10.0) / 20.0))
    rise = max(0.001, zone.attack)
    ramp = min(count, round((zone.delay + rise) * SAMPLE_RATE) + 1)
    envelope[:ramp] *= np.clip((np.arange(ramp) / SAMPLE_RATE - zone.delay) / rise, 0.0, 1.0)
    fade = min(count, 120)  # 5 ms, so that no end clicks
    envelope[count - fade :] *= np.linspace(1.0, 0.0, fade)
    return envelope.astype(np.float32)


def _low_pass(wave: Waveform, cutoff: float) -> Waveform:
    """Second-order Butterworth low-pass (Audio EQ Cookbook), cutoff in Hz."""
    omega = 2.0 * np.pi * min(cutoff, 0.45 * SAMPLE_RATE) / SAMPLE_RATE
    alpha, cos = np.sin(omega) / np.sqrt(2.0), np.cos(omega)
    b = np.array([(1.0 - cos) / 2.0, 1.0 - cos, (1.0 - cos) / 2.0]) / (1.0 + alpha)
    a = np.array([1.0, -2.0 * cos / (1.0 + alpha), (1.0 - alpha) / (1.0 + alpha)])
    return lfilter(b, a, wave).astype(np.float32)
