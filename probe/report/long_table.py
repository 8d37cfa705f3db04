"""All figures of a folder of results as one long table, one figure per row: strangers' tables merge by appending rows.

Schema 1, in results.parquet and results.json: see `COLUMNS`. A cell that doesn't apply is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...data.labels.lookup import metric_name
from ...data.writing import write_text, written
from ...reading import CURE, json_of
from .bootstrap import Interval
from .checked import is_number, is_text, is_whole, one_line
from .result import Published, Result, read_all

SCHEMA = 1
COLUMNS = pa.schema(
    [
        ("schema", pa.int64()),
        ("encoder", pa.string()),  # as it was named on the command line
        ("weights", pa.string()),  # hash of class, configuration and weights
        ("system", pa.string()),  # encoder, or a baseline: random, log_mel, mfcc, chroma, tzanetakis, …, constant
        ("task", pa.string()),
        ("task_version", pa.int64()),
        ("corpus", pa.string()),
        ("task_hash", pa.string()),  # of clips, labels and split
        ("unit", pa.string()),  # clip, window, frame
        ("protocol", pa.string()),  # linear, marble, knn, gmm
        ("layer", pa.int64()),  # -1: a weighted sum of all, or none (constant)
        ("head", pa.string()),  # the chosen setting, such as strength 0.001
        ("seed", pa.int64()),  # of the head or of the random copy; null: the mean over seeds
        ("split", pa.string()),  # test or valid
        ("condition", pa.string()),  # clean; noise 10 and the like; 5 shots
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),  # of the 95 % interval
        ("high", pa.float64()),
        ("tracks", pa.int64()),  # in the split
        ("groundbass", pa.string()),
        ("torch", pa.string()),
    ]
)


NEEDED = {"encoder", "system", "task", "protocol", "split", "condition", "metric"}  # what tells one figure from another
FITS = {pa.int64(): is_whole, pa.string(): is_text, pa.float64(): is_number}
MOST_LAYERS = 4096
KINDS = {pa.int64(): "a whole number", pa.string(): "a text", pa.float64(): "a number"}


@dataclass(frozen=True)
class Row:
    """One figure; see `COLUMNS`."""

    schema: int | None = None
    encoder: str | None = None
    weights: str | None = None
    system: str | None = None
    task: str | None = None
    task_version: int | None = None
    corpus: str | None = None
    task_hash: str | None = None
    unit: str | None = None
    protocol: str | None = None
    layer: int | None = None
    head: str | None = None
    seed: int | None = None
    split: str | None = None
    condition: str | None = None
    metric: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    tracks: int | None = None
    groundbass: str | None = None
    torch: str | None = None


def rows(result: Result) -> Iterator[Row]:
    """The rows of one task's result."""
    common = Row(
        schema=SCHEMA, encoder=result.encoder, weights=result.weights_hash, task=result.task,
        task_version=result.version, corpus=result.corpus or None, task_hash=result.fingerprint, unit=result.unit,
        protocol=result.protocol, split="test", condition="clean", metric=result.metric, tracks=result.counts.test,
        groundbass=result.versions["groundbass"], torch=result.versions.get("torch"),
    )  # fmt: skip
    head = f"{result.setting} {result.strength:g}"
    own = replace(common, system="encoder", layer=result.layer, head=head)
    yield from _with_seeds(own, result.score, result.values)
    for metric, value in result.metrics.items():
        if metric != result.metric:
            yield replace(own, metric=metric, value=_known(value))
    for layer, value in enumerate(result.layers):
        if math.isfinite(value):
            yield replace(own, layer=layer, head="best", split="valid", value=value, tracks=result.counts.valid)
    for name, found in result.baselines.items():
        yield from _with_seeds(replace(common, system=name, layer=found.layer), found.score, found.values)
    for kind, curve in (result.robustness.kinds if result.robustness else {}).items():
        for level, value in zip(curve.levels, curve.values):
            yield replace(own, condition=f"{kind} {level:g}", value=_known(value))
    for point in result.few_shot:
        shots = replace(own, condition=f"{point.shots} shots", layer=None, head=None)
        yield replace(shots, value=_known(point.value))
        for draw, value in enumerate(point.values):
            yield replace(shots, value=_known(value), seed=draw)


def _with_seeds(row: Row, score: Interval, values: Sequence[float]) -> Iterator[Row]:
    """The mean with its interval, and each of several seeds."""
    yield replace(row, value=_known(score.value), low=_known(score.low), high=_known(score.high))
    if len(values) > 1:
        for seed, value in enumerate(values):
            yield replace(row, value=_known(value), seed=seed)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def table(results: Sequence[Result]) -> pa.Table:
    """One Arrow table of `COLUMNS` for any number of results."""
    return pa.Table.from_pylist([asdict(row) for result in results for row in rows(result)], COLUMNS)


def read(path: Path) -> list[Row]:
    """The rows of a results.parquet or results.json, whoever wrote it.

    Raises:
        ValueError: it is damaged, has another schema, or a cell is of another kind than `COLUMNS` says; the sentence
            names its row and field.
    """
    found = _rows_of_parquet(path) if path.suffix == ".parquet" else json_of(path, CURE)
    if isinstance(found, dict):
        found = found.get("rows")
    if not isinstance(found, list) or not found:
        raise ValueError(f"{path} holds no rows; a long table of schema {SCHEMA} is expected: {CURE}.")
    return [_checked(row, number, path) for number, row in enumerate(found)]


def _rows_of_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is no whole Parquet file ({error}): {CURE}.") from error
    return rows


def _checked(row: Any, number: int, path: Path) -> Row:
    """A row whose cells are of the kinds that `COLUMNS` says. number: from 0."""
    if not isinstance(row, dict):
        raise ValueError(f"Row {number} of {path} is {str(row)[:60]!r}, not fields by name: {CURE}.")
    if type(row.get("schema")) is not int or row["schema"] != SCHEMA:
        raise ValueError(
            f"Row {number} of {path} holds a figure of schema {str(row.get('schema'))[:60]!r}; a long table of schema "
            f"{SCHEMA} is expected: {CURE}."
        )
    row = {name: _cell(row.get(name)) for name in COLUMNS.names}
    for column in COLUMNS:
        value = row[column.name]
        fits = FITS[column.type](value) and not (column.name == "layer" and value > MOST_LAYERS)
        if not fits and (value is not None or column.name in NEEDED):
            raise ValueError(
                f"Row {number} of {path} is no figure: its field `{column.name}` is {str(value)[:60]!r}, which should "
                f"be {KINDS[column.type]}: {CURE}."
            )
    return Row(**row)


def _cell(value: Any) -> Any:
    """A cell as we write it: tables that were merged elsewhere hold NaN for null, and 3.0 for 3."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else value
    return int(value) if isinstance(value, float) and value.is_integer() else one_line(value)


@dataclass(frozen=True)
class Listed:
    """What a long table tells of a result; see `result.Scored`. Published figures aren't in it."""

    task: str
    protocol: str
    encoder: str
    metric_name: str
    fingerprint: str
    score: Interval
    layers: tuple[float, ...]
    published: Published


def scores(path: Path) -> list[list[Listed]]:
    """What a comparison needs of each encoder in a long table: scores with intervals, and layer curves.

    The predictions that a paired difference is made of aren't in it.
    """
    encoders: dict[tuple[str, str], dict[tuple[str, str], tuple[Row, dict[int, float]]]] = {}
    for row in read(path):
        if row.system != "encoder" or row.condition != "clean" or row.seed is not None:
            continue
        tasks = encoders.setdefault((str(row.encoder), str(row.weights)), {})
        place = (str(row.task), str(row.protocol))
        if row.split == "test" and place not in tasks:  # the main metric comes first
            tasks[place] = row, {}
        elif row.split == "valid" and place in tasks and row.layer is not None:
            tasks[place][1][row.layer] = math.nan if row.value is None else row.value
    return [[_listed(*one) for one in tasks.values()] for tasks in encoders.values()]


def _listed(row: Row, curve: dict[int, float]) -> Listed:
    score = Interval(*(math.nan if number is None else number for number in (row.value, row.low, row.high)))
    layers = tuple(curve.get(layer, math.nan) for layer in range(max(curve, default=-1) + 1))
    name = metric_name(str(row.metric))
    return Listed(
        str(row.task), str(row.protocol), str(row.encoder), name, str(row.task_hash), score, layers, {}
    )  # fmt: skip


def write(folder: Path) -> None:
    """FOLDER/results.parquet and FOLDER/results.json from all results in it, each written beside and renamed."""
    whole = table(read_all(folder))
    with written(folder / "results.parquet") as beside:
        pq.write_table(whole, beside)
    text = json.dumps({"table": SCHEMA, "rows": whole.to_pylist()}, ensure_ascii=False, indent=0)
    write_text(folder / "results.json", text + "\n")
