"""What is true of a music clip beyond its score: arousal, valence, tags. All in the manifest's plain types."""

from typing import Any

import numpy as np

from .render import loudness
from .score import Score
from .soundfont import Waveform
from .styles import Style
from .theory import QUALITIES, Key

FAST, SLOW = 132.0, 88.0  # bpm

# General MIDI programs by what a listener calls them; what few bands play has no tag
_TAGS = {
    "piano": (0, 1, 2, 3), "electric piano": (4, 5), "organ": (16, 17, 18, 19), "free reed": (21, 22, 23),
    "acoustic guitar": (24, 25), "electric guitar": (26, 27, 28), "distorted guitar": (29, 30),
    "strings": (40, 41, 42, 43, 48, 49, 110), "brass": (56, 57, 58, 59, 60, 61), "saxophone": (64, 65, 66, 67),
    "woodwind": (68, 69, 70, 71, 72, 73), "synthesizer": (38, 39, 50, 51, 62, 63, *range(80, 96)),
    "bass guitar": (33, 34, 35, 36, 37), "double bass": (32,),
}  # fmt: skip
TAG_NAMES = (*_TAGS, "drums", "fast", "slow", "minor", "triple metre", "swung")
_BRIGHT = tuple(quality for quality, steps in QUALITIES.items() if 4 in steps)


def density(score: Score) -> float:
    """Onsets per second; notes within 30 ms of each other are one onset."""
    times = sorted(note.time for player in score.players for note in player.notes)
    onsets = sum(1 for k, time in enumerate(times) if k == 0 or time - times[k - 1] > 0.03)
    end = max((end for _, end, _ in score.chords), default=1.0)
    return onsets / end


def _unit(value: float, low: float, high: float) -> float:
    return float(np.clip((value - low) / (high - low), 0.0, 1.0))


def arousal(tempo: float, level: float, onsets: float) -> float:
    """-1 calm .. 1 excited: 0.4 tempo (60..180 bpm) + 0.3 loudness (-32..-12 dB RMS) + 0.3 density (1..12 onsets/s)."""
    share = 0.4 * _unit(tempo, 60.0, 180.0) + 0.3 * _unit(level, -32.0, -12.0) + 0.3 * _unit(onsets, 1.0, 12.0)
    return round(2.0 * share - 1.0, 4)


def valence(minor: bool, bright: float, tempo: float, onsets: float) -> float:
    """-1 sad .. 1 happy: 0.45 mode + 0.2 share of time under chords with a major third + 0.2 tempo + 0.15 density."""
    share = 0.45 * (not minor) + 0.2 * bright + 0.2 * _unit(tempo, 60.0, 180.0) + 0.15 * _unit(onsets, 1.0, 12.0)
    return round(2.0 * share - 1.0, 4)


def tags(style: Style, key: Key, score: Score) -> list[str]:
    """Names out of TAG_NAMES, in its order."""
    played = {player.program for player in score.players if player.role != "drums"}
    found = {tag for tag, programs in _TAGS.items() if played & set(programs)}
    facts = {
        "drums": any(player.role == "drums" for player in score.players), "fast": score.tempo >= FAST,
        "slow": score.tempo <= SLOW, "minor": key.minor,
        "triple metre": style.beats == 3, "swung": style.swing > 0.6,
    }  # fmt: skip
    found |= {tag for tag, true in facts.items() if true}
    return [tag for tag in TAG_NAMES if tag in found]


def music_labels(style: Style, key: Key, score: Score, wave: Waveform) -> dict[str, Any]:
    """All labels of a music clip; loudness is measured on its sound."""
    end = score.chords[-1][1]
    bright = sum(
        min(e, end) - s for s, e, label in score.chords if label.split(":")[-1] in ("maj", "7", "maj7", "maj6")
    )
    level, onsets = loudness(wave), density(score)
    return {
        "part": "music", "style": style.name, "key": key.name,
        "chords": [{"start": start, "end": stop, "label": label} for start, stop, label in score.chords],
        "tempo": score.tempo, "beats": score.beats, "downbeats": score.downbeats,
        "arousal": arousal(score.tempo, level, onsets),
        "valence": valence(key.minor, bright / end, score.tempo, onsets),
        "tags": tags(style, key, score),
    }  # fmt: skip
