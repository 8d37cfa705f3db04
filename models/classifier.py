"""Classifiers: one of our encoders with heads on it, as a model that `AutoModelForAudioClassification` opens.

One config serves both doors: it is the encoder's own, and says under `classifier` which heads there are, over which
windows they listen and how a track's windows become one answer. `AutoModel` on the same folder gives the encoder.
Published with the encoder's source: torch, transformers and flat siblings only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from math import ceil
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .heads import Head, HeadConfig, Moments, combined, pooled

BATCH_SECONDS = 80.0  # of sound that the encoder hears at a time, in evaluation
ABILITIES = ("_supports_sdpa", "_supports_flash_attn", "_no_split_modules", "supports_gradient_checkpointing")


def cut(samples: int, longest: int) -> list[tuple[int, int]]:
    """Start and length of the fewest windows of at most `longest` samples, equal to a sample."""
    number = max(1, ceil(samples / longest))
    edges = [samples * k // number for k in range(number + 1)]
    return [(start, end - start) for start, end in pairwise(edges)]


class AudioClassifier(PreTrainedModel):
    """An encoder and its heads; :func:`classifier_of` makes the class for an encoder's.

    config.classifier: {"heads": [{"name", "head": `HeadConfig`, "facts": window_seconds, stretch_seconds, aggregation,
    thresholds, …}]}. The first head is the one that transformers sees (`id2label`, `problem_type`, `thresholds`).
    Without heads the encoder answers by its own (`class_logits`), as taggers do.
    """

    encoder_class: ClassVar[Any] = None
    main_input_name = "input_values"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.encoder_class(config))
        said = (getattr(config, "classifier", None) or {}).get("heads", [])
        self.head_names = [entry["name"] for entry in said]
        self.facts = [dict(entry["facts"]) for entry in said]
        self.heads = nn.ModuleList(HeadConfig.from_dict(entry["head"]).build() for entry in said)
        if not said and not hasattr(self.encoder, "class_logits"):
            raise ValueError("This config names no head, and the encoder has none of its own: it is no classifier.")
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The encoder's own; heads that training adds begin as torch begins them."""
        if isinstance(module, nn.Linear) and any(module is part for head in self.heads for part in head.modules()):
            module.reset_parameters()
        elif not isinstance(module, Head):
            self.encoder._init_weights(module)

    @property
    def encoder(self) -> Any:
        """What hears."""
        return getattr(self, self.base_model_prefix)

    @property
    def sample_rate(self) -> int:
        """Hz of the waveform."""
        return int(self.config.sample_rate)

    @property
    def frame_rate(self) -> float:
        """Hz of answers over time."""
        return float(self.encoder.frame_rate)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        head: int = 0,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Answer about whole clips of any length.

        Args:
            input_values: [batch, samples] waveform at `config.sample_rate`, in [-1, 1].
            attention_mask: [batch, samples], 1 for sound and 0 for the padding after it; None: no padding.
            labels: [batch] int64 class numbers (−1 or −100: none), or [batch, classes] of 0 and 1 or numbers (NaN:
                none); heads over time: as `heads` says, for the frames of the first window.
            head: which of the heads.
            return_dict: False returns a tuple.

        Returns:
            `logits` [batch, classes], at the head's temperature; of numbers, values; of heads over time, the logit of
            the mean probability over time. With labels, `loss` too.
        """
        if self.heads and self._head(head).over_time:
            frames, valid = self.answer_frames(input_values, attention_mask, head)
            logits = self._over_time(frames, valid, self._head(head))
            raw = frames
        elif self.heads:
            raw = self._answer(input_values, attention_mask, head)
            logits = self.tempered(raw, head)
        else:
            raw = logits = self.encoder.class_logits(input_values, attention_mask)
        loss = None if labels is None else self._loss(raw, labels, head)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def frame_logits(self, input_values: Tensor, attention_mask: Tensor | None = None, head: int = 0) -> Tensor:
        """Logits over time [batch, frames, classes] at `frame_rate`, of a head over time or of any other per frame.

        Raises:
            ValueError: the head answers about clips alone.
        """
        if not self.heads:
            found: Tensor = self.encoder.frame_logits(input_values, attention_mask)
            return found
        return self.tempered(self.answer_frames(input_values, attention_mask, head)[0], head)

    def tempered(self, logits: Tensor, head: int = 0) -> Tensor:
        """Logits at the head's temperature; numbers stay."""
        config = self._head(head).config
        return logits / config.temperature if self._head(head).nominal and config.temperature != 1 else logits

    def probabilities(self, logits: Tensor, head: int = 0) -> Tensor:
        """What `logits` of `forward` mean, whichever head: probabilities, or numbers as they are."""
        problem = self._head(head).problem if self.heads else self.config.problem_type
        if problem == "regression":
            return logits
        return torch.sigmoid(logits) if problem == "multi_label_classification" else torch.softmax(logits, -1)

    def answer_frames(
        self, input_values: Tensor, attention_mask: Tensor | None = None, head: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Raw logits [batch, frames, classes] over time, and [batch] frames that count; the rest is 0."""
        module = self._head(head)
        if not module.over_time:
            raise ValueError(f"The head {self.head_names[head]!r} answers about clips, not over time: take forward.")
        parts: list[list[Tensor]] = [[] for _ in input_values]
        for row, frames, _ in self._heard(input_values, attention_mask, head):
            parts[row].append(module.answer(frames))
        rows = [torch.cat(found) for found in parts]
        valid = torch.tensor([len(found) for found in rows], device=input_values.device)
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), valid

    def answer_windows(
        self, input_values: Tensor, seconds: float, head: int = 0
    ) -> tuple[Tensor, list[tuple[int, int]]]:
        """Answers about the stretches of one clip [1, samples] of at most `seconds`: logits, start and length each."""
        stretches = cut(input_values.shape[1], max(1, round(seconds * self.sample_rate)))
        answers: list[Any] = [self.forward(input_values[:, at : at + size], head=head) for at, size in stretches]
        return torch.cat([answer.logits for answer in answers]), stretches

    def _head(self, number: int) -> Head:
        head: Head = self.heads[number]  # type: ignore[assignment]
        return head

    def _answer(self, input_values: Tensor, attention_mask: Tensor | None, number: int) -> Tensor:
        """Raw logits [batch, classes] of a head over clips."""
        head, facts = self._head(number), self.facts[number]
        held: dict[int, dict[int, list[Any]]] = {}
        for row, frames, stretch in self._heard(input_values, attention_mask, number):
            found = head.moments(frames[None]) if head.streams else head.answer(head.pool(frames[None]))
            held.setdefault(row, {}).setdefault(stretch, []).append(found)
        answers = []
        for row in range(len(input_values)):
            each = torch.cat([_stretch(head, parts) for _, parts in sorted(held[row].items())])
            answers.append(_averaged(each, facts.get("aggregation", "moments"), head))
        return torch.stack(answers)

    def _heard(
        self, input_values: Tensor, attention_mask: Tensor | None, number: int
    ) -> Iterator[tuple[int, Tensor, int]]:
        """Row, frames [frames, dim] and stretch of every window, in the order of time within a row."""
        head, facts, encoder = self._head(number), self.facts[number], self.encoder
        lengths = [input_values.shape[1]] * len(input_values)
        if attention_mask is not None:
            lengths = attention_mask.long().sum(1).tolist()
        shortest = self._shortest()
        windows = [
            (row, start, samples, stretch)
            for row, length in enumerate(lengths)
            for start, samples, stretch in self._windows(max(1, length), facts)
        ]
        most = max(size for _, _, size, _ in windows)
        size = len(windows) if self.training else max(1, int(BATCH_SECONDS * self.sample_rate / most))
        for first in range(0, len(windows), size):
            part = windows[first : first + size]
            sizes = [samples for _, _, samples, _ in part]
            longest = max(shortest, *sizes)
            batch = input_values.new_zeros(len(part), longest)
            for place, (row, start, samples, _) in enumerate(part):
                batch[place, :samples] = input_values[row, start : start + samples]
            valid = torch.tensor(sizes, device=batch.device).clamp(min=shortest)
            mask = None
            if int(valid.min()) < longest:
                mask = (torch.arange(longest, device=batch.device) < valid[:, None]).long()
            states = encoder(batch, attention_mask=mask, output_hidden_states=True).hidden_states
            bands = getattr(encoder, "bands", 1)  # BEATs: a frame is the mean over its patches
            chosen = head.select([state if bands == 1 else state.unflatten(1, (-1, bands)).mean(2) for state in states])
            frames = encoder.valid_frames(valid).clamp(1, chosen.shape[1]).tolist()
            for place, (row, _, _, stretch) in enumerate(part):
                yield row, chosen[place, : int(frames[place])].float(), stretch

    def _windows(self, length: int, facts: dict[str, Any]) -> Iterator[tuple[int, int, int]]:
        """Start, samples and stretch of a clip's windows: stretches that are judged, in windows that are heard."""
        longest = max(1, round(float(facts.get("window_seconds", 10.0)) * self.sample_rate))
        judged = facts.get("stretch_seconds")
        stretches = cut(length, length if judged is None else max(1, round(float(judged) * self.sample_rate)))
        for number, (first, samples) in enumerate(stretches):
            for start, size in cut(samples, longest):
                yield first + start, size, number

    def _shortest(self) -> int:
        """The fewest samples that make a frame."""

        def enough(samples: int) -> bool:
            return int(self.encoder.valid_frames(torch.tensor([samples]))[0]) >= 1

        high = 1
        while not enough(high):
            high *= 2
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def _over_time(self, frames: Tensor, valid: Tensor, head: Head) -> Tensor:
        inside = (torch.arange(frames.shape[1], device=frames.device) < valid[:, None])[..., None]
        mean = (head.probabilities(frames) * inside).sum(1) / valid.clamp(min=1)[:, None]
        return mean.clamp(min=1e-7).log() if head.exclusive else torch.logit(mean, eps=1e-7)

    def _loss(self, logits: Tensor, labels: Tensor, number: int) -> Tensor:
        if self.heads:
            head = self._head(number)
            if head.exclusive:
                return head.loss(logits, labels.clamp(min=-1))
            shaped = labels.float() if labels.dim() == logits.dim() else labels.float().unsqueeze(-1)
            return head.loss(logits, shaped)
        if self.config.problem_type == "multi_label_classification":
            return nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        return nn.functional.cross_entropy(logits, labels, ignore_index=-100)


def _stretch(head: Head, parts: Sequence[Any]) -> Tensor:
    """Logits [1, classes] of a stretch from those of its windows, or from the moments of all its frames."""
    if isinstance(parts[0], Moments):
        return head.answer(pooled(combined(parts), head.config.pooling))
    return torch.stack(list(parts)).mean(0)


def _averaged(each: Tensor, aggregation: str, head: Head) -> Tensor:
    """One answer [classes] from those of all stretches [stretches, classes]."""
    if len(each) == 1 or aggregation != "probabilities" or not head.nominal:
        return each.mean(0)
    return head.logits_of(head.probabilities(each).mean(0))


def classifier_of(encoder_class: Any) -> Any:
    """The class of classifiers on an encoder's class, e.g. MertForAudioClassification on MertModel."""
    return _class_of(encoder_class)


@cache
def _class_of(encoder_class: Any) -> Any:
    stem = encoder_class.__name__.removesuffix("Model")
    parts = {
        "config_class": encoder_class.config_class,
        "encoder_class": encoder_class,
        "base_model_prefix": encoder_class.base_model_prefix,
        **{name: getattr(encoder_class, name) for name in ABILITIES if hasattr(encoder_class, name)},
        "__module__": __name__,
        "__doc__": f"A classifier on {encoder_class.__name__}.",
    }
    return type(f"{stem}ForAudioClassification", (AudioClassifier,), parts)
