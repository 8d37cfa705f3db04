"""Masked crop contrast: two crops of a track, of which most tokens are left out, lie closer together than others'.

Myna (Yonay et al. 2025, arXiv:2502.12511): no augmentation but the masking, and whoever hears a tenth of the tokens
costs a tenth. What crops of a track share is what an embedding learns; on rendered music level and mean spectrum alone
give it away, so `flat` takes them out. Beside the contrast stands STONE's term (Kong et al. 2024, arXiv:2407.07408): a
distribution over twelve pitch classes that stays between crops of a track and turns with a transposed one.

Published Myna estimates the denominator over the whole collection (SogCLR); here negatives are those of the step, on
all ranks. The recipes stand in `contrastive.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from ...data.draws import draw_seeds, sent, uniform
from ...models.cqt import MAX_SHIFT
from ...models.vit import ViTModel
from ..distributed import gather, rank
from ..objective import Loss, Objective, ObjectiveConfig
from .parts.cqt_shape import CqtShape
from .parts.nt_xent import contrast, effective_rank, first_place, projector
from .split_views import ViTShape
from .tokens import check_rate, draw_kept

if TYPE_CHECKING:
    from ...data.batch import Batch

KEEP, SHIFT = 121, 124  # streams of draws; views take KEEP, KEEP + 1, KEEP + 2
TURNS = (7, 1)
"""Of a pitch class on the circle: 7 is the circle of fifths, 1 that of semitones."""


@dataclass(frozen=True)
class CropContrastConfig(ObjectiveConfig):
    """Configuration; the defaults are Myna's with 16×16 patches."""

    encoder: tyro.conf.AvoidSubcommands[ViTShape | CqtShape] = field(default_factory=ViTShape)
    """a transformer on patches, or one on whole columns of a log-CQT and a log-mel"""
    kept: float = 0.1
    """share of a crop's tokens that is heard"""
    temperature: float = 0.1
    """divides the cosine similarities"""
    projection: int = 128
    """size of the embedding that is contrasted"""
    projector_layers: int = 2
    """linear layers before it, ReLU between them"""
    flat: bool = False
    """without each crop's level and mean spectrum, which give a track away before anything is learned"""
    same_track_negatives: bool = False
    """let crops of the same track repel each other"""
    key_weight: float = 0.0
    """weight of the equivariant term; above 0 for an encoder on a log-CQT only, whose rows transpose"""

    def __post_init__(self) -> None:
        """Refuse what can't be learned."""
        if not 0 < self.kept <= 1:
            raise ValueError(f"kept is {self.kept}: a share of the tokens above 0, at most 1.")
        if self.temperature <= 0 or self.projector_layers < 1:
            raise ValueError(
                f"temperature is {self.temperature} and projector_layers {self.projector_layers}: above 0, at least 1."
            )
        on_cqt = isinstance(self.encoder, CqtShape)
        if self.key_weight < 0 or (self.key_weight and not on_cqt):
            raise ValueError(
                f"key_weight is {self.key_weight}: at least 0, and 0 for an encoder that can't transpose what it hears."
            )
        if isinstance(self.encoder, CqtShape) and (self.encoder.trunk, self.encoder.stem) != ("transformer", "patches"):
            raise ValueError(
                f"The encoder has the stem {self.encoder.stem!r} and the trunk {self.encoder.trunk!r}; only a "
                "transformer on patches can leave tokens out."
            )

    def cautions(self, micro_batches: int) -> list[str]:
        """A micro-batch is what negatives come from."""
        if micro_batches == 1:
            return []
        return ["Negatives come from one micro-batch: a smaller one is another training."]

    def build(self) -> CropContrast:
        """Draw fresh weights."""
        return CropContrast(self)


class CropContrast(Objective):
    """NT-Xent of the mean of the heard tokens of two crops, and the key's turn with a transposed third."""

    encoder: Any

    def __init__(self, config: CropContrastConfig) -> None:
        super().__init__()
        self.config = config
        shape = config.encoder
        self.encoder = ViTModel(shape.config()) if isinstance(shape, ViTShape) else shape.build()
        for name, parameter in self.encoder.named_parameters():
            if name == "masked_spec_embed":
                parameter.requires_grad_(False)  # tokens are left out, not replaced
        width = int(self.encoder.config.hidden_size)
        self.projector = projector(width, width, config.projection, config.projector_layers)
        self.classes = nn.Linear(width, 12) if config.key_weight else None

    def forward(self, batch: Batch, step: int) -> Loss:
        """Contrast view 0 with view 1 of batch.waveform [batch, 2, samples].

        Raises:
            ValueError: another number of views, or another sample rate.
        """
        if batch.waveform.shape[1] != 2:
            raise ValueError(f"Two crops of a track are compared, but crops.views is {batch.waveform.shape[1]}: set 2.")
        check_rate(batch, self.encoder.config.sample_rate)
        h_a, h_b = self._embed(batch, 0), self._embed(batch, 1)
        value, metrics = self._contrast(h_a, h_b, batch)
        if self.classes is not None:
            shift = self._shift(batch)
            turned = self._key_error(h_a, h_b, self._embed(batch, 0, shift), shift)
            value = value + self.config.key_weight * turned
            metrics["key/error"] = turned.detach()
        return Loss(value, torch.full_like(value, float(len(h_a))).detach(), metrics)

    def compiled_parts(self) -> list[nn.Module]:
        """The blocks and, of a log-CQT's encoder, the stem, which `encode_some` and `tokens` call."""
        stems = self.encoder.stems if isinstance(self.config.encoder, CqtShape) else []
        return [*stems, *self.encoder.encoder.layers]

    def _embed(self, batch: Batch, view: int, shift: Tensor | None = None) -> Tensor:
        """The mean [batch, dim] of the tokens of a view that are heard; shift: see `CqtModel.encode`."""
        waveform, valid = batch.waveform[:, view], batch.valid[:, view]
        moved = {} if shift is None else {"shift": shift}
        tokens, _ = self.encoder.tokens(waveform, valid, flat=self.config.flat, **moved)
        host, stream = batch.on_host(), KEEP + (view if shift is None else 2)
        inside = self.encoder.token_mask(host.valid[:, view], tokens.shape[1])
        inside = inside | ~inside.any(1, keepdim=True)
        # drawn on the CPU, where counts are known without waiting
        chosen = draw_kept(inside, self.config.kept, draw_seeds(self.seed, host.index, stream=stream))
        positions, mask = (sent(part, tokens.device) for part in chosen)
        found = self.encoder.encode_some(tokens, positions, None if bool(chosen[1].all()) else mask).float()
        count = mask.sum(1, keepdim=True).clamp(min=1)
        mean: Tensor = found.masked_fill(~mask[..., None], 0.0).sum(1) / count
        return mean

    def _contrast(self, h_a: Tensor, h_b: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
        keys = None if self.config.same_track_negatives else batch.key_ids()
        z_a, z_b = self.projector(h_a), self.projector(h_b)
        with torch.autocast(h_a.device.type, enabled=False):
            z_a, z_b = F.normalize(z_a.float(), dim=-1), F.normalize(z_b.float(), dim=-1)
            all_a, all_b = gather(z_a), gather(z_b)
            everyone, first = None if keys is None else gather(keys), len(z_a) * rank()
            value = contrast(z_a, z_b, all_a, all_b, first, self.config.temperature, keys, everyone)
        if not self.logs:
            return value, {}
        chance = math.log(max(2 * len(all_a) - 1, 2))
        return value, {
            "chance_loss": chance,
            "loss_over_chance": value.detach() / chance,
            "first_place": first_place(z_a, z_b, all_a, all_b, first),
            "positive_similarity": (z_a * z_b).sum(-1).mean().detach(),
            "effective_rank": effective_rank(gather(torch.cat([h_a, h_b]).detach())),
        }

    def _shift(self, batch: Batch) -> Tensor:
        """By how many bins the third view is transposed: whole semitones up to 6 either way, never none."""
        draws = uniform(draw_seeds(self.seed, batch.index.to(batch.waveform.device), stream=SHIFT), 1)[:, 0]
        most = MAX_SHIFT // 2
        semitones = (draws * 2 * most).floor().long().clamp(max=2 * most - 1) - most
        return 2 * torch.where(semitones >= 0, semitones + 1, semitones)

    def _key_error(self, h_a: Tensor, h_b: Tensor, h_c: Tensor, shift: Tensor) -> Tensor:
        """STONE's distances, the mean over both circles: about 1 where nothing is told, 0 where all turns as it should.

        Crops a and b of a track have one key; c is a, transposed up by shift / 2 semitones.
        """
        assert self.classes is not None
        error = h_a.new_zeros(())
        for turns in TURNS:
            a, b, c = (on_circle(self.classes(h), turns) for h in (h_a, h_b, h_c))
            angle = 2 * math.pi * turns * shift.float() / 2 / 12
            moved = torch.stack([angle.cos(), angle.sin()], -1)
            still = sent(torch.tensor([1.0, 0.0]), angle.device)
            pairs = [(_product(b, a), still), (_product(c, a), moved), (_product(c, b), moved)]
            error = error + torch.stack([(told - wanted).square().sum(-1).mean() for told, wanted in pairs]).mean()
        return error / len(TURNS)


def on_circle(logits: Tensor, turns: int) -> Tensor:
    """Logits [batch, 12] of pitch classes as points [batch, 2]: the mean of e^{2πi · turns · class / 12}."""
    angle = 2 * math.pi * turns / 12 * torch.arange(12, device=logits.device)
    return torch.softmax(logits.float(), -1) @ torch.stack([angle.cos(), angle.sin()], -1)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """The product of first and conj(second) of complex numbers [batch, 2]."""
    (a, b), (c, d) = first.unbind(-1), second.unbind(-1)
    return torch.stack([a * c + b * d, b * c - a * d], -1)
