"""Heads: what turns an encoder's frames into labels, one class per kind of label, each with its loss.

A head chooses a layer (or a learned, softmax-weighted sum of layers), pools the frames of a clip if its label is about
the whole clip, and maps the result to its outputs: linear, or with one hidden layer. Standardisation and rotation of
the features are folded into the map (:func:`folded`), so that what is published is a plain head.

Pooling keeps moments, which windows of any number combine exactly: the features of an hour are those of its frames,
whatever the windows were. Published with models: torch only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

POOLINGS = {"mean": 1, "mean+std": 2, "mean+std+change": 4, "attention": 1}
"""How many times the encoder's width a pooled vector has."""
STEPS = (1, 4)
"""Frames apart: whose differences make up the change over time."""
CERTAIN = 1e4
"""The logit of what is certain (a class that training never saw has its negative): finite, so that losses stay so."""


@dataclass(frozen=True)
class HeadConfig:
    """A head as plain data.

    kind: of the label, a key of `HEADS`. names: of the outputs, in their order. dim: width of the encoder's frames.
    layer: which hidden state it reads, negative ones counted from the last. mixed: more than 0: a learned sum of the
        last `mixed` layers in its place.
    pooling: of the frames of a clip, one of `POOLINGS`; heads over time don't pool.
    hidden: units of a hidden layer with ReLU; 0: linear. dropout: before the last map, in training.
    positive_weight: of positives in the loss of tags, beats and events, which are rare over time.
    temperature: divides the logits where probabilities are wanted (calibration); it is no part of the loss.
    """

    kind: str
    names: tuple[str, ...]
    dim: int
    layer: int = -1
    mixed: int = 0
    pooling: str = "mean"
    hidden: int = 0
    dropout: float = 0.0
    positive_weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if self.kind not in HEADS:
            raise ValueError(f"There is no kind of label {self.kind!r}; there is {', '.join(HEADS)}.")
        if self.pooling not in POOLINGS:
            raise ValueError(f"There is no pooling {self.pooling!r}; there is {', '.join(POOLINGS)}.")
        if not self.names or self.dim < 1:
            raise ValueError(f"A head needs at least one name and a width, not {self.names} and {self.dim}.")
        if not self.temperature > 0:
            raise ValueError(f"A temperature is above 0, not {self.temperature}.")

    def build(self) -> Head:
        """Draw a fresh head."""
        return HEADS[self.kind](self)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "names": list(self.names)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> HeadConfig:
        """What `to_dict` gave.

        Raises:
            ValueError: a setting that this version doesn't know.
        """
        known = {field.name for field in fields(cls)}
        strange = sorted(set(values) - known)
        if strange:
            raise ValueError(f"A head has no setting {strange[0]!r}; it was written by a newer version. Update.")
        return cls(**values)


class Moments(NamedTuple):
    """Count, mean and spread (sum of squares around the mean) of several series of each clip's frames.

    The series are the frames themselves and, where change is asked for, their differences over `STEPS`.
    counts: [batch, series]; mean, spread: [batch, series, dim].
    """

    counts: Tensor
    mean: Tensor
    spread: Tensor


def moments(frames: Tensor, valid: Tensor | None = None, change: bool = True) -> Moments:
    """Moments of one window of every clip, in float64 where no gradient is recorded (and the device has it).

    frames: [batch, frames, dim]; valid: [batch] int64 frames that count, None for all; change: differences too.
    """
    exact = not (frames.requires_grad and torch.is_grad_enabled()) and frames.device.type != "mps"
    frames = frames.double() if exact else frames.float()
    series = [_moments(frames, valid)]
    for step in STEPS if change else ():
        left = None if valid is None else (valid - step).clamp(min=0)
        series.append(_moments(frames[:, step:] - frames[:, :-step], left))
    return Moments(*(torch.stack(parts, 1) for parts in zip(*series, strict=True)))


def _moments(values: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """[batch, frames, dim] -> count [batch], mean and spread [batch, dim]."""
    if valid is None:
        count = values.new_full((len(values),), values.shape[1])
        mean = values.sum(1) / count.clamp(min=1)[:, None]
        return count, mean, (values - mean[:, None]).square().sum(1)
    inside = (torch.arange(values.shape[1], device=values.device) < valid[:, None])[..., None]
    count = inside.sum(1).to(values.dtype)
    mean = torch.where(inside, values, 0.0).sum(1) / count.clamp(min=1)
    around = torch.where(inside, values - mean[:, None], 0.0)
    return count[:, 0], mean, around.square().sum(1)


def combined(windows: Sequence[Moments]) -> Moments:
    """The moments of all windows' frames together (Chan, Golub, LeVeque 1979); differences don't cross windows."""
    if len(windows) == 1:
        return windows[0]
    counts = torch.stack([window.counts for window in windows])
    means = torch.stack([window.mean for window in windows])
    count = counts.sum(0)
    mean = (means * counts[..., None]).sum(0) / count.clamp(min=1)[..., None]
    between = (counts[..., None] * (means - mean).square()).sum(0)
    return Moments(count, mean, torch.stack([window.spread for window in windows]).sum(0) + between)


def pooled(found: Moments, pooling: str) -> Tensor:
    """One vector per clip, [batch, POOLINGS[pooling] · dim] float32: the mean, then deviations."""
    if pooling == "mean":
        return found.mean[:, 0].float()
    variance = found.spread / found.counts.clamp(min=1)[..., None]
    if variance.requires_grad:
        variance = variance.clamp(min=1e-12)  # the root's slope at 0 is infinite
    kept = variance[:, : POOLINGS[pooling] - 1]
    if kept.shape[1] < POOLINGS[pooling] - 1:
        raise ValueError("These moments lack the change over time; make them with change=True.")
    return torch.cat([found.mean[:, 0], kept.sqrt().flatten(1)], -1).float()


class Affine(nn.Linear):
    """A linear map that first subtracts a constant: standardised features lose no digits where means are large."""

    centre: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("centre", torch.zeros(inputs))

    def forward(self, features: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return functional.linear(features - self.centre, self.weight, self.bias)


@torch.no_grad()
def folded(
    weight: Tensor,
    bias: Tensor,
    mean: Tensor | None = None,
    scale: Tensor | None = None,
    rotation: Tensor | None = None,
) -> Affine:
    """((x − mean) / scale) @ rotation @ weight + bias as one map of x.

    weight: [rank, outputs]; bias: [outputs]; mean, scale: [inputs], a scale of infinity leaves its feature out;
    rotation: [inputs, rank]. Each may be left out. In float64 until the end.
    """
    whole = weight.double() if rotation is None else rotation.double() @ weight.double()
    if scale is not None:
        whole = whole / scale.double()[:, None]
    layer = Affine(*whole.shape)
    centre = torch.zeros(len(whole), dtype=torch.float64) if mean is None else mean.double()
    layer.centre.copy_(centre)
    layer.weight.copy_(whole.T)
    # the rounding of the centre is taken back by the bias
    exact = bias.double() + (layer.centre.double() - centre) @ whole
    layer.bias.copy_(torch.nan_to_num(exact, neginf=-CERTAIN, posinf=CERTAIN))
    return layer


class Head(nn.Module):
    """A head for one kind of label; subclasses say what a label is, how wrong an answer is, and how sure.

    kind: its name in `HEADS`. over_time: it answers for every frame instead of for the clip. problem: what transformers
    calls it. nominal: answers are about names, not values; exclusive: one name holds at a time.
    """

    kind: ClassVar[str]
    over_time: ClassVar[bool] = False
    problem: ClassVar[str]
    nominal: ClassVar[bool] = True
    exclusive: ClassVar[bool] = False

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        inputs = config.dim * (1 if self.over_time else POOLINGS[config.pooling])
        outputs = len(config.names)
        self.shares = nn.Parameter(torch.zeros(config.mixed)) if config.mixed else None
        attends = config.pooling == "attention" and not self.over_time
        self.attention = nn.Linear(config.dim, 1, bias=False) if attends else None  # softmax hears no constant
        self.first = Affine(inputs, config.hidden or outputs)
        self.last = nn.Linear(config.hidden, outputs) if config.hidden else None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outputs."""
        return self.config.names

    @property
    def streams(self) -> bool:
        """Whether windows combine by their moments; attention weighs the frames of one window against each other."""
        return not self.over_time and self.attention is None

    def select(self, states: Sequence[Tensor]) -> Tensor:
        """The layer it reads, or the weighted sum. states: hidden states [batch, frames, dim], front end's first."""
        if self.shares is None:
            return states[self.config.layer]
        layers = states[len(states) - len(self.shares) :]
        shares = torch.softmax(self.shares, 0)
        return torch.stack([share * layer for share, layer in zip(shares, layers, strict=True)]).sum(0)

    def moments(self, frames: Tensor, valid: Tensor | None = None) -> Moments:
        """What it must know of a window of frames [batch, frames, dim]; see :func:`moments`."""
        return moments(frames, valid, change=POOLINGS[self.config.pooling] > 2)

    def pool(self, frames: Tensor, valid: Tensor | None = None) -> Tensor:
        """[batch, frames, dim] -> [batch, inputs]; valid: [batch] frames that count."""
        if self.attention is None:
            return pooled(self.moments(frames, valid), self.config.pooling)
        scores = self.attention(frames).squeeze(-1)
        if valid is not None:
            outside = torch.arange(frames.shape[1], device=frames.device) >= valid[:, None]
            scores = scores.masked_fill(outside, -math.inf)
        return torch.einsum("bt,btd->bd", torch.softmax(scores, 1), frames)

    def answer(self, features: Tensor) -> Tensor:
        """[..., inputs] pooled vectors or frames -> logits (numbers: values) [..., outputs]."""
        features = functional.dropout(features, self.config.dropout, self.training and self.last is None)
        found: Tensor = self.first(features)
        if self.last is not None:
            hidden = functional.dropout(torch.relu(found), self.config.dropout, self.training)
            found = self.last(hidden)
        return found

    def forward(self, states: Sequence[Tensor], valid: Tensor | None = None) -> Tensor:
        """Hidden states of a clip -> logits [batch, outputs], or [batch, frames, outputs] over time.

        states: as in `select`; valid: [batch] frames that count.
        """
        frames = self.select(states)
        return self.answer(frames if self.over_time else self.pool(frames, valid))

    def losses(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """How wrong each clip's answer is, and whether it has a label at all.

        logits: as `forward` gives them; targets: as the subclass says, with a mark for what is missing; smoothing:
        share of certainty that is spread evenly (Szegedy et al. 2016).
        Returns (loss [batch], 0 where nothing is labelled; labelled [batch], 0 or 1), both float32.
        """
        each, labelled = self._each(logits.float(), targets, smoothing)
        each, labelled = each.flatten(1), labelled.flatten(1)
        count = labelled.sum(1)
        return torch.where(labelled > 0, each, 0.0).sum(1) / count.clamp(min=1), (count > 0).float()

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
        """The mean of `losses` over labelled clips, weighted by weights [batch]; 0 where no clip has a label."""
        each, labelled = self.losses(logits, targets, smoothing)
        weight = labelled if weights is None else labelled * weights
        return (each * weight).sum() / weight.sum().clamp(min=1e-12)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits -> what is meant by them, at the head's temperature; of numbers, themselves."""
        return self._likely(logits / self.config.temperature)

    def logits_of(self, probabilities: Tensor) -> Tensor:
        """`probabilities` backwards; of answers about names."""
        found = probabilities.clamp(min=1e-12).log() if self.exclusive else torch.logit(probabilities, eps=1e-7)
        return found * self.config.temperature

    def _each(self, logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        """Losses and marks (1: labelled) [batch, …] of every output or frame."""
        raise NotImplementedError

    def _likely(self, logits: Tensor) -> Tensor:
        raise NotImplementedError


class ClassesHead(Head):
    """One of several names. Targets: int64 [batch] number of the name, −1 where there is no label."""

    kind = "classes"
    problem = "single_label_classification"
    exclusive = True

    def _each(self, logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        known = targets >= 0
        outputs = logits.shape[-1]
        flat = functional.cross_entropy(
            logits.reshape(-1, outputs), targets.clamp(min=0).reshape(-1), reduction="none", label_smoothing=smoothing
        )
        return flat.view(targets.shape).view(len(targets), -1), known.float().view(len(targets), -1)

    def _likely(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, -1)


class KeyHead(ClassesHead):
    """One of the 24 keys; as classes."""

    kind = "key"


class ChordsHead(ClassesHead):
    """A chord per frame. Targets: int64 [batch, frames], −1 where a frame has none of the names or is padding."""

    kind = "chords"
    over_time = True


class TagsHead(Head):
    """Any number of names at once. Targets: float [batch, names] from 0 to 1, NaN where nobody knows."""

    kind = "tags"
    problem = "multi_label_classification"

    def _each(self, logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        known = ~torch.isnan(targets)
        wanted = torch.where(known, targets, 0.0).to(logits) * (1 - smoothing) + smoothing / 2
        positive = torch.full((), self.config.positive_weight, device=logits.device)
        each = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none", pos_weight=positive)
        return each, known.float()

    def _likely(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)


class BeatsHead(TagsHead):
    """A beat, or beats and downbeats, per frame. Targets: float [batch, frames, names], NaN where unknown or padding.

    A beat's own frame is 1 and its neighbours something between (:func:`widened`).
    """

    kind = "beats"
    over_time = True


class EventsHead(TagsHead):
    """What sounds at each frame. Targets: float [batch, frames, names], NaN where unknown or padding."""

    kind = "events"
    over_time = True


class NumbersHead(Head):
    """Numbers in their own units. Targets: float [batch, names], NaN where there is none.

    The map works in units of `scale` around `offset` [names], the training set's, so that every number weighs the same.
    """

    kind = "numbers"
    problem = "regression"
    nominal = False
    offset: Tensor
    scale: Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        self.register_buffer("offset", torch.zeros(len(config.names)))
        self.register_buffer("scale", torch.ones(len(config.names)))

    def answer(self, features: Tensor) -> Tensor:
        """[..., inputs] -> values [..., names]."""
        return super().answer(features) * self.scale + self.offset

    def _each(self, logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        known = ~torch.isnan(targets)
        error = (logits - torch.where(known, targets, 0.0).to(logits)) / self.scale
        return error.square(), known.float()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Values are what they are; a temperature would scale them."""
        return logits


HEADS: dict[str, type[Head]] = {
    head.kind: head for head in (ClassesHead, KeyHead, TagsHead, NumbersHead, BeatsHead, ChordsHead, EventsHead)
}
"""The head of every kind of label."""


def widened(beats: Tensor, neighbours: float = 0.5) -> Tensor:
    """Targets of beats [..., frames] of 0 and 1, with `neighbours` on the frames beside a beat: time is blurred."""
    beside = torch.zeros_like(beats)
    beside[..., 1:] = beats[..., :-1]
    beside[..., :-1] = torch.maximum(beside[..., :-1], beats[..., 1:])
    return torch.maximum(beats, neighbours * beside)
