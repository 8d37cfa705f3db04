"""CLMR: two crops of a track, changed differently, shall lie closer together than crops of other tracks.

Paper: J. Spijkervet and J. A. Burgoyne, "Contrastive learning of musical representations", ISMIR 2021, after SimCLR
(Chen et al. 2020). Each of the two views goes through its own draw of the augmentations, SampleCNN and a projector; the
loss (NT-Xent) asks which of all other embeddings is the other view. What the augmentations change, the encoder learns
to ignore, so with the published pitch shift it learns to ignore pitch and key.

Beyond the published training: negatives come from all ranks, with full gradients; batch norm is synchronised; crops of
the same track are no negatives of each other; and gradient caching (GradCache, Gao et al. 2021) allows batches larger
than memory.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import math
import pkgutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ... import models
from ...data.augment.chain import Chain, clmr_chain
from ...data.augment.degradations import Degrade
from ...data.batch import Batch
from ...data.crops import CropConfig
from ...data.draws import draw_seeds
from ...models.own_heads import freeze_unheard
from ...models.samplecnn import SampleCNNConfig, SampleCNNModel
from ..clock import section
from ..distributed import gather, rank
from ..objective import Loss, Objective, ObjectiveConfig
from ..recipe import Optim, Recipe
from .crop_contrast import CropContrastConfig
from .parts.cqt_shape import CqtShape
from .parts.nt_xent import contrast, effective_rank, projector
from .parts.nt_xent import nt_xent as nt_xent  # where it always was
from .split_views import ViTShape


@dataclass(frozen=True)
class NetworkConfig:
    """Any encoder of `models/`, by its file and what its configuration changes."""

    model: str
    """mert, cqt, beats, cpc, …: a file of `models/`, or file:Class where it holds several"""
    settings: dict[str, Any] = field(default_factory=dict)
    """of its configuration, by name; the sample rate is the recipe's"""

    def build(self, sample_rate: int) -> PreTrainedModel:
        """Draw fresh weights.

        Raises:
            ValueError: no such file, class or setting.
        """
        file, _, name = self.model.partition(":")
        known = sorted(module.name for module in pkgutil.iter_modules(models.__path__))
        if file not in known:
            near = difflib.get_close_matches(file, known, n=3, cutoff=0.3) or ["samplecnn", "mert", "cqt"]
            raise ValueError(f"There is no model {file!r} in models/; nearest: {', '.join(near)}.")
        module = importlib.import_module(f"{models.__name__}.{file}")
        found = {
            kind.__name__: kind
            for kind in vars(module).values()
            if isinstance(kind, type) and issubclass(kind, PreTrainedModel) and kind.__module__ == module.__name__
            if hasattr(kind, "valid_frames")
        }
        if name not in found and (name or len(found) != 1):
            raise ValueError(
                f"{self.model!r} names no encoder: models/{file}.py has {', '.join(found) or 'none'}; write file:Class."
            )
        kind = found[name] if name else next(iter(found.values()))
        make: Any = kind.config_class
        arguments = inspect.signature(make.__init__).parameters
        unknown = [setting for setting in self.settings if setting not in arguments]
        if unknown:
            raise ValueError(f"{make.__name__} has no {', '.join(unknown)}; look at its arguments.")
        model: PreTrainedModel = kind(make(**{**self.settings, "sample_rate": sample_rate}))
        freeze_unheard(model)
        return model


@dataclass(frozen=True)
class ContrastiveConfig(ObjectiveConfig):
    """Configuration; the defaults are CLMR's (v2). A field that is None is as published."""

    sample_rate: int = 22050
    """Hz; 22050, 16000 or 8000 (SampleCNN's published stride lists)"""
    width: float = 1.0
    """of SampleCNN: multiplies its channels"""
    excitation: float = 0.0
    """hidden units of squeeze-and-excitation per channel; 0: none, as published"""
    projection: int = 64
    """size of the embedding that is contrasted (v1: 128)"""
    temperature: float = 0.5
    """divides the cosine similarities"""
    augment: bool = True
    """CLMR's chain on each view; without it two crops of a track must do"""
    pitch: bool = True
    """the chain's pitch shift of up to ±7 semitones, which teaches to ignore pitch and key"""
    same_track_negatives: bool = False
    """let crops of the same track repel each other, as the published v2 did"""
    chunk: int | None = None
    """gradient caching: crops per pass through the encoder; None: the whole micro-batch at once"""
    network: Annotated[NetworkConfig | None, tyro.conf.AvoidSubcommands] = None
    """the encoder; None: SampleCNN, of `width` and `excitation`"""
    projector_layers: int | None = None
    """linear layers of the projector, ReLU between them; None: 2"""
    pooling: Literal["mean", "max", "mean+max"] | None = None
    """over the frames of a crop, padding left out; None: mean"""
    degrade: tuple[str, ...] | None = None
    """presets (phone, radio, vinyl, live, …) or chains (.json) of data degrade: a view goes through one of them"""
    degrade_share: float | None = None
    """of the views that do; None: a half"""

    def __post_init__(self) -> None:
        """Refuse a projector without layers."""
        if self.projector_layers is not None and self.projector_layers < 1:
            raise ValueError(f"projector_layers is {self.projector_layers}, but a projector has at least 1.")

    def cautions(self, micro_batches: int) -> list[str]:
        """Without `chunk`, a micro-batch is what negatives come from."""
        if micro_batches == 1 or self.chunk is not None:
            return []
        return [
            "Negatives come from one micro-batch: a smaller one is another training; --objective.chunk keeps them all."
        ]

    def build(self) -> Contrastive:
        """Draw fresh weights."""
        return Contrastive(self)


class Contrastive(Objective):
    """Two views through augmentation, SampleCNN and projector, contrasted with everything that all ranks hear.

    Negatives reach as far as one micro-batch on all ranks: accumulation (`micro_batch`) therefore means fewer
    negatives. Gradient caching (`chunk`) keeps them all: chunks pass the encoder without keeping activations, the loss
    sees all embeddings, and each chunk is passed again on the way back. That equals the large batch in loss and
    gradients where the encoder has no batch norm or a frozen one. With batch norm in training, statistics are those of
    a chunk (on all ranks) instead of the batch: another, valid training, whose running statistics follow the
    chunks, each counted once.
    """

    encoder: Any

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        if config.network is None:
            shape = SampleCNNConfig(sample_rate=config.sample_rate, width=config.width, excitation=config.excitation)
            self.encoder = SampleCNNModel(shape)
        else:
            self.encoder = config.network.build(config.sample_rate)
        self.projector = projector(
            self.encoder.dim, self.encoder.dim * (1 + (config.pooling == "mean+max")), config.projection,
            config.projector_layers or 2,
        )  # fmt: skip
        self.augment = clmr_chain(config.sample_rate, pitch=config.pitch) if config.augment else None
        if config.degrade:
            damage = Degrade(
                config.sample_rate, config.degrade, 0.5 if config.degrade_share is None else config.degrade_share
            )
            self.augment = Chain(*([] if self.augment is None else [self.augment]), damage)

    def forward(self, batch: Batch, step: int) -> Loss:
        """Contrast view 0 with view 1 of batch.waveform [batch, 2, samples]."""
        if batch.waveform.shape[1] != 2:
            raise ValueError(
                f"The contrastive objective needs two views per crop, but got {batch.waveform.shape[1]}; "
                "set crops.views to 2."
            )
        keys = None if self.config.same_track_negatives else batch.key_ids()
        heard = batch if batch.changed else self.ahead(batch)
        (h_a, z_a), (h_b, z_b) = (self._embed(heard, view) for view in range(2))
        with torch.autocast(batch.waveform.device.type, enabled=False):
            z_a, z_b = F.normalize(z_a.float(), dim=-1), F.normalize(z_b.float(), dim=-1)
            everyone = None if keys is None else gather(keys)
            all_a, all_b = gather(z_a), gather(z_b)
            value = contrast(
                z_a, z_b, all_a, all_b, len(z_a) * rank(), self.config.temperature, keys, everyone
            )  # fmt: skip
        metrics = self._metrics(value, z_a, z_b, all_a, all_b, torch.cat([h_a, h_b])) if self.logs else {}
        return Loss(value, torch.full_like(value, float(len(z_a))).detach(), metrics)

    def ahead(self, batch: Batch) -> Batch:
        """On a GPU both views are augmented in one go: half as many kernels. On a CPU, less at a time stays in the
        cache, and with `chunk` in memory: there each view is augmented when it is heard.
        """
        if self.augment is None or self.config.chunk is not None or batch.waveform.device.type == "cpu":
            return batch
        seeds = [draw_seeds(self.seed, batch.on_host().index, stream=view) for view in range(2)]
        changed = self._change(torch.cat(batch.waveform.unbind(1)), torch.cat(seeds))
        return replace(batch, waveform=torch.stack(changed.chunk(2), 1), changed=True)

    def _change(self, waveform: Tensor, seeds: Tensor) -> Tensor:
        assert self.augment is not None
        with torch.no_grad(), torch.autocast(waveform.device.type, enabled=False), section("augment"):
            changed: Tensor = self.augment(waveform, seeds)
        return changed

    def _embed(self, batch: Batch, view: int) -> tuple[Tensor, Tensor]:
        """One view -> embeddings [batch, dim] and projections [batch, projection]."""
        host = batch.on_host()
        size = self.config.chunk or len(batch)
        valid = host.valid[:, view]
        padded = [bool((part < batch.waveform.shape[2]).any()) for part in valid.split(size)]
        waveforms = batch.waveform[:, view].split(size)
        if self.augment is not None and not batch.changed:
            seeds = draw_seeds(self.seed, host.index, stream=view).split(size)
            waveforms = tuple(self._change(*pair) for pair in zip(waveforms, seeds, strict=True))
        parts = zip(waveforms, batch.valid[:, view].split(size), padded, strict=True)
        chunks = [self._embed_chunk(*part) for part in parts]
        return torch.cat([h for h, _ in chunks]), torch.cat([z for _, z in chunks])

    def _embed_chunk(self, waveform: Tensor, valid: Tensor, padded: bool) -> tuple[Tensor, Tensor]:
        if self.config.chunk is None or not torch.is_grad_enabled():
            return self._project(waveform, valid, padded)
        pair: tuple[Tensor, Tensor] = checkpoint(
            self._project, waveform, valid, padded, use_reentrant=False, context_fn=self._caching_contexts
        )
        return pair

    def _project(self, waveform: Tensor, valid: Tensor, padded: bool) -> tuple[Tensor, Tensor]:
        h = self._heard(waveform, valid, padded)
        return h.detach(), self.projector(h)

    def _heard(self, waveform: Tensor, valid: Tensor, padded: bool) -> Tensor:
        """[batch, samples] -> [batch, dim]: the frames of each crop pooled. CLMR hears the padding too."""
        if self.config.network is None and self.config.pooling is None:
            embedding: Tensor = self.encoder(waveform).last_hidden_state.mean(1)  # one window unless crops are longer
            return embedding
        mask = None
        if padded:
            mask = (torch.arange(waveform.shape[1], device=valid.device) < valid[:, None]).long()
        frames = self.encoder(waveform, attention_mask=mask).last_hidden_state
        tokens = self.encoder.valid_frames(valid.clamp(min=1)).clamp(min=1) * getattr(self.encoder, "bands", 1)
        return pooled(frames, tokens, self.config.pooling or "mean")

    def _caching_contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """First pass as usual; the second must not move the running statistics again."""
        return nullcontext(), _kept_statistics(self.encoder)

    @torch.no_grad()
    def _metrics(
        self, value: Tensor, z_a: Tensor, z_b: Tensor, all_a: Tensor, all_b: Tensor, h: Tensor
    ) -> dict[str, Tensor | float]:
        pairs = len(all_a)
        chance = math.log(max(2 * pairs - 1, 2))
        positive = (z_a * z_b).sum(-1).mean()
        everything = torch.cat([all_a, all_b])
        alike = (torch.cat([z_a, z_b]) @ everything.T).sum() / (2 * len(z_a))  # per anchor: itself, its pair, the rest
        negative = (alike - 1.0 - positive) / max(2 * pairs - 2, 1)
        return {
            "chance_loss": chance,
            "loss_over_chance": value / chance,
            "positive_similarity": positive,
            "negative_similarity": negative,
            "effective_rank": effective_rank(gather(h)),
        }


def pooled(frames: Tensor, counts: Tensor, how: str) -> Tensor:
    """Frames [batch, frames, dim], of which the first `counts` [batch] are sound, as one vector each.

    how: mean, max, or mean+max beside each other.
    """
    counted = (torch.arange(frames.shape[1], device=frames.device) < counts[:, None])[..., None]
    number = counted.sum(1).clamp(min=1)
    mean = frames.masked_fill(~counted, 0.0).sum(1) / number
    if how == "mean":
        return mean
    highest = frames.masked_fill(~counted, -math.inf).amax(1)
    return highest if how == "max" else torch.cat([mean, highest], 1)


@contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    """Let batch norms write their running statistics into copies, which are thrown away."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, kept, strict=True):
        norm._buffers = {name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()}
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers = buffers


def clmr_base() -> Recipe:
    """CLMR v2 as published: SampleCNN at 22,050 Hz, Adam 3e-4 without schedule, batch 48, temperature 0.5, 64-d.

    Budget: 10,000 epochs over MagnaTagATune's 18,706 training clips, in batches of 48 without the last incomplete one:
    10,000 · floor(18,706 / 48) = 3,890,000 steps. (In CLMR v1 an epoch was a pass over *songs*, some 4 to 5 times
    shorter: epochs of the two can't be compared, steps can.)
    Published scores (MagnaTagATune, linear): ROC-AUC 88.7, PR-AUC 35.6.

    Command: groundbass pretrain contrastive.clmr_base --data MANIFEST --run RUN
    Hardware and hours: one GPU; not run here yet.
    """
    return Recipe(
        objective=ContrastiveConfig(),
        crops=CropConfig(sample_rate=22050, crop_samples=59049, views=2),
        optim=Optim(name="adam", lr=3e-4),
        steps=3_890_000,
        batch_size=48,
        seed=42,
        log_every=50,
        checkpoint_every=10_000,
        workers=8,
    )


def clmr_small() -> Recipe:
    """CLMR for one GPU and hours: larger batches (more negatives), bf16, warm-up and cosine decay, no pitch shift.

    Steps: 30,000 · 256 crops, about a thousand passes over a collection of 8,000 tracks.
    Command: groundbass pretrain contrastive.clmr_small --data MANIFEST --run RUN
    Hardware and hours: one GPU; not run here yet.
    """
    return Recipe(
        objective=ContrastiveConfig(pitch=False),
        crops=CropConfig(sample_rate=22050, crop_samples=59049, views=2),
        optim=Optim(name="adam", lr=1e-3, warmup_steps=500, decay="cosine"),
        steps=30_000,
        batch_size=256,
        precision="bf16",
        log_every=50,
        checkpoint_every=2000,
        workers=8,
    )


def clmr_tiny() -> Recipe:
    """CLMR for two CPU cores and minutes: 16 kHz, a quarter of the width, no pitch shift (it unlearns key).

    Timed by hand, forward and backward: at 16 kHz a core passes 27 crops/s, at 22,050 Hz 15 (the published width: 3.5
    on two).

    Command: groundbass pretrain contrastive.clmr_tiny --data MANIFEST --run RUN
    """
    return Recipe(
        objective=ContrastiveConfig(sample_rate=16000, width=0.25, pitch=False, temperature=0.2),
        crops=CropConfig(sample_rate=16000, crop_samples=43740, views=2),
        optim=Optim(name="adamw", lr=2e-3, weight_decay=1e-4, warmup_steps=20, decay="cosine"),
        steps=200,
        batch_size=32,
        log_every=5,
        checkpoint_every=100,
        workers=1,
    )


def _simclr_tiny(network: NetworkConfig, **changes: Any) -> Recipe:
    """SimCLR for two CPU cores and minutes: 24 kHz, 2.56 s, 32 pairs, CLMR's chain without its pitch shift."""
    config = ContrastiveConfig(
        sample_rate=24_000, pitch=False, temperature=0.2, projection=64, network=network, **changes
    )  # fmt: skip
    return Recipe(
        objective=config,
        crops=CropConfig(sample_rate=24_000, crop_samples=61_440, views=2),
        optim=Optim(name="adamw", lr=1e-3, weight_decay=1e-2, warmup_steps=20, decay="cosine", clip=1.0),
        steps=150,
        batch_size=32,
        log_every=5,
        checkpoint_every=50,
        workers=1,
    )


def simclr_mel_tiny() -> Recipe:
    """SimCLR on MERT's log-mel transformer (3 blocks of 192, 25 frames per second), two CPU cores, minutes.

    Command: groundbass pretrain contrastive.simclr_mel_tiny --data MANIFEST --run RUN
    """
    settings = {
        "frontend": "mel", "mel_channels": 16, "hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 768, "norm_first": True, "positions": "rotary", "layerdrop": 0.0, "hidden_dropout": 0.0,
        "attention_dropout": 0.0, "feat_proj_dropout": 0.0, "feature_grad_mult": 1.0,
    }  # fmt: skip
    return _simclr_tiny(NetworkConfig("mert", settings))


def simclr_cqt_tiny() -> Recipe:
    """SimCLR on the log-CQT encoder (conv stem, 5 dilated convolutions of 128), two CPU cores, minutes.

    Command: groundbass pretrain contrastive.simclr_cqt_tiny --data MANIFEST --run RUN
    """
    settings = {"hidden_size": 128, "num_hidden_layers": 5, "tonal_channels": (8, 12, 16, 24), "dropout": 0.0}
    return _simclr_tiny(NetworkConfig("cqt", settings | {"rhythm_channels": (8, 8, 32)}), pooling="mean+max")


def simclr_conformer_tiny() -> Recipe:
    """SimCLR on the conformer (3 layers of 144, log-mel, 25 frames per second), two CPU cores, minutes.

    Command: groundbass pretrain contrastive.simclr_conformer_tiny --data MANIFEST --run RUN
    """
    settings = {
        "mel_channels": 16, "hidden_size": 144, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 576, "conv_kernel": 15, "hidden_dropout": 0.0, "attention_dropout": 0.0,
        "activation_dropout": 0.0,
    }  # fmt: skip
    return _simclr_tiny(NetworkConfig("conformer", settings))


def simclr_debug() -> Recipe:
    """SimCLR on the log-mel transformer in seconds, for tests: one block of 16, degraded views, mean and max."""
    settings = {
        "frontend": "mel", "mel_channels": 2, "mel_bins": 32, "n_fft": 512, "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "layerdrop": 0.0, "hidden_dropout": 0.0,
        "attention_dropout": 0.0, "feat_proj_dropout": 0.0, "positions": "rotary", "feature_grad_mult": 1.0,
    }  # fmt: skip
    config = ContrastiveConfig(
        sample_rate=8000, projection=8, augment=False, network=NetworkConfig("mert", settings), projector_layers=3,
        pooling="mean+max", degrade=("phone", "live"),
    )  # fmt: skip
    return dataclasses.replace(
        clmr_debug(), objective=config, crops=CropConfig(sample_rate=8000, crop_samples=12_000, views=2)
    )


def clmr_debug() -> Recipe:
    """CLMR in seconds, for tests: the narrowest SampleCNN at 8 kHz, four crops."""
    return Recipe(
        objective=ContrastiveConfig(sample_rate=8000, width=0.03, projection=8),
        crops=CropConfig(sample_rate=8000, crop_samples=20736, views=2),
        optim=Optim(name="adam", lr=3e-3),
        steps=8,
        batch_size=4,
        log_every=1,
        checkpoint_every=4,
        workers=0,
        trackers=(),
    )


def myna_base() -> Recipe:
    """Myna: ViT-B on 16×16 patches of 128 mel bins, crops of 3.2 s, a tenth of the tokens, 4,096 tracks per step.

    As published: 16 kHz, n_fft 2,048, hop 512, Adam 3e-4, weight decay 1e-5, 500 epochs (of 100,000 tracks: 12,200
    steps), temperature 0.1. Here the mel spectrum is logarithmic, a class token stands beside the patches (nobody reads
    it), and the loss is NT-Xent where Myna's is SogCLR.

    groundbass pretrain contrastive.myna_base --data MANIFEST --run RUN · one GPU · days; not run here
    """
    shape = ViTShape(
        mel_bins=128, frame_samples=2048, shift_samples=512, fbank_mean=-4.5, fbank_std=4.0, stretch=6
    )  # fmt: skip
    return Recipe(
        objective=CropContrastConfig(encoder=shape),
        crops=CropConfig(sample_rate=16_000, crop_samples=50_688, views=2),
        optim=Optim(name="adamw", lr=3e-4, weight_decay=1e-5, warmup_steps=500, decay="cosine", fused=True),
        steps=12_200,
        batch_size=4096,
        precision="bf16",
        log_every=50,
        checkpoint_every=1000,
        workers=8,
    )


def myna_small() -> Recipe:
    """Myna's 22 M: 12 blocks of 384 on vertical patches (128 bins × 2 frames), which keep pitch; 1,024 tracks per step.

    groundbass pretrain contrastive.myna_small --data MANIFEST --run RUN · one GPU · hours; not run here
    """
    base = myna_base()
    shape = dataclasses.replace(
        base.objective.encoder, patch_frames=2, patch_bins=128, hidden_size=384, num_attention_heads=6,
        intermediate_size=1536, stretch=48,
    )  # fmt: skip
    objective = dataclasses.replace(base.objective, encoder=shape)
    return dataclasses.replace(base, objective=objective, steps=20_000, batch_size=1024)


def myna_tiny() -> Recipe:
    """Masked crop contrast on whole columns of a log-CQT and a log-mel, 4 blocks of 192, with the key's term.

    A third of the tokens is heard, since 64 tracks are few negatives; level and mean spectrum are taken out.

    groundbass pretrain contrastive.myna_tiny --data MANIFEST --run RUN · 2 CPU cores · minutes
    """
    shape = CqtShape(stem="patches", trunk="transformer", num_hidden_layers=4, dropout=0.0)
    return Recipe(
        objective=CropContrastConfig(encoder=shape, kept=0.35, flat=True, key_weight=0.5),
        crops=CropConfig(sample_rate=24_000, crop_samples=96_000, views=2, align=960),
        optim=Optim(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_steps=20, decay="cosine", clip=1.0),
        steps=300,
        batch_size=64,
        log_every=5,
        checkpoint_every=100,
        workers=1,
    )


def myna_debug() -> Recipe:
    """Masked crop contrast in miniature: one block of 16 on columns, half of the tokens, the key's term.

    groundbass pretrain contrastive.myna_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    shape = CqtShape(
        stem="patches", trunk="transformer", hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, mel_bins=27, dropout=0.0,
    )  # fmt: skip
    objective = CropContrastConfig(encoder=shape, kept=0.5, projection=8, flat=True, key_weight=0.5)
    crops = CropConfig(sample_rate=24_000, crop_samples=24_000, views=2, align=960)
    return dataclasses.replace(clmr_debug(), objective=objective, crops=crops)


def myna_mel_debug() -> Recipe:
    """The same on 16×16 patches of a mel spectrum, as published, in miniature: one block of 16.

    groundbass pretrain contrastive.myna_mel_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    shape = ViTShape(
        mel_bins=32, frame_samples=1024, shift_samples=512, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, stretch=3,
    )  # fmt: skip
    objective = CropContrastConfig(encoder=shape, kept=0.5, projection=8)
    crops = CropConfig(sample_rate=16_000, crop_samples=25_088, views=2)
    return dataclasses.replace(clmr_debug(), objective=objective, crops=crops)
