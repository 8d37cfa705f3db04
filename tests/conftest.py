"""Synthesised sound with known truth, as fixtures that are functions: `note(69)`, `chord("A minor")`, `sweep()`, …

Every function returns a float32 waveform [samples] in [-1, 1]; `sample_rate` is 22,050 Hz unless told.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

# librosa's compiled kernels are cached beside librosa: two test processes that write there at once leave a file that
# crashes whoever loads it (seen with `pytest -n 2`). Each process gets a folder of its own, before librosa is imported.
os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="groundbass-numba-")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests' tensors are small: threads cost more than they bring

import numpy as np
import numpy.typing as npt
import pytest

atexit.register(shutil.rmtree, os.environ["NUMBA_CACHE_DIR"], ignore_errors=True)

Waveform = npt.NDArray[np.float32]
PITCH_CLASSES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


def synthesise_tone(
    frequency: float, seconds: float, sample_rate: int, harmonics: int = 6, level: float = 0.3
) -> Waveform:
    """Harmonics at 1/n with a 5 ms attack and release; those above 0.45 of the sample rate are left out."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    sound = np.zeros_like(time)
    for n in range(1, harmonics + 1):
        if n * frequency < 0.45 * sample_rate:
            sound += np.sin(2 * np.pi * n * frequency * time) / n
    edge = np.minimum(1.0, np.minimum(time, seconds - time) / 0.005)
    return (level * sound / 1.6 * np.clip(edge, 0, 1)).astype(np.float32)


def synthesise_note(midi: float, seconds: float = 1.0, sample_rate: int = 22050, harmonics: int = 6) -> Waveform:
    """A harmonic tone at MIDI pitch `midi` (69 is 440 Hz; fractions are allowed)."""
    return synthesise_tone(440.0 * 2 ** ((midi - 69) / 12), seconds, sample_rate, harmonics)


def synthesise_chord(key: str, seconds: float = 1.0, sample_rate: int = 22050) -> Waveform:
    """The tonic triad of `key` ("C major", "Db minor"; sharps and flats) around middle C."""
    parsed = re.fullmatch(r"([A-G])([#b]?) (major|minor)", key)
    if parsed is None:
        raise ValueError(f"{key!r} is no key: write a letter, '#' or 'b' if need be, and major or minor")
    letter, accidental, mode = parsed.groups()
    root = 60 + (PITCH_CLASSES[letter] + {"": 0, "#": 1, "b": -1}[accidental]) % 12
    third = 4 if mode == "major" else 3
    return (sum(synthesise_note(root + step, seconds, sample_rate) for step in (0, third, 7)) / np.float32(3)).astype(
        np.float32
    )


def synthesise_clicks(bpm: float, seconds: float = 4.0, sample_rate: int = 22050, offset: float = 0.0) -> Waveform:
    """10 ms bursts of 2 kHz at `offset`, `offset` + 60 / bpm, … seconds."""
    sound = np.zeros(round(seconds * sample_rate), dtype=np.float32)
    burst = np.arange(round(0.01 * sample_rate)) / sample_rate
    burst = (0.8 * np.sin(2 * np.pi * 2000 * burst) * np.exp(-burst / 0.002)).astype(np.float32)
    for onset in np.arange(offset, seconds, 60.0 / bpm):
        start = round(onset * sample_rate)
        sound[start : start + len(burst)] += burst[: max(0, len(sound) - start)]
    return sound


def synthesise_sweep(
    low: float = 50.0, high: float = 9000.0, seconds: float = 2.0, sample_rate: int = 22050, level: float = 0.5
) -> Waveform:
    """A sine whose frequency rises exponentially from `low` to `high` Hz."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    growth = np.log(high / low) / seconds
    phase = 2 * np.pi * low * (np.exp(growth * time) - 1) / growth
    return (level * np.sin(phase)).astype(np.float32)


def invent_labels(number: int, seconds: float = 7.0) -> dict[str, Any]:
    """Labels of a track of every kind that objectives learn from; every fourth track has but one of them."""
    beat = 0.4 + 0.05 * (number % 4)
    beats = np.arange(0.1, seconds, beat).round(4).tolist()
    half = round(seconds / 2, 3)
    labels: dict[str, Any] = {
        "genre": ("rock", "jazz", "folk")[number % 3],
        "tempo": 60.0 / beat,
        "beats": beats,
        "downbeats": beats[::4],
        "chords": [{"start": 0.0, "end": half, "label": "C:maj"}, {"start": half, "end": seconds, "label": "A:min7"}],
        "tags": ["loud", ("fast", "slow")[number % 2]] if number % 3 else ["quiet"],
    }
    return {"genre": labels["genre"]} if number % 4 == 3 else labels


@pytest.fixture(scope="session")
def note() -> Callable[..., Waveform]:
    """`note(midi, seconds=1.0, sample_rate=22050, harmonics=6)`."""
    return synthesise_note


@pytest.fixture(scope="session")
def chord() -> Callable[..., Waveform]:
    """`chord(key, seconds=1.0, sample_rate=22050)`, e.g. `chord("Eb minor")`."""
    return synthesise_chord


@pytest.fixture(scope="session")
def clicks() -> Callable[..., Waveform]:
    """`clicks(bpm, seconds=4.0, sample_rate=22050, offset=0.0)`."""
    return synthesise_clicks


@pytest.fixture(scope="session")
def sweep() -> Callable[..., Waveform]:
    """`sweep(low=50.0, high=9000.0, seconds=2.0, sample_rate=22050, level=0.5)`."""
    return synthesise_sweep


@pytest.fixture(scope="session")
def labels_of() -> Callable[..., dict[str, Any]]:
    """`labels_of(number, seconds=7.0)`."""
    return invent_labels


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Tests marked `gpu` are skipped where there is none."""
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
