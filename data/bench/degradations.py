"""Crops/s of every degradation on one core, and of a chain of five against audiomentations where it is installed."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..augment.degradations import KINDS, DegradationChain, chain_of

RATE, CROPS, SAMPLES = 22_050, 32, 59_049
NEEDS: dict[str, dict[str, Any]] = {
    "mix": {"path": "synth:dust"},
    "impulse_response": {"path": "synth:hall"},
    "clipping": {"percent_samples": 1},
    "delay": {"samples": 1000},
}
FIVE: list[dict[str, Any]] = [
    {"name": "noise", "snr": [5, 40]},
    {"name": "gain", "volume": [-12, 12]},
    {"name": "low_pass", "cutoff": [1000, 7500]},
    {"name": "equalizer", "frequency": [100, 5000], "gain": [-12, 12]},
    {"name": "clipping", "percent_samples": [0.1, 5]},
]
PEER = "audiomentations"  # installed for this row alone: pip install audiomentations

Figure = tuple[str, float, str | None, float | None]


def figures() -> list[Figure]:
    """(what, crops/s, reference, ratio); seconds are this thread's, so what else the machine does counts less."""
    sound = 0.1 * torch.randn(CROPS, SAMPLES, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found: list[Figure] = []
        for name in KINDS:
            speed = _ours(chain_of([{"name": name, **NEEDS.get(name, {})}]), sound, rounds=2)
            found.append((f"degradation {name}", speed(), None, None))
        return [*found, _against_peer(sound)]
    finally:
        torch.set_num_threads(threads)


def _ours(chain: DegradationChain, sound: Tensor, rounds: int) -> Callable[[], float]:
    chain(sound, RATE, torch.arange(CROPS))  # rooms and files are loaded

    def speed() -> float:
        began = time.thread_time()
        for number in range(rounds):
            chain(sound, RATE, torch.arange(CROPS) + CROPS * number)
        return rounds * CROPS / (time.thread_time() - began)

    return speed


def _against_peer(sound: Tensor) -> Figure:
    """The five, in turns with the same five of the peer, one crop after the other."""
    ours = _ours(chain_of(FIVE), sound, rounds=2)
    try:
        theirs = _peer(sound.numpy())
    except ImportError:
        return "chain of five", median(ours() for _ in range(5)), f"{PEER} isn't installed", None
    pairs = [(ours(), theirs()) for _ in range(5)]
    reference = f"{PEER}, the same five crop by crop: {median(pair[1] for pair in pairs):.0f} crops/s"
    return "chain of five", median(pair[0] for pair in pairs), reference, median(a / b for a, b in pairs)


def _peer(sound: Any) -> Callable[[], float]:
    peer: Any = importlib.import_module(PEER)
    chain = peer.Compose(
        [
            peer.AddColorNoise(min_snr_db=5, max_snr_db=40, min_f_decay=-3.01, max_f_decay=-3.01, p=1.0),
            peer.Gain(min_gain_db=-12, max_gain_db=12, p=1.0),
            peer.LowPassFilter(min_cutoff_freq=1000, max_cutoff_freq=7500, min_rolloff=12, max_rolloff=12, p=1.0),
            peer.PeakingFilter(min_center_freq=100, max_center_freq=5000, min_gain_db=-12, max_gain_db=12, p=1.0),
            peer.ClippingDistortion(min_percentile_threshold=0, max_percentile_threshold=5, p=1.0),
        ]
    )
    chain(np.array(sound[0]), RATE)

    def speed() -> float:
        began = time.thread_time()
        for crop in sound[:16]:
            chain(crop, RATE)
        return 16 / (time.thread_time() - began)

    return speed
