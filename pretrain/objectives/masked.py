"""Masked acoustic modelling: hide spans of frames, predict what frozen teachers say about them.

MERT (Li et al. 2023, arXiv:2306.00107): a HuBERT-like encoder hears a clip with masked spans, half of the time with
other clips mixed in, and predicts codec codes and constant-Q magnitudes of the clean sound at the masked frames.
BEST-RQ, MusicFM, MuQ and OMAR-RQ differ in parts only: codes of a random projection or of a learned Mel-RVQ, a mel
front end at 25 Hz or less, conformer layers, longer crops, rotary positions, noise in place of masked sound, a linear
head. So all of them are one module, `Masked`, and their recipes below.

    groundbass pretrain masked.mert_tiny --data MANIFEST --run RUN
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro
from torch import Tensor, nn

from ...data.crops import CropConfig
from ...data.draws import draw_seeds, sent
from ...models.conformer import ConformerConfig, ConformerFields, ConformerModel
from ...models.mert import MertConfig, MertFields, MertModel
from ...models.transformer import time_mask
from ..clock import section
from ..objective import Loss, Objective, ObjectiveConfig
from ..recipe import Optim, Recipe
from ..targets.codec import CodecSettings
from ..targets.codes import CodeHeadSettings
from ..targets.cqt import CQTSettings
from ..targets.kmeans import KMeansSettings
from ..targets.random_projection import RandomProjectionSettings
from ..targets.target import FrameGrid, Metrics, Target
from .parts.masking import Masking, noise_fill, taken, true_places
from .parts.noise_mixture import NoiseMixture, add_segments
from .parts.rvq_target import RVQSettings
from .parts.trained_kernels import train_by_nnaudio

if TYPE_CHECKING:
    from ...data.batch import Batch
    from ...data.track import Manifest

MASK, MIX, FILL = 101, 102, 103  # streams of draws


@dataclass
class EncoderShape(MertFields):
    """MERT's encoder and its relatives."""

    gradient_checkpointing: bool = False
    """Recompute blocks and front end in the backward pass: less memory, about a third more time."""

    def config(self) -> MertConfig:
        """Make the model's configuration."""
        values = dataclasses.asdict(self)
        values.pop("gradient_checkpointing")
        return MertConfig(**values)

    def model(self) -> MertModel:
        """Make the encoder."""
        return MertModel(self.config())


@dataclass
class ConformerShape(ConformerFields):
    """A conformer encoder."""

    gradient_checkpointing: bool = False
    """Recompute layers and front end in the backward pass: less memory, about a third more time."""

    def config(self) -> ConformerConfig:
        """Make the model's configuration."""
        values = dataclasses.asdict(self)
        values.pop("gradient_checkpointing")
        return ConformerConfig(**values)

    def model(self) -> ConformerModel:
        """Make the encoder."""
        return ConformerModel(self.config())


@dataclass(frozen=True)
class MaskedConfig(ObjectiveConfig):
    """What is masked, what is predicted, how much each prediction counts. A target of weight 0 isn't built."""

    encoder: tyro.conf.AvoidSubcommands[EncoderShape | ConformerShape] = field(default_factory=EncoderShape)
    masking: Masking = field(default_factory=Masking)
    mixture: NoiseMixture = field(default_factory=NoiseMixture)
    feature_penalty: float = 10.0
    """Weight of the mean square of the convolutions' output; a mel front end has none."""
    cqt: CQTSettings = field(default_factory=CQTSettings)
    rvq: RVQSettings = field(default_factory=RVQSettings)
    codec: CodecSettings = field(default_factory=CodecSettings)
    kmeans: KMeansSettings = field(default_factory=KMeansSettings)
    random_projection: RandomProjectionSettings = field(default_factory=RandomProjectionSettings)
    unmasked_weight: float = 0.0
    """What a frame that isn't masked counts in the targets' losses, against 1 for a masked one; 0 as published."""
    share_every: int = 50
    """Steps between measurements of each target's share of the gradient."""

    @property
    def grid(self) -> FrameGrid:
        """The encoder's frames: sample rate and hop_samples."""
        config = self.encoder.config()
        return FrameGrid(config.sample_rate, config.hop_samples)

    def frames(self, samples: int) -> int:
        """Tokens of a crop: the front end's frames (120,000 samples give 374 at 75 Hz, 125 at 25 Hz)."""
        return self.encoder.config().frames(samples)

    def stand_in(self, folder: Path, crop_samples: int) -> tuple[MaskedConfig, str]:
        """A codec with random weights, or random codes, where the codec target has any weight."""
        if self.codec.weight == 0:
            return self, ""
        codec, said = self.codec.stand_in(folder, self.grid, crop_samples)
        return dataclasses.replace(self, codec=codec), said

    def cautions(self, micro_batches: int) -> list[str]:
        """The codec's own, where it is listened to."""
        return self.codec.cautions() if self.codec.weight else []

    def build(self) -> Masked:
        """Build the objective."""
        return Masked(self)


def tokens(recipe: Recipe) -> int:
    """Frames that a masked run hears: steps · batch_size · views · frames(crop_samples)."""
    return recipe.steps * recipe.batch_size * recipe.crops.views * recipe.objective.frames(recipe.crops.crop_samples)


class Masked(Objective):
    """Predict the targets of masked frames.

    The loss is the sum over targets of weight × loss (cross entropy of codes, or mean square error, each averaged over
    the masked frames; `unmasked_weight` adds the others), plus the penalty on the front end's output. Its
    weight is the number of masked frames, so everything in it is a sum over them, and batches combine exactly; where
    nothing is padded, the penalty is the mean square over all frames.
    """

    encoder: MertModel | ConformerModel

    def __init__(self, config: MaskedConfig) -> None:
        super().__init__()
        self.config = config
        settings: list[Any] = [config.rvq, config.codec, config.kmeans, config.random_projection, config.cqt]
        chosen = [entry for entry in settings if entry.weight > 0]
        if not chosen:
            raise ValueError(
                "Nothing is predicted: all targets have weight 0; set one of rvq.weight, codec.weight, kmeans.weight, "
                "random_projection.weight or cqt.weight."
            )
        width = config.encoder.hidden_size
        # random teachers draw from seeds of their own, before the weights are drawn
        self.targets = nn.ModuleList(entry.build(config.grid, width) for entry in chosen)
        self.encoder = config.encoder.model()
        if isinstance(self.encoder, MertModel):
            train_by_nnaudio(self.encoder)
        if config.encoder.gradient_checkpointing:
            self.encoder.gradient_checkpointing_enable()
        if config.masking.fill == "noise":
            self.encoder.masked_spec_embed.requires_grad_(False)  # nothing would use it

    def forward(self, batch: Batch, step: int) -> Loss:
        """Mask, hear, predict.

        Raises:
            ValueError: the audio has another sample rate, or crops are shorter than a mask span.

        """
        self._check_rate(batch)
        (clean, valid), (host_valid, host_index) = batch.by_view(), batch.on_host().by_view()
        frames = self.encoder.frames(clean.shape[1])
        chosen = self._choose(host_valid, frames, host_index, clean.device)
        mask = chosen.mask
        valid_frames = self.encoder.valid_frames(valid).clamp(max=frames)
        with section("targets"):
            wanted = self._compute_targets(batch, clean, frames, chosen.inside)

        heard = clean
        if self.training:
            heard = add_segments(clean, draw_seeds(self.seed, host_index, MIX), host_valid, self.config.mixture)
        masked_in_model: Tensor | None = mask
        if self.config.masking.fill == "noise":
            seeds = draw_seeds(self.seed, batch.item_numbers(), FILL)
            heard = noise_fill(heard, mask, self.config.grid.hop, seeds)
            masked_in_model = None
        padded = bool((host_valid < clean.shape[1]).any())
        attention_mask = time_mask(valid, clean.shape[1]) if padded else None
        features, frame_mask = self.encoder.extract(heard, attention_mask)
        output = self.encoder.encode(features, frame_mask, mask_time_indices=masked_in_model)
        assert output.last_hidden_state is not None
        last = output.last_hidden_state
        value, metrics = self._predict(
            taken(last, chosen.masked), [taken(target, chosen.masked) for target in wanted], step
        )
        if self.config.unmasked_weight > 0:
            value = value + self._predict_unmasked(last, wanted, chosen.visible, mask.sum())
        if self.config.feature_penalty > 0 and self.config.encoder.frontend == "conv":
            inside = time_mask(valid_frames, frames) & mask.any(1, keepdim=True)
            penalty = usual_coverage(self.config.masking, frames) * _square(features, inside) / mask.sum().clamp(min=1)
            value = value + self.config.feature_penalty * penalty
            metrics["feature_penalty"] = penalty.detach()
        weight = mask.sum()
        metrics["coverage"] = weight / valid_frames.sum().clamp(min=1)
        return Loss(value, weight, metrics)

    def _choose(self, valid: Tensor, frames: int, index: Tensor, device: torch.device) -> Chosen:
        """Draw the mask where nothing waits, on the CPU: valid (samples), index int64 [batch]; the rest on `device`."""
        valid_frames = self.encoder.valid_frames(valid).clamp(max=frames)
        mask = self.config.masking.draw(valid_frames, frames, draw_seeds(self.seed, index, MASK))
        inside = time_mask(valid_frames, frames)
        visible = inside & ~mask if self.config.unmasked_weight > 0 else torch.zeros_like(mask)
        return Chosen(
            mask=sent(mask, device),
            masked=sent(true_places(mask), device),
            visible=sent(true_places(visible), device),
            inside=None if bool(inside.all()) else sent(true_places(inside), device),
        )

    def _check_rate(self, batch: Batch) -> None:
        expected = self.config.encoder.sample_rate
        if batch.sample_rate != expected:
            raise ValueError(
                f"The crops have {batch.sample_rate} Hz, the encoder expects {expected} Hz: "
                "set crops.sample_rate and objective.encoder.sample_rate to the same."
            )

    def _targets(self) -> list[Target]:
        return list(self.targets)  # type: ignore[arg-type]

    @torch.no_grad()
    def _compute_targets(self, batch: Batch, clean: Tensor, frames: int, inside: Tensor | None) -> list[Tensor]:
        """Each target's [batch, frames, …] of the clean sound, trimmed to the encoder's frames, never resampled.

        inside: places of the frames that are sound; None: all are.
        """
        starts = batch.on_host().starts.flatten()
        keys = [key for key in batch.keys for _ in range(batch.waveform.shape[1])]
        found = []
        for target in self._targets():
            wanted = target.targets(clean, starts, keys)
            if wanted.shape[1] < frames:
                raise ValueError(
                    f"The target {target.name!r} has {wanted.shape[1]} frames for a crop, the encoder {frames}: "
                    "they have to count time alike (same hop)."
                )
            wanted = wanted[:, :frames]
            if self.training:
                target.observe(wanted.flatten(0, 1) if inside is None else taken(wanted, inside))
            found.append(wanted)
        return found

    def _predict(self, hidden: Tensor, wanted: list[Tensor], step: int) -> tuple[Tensor, Metrics]:
        """The weighted sum of the targets' losses for hidden [n, dim], and metrics."""
        terms: dict[str, Tensor] = {}
        metrics: Metrics = {}
        for target, truth in zip(self._targets(), wanted, strict=True):
            loss, found = target.loss(hidden, truth)
            terms[target.name] = target.weight * loss
            metrics |= found
        if self.logs and (step + 1) % self.config.share_every == 0 and hidden.requires_grad:
            metrics |= gradient_shares(terms, hidden)
        return torch.stack(list(terms.values())).sum(), metrics

    def _predict_unmasked(self, last: Tensor, wanted: list[Tensor], visible: Tensor, masked: Tensor) -> Tensor:
        """The same losses at the places where the sound is heard, over the masked frames' number: batches combine."""
        pairs = zip(self._targets(), wanted, strict=True)
        means = [target.weight * target.loss(taken(last, visible), taken(truth, visible))[0] for target, truth in pairs]
        share = len(visible) / masked.clamp(min=1)
        return self.config.unmasked_weight * share * torch.stack(means).sum()

    def prepare(self, manifest: Manifest, run: Path) -> None:
        """Let targets fit or load what they need, in the run folder."""
        for target in self._targets():
            target.prepare(manifest, run)

    def place(self, device: torch.device) -> None:
        """Move frozen teachers."""
        for target in self._targets():
            target.place(device)

    def after_step(self, step: int) -> None:
        """Raise TrainingStopped where a target's labels carry no information."""
        for target in self._targets():
            target.follow(step)

    def prepare_for_counting(self) -> None:
        """Load the targets' teachers."""
        for target in self._targets():
            target.prepare_for_counting()

    def compiled_parts(self) -> list[nn.Module]:
        """The front end and the blocks, which `extract` and `encode` call."""
        return [self.encoder.feature_extractor, *self.encoder.encoder.layers]

    @property
    def leaves_unused(self) -> bool:
        """False: a dropped block is computed and gets a gradient of 0."""
        return False

    def provenance(self) -> dict[str, Any]:
        """Hashes of the teachers."""
        return {key: value for target in self._targets() for key, value in target.provenance().items()}


@dataclass(frozen=True)
class Chosen:
    """A step's mask bool [batch, frames] and places (see `true_places`), on the device."""

    mask: Tensor
    masked: Tensor
    visible: Tensor
    """Sound that isn't masked; empty where it isn't predicted."""
    inside: Tensor | None
    """All sound; None: every frame is."""


@cache
def usual_coverage(masking: Masking, frames: int) -> float:
    """Masked share of crops of `frames` without padding: the mean over 16 fixed batches of 16 (spans are alike).

    The penalty is usual coverage × sum of squares / masked frames: its weight (the masked frames) cancels, which keeps
    it exact over micro-batches and ranks, and a mean over frames where the crops are covered as usual.
    """
    masks = [masking.draw(torch.full((16,), frames), frames, seeds) for seeds in torch.arange(256).split(16)]
    return float(torch.cat(masks).float().mean())


def _square(features: Tensor, inside: Tensor) -> Tensor:
    """Square of the front end's output [batch, frames, channels], mean over channels, sum over bool [batch, frames]."""
    return features.float().square().mean(-1).masked_fill(~inside, 0.0).sum()


def gradient_shares(terms: dict[str, Tensor], hidden: Tensor) -> Metrics:
    """Each term's share of the gradient: its norm with respect to hidden [n, dim], over the sum of all norms.

    A term whose share is near 0 teaches nothing, however large its value is. The penalty on the front end's output
    isn't among them: it doesn't pass through the hidden states.
    """
    norms = {
        name: torch.autograd.grad(term, hidden, retain_graph=True)[0].detach().float().norm()
        for name, term in terms.items()
    }
    total = torch.stack(list(norms.values())).sum().clamp(min=1e-30)
    return {f"{name}/gradient_share": norm / total for name, norm in norms.items()}


_PUBLISHED_MASK = Masking(kind="fairseq", coverage=0.8, span=5)
_LARGE = EncoderShape(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    norm_first=True,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    feat_proj_dropout=0.0,
    layerdrop=0.0,
    feature_grad_mult=1.0,
)


def mert_95m() -> Recipe:
    """MERT-v1-95M: EnCodec codes and CQT, 5-second crops, 1,024 crops (1.42 hours of audio) per step.

    groundbass pretrain masked.mert_95m --data MANIFEST --run RUN · published: 64 GPUs,
    400,000 steps, 20,000 hours of music. The published 2.0 M samples per GPU hold 16 crops of 120,000: the micro-batch.
    Store the codes first, which cost nothing in a step then (a run without says so): groundbass data codes MANIFEST
    CODES, then --objective.codec.store CODES
    """
    return Recipe(
        objective=MaskedConfig(masking=_PUBLISHED_MASK, codec=CodecSettings(weight=1.0)),
        crops=CropConfig(sample_rate=24_000, crop_samples=120_000, align=320, min_seconds=3.0),
        optim=_published_optim(lr=5e-4, clip=10.0),
        steps=400_000,
        batch_size=1024,
        micro_batch=16,
        precision="bf16",
        log_every=50,
        checkpoint_every=5000,
        workers=8,
    )


def mert_330m() -> Recipe:
    """MERT-v1-330M: pre-LN, 5.12-second crops, 3,584 crops (5.10 hours of audio) per step.

    groundbass pretrain masked.mert_330m --data MANIFEST --run RUN · published: 64 GPUs with 8 micro-batches of 0.9 M
    samples (7 crops of 122,880), 400,000 steps, 160,000 hours of music.
    """
    return Recipe(
        objective=MaskedConfig(
            encoder=_LARGE,
            masking=_PUBLISHED_MASK,
            mixture=NoiseMixture(lengths=(12_000, 36_000)),
            codec=CodecSettings(weight=1.0, head=CodeHeadSettings(dim=128)),
        ),
        crops=CropConfig(sample_rate=24_000, crop_samples=122_880, align=320, min_seconds=3.0),
        optim=_published_optim(lr=1.5e-3, clip=1.0),
        steps=400_000,
        batch_size=3584,
        micro_batch=7,
        precision="bf16",
        log_every=50,
        checkpoint_every=5000,
        workers=8,
    )


def _published_optim(lr: float, clip: float) -> Optim:
    """Return fairseq's Adam (decoupled weight decay), 32,000 steps of warm-up and a straight line to 0."""
    return Optim(
        name="adamw",
        lr=lr,
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=0.01,
        decay_all=True,
        warmup_steps=32_000,
        decay="linear",
        clip=clip,
        fused=True,
    )


_TINY_CODES = CodeHeadSettings(dim=32, labels="normal", least_entropy=2.0)
_TINY_LINEAR = CodeHeadSettings(kind="linear", least_entropy=2.0)


def mert_small() -> Recipe:
    """MERT's front end at 75 Hz with 8 blocks of 512, Mel-RVQ codes and log CQT: 32 M parameters, no download.

    groundbass pretrain masked.mert_small --data MANIFEST --run RUN · one GPU · hours
    """
    shape = EncoderShape(
        hidden_size=512, num_hidden_layers=8, num_attention_heads=8, intermediate_size=2048, layerdrop=0.0
    )
    rvq = RVQSettings(weight=1.0, stack=2, steps=2000, head=CodeHeadSettings(labels="normal"))
    return Recipe(
        objective=MaskedConfig(encoder=shape, rvq=rvq, cqt=CQTSettings(weight=1.0, scale="standard")),
        crops=CropConfig(sample_rate=24_000, crop_samples=120_000, align=320),
        optim=Optim(lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, warmup_steps=2000, decay="linear",
                    clip=10.0, fused=True),
        steps=50_000,
        batch_size=64,
        precision="bf16",
        log_every=50,
        workers=8,
    )  # fmt: skip


def mert_tiny() -> Recipe:
    """MERT for two CPU cores: a mel front end at 25 Hz in place of the convolutions, which are too slow for a CPU.

    Four pre-LN blocks of 192, Mel-RVQ codes (4 × 256, trained into the run first), standardised log CQT and the same
    folded into one octave, weighted to give the CQT about half of the gradient. Frames that aren't masked count half.
    Long windows and a front end up to 8 kHz, since neighbouring semitones must be told apart.

    groundbass pretrain masked.mert_tiny --data MANIFEST --run RUN · one core of a CPU · 20 minutes (--steps 3200: 45)
    · on 4 h of the embedded corpus: above its random copy on six of nine tasks, below on none; RESULTS.md
    """
    shape = EncoderShape(
        hidden_size=192, num_hidden_layers=4, num_attention_heads=6, intermediate_size=768, norm_first=True,
        hidden_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0, feature_grad_mult=1.0,
        frontend="mel", mel_channels=16, mel_bins=192, n_fft=4096, mel_high=8000.0, num_conv_pos_embeddings=32,
    )  # fmt: skip
    rvq = RVQSettings(
        weight=1.0, stack=2, codebooks=4, codebook_size=256, window=4096, steps=10, batch_size=16, head=_TINY_CODES
    )
    return Recipe(
        objective=MaskedConfig(
            encoder=shape, rvq=rvq, cqt=CQTSettings(weight=16.0, scale="standard", chroma=1.0), unmasked_weight=0.5
        ),
        crops=CropConfig(sample_rate=24_000, crop_samples=120_000, align=960),
        optim=Optim(
            lr=3e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, warmup_steps=20, decay="cosine", clip=10.0
        ),
        steps=1500,
        batch_size=16,
        log_every=10,
        checkpoint_every=250,
    )


def cqt_tiny() -> Recipe:
    """Masked CQT and its pitch classes alone, for two CPU cores: what teaches harmony in minutes.

    `mert_tiny` without codes and mixture, and less hidden (0.4). RESULTS.md has the trials; they changed several of
    these at once.

    groundbass pretrain masked.cqt_tiny --data MANIFEST --run RUN · 2 CPU cores · 4 minutes
    · key 0.64 (random copy 0.46), pitch 0.90 (0.83), beat F 0.82 (0.75); all nine tasks in RESULTS.md
    """
    recipe = mert_tiny()
    objective = dataclasses.replace(
        recipe.objective,
        masking=Masking(coverage=0.4),
        mixture=NoiseMixture(probability=0.0),
        rvq=dataclasses.replace(recipe.objective.rvq, weight=0.0),
    )
    return dataclasses.replace(recipe, objective=objective, steps=250, checkpoint_every=125, workers=1)


def mert_debug() -> Recipe:
    """MERT's own parts in miniature: convolutions at 75 Hz, two blocks of 32, Mel-RVQ codes and raw CQT.

    groundbass pretrain masked.mert_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    shape = EncoderShape(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, hidden_dropout=0.0,
        attention_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0, conv_dim=(16,) * 7, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    return _debug(MaskedConfig(encoder=shape, rvq=_DEBUG_RVQ, mixture=NoiseMixture(lengths=(1200, 2400))), hop=320)


_DEBUG_CODES = CodeHeadSettings(dim=8, labels="normal", least_entropy=1.0)
_DEBUG_LINEAR = CodeHeadSettings(kind="linear", least_entropy=1.0)
_DEBUG_RVQ = RVQSettings(
    weight=1.0, stack=1, mels=40, window=1024, latent=8, codebooks=2, codebook_size=16, steps=4, batch_size=4,
    workers=0, head=_DEBUG_CODES,
)  # fmt: skip


def _debug(config: MaskedConfig, hop: int) -> Recipe:
    return Recipe(
        objective=config,
        crops=CropConfig(sample_rate=24_000, crop_samples=24_000, align=hop),
        optim=Optim(lr=1e-3, warmup_steps=2, clip=10.0),
        steps=10,
        batch_size=4,
        log_every=1,
        checkpoint_every=5,
        workers=0,
        trackers=(),
    )


_MUSICFM_MASK = Masking(kind="cells", coverage=0.6, span=10, fill="noise")
_NO_MIXTURE = NoiseMixture(probability=0.0)
_NO_CQT = CQTSettings(weight=0.0)


_LINEAR = CodeHeadSettings(kind="linear")
_DRY = ConformerShape(hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)


def bestrq_base() -> Recipe:
    """BEST-RQ on music as MusicFM has it: one random codebook of 4096 × 16, conformer, 25 Hz, 30-second crops.

    12 conformer layers of 1,024, cells of 400 ms masked with probability 0.6 by noise N(0, 0.1) in the waveform, one
    linear head. MusicFM's training settings aren't published; the optimiser's are OMAR-RQ's.

    groundbass pretrain masked.bestrq_base --data MANIFEST --run RUN · published: two weeks per model
    """
    codes = RandomProjectionSettings(
        weight=1.0, codebooks=1, codebook_size=4096, seed=142, statistics="corpus", edges="reflect", head=_LINEAR
    )
    return Recipe(
        objective=MaskedConfig(
            encoder=ConformerShape(), masking=_MUSICFM_MASK, mixture=_NO_MIXTURE, cqt=_NO_CQT, random_projection=codes
        ),
        crops=CropConfig(sample_rate=24_000, crop_samples=720_000, align=960, min_seconds=5.0),
        optim=_omar_optim(),
        steps=400_000,
        batch_size=256,
        micro_batch=32,
        precision="bf16",
        log_every=50,
        checkpoint_every=5000,
        workers=8,
    )


def _omar_optim() -> Optim:
    """AdamW on all parameters, 30,000 steps of warm-up, cosine."""
    return Optim(lr=1e-4, weight_decay=0.01, decay_all=True, warmup_steps=30_000, decay="cosine", fused=True)


def bestrq_tiny() -> Recipe:
    """BEST-RQ for two CPU cores: `mert_tiny`'s size, four codebooks of 256, 10-second crops, rotary positions.

    groundbass pretrain masked.bestrq_tiny --data MANIFEST --run RUN · 2 CPU cores · minutes
    """
    tiny = mert_tiny()
    shape = dataclasses.replace(tiny.objective.encoder, positions="rotary")
    config = MaskedConfig(
        encoder=shape, masking=_MUSICFM_MASK, mixture=_NO_MIXTURE, cqt=_NO_CQT,
        random_projection=RandomProjectionSettings(weight=1.0, codebook_size=256, head=_TINY_LINEAR),
    )  # fmt: skip
    crops = dataclasses.replace(tiny.crops, crop_samples=240_000)
    optim = dataclasses.replace(tiny.optim, lr=1e-3)
    return dataclasses.replace(tiny, objective=config, crops=crops, optim=optim, steps=400, batch_size=16)


def bestrq_debug() -> Recipe:
    """BEST-RQ in miniature: mel front end, two blocks of 32, two codebooks of 16.

    groundbass pretrain masked.bestrq_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    shape = EncoderShape(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, norm_first=True,
        hidden_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0, feature_grad_mult=1.0,
        frontend="mel", mel_channels=4, positions="rotary",
    )  # fmt: skip
    codes = RandomProjectionSettings(
        weight=1.0, codebooks=2, codebook_size=16, mels=40, window=1024, crops=8, head=_DEBUG_LINEAR
    )
    masking = dataclasses.replace(_MUSICFM_MASK, span=5)
    config = MaskedConfig(
        encoder=shape, masking=masking, mixture=_NO_MIXTURE, cqt=_NO_CQT, random_projection=codes
    )  # fmt: skip
    return _debug(config, hop=960)


def muq_large() -> Recipe:
    """MuQ: a conformer of 316 M parameters predicts its Mel-RVQ (8 × 1024), 25 Hz, 30-second crops, 192 per step.

    The tokenizer is trained into the run first (4,000 steps), or named: --objective.rvq.path RUN.

    groundbass pretrain masked.muq_large --data MANIFEST --run RUN · published: 32 GPUs, 3 to 7 days, 900 to 160,000
    hours of music; 3 crops per GPU and micro-batch
    """
    rvq = RVQSettings(weight=1.0, kind="muq", latent=16, steps=4000, lr=1e-4, head=_LINEAR)
    return Recipe(
        objective=MaskedConfig(
            encoder=ConformerShape(), masking=_MUSICFM_MASK, mixture=_NO_MIXTURE, cqt=_NO_CQT, rvq=rvq
        ),
        crops=CropConfig(sample_rate=24_000, crop_samples=720_000, align=960, min_seconds=5.0),
        optim=_published_optim(lr=5e-4, clip=10.0),
        steps=400_000,
        batch_size=192,
        micro_batch=3,
        log_every=50,
        checkpoint_every=5000,
        workers=8,
    )


def muq_small() -> Recipe:
    """MuQ with 8 conformer layers of 512 on 15-second crops: one GPU for hours.

    groundbass pretrain masked.muq_small --data MANIFEST --run RUN · one GPU · hours
    """
    large = muq_large()
    shape = ConformerShape(
        mel_channels=128, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, intermediate_size=2048
    )
    return dataclasses.replace(
        large,
        objective=dataclasses.replace(large.objective, encoder=shape),
        crops=dataclasses.replace(large.crops, crop_samples=360_000),
        optim=dataclasses.replace(large.optim, warmup_steps=2000),
        steps=50_000,
        batch_size=64,
        micro_batch=32,
        precision="bf16",
    )


def muq_tiny() -> Recipe:
    """MuQ with 4 conformer layers of 192 and 4 codebooks of 256 on 5-second crops: two CPU cores for minutes.

    Its tokenizer learns faster than the published one (150 steps, codes revived after 20): minutes are all there is.

    groundbass pretrain masked.muq_tiny --data MANIFEST --run RUN · 2 CPU cores · minutes
    """
    shape = dataclasses.replace(
        _DRY, mel_high=8000.0, mel_channels=8, hidden_size=192,
        num_hidden_layers=4, num_attention_heads=6, intermediate_size=768, conv_kernel=15,
    )  # fmt: skip
    rvq = RVQSettings(
        weight=1.0, kind="muq", latent=16, codebooks=4, codebook_size=256, steps=150, batch_size=8, lr=2e-3,
        revive_after=20, head=_TINY_LINEAR,
    )  # fmt: skip
    return Recipe(
        objective=MaskedConfig(encoder=shape, masking=_MUSICFM_MASK, mixture=_NO_MIXTURE, cqt=_NO_CQT, rvq=rvq),
        crops=CropConfig(sample_rate=24_000, crop_samples=120_000, align=960),
        optim=Optim(
            lr=2e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, warmup_steps=20, decay="cosine", clip=10.0
        ),
        steps=400,
        batch_size=8,
        checkpoint_every=100,
    )


def muq_debug() -> Recipe:
    """MuQ in miniature: two conformer layers of 32, 2 × 16 codes.

    groundbass pretrain masked.muq_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    shape = dataclasses.replace(
        _DRY, n_fft=1024, mel_bins=32, mel_channels=4, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, conv_kernel=7,
    )  # fmt: skip
    rvq = dataclasses.replace(_DEBUG_RVQ, kind="muq", stack=4, revive_after=2, head=_DEBUG_LINEAR)
    masking = dataclasses.replace(_MUSICFM_MASK, span=5)
    return _debug(MaskedConfig(encoder=shape, masking=masking, mixture=_NO_MIXTURE, cqt=_NO_CQT, rvq=rvq), hop=960)


_OMAR_MASK = dataclasses.replace(_MUSICFM_MASK, span=6)  # 400 ms at 15.6 Hz, rounded down as published
_OMAR_CODES = RandomProjectionSettings(
    weight=1.0, mels=96, window=512, compress="log1p", edges="reflect", statistics="corpus", seed=0, head=_LINEAR
)


def omar_base() -> Recipe:
    """OMAR-RQ: 24 conformer layers of 1,024, four codebooks of 8192 × 16 of a 96-bin mel spectrum, 16 kHz, 15.6 Hz.

    groundbass pretrain masked.omar_base --data MANIFEST --run RUN · published: 8 GPUs, 400,000 steps, 330,000 hours
    """
    shape = ConformerShape(
        sample_rate=16_000, frontend="stacked", mel_bins=96, n_fft=512, mel_hop=256, mel_scale="slaney",
        mel_mean=2.0676, mel_std=1.2683, num_hidden_layers=24, num_attention_heads=8, hidden_dropout=0.2,
        attention_dropout=0.2, activation_dropout=0.2,
    )  # fmt: skip
    return Recipe(
        objective=MaskedConfig(
            encoder=shape, masking=_OMAR_MASK, mixture=_NO_MIXTURE, cqt=_NO_CQT, random_projection=_OMAR_CODES
        ),
        crops=CropConfig(sample_rate=16_000, crop_samples=480_000, align=1024, min_seconds=5.0),
        optim=_omar_optim(),
        steps=400_000,
        batch_size=256,
        micro_batch=32,
        precision="bf16",
        log_every=50,
        checkpoint_every=5000,
        workers=8,
    )


def omar_multi() -> Recipe:
    """OMAR-RQ of several features: 12 layers of 512, two codebooks each of mel, CQT and waveform, 24 kHz, 18.75 Hz.

    groundbass pretrain masked.omar_multi --data MANIFEST --run RUN · published: 8 GPUs, 400,000 steps, 330,000 hours
    """
    base = omar_base()
    shape = dataclasses.replace(
        base.objective.encoder, sample_rate=24_000, mel_hop=320, mel_mean=1.8608, mel_std=1.225, hidden_size=512,
        num_hidden_layers=12, intermediate_size=2048,
    )  # fmt: skip
    codes = dataclasses.replace(_OMAR_CODES, features=("mel", "cqt", "waveform"), codebooks=2)
    objective = dataclasses.replace(
        base.objective, encoder=shape, masking=dataclasses.replace(_OMAR_MASK, span=7), random_projection=codes
    )
    crops = dataclasses.replace(base.crops, sample_rate=24_000, crop_samples=720_000, align=1280)
    return dataclasses.replace(base, objective=objective, crops=crops)


def omar_tiny() -> Recipe:
    """OMAR-RQ of mel and CQT with 4 conformer layers of 192, 256 codes each, 25 Hz: two CPU cores for minutes.

    groundbass pretrain masked.omar_tiny --data MANIFEST --run RUN · 2 CPU cores · minutes
    """
    tiny = muq_tiny()
    codes = RandomProjectionSettings(
        weight=1.0, features=("mel", "cqt"), codebooks=2, codebook_size=256, window=4096, statistics="corpus",
        edges="reflect", head=_TINY_LINEAR,
    )  # fmt: skip
    objective = dataclasses.replace(tiny.objective, rvq=RVQSettings(), random_projection=codes)
    return dataclasses.replace(tiny, objective=objective)


def omar_debug() -> Recipe:
    """OMAR-RQ in miniature: stacked mel frames, one conformer layer of 32, 2 × 16 codes each of mel, CQT and waveform.

    groundbass pretrain masked.omar_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    shape = dataclasses.replace(
        _DRY, frontend="stacked", n_fft=512, mel_bins=24, mel_scale="slaney", mel_mean=2.0, mel_std=1.2, hidden_size=32,
        num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, conv_kernel=5,
    )  # fmt: skip
    codes = dataclasses.replace(
        _OMAR_CODES, features=("mel", "cqt", "waveform"), codebooks=2, codebook_size=16, mels=24, crops=8,
        head=_DEBUG_LINEAR,
    )  # fmt: skip
    masking = dataclasses.replace(_MUSICFM_MASK, span=5)
    return _debug(
        MaskedConfig(encoder=shape, masking=masking, mixture=_NO_MIXTURE, cqt=_NO_CQT, random_projection=codes), hop=960
    )
