"""Several manifests as one, with weights: how often each is heard, and what they share only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..labels.annotations import name_annotations
from ..open import open_sound
from ..track import FIELDS, LABEL, WEIGHT, Manifest
from .overlap import find_overlap


@dataclass(frozen=True)
class Part:
    """One part of a mixture. address: see `open_sound`; weight: how often a second (or track) of it is heard."""

    address: str
    weight: float = 1.0


def parse(word: str) -> Part:
    """`music.parquet` or `music.parquet=2.5`."""
    path, equals, number = word.rpartition("=")
    if not equals:
        return Part(word)
    try:
        weight = float(number)
    except ValueError:
        return Part(word)
    if not 0 < weight < float("inf"):
        raise ValueError(f"{word}: a weight is a number above 0.")
    return Part(path, weight)


def mixed(parts: Sequence[Part], by_sound: bool = False) -> tuple[Manifest, dict[str, int]]:
    """One manifest of all tracks; a recording that an earlier part holds is left out of later ones.

    by_sound: also find the same recording re-encoded or cut (fingerprints); otherwise only the same bytes.
    Returns the manifest, with a column `weight`, absolute paths and the labels of all parts (none where a part hasn't
    that one), and how many tracks of each part were left out.

    Raises:
        ValueError: parts that aren't files of their own, or labels of one name and different kinds.
    """
    tables, left_out = [], {}
    seen: set[str] = set()
    earlier: list[Manifest] = []
    for number, part in enumerate(parts):
        manifest = open_sound(part.address)
        if not manifest.has_files:
            raise ValueError(
                f"{part.address} holds sound that isn't in files of its own (shards, a data set): give it alone, "
                "or mix before packing."
            )
        hashes = manifest.column("hash")
        keep = [row for row, digest in enumerate(hashes) if not digest or digest not in seen]
        if by_sound:
            hit = {found.a for other in earlier for found in find_overlap(manifest, other).hits}
            keep = [row for row in keep if manifest[row].key not in hit]
        left_out[str(part.address)] = len(manifest) - len(keep)
        earlier.append(manifest)
        seen.update(hashes.tolist())
        kept = manifest.select(keep)
        root = kept.root.resolve().as_posix()
        columns = {name: kept.table[name] for name in FIELDS.names}
        for name in (name for name in kept.table.column_names if name.startswith(LABEL)):
            columns[name] = _label(kept.table[name], root)
        columns["path"] = pa.array([f"{root}/{path}" for path in kept.column("path")], pa.string())
        columns["key"] = pa.array([f"{number}/{key}" for key in kept.column("key")], pa.string())
        columns[WEIGHT] = pa.array(np.full(len(keep), part.weight))
        tables.append(pa.table(columns))
    return Manifest(_joined(tables, parts), "/"), left_out


def _label(column: pa.ChunkedArray, root: str) -> Any:
    """A column of labels; where it names annotation files, their absolute paths, as those of the sound."""
    values = column.to_pylist() if pa.types.is_string(column.type) else []
    if not name_annotations(values):
        return column
    return pa.array([None if value is None else f"{root}/{value}" for value in values], pa.string())


def _joined(tables: Sequence[pa.Table], parts: Sequence[Part]) -> pa.Table:
    """One after the other; a label that a table hasn't is null there."""
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException:
        for name in dict.fromkeys(name for table in tables for name in table.column_names):
            kinds = {
                part.address: str(table.schema.field(name).type)
                for part, table in zip(parts, tables, strict=True)
                if name in table.column_names
            }
            if len(set(kinds.values())) > 1:
                told = ", ".join(f"{kind} in {address}" for address, kind in kinds.items())
                raise ValueError(
                    f"The label {name.removeprefix(LABEL)!r} is {told}: write it alike in all labels.csv."
                ) from None
        raise
