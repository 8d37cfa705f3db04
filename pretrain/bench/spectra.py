"""Our spectrograms against nnAudio's, on this machine's device."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from ...models.frontends import LogMel, TrainedLogMel
from ..objectives.parts.trained_kernels import NnAudioLogMel
from ..targets.cqt import CQT, NnAudioCQT
from .parts import Row, row

RATE, HOP, SECONDS, CLIPS = 24_000, 320, 5, 2


def rows() -> list[Row]:
    """The rows of `bench spectra`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    draw = torch.Generator().manual_seed(0)
    waveform = 0.1 * torch.randn(CLIPS, SECONDS * RATE, generator=draw).to(device)
    own, theirs = CQT(RATE, HOP), NnAudioCQT(RATE, HOP)
    with torch.no_grad():
        ours, other = _seconds(lambda: own(waveform)), _seconds(lambda: theirs(waveform))
    name = f"s for {CLIPS} clips of {SECONDS} s"
    found = [row("cqt", ours, name, "nnAudio's CQT1992v2", other / ours)]
    fixed, kernels = LogMel(RATE).to(device), TrainedLogMel(RATE).to(device)
    library = NnAudioLogMel(kernels, RATE).to(device)

    def trained(layer: TrainedLogMel) -> Callable[[], Tensor]:
        def step() -> Tensor:
            value: Tensor = layer(waveform).mean()
            value.backward()
            return value

        return step

    mel = _seconds(lambda: fixed(waveform))
    ours, other = _seconds(trained(kernels)), _seconds(trained(library))
    found.append(row("mel", mel, name))
    found.append(row("trained_mel", ours, f"{name}, forward and backward", "nnAudio's MelSpectrogram", other / ours))
    return found


def _seconds(call: Callable[[], Tensor], turns: int = 3) -> float:
    """The median of some turns after a first."""
    taken = []
    for turn in range(turns + 1):
        began = time.perf_counter()
        found = call()
        if found.is_cuda:
            torch.cuda.synchronize(found.device)
        if turn:
            taken.append(time.perf_counter() - began)
    return median(taken)
