"""Keys, chords and progressions: the part of music theory that the score writer needs, in mir_eval's names."""

import re
from dataclasses import dataclass

PITCH_NAMES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11)
MINOR_SCALE = (0, 2, 3, 5, 7, 8, 10)

# semitones above the root by mir_eval's quality
QUALITIES: dict[str, tuple[int, ...]] = {
    "maj": (0, 4, 7),
    "min": (0, 3, 7),
    "dim": (0, 3, 6),
    "sus4": (0, 5, 7),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "min7": (0, 3, 7, 10),
    "hdim7": (0, 3, 6, 10),
    "min6": (0, 3, 7, 9),
    "maj6": (0, 4, 7, 9),
}
_DEGREES = {"I": 0, "II": 1, "III": 2, "IV": 3, "V": 4, "VI": 5, "VII": 6}
_SUFFIXES = {"": ("maj", "min"), "7": ("7", "min7"), "M7": ("maj7", "maj7"), "6": ("maj6", "min6"), "o": ("dim", "dim")}
_SUFFIXES |= {"h": ("hdim7", "hdim7"), "s4": ("sus4", "sus4")}
_ROMAN = re.compile(r"^([b#]?)(VII|VI|IV|V|III|II|I|vii|vi|iv|v|iii|ii|i)(M7|7|6|o|h|s4|)$")


@dataclass(frozen=True)
class Key:
    """A major or minor key; tonic is a pitch class, 0 = C."""

    tonic: int
    minor: bool

    @property
    def name(self) -> str:
        """As mir_eval.key writes it: "C major", "Db minor"."""
        return f"{PITCH_NAMES[self.tonic]} {'minor' if self.minor else 'major'}"

    @property
    def scale(self) -> tuple[int, ...]:
        """Pitch classes of the major or natural minor scale, from the tonic."""
        return tuple((self.tonic + step) % 12 for step in (MINOR_SCALE if self.minor else MAJOR_SCALE))


KEYS = tuple(Key(tonic, minor) for minor in (False, True) for tonic in range(12))


@dataclass(frozen=True)
class Chord:
    """A chord by root pitch class and mir_eval quality."""

    root: int
    quality: str

    @property
    def label(self) -> str:
        return f"{PITCH_NAMES[self.root]}:{self.quality}"

    @property
    def tones(self) -> tuple[int, ...]:
        """Pitch classes, root first."""
        return tuple((self.root + step) % 12 for step in QUALITIES[self.quality])

    @property
    def bright(self) -> bool:
        """Whether the third is major."""
        return 4 in QUALITIES[self.quality]


def chord(numeral: str, key: Key) -> Chord:
    """A roman numeral in a key: "ii7", "V7", "bVII", "IM7", "vih" (half-diminished), "viio".

    Degrees count on the key's own scale (natural minor in minor keys); upper case has the major third.

    Raises:
        ValueError: what is no such numeral.
    """
    match = _ROMAN.match(numeral)
    if match is None:
        raise ValueError(
            f"'{numeral}' is no roman numeral of this notation; write for example 'I', 'ii7', 'bVII', 'V7'."
        )
    accidental, degree, suffix = match.groups()
    root = key.scale[_DEGREES[degree.upper()]] + {"b": -1, "#": 1, "": 0}[accidental]
    return Chord(root % 12, _SUFFIXES[suffix][0 if degree.isupper() else 1])


def progression(numerals: str, key: Key) -> list[Chord]:
    """Chords of numerals separated by spaces."""
    return [chord(numeral, key) for numeral in numerals.split()]


def voicing(chord: Chord, centre: int, count: int, previous: list[int] | None = None) -> list[int]:
    """MIDI keys of a close voicing around `centre`, moving as little as possible from the previous one."""
    tones = list(chord.tones)
    if count < len(tones):  # the fifth says least
        tones.remove((chord.root + QUALITIES[chord.quality][2]) % 12)
        tones = tones[:count]
    target = sum(previous) / len(previous) if previous else float(centre)
    target = 0.7 * target + 0.3 * centre
    inversions = []
    for turn in range(len(tones)):
        order = tones[turn:] + tones[:turn]
        low = centre - 12 + (order[0] - centre) % 12
        keys = [low]
        for tone in order[1:]:
            keys.append(keys[-1] + ((tone - keys[-1]) % 12 or 12))
        for octave in (0, 12):
            inversions.append([k + octave for k in keys])
    return min(inversions, key=lambda keys: abs(sum(keys) / len(keys) - target))


def nearest(pitch_class: int, around: float) -> int:
    """The MIDI key of a pitch class that lies nearest to `around`."""
    return round((around - pitch_class) / 12.0) * 12 + pitch_class
