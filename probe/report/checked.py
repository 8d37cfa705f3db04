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
        return one_line(value)
    return value


def one_line(value: Any) -> Any:
    """A text of anyone on one line, not endless; anything else as it is."""
    if not isinstance(value, str):
        return value
    return "".join(letter if letter.isprintable() else " " for letter in value[:LONGEST])


def is_number(value: Any) -> bool:
    """Whether it is one that a result can hold: finite, no truth value."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e15
    )


def is_whole(value: Any) -> bool:
    """Whether it is a count, a seed or a layer; -1 is a layer too."""
    return isinstance(value, int) and not isinstance(value, bool) and -1 <= value < 1 << 53


def is_text(value: Any) -> bool:
    """Whether it is a text."""
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
        and all(_maybe(is_number)(value.get(name)) for name in ("value", "low", "high"))
    )


def _has(**fields: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A dictionary with these fields, each of its kind."""
    return lambda value: isinstance(value, dict) and all(fits(value.get(name)) for name, fits in fields.items())


def _baseline(value: Any) -> bool:
    numbers = _maybe(_each(_maybe(is_number)))
    rest = _has(difference=_maybe(_interval), layer=_maybe(is_whole), layers=numbers, values=numbers)
    return _interval(value) and rest(value)


def _curve(value: Any) -> bool:
    fits = _has(unit=is_text, levels=_each(is_number), values=_each(_maybe(is_number)))
    return fits(value) and len(value["levels"]) == len(value["values"])


def _confusion(value: Any) -> bool:
    if not isinstance(value, dict) or not _each(is_text)(value.get("classes")):
        return False
    size = len(value["classes"])
    rows: Any = value.get("counts")
    return _each(_each(is_number))(rows) and len(rows) == size and all(len(row) == size for row in rows)


def _projection(value: Any) -> bool:
    fine = isinstance(value, dict) and is_text(value.get("method")) and _each(is_text)(value.get("label"))
    return fine and all(_each(is_number)(value.get(name)) and len(value[name]) == len(value["label"]) for name in "xy")


FIELDS: dict[str, Callable[[Any], bool]] = {
    "task": is_text, "protocol": is_text, "encoder": is_text, "metric": is_text, "metric_name": is_text,
    "kind": is_text, "fingerprint": is_text, "address": is_text, "weights_hash": is_text, "unit": is_text,
    "setting": _maybe(is_text),
    "score": lambda value: _interval(value) and bool(value), "baselines": _by_name(_baseline), "layer": is_whole,
    "layers": _each(_maybe(is_number)),
    "counts": lambda value: _by_name(is_whole)(value) and "test" in value, "notes": _each(is_text),
    "version": _maybe(is_whole), "question": _maybe(is_text), "aggregation": _maybe(is_text), "corpus": _maybe(is_text),
    "decoder": _maybe(is_text), "key": _maybe(is_text), "pooling": _maybe(is_text), "window_seconds": _maybe(is_number),
    "folds": _maybe(
        _each(_has(layer=is_whole, strength=_maybe(is_number), valid=_maybe(is_number), pooling=_maybe(is_text)))
    ),
    "groups": _maybe(_has(number=is_whole, of=is_text)),
    "few_shot": _maybe(_each(_has(shots=is_whole, clips=is_whole, draws=_each(_maybe(is_number))))),
    "robustness": _maybe(_has(clean=_maybe(is_number), kinds=_by_name(_curve), left_out=_maybe(_each(is_text)))),
    "importance": _maybe(_by_name(_by_name(is_number))),
    "units": _maybe(_each(_has(unit=is_text, rule=is_text, number=is_whole, value=_maybe(is_number)))),
    "classes": _each(is_text), "versions": lambda value: _by_name(is_text)(value) and "groundbass" in value,
    "about": _has(layers=is_whole, dim=is_whole, sample_rate=is_whole, frame_rate=is_number, weights=is_text),
    "published": _by_name(_by_name(_by_name(is_number))), "metrics": _by_name(_maybe(is_number)),
    "values": _each(_maybe(is_number)), "strength": _maybe(is_number), "confusion": _maybe(_confusion),
    "projection": _maybe(_projection),
}  # fmt: skip
