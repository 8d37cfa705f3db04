"""Sound to labels: `load_classifier` opens heads folders, published classifiers, taggers and Hugging Face classifiers.

Whatever it is, it listens in windows, so that hours of sound need the memory of minutes. Heads on one encoder share one
pass. An answer is a `Prediction`, about the track, about windows, or over time.
"""

from __future__ import annotations

import copy
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from ...data.audio import read as audio
from ...data.labels.kind import FrameAnswers, Kind, Timed
from ...data.labels.lookup import kind_of
from ...data.track import Manifest
from ...models.classifier import cut
from ...models.classifier_files import is_classifier, open_classifier
from ...models.encoder import Encoder, ModelEncoder, load_encoder, weights_hash
from ...models.folders import classifier_in
from ...models.head_files import HeadFacts, head_names, read_heads
from ...models.heads import Head, Moments, combined, pooled
from ...models.loading import TINY, download, find_our_class, forget_heads, quiet, read_config
from ...models.loading import shipped as find_shipped
from ...models.tagger import average

Unit = Literal["track", "window", "frame"]
Aggregate = Literal["mean", "max", "median", "vote"]
Array = npt.NDArray[np.float64]
BATCH_SECONDS = 80.0  # of sound that is heard at a time, and decoded at a time
Decode = Callable[[int, int], npt.NDArray[np.float32]]
WINDOW_SECONDS = 10.0
SILENCE = 1e-4
"""The highest sample (−80 dBFS) of what is silent: dither and converters' noise lie below, the softest music above."""


@dataclass(frozen=True)
class Prediction:
    """What was heard. kind: of the labels; names: of the outputs; start, end: [units] s.

    Of what the kind hasn't, None: probabilities [units, classes]; values [units, numbers]; times [beats] s, with
    positions [beats] in the bar where downbeats are known; segments (start, end, label) of chords and events.
    thresholds: above which a tag holds, per name. windows: of a track, what its windows say.
    """

    kind: str
    names: tuple[str, ...]
    start: Array
    end: Array
    probabilities: Array | None = None
    values: Array | None = None
    times: Array | None = None
    positions: npt.NDArray[np.int64] | None = None
    segments: list[tuple[float, float, str]] | None = None
    thresholds: tuple[float, ...] = ()
    name: str = ""
    windows: Prediction | None = None

    @property
    def label_kind(self) -> Kind:
        """What its labels are."""
        return kind_of(self.kind)

    @property
    def timed(self) -> Timed:
        """What was heard over time."""
        return Timed(self.times, self.positions, self.segments)

    @property
    def label(self) -> str:
        """The likeliest name of a track (of several units, of their mean); of numbers, the values."""
        if self.probabilities is not None:
            return self.names[int(self.probabilities.mean(0).argmax())]
        values = np.zeros(0) if self.values is None else self.values.mean(0)
        return ", ".join(f"{name} {value:.3g}" for name, value in zip(self.names, values))

    @property
    def tempo(self) -> float | None:
        """Beats per minute, by the median distance of beats; None without two beats."""
        if self.times is None or len(self.times) < 2:
            return None
        return 60.0 / float(np.median(np.diff(self.times)))

    def units(self) -> Iterator[Prediction]:
        """The prediction about each unit by itself."""
        for number, (start, end) in enumerate(zip(self.start, self.end)):
            probabilities, values = (
                None if table is None else table[number : number + 1] for table in (self.probabilities, self.values)
            )
            place = np.array([start]), np.array([end])
            yield Prediction(self.kind, self.names, *place, probabilities, values, thresholds=self.thresholds)

    def ranked(self, top: int | None = None, threshold: float | None = None) -> list[tuple[str, float]]:
        """Names with their probabilities (mean over units), the likeliest first.

        Of tags those above the threshold (given, or the head's own, else 0.5) unless `top` says how many.
        """
        if self.probabilities is None:
            return []
        mean = self.probabilities.mean(0)
        order = np.argsort(-mean, kind="stable")
        if top is None and self.label_kind.several:
            limits = self.thresholds or (0.5,) * len(self.names)
            order = np.array([i for i in order if mean[i] >= (limits[i] if threshold is None else threshold)], int)
        return [(self.names[i], float(mean[i])) for i in order[: top or len(order)]]


class Sound:
    """A recording at one rate, decoded in stretches of BATCH_SECONDS as it is needed.

    With a pool the stretch that follows is decoded while an encoder hears this one. Two stretches are kept at most.

    Args:
        samples: number of them.
        rate: Hz.
        decode: (start, samples) -> [samples] float32.
        pool: whose threads decode ahead; None: nothing is decoded before it is asked for.
        name: of the file.
        recorded: Hz of what it was made from; None: `rate`.
        over: once it is set nothing can be read, so that another thread which hears this ends soon.
    """

    def __init__(
        self, samples: int, rate: int, decode: Decode, pool: Executor | None = None, name: str = "",
        recorded: int | None = None, over: threading.Event | None = None,
    ) -> None:  # fmt: skip
        self.samples, self.rate, self.name, self.recorded = samples, rate, name, recorded or rate
        self._decode, self._pool = decode, pool
        self.peak: float | None = None  # the highest sample of what was read
        self._size = round(BATCH_SECONDS * rate)
        self._over = over
        self._stretches: dict[int, npt.NDArray[np.float32] | Future[npt.NDArray[np.float32]]] = {}

    @property
    def silent(self) -> bool:
        """Whether all that was read is silence."""
        return self.peak is not None and self.peak <= SILENCE

    @property
    def seconds(self) -> float:
        """Of the whole."""
        return self.samples / self.rate

    def expect(self, number: int = 0) -> Sound:
        """Begin to decode a stretch in the background; the sound itself."""
        if self._pool is not None and number not in self._stretches and number * self._size < self.samples:
            self._stretches[number] = self._pool.submit(self._decode, number * self._size, self._size)
        return self

    def read(self, start: int, count: int) -> npt.NDArray[np.float32]:
        """[count] samples from `start` on, fewer at the end. Raises what decoding raises, and CancelledError."""
        if self._over is not None and self._over.is_set():
            raise CancelledError(f"{self.name} is no longer heard.")
        first, last = start // self._size, max(start, start + count - 1) // self._size
        for number in [number for number in self._stretches if not first <= number <= last + 1]:
            del self._stretches[number]
        parts = [self._stretch(number) for number in range(first, last + 1)]
        self.expect(last + 1)
        wave = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return wave[start - first * self._size :][:count]

    def _stretch(self, number: int) -> npt.NDArray[np.float32]:
        found = self._stretches.get(number)
        if isinstance(found, np.ndarray):
            return found
        wave = self._decode(number * self._size, self._size) if found is None else found.result()
        self.peak = max(self.peak or 0.0, float(wave.max(initial=0.0)), -float(wave.min(initial=0.0)))
        self._stretches[number] = wave
        return wave


def sound_of(
    source: Any, sample_rate: int | None, rate: int, pool: Executor | None = None, over: threading.Event | None = None
) -> Sound:
    """A file or a waveform ([samples] or [channels, samples], at `sample_rate`) at `rate` Hz; pool, over: see `Sound`.

    Raises:
        ValueError: what is no sound: empty, NaN, an unreadable file.
        OSError: what is no sound: empty, NaN, an unreadable file.
    """
    if isinstance(source, (str, Path)):
        about = audio.info(source)
        samples = max(1, about.samples * rate // about.sample_rate)
        decode: Decode = lambda start, count: _finite(audio.read(source, rate, start, count), source)  # noqa: E731
        return Sound(samples, rate, decode, pool, Path(source).name, about.sample_rate, over)
    wave = np.asarray(source.detach().cpu() if isinstance(source, Tensor) else source, dtype=np.float32)
    wave = wave.mean(0) if wave.ndim == 2 else wave
    if wave.ndim != 1 or not len(wave):
        raise ValueError(f"A waveform is [samples] or [channels, samples] and not empty; this one is {wave.shape}.")
    wave = _finite(audio.resample(wave, sample_rate or rate, rate), "the waveform")
    return Sound(len(wave), rate, lambda start, count: wave[start : start + count], recorded=sample_rate, over=over)


def what_to_hear(manifest: Manifest, row: int) -> tuple[Any, int | None]:
    """A track for `Classifier.hear`: its file, or where it has none of its own, the waveform and its rate in Hz."""
    if manifest.has_files:
        return manifest.path_of(manifest[row]), None
    return manifest.read(row), int(manifest.column("sample_rate")[row])


def _finite(wave: npt.NDArray[np.float32], name: Any) -> npt.NDArray[np.float32]:
    if not np.isfinite(wave.sum()) and not np.isfinite(wave).all():  # no nan or infinity leaves the sum finite
        raise ValueError(f"{name} holds NaN or infinity, which nothing can be heard in.")
    return wave


@dataclass
class Answer:
    """What a head said of a track, raw. stretches: start, end in s and logits of each; frames: logits and times."""

    logits: Tensor | None = None  # of the track, as its facts say
    windows: list[tuple[float, float, Tensor]] = field(default_factory=list)
    frames: Tensor | None = None
    times: Array | None = None


class Answering(Protocol):
    """Something that answers about sound. rate: Hz that it hears; heads: name, kind, names, facts of its answers."""

    rate: int
    heads: list[tuple[str, str, tuple[str, ...], HeadFacts]]

    def hear(self, sound: Sound, window: float | None) -> list[Answer]:
        """One answer per head; window: seconds of the windows that are answered about, None for the head's own."""
        ...


class OnEncoder:
    """Heads on an encoder: what shares windows shares one pass."""

    def __init__(self, encoder: Encoder, heads: Sequence[tuple[str, Head, HeadFacts]], device: str = "cpu") -> None:
        self.encoder, self.device = encoder, device
        self.rate = int(encoder.sample_rate)
        self.modules = [head.to(device).eval() for _, head, _ in heads]
        self.heads = [(name, head.config.kind, head.names, facts) for name, head, facts in heads]
        for name, head, _ in heads:
            if head.config.dim != encoder.dim or not -encoder.layers <= head.config.layer < encoder.layers:
                raise ValueError(
                    f"The head {name!r} reads layer {head.config.layer} of frames of {head.config.dim} numbers; this "
                    f"encoder has {encoder.layers} layers of {encoder.dim}: it belongs to another."
                )

    @torch.inference_mode()
    def hear(self, sound: Sound, window: float | None) -> list[Answer]:
        """See `Answering`."""
        groups: dict[tuple[float, float | None], list[int]] = {}
        for number, (_, _, _, facts) in enumerate(self.heads):
            groups.setdefault((min(facts.window_seconds, window or math.inf), facts.stretch_seconds), []).append(number)
        answers = [Answer() for _ in self.heads]
        for (longest, judged), members in groups.items():
            self._hear_group(sound, longest, judged, members, answers)
        return answers

    def _hear_group(
        self, sound: Sound, longest: float, judged: float | None, members: list[int], answers: list[Answer]
    ) -> None:
        size = sound.samples if judged is None else max(1, round(judged * self.rate))
        most = max(1, round(longest * self.rate))
        plan = [
            (first + start, count, number)
            for number, (first, samples) in enumerate(cut(sound.samples, size))
            for start, count in cut(samples, most)
        ]
        held: dict[int, list[Any]] = {member: [] for member in members}
        stretch: dict[int, list[Tensor]] = {member: [] for member in members}
        over: dict[int, list[Tensor]] = {member: [] for member in members}
        times: list[Any] = []
        previous = 0
        for start, count, number, states, frames in self._states(sound, plan):
            if number != previous:
                self._judge(members, held, stretch)
                previous = number
            times.append(start / self.rate + (np.arange(frames) + 0.5) / self.encoder.frame_rate)
            for member in members:
                module = self.modules[member]
                chosen = module.select(states)
                if module.over_time:
                    over[member].append(module.answer(chosen)[0].cpu())
                    continue
                found = module.moments(chosen) if module.streams else module.answer(module.pool(chosen))
                one = module.answer(pooled(found, module.config.pooling)) if isinstance(found, Moments) else found
                answers[member].windows.append((start / self.rate, (start + count) / self.rate, one[0].cpu()))
                held[member] = (
                    [combined([*held[member], found])] if isinstance(found, Moments) else [*held[member], found]
                )
        self._judge(members, held, stretch)
        for member in members:
            if self.modules[member].over_time:
                answers[member].frames, answers[member].times = torch.cat(over[member]), np.concatenate(times)
            else:
                answers[member].logits = self._whole(member, torch.cat(stretch[member]))

    def _judge(self, members: list[int], held: dict[int, list[Any]], stretch: dict[int, list[Tensor]]) -> None:
        """End a stretch: its windows become one answer."""
        for member in members:
            module, parts = self.modules[member], held[member]
            if not parts:
                continue
            if isinstance(parts[0], Moments):
                stretch[member].append(module.answer(pooled(parts[0], module.config.pooling)).cpu())
            else:
                stretch[member].append(torch.stack(parts).mean(0).cpu())
            held[member] = []

    def _whole(self, member: int, each: Tensor) -> Tensor:
        module, facts = self.modules[member], self.heads[member][3]
        if len(each) == 1 or facts.aggregation != "probabilities" or not module.nominal:
            return each.mean(0)
        return module.logits_of(module.probabilities(each).mean(0))

    def _states(
        self, sound: Sound, plan: list[tuple[int, int, int]]
    ) -> Iterator[tuple[int, int, int, list[Tensor], int]]:
        """Start, samples, stretch, hidden states [1, frames, dim] of all layers, frames, window by window."""
        size = max(1, int(BATCH_SECONDS * self.rate / max(count for _, count, _ in plan)))
        for first in range(0, len(plan), size):
            part = plan[first : first + size]
            begin, end = part[0][0], part[-1][0] + part[-1][1]
            wave = sound.read(begin, end - begin)
            batch = torch.zeros(len(part), max(count for _, count, _ in part))
            for place, (start, count, _) in enumerate(part):
                piece = wave[start - begin : start - begin + count]
                batch[place, : len(piece)] = torch.from_numpy(np.ascontiguousarray(piece))
            lengths = torch.tensor([count for _, count, _ in part])
            padded = bool((lengths < lengths.max()).any())
            hidden = self.encoder.hidden_states(batch.to(self.device), lengths.to(self.device) if padded else None)
            counts = self.encoder.valid_frames(lengths).clamp(1, hidden.shape[2]).tolist()
            for place, (start, count, number) in enumerate(part):
                states = list(hidden[place : place + 1, :, : int(counts[place])].unbind(1))
                yield start, count, number, states, int(counts[place])

    def probabilities(self, member: int, logits: Tensor) -> Tensor:
        """What a head's logits mean."""
        with torch.inference_mode():
            return self.modules[member].probabilities(logits.to(self.device)).cpu()


class Whole:
    """A network with an answer of its own: one of our taggers, or a Hugging Face classifier."""

    def __init__(self, name: str, model: Any, extractor: Any, device: str) -> None:
        self.model, self.extractor, self.device = model.to(device).eval(), extractor, device
        config = model.config
        self.rate = int(getattr(extractor, "sampling_rate", 0) or config.sample_rate)
        self.problem = config.problem_type or "single_label_classification"
        kind = {"multi_label_classification": "tags", "regression": "numbers"}.get(self.problem, "classes")
        names = tuple(str(config.id2label[number]) for number in range(len(config.id2label)))
        seconds = getattr(config, "window_samples", 0) / self.rate or WINDOW_SECONDS
        self.heads = [(name, kind, names, HeadFacts(window_seconds=seconds, thresholds=()))]
        self.frame_wise = bool(getattr(model, "frame_wise", False))

    def hear(self, sound: Sound, window: float | None) -> list[Answer]:
        """See `Answering`: windows and what is averaged are those of the config (`models/tagger.py`).

        With `window`, and for classifiers of others, the fewest equal windows of at most so many seconds, whose
        probabilities are averaged.
        """
        own = self.extractor is None and window is None
        longest = max(1, round((window or self.heads[0][3].window_seconds) * self.rate))
        plan = cut(sound.samples, longest)
        if own:
            plan = [(start, min(longest, sound.samples)) for start in self.model.starts(sound.samples)]
        answer = Answer()
        for start, count in plan:
            logits = self._logits(self._wave(sound, start, count))[0].float().cpu()
            answer.windows.append((start / self.rate, (start + count) / self.rate, logits))
        each = torch.stack([logits for _, _, logits in answer.windows])
        way = self.model.config.aggregation if own else "probabilities"
        answer.logits = average(each[None], way, self.problem)[0]
        if self.frame_wise:
            answer.frames, answer.times = self._over_time(sound)
        return [answer]

    def _over_time(self, sound: Sound) -> tuple[Tensor, Array]:
        """Logits [frames, classes] and times in s; the network's windows one after the other, the last one padded."""
        size, frames = self.model.config.window_samples, []
        for start in range(0, sound.samples, size):
            wave = self._wave(sound, start, min(size, sound.samples - start))
            with torch.inference_mode():
                frames.append(self.model.frame_logits(wave)[0].float().cpu())
        found = torch.cat(frames)
        return found, (np.arange(len(found)) + 0.5) / self.model.frame_rate

    def _wave(self, sound: Sound, start: int, count: int) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(sound.read(start, count)))[None].to(self.device)

    @torch.inference_mode()
    def _logits(self, wave: Tensor) -> Tensor:
        if self.extractor is None:
            short = wave.shape[1] <= self.model.config.window_samples
            found: Tensor = self.model.judged(wave) if short else self.model.class_logits(wave)
            return found
        given = self.extractor(wave[0].cpu().numpy(), sampling_rate=self.rate, return_tensors="pt")
        return self.model(**{name: value.to(self.device) for name, value in given.items()}).logits

    def probabilities(self, member: int, logits: Tensor) -> Tensor:
        """What its logits mean."""
        if self.problem == "regression":
            return logits
        return torch.sigmoid(logits) if self.problem == "multi_label_classification" else torch.softmax(logits, -1)


@dataclass
class Classifier:
    """A classifier, ready to hear. It may hold several heads: calling it asks the first, `hear` asks all."""

    answering: Any
    name: str = ""

    @property
    def names(self) -> list[str]:
        """Of the heads."""
        return [name for name, _, _, _ in self.answering.heads]

    def __call__(self, sound: Any, sample_rate: int | None = None, unit: Unit = "track") -> Prediction:
        """What the first head says of a file or a waveform ([samples], at `sample_rate` Hz or the classifier's own).

        unit: "track", "window", or "frame" (heads over time, others answer about windows).

        Silence is heard as anything else, with a warning.

        Raises:
            ValueError: what is no sound.
            OSError: what is no sound.
        """
        return next(iter(self.hear(sound, sample_rate, unit).values()))

    def hear(
        self,
        sound: Any,
        sample_rate: int | None = None,
        unit: Unit = "track",
        aggregate: Aggregate | None = None,
        window: float | None = None,
    ) -> dict[str, Prediction]:
        """What every head says, in one pass.

        aggregate: of the windows of a track; None for each head's own way. A vote is the share of windows in which a
        class is likeliest, or a tag above its threshold; numbers, which nothing can vote for, have their median.
        window: seconds, where the unit is one.

        Raises:
            ValueError: another unit, a window of no length, what is no sound.
        """
        if unit not in ("track", "window", "frame"):
            raise ValueError(f"unit is {unit!r}; it is track, window or frame.")
        if window is not None and not 0 < window < math.inf:
            raise ValueError(f"A window of {window} s can't be heard: it is longer than 0 s, such as 10.")
        heard = sound if isinstance(sound, Sound) else sound_of(sound, sample_rate, self.answering.rate)
        answers = self.answering.hear(heard, window)
        found: dict[str, Prediction] = {}
        for number, (answer, (name, kind, names, facts)) in enumerate(zip(answers, self.answering.heads)):
            said = Said(self.answering, number, name, kind, names, facts, self._beside(answers, number))
            found[name] = said.prediction(answer, heard.seconds, unit, aggregate)
        if heard.silent and heard is not sound:
            warnings.warn("This sound is silent (below −80 dBFS): the answers are about nothing.", stacklevel=2)
        return found

    @property
    def about_clips(self) -> list[str]:
        """The heads that have no answer per frame."""
        if getattr(self.answering, "frame_wise", False):
            return []
        return [name for name, kind, _, _ in self.answering.heads if not kind_of(kind).over_time]

    def _beside(self, answers: Sequence[Answer], number: int) -> dict[str, Array]:
        """What the head that this one's decoder names says of the very frames; nothing where none is named or there."""
        wanted, own = self.answering.heads[number][3].decoder.get("bars"), answers[number].times
        for other, (answer, (name, *_)) in enumerate(zip(answers, self.answering.heads)):
            if name != wanted or answer.frames is None or answer.times is None or own is None:
                continue
            if np.array_equal(answer.times, own):
                likely = self.answering.probabilities(other, answer.frames)
                return {name: np.asarray(likely.double().numpy())}
        return {}


@dataclass(frozen=True)
class Said:
    """From a head's raw answers to a `Prediction`."""

    answering: Any
    number: int
    name: str
    kind: str
    names: tuple[str, ...]
    facts: HeadFacts
    beside: Mapping[str, Array] = field(default_factory=dict)

    @property
    def label_kind(self) -> Kind:
        """What the head's labels are."""
        return kind_of(self.kind)

    def prediction(self, answer: Answer, seconds: float, unit: Unit, aggregate: Aggregate | None) -> Prediction:
        """Answers of one track, per unit."""
        if answer.frames is not None and (unit == "frame" or self.label_kind.over_time):
            return self._over_time(answer, seconds, unit)
        if unit == "track":
            assert answer.logits is not None
            likely = self._likely(answer.logits)[None]
            over = self._windows(answer) if len(answer.windows) > 1 else None
            if answer.frames is not None:
                over = self._frames(answer, seconds)
            if aggregate is not None and len(answer.windows) > 1:
                each = np.stack([self._likely(one) for _, _, one in answer.windows])
                if aggregate == "vote" and self.label_kind.several:
                    return self._voted(each, seconds, over)
                numbers = aggregate == "vote" and not self.label_kind.nominal
                likely = _aggregated(each, "median" if numbers else aggregate)
            return self._made(np.zeros(1), np.array([seconds]), likely, windows=over)
        return self._windows(answer)

    def _voted(self, each: Array, seconds: float, windows: Prediction | None) -> Prediction:
        """Tags: the share of windows in which each is above its threshold; one holds that half of them say."""
        shares = (each >= np.array(self.facts.thresholds or (0.5,) * each.shape[1])).mean(0)[None]
        voted = self._made(np.zeros(1), np.array([seconds]), shares, windows=windows)
        return replace(voted, thresholds=())

    def _windows(self, answer: Answer) -> Prediction:
        start, end = (np.array([window[side] for window in answer.windows]) for side in (0, 1))
        return self._made(start, end, np.stack([self._likely(one) for _, _, one in answer.windows]))

    def _likely(self, logits: Tensor) -> Array:
        return np.asarray(self.answering.probabilities(self.number, logits).double().numpy())

    def _made(self, start: Array, end: Array, likely: Array, **more: Any) -> Prediction:
        if not self.label_kind.nominal:
            return Prediction(self.kind, self.names, start, end, values=likely, name=self.name, **more)
        limits = tuple(self.facts.thresholds)
        return Prediction(self.kind, self.names, start, end, likely, thresholds=limits, name=self.name, **more)

    def _over_time(self, answer: Answer, seconds: float, unit: Unit) -> Prediction:
        assert answer.frames is not None and answer.times is not None
        likely, times = self._likely(answer.frames), answer.times
        heard = self.label_kind.heard(FrameAnswers(likely, times, seconds, self.names, self.beside), self.facts.decoder)
        more = vars(heard)
        if unit != "frame":
            return self._made(np.zeros(1), np.array([seconds]), likely.mean(0)[None], **more)
        return self._frames(answer, seconds, **more)

    def _frames(self, answer: Answer, seconds: float, **more: Any) -> Prediction:
        """A unit per frame, each reaching halfway to its neighbours."""
        assert answer.frames is not None and answer.times is not None
        times = answer.times
        middle = (times[1:] + times[:-1]) / 2
        edges = np.array([0.0, *middle]), np.array([*middle, max(seconds, times[-1])])
        return self._made(*edges, self._likely(answer.frames), **more)


def _aggregated(each: Array, how: Aggregate) -> Array:
    """[windows, classes] -> [1, classes]; a vote is the share of windows in which a class is likeliest."""
    if how == "vote":
        return np.asarray(np.bincount(each.argmax(1), minlength=each.shape[1])[None] / len(each))
    reduce: Any = {"mean": np.mean, "max": np.max, "median": np.median}[how]
    return np.asarray(reduce(each, axis=0)[None])


def load_classifier(
    name_or_path: str | Path, device: str = "cpu", *, encoder: str | Path | None = None, trust_remote_code: bool = False
) -> Classifier:
    """Open a heads folder that `groundbass probe` wrote, a run that learned from labels, a published classifier, one of
    our taggers, any Hugging Face audio classifier, or, by its name, one that ships with groundbass.

    encoder: of a heads folder, where it has moved. trust_remote_code: run a folder's own Python.

    Raises:
        FileNotFoundError: there is no such folder or model.
        ValueError: no classifier in it, or heads of another encoder (by its weights' hash).
    """
    path = Path(name_or_path).expanduser()
    if not path.is_dir():
        path = find_shipped(str(name_or_path)) or download(str(name_or_path))
    if head_names(path):
        return Classifier(_on_heads(path, device, encoder), path.name)
    path = classifier_in(path) or path
    config = read_config(path)
    ours = find_our_class(config)
    if ours is not None and is_classifier(config) and config["classifier"]["heads"]:
        model = open_classifier(path, device)
        heads = [
            (name, head, HeadFacts(**facts)) for name, head, facts in zip(model.head_names, model.heads, model.facts)
        ]
        model.encoder.config = copy.deepcopy(model.config)
        forget_heads(model.encoder.config)
        return Classifier(OnEncoder(ModelEncoder(model.encoder), heads, device), path.name)  # type: ignore[arg-type]
    if ours is not None and hasattr(ours, "class_logits"):
        tagger: Any = load_encoder(path, device)
        return Classifier(Whole(path.name, tagger.model, None, device), path.name)
    if not any("Classification" in str(name) for name in config.get("architectures") or []):
        raise ValueError(
            f"{name_or_path} holds no classifier: it is an encoder. `groundbass probe ENCODER TASK` fits heads on it, "
            "`groundbass finetune` trains it on labels."
        )
    with quiet():
        model_ = AutoModelForAudioClassification.from_pretrained(str(path), trust_remote_code=trust_remote_code)
        extractor = AutoFeatureExtractor.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    return Classifier(Whole(path.name, model_, extractor, device), path.name)


def _on_heads(path: Path, device: str, encoder: str | Path | None) -> OnEncoder:
    heads = [(name, head, facts) for name, (head, facts) in read_heads(path).items()]
    where = str(encoder) if encoder is not None else heads[0][2].encoder
    if not where:
        raise ValueError(f"The heads in {path} don't say where their encoder is: give --encoder.")
    loaded = load_encoder(where, device)
    found = weights_hash(loaded)
    other = [name for name, _, facts in heads if facts.encoder_hash and facts.encoder_hash != found]
    if other:
        raise ValueError(
            f"The head {other[0]!r} in {path} was fitted on another encoder than {where} (other weights): give the one "
            "that it was fitted on by --encoder, or probe again."
        )
    return OnEncoder(loaded, heads, device)


def shipped() -> Path:
    """What `predict` takes where nothing is named.

    Raises:
        ValueError: this installation has none.
    """
    folder = find_shipped(TINY)
    if folder is None:
        raise ValueError(
            "No classifier is named, and none ships with this version: name a heads folder (groundbass probe writes "
            "one), a run of labelled.*, a published classifier or a Hub name."
        )
    return folder


def hear_all(classifiers: Any, sound: Any, sample_rate: int | None = None) -> dict[str, Prediction]:
    """Ask several classifiers; see `groundbass.predict`."""
    if sound is None:
        raise ValueError("There is no sound: groundbass.predict(classifiers, sound), a file or a waveform.")
    found: dict[str, Prediction] = {}
    for one in loaded(classifiers):
        found |= one.hear(sound, sample_rate)
    return found


def loaded(classifiers: Any) -> list[Classifier]:
    """One or several, by name or loaded; None: what ships."""
    listed = [shipped()] if classifiers is None else classifiers
    listed = [listed] if isinstance(listed, (str, Path, Classifier)) else list(listed)
    return together([item if isinstance(item, Classifier) else load_classifier(item) for item in listed])


def together(classifiers: Sequence[Classifier]) -> list[Classifier]:
    """Heads on the same encoder (by its weights) become one classifier, which hears once; names stay unique."""
    merged: list[Classifier] = []
    by_weights: dict[str, OnEncoder] = {}
    taken: set[str] = set()
    for classifier in classifiers:
        answering = classifier.answering
        for number, (name, kind, names, facts) in enumerate(answering.heads):
            fresh = name if name not in taken else f"{classifier.name}/{name}"
            taken.add(fresh)
            answering.heads[number] = (fresh, kind, names, facts)
        if not isinstance(answering, OnEncoder):
            merged.append(classifier)
            continue
        key = weights_hash(answering.encoder)
        if key in by_weights:
            by_weights[key].heads += answering.heads
            by_weights[key].modules += answering.modules
        else:
            by_weights[key] = answering
            merged.append(classifier)
    return merged
