"""What a corpus consists of, decided before anything sounds: parts, splits, bands, and the classes of every clip.

Splits are disjoint by band, and classes come in shuffled rounds, so every class is in every split as soon as a split
has as many clips as there are classes. A clip draws from (seed, part, index), a band from (seed, its name).
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .styles import STYLE_NAMES
from .technique import FAMILIES, SUSTAINED, TECHNIQUES, Instrument
from .theory import KEYS

PARTS = ("music", "note", "technique")
SHARES = {"music": 0.60, "note": 0.18, "technique": 0.22}  # of the hours
SECONDS = {"music": 8.0, "note": 2.5, "technique": 3.0}  # a clip
SPLITS = {"train": 0.50, "valid": 0.15, "test": 0.35}  # of a part's clips; the test gets many, for tight intervals
CLIPS_PER_BAND = 3


@dataclass(frozen=True)
class Clip:
    """One clip to make. `kind`: style, family or technique; `choice`: index into KEYS, or the MIDI key of the note."""

    part: str
    index: int
    split: str
    band: str
    kind: str
    choice: int
    instrument: Instrument | None
    seconds: float

    @property
    def path(self) -> str:
        return f"audio/{self.part}-{self.index:06d}.flac"


def rng_of(seed: int, *names: str | int) -> np.random.Generator:
    """The generator of a thing by its name, the same in every process."""
    words = [zlib.crc32(name.encode()) if isinstance(name, str) else name for name in names]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))


def counts(
    hours: float, clip_seconds: float, music: float = SHARES["music"], train: float = SPLITS["train"]
) -> dict[str, dict[str, int]]:
    """Clips by part and split; `music` and `train` change their shares, the others keep their proportions."""
    found = {}
    rest = (1.0 - train) / (1.0 - SPLITS["train"])
    for part, share in SHARES.items():
        share = music if part == "music" else share * ((1.0 - music) / (1.0 - SHARES["music"]))
        total = round(hours * 3600.0 * share / (clip_seconds if part == "music" else SECONDS[part]))
        test, valid = round(total * (SPLITS["test"] * rest)), round(total * (SPLITS["valid"] * rest))
        found[part] = {"train": total - test - valid, "valid": valid, "test": test}
    return found


def _rounds(rng: np.random.Generator, size: int) -> Iterator[int]:
    """0 .. size - 1 in a new order every round, without end."""
    while True:
        yield from (int(k) for k in rng.permutation(size))


def plan_clips(
    hours: float,
    seed: int,
    clip_seconds: float = SECONDS["music"],
    music: float = SHARES["music"],
    train: float = SPLITS["train"],
) -> list[Clip]:
    """All clips of a corpus in order; see `counts` for the shares."""
    clips: list[Clip] = []
    for part, splits in counts(hours, clip_seconds, music, train).items():
        index = 0
        for split, count in splits.items():
            make = {"music": _music, "note": _notes, "technique": _techniques}[part]
            seconds = clip_seconds if part == "music" else SECONDS[part]
            for band, kind, choice, instrument in make(seed, split, count):
                clips.append(Clip(part, index, split, band, kind, choice, instrument, seconds))
                index += 1
    return clips


Row = tuple[str, str, int, Instrument | None]


def _music(seed: int, split: str, count: int) -> Iterator[Row]:
    """Styles and keys in independent rounds, so that all 24 keys meet all styles."""
    rng = rng_of(seed, "plan", "music", split)
    styles, keys = _rounds(rng, len(STYLE_NAMES)), _rounds(rng, len(KEYS))
    played = dict.fromkeys(STYLE_NAMES, 0)
    for _ in range(count):
        style = STYLE_NAMES[next(styles)]
        yield f"{style}-{split}-{played[style] // CLIPS_PER_BAND:03d}", style, next(keys), None
        played[style] += 1


def unseen(seed: int, instruments: Sequence[Instrument]) -> tuple[list[Instrument], list[Instrument]]:
    """A family's programs for training, and the one or two kept for the test alone (none where there are under 3)."""
    order = rng_of(seed, "unseen", instruments[0].family).permutation(len(instruments))
    kept = 0 if len(instruments) < 3 else 1 if len(instruments) < 6 else 2
    return [instruments[k] for k in order[kept:]], [instruments[k] for k in order[:kept]]


def _choose(rng: np.random.Generator, seed: int, split: str, family: Sequence[Instrument]) -> Instrument:
    """A program for a clip; in the test, half of the clips take programs that training never heard."""
    known, kept = unseen(seed, family)
    pool = kept if split == "test" and kept and rng.random() < 0.5 else known
    return pool[int(rng.integers(len(pool)))]


class _Bands:
    """Numbers the players of each program in a split, CLIPS_PER_BAND clips to a player."""

    def __init__(self, split: str) -> None:
        self.split, self.played = split, dict[tuple[str, int], int]()

    def __call__(self, part: str, instrument: Instrument) -> str:
        name = (instrument.family, instrument.program)
        number = self.played.get(name, 0)
        self.played[name] = number + 1
        return f"{part}-{instrument.family}{instrument.program}-{self.split}-{number // CLIPS_PER_BAND:03d}"


def _notes(seed: int, split: str, count: int) -> Iterator[Row]:
    rng, bands, names = rng_of(seed, "plan", "note", split), _Bands(split), tuple(FAMILIES)
    families = _rounds(rng, len(names))
    for _ in range(count):
        family = names[next(families)]
        instrument = _choose(rng, seed, split, FAMILIES[family])
        key = int(rng.integers(instrument.low, instrument.high + 1))
        yield bands("note", instrument), family, key, instrument


def _techniques(seed: int, split: str, count: int) -> Iterator[Row]:
    """Every technique on instruments drawn alike, so that the timbre doesn't tell."""
    rng, bands = rng_of(seed, "plan", "technique", split), _Bands(split)
    techniques = _rounds(rng, len(TECHNIQUES))
    names = tuple(dict.fromkeys(instrument.family for instrument in SUSTAINED))
    families = [_rounds(rng, len(names)) for _ in TECHNIQUES]
    for _ in range(count):
        technique = next(techniques)
        family = names[next(families[technique])]
        instrument = _choose(rng, seed, split, [item for item in SUSTAINED if item.family == family])
        key = int(rng.integers(instrument.low, instrument.high + 1))
        yield bands("technique", instrument), TECHNIQUES[technique], key, instrument
