"""Tokenizers that give masked prediction its codes. `muq_rvq` and `mel_rvq`: residual quantisers of log-mel frames.

`muq_rvq` is MuQ's Mel-RVQ (Zhu et al. 2025), which replaces a neural codec as teacher: a chain of codebooks, each with
a projection down and up of its own, trained by gradients alone; a code that nobody chose for a hundred steps is put
where the data is.

`mel_rvq` is a smaller relative, of the tiny recipes: one linear map, codebooks that follow by averages. Before the
first step the linear map becomes the principal axes of some frames and the codebooks their k-means centres,
residual by residual; then the maps follow the gradient of reconstruction + commitment (straight through), and the
codebooks exponential averages of what they were chosen for, summed over ranks. Codewords that nobody chooses are moved
onto current residuals.

`beats_*`: BEATs' tokenizers, distilled from an encoder; the module is `pretrain/objectives/distillation.py`.

    groundbass pretrain tokenizer.mel_rvq_tiny --data MANIFEST --run RUN      2 CPU cores · minutes
    groundbass pretrain tokenizer.muq_rvq --data MANIFEST --run RUN           one GPU · about an hour
    groundbass pretrain tokenizer.beats_tokenizer_tiny --objective.teacher ENCODER --data MANIFEST --run RUN
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ...data.crops import CropConfig
from ...data.draws import draw_seed, draw_seeds, sent, uniform
from ...models.quantizers import MelQuantizer, MelQuantizerConfig, MuqQuantizer, MuqQuantizerConfig
from ...models.transformer import time_mask
from ..distributed import all_reduce_sum, gather, overwrite, read
from ..objective import Loss, Objective, ObjectiveConfig
from ..recipe import Optim, Recipe
from ..targets.codes import LabelCounts, histogram
from ..targets.first_crops import first_crops, k_means, valid_mel
from ..targets.target import Metrics
from . import tokens
from .distillation import UNTRAINED, DistillationConfig
from .parts.masking import taken, true_places

if TYPE_CHECKING:
    from ...data.batch import Batch
    from ...data.track import Manifest

REVIVE = 132  # stream of draws


@dataclass(frozen=True)
class MelRVQConfig(ObjectiveConfig):
    """Settings of the Mel-RVQ tokenizer."""

    sample_rate: int = 24_000
    """Hz."""
    hop: int = 960
    """Samples per code: the encoder's frame (960 at 24 kHz is 25 Hz)."""
    stack: int = 4
    """Log-mel frames per code."""
    mels: int = 128
    window: int = 2048
    """Samples of the mel spectrum's window."""
    latent: int = 64
    """Width of the quantised space."""
    codebooks: int = 8
    codebook_size: int = 1024
    decay: float = 0.99
    """Share of a codebook's averages that a step keeps."""
    commitment: float = 0.25
    """Weight of the distance between a latent frame and its codewords' sum."""
    revive_every: int = 20
    """Steps between looks for codewords that nobody chooses."""
    first_crops: int = 64
    """Crops that the principal axes and the first codebooks are computed from."""

    def build(self) -> MelRVQ:
        """Build the objective, with random codebooks until `prepare`."""
        return MelRVQ(self)


class MelRVQ(Objective):
    """Learn to reconstruct stacked log-mel frames from a chain of codes."""

    usage: Tensor
    sums: Tensor
    encoder: MelQuantizer

    def __init__(self, config: MelRVQConfig) -> None:
        super().__init__()
        self.config = config
        fields = ("sample_rate", "hop", "stack", "mels", "window", "latent", "codebooks", "codebook_size")
        self.encoder = MelQuantizer(MelQuantizerConfig(**{name: getattr(config, name) for name in fields}))
        books, codes, _ = self.encoder.quantizer.codebooks.shape
        self.register_buffer("usage", torch.ones(books, codes))
        self.register_buffer("sums", self.encoder.quantizer.codebooks.clone())
        self.counts = LabelCounts((codes,) * books, window=100, least_entropy=2.0, name="mel_rvq")
        self._pending: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def forward(self, batch: Batch, step: int) -> Loss:
        """Reconstruct the valid frames; the mean is over frames and mel bins."""
        waveform, _ = batch.by_view()
        valid, numbers = batch.on_host().by_view()
        with torch.autocast(waveform.device.type, enabled=False):
            frames = self._valid_frames(waveform, valid)
            latent = self.encoder.project(frames)
            codes, quantised, residuals = self.encoder.quantizer.quantize(latent)
            rebuilt = self.encoder.reconstruct(latent + (quantised - latent).detach())
            reconstruction = (rebuilt - frames).square().sum() / max(1, frames.numel())
            commitment = (latent - quantised).square().sum() / max(1, latent.numel())
        if self.training:
            total = waveform.shape[1] // self.config.hop
            keys = uniform(draw_seeds(self.seed, numbers, REVIVE), total)
            keys = keys[time_mask(self.encoder.valid_frames(valid), total)]
            self._note(codes, residuals, sent(keys, codes.device))
            self.counts.observe(codes)
        metrics: Metrics = {"reconstruction": reconstruction.detach(), "commitment": commitment.detach()}
        value = reconstruction + self.config.commitment * commitment
        weight = torch.full((), float(len(frames)), device=value.device)
        return Loss(value, weight, metrics | self.counts.statistics())

    def compiled_parts(self) -> list[nn.Module]:
        """None: a Fourier transform, two linear maps and a chain of look-ups are large kernels already."""
        return []

    def _valid_frames(self, waveform: Tensor, valid: Tensor) -> Tensor:
        """Normalised stacked frames [n, stack × mels] of the valid samples; valid [batch] may stay on the CPU."""
        with torch.no_grad():
            frames = self.encoder.features(waveform)
            inside = time_mask(self.encoder.valid_frames(valid), frames.shape[1])
            return taken(frames, sent(true_places(inside), frames.device))

    @torch.no_grad()
    def _note(self, codes: Tensor, residuals: Tensor, keys: Tensor) -> None:
        """Keep a micro-batch's statistics until the step: uses, sums, and the residuals of lowest keys for revival.

        codes: int64 [n, codebooks]; residuals: [codebooks, n, latent]; keys: float64 [n] in [0, 1).
        """
        books, size, _ = self.sums.shape
        flat, uses = _counted(codes, books, size)
        sums = rearrange(torch.zeros_like(self.sums), "codebooks codes latent -> (codebooks codes) latent")
        sums.index_add_(0, flat, rearrange(residuals, "codebooks n latent -> (codebooks n) latent"))
        sums = rearrange(sums, "(codebooks codes) latent -> codebooks codes latent", codebooks=books)
        # as many rows on every rank, however little sound it heard; a row without a frame has key 2
        lowest = keys.argsort()[:size]
        missing = size - len(lowest)
        fresh = functional.pad(
            rearrange(residuals[:, lowest], "codebooks n latent -> n codebooks latent"), (0, 0, 0, 0, 0, missing)
        )
        self._pending.append((uses, sums, fresh, functional.pad(keys[lowest], (0, missing), value=2.0)))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the codebooks' averages, revive unused codewords, judge the labels."""
        if not self._pending:
            return
        uses = torch.stack([entry[0] for entry in self._pending]).sum(0)
        sums = torch.stack([entry[1] for entry in self._pending]).sum(0)
        residuals = torch.cat([entry[2] for entry in self._pending])
        keys = torch.cat([entry[3] for entry in self._pending])
        self._pending = []
        uses, sums = all_reduce_sum(uses), all_reduce_sum(sums)
        decay = self.config.decay
        self.usage.mul_(decay).add_(uses, alpha=1 - decay)
        self.sums.mul_(decay).add_(sums, alpha=1 - decay)
        codebooks = self.encoder.quantizer.codebooks
        codebooks.copy_(self.sums / self.usage.clamp(min=1e-4)[..., None])
        if (step + 1) % self.config.revive_every == 0:
            self._revive(residuals, keys)
        self.counts.follow(step)

    def _revive(self, residuals: Tensor, keys: Tensor) -> None:
        """Put codewords chosen under a tenth as often as the average onto residuals of the step.

        residuals: [n, codebooks, latent]; keys: float64 [n], 2 where there is no frame; n is alike on all ranks. The
        lowest keys over all ranks are taken, so that the division into ranks and micro-batches changes nothing.
        """
        size = self.sums.shape[1]
        residuals, keys = gather(residuals), gather(keys)
        count = (keys < 2).sum()
        order = keys.argsort()[torch.arange(size, device=keys.device) % count.clamp(min=1)]
        fresh = rearrange(residuals[order], "n codebooks latent -> codebooks n latent")
        usual = self.usage.mean(1, keepdim=True)
        dead = (self.usage < 0.1 * usual) & (count > 0)
        self.usage.copy_(torch.where(dead, usual, self.usage))
        self.sums.copy_(torch.where(dead[..., None], fresh * usual[..., None], self.sums))
        codebooks = self.encoder.quantizer.codebooks
        codebooks.copy_(torch.where(count > 0, self.sums / self.usage[..., None], codebooks))

    @torch.no_grad()
    def prepare(self, manifest: Manifest, run: Path) -> None:
        """Measure the mel bins, lay the linear maps along principal axes and the codebooks into the data.

        Every rank computes the same from the same crops; on resume the checkpoint's state replaces it.
        """
        batch = first_crops(manifest, self.config.sample_rate, self.config.first_crops, self.seed)
        self.encoder.features.measure(valid_mel(self.encoder.features, batch))
        frames = self._valid_frames(*batch.by_view())
        if len(frames) < 2:
            raise ValueError("The first crops hold no two whole frames of sound: is the manifest's audio too short?")
        _lay_principal_axes(self.encoder, frames)
        residual = self.encoder.project(frames)
        generator = torch.Generator().manual_seed(draw_seed(self.seed, 1))
        for book, codewords in enumerate(self.encoder.quantizer.codebooks):
            centres, nearest = k_means(residual, len(codewords), generator)
            codewords.copy_(centres)
            self.usage[book] = torch.bincount(nearest, minlength=len(codewords)).float().clamp(min=1e-2)
            residual = residual - centres[nearest]
        self.usage.mul_(self.usage.shape[1] / self.usage.sum(1, keepdim=True))
        self.sums.copy_(self.encoder.quantizer.codebooks * self.usage[..., None])


@dataclass(frozen=True)
class MuqRVQConfig(ObjectiveConfig):
    """Settings of MuQ's tokenizer; the defaults are the published ones."""

    sample_rate: int = 24_000
    """Hz."""
    hop: int = 960
    """Samples per code: the encoder's frame (960 at 24 kHz is 25 Hz)."""
    stack: int = 4
    """Log-mel frames per code."""
    mels: int = 128
    window: int = 2048
    latent: int = 16
    """Width of a codebook's own space."""
    codebooks: int = 8
    codebook_size: int = 1024
    codebook_weight: float = 1.0
    """Weight of the codewords' distance to what chose them."""
    commitment: float = 0.25
    """Weight of the same distance, as the projections feel it."""
    revive_after: int = 100
    """Steps without a choice after which a codeword is put onto a projection of the current step."""

    def build(self) -> MuqRVQ:
        """Build the objective."""
        return MuqRVQ(self)


class MuqRVQ(Objective):
    """Learn to reconstruct stacked log-mel frames: L1, and the distances of codewords and projections."""

    stale: Tensor
    encoder: MuqQuantizer

    def __init__(self, config: MuqRVQConfig) -> None:
        super().__init__()
        self.config = config
        fields = ("sample_rate", "hop", "stack", "mels", "window", "latent", "codebooks", "codebook_size")
        self.encoder = MuqQuantizer(MuqQuantizerConfig(**{name: getattr(config, name) for name in fields}))
        self.register_buffer("stale", torch.zeros(config.codebooks, config.codebook_size, dtype=torch.int64))
        sizes = (config.codebook_size,) * config.codebooks
        self.counts = LabelCounts(sizes, window=100, least_entropy=2.0, name="muq_rvq")
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, batch: Batch, step: int) -> Loss:
        """Reconstruct the valid frames; means over frames and widths, distances summed over codebooks."""
        waveform, _ = batch.by_view()
        valid, numbers = batch.on_host().by_view()
        with torch.autocast(waveform.device.type, enabled=False):
            with torch.no_grad():
                features: Tensor = self.encoder.features(waveform)
                inside = time_mask(self.encoder.valid_frames(valid), features.shape[1])
                frames = taken(features, sent(true_places(inside), features.device))
            residual, codes, latents = frames, [], []
            distance = frames.new_zeros(())
            for book in self.encoder.chain:
                chosen, part, latent, words = book(residual)
                residual = residual - part
                codes.append(chosen)
                latents.append(latent.detach())
                count = max(1, latent.numel())
                distance = distance + self.config.codebook_weight * (words - latent.detach()).square().sum() / count
                distance = distance + self.config.commitment * (latent - words.detach()).square().sum() / count
            reconstruction = residual.abs().sum() / max(1, residual.numel())
        chosen = torch.stack(codes, 1)
        if self.training:
            keys = uniform(draw_seeds(self.seed, numbers, REVIVE), features.shape[1])[inside]
            self._note(chosen, torch.stack(latents, 1), sent(keys, chosen.device))
            self.counts.observe(chosen)
        metrics: Metrics = {"reconstruction": reconstruction.detach(), "distance": distance.detach()}
        weight = torch.full((), float(len(frames)), device=waveform.device)
        return Loss(reconstruction + distance, weight, metrics | self.counts.statistics())

    def compiled_parts(self) -> list[nn.Module]:
        """The codebooks of the chain: two linear maps with their norms, the choice, the distances."""
        return list(self.encoder.chain)

    @torch.no_grad()
    def _note(self, codes: Tensor, latents: Tensor, keys: Tensor) -> None:
        """Keep what a micro-batch chose, and its projections [n, codebooks, latent] of lowest keys [n] for revival."""
        books, size = self.stale.shape
        _, uses = _counted(codes, books, size)
        lowest = keys.argsort()[:size]
        missing = size - len(lowest)  # as many rows on every rank; a row without a frame has key 2
        fresh = functional.pad(latents[lowest], (0, 0, 0, 0, 0, missing))
        self._pending.append((uses, fresh, functional.pad(keys[lowest], (0, missing), value=2.0)))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Count the steps since each codeword was chosen, revive the forgotten ones, judge the labels."""
        if not self._pending:
            return
        uses = all_reduce_sum(torch.stack([entry[0] for entry in self._pending]).sum(0))
        fresh = torch.cat([entry[1] for entry in self._pending])
        keys = torch.cat([entry[2] for entry in self._pending])
        self._pending = []
        self.stale.copy_(torch.where(uses > 0, 0, self.stale + 1))
        dead = self.stale >= self.config.revive_after
        self._revive(dead, gather(fresh), gather(keys))
        self.counts.follow(step)

    def _revive(self, dead: Tensor, fresh: Tensor, keys: Tensor) -> None:
        """Put codewords `dead` bool [codebooks, codes] onto projections fresh [n, codebooks, latent] of lowest keys."""
        count = (keys < 2).sum()
        dead = dead & (count > 0)
        order = keys.argsort()[torch.arange(dead.shape[1], device=keys.device) % count.clamp(min=1)]
        for number, book in enumerate(self.encoder.chain):
            words: Tensor = book.codewords  # type: ignore[assignment]
            overwrite(words, torch.where(dead[number, :, None], fresh[order, number], read(words)))
        self.stale.masked_fill_(dead, 0)


def _counted(codes: Tensor, books: int, size: int) -> tuple[Tensor, Tensor]:
    """Codes int64 [n, codebooks] as places in all codebooks laid end to end [codebooks · n], and each one's uses."""
    first = size * torch.arange(books, device=codes.device)[:, None]
    places = rearrange(rearrange(codes, "n codebooks -> codebooks n") + first, "codebooks n -> (codebooks n)")
    uses = histogram(places, books * size).float()
    return places, rearrange(uses, "(codebooks codes) -> codebooks codes", codebooks=books)


def _lay_principal_axes(model: MelQuantizer, frames: Tensor) -> None:
    """Set `project` to the leading principal axes of frames [n, width], and `reconstruct` to the way back."""
    mean = frames.mean(0)
    centred = (frames - mean).double()
    _, axes = torch.linalg.eigh(centred.T @ centred / len(frames))
    axes = axes.flip(1)[:, : model.config.latent].float()
    axes = axes * torch.where(axes.sum(0) < 0, -1.0, 1.0)  # the sign is free: fix it
    model.project.weight.copy_(axes.T)
    model.project.bias.copy_(-mean @ axes)
    model.reconstruct.weight.copy_(axes)
    model.reconstruct.bias.copy_(mean)


def muq_rvq() -> Recipe:
    """MuQ's Mel-RVQ: 8 codebooks of 1,024 × 16 at 25 Hz, 4,000 steps of 32 crops of 5 s.

    groundbass pretrain tokenizer.muq_rvq --data MANIFEST --run RUN · published: one GPU, about an hour
    """
    return Recipe(
        objective=MuqRVQConfig(),
        crops=CropConfig(sample_rate=24_000, crop_samples=120_000),
        optim=Optim(name="adam", lr=1e-4),
        steps=4000,
        batch_size=32,
    )


def muq_rvq_debug() -> Recipe:
    """MuQ's Mel-RVQ in miniature: 2 × 16 codes, 10 steps.

    groundbass pretrain tokenizer.muq_rvq_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    config = MuqRVQConfig(mels=40, window=1024, latent=8, codebooks=2, codebook_size=16, revive_after=2)
    return dataclasses.replace(mel_rvq_debug(), objective=config)


def mel_rvq() -> Recipe:
    """The small Mel-RVQ, 8 × 1024 at 25 Hz: 4,000 steps.

    groundbass pretrain tokenizer.mel_rvq --data MANIFEST --run RUN · one GPU · well under an hour
    """
    return Recipe(
        objective=MelRVQConfig(),
        crops=CropConfig(sample_rate=24_000, crop_samples=120_000),
        optim=Optim(name="adamw", lr=1e-3, warmup_steps=100, decay="cosine"),
        steps=4000,
        batch_size=64,
    )


def mel_rvq_tiny() -> Recipe:
    """Mel-RVQ, 8 × 256 at 25 Hz, what `masked.mert_tiny` trains into its run.

    groundbass pretrain tokenizer.mel_rvq_tiny --data MANIFEST --run RUN · 2 CPU cores · minutes
    """
    return Recipe(
        objective=MelRVQConfig(codebook_size=256),
        crops=CropConfig(sample_rate=24_000, crop_samples=120_000),
        optim=Optim(name="adamw", lr=1e-3, warmup_steps=20, decay="cosine"),
        steps=200,
        batch_size=32,
        log_every=5,
    )


def mel_rvq_debug() -> Recipe:
    """Mel-RVQ, 2 × 16 codes, 10 steps: seconds.

    groundbass pretrain tokenizer.mel_rvq_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    config = MelRVQConfig(mels=40, window=1024, latent=8, codebooks=2, codebook_size=16, first_crops=8)
    return Recipe(
        objective=config,
        crops=CropConfig(sample_rate=24_000, crop_samples=48_000),
        optim=Optim(name="adamw", lr=1e-3),
        steps=10,
        batch_size=4,
        log_every=1,
        checkpoint_every=10,
        workers=0,
    )


def beats_tokenizer() -> Recipe:
    """BEATs' tokenizer, 1,024 codes, distilled from an encoder (--objective.teacher FOLDER): 1,400 s per step.

    groundbass pretrain tokenizer.beats_tokenizer --objective.teacher FOLDER --data MANIFEST --run RUN · published:
    400,000 steps, learning rate 5e-5 for a self-supervised teacher, 5e-4 for a fine-tuned one's logits
    """
    return Recipe(
        objective=DistillationConfig(),
        crops=CropConfig(sample_rate=16_000, crop_samples=160_000),
        optim=Optim(
            lr=5e-5, betas=(0.9, 0.98), eps=1e-12, weight_decay=0.01, warmup_steps=32_000, decay="linear", clip=1.0,
            fused=True,
        ),
        steps=400_000,
        batch_size=140,
        micro_batch=35,
        precision="bf16",
        log_every=50,
        checkpoint_every=5000,
        workers=8,
    )  # fmt: skip


def beats_tokenizer_small() -> Recipe:
    """A tokenizer of 8 blocks of 512 for `tokens.beats_*_small`: one GPU for hours.

    groundbass pretrain tokenizer.beats_tokenizer_small --objective.teacher FOLDER --data MANIFEST --run RUN · one GPU
    """
    base, shape = beats_tokenizer(), tokens.beats_iter1_small().objective.encoder
    return dataclasses.replace(
        base,
        objective=DistillationConfig(encoder=shape, teacher_dim=shape.hidden_size, revive_below=0.05),
        optim=dataclasses.replace(base.optim, lr=2e-4, warmup_steps=1000),
        steps=20_000,
        batch_size=64,
        micro_batch=64,
    )


def beats_tokenizer_tiny() -> Recipe:
    """A tokenizer of 4 blocks of 192 with 256 codes for `tokens.beats_*_tiny`: two CPU cores for minutes.

    groundbass pretrain tokenizer.beats_tokenizer_tiny --objective.teacher FOLDER --data MANIFEST --run RUN · 2 cores
    """
    first = tokens.beats_iter1_tiny()
    shape = dataclasses.replace(tokens.TINY, num_hidden_layers=2)
    config = DistillationConfig(
        encoder=shape, teacher_dim=shape.hidden_size, codes=256, code_dim=64, estimator_layers=1, revive_below=0.1
    )
    optim = Optim(lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, warmup_steps=20, decay="cosine", clip=1.0)
    return dataclasses.replace(first, objective=config, optim=optim, steps=200)


def beats_tokenizer_debug() -> Recipe:
    """A tokenizer in miniature, taught by an untrained encoder unless one is named.

    groundbass pretrain tokenizer.beats_tokenizer_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    first = tokens.beats_iter1_debug()
    config = DistillationConfig(
        encoder=tokens.DEBUG, teacher=UNTRAINED, teacher_dim=tokens.DEBUG.hidden_size, codes=32, code_dim=16,
        estimator_layers=1, revive_below=0.1, revive_every=2, first_crops=8, least_entropy=1.0,
    )  # fmt: skip
    return dataclasses.replace(first, objective=config)
