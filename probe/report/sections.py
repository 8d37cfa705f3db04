"""The results of one encoder, as a run, a folder of results or a long table holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...reading import json_in, json_of
from . import long_table
from .result import Result, Scored, left_out, results_in


@dataclass(frozen=True)
class Section:
    """One encoder: its scores and, where more is known than a long table tells, its whole results.

    folder: that was named; home: that holds the results; run: the run that the encoder is of, if any.
    """

    name: str
    folder: Path
    home: Path
    scores: Sequence[Scored]
    results: Sequence[Result] = ()
    run: Path | None = None
    left_out: Sequence[str] = ()

    @property
    def whole(self) -> bool:
        """Whether more is known than a long table tells."""
        return bool(self.results)

    @property
    def losses(self) -> list[dict[str, Any]]:
        """The lines of RUN/loss.jsonl."""
        path = None if self.run is None else self.run / "loss.jsonl"
        if path is None or not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [json_in(line, f"A line of {path}") for line in lines if line.strip()]

    @property
    def probes(self) -> list[tuple[int, Result]]:
        """What `groundbass pretrain --probe-every` measured on the way: (step, result), the first step first."""
        if self.run is None:
            return []
        return [(step, result) for step, folder in on_the_way(self.run) for result in results_in(folder)]

    @property
    def recipe(self) -> dict[str, Any]:
        """RUN/recipe.json."""
        path = None if self.run is None else self.run / "recipe.json"
        found: dict[str, Any] = json_of(path) if path and path.is_file() else {}
        return found


def sections_of(place: Path) -> list[Section]:
    """The results of a folder, or those of every encoder in a long table."""
    if place.suffix in (".parquet", ".json") and place.is_file():
        return [Section(found[0].encoder, place, place.parent, found) for found in long_table.scores(place)]
    return [collect(place)]


def collect(folder: Path) -> Section:
    """The results in a run folder or a folder of results; of a run that was probed on the way only, its last ones.

    Raises:
        FileNotFoundError: there are none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    home = folder / "probe" if (folder / "probe").is_dir() else folder
    results, probed = results_in(home), on_the_way(folder)
    if not results and probed:
        home = probed[-1][1]
        results = results_in(home)
    passed_over = left_out(home)
    if not results and passed_over:
        raise ValueError(f"{home} holds no probe result that can be read. {' '.join(passed_over)}")
    if not results:
        raise FileNotFoundError(
            f"{home} holds no probe results; make them with `groundbass probe {folder} synth:PATH`."
        )
    run = folder if home is not folder else folder.parent if (folder.parent / "recipe.json").is_file() else None
    return Section(run.name if run else results[0].encoder, folder, home, results, results, run, passed_over)


def on_the_way(run: Path) -> list[tuple[int, Path]]:
    """The folders RUN/probes/step_N that hold results, by step."""
    found = [(int(path.name[5:]), path) for path in run.glob("probes/step_*") if path.name[5:].isdigit()]
    return [(step, path) for step, path in sorted(found) if (path / "results.json").is_file()]


def distinct(sections: Sequence[Section]) -> list[Section]:
    """Runs of the same name get their whole path, encoders in a table the table's."""
    names = [section.name for section in sections]
    return [
        section if names.count(section.name) < 2
        else replace(section, name=str(section.folder) if section.whole else f"{section.name} in {section.folder}")
        for section in sections
    ]  # fmt: skip
