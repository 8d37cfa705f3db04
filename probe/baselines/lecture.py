"""The classic pipeline's features, all of them: what a course on music information retrieval computes by hand.

Per frame of 2,048 samples, every 512 at 22,050 Hz: the shape of the spectrum (centroid, bandwidth, skewness, kurtosis,
roll-off, contrast, flatness, entropy, flux), zero crossings, RMS, the share of quiet frames around, 20 MFCC, 12 chroma
classes, 84 semitones of a CQT and the tempogram in 16 bands of tempo; per clip the six numbers of the beat histogram.
Formulas are librosa's where it has the feature; the sources are Tzanetakis and Cook 2002 (low energy, beat histogram),
Jiang et al. 2002 (contrast), Grosche et al. 2010 (tempogram) and Peeters 2004 (moments, entropy).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .hand_crafted import Chroma, Mfcc, _Descriptor, rhythm

Array = npt.NDArray[np.float64]
WINDOW, HOP, RATE = 2048, 512, 22_050
TINY = 1e-10
TEMPO_FRAMES = 384  # of a tempogram's window: 8.9 s
TEMPI = np.geomspace(40.0, 320.0, 17)  # edges of its bands, beats per minute
SHAPE = ("centroid", "bandwidth", "skewness", "kurtosis", "roll-off")
REST = ("flatness", "entropy", "flux", "zero crossings", "RMS", "low energy")
BEATS = ("first beat's share", "second beat's share", "second over first", "first tempo", "second tempo", "beat sum")
NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def magnitudes(sound: Array) -> Array:
    """[frames, bins] of a Hann window's transform, zeros beyond the ends."""
    spectrum = torch.stft(
        torch.from_numpy(sound), WINDOW, HOP, window=torch.hann_window(WINDOW, dtype=torch.float64), center=True,
        pad_mode="constant", return_complex=True,
    )  # fmt: skip
    return np.asarray(spectrum.abs().T.numpy())


def shape(spectrum: Array, hertz: Array) -> Array:
    """[frames, 5]: centroid and bandwidth (Hz), skewness and kurtosis of the spectrum as a distribution, and the
    frequency below which 85 % of it lies.
    """
    total = spectrum.sum(1, keepdims=True)
    share = spectrum / np.where(total > TINY, total, 1.0)
    centroid = share @ hertz
    away = hertz[None] - centroid[:, None]
    width = np.sqrt((share * away**2).sum(1))
    safe = np.where(width > TINY, width, 1.0)
    skew, peaked = ((share * away**order).sum(1) / safe**order for order in (3, 4))
    rolled = hertz[np.argmax(np.cumsum(spectrum, 1) >= 0.85 * total, axis=1)]
    return np.column_stack([centroid, width, skew, peaked, rolled])


def contrast(spectrum: Array, hertz: Array, lowest: float = 200.0, bands: int = 6, share: float = 0.02) -> Array:
    """[frames, bands + 1] dB between the loudest and the quietest `share` of each octave's bins."""
    edges = np.concatenate([[0.0], lowest * 2.0 ** np.arange(bands + 1)])
    high, low = np.zeros((2, bands + 1, len(spectrum)))
    for number, (below, above) in enumerate(pairwise(edges)):
        inside = (hertz >= below) & (hertz <= above)
        places = np.flatnonzero(inside)
        if number > 0:
            inside[places[0] - 1] = True
        if number == bands:
            inside[places[-1] + 1 :] = True
        count = max(1, int(np.rint(share * inside.sum())))
        part = np.sort(spectrum[:, inside][:, : -1 if number < bands else None], axis=1)
        low[number], high[number] = part[:, :count].mean(1), part[:, -count:].mean(1)
    return np.asarray(_decibels(high) - _decibels(low)).T


def _decibels(values: Array) -> Array:
    level = 10 * np.log10(np.maximum(values, TINY))
    return np.maximum(level, level.max() - 80)


def flatness(spectrum: Array) -> Array:
    """[frames] geometric over arithmetic mean of the power: 1 for white noise, near 0 for tones."""
    power = np.maximum(spectrum**2, TINY)
    return np.asarray(np.exp(np.log(power).mean(1)) / power.mean(1))


def entropy(spectrum: Array) -> Array:
    """[frames] of the spectrum as a distribution, over its greatest: 1 for a flat one, 0 for a single bin."""
    share = spectrum / np.maximum(spectrum.sum(1, keepdims=True), TINY)
    return np.asarray(-(share * np.log(np.maximum(share, TINY))).sum(1) / np.log(spectrum.shape[1]))


def flux(spectrum: Array) -> Array:
    """[frames] squared distance to the frame before, each spectrum's sum being 1; 0 for the first."""
    share = spectrum / np.maximum(spectrum.sum(1, keepdims=True), TINY)
    return np.concatenate([[0.0], np.square(np.diff(share, axis=0)).sum(1)])


def onset_strength(spectrum: Array) -> Array:
    """[frames] mean rise of the magnitudes in dB, half-wave rectified."""
    rise = np.diff(_decibels(spectrum**2), axis=0)
    return np.concatenate([[0.0], np.maximum(rise, 0).mean(1)])


def zero_crossings(sound: Array, frames: int) -> Array:
    """[frames] share of samples at which the sign changes; beyond the ends the edges go on."""
    padded = np.pad(sound, WINDOW // 2, mode="edge")
    padded = np.where(np.abs(padded) <= TINY, 0.0, padded)
    changed = np.concatenate([[0], np.cumsum(np.diff(np.signbit(padded)))])
    first = np.arange(frames) * HOP
    return (changed[first + WINDOW - 1] - changed[first]) / WINDOW


def root_mean_square(sound: Array, frames: int) -> Array:
    """[frames], zeros beyond the ends."""
    summed = np.concatenate([[0.0], np.cumsum(np.pad(sound, WINDOW // 2) ** 2)])
    first = np.arange(frames) * HOP
    return np.asarray(np.sqrt(np.maximum(summed[first + WINDOW] - summed[first], 0) / WINDOW))


def low_energy(level: Array, around: int = round(RATE / HOP)) -> Array:
    """[frames] share of the frames of the second around whose RMS lies below that second's mean."""
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(level, (around // 2, around - 1 - around // 2), "edge"), around
    )
    return np.asarray((windows < windows.mean(1, keepdims=True)).mean(1))


def tempogram(onsets: Array, frames: int = TEMPO_FRAMES) -> Array:
    """[frames of sound, lags] local autocorrelation of the onsets under a Hann window, its greatest being 1."""
    padded = np.pad(onsets, frames // 2, mode="linear_ramp", end_values=0)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frames) / frames)
    parts = np.lib.stride_tricks.sliding_window_view(padded, frames)[: len(onsets)] * window
    correlation = np.fft.irfft(np.abs(np.fft.rfft(parts, 2 * frames)) ** 2)[:, :frames]
    top = np.abs(correlation).max(1, keepdims=True)
    return np.asarray(correlation / np.where(top > TINY, top, 1.0))


def tempi(onsets: Array) -> Array:
    """[frames, 16] the tempogram's mean in bands of tempo from 40 to 320 bpm."""
    lags = tempogram(onsets)
    bpm = 60 * RATE / HOP / np.maximum(np.arange(lags.shape[1]), 1e-3)
    bands = [(bpm >= low) & (bpm < high) for low, high in pairwise(TEMPI)]
    return np.column_stack([lags[:, band].mean(1) if band.any() else np.zeros(len(lags)) for band in bands])


class Lecture(_Descriptor):
    """All of it in an encoder's clothes; `names` says what each number is."""

    names = (
        *SHAPE,
        *(f"contrast {number}" for number in range(7)),
        *REST,
        *(f"MFCC {number}" for number in range(20)),
        *(f"chroma {note}" for note in NOTES),
        *(f"CQT {NOTES[number % 12]}{number // 12 + 1}" for number in range(84)),
        *(f"tempogram {low:.0f}-{high:.0f} bpm" for low, high in pairwise(TEMPI)),
        *BEATS,
    )
    dim = len(names)
    fingerprint = "the classic pipeline's features, 22050 Hz, window 2048, hop 512, version 1"

    def describe(self, waveform: Tensor) -> Tensor:
        sound = waveform.double().numpy()
        spectrum, hertz = magnitudes(sound), np.fft.rfftfreq(WINDOW, 1 / RATE).astype(np.float64)
        frames = int(self.valid_frames(torch.tensor([len(sound)]))[0])
        spectrum = spectrum[:frames]
        level = root_mean_square(sound, frames)
        semitones = Chroma().semitones(waveform)
        beats = rhythm(np.pad(sound, (0, max(0, 2 * RATE - len(sound)))), RATE)
        columns = [
            shape(spectrum, hertz), contrast(spectrum, hertz), flatness(spectrum), entropy(spectrum), flux(spectrum),
            zero_crossings(sound, frames), level, low_energy(level), Mfcc().coefficients(waveform).numpy()[:frames],
            Chroma().folded(semitones).numpy(), np.log1p(100 * semitones.numpy()), tempi(onset_strength(spectrum)),
            np.tile(beats, (frames, 1)),
        ]  # fmt: skip
        return torch.from_numpy(np.column_stack(columns)).float()
