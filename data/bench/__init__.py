"""How fast `data` is, each number against a reference measured in the same run."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children
from pathlib import Path
from statistics import median
from typing import TypedDict

import numpy as np
import soundfile as sf
import torch
from torch import Tensor
from torchaudio import functional

from ..audio.read import write
from ..augment.chain import clmr_chain
from ..collections.scan import scan_folder
from ..crops import CropConfig, Crops
from ..loader import loader as load
from ..track import Manifest
from . import degradations
from .corpora import corpus_figures, million_figures, overlap_figures

BENCH_AUDIO = "GROUNDBASS_BENCH_AUDIO"  # a folder of audio to measure on, instead of synthesised files


class Row(TypedDict):
    """One measurement: `ratio` is our speed over the reference's, None without a reference."""

    what: str
    value: float
    unit: str
    reference: str | None
    ratio: float | None


def loader() -> list[Row]:
    """Crops/s of the loader over a bare soundfile read of the same seconds, and the memory that an epoch leaves.

    Two processes in both. Row `loader`: files at the crops' rate; row `loader_resampled`: files at twice the rate.
    """
    with tempfile.TemporaryDirectory() as folder:
        manifest = _bench_manifest(Path(folder))
        rate = Counter(manifest.column("sample_rate").tolist()).most_common(1)[0][0]
        kept = manifest.select(np.flatnonzero(manifest.column("sample_rate") == rate))
        return [
            _loader_row("loader", kept, rate),
            _loader_row("loader_resampled", kept, rate // 2),
            _memory_row(kept, rate),
        ]


def data() -> list[Row]:
    """Scanning, sharding, reading from shards, fingerprints and their look-up, and a manifest of a million rows."""
    with tempfile.TemporaryDirectory() as folder:
        figures = corpus_figures(_bench_manifest(Path(folder)))
    figures += overlap_figures() + million_figures()
    return [Row(what=w, value=v, unit=u, reference=reference, ratio=ratio) for w, v, u, reference, ratio in figures]


def _bench_manifest(folder: Path) -> Manifest:
    """24 FLAC files of 20 s, 22,050 Hz: tones in noise, so that they compress as music does; or the user's folder."""
    if BENCH_AUDIO in os.environ:
        return scan_folder(os.environ[BENCH_AUDIO])[0]
    time_axis = np.arange(20 * 22050) / 22050
    for n in range(24):
        rng = np.random.default_rng(n)
        tones = sum(np.sin(2 * np.pi * f * time_axis) for f in rng.uniform(80, 4000, 6))
        write(folder / f"{n}.flac", 0.1 * tones + 0.02 * rng.standard_normal(len(time_axis)), 22050)
    return scan_folder(folder, progress=False)[0]


def _loader_row(what: str, manifest: Manifest, sample_rate: int, workers: int = 2, batch_size: int = 32) -> Row:
    """The best of five rounds, as timeit has it: other programs only slow down. Both read at the same places."""
    crops = Crops(manifest, CropConfig(sample_rate, round(2.678 * sample_rate), epoch="duration"), seed=0)
    steps = 10
    ours, bare = [], []
    for n in range(5):
        batches = load(crops, batch_size, workers=workers, first_step=n * steps)
        for _ in range(workers):
            next(batches)  # all workers are up
        began = time.perf_counter()
        for _ in range(steps):
            next(batches)
        ours.append(steps * batch_size / (time.perf_counter() - began))
        batches.close()
        bare.append(_bare_speed(crops, batch_size, range(n * steps, n * steps + steps), workers))
    best, reference_best = max(ours), max(bare)
    reference = f"bare soundfile read of the same seconds in {workers} processes: {reference_best:.0f} crops/s"
    return Row(what=what, value=best, unit="crops/s", reference=reference, ratio=best / reference_best)


def _bare_speed(crops: Crops, batch_size: int, steps: range, workers: int) -> float:
    """Crops/s of open, seek, read, close, and nothing else."""
    wanted = []
    for step in steps:
        indices = step * batch_size + np.arange(batch_size)
        for index, row in zip(indices.tolist(), crops.rows_at(indices).tolist(), strict=True):
            track = crops.manifest[row]
            length = int(crops.lengths[np.searchsorted(crops.tracks, row)])
            start = int(crops.starts(*divmod(index, crops.epoch_length), length)[0])
            scale = track.sample_rate / crops.config.sample_rate
            count = min(crops.config.crop_samples, length - start)
            wanted.append((str(crops.manifest.path_of(track)), round(start * scale), round(count * scale)))
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(_bare_read, wanted[: 2 * workers]))  # processes are up
        began = time.perf_counter()
        list(pool.map(_bare_read, wanted, chunksize=batch_size))
        return len(wanted) / (time.perf_counter() - began)


def _bare_read(where: tuple[str, int, int]) -> int:
    path, start, samples = where
    with sf.SoundFile(path) as file:
        file.seek(start)
        return len(file.read(samples, dtype="float32"))


def _memory_row(manifest: Manifest, sample_rate: int, workers: int = 2) -> Row:
    """Resident memory of this process and the workers, after 16 batches against after 48."""
    crops = Crops(manifest, CropConfig(sample_rate, round(2.678 * sample_rate)), seed=0)
    batches = load(crops, 32, workers=workers)
    resident = []
    for steps in (16, 32):
        for _ in range(steps):
            next(batches)
        resident.append(_resident())
    batches.close()
    growth = resident[1] - resident[0]
    return Row(what="memory_growth", value=growth, unit="MiB over 1,024 crops", reference=None, ratio=None)


def _resident() -> float:
    """MiB of private memory of this process and its children; Linux counts it in /proc."""
    total = 0
    for process in [os.getpid(), *(child.pid for child in active_children())]:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_Dirty"):
                total += int(line.split()[1])
    return total / 1024


PEER_CROPS = 30.0  # a second: torchaudio-augmentations with WavAugment's sox, 33 ms per crop on one core; a constant


def augment() -> list[Row]:
    """Crops/s of CLMR's published chain on one core: batches of 48 crops of 59,049 samples at 22,050 Hz.

    Row `chain`: against the peer's speed, a constant. Row `per_item`: against the same chain item by item with
    torchaudio, in turns with ours. Then each degradation, and a chain of five against audiomentations.

    Seconds are this thread's CPU time, so what else the machine does counts less.
    """
    chain, threads = clmr_chain(22050), torch.get_num_threads()
    waveform = 0.1 * torch.randn(48, 59049, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(1)
    try:
        chain(waveform, torch.arange(48))
        ours, theirs = [], []
        for n in range(5):
            began = time.thread_time()
            for batch in (2 * n, 2 * n + 1):
                chain(waveform, torch.arange(48 * batch, 48 * batch + 48))
            ours.append(96 / (time.thread_time() - began))
            began = time.thread_time()
            for item in range(16):
                _torchaudio_chain(waveform[item : item + 1], np.random.default_rng((n, item)))
            theirs.append(16 / (time.thread_time() - began))
    finally:
        torch.set_num_threads(threads)
    ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
    peer = f"peer's {PEER_CROPS:.0f} crops/s, a constant"
    torchaudio = f"the same chain item by item with torchaudio: {median(theirs):.0f} crops/s"
    speed = median(ours)
    return [
        Row(what="chain", value=speed, unit="crops/s", reference=peer, ratio=speed / PEER_CROPS),
        Row(what="per_item", value=speed, unit="crops/s", reference=torchaudio, ratio=ratio),
        *(Row(what=w, value=v, unit="crops/s", reference=r, ratio=x) for w, v, r, x in degradations.figures()),
    ]


def _torchaudio_chain(waveform: Tensor, rng: np.random.Generator, sample_rate: int = 22050) -> Tensor:
    """CLMR's chain for one crop [1, samples], from what torchaudio offers, with the same probabilities and ranges."""
    samples = waveform.shape[1]
    if rng.random() < 0.8:
        waveform = -waveform
    if rng.random() < 0.01:
        waveform = waveform + torch.randn_like(waveform) * waveform.std() * rng.uniform(1e-4, 1e-2)
    if rng.random() < 0.3:
        waveform = functional.gain(waveform, rng.uniform(-20, -1))
    if rng.random() < 0.8:
        if rng.random() < 0.5:
            waveform = functional.highpass_biquad(waveform, sample_rate, rng.uniform(200, 1200))
        else:
            waveform = functional.lowpass_biquad(waveform, sample_rate, rng.uniform(2200, 4000))
    if rng.random() < 0.3:
        offset = int(rng.integers(4, 10)) * sample_rate // 20
        echo = torch.nn.functional.pad(waveform, (offset, 0))[:, :samples]
        waveform = (waveform + 0.5 * echo) / 2
    if rng.random() < 0.6:
        waveform = _torchaudio_pitch(waveform, int(rng.integers(-700, 701)), sample_rate)
    if rng.random() < 0.6:
        decay = torch.exp(torch.arange(sample_rate) * (-6.9 / sample_rate / rng.uniform(0.1, 1)))
        response = torch.randn(1, sample_rate) * decay * 0.05
        waveform = waveform + functional.fftconvolve(waveform, response)[:, :samples]
    return waveform


def _torchaudio_pitch(waveform: Tensor, cents: int, sample_rate: int, fft_size: int = 1024) -> Tensor:
    """As torchaudio's `pitch_shift`, but with the rate rounded to 0.2 %: for some its resampler takes over a minute."""
    samples, hop = waveform.shape[1], fft_size // 4
    faster = 50 * round(sample_rate * 2 ** (cents / 1200) / 50)
    window = torch.hann_window(fft_size)
    spectrum = torch.stft(waveform, fft_size, hop, window=window, return_complex=True)
    advance = torch.linspace(0, np.pi * hop, fft_size // 2 + 1)[:, None]
    stretched = functional.phase_vocoder(spectrum, sample_rate / faster, advance)
    longer = torch.istft(stretched, fft_size, hop, window=window, length=round(samples * faster / sample_rate))
    shifted = functional.resample(longer, faster, sample_rate)
    return torch.nn.functional.pad(shifted, (0, samples))[:, :samples]
