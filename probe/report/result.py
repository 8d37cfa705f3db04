"""One task's result, as it stands in a file: the score with its interval, the baselines, what a report draws."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...data.writing import write_text, written
from ...reading import json_of
from ..curves.few_shot import Point
from ..curves.robustness import Robustness
from ..curves.units import PieceScore
from ..fit import Choice
from .bootstrap import Interval
from .checked import checked

SCHEMA = 3
LINEAR = "linear"
Published = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class EncoderFacts:
    """Which encoder was probed. kind: its class; weights: hash of class, configuration and weights."""

    kind: str
    weights: str
    sample_rate: int
    frame_rate: float
    dim: int
    layers: int

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> EncoderFacts:
        """From `features.identity`."""
        rest = {one.name: told[one.name] for one in fields(cls) if one.name != "kind"}
        return cls(kind=str(told.get("class", "")), **rest)

    def to_json(self) -> dict[str, Any]:
        """As `features.identity` tells it."""
        rest = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "kind"}
        return {"class": self.kind, **rest}


@dataclass(frozen=True)
class Counts:
    """Tracks that take part: the mean over folds, and all test tracks."""

    train: int = 0
    valid: int = 0
    test: int = 0
    folds: int = 1


@dataclass(frozen=True)
class Groups:
    """What resamples draw: how many, of which kind (artist or track)."""

    number: int
    of: str


@dataclass(frozen=True)
class Confusion:
    """counts: [truth][guess] of the pooled test tracks."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Projection:
    """Test tracks in two dimensions. x, y, label: [tracks]."""

    method: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    label: tuple[str, ...]


@dataclass(frozen=True)
class Baseline:
    """What stands beside the score. score: mean over its copies; difference: the encoder minus it, paired; layer: that
    most folds chose, and layers: its curve; values: of every copy; poolings: what each copy's most folds chose.
    """

    score: Interval
    difference: Interval
    layer: int | None = None
    layers: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    poolings: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Baseline:
        """From a result's file."""
        return cls(
            Interval.from_json(told), Interval.from_json(told.get("difference")), told.get("layer"),
            _numbers(told.get("layers")), _numbers(told.get("values")), tuple(told.get("poolings") or ()),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """As a result's file has it."""
        rest = {"difference": self.difference, "layer": self.layer, "layers": self.layers, "values": self.values}
        return {**self.score.to_json(), **rest, "poolings": self.poolings}


class Scored(Protocol):
    """What a comparison needs to know of a result, wherever it stands: a file, or a row of a long table."""

    @property
    def task(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def encoder(self) -> str: ...
    @property
    def metric_name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def score(self) -> Interval: ...
    @property
    def layers(self) -> tuple[float, ...]: ...
    @property
    def published(self) -> Published: ...


@dataclass(frozen=True, kw_only=True)
class Result:
    """An encoder on a task. Fields stand in the order of the file; what a file may lack has a default.

    kind: of the labels; about: the encoder; metric: the main one, metric_name: as readers see it; unit, aggregation:
    what heads answer about, and how that becomes a track's answer; setting: what the protocol tunes, strength: its
    value; fingerprint: of clips, labels and split; published: as in `Task`; folds: what validation chose; values: the
    main metric per seed; metrics: all, of the first seed; layers: the best validation score of each, NaN for none;
    key: of what decides the figures; versions: of packages; importance: which features forests use.
    """

    task: str
    version: int = 1
    address: str
    question: str = ""
    kind: str
    encoder: str
    weights_hash: str
    about: EncoderFacts
    metric: str
    metric_name: str
    unit: str
    aggregation: str = ""
    corpus: str = ""
    protocol: str
    setting: str | None = None
    decoder: str | None = None
    fingerprint: str
    published: Published = field(default_factory=dict)
    counts: Counts
    layer: int
    strength: float = math.nan
    folds: tuple[Choice, ...] = ()
    score: Interval
    values: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    groups: Groups | None = None
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    layers: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    confusion: Confusion | None = None
    projection: Projection | None = None
    notes: tuple[str, ...] = ()
    key: str = ""
    versions: Mapping[str, str]
    pooling: str = "mean"
    window_seconds: float = math.nan
    few_shot: tuple[Point, ...] = ()
    robustness: Robustness | None = None
    importance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    units: tuple[PieceScore, ...] = ()

    @property
    def title(self) -> str:
        """See `title`."""
        return title(self)

    @property
    def difference(self) -> Interval | None:
        """The encoder minus its random copy; None where there is none."""
        random = self.baselines.get("random")
        return None if random is None else random.difference

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Result:
        """From a record that `checked` has passed; fields that this version doesn't know are left out."""
        known = {one.name: told[one.name] for one in fields(cls) if told.get(one.name) is not None}
        for name, read in _READ.items():
            if name in known:
                known[name] = read(known[name])
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file; null where a number is NaN or infinite, for which JSON has no word."""
        return {"schema": SCHEMA, **{one.name: plain(getattr(self, one.name)) for one in fields(self)}}


def _numbers(told: Any) -> tuple[float, ...]:
    return tuple(math.nan if value is None else float(value) for value in told or ())


def _number(told: Any) -> float:
    return math.nan if told is None else float(told)


_READ: dict[str, Any] = {
    "about": EncoderFacts.from_json,
    "counts": lambda told: Counts(**{name: told[name] for name in ("train", "valid", "test", "folds") if name in told}),
    "folds": lambda told: tuple(
        Choice(one["layer"], _number(one.get("strength")), _number(one.get("valid")), one.get("pooling") or "mean")
        for one in told
    ),
    "score": Interval.from_json,
    "values": _numbers,
    "metrics": lambda told: {name: _number(value) for name, value in told.items()},
    "groups": lambda told: Groups(told["number"], told["of"]),
    "baselines": lambda told: {name: Baseline.from_json(one) for name, one in told.items()},
    "layers": _numbers,
    "classes": tuple,
    "confusion": lambda told: Confusion(tuple(told["classes"]), tuple(map(tuple, told["counts"]))),
    "projection": lambda told: Projection(
        told["method"], tuple(told["x"]), tuple(told["y"]), tuple(told["label"])
    ),
    "notes": tuple,
    "few_shot": lambda told: tuple(Point(one["shots"], one["clips"], _numbers(one["draws"])) for one in told),
    "robustness": Robustness.from_json,
    "units": lambda told: tuple(
        PieceScore(one["unit"], one["rule"], one["number"], _number(one["value"])) for one in told
    ),
}  # fmt: skip


def plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as JSON has them; null for numbers that aren't finite."""
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def title(found: Scored) -> str:
    """What readers call a result: the task, and its protocol where that isn't the linear one."""
    return found.task if found.protocol == LINEAR else f"{found.task} ({found.protocol})"


def file_name(task: str, protocol: str) -> str:
    """The name of a result without its ending: results of other protocols stand beside the linear ones."""
    return task if protocol == LINEAR else f"{task}.{protocol}"


def write(folder: Path, result: Result, predictions: pa.Table) -> Path:
    """FOLDER/NAME.json and NAME.predictions.parquet (see `file_name`), written beside and renamed, the JSON last."""
    name = file_name(result.task, result.protocol)
    parquet, path = folder / f"{name}.predictions.parquet", folder / f"{name}.json"
    with written(parquet) as beside:
        pq.write_table(predictions, beside)
    write_text(path, json.dumps(result.to_json(), indent=1, ensure_ascii=False) + "\n")
    return path


def read(path: Path) -> Result | None:
    """A result, or None when the file isn't one of this schema.

    Raises:
        ValueError: it says that it is one, and its content is of other kinds than ours: it may come from anyone.
    """
    try:
        told = json_of(path)
    except (OSError, ValueError):
        return None
    if not isinstance(told, dict) or told.get("schema") != SCHEMA or "task" not in told:
        return None
    return Result.from_json(checked(told, path))


def read_all(folder: Path) -> list[Result]:
    """The results in a folder, by the names of their files."""
    return [result for path in sorted(folder.glob("*.json")) if (result := read(path)) is not None]


def left_out(folder: Path) -> list[str]:
    """A sentence for each file of a folder that `read_all` passes over though it is, or may have been, a result."""
    told = []
    for path in sorted(folder.glob("*.json")):
        try:
            found = json_of(path)
        except (OSError, ValueError) as error:
            told.append(f"Left out: {error}")
            continue
        if isinstance(found, dict) and "task" in found and "schema" in found and found["schema"] != SCHEMA:
            told.append(
                f"Left out: {path} is a result of schema {str(found['schema'])[:60]!r}, and this version of groundbass "
                f"reads schema {SCHEMA}: probe again, or use the version that wrote it."
            )
    return told


def results_in(folder: Path) -> list[Result]:
    """The results in a folder, by task, the linear protocol first."""
    return sorted(read_all(folder), key=lambda found: (found.task, found.protocol != LINEAR, found.protocol))
