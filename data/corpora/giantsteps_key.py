"""GiantSteps key: 604 electronic tracks to test on (Knees and others 2015); GiantSteps-MTG key to train on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..track import Track
from . import giantsteps_mtg_key as mtg
from .corpus import Corpus, Entry
from .recordings import place, tracks_of
from .tables import find, text_of

SOURCE = (
    "To test: clone github.com/GiantSteps/giantsteps-key-dataset and run its audio_dl.sh (the audio's mirror is "
    "https://www.cp.jku.at/datasets/giantsteps/backup/). To train: " + mtg.SOURCE
)
TEST = ("", "giantsteps_key", "giantsteps-key-dataset", "giantsteps-key-dataset-master")
TRAIN = ("giantsteps_mtg_key", "giantsteps-mtg-key-dataset", "giantsteps-mtg-key-dataset-master")
SUFFIX = ".LOFI.key"


def entries(root: str | Path) -> list[Entry]:
    """The 604 test tracks of annotations/key, and the 1,159 of GiantSteps-MTG if its folder is in `root` or beside it.

    Works without the audio.
    """
    root = Path(root)
    folder = find(root, [(Path(place) / "annotations" / "key").as_posix() for place in TEST], SOURCE)
    repository = folder.parent.parent
    inside = "" if repository == root else f"{repository.relative_to(root).as_posix()}/"
    files = {file.name.removesuffix(SUFFIX): file for file in sorted(folder.glob(f"*{SUFFIX}"))}
    if not files or (folder.parent / "annotations.txt").exists():
        is_mtg = "is the MTG set's" if files else f"has no file that ends in {SUFFIX}"
        raise FileNotFoundError(f"{folder} {is_mtg}: {CORPUS.layout} {SOURCE}")
    paths = place(repository, list(files), ("audio", ""), mtg.FORMS)
    found = [
        Entry(f"giantsteps_key/{i}", inside + path, "test", None, {"key": mtg.key_of(text_of(file), file)},
              f"{inside}md5/{i}.LOFI.md5")
        for (i, file), path in zip(files.items(), paths)
    ]  # fmt: skip
    for place_of in (*TRAIN, *(f"../{name}" for name in TRAIN)):
        if any((root / place_of / name).exists() for name in ("annotations/annotations.txt", "annotations.txt")):
            return [*(_below(place_of, entry) for entry in mtg.entries(root / place_of)), *found]
    return found


def tracks(root: str | Path) -> list[Track]:
    """Tracks of both sets whose audio is there; `root` holds both repositories, or they lie side by side."""
    return tracks_of(CORPUS, root)


def _below(folder: str, entry: Entry) -> Entry:
    return replace(entry, path=f"{folder}/{entry.path}", md5=f"{folder}/{entry.md5}")


CORPUS = Corpus(
    name="giantsteps_key",
    title="GiantSteps key",
    home="https://github.com/GiantSteps/giantsteps-key-dataset",
    source=SOURCE,
    licence="annotations CC BY-SA 4.0 (as Zenodo says of the MTG set); audio: previews of commercial recordings",
    layout=(
        "The root should hold the repositories giantsteps-key-dataset (annotations/key, audio) and "
        "giantsteps-mtg-key-dataset."
    ),
    read=entries,
    label="key",
    expected={"split": {"train": 923, "valid": 236, "test": 604}},
    classes={"key": 24},
    per_class=mtg.PER_KEY
    | {"test": mtg.keys_of((15, 1, 10, 9, 10, 9, 5, 8, 5, 11, 5, 5), (53, 25, 40, 36, 48, 73, 31, 62, 29, 54, 28, 32))},
    total=1763,
    known=(
        "mirdata's giantsteps_key has revised labels and 600 tracks: other figures.",
        "Always answering C minor scores 0.158; 511 of the 604 test tracks are minor.",
    ),
)
