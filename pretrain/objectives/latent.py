"""Masked latent prediction: say what an averaged copy of oneself hears at the hidden patches.

EAT (Chen et al. 2024, arXiv:2401.03497), after data2vec 2.0 (Baevski et al. 2022) and close to M2D (Niizumi et al.
2022). A teacher, the exponential average of the encoder's weights, hears whole clips once; the encoder hears several
small, differently masked parts of each clip, so that one teacher pass serves many steps of learning; a light
convolutional decoder fills in the rest. EAT claims BEATs' quality at about a fifteenth of the cost. Differences: the
encoder is BEATs' (relative bias instead of absolute positions), and the clip-level loss takes the mean of the heard
patches where EAT has a class token.

    groundbass pretrain latent.eat_tiny --data MANIFEST --run RUN
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...data.crops import CropConfig
from ...data.draws import draw_seeds, uniform
from ...models.beats import BeatsModel, init_weights
from ...models.transformer import time_mask
from ..clock import section
from ..distributed import all_reduce_sum, ranks, whole
from ..objective import Loss, Objective, ObjectiveConfig, TrainingStopped, example_index
from ..recipe import Optim, Recipe
from . import tokens
from .tokens import BeatsShape, check_rate, hidden_patches, take

if TYPE_CHECKING:
    from ...data.batch import Batch

HIDE = 121  # stream of draws, one more for each mask
COLLAPSED = 0.01
"""Deviation of the teacher's (layer-normalised) output between patches, below which it says the same everywhere."""


@dataclass(frozen=True)
class LatentConfig(ObjectiveConfig):
    """What is hidden, how the teacher follows, what the decoder is."""

    encoder: BeatsShape = field(default_factory=BeatsShape)
    hidden: float = 0.8
    """Share of a clip's patches that is hidden."""
    block: int = 5
    """Side of the square blocks of patches that are kept (inverse block masking)."""
    masks: int = 16
    """Masks per clip, which share one pass of the teacher."""
    decoder_layers: int = 6
    decoder_groups: int = 16
    """Groups of the decoder's 3 × 3 convolutions."""
    clip_weight: float = 1.0
    """Weight of the clip-level loss; 0 turns it off."""
    ema_start: float = 0.9998
    """Share of the teacher that a step keeps, at first."""
    ema_end: float = 0.99999
    """The same from ema_steps on."""
    ema_steps: int = 100_000

    def __post_init__(self) -> None:
        """Refuse what can't be learned."""
        if not 0 < self.hidden < 1:
            raise ValueError(f"hidden is {self.hidden}: the share of hidden patches lies between 0 and 1.")
        if self.masks < 1 or self.block < 1:
            raise ValueError(f"masks is {self.masks} and block {self.block}: both are at least 1.")

    def build(self) -> Latent:
        """Build the objective."""
        return Latent(self)


class GridDecoder(nn.Module):
    """Residual 3 × 3 convolutions over the grid of times and bands, then the teacher's width."""

    def __init__(self, dim: int, layers: int, groups: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1, groups=groups) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim, elementwise_affine=False) for _ in range(layers))
        self.predict = nn.Linear(dim, dim)
        self.apply(_init_decoder)

    def forward(self, grid: Tensor) -> Tensor:
        """Grid [batch, times, bands, dim] to predictions of the same shape."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            filtered = convolution(grid.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            grid = grid + functional.gelu(norm(filtered))
        found: Tensor = self.predict(grid)
        return found


def _init_decoder(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        init_weights(module)


class Latent(Objective):
    """Mean square error to the teacher at hidden patches, plus that of the clip's mean; the weight counts patches."""

    encoder: BeatsModel

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.config = config
        shape = config.encoder.config()
        self.encoder = BeatsModel(shape)
        self.teacher = BeatsModel(shape)
        self.teacher.load_state_dict(self.encoder.state_dict())
        self.teacher.requires_grad_(False)
        self.decoder = GridDecoder(shape.hidden_size, config.decoder_layers, config.decoder_groups)
        self.hidden_embedding = nn.Parameter(torch.randn(shape.hidden_size) * 0.02)
        self.clip_head = nn.Linear(shape.hidden_size, shape.hidden_size)
        self._spread: Tensor | None = None

    def encoder_loaded(self) -> None:
        """The teacher begins as the encoder."""
        self.teacher.load_state_dict(self.encoder.state_dict())

    def train(self, mode: bool = True) -> Latent:
        """The teacher never drops anything."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch, step: int) -> Loss:
        """Teach once, hide several times, predict.

        Raises:
            ValueError: the audio has another sample rate, or crops are shorter than a row of patches.
        """
        model, config = self.encoder, self.config
        check_rate(batch, model.config.sample_rate)
        waveform, valid = batch.waveform.flatten(0, 1), batch.valid.flatten()
        with torch.no_grad(), section("targets"):
            fbank = model.fbank(waveform)
            rows = fbank.shape[1] // model.config.patch_size
            inside = time_mask(model.valid_patches(valid), rows * model.bands)
            wanted = self._taught(fbank, inside)

        # every clip once per mask: [masks · clips]
        embedded = model.embed_patches(fbank).repeat(config.masks, 1, 1)
        wanted, inside = wanted.repeat(config.masks, 1, 1), inside.repeat(config.masks, 1)
        index = example_index(batch)
        seeds = torch.cat([draw_seeds(self.seed, index, HIDE + number) for number in range(config.masks)])
        positions, mask = draw_blocks(inside, rows, 1 - config.hidden, config.block, seeds)
        hidden = hidden_patches(inside, positions, mask)
        whole = bool(mask.all())
        heard = model.encode(take(embedded, positions), positions, None if whole else mask, inside.shape[1])[-1]

        predicted = self._decode(heard, positions, mask, rows)
        count = hidden.sum()
        patch = (predicted.float() - wanted).square().mean(-1).masked_fill(~hidden, 0.0).sum() / count.clamp(min=1)
        clip = self._clip_loss(heard, mask, wanted, inside, hidden)
        metrics: dict[str, Tensor | float] = {
            "patch": patch.detach(),
            "clip": clip.detach(),
            "spread": self._spread_now(),
        }
        return Loss(patch + config.clip_weight * clip, count, metrics)

    @torch.no_grad()
    def _taught(self, fbank: Tensor, inside: Tensor) -> Tensor:
        """What the teacher says of every patch: the mean of its blocks' outputs, each normalised over the clip.

        fbank: [batch, frames, bins]; inside: bool [batch, tokens]. Returns float32 [batch, tokens, dim].
        """
        mask = None if bool(inside.all()) else inside
        states = self.teacher.encode(self.teacher.embed_patches(fbank), mask=mask, keep_all=True)[1:]
        last = states[-1].float()[inside]
        self._spread = last.std(0, correction=0).mean() if len(last) else torch.ones((), device=last.device)
        blocks = torch.stack([over_clip(state.float(), inside) for state in states]).mean(0)
        return functional.layer_norm(blocks, blocks.shape[-1:])

    def _spread_now(self) -> Tensor:
        assert self._spread is not None
        return self._spread

    def _decode(self, heard: Tensor, positions: Tensor, mask: Tensor, rows: int) -> Tensor:
        batch, _, dim = heard.shape
        total = rows * self.encoder.bands
        where = positions.masked_fill(~mask, total)[..., None].expand_as(heard)  # padding goes behind the end
        grid = self.hidden_embedding.to(heard.dtype).expand(batch, total + 1, -1).scatter(1, where, heard)[:, :total]
        return self.decoder(grid.reshape(batch, rows, -1, dim)).flatten(1, 2)

    def _clip_loss(self, heard: Tensor, mask: Tensor, wanted: Tensor, inside: Tensor, hidden: Tensor) -> Tensor:
        """The mean of what was heard against the mean of what was taught; clips count as their hidden patches do."""
        ours = self.clip_head(mean_over(heard.float(), mask))
        each = (ours - mean_over(wanted, inside)).square().mean(-1)
        share = hidden.sum(1)
        return (each * share).sum() / share.sum().clamp(min=1)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Let the teacher follow; stop where it says the same of every patch.

        Raises:
            TrainingStopped: the teacher has collapsed.
        """
        config = self.config
        progress = min(1.0, step / max(1, config.ema_steps))
        keep = config.ema_start + (config.ema_end - config.ema_start) * progress
        for old, new in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            with whole(old, new):
                old.lerp_(new.to(old.dtype), 1 - keep)
        if self._spread is not None and (step + 1) % 100 == 0:
            spread = float(all_reduce_sum(self._spread.clone())) / ranks()
            if spread < COLLAPSED:
                raise TrainingStopped(
                    f"After step {step + 1} the teacher says nearly the same of every patch (deviation {spread:.4f}, "
                    f"expected at least {COLLAPSED}): the representation has collapsed. Lower the learning rate, or "
                    "raise ema_start."
                )

    def compile_encoder(self) -> None:
        """Compile the blocks of encoder and teacher, which `encode` calls."""
        for block in [*self.encoder.encoder.layers, *self.teacher.encoder.layers]:
            block.compile()

    @property
    def leaves_unused(self) -> bool:
        """True without a clip-level loss: its head then has no gradient."""
        return self.config.clip_weight == 0


def over_clip(states: Tensor, inside: Tensor) -> Tensor:
    """Each channel of [batch, tokens, dim] with zero mean and unit variance over its clip's sound patches."""
    counted = inside[..., None]
    number = counted.sum(1, keepdim=True).clamp(min=1)
    centred = (states - states.masked_fill(~counted, 0.0).sum(1, keepdim=True) / number).masked_fill(~counted, 0.0)
    return centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / number + 1e-5)


def mean_over(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of [batch, n, dim] over the True places of bool [batch, n]."""
    return states.masked_fill(~mask[..., None], 0.0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def draw_blocks(inside: Tensor, rows: int, share: float, block: int, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Choose which patches are heard: square blocks at random places, until round(share × sound patches) are covered.

    The last block is cut where the count is reached, so that all clips of one length keep the same number. (Inverse
    block masking, data2vec 2.0.)

    Args:
        inside: bool [batch, tokens], the patches that are sound, time-major.
        rows: times of the grid; bands are tokens / rows.
        share: of the sound patches that is kept.
        block: side of a block in patches.
        seeds: int64 [batch], one per row.

    Returns:
        Positions int64 [batch, kept] in rising order, and bool [batch, kept], False behind a row's last.
    """
    total = inside.shape[1]
    bands = total // rows
    number = (inside.sum(1) * share).round().long().clamp(min=1)
    number = torch.minimum(number, (inside.sum(1) - 1).clamp(min=0))
    blocks = 4 * math.ceil(total * share / block**2) + 4
    draws = uniform(seeds, 2 * blocks + total)
    lengths = (inside.sum(1) // bands).clamp(min=1)[:, None]  # blocks start where there is sound, or just outside
    top = (draws[:, :blocks] * (lengths + block - 1)).long() - (block - 1)
    left = (draws[:, blocks : 2 * blocks] * (bands + block - 1)).long() - (block - 1)
    place = torch.arange(total, device=inside.device)
    time, band = place // bands, place % bands
    covers = (
        (time >= top[..., None])
        & (time < top[..., None] + block)
        & (band >= left[..., None])
        & (band < left[..., None] + block)
    )  # [batch, blocks, tokens]
    first = torch.where(covers.any(1), covers.int().argmax(1), blocks)  # the number of the first block on a patch
    keys = (first + draws[:, 2 * blocks :]).masked_fill(~inside, 2.0 * blocks + 2)
    most = max(1, int(number.max()))
    mask = torch.arange(most, device=inside.device) < number[:, None]
    chosen = keys.argsort(1)[:, :most].masked_fill(~mask, total).sort(1).values
    return chosen.clamp(max=total - 1), mask


def eat_base() -> Recipe:
    """EAT base: BEATs' encoder, 16 masks of 80 %, 10-second crops.

    groundbass pretrain latent.eat_base --data MANIFEST --run RUN · published: 4 RTX 3090 for about 58 hours (10 epochs
    of AudioSet), effective batch 48 clips
    """
    return Recipe(
        objective=LatentConfig(encoder=BeatsShape(hidden_dropout=0.0, attention_dropout=0.0)),
        crops=CropConfig(sample_rate=16_000, crop_samples=160_000),
        optim=Optim(
            lr=5e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup_steps=53_000, decay="cosine", clip=4.0, fused=True
        ),
        steps=400_000,
        batch_size=48,
        micro_batch=12,
        precision="bf16",
        log_every=50,
        checkpoint_every=5000,
        workers=8,
    )


def eat_small() -> Recipe:
    """EAT with 8 blocks of 512 and 8 masks: one GPU for hours.

    groundbass pretrain latent.eat_small --data MANIFEST --run RUN · one GPU · hours
    """
    base, shape = eat_base(), tokens.beats_iter1_small().objective.encoder
    shape = dataclasses.replace(shape, hidden_dropout=0.0, attention_dropout=0.0)
    config = LatentConfig(encoder=shape, masks=8, ema_start=0.999, ema_end=0.9999, ema_steps=30_000)
    optim = dataclasses.replace(base.optim, warmup_steps=2000)
    return dataclasses.replace(base, objective=config, optim=optim, steps=50_000, batch_size=64, micro_batch=64)


def eat_tiny() -> Recipe:
    """EAT with 4 blocks of 192 and 4 masks on 5-second crops: two CPU cores for minutes.

    groundbass pretrain latent.eat_tiny --data MANIFEST --run RUN · 2 CPU cores · minutes
    """
    config = LatentConfig(
        encoder=tokens.TINY, masks=4, block=3, decoder_layers=2, ema_start=0.99, ema_end=0.999, ema_steps=400
    )
    first = tokens.beats_iter1_tiny()
    optim = dataclasses.replace(first.optim, lr=1e-3, weight_decay=0.05)
    return dataclasses.replace(first, objective=config, optim=optim, steps=500, batch_size=8)


def eat_debug() -> Recipe:
    """EAT in miniature: two blocks of 32, two masks.

    groundbass pretrain latent.eat_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    config = LatentConfig(
        encoder=tokens.DEBUG, masks=2, block=2, decoder_layers=1, decoder_groups=4, ema_start=0.9, ema_end=0.99,
        ema_steps=10,
    )  # fmt: skip
    return dataclasses.replace(tokens.beats_iter1_debug(), objective=config)
