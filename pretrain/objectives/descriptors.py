"""Descriptors: tell of hidden and heard frames what signal processing says of them, by a linear map of the last layer.

PASE (Pascual et al. 2019, arXiv:1904.03416; for music Wu et al. 2021, arXiv:2102.03229) has an encoder predict several
hand-crafted descriptions of its own input at once. Here the encoder is a `CqtModel`, whose input is a pair of pictures:
spans of frames are hidden, and workers predict at every frame the log-CQT, its pitch classes, the log-mel, onsets and a
local tempogram. All of them are computed from the pictures that the encoder hears anyway, so they cost next to nothing.

    groundbass pretrain descriptors.pase_tiny --data MANIFEST --run RUN
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.crops import CropConfig
from ...data.draws import draw_seeds, sent
from ...models.cqt import CqtConfig, CqtModel, standardise
from ...models.transformer import time_mask
from ..clock import section
from ..objective import Loss, Objective, ObjectiveConfig
from ..recipe import Optim, Recipe
from ..targets.first_crops import first_crops
from .masked import gradient_shares
from .parts.cqt_shape import CqtShape
from .parts.descriptions import DESCRIPTIONS, Pictures, size_of
from .parts.masking import Masking, taken, true_places
from .parts.picture_augment import PictureAugment, change, moves, played

if TYPE_CHECKING:
    from pathlib import Path

    from ...data.batch import Batch
    from ...data.track import Manifest

MASK, PICTURES = 111, 112  # streams of draws
ONSET_BANDS = 3
LAGS = (0.2, 2.0)
"""Seconds: the shortest and longest distance in time that a tempogram compares."""
MEASURED = 128
"""Crops of five seconds by which descriptions are standardised."""
LARGEST = 4.0
"""Deviations from the mean beyond which a description counts no more."""
LAG_STEP = 2
"""Columns of the log-mel (20 ms each at 25 Hz) between two lags."""


@dataclass(frozen=True)
class Workers:
    """How much each description counts; the mean square of what is wanted is about 1 for each. 0 leaves it out."""

    cqt: float = 1.0
    """every row of the log-CQT"""
    chroma: float = 1.0
    """its magnitudes folded into one octave"""
    mel: float = 0.5
    """the log-mel spectrogram, at twice the frame rate"""
    onsets: float = 0.5
    """rises of the log-mel in a low, a middle and a high band"""
    tempogram: float = 0.5
    """how alike the onsets around a frame are to themselves, 0.2 to 2 s later"""
    cepstra: float = 0.0
    """of the log-mel, their mean and deviation over seconds"""
    harmony: float = 0.0
    """pitch classes of seconds, likeness to 24 keys and 24 triads"""
    pitch: float = 0.0
    """semitones that explain what sounds as their harmonics"""
    modulation: float = 0.0
    """how strongly bands, level and pitch swing at 2 to 8.5 Hz"""
    texture: float = 0.0
    """contrast, steadiness, centroid, spread, flatness and flux of the spectrum"""
    metre: float = 0.0
    """where beats lie, by combs on onsets and on changes of harmony"""

    def __post_init__(self) -> None:
        """Something is to be told."""
        weights = dataclasses.astuple(self)
        if min(weights) < 0 or not any(weights):
            raise ValueError(f"The workers' weights are {weights}: at least 0 each, and one of them above.")


@dataclass(frozen=True)
class DescriptorConfig(ObjectiveConfig):
    """What is hidden, what is told."""

    network: CqtShape = field(default_factory=CqtShape)
    """the encoder; it needs a rhythm picture (mel_bins)"""
    workers: Workers = field(default_factory=Workers)
    masking: Masking = field(default_factory=lambda: Masking(coverage=0.4))
    """which frames are hidden; their sound is replaced by an embedding after the stem"""
    unmasked_weight: float = 0.5
    """what a frame that is heard counts, against 1 for a hidden one"""
    principal: int = 0
    """crops whose columns' principal axes become the stem ("patches"), which then stays; 0: the stem is learned"""
    pictures: PictureAugment = field(default_factory=PictureAugment)
    """transposition, speed and colour; descriptions move with the first two, and know nothing of the colour"""
    share_every: int = 50
    """steps between measurements of each worker's share of the gradient"""

    def __post_init__(self) -> None:
        """Refuse what can't be learned."""
        if not self.network.mel_bins:
            raise ValueError("network.mel_bins is 0, but onsets and the log-mel are told from that picture: take 81.")
        if self.masking.fill != "embedding":
            raise ValueError("masking.fill is noise, but the pictures have no waveform to fill: take embedding.")
        if self.unmasked_weight < 0:
            raise ValueError(f"unmasked_weight is {self.unmasked_weight}: at least 0.")
        if self.principal and self.network.stem != "patches":
            raise ValueError("principal needs network.stem patches: a stem of convolutions has no axes to choose.")

    def build(self) -> Descriptors:
        """Draw fresh weights."""
        return Descriptors(self)


class Descriptors(Objective):
    """The sum over workers of weight × mean square error, at hidden frames and less at heard ones.

    The loss's weight is the number of hidden frames, so that micro-batches and ranks combine exactly.
    """

    encoder: CqtModel

    def __init__(self, config: DescriptorConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.network.build()
        shape = self.encoder.config
        sizes = {
            "cqt": shape.seen_bins, "chroma": 12, "mel": 2 * shape.mel_bins, "onsets": 2 * ONSET_BANDS,
            "tempogram": len(lags(shape.frame_rate)), **{name: size_of(name, shape) for name in DESCRIPTIONS},
        }  # fmt: skip
        self.weights = {name: weight for name, weight in dataclasses.asdict(config.workers).items() if weight > 0}
        self.workers = nn.ModuleDict({name: nn.Linear(shape.hidden_size, sizes[name]) for name in self.weights})
        for name in self._measured:
            self.register_buffer(f"{name}_scale", torch.tensor([0.0, 1.0])[:, None].repeat(1, sizes[name]))
        if config.principal:
            self.encoder.patches.project.requires_grad_(False)
            self.fixed = ("patches.project.weight", "patches.project.bias")

    @property
    def _measured(self) -> list[str]:
        """Descriptions that are standardised number by number, by what the first crops measure."""
        return [name for name in DESCRIPTIONS if name in self.weights]

    @torch.no_grad()
    def prepare(self, manifest: Manifest, run: Path) -> None:
        """Measure the descriptions and find the stem's principal axes, on the first crops of the run.

        A run that goes on has both in its checkpoint, which is loaded after this; a stem that came from elsewhere with
        axes of its own keeps them.
        """
        principal = 0 if self.config.principal and self.encoder.patches.follows else self.config.principal
        count = max(MEASURED if self._measured else 0, principal)
        if not count:
            return
        encoder = self.encoder
        batch = first_crops(manifest, encoder.config.sample_rate, count, self.seed)
        waveform, valid = batch.by_view()
        parts = [encoder.pictures(part) for part in waveform.split(16)]
        cqt = encoder.crop(torch.cat([part for part, _ in parts]), None)
        mel = torch.cat([part for _, part in parts if part is not None])
        inside = time_mask(encoder.valid_frames(valid).clamp(1, cqt.shape[1]), cqt.shape[1])
        pictures = Pictures(cqt, mel, inside, encoder.config)
        for name in self._measured:
            known = DESCRIPTIONS[name](pictures)[inside]
            deviation, mean = torch.std_mean(known, 0)
            self.get_buffer(f"{name}_scale").copy_(torch.stack([mean, deviation.clamp(min=1e-3)]))
        if principal:
            seen = standardise(cqt, inside), standardise(mel, inside.repeat_interleave(2, 1))
            encoder.patches.follow(torch.cat([seen[0], seen[1].unflatten(1, (-1, 2)).flatten(2)], 2)[inside])

    def forward(self, batch: Batch, step: int) -> Loss:
        """Hide, hear, tell.

        Raises:
            ValueError: the audio has another sample rate, or crops are shorter than a mask span.
        """
        encoder, rate = self.encoder, self.encoder.config.sample_rate
        if batch.sample_rate != rate:
            raise ValueError(
                f"The crops have {batch.sample_rate} Hz, the encoder hears {rate} Hz: set --crops.sample-rate {rate}."
            )
        (waveform, valid), (host_valid, index) = batch.by_view(), batch.on_host().by_view()
        with torch.no_grad(), section("targets"):
            cqt, mel = encoder.pictures(waveform)
            assert mel is not None
            frames = encoder.valid_frames(valid).clamp(1, cqt.shape[1])
            seen, shift, frames, wanted = self._told(cqt, mel, frames, index)
        total = cqt.shape[1]
        known = self._frames(host_valid, index, total)  # on the CPU, where places are found without waiting
        sound = time_mask(known, total)
        chosen = self.config.masking.draw(known, total, draw_seeds(self.seed, index, MASK))
        mask, hidden = sent(chosen, cqt.device), sent(true_places(chosen), cqt.device)
        padded = None if bool(sound.all()) else time_mask(frames, total)
        last = encoder.encode(*seen, padded, shift, mask).last_hidden_state
        assert last is not None
        value, metrics = self._judge(taken(last, hidden), {n: taken(part, hidden) for n, part in wanted.items()}, step)
        if self.config.unmasked_weight:
            heard = sent(true_places(sound & ~chosen), cqt.device)
            share = self.config.unmasked_weight * len(heard) / mask.sum().clamp(min=1)
            terms = self._errors(taken(last, heard), {name: taken(part, heard) for name, part in wanted.items()})
            value = value + share * torch.stack(list(terms.values())).sum()
        return Loss(value, mask.sum(), metrics)

    def compiled_parts(self) -> list[nn.Module]:
        """The stem and the blocks, which `encode` calls."""
        return [*self.encoder.stems, *self.encoder.encoder.layers]

    def _frames(self, valid: Tensor, index: Tensor, total: int) -> Tensor:
        """Frames of sound after what is done to the pictures; valid (samples), index and result: [batch] on the CPU."""
        frames = self.encoder.valid_frames(valid).clamp(1, total)
        augment = self.config.pictures
        if not (self.training and augment.on and augment.speed):
            return frames
        _, speed = moves(draw_seeds(self.seed, index, PICTURES), augment)
        return played(frames, speed, total)

    def _told(
        self, cqt: Tensor, mel: Tensor, frames: Tensor, index: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor | None, Tensor, dict[str, Tensor]]:
        """What the encoder sees, by how many bins it is transposed, valid frames, and what the workers are to tell."""
        shift, seen = None, (cqt, mel)
        augment = self.config.pictures
        if self.training and augment.on:
            seeds = sent(draw_seeds(self.seed, index, PICTURES), cqt.device)
            hertz = self.encoder.mel_hertz
            clean = change(cqt, mel, frames, seeds, dataclasses.replace(augment, colour=0.0), hertz)
            shift = 2 * clean.semitones
            assert clean.mel is not None
            seen = (clean.cqt, clean.mel)
            cqt, mel = seen
            if augment.colour:
                coloured = change(cqt, mel, clean.valid, seeds, PictureAugment(colour=augment.colour), hertz)
                assert coloured.mel is not None
                seen = (coloured.cqt, coloured.mel)
            frames = clean.valid
        rows = self.encoder.crop(cqt, shift)
        inside = time_mask(frames, cqt.shape[1])
        wanted = describe_frames(rows, mel, inside, self.encoder.config, self.weights)
        pictures = Pictures(rows, mel, inside, self.encoder.config)
        with torch.autocast(cqt.device.type, enabled=False):
            wanted |= {name: self._standard(name, pictures) for name in self._measured}
        return seen, shift, frames, wanted

    def _standard(self, name: str, pictures: Pictures) -> Tensor:
        """A description [batch, frames, numbers] in deviations from the mean."""
        mean, deviation = self.get_buffer(f"{name}_scale")
        return ((DESCRIPTIONS[name](pictures) - mean) / deviation).clamp(-LARGEST, LARGEST)

    def _errors(self, hidden: Tensor, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each worker's weighted mean square error over frames hidden [n, dim]; 0 of none."""
        found = {}
        for name, target in wanted.items():
            told = self.workers[name](hidden).float()
            error = F.mse_loss(told, target, reduction="sum") / max(1, target.numel())
            found[name] = self.weights[name] * error
        return found

    def _judge(self, hidden: Tensor, wanted: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The summed errors at hidden frames, and the share of each worker's variance that is left."""
        terms = self._errors(hidden, wanted)
        metrics: dict[str, Tensor | float] = {}
        for name, target in wanted.items():
            variance = (target - target.mean(0)).square().mean() if len(target) else target.new_ones(())
            metrics[f"{name}/unexplained"] = terms[name].detach() / self.weights[name] / variance.clamp(min=1e-9)
        if self.logs and (step + 1) % self.config.share_every == 0 and hidden.requires_grad and len(hidden):
            metrics |= gradient_shares(terms, hidden)
        return torch.stack(list(terms.values())).sum(), metrics


def lags(frame_rate: float) -> list[int]:
    """The distances of a tempogram in columns of the log-mel, of which a frame has two."""
    first, last = (round(seconds * 2 * frame_rate) for seconds in LAGS)
    return list(range(max(1, first), last + 1, LAG_STEP))


def describe_frames(
    rows: Tensor, mel: Tensor, inside: Tensor, shape: CqtConfig, names: dict[str, float]
) -> dict[str, Tensor]:
    """What the workers are to tell, each [batch, frames, …], standardised over each clip's valid part.

    rows: [batch, frames, rows] of the log-CQT; mel: [batch, 2 · frames, bins]; inside: bool [batch, frames].
    """
    octave, rate = shape.bins_per_octave, shape.frame_rate
    found: dict[str, Tensor] = {}
    if "cqt" in names:
        found["cqt"] = standardise(rows, inside)
    if "chroma" in names:
        whole = torch.expm1(rows[..., : rows.shape[2] // octave * octave])
        classes = whole.unflatten(2, (-1, 12, octave // 12)).mean((2, 4))
        found["chroma"] = standardise(torch.log1p(classes), inside)
    if "mel" in names:
        found["mel"] = standardise(mel.unflatten(1, (-1, 2)).flatten(2), inside)
    rises = F.pad(F.relu(mel[:, 1:] - mel[:, :-1]), (0, 0, 1, 0))
    if "onsets" in names:
        bands = torch.stack([band.mean(2) for band in rises.chunk(ONSET_BANDS, 2)], 2)
        found["onsets"] = standardise(bands.unflatten(1, (-1, 2)).flatten(2), inside)
    if "tempogram" in names:
        found["tempogram"] = standardise(tempogram(rises.mean(2), lags(rate), 2 * round(rate))[:, ::2], inside)
    return found


def tempogram(onsets: Tensor, distances: list[int], reach: int) -> Tensor:
    """How alike onsets [batch, columns] around a column are to those `distances` later: [batch, columns, distances].

    Products of the onsets without their mean, averaged over `reach` columns to either side, over their energy there.
    """
    columns, centred = onsets.shape[1], onsets - onsets.mean(1, keepdim=True)
    later = F.pad(centred, (0, max(distances)))
    products = torch.stack([later[:, lag : lag + columns] * centred for lag in [0, *distances]], 1)
    local = F.avg_pool1d(products, 2 * reach + 1, 1, reach, count_include_pad=False)
    return (local[:, 1:] / local[:, :1].clamp(min=1e-6)).transpose(1, 2)


def pase_tiny() -> Recipe:
    """Five descriptions at once on a wide shallow network, for two CPU cores and minutes.

    groundbass pretrain descriptors.pase_tiny --data MANIFEST --run RUN · 2 CPU cores · 5 minutes
    · in a trial not below the best hand-crafted set on eleven of twelve tasks of the embedded corpus, above its random
    copy on two; RESULTS.md
    """
    network = CqtShape(
        stem="conv", trunk="conv", tonal_channels=(12, 16, 24, 32), hidden_size=384, num_hidden_layers=4,
        dilations=(1, 3, 9, 27), dropout=0.0, described=True,
    )  # fmt: skip
    return Recipe(
        objective=DescriptorConfig(network=network),
        crops=CropConfig(sample_rate=24_000, crop_samples=120_000, align=960),
        optim=Optim(lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01, warmup_steps=20, decay="cosine", clip=5.0),
        steps=300,
        batch_size=16,
        log_every=10,
        checkpoint_every=200,
        workers=1,
    )


def music_tiny() -> Recipe:
    """Eleven descriptions at once, those of seconds of music among them, on a narrow network; the quickstart's.

    Its first hidden state is the columns' 96 principal axes, found on the first crops: what statistics of timbre need.
    The blocks above them learn what takes seconds: harmony, metre, pitch, modulation.

    groundbass pretrain descriptors.music_tiny --data MANIFEST --run RUN · 2 CPU cores · 4 minutes
    · trials, what each part brought: RESULTS.md
    """
    recipe = pase_tiny()
    network = CqtShape(
        stem="patches", stem_norm=False, trunk="conv", hidden_size=96, num_hidden_layers=3, dilations=(1, 5, 25),
        dropout=0.0,
    )  # fmt: skip
    workers = Workers(
        cqt=0.5, chroma=1.0, mel=0.25, onsets=0.5, tempogram=1.0,
        cepstra=0.5, harmony=3.0, pitch=2.0, modulation=0.5, texture=0.25, metre=2.0,
    )  # fmt: skip
    config = DescriptorConfig(network, workers, Masking(coverage=0.2), unmasked_weight=1.0, principal=MEASURED)
    optim = dataclasses.replace(recipe.optim, lr=3e-3)
    return dataclasses.replace(recipe, objective=config, optim=optim, steps=700, checkpoint_every=350)


def pase_debug() -> Recipe:
    """All descriptions in miniature: a patch stem, two blocks of 32, crops of a second.

    groundbass pretrain descriptors.pase_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    network = CqtShape(
        stem="patches", trunk="conv", hidden_size=32, num_hidden_layers=2, dilations=(1, 3), mel_bins=27, dropout=0.0
    )
    config = DescriptorConfig(network=network, pictures=PictureAugment(semitones=2, speed=0.1, colour=0.5))
    return Recipe(
        objective=config,
        crops=CropConfig(sample_rate=24_000, crop_samples=48_000, align=960),
        optim=Optim(lr=1e-3, warmup_steps=2, clip=10.0),
        steps=10,
        batch_size=4,
        log_every=1,
        checkpoint_every=5,
        workers=0,
        trackers=(),
    )
