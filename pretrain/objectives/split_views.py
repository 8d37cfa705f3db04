"""Split views: the student hears some patches, the teacher the others alone; predict what the teacher makes of them.

M2D (Niizumi et al. 2022, arXiv:2210.14648): of a clip's patches a student sees 30 %, an averaged copy of its blocks
the other 70 %, and a small transformer predicts the latter's output at each hidden patch; the teacher can't lean on
what the student saw. MATPAC (2025) adds a second task, the teacher's distribution over learned prototypes (DINO's), and
MATPAC++ several hypotheses of what may be there, of which the best one learns most, at last alone.

The recipes stand in `latent.py`.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ...data.draws import draw_seeds, sent
from ...models.transformer import Transformer, time_mask
from ...models.vit import ViTConfig, ViTFields, ViTModel, sine_positions
from ..clock import section
from ..distributed import all_reduce_sum, divided, ranks, whole
from ..objective import Loss, Objective, ObjectiveConfig, TrainingStopped
from .parts.masking import taken, true_places
from .tokens import check_rate, draw_kept, hidden_patches, take

if TYPE_CHECKING:
    from ...data.batch import Batch

HIDE = 141  # stream of draws
COLLAPSED = 0.01
"""Deviation of the teacher's (layer-normalised) output between patches, below which it says the same everywhere."""


@dataclass
class ViTShape(ViTFields):
    """The encoder of M2D, MATPAC and EAT."""

    def config(self) -> ViTConfig:
        """Make the model's configuration."""
        return ViTConfig(**dataclasses.asdict(self))


@dataclass(frozen=True)
class SplitConfig(ObjectiveConfig):
    """What is hidden, who predicts it, how the teacher follows; the defaults are M2D's."""

    encoder: ViTShape = field(default_factory=ViTShape)
    hidden: float = 0.7
    """Share of a clip's patches that the student doesn't hear, and the teacher hears."""
    predictor_dim: int = 512
    predictor_layers: int = 8
    predictor_heads: int = 16
    hypotheses: int = 1
    """Parallel predictions of each patch (MATPAC++: 5)."""
    hypothesis_temperature: float = 0.1
    """Hypotheses are weighed by softmax(−loss / temperature) at step 0 …"""
    hypothesis_decay: float = 0.99997
    """… which each step multiplies by this, until only the best one counts (below 0.0001)."""
    latent_weight: float = 1.0
    distribution_weight: float = 0.0
    """Weight of the teacher's distribution over prototypes (MATPAC: 0.5); 0: no such head."""
    prototypes: int = 2048
    head_hidden: int = 2048
    head_dim: int = 256
    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    """At step 0, and from teacher_warmup on."""
    teacher_warmup: int = 9827
    center_momentum: float = 0.9
    """Share of the centre of the teacher's logits that a step keeps."""
    head_ema_start: float = 0.998
    """Share of the teacher's head that a step keeps, at first; 1 from ema_steps on."""
    ema_start: float = 0.99995
    """Share of the teacher that a step keeps, at first."""
    ema_end: float = 0.99999
    """The same from ema_steps on."""
    ema_steps: int = 294_816

    def __post_init__(self) -> None:
        """Refuse what can't be learned."""
        if not 0 < self.hidden < 1:
            raise ValueError(f"hidden is {self.hidden}: the share of hidden patches lies between 0 and 1.")
        if self.hypotheses < 1:
            raise ValueError(f"hypotheses is {self.hypotheses}: at least one prediction is needed.")

    def build(self) -> SplitViews:
        """Build the objective."""
        return SplitViews(self)


class Predictor(nn.Module):
    """Mask tokens at the hidden places, positions again, a small transformer, one linear layer per hypothesis."""

    def __init__(self, config: SplitConfig) -> None:
        super().__init__()
        dim, width = config.predictor_dim, config.encoder.hidden_size
        self.rows, self.hypotheses = config.encoder.config().rows, config.hypotheses
        self.project = nn.Linear(width, dim)
        self.hidden_embedding = nn.Parameter(torch.randn(dim) * 0.02)
        self.transformer = Transformer(
            dim, config.predictor_layers, config.predictor_heads, 4 * dim, norm_first=True, eps=1e-6,
            conv_positions=None,
        )  # fmt: skip
        self.predict = nn.Linear(dim, config.hypotheses * width)
        self.apply(_xavier)

    def forward(self, heard: Tensor, positions: Tensor, mask: Tensor, inside: Tensor, wanted: Tensor) -> Tensor:
        """Predict what stands at `wanted`.

        Args:
            heard: [batch, 1 + kept, dim], the student's output, class token first.
            positions: int64 [batch, kept], the places of the kept patches.
            mask: bool [batch, kept], False where a row has fewer than the longest.
            inside: bool [batch, tokens], the patches that are sound.
            wanted: int64 [batch, hidden], the places to predict.

        Returns:
            [batch, hidden, hypotheses, dim].
        """
        batch, total = inside.shape
        projected = self.project(heard)
        dim = projected.shape[2]
        where = positions.masked_fill(~mask, total)[..., None].expand(-1, -1, dim)  # padding goes behind the end
        grid = self.hidden_embedding.to(projected.dtype).expand(batch, total + 1, -1)
        grid = grid.scatter(1, where, projected[:, 1:])[:, :total]
        grid = grid + sine_positions(total // self.rows, self.rows, dim, grid.device).to(grid.dtype)
        attended = functional.pad(inside, (1, 0), value=True)
        mixed = self.transformer(torch.cat([projected[:, :1], grid], 1), attended, keep_all=False)[-1]
        found: Tensor = self.predict(take(mixed[:, 1:], wanted))
        return rearrange(found, "... (hypotheses dim) -> ... hypotheses dim", hypotheses=self.hypotheses)


class DistributionHead(nn.Module):
    """An MLP to the unit sphere, and cosines with prototypes (DINO's head, its last gains fixed to 1)."""

    def __init__(self, width: int, hidden: int, dim: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, dim)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        bound = dim**-0.5
        self.prototypes = nn.Parameter(torch.empty(prototypes, dim).uniform_(-bound, bound))

    def forward(self, latents: Tensor) -> Tensor:
        """[n, width] to logits [n, prototypes], float32 whatever the precision of training."""
        direction = functional.normalize(self.mlp(latents).float(), dim=-1)
        with torch.autocast(latents.device.type, enabled=False):
            return direction @ functional.normalize(self.prototypes.float(), dim=-1).T


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class SplitViews(Objective):
    """Distance to the teacher at hidden patches, and the teacher's distribution; the weight counts hidden patches."""

    center: Tensor
    encoder: ViTModel

    def __init__(self, config: SplitConfig) -> None:
        super().__init__()
        self.config = config
        shape = config.encoder.config()
        self.encoder = ViTModel(shape)
        self.teacher = copy.deepcopy(self.encoder.encoder).requires_grad_(False)
        self.predictor = Predictor(config)
        self.head: DistributionHead | None = None
        self.teacher_head: DistributionHead | None = None
        if config.distribution_weight > 0:
            sizes = (shape.hidden_size, config.head_hidden, config.head_dim, config.prototypes)
            self.head = DistributionHead(*sizes)
            self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
            self.register_buffer("center", torch.zeros(config.prototypes))
        self._spread: Tensor | None = None
        self._logits: list[Tensor] = []  # sums of the step's teacher logits, and their number behind them

    def encoder_loaded(self) -> None:
        """The teacher begins as the encoder."""
        self.teacher.load_state_dict(self.encoder.encoder.state_dict())

    def train(self, mode: bool = True) -> SplitViews:
        """The teacher never drops anything."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch, step: int) -> Loss:
        """Split, hear, predict.

        Raises:
            ValueError: the audio has another sample rate, or crops are shorter than a time step.
        """
        model = self.encoder
        check_rate(batch, model.config.sample_rate)
        waveform, valid = batch.by_view()
        with torch.no_grad():
            fbank = model.fbank(waveform)
        tokens = model.place(model.embed(fbank))
        inside = time_mask(model.valid_frames(valid) * model.config.rows, tokens.shape[1])
        host_valid, numbers = batch.on_host().by_view()
        # drawn on the CPU, where counts are known without waiting
        sound = time_mask(model.valid_frames(host_valid) * model.config.rows, tokens.shape[1])
        chosen = draw_kept(sound, 1 - self.config.hidden, draw_seeds(self.seed, numbers, HIDE))
        left_out = places(hidden_patches(sound, *chosen))
        positions, mask, others, hidden = (sent(part, tokens.device) for part in (*chosen, *left_out))
        found = sent(true_places(left_out[1]), tokens.device)
        with section("targets"):
            taught = self._taught(take(tokens, others), None if bool(left_out[1].all()) else hidden, found)
        heard = self._heard(tokens, positions, None if bool(chosen[1].all()) else mask)
        predicted = taken(self.predictor(heard, positions, mask, inside, others), found)
        value, metrics = self._loss(predicted.float(), taken(taught, found), step)
        count = torch.full((), len(found), device=tokens.device)
        return Loss(value, count, metrics | {"spread": self._spread_now()})

    def _heard(self, tokens: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """The student's output [batch, 1 + kept, dim], class token first; mask: None where all rows keep as many."""
        return self.encoder.encode(take(tokens, positions), mask)[-1]

    @torch.no_grad()
    def _taught(self, tokens: Tensor, mask: Tensor | None, places: Tensor) -> Tensor:
        """The teacher's output float32 [batch, hidden, dim] of the hidden patches alone.

        mask: bool [batch, hidden], None where all are True; places: its `true_places`.
        """
        found = self.encoder.encode(tokens, mask, blocks=self.teacher)[-1][:, 1:].float()
        normal = functional.layer_norm(taken(found, places), found.shape[-1:])
        self._spread = normal.std(0, correction=0).mean() if len(normal) else torch.ones((), device=found.device)
        return found

    def _spread_now(self) -> Tensor:
        assert self._spread is not None
        return self._spread

    def _loss(self, predicted: Tensor, taught: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Means over n hidden patches of predicted [n, hypotheses, dim] against taught [n, dim]."""
        config, count = self.config, max(1, len(taught))
        each = 2 - 2 * functional.cosine_similarity(predicted, taught[:, None], dim=-1)
        best = each.argmin(1)
        temperature = config.hypothesis_temperature * config.hypothesis_decay**step
        if config.hypotheses > 1 and temperature > 1e-4:
            chosen = (torch.softmax(-each.detach() / temperature, 1) * each).sum(1)
        else:
            chosen = each.amin(1)
        latent = chosen.sum() / count
        value, metrics = config.latent_weight * latent, {"latent": latent.detach()}
        if self.head is not None:
            winner = predicted.gather(1, best[:, None, None].expand(-1, 1, predicted.shape[2]))[:, 0]
            distribution = self._distribution(winner, taught, step).sum() / count
            value = value + config.distribution_weight * distribution
            metrics["distribution"] = distribution.detach()
        return value, dict(metrics)

    def _distribution(self, predicted: Tensor, taught: Tensor, step: int) -> Tensor:
        """Cross entropy [n] from the teacher's sharpened, centred distribution to the student's."""
        assert self.head is not None and self.teacher_head is not None
        config = self.config
        first, last = config.teacher_temperature
        temperature = first + (last - first) * min(1.0, step / max(1, config.teacher_warmup))
        with torch.no_grad():
            logits = self.teacher_head(taught)
            wanted = torch.softmax((logits - self.center) / temperature, -1)
            if self.training:
                self._logits.append(torch.cat([logits.sum(0), logits.new_full((1,), len(logits))]))
        said = torch.log_softmax(self.head(predicted) / config.student_temperature, -1)
        return -(wanted * said).sum(-1)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Let teacher, its head and the centre follow; stop where the teacher says the same of every patch.

        Raises:
            TrainingStopped: the teacher has collapsed.
        """
        config = self.config
        progress = min(1.0, step / max(1, config.ema_steps))
        follow(self.teacher, self.encoder.encoder, config.ema_start + (config.ema_end - config.ema_start) * progress)
        if self.head is not None and self.teacher_head is not None:
            follow(self.teacher_head, self.head, config.head_ema_start + (1 - config.head_ema_start) * progress)
        if self._logits:
            sums = all_reduce_sum(torch.stack(self._logits).sum(0))
            self._logits = []
            self.center.lerp_(sums[:-1] / sums[-1].clamp(min=1), 1 - config.center_momentum)
        stop_if_collapsed(self._spread, step)

    def compiled_parts(self) -> list[nn.Module]:
        """The blocks of encoder, teacher and predictor, which `encode` calls."""
        return [*self.encoder.encoder.layers, *self.teacher.layers, *self.predictor.transformer.layers]


def follow(teacher: nn.Module, student: nn.Module, keep: float) -> None:
    """Move a teacher's weights towards the student's: keep · teacher + (1 − keep) · student."""
    pairs = list(zip(teacher.parameters(), student.parameters(), strict=True))
    if not (divided(teacher) or divided(student)) and all(
        old.dtype == new.dtype for old, new in pairs
    ):  # a few large kernels
        torch._foreach_lerp_([old for old, _ in pairs], [new for _, new in pairs], 1 - keep)
        return
    for old, new in pairs:
        with whole(old, new):
            old.lerp_(new.to(old.dtype), 1 - keep)


def stop_if_collapsed(spread: Tensor | None, step: int) -> None:
    """Every hundredth step, see whether the teacher's output differs between patches.

    Raises:
        TrainingStopped: its deviation is below 0.01.
    """
    if spread is not None and (step + 1) % 100 == 0:
        found = float(all_reduce_sum(spread.clone())) / ranks()
        if found < COLLAPSED:
            raise TrainingStopped(
                f"After step {step + 1} the teacher says nearly the same of every patch (deviation {found:.4f}, "
                f"expected at least {COLLAPSED}): the representation has collapsed. Lower the learning rate, or "
                "raise ema_start."
            )


def places(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Where bool [batch, tokens] is True: int64 [batch, most] in rising order, bool [batch, most] False for padding."""
    count = chosen.sum(1)
    most = max(1, int(count.max()))
    order = (~chosen).to(torch.int8).argsort(dim=1, stable=True)[:, :most]
    return order, torch.arange(most, device=chosen.device) < count[:, None]
