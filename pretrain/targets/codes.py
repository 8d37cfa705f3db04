"""Predicting codes: by MERT's cosine head or by a linear one (BEST-RQ, MusicFM, MuQ, OMAR-RQ)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ..distributed import all_reduce_sum
from ..objective import TrainingStopped
from .target import Head, Metrics


@dataclass(frozen=True)
class CodeHeadSettings:
    """How codes are predicted, and when their labels count as empty."""

    kind: Literal["cosine", "linear"] = "cosine"
    """cosine: against learned label embeddings, summed over codebooks (MERT); linear: one linear layer, its mean over
    codebooks (BEST-RQ, MusicFM, MuQ, OMAR-RQ)"""
    dim: int = 64
    """Width of a codebook's label embeddings (95M: 64, 330M: 128); of a cosine head."""
    temperature: float = 0.1
    """A cosine head's logits are cosine / temperature."""
    labels: Literal["uniform", "normal"] = "uniform"
    """A cosine head's first label embeddings: uniform in [0, 1) as published, or normal, whose directions differ from
    the start."""
    least_entropy: float = 4.0
    """Bits: a codebook whose labels stay below this over a window of steps stops the run."""
    window: int = 100
    """Steps over which labels are counted (with exponential forgetting) and after which entropy is judged."""


class LabelCounts(nn.Module):
    """An exponentially forgetting histogram of labels: their entropy, use and most frequent code, per codebook.

    Args:
        classes: size of each codebook.
        window: steps that the histogram remembers, and after which entropy is judged.
        least_entropy: bits below which a codebook's labels count as empty (at most half of what it could carry).
        name: whose labels, for the alarm's sentence.

    """

    counts: Tensor
    sizes: Tensor

    def __init__(self, classes: tuple[int, ...], window: int, least_entropy: float, name: str) -> None:
        super().__init__()
        self.classes, self.window, self.name = classes, window, name
        self.least = [min(least_entropy, 0.5 * math.log2(size)) for size in classes]
        self.register_buffer("counts", torch.zeros(len(classes), max(classes)))
        self.register_buffer("sizes", torch.tensor(classes), persistent=False)
        self._pending: Tensor | None = None
        self._given_out: list[Tensor] = []  # statistics of this step's micro-batches, until the joint ones are known

    @torch.no_grad()
    def observe(self, codes: Tensor) -> None:
        """Count the labels of a micro-batch: codes int64 [..., codebooks]; they enter the histogram with `follow`."""
        flat = rearrange(codes, "... codebooks -> codebooks (...)")
        shifted = flat + torch.arange(len(self.classes), device=codes.device)[:, None] * max(self.classes)
        seen = histogram(shifted.flatten(), self.counts.numel())
        seen = rearrange(seen, "(codebooks classes) -> codebooks classes", codebooks=len(self.classes)).float()
        self._pending = seen if self._pending is None else self._pending + seen

    def statistics(self) -> Metrics:
        """Entropy (bits), share of codes in use (seen within a few windows) and share of the most frequent code.

        Also the perplexity: the geometric mean of the codebooks'. A micro-batch knows its own rank's labels only, so
        `follow` overwrites the tensors returned since the last step with what is true of all ranks' and micro-batches'.
        """
        values = self._measure(self.counts if self._pending is None else self.counts + self._pending)
        if self._pending is not None:
            self._given_out.append(values)
        names = ["majority", "majority_0", "entropy", "use", "perplexity"]
        names += [f"{what}_{book}" for what in ("entropy", "use") for book in range(len(self.classes))]
        return dict(zip(names, values, strict=True))  # views

    @torch.no_grad()
    def _measure(self, counts: Tensor) -> Tensor:
        """The statistics of a histogram [codebooks, classes], in the order of `statistics`' names."""
        majority = (counts / counts.sum(1, keepdim=True).clamp(min=1e-9)).amax(1)
        entropy = _entropy(counts)
        use = (counts > 1e-2).sum(1) / self.sizes
        means = [majority.mean(), majority[0], entropy.mean(), use.mean(), 2 ** entropy.mean()]
        return torch.cat([torch.stack(means), entropy, use])

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take a step's labels, of all ranks, into the histogram; judge their entropy once per window.

        The step's `statistics` become those of the histogram.

        Raises:
            TrainingStopped: a codebook's labels carry fewer bits than expected.

        """
        if self._pending is not None:
            self.counts.mul_(1 - 1 / self.window).add_(all_reduce_sum(self._pending))
            self._pending = None
            for values in self._given_out:
                values.copy_(self._measure(self.counts))
            self._given_out = []
        if (step + 1) % self.window:
            return
        for book, (bits, least) in enumerate(zip(_entropy(self.counts).tolist(), self.least)):
            if bits < least:
                raise TrainingStopped(
                    f"The labels of {self.name!r}, codebook {book}, carry {bits:.2f} bits over the last {self.window} "
                    f"steps, but at least {least:.2f} are expected: check that the audio isn't silent and that the "
                    "teacher fits it (sample rate, codec, fitted tokenizer)."
                )


def histogram(codes: Tensor, classes: int) -> Tensor:
    """How often each of `classes` occurs in codes int64 [n]: `torch.bincount` without its wait for a GPU."""
    return torch.zeros(classes, dtype=torch.int64, device=codes.device).scatter_add_(0, codes, torch.ones_like(codes))


def _entropy(counts: Tensor) -> Tensor:
    """Bits per row of a histogram [codebooks, classes]."""
    share = counts / counts.sum(1, keepdim=True).clamp(min=1e-9)
    return (-share * share.clamp(min=1e-12).log2()).sum(1).clamp(min=0)


class CodeHead(Head):
    """Logits of several codebooks, their loss, and the statistics of their labels.

    Logits and loss are float32 whatever the precision of training: a bfloat16 logit has 8 bits.

    Args:
        dim: width of the hidden states.
        classes: size of each codebook.
        settings: kind, width, temperature, alarm.
        name: of the target, for the alarm's sentence.

    """

    def __init__(self, dim: int, classes: tuple[int, ...], settings: CodeHeadSettings, name: str) -> None:
        super().__init__()
        self.temperature = settings.temperature
        self.codebooks = len(classes)
        self.labels: nn.Parameter | None = None
        if settings.kind == "cosine":
            self.projection = nn.Linear(dim, self.codebooks * settings.dim)
            draw = torch.rand if settings.labels == "uniform" else torch.randn
            self.labels = nn.Parameter(draw(self.codebooks, max(classes), settings.dim))
        else:
            self.projection = nn.Linear(dim, self.codebooks * max(classes))
        self.counts = LabelCounts(classes, settings.window, settings.least_entropy, name)
        beyond = torch.arange(max(classes)) >= torch.tensor(classes)[:, None]
        self.register_buffer("beyond", beyond if len(set(classes)) > 1 else None, persistent=False)

    def logits(self, hidden: Tensor) -> Tensor:
        """Score hidden [n, dim]: [codebooks, n, classes] float32; -inf beyond a smaller codebook."""
        with torch.autocast(hidden.device.type, enabled=False):
            projected = rearrange(
                self.projection(hidden.float()), "n (codebooks width) -> codebooks n width", codebooks=self.codebooks
            )
            if self.labels is None:
                logits: Tensor = projected
            else:
                query, label = functional.normalize(projected, dim=-1), functional.normalize(self.labels, dim=-1)
                logits = torch.bmm(query, label.transpose(1, 2)) / self.temperature
        beyond: Tensor | None = self.beyond  # type: ignore[assignment]
        return logits if beyond is None else logits.masked_fill(beyond[:, None], -torch.inf)

    def forward(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Metrics]:
        """Return the cross entropy, averaged over n, and metrics; a cosine head's is summed over codebooks.

        hidden: [n, dim] masked frames; targets: int64 [n, codebooks] codes.
        """
        logits = self.logits(hidden)
        codes = rearrange(targets, "n codebooks -> codebooks n")
        each = rearrange(logits, "codebooks n classes -> (codebooks n) classes")
        total = functional.cross_entropy(each, codes.flatten(), reduction="sum")
        value = total / max(1, len(targets)) / (self.codebooks if self.labels is None else 1)
        with torch.no_grad():
            right = (logits.argmax(-1) == codes).float().sum(1) / max(1, len(targets))
        metrics: Metrics = {"loss": value.detach(), "accuracy": right.mean(), "accuracy_0": right[0]}
        return value, metrics | self.counts.statistics()

    def observe(self, targets: Tensor) -> None:
        """Count labels: int64 [..., codebooks]."""
        self.counts.observe(targets)

    def follow(self, step: int) -> None:
        """Take the step's labels into account; raise TrainingStopped where they carry no information."""
        self.counts.follow(step)
