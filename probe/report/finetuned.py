"""What fine-tuning brings: a classifier's scores beside its frozen encoder's probe, as RUN/finetune.json has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...data.writing import write_text
from ...reading import json_of
from .bootstrap import Interval, mark
from .per_class import ClassScore
from .result import plain
from .tables import text

FILE = "finetune.json"


@dataclass(frozen=True)
class Compared:
    """A task's score on the test tracks. probe: of the frozen encoder; difference: fine-tuned minus that, paired.

    constant: the accuracy of always saying the commonest class; confusion: [truth][guess] of classes; classes: the
    score of each class, tag or number.
    """

    task: str
    metric: str
    tracks: int
    finetuned: Interval
    probe: Interval | None = None
    difference: Interval | None = None
    constant: float | None = None
    names: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    classes: tuple[ClassScore, ...] = ()

    def told(self) -> str:
        """In one line."""
        words = f"{self.task}: {self.metric} {text(self.finetuned)} on {self.tracks} test tracks"
        if self.probe is None:
            return words
        return f"{words}; frozen probe {text(self.probe)}, difference {text(self.difference)} {mark(self.difference)}"

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Compared:
        """From a file; fields that this version doesn't know are left out."""
        known = {one.name: told[one.name] for one in fields(cls) if told.get(one.name) is not None}
        for name in ("finetuned", "probe", "difference"):
            if name in known:
                known[name] = Interval.from_json(known[name])
        known["names"] = tuple(known.get("names", ()))
        known["confusion"] = tuple(map(tuple, known.get("confusion", ())))
        known["classes"] = tuple(map(ClassScore.from_json, known.get("classes", ())))
        return cls(**known)


def write(run: Path, found: Sequence[Compared]) -> None:
    """RUN/finetune.json."""
    write_text(run / FILE, json.dumps(plain(list(found)), indent=1, ensure_ascii=False) + "\n")


def read(place: Path) -> list[Compared]:
    """What `groundbass finetune` wrote beside a classifier; nothing where it didn't.

    Raises:
        ValueError: the file isn't what fine-tuning writes.
    """
    for folder in (place, place.resolve().parent):
        path = folder / FILE
        if path.is_file():
            try:
                return [Compared.from_json(one) for one in json_of(path)]
            except (ValueError, TypeError, AttributeError, KeyError) as error:
                raise ValueError(
                    f"{path} isn't what `groundbass finetune` writes ({error}): fine-tune again."
                ) from error
    return []
