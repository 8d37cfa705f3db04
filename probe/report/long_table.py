"""All figures of a folder of results as one long table, one figure per row: strangers' tables merge by appending rows.

Schema 1, in results.parquet and results.json: see `COLUMNS`. A cell that doesn't apply is null.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...data.labels.lookup import metric_name
from ...data.writing import write_text, written
from . import result

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


def rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of one task's result."""
    versions = record["versions"]
    common = {
        "schema": SCHEMA, "encoder": record["encoder"], "weights": record["weights_hash"], "task": record["task"],
        "task_version": record["version"], "corpus": record["corpus"] or None, "task_hash": record["fingerprint"],
        "unit": record["unit"], "protocol": record["protocol"], "split": "test", "condition": "clean",
        "tracks": record["counts"]["test"], "groundbass": versions["groundbass"], "torch": versions["torch"],
    }  # fmt: skip
    head = f"{record['setting']} {record['strength']:g}"
    own = {**common, "system": "encoder", "layer": record["layer"], "head": head}
    main = record["metric"]
    interval = {"low": record["score"]["low"], "high": record["score"]["high"]}
    yield {**own, "metric": main, "value": record["score"]["value"], **interval}
    if len(record["values"]) > 1:
        for seed, value in enumerate(record["values"]):
            yield {**own, "metric": main, "value": value, "seed": seed}
    for metric, value in record["metrics"].items():
        if metric != main:
            yield {**own, "metric": metric, "value": value}
    for layer, value in enumerate(record["layers"]):
        if value is not None:
            tracks = record["counts"]["valid"]
            yield {
                **own,
                "layer": layer,
                "head": "best",
                "split": "valid",
                "metric": main,
                "value": value,
                "tracks": tracks,
            }
    for name, found in record["baselines"].items():
        other = {**common, "system": name, "layer": found["layer"], "metric": main}
        yield {**other, "value": found["value"], "low": found["low"], "high": found["high"]}
        if len(found["values"]) > 1:
            for seed, value in enumerate(found["values"]):
                yield {**other, "value": value, "seed": seed}
    for kind, curve in ((record.get("robustness") or {}).get("kinds") or {}).items():
        for level, value in zip(curve["levels"], curve["values"]):
            yield {**own, "condition": f"{kind} {level:g}", "metric": main, "value": value}
    for point in record.get("few_shot") or []:
        condition = f"{point['shots']} shots"
        shots = {**own, "condition": condition, "layer": None, "head": None, "metric": main}
        yield {**shots, "value": point["value"]}
        for draw, value in enumerate(point["draws"]):
            yield {**shots, "value": value, "seed": draw}


def table(records: Sequence[dict[str, Any]]) -> pa.Table:
    """One Arrow table of `COLUMNS` for any number of results."""
    return pa.Table.from_pylist([row for record in records for row in rows(record)], COLUMNS)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a results.parquet or results.json, whoever wrote it. Raises ValueError for another schema."""
    if path.suffix == ".parquet":
        found = pq.read_table(path).to_pylist()
    else:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("rows") if isinstance(content, dict) else None
    known = {row.get("schema") for row in found or [{}]}
    if known != {SCHEMA}:
        raise ValueError(f"{path} holds rows of the schema {known}; a long table of schema {SCHEMA} is expected.")
    return list(found)


def records(path: Path) -> list[list[dict[str, Any]]]:
    """What a comparison needs of each encoder in a long table: scores with intervals, and layer curves.

    The predictions that a paired difference is made of aren't in it.
    """
    found: dict[tuple[str, str], dict[tuple[str, str], dict[str, Any]]] = {}
    for row in read(path):
        if row["system"] != "encoder" or row["condition"] != "clean" or row["seed"] is not None:
            continue
        tasks = found.setdefault((row["encoder"], row["weights"]), {})
        place = (row["task"], row["protocol"])
        if row["split"] == "test" and place not in tasks:  # the main metric comes first
            tasks[place] = {
                "task": row["task"], "protocol": row["protocol"], "encoder": row["encoder"],
                "metric_name": metric_name(row["metric"]), "fingerprint": row["task_hash"],
                "score": {name: row[name] for name in ("value", "low", "high")}, "layers": [], "published": {},
            }  # fmt: skip
        elif row["split"] == "valid" and place in tasks:
            curve = tasks[place]["layers"]
            curve += [None] * (row["layer"] + 1 - len(curve))
            curve[row["layer"]] = row["value"]
    return [list(tasks.values()) for tasks in found.values()]


def write(folder: Path) -> None:
    """FOLDER/results.parquet and FOLDER/results.json from all results in it, each written beside and renamed."""
    found = [result.read(path) for path in sorted(folder.glob("*.json"))]
    whole = table([record for record in found if record is not None])
    with written(folder / "results.parquet") as beside:
        pq.write_table(whole, beside)
    text = json.dumps({"table": SCHEMA, "rows": whole.to_pylist()}, ensure_ascii=False, indent=0)
    write_text(folder / "results.json", text + "\n")
