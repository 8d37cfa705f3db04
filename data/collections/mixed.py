"""Several manifests as one, with weights: how often each is heard, and what they share only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..open import open_sound
from ..track import FIELDS, WEIGHT, Manifest
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
    Returns the manifest, with a column `weight` and absolute paths, and how many tracks of each part were left out.
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
        columns = {name: kept.table[name] for name in FIELDS.names}
        root = kept.root.resolve().as_posix()
        columns["path"] = pa.array([f"{root}/{path}" for path in kept.column("path")], pa.string())
        columns["key"] = pa.array([f"{number}/{key}" for key in kept.column("key")], pa.string())
        columns[WEIGHT] = pa.array(np.full(len(keep), part.weight))
        tables.append(pa.table(columns))
    return Manifest(pa.concat_tables(tables), "/"), left_out
