"""JSON of anyone, read: what can't be becomes one sentence with the file's name. Imports no other file of groundbass.

Files that get published don't read JSON and may not import this one. `tests/test_package.py` counts readers elsewhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CURE = "write it again, or take it away"


def json_of(path: Path, cure: str = CURE) -> Any:
    """The content of a JSON file in UTF-8.

    Raises:
        OSError: it isn't there, or may not be read.
        ValueError: it is no JSON; cure: how the sentence ends, without a stop.
    """
    return json_in(path.read_bytes(), path, cure)


def json_in(text: str | bytes, name: object, cure: str = CURE) -> Any:
    """The content of a JSON text, such as a line of a file. name: what the sentence says it is, its file for one.

    Raises:
        ValueError: it is no JSON; cure: how the sentence ends, without a stop.
    """
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise ValueError(f"{name} is no JSON of ours (it is nested too deeply): {cure}.") from error
    except ValueError as error:  # damaged, no UTF-8, or an integer of thousands of digits
        raise ValueError(f"{name} is no JSON ({error}): {cure}.") from error


def json_lines(path: Path) -> list[Any]:
    """The contents of a file with a JSON text per line.

    Raises:
        OSError: it isn't there, or may not be read.
        ValueError: a line is no JSON.
    """
    return [json_in(line, f"A line of {path}") for line in path.read_text(encoding="utf-8").splitlines()]
