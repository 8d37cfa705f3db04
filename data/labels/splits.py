"""Who trains, who validates, who tests. Everything is chosen on validation; test is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
_NAMES = {
    "training": "train",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "testing": "test",
    "evaluation": "test",
}


@dataclass(frozen=True)
class Fold:
    """Row numbers of three disjoint sets."""

    train: Rows
    valid: Rows
    test: Rows


def split(
    splits: Sequence[str | None],
    folds: Sequence[Any],
    artists: Sequence[str | None],
    present: npt.NDArray[np.bool_],
    seed: int = 0,
) -> tuple[tuple[Fold, ...], list[str]]:
    """Choose the split: a `split` column, else `fold`, else grouped by artist, else random; and say which.

    All arguments have one entry per track; rows that aren't `present` (no label) take no part.
    """
    if any(name is not None for name in splits):
        return official(splits, present)
    if any(fold is not None for fold in folds):
        return rotating(folds, artists, present)
    if any(artist is not None for artist in artists):
        groups = [f"artist {a}" if a is not None else f"track {row}" for row, a in enumerate(artists)]
        return grouped(groups, present, seed), [f"Split by artist, 60:20:20, seed {seed}: no artist is in two sets."]
    warning = (
        f"Split at random over tracks, 60:20:20, seed {seed}: without a column `split`, `fold` or `artist` in "
        "labels.csv an artist or album may sit on both sides, and the score may be too good."
    )
    return grouped([str(row) for row in range(len(present))], present, seed), [warning]


def official(splits: Sequence[str | None], present: npt.NDArray[np.bool_]) -> tuple[tuple[Fold, ...], list[str]]:
    """The sets a `split` column names. Without validation tracks, a fifth of the training tracks (seeded) validates."""
    names = np.array([_NAMES.get(str(name).strip().lower(), str(name).strip().lower()) for name in splits])
    notes = []
    rows = {name: np.flatnonzero((names == name) & present) for name in ("train", "valid", "test")}
    if len(rows["train"]) and len(rows["test"]) and not len(rows["valid"]):
        order = np.random.default_rng(0).permutation(rows["train"])
        held = max(1, len(order) // 5)
        rows["valid"], rows["train"] = np.sort(order[:held]), np.sort(order[held:])
        notes.append("The split has no validation tracks: a random fifth of the training tracks validates.")
    empty = [name for name, members in rows.items() if not len(members)]
    if empty:
        raise ValueError(
            f"The split column has no labelled track for {' and '.join(empty)}; it holds "
            f"{sorted(set(names.tolist()))}, "
            "and train, valid and test are expected."
        )
    return (Fold(rows["train"], rows["valid"], rows["test"]),), notes


def rotating(
    folds: Sequence[Any], artists: Sequence[str | None], present: npt.NDArray[np.bool_]
) -> tuple[tuple[Fold, ...], list[str]]:
    """Fold k tests, fold k+1 validates, the rest trains, for every k; test predictions are pooled."""
    names = np.array([str(fold) for fold in folds])
    present = present & np.array([fold is not None for fold in folds])
    order = sorted(
        set(names[present].tolist()), key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name)
    )
    if len(order) < 3:
        raise ValueError(
            f"The fold column has {len(order)} folds ({', '.join(order)}); at least 3 are needed to "
            "test, validate and train."
        )
    sets = []
    for k, test in enumerate(order):
        valid = order[(k + 1) % len(order)]
        members = [
            np.flatnonzero(present & mask)
            for mask in ((names != test) & (names != valid), names == valid, names == test)
        ]
        sets.append(Fold(*members))
    notes = [f"{len(order)} folds: fold k tests, k+1 validates, the rest trains; predictions are pooled."]
    shared = _across(names[present], np.array([str(a) if a is not None else "" for a in artists])[present])
    if shared:
        notes.append(f"{shared} artists have tracks in several folds, so the score may be too good.")
    return tuple(sets), notes


def _across(folds: npt.NDArray[Any], artists: npt.NDArray[Any]) -> int:
    homes: dict[str, set[str]] = {}
    for fold, artist in zip(folds.tolist(), artists.tolist()):
        if artist:
            homes.setdefault(artist, set()).add(fold)
    return sum(len(home) > 1 for home in homes.values())


def grouped(groups: Sequence[str], present: npt.NDArray[np.bool_], seed: int) -> tuple[Fold, ...]:
    """60:20:20 of the tracks, whole groups at a time, in a seeded order."""
    names = np.array([group if here else "" for group, here in zip(groups, present)])
    order = np.random.default_rng(seed).permutation(sorted(set(names[present].tolist())))
    if len(order) < 3:
        raise ValueError(f"{len(order)} artists or tracks with a label can't be split in three; at least 3 are needed.")
    sizes = np.array([np.sum(names == name) for name in order])
    middle = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    place = np.where(middle < 0.2, "test", np.where(middle < 0.4, "valid", "train"))
    place[0], place[1], place[-1] = "test", ("valid" if not (place == "valid").any() else place[1]), "train"
    home = dict(zip(order.tolist(), place.tolist()))
    members = np.array([home.get(name, "") for name in names])
    return (Fold(*(np.flatnonzero(present & (members == name)) for name in ("train", "valid", "test"))),)
