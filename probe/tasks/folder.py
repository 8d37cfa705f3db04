"""Any folder of audio with labels: one task per label column."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ...data.labels.folder import LabelledFolder, read_folder
from ...data.labels.lookup import words
from ..task import Task


def folder_tasks(path: str | Path, labels: Sequence[str], store: Path | None = None) -> list[Task]:
    """One task per `--label COLUMN[:KIND]` of a folder with labels.csv, or of what else names sound and labels.

    Split by the column `split`, else `fold` (k tests, k+1 validates, the rest trains, pooled), else grouped by
    `artist`, else at random with a warning.

    Raises:
        ValueError: the labels match no audio or the column isn't there.
    """
    folder = read_folder(path, store)
    if not labels:
        known = ", ".join(sorted(folder.columns)) or "none"
        kinds = words().replace(", ", "|").replace(" or ", "|")
        raise ValueError(f"folder:{path} needs --label COLUMN[:{kinds}]; columns with labels: {known}.")
    return [_task(folder, label, str(path)) for label in dict.fromkeys(labels)]


def _task(folder: LabelledFolder, label: str, address: str) -> Task:
    path, column = folder.path, folder.column(label)
    folds, how = folder.split(column.labels)
    name = re.sub(r"\W+", "_", f"{path.stem}_{column.name}").strip("_").lower()
    return Task(
        name, 1, column.kind.name, folder.manifest, column.labels, column.names, folds,
        unit="frame" if column.kind.over_time else "clip", question=f"{column.name} of {path.name}",
        notes=(*column.notes, *how), address=f"folder:{address} --label {label}",
    )  # fmt: skip
