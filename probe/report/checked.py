"""A result of anyone: of the kinds that ours have, every text one line; else a sentence that names the field."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONGEST = 2000  # letters of a text
DEEPEST = 12


def checked(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """The record with its texts on one line each.

    Raises:
        ValueError: a field is missing or of another kind; the sentence names it.
    """
    for name, fits in FIELDS.items():
        if not fits(record.get(name)):
            raise ValueError(
                f"{path} is no whole result: its field `{name}` is {str(record.get(name))[:60]!r}. Probe again, or "
                "take the file away."
            )
    return {str(name): _plain(value, path) for name, value in record.items()}


def _plain(value: Any, path: Path, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise ValueError(f"{path} is no whole result: it is nested too deeply.")
    if isinstance(value, dict):
        return {_plain(str(name), path): _plain(inner, path, depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, path, depth + 1) for inner in value]
    if isinstance(value, str):
        return "".join(letter if letter.isprintable() else " " for letter in value[:LONGEST])
    return value


def _number(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e15
    )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -1 <= value < 1 << 53


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _maybe(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _each(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _by_name(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


def _interval(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and (not value or "value" in value)
        and all(_maybe(_number)(value.get(name)) for name in ("value", "low", "high"))
    )


def _baseline(value: Any) -> bool:
    return _interval(value) and _interval(value.get("difference") or {}) and _maybe(_whole)(value.get("layer"))


def _encoder(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(_whole(value.get(name)) for name in ("layers", "dim", "sample_rate"))
        and _number(value.get("frame_rate"))
        and _text(value.get("weights"))
    )


def _confusion(value: Any) -> bool:
    if not isinstance(value, dict) or not _each(_text)(value.get("classes")):
        return False
    size = len(value["classes"])
    rows: Any = value.get("counts")
    return _each(_each(_number))(rows) and len(rows) == size and all(len(row) == size for row in rows)


def _projection(value: Any) -> bool:
    fine = isinstance(value, dict) and _text(value.get("method")) and _each(_text)(value.get("label"))
    return fine and all(_each(_number)(value.get(name)) and len(value[name]) == len(value["label"]) for name in "xy")


FIELDS: dict[str, Callable[[Any], bool]] = {
    "task": _text, "protocol": _text, "encoder": _text, "metric": _text, "metric_name": _text, "kind": _text,
    "fingerprint": _text, "address": _text, "weights_hash": _text, "unit": _text, "setting": _maybe(_text),
    "score": lambda value: _interval(value) and bool(value), "baselines": _by_name(_baseline), "layer": _whole,
    "layers": _each(_maybe(_number)),
    "counts": lambda value: _by_name(_whole)(value) and "test" in value, "notes": _each(_text),
    "classes": _each(_text), "versions": lambda value: _by_name(_text)(value) and "groundbass" in value,
    "about": _encoder, "published": _by_name(_by_name(_by_name(_number))), "metrics": _by_name(_maybe(_number)),
    "values": _each(_maybe(_number)), "strength": _maybe(_number), "confusion": _maybe(_confusion),
    "projection": _maybe(_projection),
}  # fmt: skip
