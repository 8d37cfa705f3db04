"""The page of `groundbass predict --page`: players, the sound's picture, and what was heard over time as lanes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ...data.audio import read as audio
from ...data.writing import write_text
from ..pages.render import render
from .classify import Prediction

POINTS = 800  # of a waveform's picture
LANES = 8  # of a head: its likeliest names
PICTURE_RATE = 4000  # Hz that the picture is read at


@dataclass(frozen=True)
class Lane:
    """A row over time. spans: start and end in s, a share of darkness, and what to say of it; ticks: without length;
    named: what to say is written into them.
    """

    name: str
    spans: list[tuple[float, float, float, str]]
    ticks: bool = False
    named: bool = False


def write_page(place: Path, results: dict[str, dict[str, Prediction]]) -> None:
    """One page for all recordings; it names the audio by its path relative to the page."""
    place.parent.mkdir(parents=True, exist_ok=True)
    recordings = [_recording(place, path, found) for path, found in results.items()]
    heads = list(dict.fromkeys(name for found in results.values() for name in found))
    write_text(place, render("predict.html", recordings=recordings, heads=heads))


def _recording(place: Path, path: str, found: dict[str, Prediction]) -> dict[str, Any]:
    seconds = max(float(said.end[-1]) for said in found.values())
    relative = Path(os.path.relpath(Path(path).resolve(), place.parent.resolve())).as_posix()
    return {
        "name": Path(path).name,
        "source": quote(relative),
        "seconds": round(seconds, 3),
        "peaks": peaks(path),
        "verdicts": [{"head": name, "told": told(said), "value": _sortable(said)} for name, said in found.items()],
        "lanes": [
            {"head": name, "name": lane.name, "ticks": lane.ticks, "named": lane.named, "spans": lane.spans}
            for name, said in found.items() for lane in lanes(said)
        ],
    }  # fmt: skip


def peaks(path: str) -> list[float]:
    """The waveform's largest magnitudes in equal stretches, over the largest of all."""
    wave = np.abs(audio.read(path, PICTURE_RATE))
    edges = np.linspace(0, len(wave), min(POINTS, len(wave)) + 1).astype(int)
    found = np.array([wave[a:b].max(initial=0.0) for a, b in pairwise(edges)])
    return [round(float(value), 3) for value in found / max(float(found.max(initial=0.0)), 1e-9)]


def told(said: Prediction) -> str:
    """The verdict about a recording, with how sure it is."""
    if said.segments is not None:
        long: dict[str, float] = {}
        for start, end, name in said.segments:
            long[name] = long.get(name, 0.0) + end - start
        first = sorted(long, key=lambda name: -long[name])[:4]
        return "mostly " + ", ".join(first) if first else "nothing"
    if said.times is not None:
        return f"{len(said.times)} beats" + ("" if said.tempo is None else f", {said.tempo:.1f} bpm")
    if said.values is not None:
        return said.label
    pairs = said.ranked(None if said.label_kind.several else 1)[:6]
    return ", ".join(f"{name} ({value:.0%})" for name, value in pairs) or "nothing above its threshold"


def _sortable(said: Prediction) -> str:
    """What the table sorts by: a number, or the words."""
    if said.values is not None:
        return f"{said.values.mean():.6f}"
    return told(said) if said.tempo is None else f"{said.tempo:.3f}"


def lanes(said: Prediction) -> list[Lane]:
    """What was heard over time: chords and events as they begin and end, beats as ticks, others by their windows."""
    if said.segments is not None and said.label_kind.exclusive:
        return [Lane(said.kind, [(a, b, 0.35, name) for a, b, name in said.segments], named=True)]
    if said.segments is not None:
        names = sorted({name for _, _, name in said.segments})
        return [Lane(name, [(a, b, 0.8, name) for a, b, one in said.segments if one == name]) for name in names]
    if said.times is not None:
        bars = said.positions if said.positions is not None else np.zeros(len(said.times), int)
        spans = [
            (float(t), float(t), 1.0 if p == 1 else 0.45, f"beat {p}" if p else "beat")
            for t, p in zip(said.times, bars)
        ]
        return [Lane(said.kind, spans, ticks=True)]
    over = said.windows if said.windows is not None else said
    if over.probabilities is None:
        return _numbers(over)
    order = np.argsort(-over.probabilities.max(0))[:LANES]
    return [
        Lane(over.names[i], [(float(a), float(b), float(p), f"{over.names[i]} {p:.0%}")
                             for a, b, p in zip(over.start, over.end, over.probabilities[:, i])])
        for i in order
    ]  # fmt: skip


def _numbers(over: Prediction) -> list[Lane]:
    assert over.values is not None
    found = []
    for column, name in enumerate(over.names):
        row = over.values[:, column]
        low, size = float(row.min()), max(float(np.ptp(row)), 1e-9)
        spans = [(float(a), float(b), 0.15 + 0.8 * (float(v) - low) / size, f"{name} {v:.3g}")
                 for a, b, v in zip(over.start, over.end, row)]  # fmt: skip
        found.append(Lane(name, spans))
    return found
