"""What no learning reaches: a constant, statistics of a log-mel spectrogram, a random copy of the same encoder."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from nnAudio.features.cqt import CQT1992v2
from torch import Tensor

from ...data.track import Manifest
from ...models.cqt import LogCQT
from ...models.encoder import Encoder, calibrate_batch_norm, random_copy
from ...models.frontends import mel_filterbank
from ..fit import Choice, Outcome
from ..task import Task

CALIBRATION_CLIPS = 64
CALIBRATION_SECONDS = 5.0


def constant(task: Task) -> Outcome:
    """The best answer that doesn't listen: the commonest class, the key with the best mean score, shares of tags, mean
    numbers.

    All learned on each fold's training tracks.
    """
    guesses, choices = [], []
    for fold in task.folds:
        targets = task.targets[fold.train]
        answer = task.label_kind.constant(targets, task.classes)
        guesses.append(np.tile(answer, (len(fold.test), 1)))
        choices.append(Choice(-1, float("nan"), float("nan")))
    rows = np.concatenate([fold.test for fold in task.folds])
    return Outcome(rows, task.targets[rows], np.concatenate(guesses), tuple(choices), ())


class LogMelBaseline:
    """A log-mel spectrogram in an encoder's clothes: 24 kHz, 128 mel bands up to 12 kHz, 50 frames per second, one
    layer.
    """

    sample_rate = 24_000
    dim = 128
    layers = 1
    window = 1024
    hop = 480
    frame_rate = 50.0
    fingerprint = "log-mel, 24000 Hz, 128 HTK bands, window 1024, hop 480, log(power + 1e-5), version 1"

    def __init__(self) -> None:
        self.bands = mel_filterbank(self.sample_rate, self.window, self.dim)

    def valid_frames(self, valid: Tensor) -> Tensor:
        """valid: [batch] samples -> [batch] frames whose middle lies in them."""
        return torch.div(valid - 1, self.hop, rounding_mode="floor") + 1

    def hidden_states(self, waveform: Tensor, valid: Tensor | None = None, sample_rate: int | None = None) -> Tensor:
        """waveform: [batch, samples] -> [batch, 1, frames, 128] log energies."""
        if sample_rate not in (None, self.sample_rate):
            raise ValueError(f"The log-mel baseline hears {self.sample_rate} Hz, not {sample_rate}.")
        hann = torch.hann_window(self.window, device=waveform.device)
        padded = torch.nn.functional.pad(
            waveform, (self.window // 2, self.window // 2)
        )  # zeros: a clip ends in silence
        spectrum = torch.stft(padded, self.window, self.hop, window=hann, center=False, return_complex=True)
        energy = rearrange(
            spectrum.abs().square(), "batch frequencies frames -> batch frames frequencies"
        ) @ self.bands.to(waveform.device)
        frames = int(self.valid_frames(torch.tensor([waveform.shape[1]]))[0])
        return (energy + 1e-5).log()[:, None, :frames]


class LogCqtBaseline:
    """The log-CQT that the small encoders see, untrained: 24 kHz, 24 bins per octave over 8 octaves, 25 frames/s."""

    sample_rate = 24_000
    hop = 960
    frame_rate = 25.0
    dim = 192
    layers = 1
    fingerprint = "log-CQT, 24000 Hz, 8 octaves of 24 bins from 27.5 Hz, hop 960, log(1 + 100 magnitude), version 1"

    def __init__(self) -> None:
        self.cqt = LogCQT(self.sample_rate, self.hop)

    def transform(self, waveform: Tensor) -> Tensor:
        """[batch, samples] -> [batch, frames, 192]."""
        found: Tensor = self.cqt.to(waveform.device)(waveform)
        return found

    def valid_frames(self, valid: Tensor) -> Tensor:
        """valid: [batch] samples -> [batch] frames whose samples all lie in them, at least one."""
        return torch.div(valid, self.hop, rounding_mode="floor").clamp_min(1)

    def hidden_states(self, waveform: Tensor, valid: Tensor | None = None, sample_rate: int | None = None) -> Tensor:
        """waveform: [batch, samples] -> [batch, 1, frames, 192]; padding changes nothing in valid frames."""
        if sample_rate not in (None, self.sample_rate):
            raise ValueError(f"The log-CQT baseline hears {self.sample_rate} Hz, not {sample_rate}.")
        missing = max(0, self.hop - waveform.shape[1])
        return self.transform(torch.nn.functional.pad(waveform, (0, missing)))[:, None]


class NnAudioCqtBaseline(LogCqtBaseline):
    """The same bins by nnAudio's CQT1992v2 (Cheuk et al. 2020), whose kernels are whole numbers of samples long."""

    fingerprint = "log-CQT by nnAudio, 24000 Hz, 8 octaves of 24 bins from 27.5 Hz, hop 960, log(1 + 100 m), version 1"

    def __init__(self) -> None:
        self.layer = CQT1992v2(
            sr=self.sample_rate, hop_length=self.hop, fmin=27.5, n_bins=self.dim, bins_per_octave=24, norm=1,
            window="hann", center=True, pad_mode="constant", verbose=False,
        )  # fmt: skip

    def transform(self, waveform: Tensor) -> Tensor:
        """[batch, samples] -> [batch, frames, 192]; nnAudio's frames lie on samples k · hop, ours half a hop later."""
        late = torch.nn.functional.pad(waveform, (self.hop // 2, 0))
        magnitude: Tensor = self.layer.to(waveform.device)(late)[..., 1 : 1 + waveform.shape[1] // self.hop]
        return torch.log1p(100 * rearrange(magnitude, "batch bins frames -> batch frames bins"))


def untrained(encoder: Encoder, task: Task, seed: int, device: str) -> Encoder:
    """A copy of the encoder with fresh weights, its batch norm calibrated on training clips of the task."""
    copy = random_copy(encoder, seed)
    calibrate_batch_norm(copy, training_clips(task.manifest, task.folds[0].train, encoder.sample_rate, seed, device))
    return copy


def training_clips(
    manifest: Manifest, rows: npt.NDArray[np.int64], sample_rate: int, seed: int, device: str
) -> Iterator[Tensor]:
    """The middles of some training tracks, in batches of one length: [batch, samples]."""
    chosen = np.random.default_rng(seed).permutation(rows)[:CALIBRATION_CLIPS]
    samples = round(CALIBRATION_SECONDS * sample_rate)
    batch = torch.zeros(len(chosen), samples)
    for number, row in enumerate(np.sort(chosen)):
        track = manifest[int(row)]
        start = max(0, (round(track.seconds * sample_rate) - samples) // 2)
        waveform = manifest.read(int(row), sample_rate, start, samples)
        batch[number] = torch.from_numpy(np.resize(waveform, samples).copy())  # a short note is repeated, not padded
    yield from batch.to(device).split(16)
