"""AudioSet: two million clips of 10 s from videos, with any of 527 sounds (Gemmeke and others 2017).

Only lists are published: who has the sound took it from videos, and a part of those is gone by now. So every copy is
another subset, and scores are comparable where it is nearly whole: `shortfall` counts.
"""

from __future__ import annotations

import csv
from pathlib import Path

from ..track import Track
from .corpus import Checksum, Corpus, Entry
from .recordings import audio_below, tracks_of
from .tables import find, rows, text_of

SOURCE = (
    "Get class_labels_indices.csv, balanced_train_segments.csv, eval_segments.csv (and unbalanced_train_segments.csv) "
    "from https://research.google.com/audioset/download.html; the clips' sound has to come from elsewhere."
)
CLASSES = 527
LISTS = {"balanced": "balanced_train_segments", "eval": "eval_segments", "unbalanced": "unbalanced_train_segments"}
IDENTITY = 11  # characters of a video's name


def entries(root: str | Path) -> list[Entry]:
    """All clips of the lists that are there (the balanced and the evaluation list must be).

    Labels: `tags`, names in the order of class_labels_indices.csv; `part` (balanced, unbalanced, eval); `start` in s.
    The split trains on the balanced part and tests on eval; `split_full` trains on both training parts. Works without
    the audio, which is found by the video's name wherever it lies: NAME.wav, YNAME.wav, NAME_30.000.flac.
    """
    root = Path(root)
    names = class_names(root)
    order = {name: number for number, name in enumerate(names.values())}
    audio = {identity: path for path in audio_below(root) if (identity := identity_of(Path(path).stem))}
    found, seen = [], set()
    for part, stem in LISTS.items():
        places = (f"{stem}.csv", f"metadata/{stem}.csv")
        if part == "unbalanced" and not any((root / place).is_file() for place in places):
            continue
        file = find(root, places, SOURCE)
        for identity, start, mids in segments(file):
            unknown = [mid for mid in mids if mid not in names]
            if unknown:
                raise ValueError(f"{file} gives {identity} the label {unknown[0]}, which isn't among the 527. {SOURCE}")
            if identity in seen:
                raise ValueError(f"{file} has the clip {identity}, which another list or line has too. {SOURCE}")
            seen.add(identity)
            tags = sorted({names[mid] for mid in mids}, key=order.__getitem__)
            side = "test" if part == "eval" else "train"
            labels = {"tags": tags, "part": part, "start": start, "split_full": side}
            path = audio.get(identity, f"{stem}/Y{identity}.wav")
            found.append(Entry(identity, path, None if part == "unbalanced" else side, None, labels))
    return found


def tracks(root: str | Path) -> list[Track]:
    """Clips whose audio is somewhere in `root`.

    Raises:
        FileNotFoundError: there is none.
    """
    return tracks_of(CORPUS, root)


def class_names(root: Path) -> dict[str, str]:
    """{machine id: name} of the 527 classes, in their order."""
    file = find(root, ("class_labels_indices.csv", "metadata/class_labels_indices.csv"), SOURCE)
    table = rows(file, ("index", "mid", "display_name"), SOURCE)
    names = {row["mid"]: row["display_name"] for row in table}
    numbers = [row["index"] for row in table]
    if len(names) != CLASSES or numbers != [str(i) for i in range(CLASSES)]:
        raise ValueError(f"{file} has {len(names)} classes; the published one has 0 to 526 in order. {SOURCE}")
    return names


def segments(file: Path) -> list[tuple[str, float, list[str]]]:
    """(video, start in s, machine ids) of every line; comment lines begin with #."""
    found = []
    lines = csv.reader(text_of(file).split("\n"), skipinitialspace=True)
    for number, cells in enumerate(lines, start=1):
        if not cells or cells[0].startswith("#"):
            continue
        if len(cells) != 4 or not cells[3]:
            raise ValueError(
                f"{file}, line {number}, has {len(cells)} cells, and a video, start, end and labels are expected: the "
                f"file was edited, or its download broke off. {SOURCE}"
            )
        try:
            found.append((cells[0], float(cells[1]), cells[3].split(",")))
        except ValueError:
            raise ValueError(
                f"{file}, line {number}, starts at {cells[1]!r}, which is no time in s. {SOURCE}"
            ) from None
    return found


def identity_of(stem: str) -> str | None:
    """The video's name in a file's: alone, behind a Y, or before _ and the time; None where it is none of these."""
    if len(stem) == IDENTITY:
        return stem
    if stem.startswith("Y") and len(stem) == IDENTITY + 1:
        return stem[1:]
    return stem[:IDENTITY] if len(stem) > IDENTITY + 1 and stem[IDENTITY] == "_" else None


CORPUS = Corpus(
    name="audioset",
    title="AudioSet",
    home="https://research.google.com/audioset/",
    source=SOURCE,
    licence="annotations CC BY 4.0; the sound belongs to the videos' makers",
    layout="The root should hold class_labels_indices.csv, the lists, and the clips in any folders below.",
    read=entries,
    label="tags",
    expected={"split": {"train": 22160, "test": 20371}},
    classes={"tags": CLASSES},
    checksums=(Checksum("class_labels_indices.csv", "md5", "68c0b5c199d6cc789852b144cc3ab500"),),
    known=(
        "Videos disappear: PANNs evaluated on 18,887 clips, BEATs on 18,987; figures of other copies differ by that.",
        "There is no validation set: published systems watched the evaluation set.",
        "A class without a clip in a copy can't be scored, and a macro mean leaves it out.",
    ),
)
