"""Write the score of a clip: a band, its song in a key and a tempo, and the notes of every player with exact labels."""

from dataclasses import dataclass, field

import numpy as np

from .soundfont import DRUM_BANK
from .styles import Style
from .theory import Chord, Key, chord, nearest, voicing

ROLES = ("drums", "bass", "comp", "lead", "pad")
# General MIDI keys of the drum pieces, and how long each is held (s)
DRUMS = {"kick": 36, "stick": 37, "snare": 38, "clap": 39, "brush": 40, "hat": 42, "foot": 44, "openhat": 46}
DRUMS |= {"crash": 49, "ride": 51, "shaker": 70}
_RING = {"ride": 0.8, "crash": 1.5, "openhat": 0.25, "brush": 0.25}
_VELOCITY = {"X": 112, "x": 88, "o": 48}
LONGEST_OFFSET = 0.5  # s of silence before the first beat, at most


@dataclass(frozen=True)
class Note:
    """A note of the score: onset and length in seconds."""

    time: float
    seconds: float
    key: int
    velocity: int


@dataclass
class Player:
    """One track of the score; level in dB against the drums'."""

    role: str
    program: int
    bank: int
    level: float
    notes: list[Note] = field(default_factory=list)


@dataclass(frozen=True)
class Band:
    """The musicians of some clips: programs, tuning, habits. Splits are disjoint by band."""

    style: Style
    programs: dict[str, int]
    levels: dict[str, float]
    tuning: float  # cents
    looseness: float  # s, standard deviation of the players' timing
    gate: float  # share of its length that a short chord sounds
    has_pad: bool
    silent: frozenset[str] = frozenset()  # roles that nobody plays
    drift: float = 0.0  # share by which the tempo rises and falls


@dataclass(frozen=True)
class Span:
    """A chord from `start` to `end`, in beats of the score."""

    start: float
    end: float
    chord: Chord


@dataclass
class Score:
    """A clip: its players and what is true of it. Times in seconds from the clip's start."""

    tempo: float
    players: list[Player]
    beats: list[float]
    downbeats: list[float]
    chords: list[tuple[float, float, str]]
    spans: list[Span]


def draw_band(style: Style, rng: np.random.Generator) -> Band:
    """The band that `rng` makes of a style."""
    programs = {
        "drums": int(rng.choice(style.kits)), "bass": int(rng.choice(style.bass_programs)),
        "comp": int(rng.choice(style.comp_programs)), "lead": int(rng.choice(style.lead_programs)),
        "pad": int(rng.choice(style.pad_programs)) if style.pad_programs else -1,
    }  # fmt: skip
    base = {"drums": 0.0, "bass": -1.0, "comp": -4.0, "lead": -2.0, "pad": -10.0}
    levels = {role: base[role] + float(rng.uniform(-2.0, 2.0)) for role in ROLES}
    return Band(
        style, programs, levels,
        tuning=float(rng.uniform(-15.0, 15.0)), looseness=float(rng.uniform(0.0, 0.006)),
        gate=float(rng.uniform(0.45, 0.9)), has_pad=bool(style.pad_programs) and rng.random() < 0.6,
    )  # fmt: skip


class ScoreWriter:
    """Writes one clip of a band; every choice comes from `rng`."""

    def __init__(self, band: Band, key: Key, seconds: float, rng: np.random.Generator) -> None:
        self.band, self.style, self.key, self.seconds, self.rng = band, band.style, key, seconds, rng
        low, high = self.style.bpm
        self.tempo = round(float(rng.uniform(low, high)), 2)
        self.beat_seconds = 60.0 / self.tempo
        self.offset = float(rng.uniform(0.0, LONGEST_OFFSET)) if rng.random() < 0.7 else 0.0
        self.phase = (
            int(rng.integers(1, self.style.beats)) if rng.random() < 0.35 else 0
        )  # beats of the first bar left out
        self.swing = 0.5 if self.style.swing == 0.5 else self.style.swing + float(rng.uniform(-0.03, 0.03))
        self.bars = int((seconds / self.beat_seconds + self.phase) // self.style.beats) + 1
        self.spans = self._harmony()
        self.shape = self._dynamics()
        self.drift = self._drift() if band.drift else (0.0, 1.0, 0.0)

    # time

    def _drift(self) -> tuple[float, float, float]:
        """How the tempo wanders: share, seconds of a cycle, phase."""
        share = self.band.drift * float(self.rng.uniform(0.3, 1.0))
        return share, float(self.rng.uniform(5.0, 20.0)), float(self.rng.uniform(0.0, 2.0 * np.pi))

    def _seconds(self, beats: float) -> float:
        """Seconds of a distance in beats from the score's first, after `offset`; the tempo may wander on the way."""
        steady = beats * self.beat_seconds
        share, cycle, phase = self.drift
        if not share:
            return self.offset + steady
        turn = 2.0 * np.pi / cycle
        return self.offset + steady + share / turn * float(np.sin(turn * steady + phase) - np.sin(phase))

    def time(self, beat: float) -> float:
        """Seconds of a position in beats of the score; off-beats swing."""
        whole = np.floor(beat)
        part = beat - whole
        swung = part * 2.0 * self.swing if part < 0.5 else self.swing + (part - 0.5) * 2.0 * (1.0 - self.swing)
        return self._seconds(float(whole + swung - self.phase))

    def _step_beat(self, bar: int, step: int) -> float:
        return bar * self.style.beats + step * self.style.beats / self.style.steps

    def _note(self, player: Player, beat: float, beats: float, key: int, velocity: float, tight: float = 1.0) -> None:
        """Adds a note where it sounds within the clip, humanised in time and velocity."""
        if beat < self.phase - 1e-6:
            return
        time = self.time(beat) + float(np.clip(self.rng.normal(0.0, self.band.looseness * tight), -0.012, 0.012))
        if time >= self.seconds - 0.03:
            return
        length = max(0.05, self.time(beat + beats) - self.time(beat) - 0.01)
        position = (beat - self.phase) * self.beat_seconds / self.seconds
        loud = velocity * float(np.interp(position, [0.0, 0.5, 1.0], self.shape)) + self.rng.normal(0.0, 4.0)
        grid = 5 * round(float(np.clip(loud, 20.0, 125.0)) / 5)  # a coarse grid, so that equal notes are rendered once
        player.notes.append(Note(max(0.0, time), length, key, grid))

    def _dynamics(self) -> tuple[float, float, float]:
        shapes = ((1.0, 1.0, 1.0), (0.7, 0.85, 1.05), (1.05, 0.9, 0.7), (0.75, 1.05, 0.75))
        return shapes[int(self.rng.choice(4, p=[0.55, 0.18, 0.12, 0.15]))]

    # harmony

    def _harmony(self) -> list[Span]:
        choices = self.style.minor if self.key.minor else self.style.major
        numerals = choices[int(self.rng.integers(len(choices)))].split()
        bar_seconds = self.style.beats * self.beat_seconds
        halves = self.style.beats == 4 and self.rng.random() < float(np.interp(bar_seconds, [1.6, 2.6], [0.15, 1.0]))
        length = self.style.beats / 2 if halves else float(self.style.beats)
        shift = int(self.rng.integers(len(numerals))) if self.rng.random() < 0.2 else 0
        total = self.bars * self.style.beats
        count = int(np.ceil(total / length))
        chords = [chord(numerals[(k + shift) % len(numerals)], self.key) for k in range(count)]
        return [Span(k * length, (k + 1) * length, chords[k]) for k in range(count)]

    def _span(self, beat: float) -> int:
        length = self.spans[0].end
        return min(int((beat + 1e-6) / length), len(self.spans) - 1)

    def _hits(self, pattern: str) -> list[tuple[int, str, int]]:
        """(step, letter, steps until the next hit or the bar's end) of a pattern."""
        at = [k for k, letter in enumerate(pattern) if letter != "."]
        ends = at[1:] + [len(pattern)]
        return [(k, pattern[k], end - k) for k, end in zip(at, ends)]

    def _choose(self, patterns: tuple[str, ...]) -> str:
        return patterns[int(self.rng.integers(len(patterns)))]

    def _player(self, role: str) -> Player:
        bank = DRUM_BANK if role == "drums" else 0
        return Player(role, self.band.programs[role], bank, self.band.levels[role] + float(self.rng.uniform(-1.0, 1.0)))

    # the players

    def _drums(self) -> Player:
        player = self._player("drums")
        pattern = self.style.drums[int(self.rng.integers(len(self.style.drums)))]
        crash = self.rng.random() < 0.3 and bool(pattern)
        fill = self.rng.random() < 0.5 and "snare" in pattern
        step_beats = self.style.beats / self.style.steps
        for bar in range(self.bars):
            for piece, steps in pattern.items():
                for step, letter, _ in self._hits(steps):
                    beat = self._step_beat(bar, step)
                    if fill and bar % 4 == 3 and step >= self.style.steps * 3 // 4 and piece != "kick":
                        continue
                    self._drum(player, beat, piece, _VELOCITY[letter])
            if fill and bar % 4 == 3:
                for step in range(self.style.steps * 3 // 4, self.style.steps):
                    self._drum(player, self._step_beat(bar, step), "snare", 70 + 10 * (step % 4))
            if crash and bar == (1 if self.phase else 0):
                self._drum(player, bar * self.style.beats, "crash", 96)
        if pattern and self.phase and not any(abs(n.time - self.offset) < step_beats * 0.2 for n in player.notes):
            self._drum(player, self.phase, "hat", 88)
        return player

    def _drum(self, player: Player, beat: float, piece: str, velocity: float) -> None:
        seconds = _RING.get(piece, 0.15)
        self._note(player, beat, seconds / self.beat_seconds, DRUMS[piece], velocity, tight=0.4)

    def _bass(self) -> Player:
        player = self._player("bass")
        pattern = self._choose(self.style.bass)
        last = 40.0
        for bar in range(self.bars):
            for step, letter, gap in self._hits(pattern):
                beat = self._step_beat(bar, step)
                k = self._span(beat)
                # a chord that changes inside the bar begins on its root, whatever the pattern says
                fresh = beat - self.spans[k].start < 0.26 and letter != "8"
                root = nearest(self.spans[k].chord.root, 40.0)
                key = root if fresh else self._bass_key(letter, k, root)
                last = key
                self._note(player, beat, gap * self.style.beats / self.style.steps * 0.95, int(last), 96)
            self._fill_changes(player, bar, pattern)
        return player

    def _fill_changes(self, player: Player, bar: int, pattern: str) -> None:
        """A bass note on the first beat of a chord (or of the clip) where the pattern rests."""
        steps = {step for step, _, _ in self._hits(pattern)}
        for step in range(0, self.style.steps, max(1, self.style.steps // self.style.beats)):
            beat = self._step_beat(bar, step)
            begins = any(abs(span.start - beat) < 1e-6 for span in self.spans) or abs(beat - self.phase) < 1e-6
            if begins and step not in steps:
                root = nearest(self.spans[self._span(beat)].chord.root, 40.0)
                self._note(player, beat, 0.9, root, 92)

    def _bass_key(self, letter: str, k: int, root: int) -> int:
        tones = self.spans[k].chord.tones
        following = nearest(self.spans[(k + 1) % len(self.spans)].chord.root, root)
        if letter == "5":
            return nearest(tones[2], root + (7 if root < 41 else -5))
        if letter == "3":
            return nearest(tones[1], root + 4)
        if letter == "8":
            return root + 12
        if letter == "a":
            return following + (1 if self.rng.random() < 0.3 else -1)
        if letter == "w":
            middle = (root + following) / 2.0 + (3.0 if following == root else 0.0)
            return min((nearest(pitch, middle) for pitch in self.key.scale), key=lambda key: abs(key - middle))
        return root

    def _comp(self) -> Player:
        player = self._player("comp")
        pattern = self._choose(self.style.comp)
        arpeggio = any(letter.isdigit() for letter in pattern)
        voices: list[int] | None = None
        step_beats = self.style.beats / self.style.steps
        for bar in range(self.bars):
            hits = self._hits(pattern)
            starts = {round(self._step_beat(bar, step) / step_beats) for step, _, _ in hits}
            for span in self.spans:  # every chord is heard where its label begins, and so is the clip's first beat
                at = max(span.start, float(self.phase))
                slot = round(at / step_beats)
                inside = bar * self.style.beats <= at < (bar + 1) * self.style.beats and at < span.end
                if inside and not starts & set(range(slot, slot + max(2, round(1.01 / step_beats)))):
                    hits.append((slot - bar * self.style.steps, "x", self.style.steps // self.style.beats))
            for step, letter, gap in sorted(hits):
                beat = self._step_beat(bar, step)
                k = self._span(beat)
                voices = voicing(self.spans[k].chord, self.style.comp_centre, self.style.voices, voices)
                if letter.isdigit():
                    self._note(player, beat, gap * step_beats * 1.6, voices[int(letter) % len(voices)], 84)
                    continue
                until = min(gap * step_beats, self.spans[k].end - beat)
                length = until if letter == "X" or arpeggio else min(until, 2 * step_beats) * self.band.gate
                for key in voices:
                    self._note(player, beat, length, key, 92 if letter == "X" else 84)
        return player

    def _pad(self) -> Player:
        player = self._player("pad")
        voices: list[int] | None = None
        for span in self.spans:
            voices = voicing(span.chord, 64, 3, voices)
            start = max(span.start, float(self.phase))
            if start < span.end:
                for key in voices:
                    self._note(player, start, span.end - start, key, 80)
        return player

    def _lead(self) -> Player:
        """A melody: three rhythms as A B A C, chord tones on beats, scale steps between, an arch per phrase."""
        player = self._player("lead")
        a, b, c = (self._choose(self.style.melody) for _ in range(3))
        centre = self.style.lead_centre + float(self.rng.uniform(-3.0, 3.0))
        at, direction = centre, 1.0
        step_beats = self.style.beats / self.style.steps
        for bar in range(self.bars):
            arch = centre + 5.0 * np.sin(np.pi * ((bar % 4) + 0.5) / 4.0) - 2.0
            for step, letter, gap in self._hits((a, b, a, c)[bar % 4]):
                if letter == "-":
                    continue
                beat = self._step_beat(bar, step)
                tones = self.spans[self._span(beat)].chord.tones
                on_beat = abs(beat - round(beat)) < 1e-6
                if self.rng.random() < 0.3 or abs(at - arch) > 7.0:
                    direction = 1.0 if at < arch else -1.0
                reach = at + direction * float(self.rng.choice([1.0, 2.0, 2.0, 3.0, 5.0]))
                pool = tones if on_beat else self._scale_over(tones)
                at = float(min((nearest(pitch, reach) for pitch in pool), key=lambda key: abs(key - reach)))
                held = min(gap * step_beats * 0.97, 2.5)
                self._note(player, beat, held, int(at), 104 if on_beat else 92)
        return player

    def _scale_over(self, tones: tuple[int, ...]) -> tuple[int, ...]:
        """The key's scale with a chord's foreign tones in the place of their neighbours (harmonic minor over V7)."""
        foreign = [tone for tone in tones if tone not in self.key.scale]
        kept = [pitch for pitch in self.key.scale if all((pitch - tone) % 12 not in (1, 11) for tone in foreign)]
        return tuple(kept + foreign)

    # the whole

    def write(self) -> Score:
        players = [self._bass(), self._comp()]
        if self.style.drums:
            players.insert(0, self._drums())
        if self.rng.random() < self.style.melody_share:
            players.append(self._lead())
        if self.band.has_pad:
            players.append(self._pad())
        players = [player for player in players if player.role not in self.band.silent]
        first, count = self.phase, self.bars * self.style.beats
        beats = [(k, self._seconds(k - first)) for k in range(first, count + 1)]
        beats = [(k, time) for k, time in beats if time < self.seconds - 0.05]
        return Score(
            self.tempo, [player for player in players if player.notes],
            [round(time, 5) for _, time in beats],
            [round(time, 5) for k, time in beats if k % self.style.beats == 0],
            self._chord_labels(), self.spans,
        )  # fmt: skip

    def _chord_labels(self) -> list[tuple[float, float, str]]:
        """Segments that cover the clip without a gap; silence before the music is N, equal neighbours are one."""
        found: list[tuple[float, float, str]] = []
        if self.offset > 0.0:
            found.append((0.0, round(self.offset, 5), "N"))
        for span in self.spans:
            start = max(self.offset, self._seconds(span.start - self.phase))
            end = min(self.seconds, self._seconds(span.end - self.phase))
            if end - start < 1e-4:
                continue
            if found and found[-1][2] == span.chord.label:
                found[-1] = (found[-1][0], round(end, 5), span.chord.label)
            else:
                found.append((found[-1][1] if found else 0.0, round(end, 5), span.chord.label))
        start, _, label = found[-1]
        return found[:-1] + [(start, round(self.seconds, 5), label)]
