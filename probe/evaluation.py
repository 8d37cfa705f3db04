"""One encoder on one task: its heads, the baselines beside it, and the curves that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ..data import parallel
from ..data.labels.splits import Fold
from ..data.parallel import Place
from ..models.encoder import Encoder
from .baselines import simple
from .baselines.hand_crafted import Chroma, Mfcc, Tzanetakis
from .baselines.lecture import Lecture
from .curves import few_shot, robustness
from .curves import units as pieces
from .curves.importance import importance, moments_of, sentences
from .fit import Outcome, Protocol, fit
from .heads.frames import constant_frames, fit_fold, fit_frames
from .heads.head import Features
from .heads.heard import POOLED, features_of
from .heads.keep import PROTOCOLS, keep_head
from .listen.features import FeatureStore, Frames, digest
from .task import Task

if TYPE_CHECKING:
    from ..models.head_files import HeadFacts
    from ..models.heads import Head

FRAME_BYTES = 4_000_000_000  # where the frames of all layers take more, few tracks say which layers are kept
Baseline = Literal[
    "random", "log_mel", "mfcc", "chroma", "log_cqt", "nnaudio_cqt", "tzanetakis", "all_crafted", "lecture", "constant"
]  # fmt: skip
BASELINES: tuple[Baseline, ...] = (
    "random", "log_mel", "mfcc", "chroma", "log_cqt", "tzanetakis", "all_crafted", "constant",
)  # fmt: skip
CRAFTED: dict[str, Callable[[], Encoder]] = {
    "log_mel": simple.LogMelBaseline, "mfcc": Mfcc, "chroma": Chroma, "log_cqt": simple.LogCqtBaseline,
}  # fmt: skip
ALONE: dict[str, Callable[[], Encoder]] = {"nnaudio_cqt": simple.NnAudioCqtBaseline}  # no part of `all_crafted`
FRAME_BASELINES = ("random", *CRAFTED, *ALONE, "all_crafted", "constant")
AskedPooling = Literal["auto", "mean", "mean+std", "mean+std+change"]
Damage = str  # one of `robustness.LEVELS`


@dataclass(frozen=True)
class Settings:
    """How to ask; see `command.Options`, whose words these are."""

    layers: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    pooling: AskedPooling = "auto"
    protocol: Protocol = "linear"
    head_seeds: tuple[int, ...] = (0,)
    baselines: tuple[Baseline, ...] = BASELINES
    few_shot: tuple[int, ...] = ()
    robustness: tuple[Damage, ...] = ()
    units: bool = False

    def that_decide(self) -> tuple[Any, ...]:
        """What decides a score: all but the curves and tables that stand beside it."""
        return astuple(replace(self, few_shot=(), robustness=()))[:-1]

    def on(self, task: Task) -> Settings:
        """What of them a task can use: frames have linear heads, one head has one seed, only linear heads choose."""
        protocol: Protocol = "linear" if task.unit == "frame" else self.protocol
        seeds = self.head_seeds if protocol == "marble" else (0,)  # nothing else draws anything
        pooling = self.pooling if self.pooling != "auto" or protocol == "linear" else "mean"
        return replace(self, protocol=protocol, head_seeds=seeds, pooling=pooling)

    def and_curves(self, shots: Sequence[int], damages: Sequence[Damage], units: bool) -> Settings:
        """With the curves that a result has already, so that they aren't lost when others are asked for."""
        return replace(
            self,
            few_shot=tuple(sorted({*self.few_shot, *shots})),
            robustness=tuple({**dict.fromkeys(damages), **dict.fromkeys(self.robustness)}),
            units=self.units or units,
        )


@dataclass(frozen=True)
class Evaluation:
    """What was found on one task: outcomes of the encoder and the baselines, further curves, sentences.

    features: [layers, tracks, dim] of the narrowest pooling, for a picture; None for frames.
    """

    trained: Outcome
    others: dict[str, list[Outcome]]
    features: npt.NDArray[np.float32] | None = None
    few_shot: list[few_shot.Point] = field(default_factory=list)
    robustness: robustness.Robustness | None = None
    units: list[pieces.PieceScore] = field(default_factory=list)
    importance: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    kept: tuple[Head, HeadFacts] | None = None


class RandomCopies:
    """Untrained twins of an encoder; tasks of the same tracks share them."""

    def __init__(self, encoder: Encoder, device: str) -> None:
        self._encoder, self._device = encoder, device
        self._made: dict[tuple[str, int], Encoder] = {}

    def of(self, task: Task, seed: int) -> Encoder:
        """The twin of a seed, calibrated on the task's training tracks.

        Raises:
            ValueError: the encoder doesn't say how its weights are drawn.
        """
        place = (digest([task.hashes, task.folds[0].train.tolist()]), seed)
        if place not in self._made:
            self._made[place] = simple.untrained(self._encoder, task, seed, self._device)
        return self._made[place]


class TaskProbe:
    """One encoder on one task. copies: random copies that other tasks may have made already."""

    def __init__(
        self, task: Task, encoder: Encoder, store: FeatureStore, settings: Settings, copies: RandomCopies | None = None
    ) -> None:
        self.task, self.encoder, self.store, self.settings = task, encoder, store, settings
        self.copies = copies or RandomCopies(encoder, store.device)
        self.layers: Sequence[int] = settings.layers or range(encoder.layers)
        self._notes: list[str] = []

    def evaluate(self) -> Evaluation:
        """The encoder first, then its baselines, then what was asked for besides."""
        task, settings = self.task, self.settings
        trained, features = self._probe(self.encoder, self.layers, f"encoder for {task.name}")
        self._note_layers_left_out(features)
        kept = keep_head(task, trained, features, self.encoder.layers) if settings.protocol in PROTOCOLS else None
        others = self._baselines()
        units = pieces.compared(task, self.encoder, self.store, trained) if self._has_units else []
        used = self._features_used(trained, others)
        shots = few_shot.curve(task, features, settings.few_shot, self.layers) if settings.few_shot else []
        damaged = (
            robustness.curves(task, self.encoder, self.store, trained, settings.robustness, settings.pooling)
            if settings.robustness
            else None
        )
        shown = next(iter(features.poolings()))[1].array if isinstance(features, Features) else None
        return Evaluation(trained, others, shown, shots, damaged, units, used, tuple(self._notes), kept)

    def listen(self, place: Place) -> None:
        """Store features of the share of the tracks that falls to one of several processes: the encoder's, its random
        copies', those of hand-crafted sets. Curves and what else is compared are heard by the first alone.
        """
        task, settings = self.task, self.settings
        for name, encoder, layers in self._listeners():
            title = f"{name} for {task.name}, {place}"
            if task.unit == "frame":
                chosen = frame_layers(task, encoder, self.store, layers, title) if place.first else ()
                kept = parallel.told(chosen)
                if few := task.rows[place.number :: place.count]:
                    self.store.frames(encoder, task.manifest, few, kept, title)
            elif len(rows := np.arange(place.number, len(task.manifest), place.count)):
                features_of(task, encoder, self.store, settings.pooling, title, rows)

    def _listeners(self) -> Iterator[tuple[str, Encoder, Sequence[int]]]:
        """Who listens, with the layers that are read."""
        asked = self.settings.baselines
        yield "encoder", self.encoder, self.layers
        for seed in self.settings.seeds if "random" in asked else ():
            try:
                yield f"random copy {seed}", self.copies.of(self.task, seed), self.layers
            except ValueError:  # said where it is missed
                break
        crafted = CRAFTED if "all_crafted" in asked else {}
        crafted |= {name: make for name, make in (CRAFTED | ALONE).items() if name in asked}
        for name, make in crafted.items():
            yield name, make(), [0]

    @property
    def _has_units(self) -> bool:
        return self.settings.units and pieces.answers_by_name(self.task)

    def _probe(
        self, encoder: Encoder, layers: Sequence[int], title: str, settings: Settings | None = None
    ) -> tuple[Outcome, Features | Frames]:
        """Heads on some layers of an encoder, and the features that they read."""
        task, store, settings = self.task, self.store, settings or self.settings
        if task.unit == "frame":
            kept = frame_layers(task, encoder, store, layers, title)
            frames = store.frames(encoder, task.manifest, task.rows, kept, title)
            return fit_frames(task, frames, encoder.layers), frames
        features = features_of(task, encoder, store, settings.pooling, title)
        return fit(task, features, layers, settings.protocol, settings.head_seeds), features

    def _note_layers_left_out(self, features: Features | Frames) -> None:
        if isinstance(features, Frames) and len(features.layers) < len(self.layers):
            self._notes.append(
                f"Frames of the layers {list(features.layers)} alone, which did best on a part of the training and "
                f"validation tracks: all take more than {FRAME_BYTES / 1e9:g} GB."
            )

    def _baselines(self) -> dict[str, list[Outcome]]:
        """Outcomes of every baseline; several for random copies of several seeds, none where it can't be made."""
        found: dict[str, list[Outcome]] = {}
        for name in self.settings.baselines:
            if self.task.unit != "frame" or name in FRAME_BASELINES:
                found |= self._baseline(name)
        return found

    def _baseline(self, name: Baseline) -> dict[str, list[Outcome]]:
        """One of them; Tzanetakis and Cook's features come with the classifiers of their paper."""
        task = self.task
        match name:
            case "constant":
                return {name: [constant_frames(task) if task.unit == "frame" else simple.constant(task)]}
            case "random":
                return {name: self._random()}
            case "all_crafted":
                if task.unit == "frame":
                    return {name: [fit_frames(task, all_crafted_frames(task, self.store), 1)]}
                return {name: [fit(task, all_crafted(task, self.store, self.settings.pooling), [0])]}
            case "tzanetakis":
                return self._tzanetakis()
            case "lecture":
                return {name: [self._crafted(name, Lecture(), self._lecture_settings())]}
            case _:
                linear = replace(self.settings, protocol="linear")  # and the pooling that the encoder has
                return {name: [self._crafted(name, (CRAFTED | ALONE)[name](), linear)]}

    def _crafted(self, name: str, encoder: Encoder, settings: Settings) -> Outcome:
        return self._probe(encoder, [0], f"{name} for {self.task.name}", settings)[0]

    def _lecture_settings(self) -> Settings:
        """The protocol that was asked for, since pipelines end in it; MARBLE's networks read learned layers only.

        Forests and machines get the means and deviations that the classic pipeline is made of.
        """
        if self.settings.protocol in ("linear", "marble"):
            return replace(self.settings, protocol="linear")
        return replace(self.settings, pooling="mean+std")

    def _tzanetakis(self) -> dict[str, list[Outcome]]:
        task, features = self.task, texture(self.task, self.store, f"tzanetakis for {self.task.name}")
        found = {"tzanetakis": [fit(task, features, [0])], "tzanetakis_knn": [fit(task, features, [0], "knn")]}
        if task.label_kind.one_of and not task.label_kind.related:
            found["tzanetakis_gmm"] = [fit(task, features, [0], "gmm")]
        return found

    def _random(self) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for seed in self.settings.seeds:
            try:
                copy = self.copies.of(self.task, seed)
            except ValueError as reason:
                self._notes.append(f"No random copy to compare with: {reason}")
                break
            outcomes.append(self._probe(copy, self.layers, f"random copy {seed} for {self.task.name}")[0])
        return outcomes

    def _features_used(self, trained: Outcome, others: dict[str, list[Outcome]]) -> dict[str, dict[str, float]]:
        """What the splits of forests use most, of the encoder and of the hand-crafted set."""
        if self.settings.protocol != "forest":
            return {}
        found = {"encoder": importance(trained)}
        for outcome in others.get("lecture", []):
            found["lecture"] = importance(outcome, moments_of(Lecture.names))
        self._notes += sentences(found)
        return found


def texture(task: Task, store: FeatureStore, title: str) -> Features:
    """Tzanetakis and Cook's numbers, which are statistics over 30 seconds already."""
    return features_of(task, Tzanetakis(), replace(store, window_seconds=30.0), "mean", title)


def all_crafted(task: Task, store: FeatureStore, pooling: AskedPooling = "auto") -> Features:
    """All hand-crafted sets side by side: first every set's means, then its deviations, then its changes.

    pooling: one of them, or auto: all, to choose from.
    """
    sets = [features_of(task, make(), store, "auto", f"{name} for {task.name}") for name, make in CRAFTED.items()]
    statistics = texture(task, store, f"tzanetakis for {task.name}")
    widths = [sorted(found.widths.values()) for found in sets]
    columns = [statistics.array, *(found.array[..., : width[0]] for found, width in zip(sets, widths))]
    ends = [sum(part.shape[-1] for part in columns)]
    for step in (1, 2):
        more = [found.array[..., width[step - 1] : width[step]] for found, width in zip(sets, widths)]
        columns += more
        ends.append(ends[-1] + sum(part.shape[-1] for part in more))
    widths_of = {name: end for name, end in zip(POOLED, ends) if pooling in ("auto", name)}
    array = np.concatenate(columns, -1)[..., : max(widths_of.values())]
    return Features(array, statistics.owner, widths_of)


def all_crafted_frames(task: Task, store: FeatureStore) -> Frames:
    """All hand-crafted sets side by side, at the times of MFCC's frames: of the others the nearest frame in time."""
    sets = {
        name: store.frames(make(), task.manifest, task.rows, [0], f"{name} for {task.name}, frames")
        for name, make in CRAFTED.items()
    }
    clock = sets["mfcc"]
    columns = []
    for found in sets.values():
        near = np.empty(len(clock.times), np.int64)
        for row, (first, end) in clock.spans.items():
            begin, stop = found.spans[row]
            middles = (found.times[begin : stop - 1] + found.times[begin + 1 : stop]) / 2
            near[first:end] = begin + np.searchsorted(middles, clock.times[first:end])
        columns.append(found.array[:, near])
    return Frames(np.concatenate(columns, -1), (0,), clock.spans, clock.times)


def frame_layers(task: Task, encoder: Encoder, store: FeatureStore, layers: Sequence[int], title: str) -> Sequence[int]:
    """All layers, or as many as have their frames in FRAME_BYTES: the best on validation tracks, tried on fewer tracks
    of the first fold.
    """
    size = float(task.manifest.seconds()[task.rows].sum()) * encoder.frame_rate * encoder.dim * 4
    number = max(1, int(FRAME_BYTES // size))
    if number >= len(layers):
        return layers
    share = FRAME_BYTES / (size * len(layers))
    train, valid = (_few(part, share) for part in (task.folds[0].train, task.folds[0].valid))
    rows = np.sort(np.concatenate([train, valid])).tolist()
    frames = store.frames(encoder, task.manifest, rows, layers, f"{title}, a part")
    _, _, curve = fit_fold(task, frames, Fold(train, valid, train[:0]))
    return sorted(sorted(layers, key=lambda layer: -curve[layer])[:number])


def _few(rows: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.int64]:
    """A seeded share of the rows, at least one."""
    return np.sort(np.random.default_rng(0).permutation(rows)[: max(1, int(share * len(rows)))])
