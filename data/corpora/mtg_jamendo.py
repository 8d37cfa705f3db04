"""MTG-Jamendo: 55,525 full tracks with 183 tags in four subsets and five splits (Bogdanov and others 2019).

Lines end in CRLF, and a track's tags fill any number of trailing columns: each becomes a list of plain tags.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..track import Track
from .corpus import Corpus, Entry
from .recordings import place, tracks_of
from .tables import check_columns, find, text_of

SOURCE = (
    "Clone github.com/MTG/mtg-jamendo-dataset (data/splits holds the annotations) and run scripts/download/download.py "
    "(audio-low of raw_30s: 156 GB; of autotagging_moodtheme: 46 GB)."
)
SUBSETS = {"top50": "top50tags", "genre": "genre", "instrument": "instrument", "moodtheme": "moodtheme"}
PARTS = {"train": "train", "valid": "validation", "test": "test"}
SPLITS = range(5)
COLUMNS = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")
FOLDERS = ("data/splits/split-{}", "splits/split-{}", "split-{}", "mtg-jamendo-dataset/data/splits/split-{}")
AUDIO = ("audio-low", "audio", "raw_30s/audio-low", "raw_30s/audio", "autotagging_moodtheme/audio-low",
         "autotagging_moodtheme/audio", "raw_30s", "")  # fmt: skip
FORMS = ("{}.low.mp3", "{}.mp3")


@dataclass
class _Row:
    artist: str
    path: str
    labels: dict[str, object] = field(default_factory=dict)


def entries(root: str | Path) -> list[Entry]:
    """All tracks of the subsets and splits whose files are there.

    Labels: `top50` (tags with their category, `genre---rock`), `genre`, `instrument`, `moodtheme` (plain tags), each a
    list, and for each the set in each split, `genre_split_0` … `genre_split_4`. `split` is that of split 0, on which
    the subsets agree. Files beside each other without split folders are taken for split 0. Works without the audio.
    """
    root = Path(root)
    found: dict[str, _Row] = {}
    for label, split, part, file in _files(root):
        for cells in _lines(file):
            row = found.setdefault(cells[0], _Row(cells[1], cells[3]))
            tags = [tag if label == "top50" else tag.partition("---")[2] or tag for tag in cells[5:]]
            place_of = f"{label}_split_{split}"
            if row.labels.setdefault(place_of, part) != part or row.labels.setdefault(label, tags) != tags:
                raise ValueError(f"{file} and a file read before it disagree on {cells[0]}: get both again. {SOURCE}")
    names = [Path(row.path).with_suffix("").as_posix() for row in found.values()]
    paths = place(root, names, AUDIO, FORMS)
    return [
        Entry(key, path, _main_split(row), row.artist, row.labels) for (key, row), path in zip(found.items(), paths)
    ]


def tracks(root: str | Path) -> list[Track]:
    """Tracks whose audio is in `root`: <folder>/41/241.low.mp3 or 41/241.mp3.

    Raises:
        FileNotFoundError: there is none.
    """
    return tracks_of(CORPUS, root)


def _files(root: Path) -> Iterator[tuple[str, int, str, Path]]:
    """(label, split, set, file) of every subset that is there; a subset that is there in part is an error."""
    some = False
    for label, subset in SUBSETS.items():
        for split in SPLITS:
            folders = [root / folder.format(split) for folder in FOLDERS] + [root] * (split == 0)
            names = {part: f"autotagging_{subset}-{name}.tsv" for part, name in PARTS.items()}
            for folder in folders:
                held = {part: folder / name for part, name in names.items() if (folder / name).is_file()}
                if held:
                    missing = [name for part, name in names.items() if part not in held]
                    if missing:
                        raise FileNotFoundError(f"{folder} has no {missing[0]}, only parts of that split. {SOURCE}")
                    some = True
                    yield from ((label, split, part, file) for part, file in held.items())
                    break
    if not some:
        first = "autotagging_moodtheme-train.tsv"
        find(root, [f"{folder.format(0)}/{first}" for folder in FOLDERS] + [first], SOURCE)


def _lines(file: Path) -> Iterator[list[str]]:
    lines = text_of(file).split("\n")
    header = [cell.strip() for cell in lines[0].split("\t")]
    check_columns(file, header, COLUMNS, SOURCE)
    if header[: len(COLUMNS)] != list(COLUMNS):
        raise ValueError(f"{file} has its columns in the order {header}, and {list(COLUMNS)} is expected. {SOURCE}")
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line.split("\t")]
        while cells and not cells[-1]:
            cells.pop()
        if not cells:
            continue
        if len(cells) < len(COLUMNS):
            raise ValueError(f"{file}, line {number}, breaks off after {len(cells)} columns: get it again. {SOURCE}")
        yield cells


def _main_split(row: _Row) -> str | None:
    sets = {str(row.labels[name]) for label in SUBSETS if (name := f"{label}_split_0") in row.labels}
    return sets.pop() if len(sets) == 1 else None


_SIZES = {
    "top50": (32136, 10888, 11356),
    "genre": (32572, 11043, 11479),
    "instrument": (14395, 5466, 5115),
    "moodtheme": (9949, 3802, 4231),
}
CORPUS = Corpus(
    name="mtg_jamendo",
    title="MTG-Jamendo",
    home="https://mtg.github.io/mtg-jamendo-dataset/",
    source=SOURCE,
    licence="annotations CC BY-NC-SA 4.0; audio: a Creative Commons licence per track (audio_licenses.txt)",
    layout="The root should hold the repository's data/splits/split-0 … and the audio as <folder>/41/241.low.mp3.",
    read=entries,
    label="moodtheme",
    expected={
        f"{label}_split_{split}": dict(zip(PARTS, _SIZES[label])) if split == 0 else {}
        for label in SUBSETS
        for split in SPLITS
    },
    classes={"top50": 50, "genre": 87, "instrument": 40, "moodtheme": 56},
    separate=tuple(f"{label}_split_{split}" for label in SUBSETS for split in SPLITS),
    lists=(
        ("data/download/*_audio-low_sha256_tracks.txt", "sha256"),
        ("data/download/*_audio_sha256_tracks.txt", "sha256"),
    ),
    known=(
        "990 tracks are duplicates of others, in 465 groups (issue 52 of the repository).",
        "Papers print 95, 41 and 59 tags; the splits keep 87 genres, 40 instruments and 56 moods and themes.",
    ),
)
