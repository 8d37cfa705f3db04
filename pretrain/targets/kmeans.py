"""k-means ids of log-mel and chroma frames: MERT-v0's acoustic teacher (300 clusters of 229 mels, 200 of 264 chroma).

The paper joins both into 60,000 classes; here they are two codebooks, whose cross entropies are summed.
`groundbass data kmeans MANIFEST OUT` fits the centres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from ...data.crops import CropConfig, Crops
from ...data.loader import loader
from ...data.open import open_sound
from ...data.writing import written
from ...models.encoder import usual_device
from ...models.frontends import LogMel
from ...models.transformer import time_mask
from ...progress import trange
from .codes import CodeHead, CodeHeadSettings
from .target import FrameGrid, Target

WINDOW, MELS, CHROMA = 4096, 229, 264


@dataclass(frozen=True)
class KMeansSettings:
    """The k-means target of a recipe."""

    weight: float = 0.0
    """Weight of the summed cross entropy; 0 turns the target off."""
    path: str | None = None
    """File that `groundbass data kmeans` wrote."""
    head: CodeHeadSettings = field(default_factory=CodeHeadSettings)

    def build(self, grid: FrameGrid, dim: int) -> KMeansTarget:
        """Build the target for an encoder's frame grid and width."""
        return KMeansTarget(self, grid, dim)


class KMeansFeatures(nn.Module):
    """Log-mel [.., 229] in dB and chroma [.., 264] with unit maximum, frame k centred on sample k × hop."""

    filters: Tensor

    def __init__(self, grid: FrameGrid) -> None:
        super().__init__()
        self.grid = grid
        self.log_mel = LogMel(grid.sample_rate, WINDOW, grid.hop, MELS)
        self.register_buffer("filters", chroma_filters(grid.sample_rate, WINDOW, CHROMA), persistent=False)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both of [batch, samples] in [-1, 1]: [batch, samples // hop, 229] and […, 264]."""
        with torch.autocast(waveform.device.type, enabled=False):
            mel: Tensor = self.log_mel(waveform)
            spectrum = torch.stft(
                waveform.float(),
                WINDOW,
                self.grid.hop,
                window=self.log_mel.window,
                pad_mode="constant",
                return_complex=True,
            )
            power = spectrum.real.square() + spectrum.imag.square()
            chroma = rearrange(self.filters @ power, "batch pitches frames -> batch frames pitches")[:, : mel.shape[1]]
            return mel, chroma / chroma.amax(-1, keepdim=True).clamp(min=1e-8)


def chroma_filters(sample_rate: int, window: int, bins: int) -> Tensor:
    """Weights [bins, window // 2 + 1] from an FFT to pitch classes, bin 0 at C: librosa's `filters.chroma` (Ellis).

    Each FFT bin is a Gaussian bump around its pitch class, as wide as its neighbours are apart; octaves far from
    A440's (5 above C0) count less.
    """
    frequency = torch.arange(1, window, dtype=torch.float64) * sample_rate / window
    pitch = bins * torch.log2(frequency / (440 / 16))
    pitch = torch.cat([pitch[:1] - 1.5 * bins, pitch])  # the lowest bin lies 1.5 octaves below the next
    width = torch.cat([(pitch[1:] - pitch[:-1]).clamp(min=1), torch.ones(1, dtype=torch.float64)])
    distance = pitch - torch.arange(bins, dtype=torch.float64)[:, None]
    half = round(bins / 2)
    distance = torch.remainder(distance + half + 10 * bins, bins) - half
    weights = torch.exp(-0.5 * (2 * distance / width) ** 2)
    weights = weights / weights.norm(dim=0).clamp(min=1e-12)
    weights = weights * torch.exp(-0.5 * ((pitch / bins - 5) / 2) ** 2)
    weights = weights.roll(-3 * (bins // 12), 0)  # from A to C
    return weights[:, : window // 2 + 1].float().contiguous()


class KMeansTarget(Target):
    """Predict the nearest centre of a frame's log-mel and of its chroma."""

    def __init__(self, settings: KMeansSettings, grid: FrameGrid, dim: int) -> None:
        super().__init__()
        self.name, self.weight = "kmeans", settings.weight
        self._tables = load_centres(settings.path, grid)
        self._features = (KMeansFeatures(grid),)  # in a tuple, out of parameters and state_dict
        sizes = (len(self._tables["mel"]), len(self._tables["chroma"]))
        self.head = CodeHead(dim, sizes, settings.head, self.name)

    @torch.no_grad()
    def targets(self, waveform: Tensor, starts: Tensor, keys: list[str]) -> Tensor:
        """Assign frames of clean sound to centres: int64 [batch, samples // hop, 2]."""
        mel, chroma = self._features[0](waveform)
        tables = self._tables
        mel = (mel - tables["mean"]) / tables["deviation"]
        return torch.stack([_nearest(mel, tables["mel"]), _nearest(chroma, tables["chroma"])], -1)

    def place(self, device: torch.device) -> None:
        """Move features and centres."""
        self._features[0].to(device)
        self._tables = {name: table.to(device) for name, table in self._tables.items()}


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return (centres.square().sum(1) - 2 * points @ centres.T).argmin(-1)


def load_centres(path: str | None, grid: FrameGrid) -> dict[str, Tensor]:
    """Read what `kmeans` wrote: mel [clusters, 229] (standardised), chroma [clusters, 264], mean and deviation [229].

    Raises:
        ValueError: no file is named or there is none, or it was fitted for other frames.

    """
    if path is None or not Path(path).is_file():
        raise ValueError(
            f"The k-means target needs fitted centres, but kmeans.path is {path!r}: fit them with "
            "`groundbass data kmeans MANIFEST OUT`."
        )
    with safe_open(path, framework="pt") as file:
        fitted = file.metadata() or {}
        tables = {name: file.get_tensor(name) for name in ("mel", "chroma", "mean", "deviation")}
    expected = {"sample_rate": str(grid.sample_rate), "hop": str(grid.hop)}
    if fitted != expected:
        raise ValueError(
            f"The k-means centres in {path} were fitted for {fitted}, the encoder has {expected}: fit them again with "
            f"--sample-rate {grid.sample_rate} --hop {grid.hop}."
        )
    return tables


def kmeans(
    manifest: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    *,
    sample_rate: int = 24_000,
    hop: int = 320,
    mel_clusters: int = 300,
    chroma_clusters: int = 200,
    steps: int = 200,
    batch_size: int = 32,
    seed: int = 0,
    device: str | None = None,
) -> dict[str, Any]:
    """Fit k-means centres of log-mel and chroma frames by mini-batches, for the `kmeans` target.

    Args:
        manifest: what to fit on, as `groundbass pretrain --data` takes it.
        out: file to write (safetensors).
        sample_rate: of the encoder, Hz.
        hop: samples per encoder frame.
        mel_clusters: centres of the log-mel frames.
        chroma_clusters: centres of the chroma frames.
        steps: mini-batches.
        batch_size: five-second crops per mini-batch.
        seed: of crops and centres.
        device: cpu, cuda, cuda:1; a GPU where there is one: of log-mel and chroma, the centres are fitted on the CPU.
    """
    counts = {
        "mel-clusters": mel_clusters,
        "chroma-clusters": chroma_clusters,
        "steps": steps,
        "batch-size": batch_size,
    }
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"--{name} {value} must be at least 1.")
    grid = FrameGrid(sample_rate, hop)
    place = torch.device(usual_device(device))
    features = KMeansFeatures(grid).to(place)
    crops = Crops(open_sound(manifest), CropConfig(sample_rate=sample_rate, crop_samples=5 * sample_rate), seed)
    batches = loader(crops, batch_size, workers=0)
    mel_fit = MiniBatchKMeans(mel_clusters, random_state=seed, n_init=1)
    chroma_fit = MiniBatchKMeans(chroma_clusters, random_state=seed, n_init=1)
    mean, deviation = torch.zeros(MELS), torch.ones(MELS)
    for step in trange(steps, desc="kmeans"):
        batch = next(batches)
        waveform, valid = batch.by_view()
        mel, chroma = (found.cpu() for found in features(waveform.to(place)))
        inside = time_mask(valid // hop, mel.shape[1])
        mel, chroma = mel[inside], chroma[inside]
        if step == 0:
            mean, deviation = mel.mean(0), mel.std(0).clamp(min=1.0)
            if len(mel) < max(mel_clusters, chroma_clusters):
                raise ValueError(
                    f"A mini-batch has {len(mel)} frames for {max(mel_clusters, chroma_clusters)} centres: "
                    "raise --batch-size or take more audio."
                )
        mel_fit.partial_fit(((mel - mean) / deviation).numpy())
        chroma_fit.partial_fit(chroma.numpy())
    tables = {
        "mel": torch.from_numpy(np.asarray(mel_fit.cluster_centers_, np.float32)),
        "chroma": torch.from_numpy(np.asarray(chroma_fit.cluster_centers_, np.float32)),
        "mean": mean,
        "deviation": deviation,
    }
    with written(out) as beside:
        save_file(tables, beside, metadata={"sample_rate": str(sample_rate), "hop": str(hop)})
    bits = math.log2(mel_clusters) + math.log2(chroma_clusters)
    print(f"{out}: {mel_clusters} log-mel and {chroma_clusters} chroma centres (at most {bits:.1f} bits per frame).")
    return {"out": out, "mel_clusters": mel_clusters, "chroma_clusters": chroma_clusters, "bits_per_frame": bits}
