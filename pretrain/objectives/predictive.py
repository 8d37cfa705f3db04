"""CPC: say from what was heard so far which of several moments comes 1, 2, … K steps later.

Paper: A. van den Oord, Y. Li and O. Vinyals, "Representation learning with contrastive predictive coding", 2018
(arXiv:1807.03748). Strided convolutions turn the waveform into latents z, a causal GRU sums the past up as context c;
for each step k a matrix W_k predicts z(t + k) from c(t), and InfoNCE asks which of 1 + `negatives` latents the
prediction is most like. What can be foretold over many steps is what stays: speaker and phone, instrument and harmony.

    groundbass pretrain predictive.cpc_tiny --data MANIFEST --run RUN

Beyond the widespread implementations: negatives come from all ranks, with full gradients; the positive itself is never
among its negatives; padding predicts nothing and is no candidate; every example draws from its own seed, so that ranks
and interruptions change nothing; and `negatives_from` chooses the clips that candidates come from.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ...data.crops import CropConfig
from ...data.draws import draw_seeds, uniform
from ...models.cpc import MUSIC, SPEECH, CpcConfig, CpcModel
from ..clock import section
from ..distributed import gather, ranks
from ..objective import Loss, Objective, ObjectiveConfig
from ..recipe import Optim, Recipe

if TYPE_CHECKING:
    from ...data.batch import Batch

CANDIDATES, PLACE = 141, 142  # streams of draws
Source = Literal["all", "same", "others"]


@dataclass(frozen=True)
class PredictiveConfig(ObjectiveConfig):
    """The network, how far it predicts, and from what it must tell the truth; the defaults are the speech network's."""

    sample_rate: int = 16_000
    """Hz"""
    kernels: tuple[int, ...] = SPEECH["kernels"]
    """of the convolutions"""
    strides: tuple[int, ...] = SPEECH["strides"]
    """their product is the step of a latent in samples"""
    paddings: tuple[int, ...] = SPEECH["paddings"]
    """zeros on either side"""
    channels: tuple[int, ...] = (512,) * 5
    """of the convolutions; the last is the width of a latent"""
    context_size: int = 256
    """width of the GRU's state"""
    channel_norm: bool = False
    """layer norm over the channels after each convolution (Rivière et al. 2020); the original has none"""
    input_std: float = 1.0
    """divides the waveform"""
    ahead: int = 12
    """K: how many latents ahead are predicted"""
    negatives: int = 10
    """latents that each true one must be told from"""
    negatives_from: Source = "all"
    """the clips that negatives come from: all, the same one (what differs within it), or others only"""
    within: int | None = None
    """predict within a random run of this many latents per crop; None: within the whole crop"""

    def __post_init__(self) -> None:
        """Refuse what can't be learned."""
        if self.ahead < 1 or self.negatives < 1:
            raise ValueError(f"ahead is {self.ahead} and negatives {self.negatives}: both are at least 1.")
        if self.negatives_from not in ("all", "same", "others"):
            raise ValueError(f"negatives_from is {self.negatives_from!r}: choose all, same or others.")
        if self.within is not None and self.within <= self.ahead:
            raise ValueError(
                f"within is {self.within} latents, but {self.ahead} are predicted ahead: take more than that, or None."
            )

    def network(self) -> CpcConfig:
        """What is published."""
        names = ("sample_rate", "kernels", "strides", "paddings", "channels", "context_size", "channel_norm")
        return CpcConfig(**{name: getattr(self, name) for name in (*names, "input_std")})

    def build(self) -> Predictive:
        """Build the objective."""
        return Predictive(self)


class InfoNce(nn.Module):
    """The predictions of all steps by one matrix, and how well they tell what comes from what doesn't."""

    def __init__(self, context: int, latent: int, ahead: int) -> None:
        super().__init__()
        self.ahead = ahead
        self.predictor = nn.Linear(context, ahead * latent, bias=False)

    def forward(self, context: Tensor, latents: Tensor, others: Tensor) -> list[Tensor]:
        """Scores of the candidates for each step ahead.

        context: [batch, frames, context]; latents: [batch, frames, dim]; others: [batch, frames, negatives, dim], the
        negatives for each latent as a target. Returns for k = 1 … ahead [batch, frames - k, 1 + negatives], the true
        one first: the dot products of W_k c(t) with z(t + k) and its negatives.
        """
        predicted = rearrange(
            self.predictor(context).float(), "batch frames (ahead dim) -> ahead batch frames dim", ahead=self.ahead
        )
        candidates = torch.cat([latents[:, :, None], others], 2)
        scores = []
        for k, guess in enumerate(predicted, start=1):
            scores.append((candidates[:, k:] @ guess[:, : guess.shape[1] - k, :, None]).squeeze(-1))
        return scores


class Predictive(Objective):
    """InfoNCE of the next K latents, the mean over K; the weight counts predictions, those of a step as its share."""

    encoder: CpcModel

    def __init__(self, config: PredictiveConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = CpcModel(config.network())
        self.loss = InfoNce(config.context_size, config.channels[-1], config.ahead)

    def forward(self, batch: Batch, step: int) -> Loss:
        """Predict.

        Raises:
            ValueError: audio of another rate, crops of too few latents, or no clip to take negatives from.
        """
        config, model = self.config, self.encoder
        if batch.sample_rate != config.sample_rate:
            raise ValueError(
                f"The encoder hears {config.sample_rate} Hz, but the crops have {batch.sample_rate} Hz: set "
                "crops.sample_rate to the same."
            )
        waveform, valid = batch.by_view()
        latents, context = model.encode(waveform, valid)
        latents, context = latents.float(), context.float()
        lengths = model.valid_frames(valid).clamp(max=latents.shape[1])
        host_valid, numbers = batch.on_host().by_view()
        known = model.valid_frames(host_valid).clamp(max=latents.shape[1])
        index = batch.item_numbers()
        if config.within is not None:
            frames = min(config.within, latents.shape[1])
            known = (known - self._first(known, numbers, frames)).clamp(max=frames)
            latents, context, lengths = self._run_within(latents, context, lengths, index, frames)
        if latents.shape[1] <= config.ahead:
            raise ValueError(
                f"A crop has {latents.shape[1]} latents, but {config.ahead} are predicted ahead: make crops longer "
                f"than {config.ahead * model.config.hop} samples, or ahead smaller."
            )
        with torch.autocast(latents.device.type, enabled=False):
            alone = len(known) == 1 and ranks() > 1  # then all are other ranks'
            check_enough(gather(lengths) if alone else known, config)
            others = self._negatives(latents, lengths, index)
            scores = self.loss(context, latents, others)
            return summed_up(scores, lengths, self.logs)

    def compiled_parts(self) -> list[nn.Module]:
        """The convolutions, which `encode` calls, and the scores; cuDNN's recurrence stays one kernel."""
        return [self.encoder.encoder, self.loss]

    def _run_within(
        self, latents: Tensor, context: Tensor, lengths: Tensor, index: Tensor, frames: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A run of `frames` latents and contexts at a random place of each clip."""
        first = self._first(lengths, index, frames)
        places = first[:, None] + torch.arange(frames, device=latents.device)
        run = [states.gather(1, places[..., None].expand(-1, -1, states.shape[2])) for states in (latents, context)]
        return run[0], run[1], (lengths - first).clamp(max=frames)

    def _first(self, lengths: Tensor, index: Tensor, frames: int) -> Tensor:
        """Where the run of `frames` begins in each clip, int64 [batch]."""
        room = (lengths - frames).clamp(min=0)
        return (uniform(draw_seeds(self.seed, index, PLACE), 1)[:, 0] * (room + 1)).long()

    def _negatives(self, latents: Tensor, lengths: Tensor, index: Tensor) -> Tensor:
        """[batch, frames, negatives, dim] drawn from the latents of all ranks, ordered by example: no rank matters."""
        everyone, all_lengths, all_index = gather(latents), gather(lengths), gather(index)
        order = all_index.argsort()
        own = (all_index[order][None] == index[:, None]).int().argmax(1)
        with section("targets"):
            seeds = draw_seeds(self.seed, index, CANDIDATES)
            drawn = draw_negatives(all_lengths[order], own, latents.shape[1], self.config, seeds)
        rows = order[drawn.clips]
        return everyone[rows, drawn.frames]


@dataclass(frozen=True)
class Drawn:
    """Which latents are negatives: numbers of clips and of frames in them, [batch, frames, negatives] int64 each."""

    clips: Tensor
    frames: Tensor


def draw_negatives(lengths: Tensor, own: Tensor, frames: int, config: PredictiveConfig, seeds: Tensor) -> Drawn:
    """Draw for each latent of each clip, all valid latents but itself (of the clips that count) being as likely.

    lengths: [clips] valid latents of all clips, in their order; own: [batch] numbers of the clips that are asked for;
    seeds: [batch] int64. There have to be any: `check_enough`.
    """
    ends = lengths.cumsum(0)
    starts = ends - lengths
    begin, length, total = starts[own][:, None, None], lengths[own][:, None, None], ends[-1]
    place = torch.arange(frames, device=lengths.device)[None, :, None].minimum(length - 1)
    draws = uniform(seeds, frames * config.negatives)
    draws = rearrange(draws, "clips (frames negatives) -> clips frames negatives", frames=frames)
    itself, one = begin + place, torch.ones_like(length)
    if config.negatives_from == "same":
        first, count, skipped, width = begin, length - 1, itself, one
    elif config.negatives_from == "all":
        first, count, skipped, width = torch.zeros_like(begin), total - one, itself, one
    else:
        first, count, skipped, width = torch.zeros_like(begin), total - length, begin, length
    number = first + (draws * count).long()
    number = number + width * (number >= skipped)
    clips = torch.searchsorted(ends, number, right=True)
    return Drawn(clips, number - starts[clips])


def check_enough(lengths: Tensor, config: PredictiveConfig) -> None:
    """See that each of the clips of `lengths` [clips] finds a latent to take negatives from; on the CPU nothing waits.

    Raises:
        ValueError: there is no other clip, or no other latent, to draw from.
    """
    own = {"same": lengths - 1, "all": lengths.sum() - 1}.get(config.negatives_from, lengths.sum() - lengths)
    if bool((own < 1).any()):
        raise ValueError(
            f"There is no latent to take negatives from ({config.negatives_from}) among {len(lengths)} clips of "
            f"{int(lengths.min())} to {int(lengths.max())} latents: take larger micro-batches or longer crops."
        )


def summed_up(scores: list[Tensor], lengths: Tensor, logs: bool = True) -> Loss:
    """Cross entropy of each step's scores, the mean over the steps, and accuracies.

    scores: for k = 1 … ahead [batch, frames - k, candidates], the true one first; lengths: [batch] valid latents.
    A prediction at step k counts 1 / (frames - k), so that with whole clips each step counts the same, as published.
    """
    total = weight = scores[0].new_zeros(())
    metrics: dict[str, Tensor | float] = {}
    for k, given in enumerate(scores, start=1):
        heard = torch.arange(given.shape[1], device=given.device)[None] < (lengths - k)[:, None]
        truth = torch.zeros(heard.shape, dtype=torch.int64, device=given.device)
        each = functional.cross_entropy(
            rearrange(given, "batch frames candidates -> batch candidates frames"), truth, reduction="none"
        )
        total = total + (each * heard).sum() / given.shape[1]
        weight = weight + heard.sum() / given.shape[1]
        if logs:
            right = (given[..., 0] > given[..., 1:].max(-1).values) & heard
            metrics[f"accuracy_{k}"] = right.sum() / heard.sum().clamp(min=1)
    value = total / weight.clamp(min=1e-12)
    if logs:
        chance = math.log(scores[0].shape[-1])
        metrics |= {"chance_loss": chance, "loss_over_chance": value.detach() / chance}
    return Loss(value, weight.detach(), metrics)


def cpc_speech() -> Recipe:
    """CPC for speech as published: 16 kHz, 1.28 s, 12 steps of 10 ms ahead, 10 negatives, Adam 2e-4.

    7,414,784 parameters with the predictor. The budget is 300 epochs of LibriSpeech's 28,539 training files (100 h) in
    whole batches of 64 (8 GPUs of 8): 133,500 steps. The waveform is divided by 0.063, its deviation there.
    Published probes (LibriSpeech, linear): phones 64.6 % of 41 (supervised 74.6, MFCC 39.7), speakers 97.4 % of 251.

    Command: groundbass pretrain predictive.cpc_speech --data MANIFEST --run RUN
    Hardware and hours: one GPU; not run here yet.
    """
    return Recipe(
        objective=PredictiveConfig(input_std=0.063),
        crops=CropConfig(sample_rate=16_000, crop_samples=20_480),
        optim=Optim(name="adam", lr=2e-4),
        steps=133_500,
        batch_size=64,
        log_every=50,
        checkpoint_every=5000,
        workers=8,
    )


def cpc_music() -> Recipe:
    """CPC for music, of CLMR's first version: 22,050 Hz, 2.68 s, 20 steps of 22 ms ahead, 15 negatives, Adam 3e-4.

    8,988,672 parameters with the predictor; predictions lie within 81 of the 124 latents. The budget is 100 epochs over
    MagnaTagATune's 18,706 training clips in batches of 48: 38,900 steps. Weights decay by 1e-6, added to the gradient.
    Published (MagnaTagATune, a hidden layer on the frozen encoder): ROC-AUC 88.0, PR-AUC 31.0; CLMR beside it 35.0.

    Command: groundbass pretrain predictive.cpc_music --data MANIFEST --run RUN
    Hardware and hours: one GPU; not run here yet.
    """
    return Recipe(
        objective=PredictiveConfig(
            sample_rate=22_050, **MUSIC, channels=(512,) * 7, input_std=0.15, ahead=20, negatives=15, within=81
        ),
        crops=CropConfig(sample_rate=22_050, crop_samples=59_049),
        optim=Optim(name="adam", lr=3e-4, weight_decay=1e-6, decay_all=True),
        steps=38_900,
        batch_size=48,
        log_every=50,
        checkpoint_every=5000,
        workers=8,
    )


def cpc_tiny() -> Recipe:
    """CPC for two CPU cores and minutes: 16 kHz, 50 latents per second, 16 steps (0.32 s) ahead, channel norm.

    Narrow where the rate is high (32 channels down to 800 Hz), 128 in the end; context 128.

    Command: groundbass pretrain predictive.cpc_tiny --data MANIFEST --run RUN
    """
    return Recipe(
        objective=PredictiveConfig(
            kernels=(10, 8, 4, 4, 4, 4),
            strides=(5, 4, 2, 2, 2, 2),
            paddings=(2, 2, 1, 1, 1, 1),
            channels=(32, 32, 64, 128, 128, 128),
            context_size=128,
            channel_norm=True,
            input_std=0.15,
            ahead=16,
            negatives=31,
        ),
        crops=CropConfig(sample_rate=16_000, crop_samples=40_960),
        optim=Optim(name="adamw", lr=2e-3, weight_decay=1e-4, warmup_steps=20, decay="cosine", clip=1.0),
        steps=250,
        batch_size=16,
        log_every=10,
        checkpoint_every=100,
        workers=1,
    )


def cpc_debug() -> Recipe:
    """CPC in seconds, for tests: 8 kHz, 8 channels, 3 steps ahead."""
    tiny = cpc_tiny()
    config = PredictiveConfig(
        sample_rate=8000, kernels=(10, 8, 4), strides=(5, 8, 4), paddings=(2, 2, 1), channels=(8, 8, 8),
        context_size=12, channel_norm=True, input_std=0.2, ahead=3, negatives=4,
    )  # fmt: skip
    return dataclasses.replace(
        tiny,
        objective=config,
        crops=CropConfig(sample_rate=8000, crop_samples=8000),
        optim=Optim(name="adam", lr=3e-3),
        steps=8,
        batch_size=4,
        log_every=1,
        checkpoint_every=4,
        workers=0,
        trackers=(),
    )
