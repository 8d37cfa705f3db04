"""Hand-crafted baselines in an encoder's clothes: MFCC, chroma, and the features of Tzanetakis and Cook.

MFCC and chroma frames carry the value with its first and second difference; pooled as mean and standard deviation they
are the moments that jukemir compares with (Castellon et al. 2021, section 4.2): 120 and 72 numbers per clip.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt
import torch
import torchaudio.functional as AF
from einops import rearrange, reduce
from scipy import fft, signal
from torch import Tensor

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
FRAMES = 256  # whose correlations are in memory at a time
ONE_POLE = np.array([[0.01, 0.0, 0.0, 1.0, -0.99, 0.0]])


class _Descriptor:
    """22,050 Hz, one layer, frames of `hop` samples around their middles."""

    sample_rate, layers, hop = 22_050, 1, 512
    frame_rate = sample_rate / hop
    dim = 0
    fingerprint = ""

    def valid_frames(self, valid: Tensor) -> Tensor:
        """valid: [batch] samples -> [batch] frames whose middle lies in them."""
        return torch.div((valid - 1).clamp_min(0), self.hop, rounding_mode="floor") + 1

    def hidden_states(self, waveform: Tensor, valid: Tensor | None = None, sample_rate: int | None = None) -> Tensor:
        """waveform: [batch, samples] -> [batch, 1, frames, dim] float32; each clip is described without its padding."""
        if sample_rate not in (None, self.sample_rate):
            raise ValueError(f"This baseline hears {self.sample_rate} Hz, not {sample_rate}.")
        lengths = [waveform.shape[1]] * len(waveform) if valid is None else [int(samples) for samples in valid]
        frames = self.valid_frames(torch.tensor(lengths))
        result = torch.zeros(len(waveform), 1, int(frames.max()), self.dim)
        clips = [waveform[row, :samples].cpu() for row, samples in enumerate(lengths)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # filters and transforms leave Python's lock
            for row, found in enumerate(pool.map(self.describe, clips)):
                kept = found[: int(frames[row])]  # a last one lies past the end
                result[row, 0, : len(kept)] = kept
        return result.to(waveform.device)

    def describe(self, waveform: Tensor) -> Tensor:
        """waveform: [samples] -> [frames, dim]."""
        raise NotImplementedError


def with_differences(values: Tensor) -> Tensor:
    """[frames, bins] -> [frames, 3 bins]: with first and second differences, the first of each being 0."""
    first = torch.diff(values, dim=0, prepend=values[:1])
    second = torch.diff(first, dim=0, prepend=first[:1])
    return torch.cat([values, first, second], 1)


class Mfcc(_Descriptor):
    """20 MFCC as librosa computes them: 2,048-sample Hann windows, 128 Slaney mel bands, dB over a floor of 80 dB."""

    dim = 60
    window = 2048
    fingerprint = "MFCC 20 with two differences, 22050 Hz, window 2048, hop 512, 128 Slaney bands, version 1"

    @cached_property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        bands = AF.melscale_fbanks(
            self.window // 2 + 1, 0.0, self.sample_rate / 2, 128, self.sample_rate, norm="slaney", mel_scale="slaney"
        )
        return bands, AF.create_dct(20, 128, norm="ortho"), torch.hann_window(self.window)

    def coefficients(self, waveform: Tensor) -> Tensor:
        """waveform: [samples] -> [frames, 20]."""
        bands, cosines, hann = self._parts
        spectrum = torch.stft(
            waveform, self.window, self.hop, window=hann, center=True, pad_mode="constant", return_complex=True
        )
        energy = spectrum.abs().square().T @ bands
        decibels = 10 * torch.log10(energy.clamp_min(1e-10))
        return torch.maximum(decibels, decibels.max() - 80) @ cosines

    def describe(self, waveform: Tensor) -> Tensor:
        return with_differences(self.coefficients(waveform))


class Chroma(_Descriptor):
    """Twelve pitch classes: constant-Q magnitudes of seven octaves from C1 (32.7 Hz), folded, peak 1.

    Three bins per semitone, weighed as by librosa (white noise gives a flat spectrum). From one octave to the lower one
    the sound is halved in rate, so that the same 36 kernels serve all.
    """

    dim = 36
    fingerprint = "chroma of a 7-octave CQT from C1 with two differences, 22050 Hz, hop 512, version 2"
    octaves, bins, lowest = 7, 36, 32.7032

    @cached_property
    def _kernels(self) -> Tensor:
        """[taps, 72]: cosines and sines of the highest octave's bins under Hann windows."""
        frequencies = self.lowest * 2 ** (self.octaves - 1 + torch.arange(self.bins) / self.bins)
        lengths = self.sample_rate / frequencies / (2 ** (1 / self.bins) - 1)
        taps = 2 * math.ceil(float(lengths.max()) / 2) + 1
        time = torch.arange(taps) - taps // 2
        window = torch.cos(torch.pi * time[:, None] / lengths).square() * (time[:, None].abs() < lengths / 2)
        window = window / window.sum(0) * lengths.sqrt()
        phase = 2 * torch.pi * time[:, None] * frequencies / self.sample_rate
        return torch.cat([window * phase.cos(), window * phase.sin()], 1)

    def semitones(self, waveform: Tensor) -> Tensor:
        """waveform: [samples] -> [frames, 84] magnitudes of the semitones from C1, three bins around each summed."""
        frames = int(self.valid_frames(torch.tensor([len(waveform)]))[0])
        kernels, octaves = self._kernels, []
        for octave in range(self.octaves):
            half, hop = len(kernels) // 2, self.hop >> octave
            padded = torch.nn.functional.pad(waveform, (half, half + hop))
            real, imaginary = (padded.unfold(0, len(kernels), hop)[:frames] @ kernels).chunk(2, 1)
            magnitudes = torch.hypot(real, imaginary) * 2 ** (octave / 2)  # kernels twice as long, per octave
            octaves.append(reduce(magnitudes.roll(1, 1), "frames (classes bins) -> frames classes", "sum", bins=3))
            waveform = AF.resample(waveform, 2, 1)
        return torch.cat(octaves[::-1], 1)

    def folded(self, semitones: Tensor) -> Tensor:
        """[frames, 84] semitones -> [frames, 12] classes, C first, peak 1; a silent frame is 0."""
        folded = sum(semitones.split(12, 1)[::-1], torch.zeros(len(semitones), 12))
        peak = folded.amax(1, keepdim=True)
        return folded / torch.where(peak > 1e-8, peak, torch.ones_like(peak))

    def classes(self, waveform: Tensor) -> Tensor:
        """waveform: [samples] -> [frames, 12], C first; a silent frame is 0."""
        return self.folded(self.semitones(waveform))

    def describe(self, waveform: Tensor) -> Tensor:
        return with_differences(self.classes(waveform))


class Tzanetakis(_Descriptor):
    """The 30 numbers of Tzanetakis and Cook 2002, Musical Genre Classification of Audio Signals, sections III-A to C.

    Timbre (19): means and variances over texture windows of 1 s of centroid, roll-off, flux, zero crossings and five
    MFCC, and the share of frames of low energy. Rhythm (6): the beat histogram's two highest peaks. Pitch (5): the
    folded and unfolded pitch histograms. One frame describes a whole clip (30 s in the paper). Octave bands stand in
    for the paper's wavelets.
    """

    dim = 30
    _mfcc = Mfcc()
    fingerprint = "Tzanetakis and Cook 2002, 19 timbral, 6 rhythmic, 5 pitch, 22050 Hz, version 1"
    frame_rate = 1 / 30

    def valid_frames(self, valid: Tensor) -> Tensor:
        """One frame per clip, however long."""
        return torch.ones_like(valid)

    def describe(self, waveform: Tensor) -> Tensor:
        sound = waveform.double().numpy()
        sound = np.pad(sound, (0, max(0, 2 * self.sample_rate - len(sound))))
        coefficients = self._mfcc.coefficients(torch.from_numpy(sound).float()).double().numpy()[:, 1:6]
        parts = [
            timbre(sound, self.sample_rate, coefficients),
            rhythm(sound, self.sample_rate),
            pitch(sound, self.sample_rate),
        ]
        return torch.from_numpy(np.concatenate(parts)).float()[None]


def timbre(sound: Array, rate: int, mfcc: Array) -> Array:
    """[19] numbers of a clip. sound: [samples]; mfcc: [frames, 5] at a hop of 512 samples, without the zeroth."""
    size = 512
    frames = rearrange(sound[: len(sound) // size * size], "(frames samples) -> frames samples", samples=size)
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1))
    total = spectrum.sum(1) + 1e-12
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    centroid = spectrum @ frequencies / total
    rolloff = frequencies[np.argmax(np.cumsum(spectrum, 1) >= 0.85 * total[:, None], axis=1)]
    share = spectrum / total[:, None]
    flux = np.concatenate([[0.0], np.square(np.diff(share, axis=0)).sum(1)])
    crossings = (np.diff(np.signbit(frames), axis=1)).sum(1) / size
    energy = np.sqrt(np.square(frames).mean(1))
    mfcc = np.resize(mfcc, (len(frames), 5)) if len(mfcc) < len(frames) else mfcc[: len(frames)]
    columns = np.column_stack([centroid, rolloff, flux, crossings, mfcc])
    texture = max(1, round(rate / size))  # frames in 1 s
    windows = max(1, len(frames) // texture)
    cut = [slice(k * texture, (k + 1) * texture) for k in range(windows)]
    means = np.mean([columns[part].mean(0) for part in cut], axis=0)
    variances = np.mean([columns[part].var(0) for part in cut], axis=0)
    low = np.mean([(energy[part] < energy[part].mean()).mean() for part in cut])
    return np.concatenate([means[:4], variances[:4], [low], means[4:], variances[4:]])


def beat_histogram(sound: Array, rate: int) -> Array:
    """Strength of each tempo, [201] for 0 to 200 bpm (40 and more are filled): section III-B of the paper.

    Windows of 65,536 samples, half overlapping; in each, the envelopes of octave bands are summed and autocorrelated,
    and the three highest peaks add their height.
    """
    size = min(65_536, len(sound))
    step = 16
    envelope = np.sum([_envelope(band, step) for band in _octaves(sound, rate)], axis=0)
    slow = rate / step
    histogram = np.zeros(201)
    width = size // step
    for start in range(0, max(1, len(envelope) - width + 1), max(1, width // 2)):
        part = envelope[start : start + width] - np.mean(envelope[start : start + width])
        correlation = signal.correlate(part, part, method="fft")[len(part) - 1 :]
        if correlation[0] <= 1e-12:
            continue
        correlation = _enhanced(correlation / correlation[0])
        first, last = int(slow * 60 / 200), min(len(correlation) - 2, int(slow * 60 / 40))
        places, _ = signal.find_peaks(correlation[: last + 1])
        places = places[places >= first]
        for place in places[np.argsort(correlation[places])[::-1][:3]]:
            histogram[round(60 * slow / place)] += correlation[place]
    return histogram


def _octaves(sound: Array, rate: int) -> list[Array]:
    """Octave bands below the Nyquist rate, the lowest reaching down to 0 Hz."""
    return [signal.sosfilt(sections, sound) for sections in _octave_filters(rate)]


@cache
def _octave_filters(rate: int) -> list[Array]:
    top, filters = rate / 2, []
    for _ in range(6):
        low = top / 2
        filters.append(signal.butter(2, [low, 0.99 * top], "bandpass", fs=rate, output="sos"))
        top = low
    return [*filters, signal.butter(2, top, "lowpass", fs=rate, output="sos")]


def _envelope(band: Array, step: int) -> Array:
    """Rectified, smoothed by a one-pole low-pass (0.99), thinned to every `step`-th sample, without its mean."""
    smooth = signal.sosfilt(ONE_POLE, np.abs(band))[::step]
    return np.asarray(smooth - smooth.mean())


def _enhanced(correlation: Array) -> Array:
    """[…, lags] without the peaks at multiples of a period (Tolonen and Karjalainen 2000): clipped at 0, its stretched
    copies taken away.
    """
    result = np.maximum(correlation, 0)
    lags = np.arange(result.shape[-1])
    for factor in range(2, 9):
        whole, part = lags // factor, lags % factor / factor
        low = result[..., whole]
        rise = result[..., np.minimum(whole + 1, lags[-1])] - low
        result = np.maximum(result - (low + part * rise), 0)
    return np.asarray(result)


def _highest(correlation: Array, first: int, last: int, most: int = 3) -> tuple[Places, Places]:
    """The highest peaks of each row of [rows, lags] among the lags `first` to `last`: their rows and lags, each row's
    highest first. A peak is above both neighbours, or the middle of a plateau that is.
    """
    inner = correlation[:, 1:-1]
    peaks = np.zeros(correlation.shape, dtype=bool)
    peaks[:, 1:-1] = (inner > correlation[:, :-2]) & (inner > correlation[:, 2:])
    flat = ((correlation[:, 1:] == correlation[:, :-1]) & (correlation[:, 1:] > 0)).any(1)
    for row in np.flatnonzero(flat):  # hardly ever: equal neighbours
        peaks[row] = False
        peaks[row, signal.find_peaks(correlation[row])[0]] = True
    peaks[:, :first], peaks[:, last + 1 :] = False, False
    heights = np.where(peaks, correlation, -np.inf)
    places = np.argsort(heights, axis=1)[:, ::-1][:, :most]
    rows = np.repeat(np.arange(len(places)), places.shape[1])
    places = places.ravel()
    real = peaks[rows, places]
    return rows[real], places[real]


def rhythm(sound: Array, rate: int) -> Array:
    """[6] A0, A1 (shares of the two highest peaks), RA (second over first), P1, P2 (their tempo in bpm), SUM."""
    histogram = beat_histogram(sound, rate)
    smooth = np.convolve(histogram, [0.25, 0.5, 1.0, 0.5, 0.25], "same")
    total = float(smooth.sum())
    if total <= 0:
        return np.zeros(6)
    first = int(smooth.argmax())
    rest = smooth.copy()
    rest[max(0, first - 4) : first + 5] = 0
    second = int(rest.argmax())
    a, b = smooth[first] / total, rest[second] / total
    return np.array([a, b, b / a, first, second if b > 0 else 0, float(histogram.sum())])


def pitch_histogram(sound: Array, rate: int) -> Array:
    """[128] strength of each MIDI note: section III-C, after the multipitch analysis of Tolonen and Karjalainen 2000.

    Frames of 1,024 samples' hop and 2,048 window; the channel above 1 kHz is rectified and smoothed, both channels'
    compressed autocorrelations (magnitude to the power 0.67) are summed and enhanced, three peaks add their height.
    """
    low = signal.sosfilt(signal.butter(2, 1000, "lowpass", fs=rate, output="sos"), sound)
    high = signal.sosfilt(signal.butter(2, 1000, "highpass", fs=rate, output="sos"), sound)
    high = signal.sosfilt(signal.butter(2, 1000, "lowpass", fs=rate, output="sos"), np.maximum(high, 0))
    size, hop = 2048, 1024
    histogram = np.zeros(128)
    shortest, longest = int(rate / 1500), int(rate / 50)
    starts = np.arange(0, len(sound) - size + 1, hop)
    loudest = float(np.abs(sound).max(initial=0.0))
    level = np.abs(np.lib.stride_tricks.sliding_window_view(sound, size)[starts]).max(1)
    starts = starts[level >= 1e-3 * max(loudest, 1e-9)]
    window = np.hanning(size)
    for some in np.split(starts, range(FRAMES, len(starts), FRAMES)):
        spectra = np.zeros((len(some), size + 1))
        for part in (low, high):
            spectrum = fft.rfft(np.lib.stride_tricks.sliding_window_view(part, size)[some] * window, 2 * size)
            power = spectrum.real**2 + spectrum.imag**2
            spectra += np.exp(0.335 * np.log(np.maximum(power, 1e-300)))  # magnitudes to the power 0.67
        correlation = fft.irfft(spectra)[:, : longest + 2]
        correlation = correlation[correlation[:, 0] > 1e-12]
        correlation = _enhanced(correlation / correlation[:, :1])
        rows, places = _highest(correlation, shortest, longest)
        notes = np.round(12 * np.log2(rate / places / 440) + 69).astype(int)
        inside = (notes >= 0) & (notes < 128)
        np.add.at(histogram, notes[inside], correlation[rows[inside], places[inside]])
    return histogram


def pitch(sound: Array, rate: int) -> Array:
    """[5] FA0 (share of the strongest pitch class), UP0 (strongest note, MIDI), FP0 (strongest class on the circle of
    fifths, 0 to 11), IPO1 (fifths between the two strongest classes), SUM.
    """
    notes = pitch_histogram(sound, rate)
    total = float(notes.sum())
    if total <= 0:
        return np.zeros(5)
    folded = np.zeros(12)
    np.add.at(folded, (7 * np.arange(128)) % 12, notes)
    first, second = (int(place) for place in np.argsort(folded)[::-1][:2])
    return np.array([folded[first] / total, int(notes.argmax()), first, (second - first) % 12, total / len(notes)])
