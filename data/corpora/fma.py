"""FMA small, medium and large: clips of 30 s of the Free Music Archive with a genre (Defferrard and others 2017)."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

from ..track import Track
from .corpus import Checksum, Corpus, Entry
from .recordings import place, tracks_of
from .tables import check_columns, find

SOURCE = "Get fma_metadata.zip and {} from https://github.com/mdeff/fma and unpack them side by side."
SUBSETS = {"small": ("small",), "medium": ("small", "medium"), "large": ("small", "medium", "large")}
SETS = {"training": "train", "validation": "valid", "test": "test"}
NEARLY_EMPTY = frozenset({99134, 108925, 133297})
COLUMNS = ("set/split", "set/subset", "track/genre_top")
LONGEST_CELL = 1 << 24  # characters: biographies are longer than csv allows by itself


def entries(root: str | Path, subset: str = "small") -> list[Entry]:
    """All clips of a subset (the small is part of the medium, and that of the large), without three that are nearly
    empty. Labels: `genre`, the top genre, where the clip has one. Works without the audio.
    """
    root, source = Path(root), SOURCE.format(f"fma_{subset}.zip")
    if subset not in SUBSETS:
        raise ValueError(f"FMA has no subset {subset!r}: small, medium or large is expected.")
    file = find(root, ("fma_metadata/tracks.csv", "tracks.csv"), source)
    rows = [row for row in _rows(file, source) if row[2] in SUBSETS[subset] and row[0] not in NEARLY_EMPTY]
    larger = [f"fma_{name}" for name in list(SUBSETS)[list(SUBSETS).index(subset) :]]
    paths = place(root, [f"{row[0] // 1000:03d}/{row[0]:06d}" for row in rows], [*larger, ""], ("{}.mp3",))
    return [
        Entry(f"{number:06d}", path, _set_of(part, number, file, source), artist or None,
              {"genre": genre} if genre else {})
        for (number, part, _, genre, artist), path in zip(rows, paths)
    ]  # fmt: skip


def tracks(root: str | Path, subset: str = "small") -> list[Track]:
    """Clips whose audio (fma_small/000/000002.mp3) is in `root`.

    Raises:
        FileNotFoundError: there is none.
    """
    return tracks_of({item.name: item for item in CORPORA}[f"fma_{subset}"], root)


def _rows(file: Path, source: str) -> list[tuple[int, str, str, str, str]]:
    """(number, set, subset, genre, artist) of every track; the header has two rows, and a third names the index."""
    limit = csv.field_size_limit(LONGEST_CELL)
    try:
        with open(file, newline="", encoding="utf-8-sig", errors="replace") as opened:
            reader = csv.reader(opened)
            above, below = next(reader, []), next(reader, [])
            header = [f"{a.strip()}/{b.strip()}" for a, b in zip(above, below)]
            check_columns(file, header, COLUMNS, source)
            part, subset, genre = (header.index(name) for name in COLUMNS)
            artist = header.index("artist/id") if "artist/id" in header else 0
            return [
                (
                    int(cells[0]),
                    cells[part].strip(),
                    cells[subset].strip(),
                    cells[genre].strip(),
                    cells[artist].strip() if artist else "",
                )
                for cells in reader
                if cells and cells[0].strip().isdigit() and _whole(cells, header, file, source)
            ]
    finally:
        csv.field_size_limit(limit)


def _whole(cells: list[str], header: list[str], file: Path, source: str) -> bool:
    if len(cells) < len(header):
        raise ValueError(
            f"{file} breaks off in the row of track {cells[0]}: it has {len(cells)} of {len(header)} cells. {source}"
        )
    return True


def _set_of(part: str, number: int, file: Path, source: str) -> str:
    if part not in SETS:
        raise ValueError(f"{file} puts track {number} in the set {part!r}, and {', '.join(SETS)} is expected. {source}")
    return SETS[part]


def _corpus(subset: str, total: int, genres: int, sha1: str, expected: dict[str, int]) -> Corpus:
    return Corpus(
        name=f"fma_{subset}",
        title=f"FMA {subset}",
        home="https://github.com/mdeff/fma",
        source=SOURCE.format(f"fma_{subset}.zip"),
        licence="metadata CC BY 4.0; audio: the licence that each artist chose",
        layout=f"The root should hold fma_metadata/tracks.csv and fma_{subset}/000/000002.mp3 ….",
        read=partial(entries, subset=subset),
        label="genre",
        expected={"split": expected},
        classes={"genre": genres},
        total=total,
        checksums=(
            Checksum("fma_metadata.zip", "sha1", "f0df49ffe5f2a6008d7dc83c6915b31835dfe733"),
            Checksum(f"fma_{subset}.zip", "sha1", sha1),
        ),
        lists=((f"fma_{subset}/checksums", "sha1"), ("checksums", "sha1")),
        known=("Clips 99134, 108925 and 133297 are nearly empty and are left out.",),
    )


CORPORA = (
    _corpus("small", 8000 - len(NEARLY_EMPTY), 8, "ade154f733639d52e35e32f5593efe5be76c6d70", {}),
    _corpus("medium", 25000 - len(NEARLY_EMPTY), 16, "c67b69ea232021025fca9231fc1c7c1a063ab50b", {}),
    _corpus("large", 106574 - len(NEARLY_EMPTY), 16, "497109f4dd721066b5ce5e5f250ec604dc78939e", {}),
)
CORPUS = CORPORA[0]
