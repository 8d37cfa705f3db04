"""Bands that keep to no style: what a network hears in training has to be wider than what it will be asked about.

Twelve styles played neatly on one soundfont leave a network with habits that recordings don't share (domain
randomisation, Tobin et al. 2017). A *free band* therefore takes its rhythm, harmony and orchestration from wherever
they fit: patterns of other styles and some of its own here, hits left out and added, progressions of all styles, vamps
and random walks, any program that holds a pitch, a drummer who may be missing or far too loud, a tempo that wanders,
instruments out of tune, a worse room. The labels stay exact, since the score is still written.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .render import Room, draw_room
from .score import ROLES, Band, draw_band
from .styles import STYLES, Style

TEMPO = (54.0, 205.0)  # bpm, at most
_BASS = (32, 33, 34, 35, 36, 37, 38, 39, 39, 38, 43, 58, 70)
_COMP = (
    *range(8),
    11,
    16,
    17,
    18,
    21,
    *range(24, 31),
    *range(24, 31),
    46,
    48,
    49,
    50,
    51,
    61,
    62,
    63,
    80,
    81,
    90,
    104,
    105,
)
_LEAD = (
    *range(52, 55),
    *range(52, 55),
    22,
    26,
    27,
    29,
    30,
    40,
    41,
    42,
    *range(56, 60),
    *range(64, 75),
    80,
    81,
    82,
    85,
    87,
    0,
    4,
    11,
)
_PADS = (48, 49, 50, 51, 52, 53, 54, 88, 89, 90, 91, 92, 94, 95, 16, 18)
_KITS = (0, 0, 0, 8, 16, 16, 24, 25, 25, 32, 40, 48)

# rhythms that the twelve styles lack, sixteen steps to a bar of four
_DRUMS: tuple[dict[str, str], ...] = (
    {"kick": "X.....x.......x.", "snare": "....X.......X...", "hat": "x.x.x.x.x.x.x.x."},  # hip hop
    {"kick": "X.x.......xx....", "snare": "....X..o.o..X...", "hat": "x.xxx.x.x.x.x.xx"},
    {"kick": "X..x......x.....", "clap": "....X.......X...", "hat": "x..x..x.x..x..x."},
    {"kick": "X.........x.....", "snare": "........X.......", "hat": "x.x.x.x.x.x.x.x."},  # half time
    {"kick": "X.x.......x.....", "snare": "....X..o.o..X..o", "ride": "x.x.x.x.x.x.x.x."},  # broken beat
    {"kick": "X...X...X...X...", "snare": "....X.......X...", "openhat": "..x...x...x...x."},  # disco
    {"kick": "X...X...X...X...", "clap": "....X.......X..."},
    {"kick": "xxxxxxxxxxxxxxxx", "snare": "....X.......X...", "crash": "X...X...X...X..."},  # metal
    {"kick": "X.xx..xxX.xx..xx", "snare": "....X.......X...", "ride": "x.x.x.x.x.x.x.x."},
    {"kick": "x.x.x.x.x.x.x.x.", "snare": ".x.x.x.x.x.x.x.x", "hat": "x.x.x.x.x.x.x.x."},
    {"kick": "X.....x.X.x.....", "snare": "....X.......X.x.", "hat": "x.x.x.x.x.x.x.x."},
    {"kick": "X...X...X...X...", "snare": "..x..xx...x.x..x", "shaker": "xxxxxxxxxxxxxxxx"},  # dance hall
    {"kick": "X..x..X.X..x..X.", "snare": "...x..x....x..x.", "hat": "x.x.x.x.x.x.x.x."},
    {"snare": "..x...x...x...x.", "kick": "X...x...X...x..."},  # two beat
    {"kick": "X.......X.......", "shaker": "x.x.x.x.x.x.x.x."},
    {"hat": "x...x...x...x...", "foot": "....x.......x..."},
    {"kick": "X...X...X...X...", "snare": "X...X...X...X...", "hat": "x.x.x.x.x.x.x.x."},
    {"snare": "....X.......X...", "hat": "xxxxxxxxxxxxxxxx", "kick": "X.x..x..X....x.."},
)
_BASS_LINES = (
    "R.R.R.R.8.8.8.8.",
    "R...............",
    "R.....R.........",
    "R..R......5.....",
    "RRRRRRRRRRRRRRRR",
    "R..8..R.8..R..8.",
    "R.......R..R....",
    "R...5...8...5...",
    "R.8.R.8.R.8.R.8.",
    "....R.......R...",
    "R.....5...R.5.R.",
    "R..R..R..R..R.R.",
)
_COMPS = (
    "X...............",
    "x...x...x...x...",
    "..x...x...x...x.",
    "x..x..x..x..x.x.",
    "xxxxxxxxxxxxxxxx",
    "X.......x.x.x...",
    "....x.......x...",
    "0.1.2.1.2.1.0.1.",
    "012.012.012.012.",
    "X.....X.......X.",
    "x.xxx.xxx.xxx.xx",
    "X...X.......X...",
)
_MELODIES = (
    "x...............",
    "x.......x.......",
    "x.x.x.x.x.x.x.x.",
    "x..x..x.x..x..x.",
    "xxxxxxxxxxxxxxxx",
    "x.xx.xx.x.xx.xx.",
    "....x.x.x.x.x...",
    "x...x.......x...",
    "..xx..xx..xx....",
    "x.....x.....x...",
    "x-..x-..x-x-x-..",
)
_MAJOR = (
    "I",
    "I bVII",
    "I IV",
    "I V",
    "I bVII IV I",
    "I bIII IV I",
    "I ii",
    "I vi",
    "I V vi iii IV I IV V",
    "I IV I V",
    "I Is4 I Is4",
    "I7",
    "IM7 IVM7",
    "vi V IV V",
    "I V ii IV",
    "IV I V vi",
    "I bVI bVII I",
    "I II IV I",
    "I iii vi IV",
    "I I I I IV IV I I V IV I V",
    "ii V I I",
    "I iio V I",
    "I III7 vi IV",
    "I vi ii V",
    "IV iv I I",
)
_MINOR = (
    "i",
    "i VII",
    "i iv",
    "i v",
    "i bII",
    "i IV",
    "i VI",
    "i VI VII",
    "i VII VI VII",
    "i VI III VII",
    "i III VII IV",
    "i iv i V7",
    "VI VII i i",
    "i7",
    "i7 iv7",
    "i i i i iv iv i i V7 iv i i",
    "i V i VII III VII i V7",
    "i iio V7 i",
    "iv i V7 i",
    "i VII iv VI",
    "i v iv V7",
    "i bII VII i",
    "i III iv VI",
)
_STEPS_MAJOR = (("I", 5), ("IV", 4), ("V", 4), ("vi", 3), ("ii", 2), ("iii", 1), ("bVII", 1), ("V7", 1))
_STEPS_MINOR = (("i", 5), ("iv", 3), ("v", 1), ("V7", 2), ("VI", 3), ("VII", 3), ("III", 2), ("iio", 0.5), ("IV", 0.5))


def _pick(rng: np.random.Generator, options: tuple[str, ...], count: int) -> tuple[str, ...]:
    return tuple(options[int(k)] for k in rng.integers(len(options), size=count))


def _walk(rng: np.random.Generator, minor: bool) -> str:
    """Four to eight chords from home, each but the first drawn at random; twice as long as that if it wants to rest."""
    steps = _STEPS_MINOR if minor else _STEPS_MAJOR
    weights = np.array([weight for _, weight in steps])
    drawn = rng.choice(len(steps), size=int(rng.integers(1, 8)), p=weights / weights.sum())
    return " ".join([steps[0][0], *(steps[int(k)][0] for k in drawn)])


def _progressions(rng: np.random.Generator, own: tuple[str, ...], minor: bool) -> tuple[str, ...]:
    borrowed = tuple(p for style in STYLES for p in (style.minor if minor else style.major))
    return (
        *_pick(rng, own, 1), *_pick(rng, borrowed, 1), *_pick(rng, _MINOR if minor else _MAJOR, 3),
        *(_walk(rng, minor) for _ in range(2)),
    )  # fmt: skip


def _mutate(rng: np.random.Generator, pattern: str, extra: str, added: float = 0.04, dropped: float = 0.07) -> str:
    """Some hits left out, some added; a pattern never falls silent."""
    draws, letters = rng.random(len(pattern)), rng.integers(len(extra), size=len(pattern))
    changed = "".join(
        (extra[int(k)] if draw < added else ".") if letter == "." else ("." if draw < dropped else letter)
        for letter, draw, k in zip(pattern, draws, letters, strict=True)
    )
    return changed if changed.strip(".") else pattern


def _drums(rng: np.random.Generator, style: Style) -> tuple[dict[str, str], ...]:
    alike = tuple(
        pattern for other in STYLES for pattern in other.drums
        if (other.beats, other.steps) == (style.beats, style.steps) and pattern
    )  # fmt: skip
    pool = (*alike, *_DRUMS) if style.steps == 16 else alike
    found = []
    for _ in range(3):
        pattern = pool[int(rng.integers(len(pool)))]
        pieces = {piece: _mutate(rng, steps, "xo") for piece, steps in pattern.items() if rng.random() > 0.1}
        found.append(pieces)
    return tuple(found)


def _lines(rng: np.random.Generator, style: Style, what: str, more: tuple[str, ...], extra: str) -> tuple[str, ...]:
    alike = tuple(
        line for other in STYLES for line in getattr(other, what)
        if (other.beats, other.steps) == (style.beats, style.steps)
    )  # fmt: skip
    pool = (*alike, *more) if style.steps == 16 else alike
    return tuple(_mutate(rng, line, extra, 0.03) for line in _pick(rng, pool, 3))


def _tempo(rng: np.random.Generator, style: Style) -> tuple[int, int]:
    centre = np.clip(rng.uniform(*style.bpm) * np.exp(rng.normal(0.0, 0.22)), *TEMPO)
    return max(round(TEMPO[0]), round(0.93 * centre)), min(round(TEMPO[1]), round(1.07 * centre) + 1)


def free_style(style: Style, rng: np.random.Generator) -> Style:
    """A style of its own, in the metre and on the grid of `style`."""
    straight = rng.random() < 0.75
    return replace(
        style,
        bpm=_tempo(rng, style),
        swing=style.swing if rng.random() < 0.5 else 0.5 if straight else float(rng.uniform(0.55, 0.68)),
        major=_progressions(rng, style.major, False),
        minor=_progressions(rng, style.minor, True),
        drums=_drums(rng, style) if rng.random() < 0.85 else (),
        bass=_lines(rng, style, "bass", _BASS_LINES, "R5"),
        comp=_lines(rng, style, "comp", _COMPS, "x"),
        melody=_lines(rng, style, "melody", _MELODIES, "x"),
        bass_programs=_BASS, comp_programs=_COMP, lead_programs=_LEAD, pad_programs=_PADS, kits=_KITS,
        energy=float(rng.uniform(0.2, 1.0)), melody_share=0.8, voices=int(rng.choice([2, 3, 3, 4])),
        comp_centre=int(rng.integers(50, 68)), lead_centre=int(rng.integers(62, 80)),
    )  # fmt: skip


def free_band(style: Style, rng: np.random.Generator) -> Band:
    """A band that plays a `free_style`: balance within ±6 dB, loose timing, detuned, someone may be missing."""
    band = draw_band(free_style(style, rng), rng)
    levels = {role: band.levels[role] + float(rng.uniform(-6.0, 6.0)) for role in ROLES}
    wide = rng.random() < 0.3
    silent = {role for role, share in (("bass", 0.12), ("comp", 0.08)) if rng.random() < share}
    steady = rng.random() < 0.5
    return replace(
        band,
        levels=levels,
        tuning=float(rng.uniform(-45.0, 45.0) if wide else rng.uniform(-15.0, 15.0)),
        looseness=float(rng.uniform(0.0, 0.012)),
        gate=float(rng.uniform(0.3, 0.95)),
        silent=frozenset(silent) if len(silent) < 2 else frozenset(),
        drift=0.0 if steady else float(rng.uniform(0.005, 0.06)),
    )


def free_room(rng: np.random.Generator) -> Room:
    """A room that colours more, rings for up to 1.2 s, and whose tape is sometimes overdriven."""
    drive = float(rng.uniform(0.5, 4.0)) if rng.random() < 0.4 else 0.0
    return draw_room(rng, wet=(0.02, 0.5), tilt=9.0, bump=8.0, longest=1.2, drive=drive)
