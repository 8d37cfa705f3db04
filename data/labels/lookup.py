"""Find kinds of labels by name, by word, or by what a column's values look like."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from . import kinds as _kinds
from .kind import Kind


@cache
def kinds() -> dict[str, Kind]:
    """Every kind by its name: every file of `data/labels/kinds/`."""
    names = sorted(module.name for module in pkgutil.iter_modules(_kinds.__path__))
    found = [importlib.import_module(f"{_kinds.__name__}.{name}").KIND for name in names]
    return {kind.name: kind for kind in sorted(found, key=lambda kind: kind.rank)}


def kind_of(word: str) -> Kind:
    """The kind of this name or word.

    Raises:
        ValueError: an unknown one.
    """
    for kind in kinds().values():
        if word == kind.name or word in kind.words:
            return kind
    raise ValueError(f"The kind of a label must be {words()}, not {word!r}.")


def words() -> str:
    """What a user may say for each kind."""
    *most, last = sorted(kind.words[0] if kind.words else kind.name for kind in kinds().values())
    return f"{', '.join(most)} or {last}"


_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def guess(values: Sequence[Any]) -> Kind:
    """The kind that a column's values look like; None and empty ones say nothing."""
    known = [value for value in values if value is not None and value != "" and value != []]
    commas = [value for value in known if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip())]
    if commas and all(value in commas or _is_number(value) for value in known):
        raise ValueError(
            f"One value is {commas[0]!r}: a number with a comma, or two tags? Write {commas[0].replace(',', '.')} for "
            "a number, or name the kind, as in --label COLUMN:tags."
        )
    return next((kind for kind in kinds().values() if kind.fits(known)), kind_of("classes"))


def metric_name(metric: str) -> str:
    """What readers call a metric."""
    for kind in kinds().values():
        for known in (kind.metrics, kind.more_metrics):
            if known.get(metric):
                return known[metric]
    return metric
