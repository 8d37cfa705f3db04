"""Masked latent prediction: say what an averaged copy of oneself hears at the hidden patches.

EAT (Chen et al. 2024, arXiv:2401.03497), after data2vec 2.0 (Baevski et al. 2022). A teacher, the exponential average
of the encoder's weights, hears whole clips once; the encoder hears several small, differently masked parts of each
clip, so that one teacher pass serves many steps of learning; a light convolutional decoder fills in the rest. EAT
claims BEATs' quality at about a fifteenth of the cost. `eat_*` is the published one, `eat_beats_*` a variant: BEATs'
encoder (relative bias instead of absolute positions, so that clips of any length can be heard), block outputs as
targets, a learned embedding at hidden places, the mean of the heard patches where EAT has a class token, a clip-level
loss of weight 1.

`m2d_*` and `matpac_*`, where the teacher hears the hidden patches alone, are `split_views.py`'s.

    groundbass pretrain latent.eat_tiny --data MANIFEST --run RUN
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ...data.crops import CropConfig
from ...data.draws import draw_seeds, sent, uniform
from ...models.beats import BeatsModel
from ...models.transformer import time_mask
from ...models.vit import ViTModel
from ..clock import section
from ..objective import Loss, Objective, ObjectiveConfig, example_index
from ..recipe import Optim, Recipe
from . import tokens
from .parts.grid_decoder import GridDecoder, NoiseGrid
from .parts.masking import taken, true_places
from .split_views import SplitConfig, ViTShape, follow, stop_if_collapsed
from .tokens import BeatsShape, check_rate, hidden_patches, kept_number, take

if TYPE_CHECKING:
    from ...data.batch import Batch

HIDE = 121  # stream of draws, one more for each mask
NOISE = 100_000  # streams of the decoder's noise, one more for each mask


@dataclass(frozen=True)
class LatentConfig(ObjectiveConfig):
    """The variant on BEATs' encoder: what is hidden, how the teacher follows, what the decoder is."""

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
        waveform, valid = batch.by_view()
        with torch.no_grad(), section("targets"):
            fbank = model.fbank(waveform)
            rows = fbank.shape[1] // model.config.patch_size
            inside = time_mask(model.valid_patches(valid), rows * model.bands)
            host_valid, _ = batch.on_host().by_view()
            sound = time_mask(model.valid_patches(host_valid), rows * model.bands)
            wanted = self._taught(fbank, inside, whole_or_places(sound, fbank.device))

        # every clip once per mask: [masks · clips]
        embedded = model.embed_patches(fbank).repeat(config.masks, 1, 1)
        wanted, inside = wanted.repeat(config.masks, 1, 1), inside.repeat(config.masks, 1)
        index = example_index(batch)
        seeds = torch.cat([draw_seeds(self.seed, index, HIDE + number) for number in range(config.masks)])
        counts = sound.sum(1).repeat(config.masks)
        positions, mask = draw_blocks(inside, rows, 1 - config.hidden, config.block, seeds, counts)
        hidden = hidden_patches(inside, positions, mask)
        even = all_alike(kept_number(counts, 1 - config.hidden))
        heard = model.encode(take(embedded, positions), positions, None if even else mask, inside.shape[1])[-1]

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
    def _taught(self, fbank: Tensor, inside: Tensor, sound: Tensor | None) -> Tensor:
        """What the teacher says of every patch: the mean of its blocks' outputs, each normalised over the clip.

        fbank: [batch, frames, bins]; inside: bool [batch, tokens]; sound: its `true_places`, None where all are.
        Returns float32 [batch, tokens, dim].
        """
        mask = None if sound is None else inside
        states = self.teacher.encode(self.teacher.embed_patches(fbank), mask=mask, keep_all=True)[1:]
        self._spread = spread(states[-1].float(), sound)
        blocks = torch.stack([over_clip(state.float(), inside) for state in states]).mean(0)
        return functional.layer_norm(blocks, blocks.shape[-1:])

    def _spread_now(self) -> Tensor:
        assert self._spread is not None
        return self._spread

    def _decode(self, heard: Tensor, positions: Tensor, mask: Tensor, rows: int) -> Tensor:
        batch = len(heard)
        total = rows * self.encoder.bands
        where = positions.masked_fill(~mask, total)[..., None].expand_as(heard)  # padding goes behind the end
        grid = self.hidden_embedding.to(heard.dtype).expand(batch, total + 1, -1).scatter(1, where, heard)[:, :total]
        found = self.decoder(rearrange(grid, "batch (times bands) dim -> batch times bands dim", times=rows))
        return rearrange(found, "batch times bands dim -> batch (times bands) dim")

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
        follow(self.teacher, self.encoder, keep)
        stop_if_collapsed(self._spread, step)

    def compiled_parts(self) -> list[nn.Module]:
        """The blocks of encoder and teacher, which `encode` calls, and the decoder."""
        return [*self.encoder.encoder.layers, *self.teacher.encoder.layers, self.decoder]

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


def whole_or_places(sound: Tensor, device: torch.device) -> Tensor | None:
    """`true_places` of bool [batch, tokens] on the CPU, sent to the device; None where all are True."""
    return None if bool(sound.all()) else sent(true_places(sound), device)


def spread(states: Tensor, sound: Tensor | None) -> Tensor:
    """Deviation between patches, the mean over channels: states [batch, tokens, dim] at the places `sound`, or all."""
    found = states.flatten(0, 1) if sound is None else taken(states, sound)
    return found.std(0, correction=0).mean() if len(found) else torch.ones((), device=found.device)


def all_alike(numbers: Tensor) -> bool:
    """Whether all rows keep as many patches, at least one; numbers: int64 [batch] on the CPU."""
    return bool((numbers == numbers.max().clamp(min=1)).all())


def draw_blocks(
    inside: Tensor, rows: int, share: float, block: int, seeds: Tensor, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Choose which patches are heard: square blocks at random places, until round(share × sound patches) are covered.

    The last block is cut where the count is reached, so that all clips of one length keep the same number. (Inverse
    block masking, data2vec 2.0.)

    Args:
        inside: bool [batch, tokens], the patches that are sound, time-major.
        rows: times of the grid; bands are tokens / rows.
        share: of the sound patches that is kept.
        block: side of a block in patches.
        seeds: int64 [batch], one per row.
        counts: int64 [batch], the sound patches of each row, on the CPU; None: they are read from `inside`.

    Returns:
        Positions int64 [batch, kept] in rising order, and bool [batch, kept], False behind a row's last.
    """
    total = inside.shape[1]
    bands = total // rows
    counts = inside.sum(1).cpu() if counts is None else counts
    kept = kept_number(counts, share)
    most = max(1, int(kept.max()))
    number, counts = sent(torch.stack([kept, counts]), inside.device).unbind(0)
    blocks = 4 * math.ceil(total * share / block**2) + 4
    draws = uniform(seeds, 2 * blocks + total)
    lengths = (counts // bands).clamp(min=1)[:, None]  # blocks start where there is sound, or just outside
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
    mask = torch.arange(most, device=inside.device) < number[:, None]
    chosen = keys.argsort(1)[:, :most].masked_fill(~mask, total).sort(1).values
    return chosen.clamp(max=total - 1), mask


@dataclass(frozen=True)
class EatConfig(ObjectiveConfig):
    """EAT as published: what is hidden, how the teacher follows, what each loss weighs."""

    encoder: ViTShape = field(
        default_factory=lambda: ViTShape(
            frontend="kaldi", mel_bins=128, low_frequency=20.0, fbank_mean=-4.268, fbank_std=9.138, norm_first=False,
            initializer_range=0.02, class_token_std=1.0, stretch=64, bands="mean",
        )
    )  # fmt: skip
    hidden: float = 0.8
    """Share of a clip's patches that is hidden."""
    block: int = 5
    """Side of the square blocks of patches that are kept (inverse block masking)."""
    adjust: float = 0.07
    """Added to the share that is kept where blocks are counted."""
    masks: int = 16
    """Masks per clip, which share one pass of the teacher."""
    noise: float = 0.01
    """Deviation of the noise that stands at hidden places before the decoder."""
    decoder_layers: int = 6
    decoder_groups: int = 16
    """Groups of the decoder's 3 × 3 convolutions."""
    clip_weight: float = 192.0
    """Weight of the clip-level loss, where the patch loss has 1: the published code sums it over the rows of a GPU, 12
    clips × 16 masks."""
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

    def build(self) -> Eat:
        """Build the objective."""
        return Eat(self)


class Eat(Objective):
    """Square error at hidden patches, and of the class token to the clip's mean; the weight counts hidden patches.

    Both are summed over the width and divided by its root, as published: √dim times a mean over the width.
    """

    encoder: ViTModel

    def __init__(self, config: EatConfig) -> None:
        super().__init__()
        self.config = config
        shape = config.encoder.config()
        self.encoder = ViTModel(shape)
        self.teacher = ViTModel(shape)
        self.teacher.load_state_dict(self.encoder.state_dict())
        self.teacher.requires_grad_(False)
        self.decoder = GridDecoder(shape.hidden_size, config.decoder_layers, config.decoder_groups, published=True)
        self.noise = NoiseGrid()
        self._spread: Tensor | None = None

    def encoder_loaded(self) -> None:
        """The teacher begins as the encoder."""
        self.teacher.load_state_dict(self.encoder.state_dict())

    def train(self, mode: bool = True) -> Eat:
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
        waveform, valid = batch.by_view()
        rows = model.config.rows
        with torch.no_grad(), section("targets"):
            fbank = model.fbank(waveform)
            times = fbank.shape[1] // model.config.patch_frames
            inside = time_mask(model.valid_frames(valid) * rows, times * rows)
            host_valid, _ = batch.on_host().by_view()
            sound = time_mask(model.valid_frames(host_valid) * rows, times * rows)
            wanted = self._taught(fbank, inside, whole_or_places(sound, fbank.device))

        tokens = model.place(model.embed(fbank)).repeat(config.masks, 1, 1)  # every clip once per mask
        wanted, inside = wanted.repeat(config.masks, 1, 1), inside.repeat(config.masks, 1)
        index = example_index(batch)
        seeds = torch.cat([draw_seeds(self.seed, index, HIDE + number) for number in range(config.masks)])
        counts = sound.sum(1).repeat(config.masks)
        positions, mask = draw_blocks_as_published(
            inside, times, 1 - config.hidden, config.block, seeds, config.adjust, counts
        )
        hidden = hidden_patches(inside, positions, mask)
        even = all_alike(kept_as_published(counts, 1 - config.hidden))
        heard = model.encode(take(tokens, positions), None if even else mask)[-1]

        seeds = torch.cat([draw_seeds(self.seed, index, NOISE + number) for number in range(config.masks)])
        predicted = self._decode(heard[:, 1:], positions, mask, times, seeds)
        count, root = hidden.sum(), math.sqrt(wanted.shape[2])
        patch = root * (predicted.float() - wanted).square().mean(-1).masked_fill(~hidden, 0.0).sum()
        clip = root * (heard[:, 0].float() - mean_over(wanted, inside)).square().mean(-1)
        share = hidden.sum(1)  # clips count as their hidden patches do
        patch, clip = patch / count.clamp(min=1), (clip * share).sum() / count.clamp(min=1)
        assert self._spread is not None
        metrics: dict[str, Tensor | float] = {
            "patch": patch.detach(),
            "clip": clip.detach(),
            "spread": self._spread,
        }
        return Loss(patch + config.clip_weight * clip, count, metrics)

    @torch.no_grad()
    def _taught(self, fbank: Tensor, inside: Tensor, sound: Tensor | None) -> Tensor:
        """What the teacher says of every patch, float32 [batch, tokens, dim]; arguments as `Latent`'s.

        The mean over blocks of their feed-forward layers' outputs, before residual and norm, each normalised over the
        clip; then a layer norm.
        """
        outputs: list[Tensor] = []
        layers: list[Any] = list(self.teacher.encoder.layers)
        hooks = [block.feed_forward.register_forward_hook(lambda _, __, out: outputs.append(out)) for block in layers]
        try:
            tokens = self.teacher.place(self.teacher.embed(fbank))
            last = self.teacher.encode(tokens, None if sound is None else inside)[-1][:, 1:]
        finally:
            for hook in hooks:
                hook.remove()
        self._spread = spread(last.float(), sound)
        blocks = torch.stack([over_clip(output[:, 1:].float(), inside) for output in outputs]).mean(0)
        return functional.layer_norm(blocks, blocks.shape[-1:])

    def _decode(self, heard: Tensor, positions: Tensor, mask: Tensor, times: int, seeds: Tensor) -> Tensor:
        """Noise at the hidden places, what was heard at the others, then the decoder."""
        dim = heard.shape[2]
        total = times * self.encoder.config.rows
        grid = (self.config.noise * self.noise(seeds, total + 1, dim)).to(heard.dtype)
        where = positions.masked_fill(~mask, total)[..., None].expand_as(heard)  # padding goes behind the end
        grid = grid.scatter(1, where, heard)[:, :total]
        found = self.decoder(rearrange(grid, "batch (times bands) dim -> batch times bands dim", times=times))
        return rearrange(found, "batch times bands dim -> batch (times bands) dim")

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Let the teacher follow; raise TrainingStopped where it says the same of every patch."""
        config = self.config
        progress = min(1.0, step / max(1, config.ema_steps))
        follow(self.teacher, self.encoder, config.ema_start + (config.ema_end - config.ema_start) * progress)
        stop_if_collapsed(self._spread, step)

    def compiled_parts(self) -> list[nn.Module]:
        """The encoder's blocks, the decoder and its noise; the teacher's blocks are listened to inside."""
        return [*self.encoder.encoder.layers, self.decoder, self.noise]


def kept_as_published(counts: Tensor, share: float) -> Tensor:
    """Patches that are kept of counts int64 [batch]: int(share · patches), at least one where one can be hidden."""
    return torch.minimum((counts * share).long().clamp(min=1), (counts - 1).clamp(min=0))


def draw_blocks_as_published(
    inside: Tensor, times: int, share: float, block: int, seeds: Tensor, adjust: float, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Choose which patches are heard as EAT's code does: few blocks, cut at the edges, then single patches.

    int(patches · (share + adjust) / block²) centres, drawn with repetition from all sound patches; a block that would
    reach beyond the grid is smaller there. Then single patches are dropped or added at random until
    int(share · patches) are kept, so that some stand alone (6 % with the published settings) and the edge bands are
    kept less often.

    Arguments and result are those of `draw_blocks`.
    """
    total = inside.shape[1]
    bands = total // times
    counts = inside.sum(1).cpu() if counts is None else counts
    number = kept_as_published(counts, share)
    blocks = (counts * (share + adjust) / block**2).long()
    most, most_blocks = max(1, int(number.max())), max(1, int(blocks.max()))
    number, blocks, counts = sent(torch.stack([number, blocks, counts]), inside.device).unbind(0)
    draws = uniform(seeds, most_blocks + total)
    centres = (draws[:, :most_blocks] * counts[:, None]).long()
    centres = centres.masked_fill(
        torch.arange(most_blocks, device=inside.device) >= blocks[:, None], -(block**2) * total
    )
    place = torch.arange(total, device=inside.device)
    before = block // 2
    time, band = centres.div(bands, rounding_mode="floor")[..., None] - before, (centres % bands)[..., None] - before
    covers = (place // bands >= time) & (place // bands < time + block)
    covers &= (place % bands >= band) & (place % bands < band + block)
    covered = covers.any(1) & inside
    keys = (draws[:, most_blocks:] + (~covered).double()).masked_fill(~inside, 3.0)
    mask = torch.arange(most, device=inside.device) < number[:, None]
    chosen = keys.argsort(1)[:, :most].masked_fill(~mask, total).sort(1).values
    return chosen.clamp(max=total - 1), mask


def eat_base() -> Recipe:
    """EAT base as published: 16 masks of 80 %, 10.26-second crops (1,024 frames), 48 clips per step.

    groundbass pretrain latent.eat_base --data MANIFEST --run RUN · published: 4 RTX 3090 for about 58 hours (10 epochs
    of AudioSet)
    """
    return Recipe(
        objective=EatConfig(),
        crops=CropConfig(sample_rate=16_000, crop_samples=164_080),
        optim=Optim(
            lr=5e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup_steps=53_333, decay="cosine", clip=4.0, fused=True
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
    base = eat_base()
    shape = dataclasses.replace(
        base.objective.encoder, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, intermediate_size=2048
    )
    config = EatConfig(encoder=shape, masks=8, ema_start=0.999, ema_end=0.9999, ema_steps=30_000)
    optim = dataclasses.replace(base.optim, warmup_steps=2000)
    return dataclasses.replace(base, objective=config, optim=optim, steps=50_000, batch_size=64, micro_batch=64)


def eat_tiny() -> Recipe:
    """EAT with 4 blocks of 192 and 4 masks on 5-second crops: two CPU cores for minutes.

    groundbass pretrain latent.eat_tiny --data MANIFEST --run RUN · 2 CPU cores · minutes
    """
    shape = dataclasses.replace(
        EatConfig().encoder, hidden_size=192, num_hidden_layers=4, num_attention_heads=6, intermediate_size=768,
        stretch=31,
    )  # fmt: skip
    config = EatConfig(
        encoder=shape, masks=4, block=3, decoder_layers=2, clip_weight=32.0, ema_start=0.99, ema_end=0.999,
        ema_steps=150,
    )  # fmt: skip
    first = tokens.beats_iter1_tiny()
    optim = dataclasses.replace(first.optim, lr=1e-3, weight_decay=0.05, warmup_steps=20)
    return dataclasses.replace(first, objective=config, optim=optim, steps=400, batch_size=8, checkpoint_every=100)


def eat_debug() -> Recipe:
    """EAT in miniature: two blocks of 32, two masks.

    groundbass pretrain latent.eat_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    config = EatConfig(
        encoder=dataclasses.replace(EatConfig().encoder, stretch=7, **_DEBUG_VIT), masks=2, block=2, decoder_layers=1,
        decoder_groups=4, ema_start=0.9, ema_end=0.99, ema_steps=10,
    )  # fmt: skip
    return dataclasses.replace(tokens.beats_iter1_debug(), objective=config)


_DEBUG_VIT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48
}  # fmt: skip


def eat_beats_base() -> Recipe:
    """EAT on BEATs' encoder: 16 masks of 80 %, 10-second crops.

    groundbass pretrain latent.eat_beats_base --data MANIFEST --run RUN · as `eat_base`
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


def eat_beats_small() -> Recipe:
    """EAT on BEATs' encoder with 8 blocks of 512 and 8 masks: one GPU for hours.

    groundbass pretrain latent.eat_beats_small --data MANIFEST --run RUN · one GPU · hours
    """
    base, shape = eat_beats_base(), tokens.beats_iter1_small().objective.encoder
    shape = dataclasses.replace(shape, hidden_dropout=0.0, attention_dropout=0.0)
    config = LatentConfig(encoder=shape, masks=8, ema_start=0.999, ema_end=0.9999, ema_steps=30_000)
    optim = dataclasses.replace(base.optim, warmup_steps=2000)
    return dataclasses.replace(base, objective=config, optim=optim, steps=50_000, batch_size=64, micro_batch=64)


def eat_beats_tiny() -> Recipe:
    """EAT on BEATs' encoder with 4 blocks of 192 and 4 masks on 5-second crops: two CPU cores for minutes.

    groundbass pretrain latent.eat_beats_tiny --data MANIFEST --run RUN · 2 CPU cores · minutes
    """
    config = LatentConfig(
        encoder=tokens.TINY, masks=4, block=3, decoder_layers=2, ema_start=0.99, ema_end=0.999, ema_steps=400
    )
    first = tokens.beats_iter1_tiny()
    optim = dataclasses.replace(first.optim, lr=1e-3, weight_decay=0.05)
    return dataclasses.replace(first, objective=config, optim=optim, steps=500, batch_size=8)


def eat_beats_debug() -> Recipe:
    """EAT on BEATs' encoder in miniature: two blocks of 32, two masks.

    groundbass pretrain latent.eat_beats_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    config = LatentConfig(
        encoder=tokens.DEBUG, masks=2, block=2, decoder_layers=1, decoder_groups=4, ema_start=0.9, ema_end=0.99,
        ema_steps=10,
    )  # fmt: skip
    return dataclasses.replace(tokens.beats_iter1_debug(), objective=config)


def m2d_base() -> Recipe:
    """M2D: 70 % of the patches hidden, the teacher hears these alone, 6.1-second crops (608 frames), 2,048 per step.

    groundbass pretrain latent.m2d_base --data MANIFEST --run RUN · published: 4 GPUs, 300 epochs of AudioSet
    """
    return Recipe(
        objective=SplitConfig(),
        crops=CropConfig(sample_rate=16_000, crop_samples=97_520),
        optim=Optim(
            lr=3e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup_steps=19_654, decay="cosine", clip=3.0, fused=True
        ),
        steps=294_816,
        batch_size=2048,
        micro_batch=256,
        precision="bf16",
        log_every=50,
        checkpoint_every=5000,
        workers=8,
    )


def m2d_small() -> Recipe:
    """M2D with 12 blocks of 384: one GPU for hours.

    groundbass pretrain latent.m2d_small --data MANIFEST --run RUN · one GPU · hours
    """
    base = m2d_base()
    shape = ViTShape(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    config = SplitConfig(
        encoder=shape, predictor_dim=256, predictor_layers=4, predictor_heads=8, ema_start=0.999, ema_end=0.9999,
        ema_steps=50_000,
    )  # fmt: skip
    optim = dataclasses.replace(base.optim, lr=5e-4, warmup_steps=2000)
    return dataclasses.replace(base, objective=config, optim=optim, steps=50_000, batch_size=256, micro_batch=256)


def m2d_tiny() -> Recipe:
    """M2D with 4 blocks of 192 on two 64-bin patches per 80 ms, 4-second crops: two CPU cores for minutes.

    groundbass pretrain latent.m2d_tiny --data MANIFEST --run RUN · 2 CPU cores · minutes
    """
    shape = ViTShape(
        mel_bins=128, frame_samples=2048, fbank_mean=-4.5, fbank_std=4.0, patch_frames=8, patch_bins=64,
        hidden_size=192, num_hidden_layers=4, num_attention_heads=6, intermediate_size=768, stretch=48,
    )  # fmt: skip
    config = SplitConfig(
        encoder=shape, predictor_dim=128, predictor_layers=2, predictor_heads=4, ema_start=0.98, ema_end=0.998,
        ema_steps=300,
    )  # fmt: skip
    return Recipe(
        objective=config,
        crops=CropConfig(sample_rate=16_000, crop_samples=64_000),
        optim=Optim(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_steps=30, decay="cosine", clip=3.0),
        steps=800,
        batch_size=16,
        checkpoint_every=200,
    )


def m2d_debug() -> Recipe:
    """M2D in miniature: two blocks of 32.

    groundbass pretrain latent.m2d_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    return dataclasses.replace(tokens.beats_iter1_debug(), objective=_DEBUG_SPLIT)


_DEBUG_SPLIT = SplitConfig(
    encoder=ViTShape(stretch=7, **_DEBUG_VIT), predictor_dim=16, predictor_layers=1, predictor_heads=2,
    ema_start=0.9, ema_end=0.99, ema_steps=10,
)  # fmt: skip


def matpac_base() -> Recipe:
    """MATPAC++: M2D with five hypotheses and the teacher's distribution over 2,048 prototypes.

    groundbass pretrain latent.matpac_base --data MANIFEST --run RUN · published: 8 GPUs, 300 epochs of AudioSet
    """
    return _with_both_tasks(m2d_base())


def matpac_small() -> Recipe:
    """MATPAC++ with 12 blocks of 384: one GPU for hours.

    groundbass pretrain latent.matpac_small --data MANIFEST --run RUN · one GPU · hours
    """
    return _with_both_tasks(m2d_small(), hypothesis_decay=0.9998, teacher_warmup=2000)


def matpac_tiny() -> Recipe:
    """MATPAC++ with 4 blocks of 192 and 256 prototypes: two CPU cores for minutes.

    groundbass pretrain latent.matpac_tiny --data MANIFEST --run RUN · 2 CPU cores · minutes
    """
    return _with_both_tasks(
        m2d_tiny(), hypothesis_decay=0.985, teacher_warmup=40, prototypes=256, head_hidden=512, head_dim=128,
        head_ema_start=0.98,
    )  # fmt: skip


def matpac_debug() -> Recipe:
    """MATPAC++ in miniature: two blocks of 32, three hypotheses, 32 prototypes.

    groundbass pretrain latent.matpac_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    return _with_both_tasks(
        m2d_debug(), hypotheses=3, hypothesis_decay=0.9, teacher_warmup=4, prototypes=32, head_hidden=24, head_dim=8,
        head_ema_start=0.9,
    )  # fmt: skip


def _with_both_tasks(recipe: Recipe, **changes: Any) -> Recipe:
    """Five hypotheses and half of each task, fairseq's weight decay of everything."""
    both = {"hypotheses": 5, "latent_weight": 0.5, "distribution_weight": 0.5, **changes}
    return dataclasses.replace(
        recipe,
        objective=dataclasses.replace(recipe.objective, **both),
        optim=dataclasses.replace(recipe.optim, eps=1e-6, decay_all=True),
    )
