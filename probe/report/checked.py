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


def _has(**fields: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A dictionary with these fields, each of its kind."""
    return lambda value: isinstance(value, dict) and all(fits(value.get(name)) for name, fits in fields.items())


def _baseline(value: Any) -> bool:
    numbers = _maybe(_each(_maybe(_number)))
    rest = _has(difference=_maybe(_interval), layer=_maybe(_whole), layers=numbers, values=numbers)
    return _interval(value) and rest(value)


def _curve(value: Any) -> bool:
    fits = _has(unit=_text, levels=_each(_number), values=_each(_maybe(_number)))
    return fits(value) and len(value["levels"]) == len(value["values"])


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
    "version": _maybe(_whole), "question": _maybe(_text), "aggregation": _maybe(_text), "corpus": _maybe(_text),
    "decoder": _maybe(_text), "key": _maybe(_text), "pooling": _maybe(_text), "window_seconds": _maybe(_number),
    "folds": _maybe(_each(_has(layer=_whole, strength=_maybe(_number), valid=_maybe(_number), pooling=_maybe(_text)))),
    "groups": _maybe(_has(number=_whole, of=_text)),
    "few_shot": _maybe(_each(_has(shots=_whole, clips=_whole, draws=_each(_maybe(_number))))),
    "robustness": _maybe(_has(clean=_maybe(_number), kinds=_by_name(_curve), left_out=_maybe(_each(_text)))),
    "importance": _maybe(_by_name(_by_name(_number))),
    "units": _maybe(_each(_has(unit=_text, rule=_text, number=_whole, value=_maybe(_number)))),
    "classes": _each(_text), "versions": lambda value: _by_name(_text)(value) and "groundbass" in value,
    "about": _has(layers=_whole, dim=_whole, sample_rate=_whole, frame_rate=_number, weights=_text),
    "published": _by_name(_by_name(_by_name(_number))), "metrics": _by_name(_maybe(_number)),
    "values": _each(_maybe(_number)), "strength": _maybe(_number), "confusion": _maybe(_confusion),
    "projection": _maybe(_projection),
}  # fmt: skip
