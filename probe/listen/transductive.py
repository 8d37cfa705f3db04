"""Which tracks a run was pretrained on: a score on these says of itself that it is transductive."""

from __future__ import annotations

from pathlib import Path

from ...data.open import address_kind, open_sound
from ...reading import json_of
from ..task import Task


def heard_by(encoder: str) -> frozenset[str]:
    """Hashes of the tracks that RUN (or RUN/encoder) heard, by its recipe.json.

    None where that isn't a run, or its manifest has gone or lies behind a URL.
    """
    path = Path(encoder)
    record = next((place for place in (path / "recipe.json", path.parent / "recipe.json") if place.is_file()), None)
    if record is None:
        return frozenset()
    try:
        told = json_of(record)["manifest"]
        if address_kind(told["path"]) not in ("manifest", "shards", "data set"):
            return frozenset()
        manifest, splits = open_sound(told["path"], progress=False), told.get("heard")
    except (ValueError, KeyError, TypeError, OSError):
        return frozenset()
    pairs = zip(manifest.hashes(), manifest.column("split"), strict=True)
    return frozenset(own for own, split in pairs if splits is None or (split or "") in splits)


def note(task: Task, heard: frozenset[str]) -> tuple[str, ...]:
    """A sentence where test tracks are among what was heard."""
    hashes = task.hashes
    tested = {int(row) for fold in task.folds for row in fold.test}
    met = sum(hashes[row] in heard for row in tested)
    if not met:
        return ()
    return (f"Transductive: {met} of {len(tested)} test tracks were among those that the encoder was pretrained on.",)
