"""Any folder of audio with labels: one task per label column."""

from __future__ import annotations

<<<<<<< HEAD
import csv
import hashlib
import os
=======
>>>>>>> main
import re
from collections.abc import Sequence
from pathlib import Path

<<<<<<< HEAD
import numpy as np

from ...data.audio.read import SUFFIXES
from ...data.collections.scan import scan_folder
from ...data.track import Manifest
from ..metrics import key_name
from ..splits import split
from ..task import Kind, Task, class_names

KINDS: dict[str, Kind] = {"class": "classes", "classes": "classes", "tags": "tags", "number": "numbers", "key": "key"}
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_SEPARATORS = re.compile(r"[|;,]")
=======
from ...data.labels.folder import LabelledFolder, read_folder
from ...data.labels.lookup import words
from ..task import Task
>>>>>>> main


def folder_tasks(path: Path, labels: Sequence[str], store: Path | None = None) -> list[Task]:
    """One task per `--label COLUMN[:KIND]` of a folder with labels.csv, or of a manifest.

    Split by the column `split`, else `fold` (k tests, k+1 validates, the rest trains, pooled), else grouped by
    `artist`, else at random with a warning. Raises ValueError when the labels match no audio or the column isn't there.
    """
    folder = read_folder(path, store)
    if not labels:
        known = ", ".join(sorted(folder.columns)) or "none"
        kinds = words().replace(", ", "|").replace(" or ", "|")
        raise ValueError(f"folder:{path} needs --label COLUMN[:{kinds}]; columns with labels: {known}.")
    return [_task(folder, label) for label in labels]


def _task(folder: LabelledFolder, label: str) -> Task:
    path, column = folder.path, folder.column(label)
    folds, how = folder.split(column.labels)
    name = re.sub(r"\W+", "_", f"{path.stem}_{column.name}").strip("_").lower()
    return Task(
        name, 1, column.kind.name, folder.manifest, column.labels, column.names, folds,
        unit="frame" if column.kind.over_time else "clip", question=f"{column.name} of {path.name}",
        notes=(*column.notes, *how), address=f"folder:{path} --label {label}",
    )  # fmt: skip
<<<<<<< HEAD


def guess_kind(values: Sequence[Any]) -> Kind:
    """Numbers when all values are, and not a few whole ones; tags when a value holds a separator; else classes."""
    known = [value for value in values if value is not None]
    commas = [value for value in known if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip())]
    if commas and all(value in commas or _is_number(value) for value in known):
        raise ValueError(
            f"One value is {commas[0]!r}: a number with a comma, or two tags? Write {commas[0].replace(',', '.')} for "
            "a number, or name the kind, as in --label COLUMN:tags."
        )
    if any(isinstance(value, (list, tuple)) for value in known):
        return "tags"
    try:
        numbers = [float(value) for value in known]
    except ValueError:
        return "tags" if any(_SEPARATORS.search(str(value)) for value in known) else "classes"
    whole = all(number.is_integer() for number in numbers)
    return "classes" if whole and len(set(numbers)) <= 20 else "numbers"


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def convert(kind: Kind, value: Any, column: str) -> Any:
    """One value of a column as a label of `kind`. Raises ValueError when it can't be one."""
    if kind == "tags":
        parts = value if isinstance(value, (list, tuple)) else _SEPARATORS.split(str(value))
        return sorted({str(part).strip() for part in parts if str(part).strip()})
    if kind == "numbers":
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"--label {column}:number needs numbers, and one value is {value!r}.") from None
        return [number] if np.isfinite(number) else None
    if kind == "key":
        return key_name(value)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _unmatched(folder: Path, manifest: Manifest) -> list[str]:
    """Compare the rows of labels.csv with the audio; none in common is an error, some missing is a sentence."""
    table = folder / "labels.csv"
    if not table.is_file():
        raise FileNotFoundError(
            f"{table} isn't there: write a CSV with a column `path` (relative to the folder) and your labels."
        )
    with table.open(newline="", encoding="utf-8-sig") as lines:
        listed = [Path(row["path"]).as_posix() for row in csv.DictReader(lines) if row.get("path")]
    audio = {track.path for track in manifest} | {track.key for track in manifest}
    lost = [path for path in listed if path not in audio]
    if listed and len(lost) == len(listed):
        raise ValueError(
            f"None of the {len(listed)} paths in {table} is readable audio under {folder}; the first is {listed[0]!r}, "
            f"and the first audio file is {manifest[0].path!r}. Paths must be relative to the folder."
        )
    return (
        [f"{len(lost)} of {len(listed)} rows of labels.csv ({len(lost) / len(listed):.1%}) match no audio."]
        if lost
        else []
    )


def _scan(folder: Path, store: Path | None) -> Manifest:
    """Scan once; the manifest is remembered under the names, sizes and times of the folder's files."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    state = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=16)
    for file in sorted(folder.rglob("*")):
        if (file.suffix.lower() in SUFFIXES or file.name == "labels.csv") and file.is_file():  # links may lead nowhere
            stat = file.stat()
            state.update(os.fsencode(file.relative_to(folder)) + f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    remembered = None if store is None else store / "manifests" / f"{state.hexdigest()}.parquet"
    if remembered is not None and remembered.is_file():
        return Manifest.open(remembered, root=folder)
    manifest, _ = scan_folder(folder)
    if remembered is not None:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        manifest.write(remembered)
    return manifest
=======
>>>>>>> main
