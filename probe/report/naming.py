"""Names that tell apart: of two tasks with one name, neither writes over the other's result; recordings in a table."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..task import Task
from .result import read_all


def distinct(tasks: Sequence[Task], folder: Path) -> list[Task]:
    """The tasks, of which those that share a name with another one are named by more of their path.

    `folder:A/test` and `folder:B/test` become `test_genre` and `b_test_genre`. Another one is one of other tracks in
    another place: among the tasks, or among the results that `folder` holds. A corpus that has moved keeps its name.
    """
    owner = {found.task: (_place(found.address), found.fingerprint) for found in read_all(folder)}
    found = []
    for task in tasks:
        mine = _place(task.address), task.fingerprint()
        for name in _names(task):
            theirs = owner.setdefault(name, mine)
            if theirs[0] == mine[0] or theirs[1] == mine[1]:
                owner[name] = mine
                found.append(replace(task, name=name))
                break
    return found


def _names(task: Task) -> Sequence[str]:
    """The task's name, and longer and longer ones; at last a number."""
    _, _, place = task.address.partition(":")
    parents = Path(place.partition(" --label ")[0]).resolve().parent.parts[1:]
    names = [task.name]
    for part in reversed(parents):
        names.append(re.sub(r"\W+", "_", f"{part}_{names[-1]}").strip("_").lower())
    return [*names, *(f"{task.name}_{number}" for number in range(2, 1000))]


def _place(address: str) -> tuple[str, str]:
    """An address with its path written out, so that `./A` and `A` are one."""
    kind, _, rest = address.partition(":")
    path, _, label = rest.partition(" --label ")
    return f"{kind}:{Path(path).resolve()}", label


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """File names where they tell the recordings apart, else paths from the folder that holds them all."""
    names = {path: Path(path).name for path in paths}
    if len(set(names.values())) == len(names):
        return names
    whole = {path: os.path.abspath(path) for path in paths}
    top = os.path.commonpath([os.path.dirname(place) for place in whole.values()])
    return {path: os.path.relpath(place, top) for path, place in whole.items()}
