"""Any folder of audio with a labels.csv, or what else names sound and labels: tracks, and what columns say of them.

A cell may be the label, the name of a `.beats` or `.lab` file beside labels.csv, or, in a table with a row per onset,
offset and label, one of a track's spans. A `.beats` or `.lab` file beside the audio, of the same name, is a label too:
the columns `beats` and `lab`, unless labels.csv has them.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.read import SUFFIXES
from ..collections.scan import scan_folder
from ..open import MANIFEST, address_kind, open_sound, path_of
from ..storage.remote import RemoteFiles
from ..track import Manifest
from .annotations import SUFFIXES as ANNOTATIONS
from .annotations import name_annotations, read_annotation
from .kind import Kind
from .lookup import guess, kind_of
from .splits import Fold, split


@dataclass(frozen=True)
class LabelledFolder:
    """path: where; columns: label name -> a value per track of the manifest, None for none; notes: for readers."""

    path: Path
    manifest: Manifest
    columns: dict[str, list[Any]]
    notes: tuple[str, ...] = ()

    def column(self, asked: str) -> Column:
        """What `COLUMN[:KIND]` asks for.

        Raises:
            ValueError: a column or a kind that isn't there.
        """
        name, _, word = asked.partition(":")
        if name not in self.columns:
            known = ", ".join(sorted(self.columns)) or "none"
            raise ValueError(f"There is no label {name!r} for the audio in {self.path}; there is {known}.")
        values = self.columns[name]
        try:
            kind = kind_of(word) if word else guess(values)
        except ValueError as error:
            raise ValueError(f"--label {asked}: {error}") from None
        notes = (
            ()
            if word
            else (f"Kind guessed from the column {name!r}: {kind.name} (write {name}:class|tags|number to choose).",)
        )
        labels = [None if value is None else kind.convert([value], [name]) for value in values]
        return Column(name, kind, labels, kind.names(labels, [name]), (*self.notes, *notes))

    def split(self, labels: Sequence[Any]) -> tuple[tuple[Fold, ...], list[str]]:
        """Who trains, validates and tests, of the tracks that have a label; see `splits.split`."""
        tracks = list(self.manifest)
        present = np.array([label is not None for label in labels])
        folds = self.columns.get("fold", [None] * len(tracks))
        return split([t.split for t in tracks], folds, [t.artist for t in tracks], present)


@dataclass(frozen=True)
class Column:
    """One column as labels of a kind: labels: one per track; names: of a head's outputs."""

    name: str
    kind: Kind
    labels: list[Any]
    names: tuple[str, ...]
    notes: tuple[str, ...]


def read_folder(address: str | Path, store: Path | None = None) -> LabelledFolder:
    """A folder with labels.csv, or whatever else `open_sound` opens, whose own labels count.

    store: where the scan of a folder is remembered.

    Raises:
        ValueError: it holds no audio or its labels match none.
        FileNotFoundError: it isn't there.
    """
    path, table = path_of(address), path_of(address) / "labels.csv"
    scanned = address_kind(address) == "folder" and (table.is_file() or not (path / MANIFEST).is_file())
    manifest = _scan(path, store) if scanned else open_sound(address)
    if not len(manifest):
        raise ValueError(f"{path} holds no readable audio ({', '.join(SUFFIXES)}).")
    columns: dict[str, list[Any]] = {}
    for row, track in enumerate(manifest):
        for name, value in track.labels.items():
            columns.setdefault(name, [None] * len(manifest))[row] = None if value == "" else value
    columns = {name: opened(values, manifest) for name, values in columns.items()}
    if not scanned:
        return LabelledFolder(path, manifest, columns)
    for suffix in ANNOTATIONS:
        _beside(manifest, path, suffix, columns)
    return LabelledFolder(path, manifest, columns, tuple(_unmatched(path, manifest, bool(columns))))


def opened(values: list[Any], manifest: Manifest) -> list[Any]:
    """A column of a manifest: where it names annotation files beside the sound, what is in them.

    Raises:
        FileNotFoundError: one isn't there.
        ValueError: one can't be read; the sentence names the line.
    """
    remote = manifest.place if isinstance(manifest, RemoteFiles) else None
    if not name_annotations(values) or not (remote or manifest.has_files):
        return values
    file_of: Callable[[str], Path] = manifest.root.joinpath if remote is None else remote.fetch
    return [None if value is None else read_annotation(file_of(value)) for value in values]


def _beside(manifest: Manifest, folder: Path, suffix: str, columns: dict[str, list[Any]]) -> None:
    """Add a column of the annotation files beside the audio, where there are any."""
    name = suffix.removeprefix(".")
    files = [(folder / track.path).with_suffix(suffix) for track in manifest]
    if name not in columns and any(file.is_file() for file in files):
        columns[name] = [read_annotation(file) if file.is_file() else None for file in files]


def _unmatched(folder: Path, manifest: Manifest, labelled: bool) -> list[str]:
    """Compare the rows of labels.csv with the audio; none in common is an error, some missing is a sentence."""
    table = folder / "labels.csv"
    if not table.is_file():
        if labelled:
            return []
        raise FileNotFoundError(
            f"{table} isn't there: write a CSV with a column `path` (relative to the folder) and your labels."
        )
    with table.open(newline="", encoding="utf-8-sig") as lines:
        listed = list(dict.fromkeys(Path(r["path"]).as_posix() for r in csv.DictReader(lines) if r.get("path")))
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
