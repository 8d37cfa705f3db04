"""The results of one encoder, as a run, a folder of results or a long table holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import long_table, result

Record = dict[str, Any]


class Section:
    """One encoder's results and, where the folder is a run, its recipe and losses."""

    def __init__(self, folder: Path, home: Path, records: list[Record], run: Path | None) -> None:
        self.folder, self.home, self.records, self.run = folder, home, records, run
        self.name = run.name if run is not None else str(records[0]["encoder"])

    @property
    def whole(self) -> bool:
        """Whether more is known than a long table tells."""
        return "baselines" in self.records[0]

    @property
    def losses(self) -> list[Record]:
        """The lines of RUN/loss.jsonl."""
        path = None if self.run is None else self.run / "loss.jsonl"
        if path is None or not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

    @property
    def probes(self) -> list[tuple[int, Record]]:
        """What `groundbass pretrain --probe-every` measured on the way: (step, result), the first step first."""
        if self.run is None:
            return []
        return [(step, record) for step, folder in on_the_way(self.run) for record in results_in(folder)]

    @property
    def recipe(self) -> Record:
        """RUN/recipe.json."""
        path = None if self.run is None else self.run / "recipe.json"
        content: Record = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}
        return content


def sections_of(place: Path) -> list[Section]:
    """The results of a folder, or those of every encoder in a long table."""
    if place.suffix in (".parquet", ".json") and place.is_file():
        return [Section(place, place.parent, records, None) for records in long_table.records(place)]
    return [collect(place)]


def collect(folder: Path) -> Section:
    """The results in a run folder or a folder of results; of a run that was probed on the way only, its last ones.

    Raises:
        FileNotFoundError: there are none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    home = folder / "probe" if (folder / "probe").is_dir() else folder
    records, probed = results_in(home), on_the_way(folder)
    if not records and probed:
        home = probed[-1][1]
        records = results_in(home)
    if not records:
        raise FileNotFoundError(
            f"{home} holds no probe results; make them with `groundbass probe {folder} synth:PATH`."
        )
    run = folder if home is not folder else folder.parent if (folder.parent / "recipe.json").is_file() else None
    return Section(folder, home, records, run)


def results_in(folder: Path) -> list[Record]:
    """The results in a folder, by task, the linear protocol first."""
    found = [result.read(path) for path in sorted(folder.glob("*.json"))]
    records = [record for record in found if record is not None]
    return sorted(records, key=lambda record: (record["task"], record["protocol"] != "linear", record["protocol"]))


def on_the_way(run: Path) -> list[tuple[int, Path]]:
    """The folders RUN/probes/step_N that hold results, by step."""
    found = [(int(path.name[5:]), path) for path in run.glob("probes/step_*") if path.name[5:].isdigit()]
    return [(step, path) for step, path in sorted(found) if (path / "results.json").is_file()]


def distinct(sections: list[Section]) -> list[Section]:
    """Runs of the same name get their whole path, encoders in a table the table's."""
    names = [section.name for section in sections]
    for section in sections:
        if names.count(section.name) > 1:
            section.name = str(section.folder) if section.whole else f"{section.name} in {section.folder}"
    return sections
