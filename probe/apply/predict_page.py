"""The page of `groundbass predict --page`: players, the sound's picture, and what was heard over time as lanes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from zlib import crc32

import numpy as np

from ...data.audio import read as audio
from ...data.writing import write_text
from ..pages.render import render
from ..report.naming import short_names
from .classify import Prediction

POINTS = 800  # of a waveform's picture
LANES = 8  # of a head: its likeliest names
MOST = 600  # spans of a lane
PICTURE_RATE = 4000  # Hz that the picture is read at
SURE = 3  # names of a verdict that are drawn with their probability
PITCHES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


class Span(NamedTuple):
    """A stretch of a lane: start and end in s, a share of darkness, what to say of it, and its own colour if any."""

    start: float
    end: float
    dark: float
    said: str
    colour: str = ""


@dataclass(frozen=True)
class Lane:
    """A row of spans over time. ticks: they are instants; named: what to say is written into them."""

    name: str
    spans: list[Span]
    ticks: bool = False
    named: bool = False


def write_page(place: Path, results: dict[str, dict[str, Prediction]]) -> None:
    """One page for all recordings; it names the audio by its path relative to the page."""
    place.parent.mkdir(parents=True, exist_ok=True)
    names = short_names(list(results))
    recordings = [_recording(place, path, names[path], found) for path, found in results.items()]
    heads = list(dict.fromkeys(name for found in results.values() for name in found))
    write_text(place, render("predict.html", recordings=recordings, heads=heads))


def _recording(place: Path, path: str, name: str, found: dict[str, Prediction]) -> dict[str, Any]:
    seconds = max(float(said.end[-1]) for said in found.values())
    relative = Path(os.path.relpath(Path(path).resolve(), place.parent.resolve())).as_posix()
    return {
        "name": name,
        "source": quote(relative),
        "seconds": round(seconds, 3),
        "peaks": peaks(path),
        "verdicts": [
            {"head": name, "told": told(said), "value": _sortable(said), "sure": _sure(said)}
            for name, said in found.items()
        ],
        "lanes": [(name, lane) for name, said in found.items() for lane in lanes(said)],
    }  # fmt: skip


def peaks(path: str) -> list[float]:
    """The waveform's largest magnitudes in equal stretches, over the largest of all."""
    wave = np.abs(audio.read(path, PICTURE_RATE))
    edges = np.linspace(0, len(wave), min(POINTS, len(wave)) + 1).astype(int)
    found = np.array([wave[a:b].max(initial=0.0) for a, b in pairwise(edges)])
    return [round(float(value), 3) for value in found / max(float(found.max(initial=0.0)), 1e-9)]


def told(said: Prediction) -> str:
    """The verdict about a recording, with how sure it is: a probability, or the share of the time."""
    if said.segments is not None:
        long: dict[str, float] = {}
        for start, end, name in said.segments:
            long[name] = long.get(name, 0.0) + end - start
        whole = max(float(said.end[-1]), 1e-9)
        order = sorted(long, key=lambda name: -long[name])[:4]
        shares = [
            f"{name} ({long[name] / whole:.0%}{'' if place else ' of the time'})" for place, name in enumerate(order)
        ]
        return ", ".join(shares) or "nothing"
    if said.times is not None:
        return f"{len(said.times)} beats" + ("" if said.tempo is None else f", {said.tempo:.1f} bpm")
    if said.values is not None:
        return said.label
    pairs = said.ranked(None if said.label_kind.several else 1)[:6]
    return ", ".join(f"{name} ({value:.0%})" for name, value in pairs) or "nothing above its threshold"


def _sure(said: Prediction) -> list[tuple[str, float]]:
    """The likeliest names of a verdict about the whole recording, with their probabilities."""
    return [] if said.times is not None or said.segments is not None else said.ranked(SURE)


def _sortable(said: Prediction) -> str:
    """What the table sorts by: a number, or the words."""
    if said.values is not None:
        return f"{said.values.mean():.6f}"
    return told(said) if said.tempo is None else f"{said.tempo:.3f}"


def lanes(said: Prediction) -> list[Lane]:
    """What was heard over time: chords and events as they begin and end, beats as ticks, others by their windows.

    One answer for the whole recording is a verdict and no lane.
    """
    if said.segments is not None and said.label_kind.exclusive:
        spans = [Span(a, b, 1.0, name, chord_colour(name)) for a, b, name in said.segments]
        return [Lane(said.kind, spans, named=True)]
    if said.segments is not None:
        names = sorted({name for _, _, name in said.segments})
        return [Lane(name, [Span(a, b, 0.8, name) for a, b, one in said.segments if one == name]) for name in names]
    if said.times is not None:
        bars = said.positions if said.positions is not None else np.zeros(len(said.times), int)
        spans = [
            Span(float(t), float(t), 1.0 if p == 1 else 0.45, f"beat {p}" if p else "beat")
            for t, p in zip(said.times, bars)
        ]
        return [Lane(said.kind, spans, ticks=True)]
    over = said.windows if said.windows is not None else said
    if len(over.start) < 2:
        return []
    if over.probabilities is None:
        return _numbers(over)
    over = _thinned(over)
    assert over.probabilities is not None
    order = np.argsort(-over.probabilities.max(0))[:LANES]
    return [
        Lane(over.names[i], [Span(float(a), float(b), float(p), f"{over.names[i]} {p:.0%}")
                             for a, b, p in zip(over.start, over.end, over.probabilities[:, i])])
        for i in order
    ]  # fmt: skip


def _thinned(over: Prediction) -> Prediction:
    """At most MOST units: neighbours become one, each name with the highest probability that it had there."""
    assert over.probabilities is not None
    if len(over.start) <= MOST:
        return over
    first = np.linspace(0, len(over.start), MOST + 1).astype(int)[:-1]
    last = np.append(first[1:], len(over.start)) - 1
    likely = np.maximum.reduceat(over.probabilities, first)
    return replace(over, start=over.start[first], end=over.end[last], probabilities=likely)


def chord_colour(name: str) -> str:
    """A hue by the root's place on the circle of fifths, so that near chords look alike; minor is darker, N is empty.

    name: such as C:maj, F#:min7 or Bb; the hue of what isn't named after a pitch is drawn from its letters.
    """
    found = re.match(r"([A-G])([#b]*)(?::(\w+))?(?:/.*)?$", name)
    if found is None:
        return "transparent" if name in ("", "N", "X") else f"hsl({crc32(name.encode()) % 360} 50% 72%)"
    root = PITCHES[found[1]] + found[2].count("#") - found[2].count("b")
    minor = (found[3] or "").startswith(("min", "dim", "hdim"))
    return f"hsl({30 * (7 * root % 12)} {45 if minor else 70}% {62 if minor else 76}%)"


def _numbers(over: Prediction) -> list[Lane]:
    assert over.values is not None
    found = []
    for column, name in enumerate(over.names):
        row = over.values[:, column]
        low, size = float(row.min()), max(float(np.ptp(row)), 1e-9)
        spans = [Span(float(a), float(b), 0.15 + 0.8 * (float(v) - low) / size, f"{name} {v:.3g}")
                 for a, b, v in zip(over.start, over.end, row)]  # fmt: skip
        found.append(Lane(name, spans))
    return found
