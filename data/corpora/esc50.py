"""ESC-50: 2,000 clips of 5 s, 40 of each of 50 environmental sounds (Piczak 2015), in five published folds."""

from __future__ import annotations

from pathlib import Path

from ..track import Track
from .corpus import Corpus, Entry
from .recordings import tracks_of
from .tables import find, rows

SOURCE = "Get ESC-50-master.zip from https://github.com/karolpiczak/ESC-50 and unpack it."
TRUE = {"true", "1"}


def entries(root: str | Path) -> list[Entry]:
    """All clips of meta/esc50.csv: `sound` (50), `fold` (1 to 5), `esc10` (of its ten-class part); no official split.

    A clip's source recording counts as the artist: its cuts sound alike, and are all in one fold. Works without the
    audio.
    """
    root = Path(root)
    file = find(root, ("meta/esc50.csv",), SOURCE)
    found = []
    for row in rows(file, ("filename", "fold", "category", "src_file"), SOURCE):
        if not row["fold"].isdigit() or not 1 <= int(row["fold"]) <= 5:
            raise ValueError(f"{file} puts {row['filename']} into fold {row['fold']!r}; there are 1 to 5. {SOURCE}")
        labels = {
            "sound": row["category"],
            "fold": int(row["fold"]),
            "esc10": str(row.get("esc10", "")).lower() in TRUE,
        }
        key = Path(row["filename"]).stem
        found.append(Entry(key, f"audio/{row['filename']}", None, row["src_file"], labels))
    return found


def tracks(root: str | Path) -> list[Track]:
    """Clips whose audio (audio/1-100032-A-0.wav) is in `root`.

    Raises:
        FileNotFoundError: there is none.
    """
    return tracks_of(CORPUS, root)


CORPUS = Corpus(
    name="esc50",
    title="ESC-50",
    home="https://github.com/karolpiczak/ESC-50",
    source=SOURCE,
    licence="CC BY-NC 3.0",
    layout="The root should hold meta/esc50.csv and audio/ with 2,000 WAV files.",
    read=entries,
    label="sound",
    expected={"split": {}},
    labelled={"sound": 2000},
    classes={"sound": 50},
    total=2000,
    known=(
        "Five folds; published scores are means over the folds' accuracies, often with the epoch chosen on the test "
        "fold.",
        "Many clips are shorter than 5 s and padded with digital silence.",
    ),
)
