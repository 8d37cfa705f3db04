"""GTZAN genre: 1,000 clips of 30 s in ten genres (Tzanetakis and Cook 2002), with the fault-filtered split.

Split: Kereliuk, Sturm and Larsen, "Deep Learning and Music Adversaries" (2015): no faulty clip, no artist in two sets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..track import Track
from .corpus import Checksum, Corpus, Entry
from .recordings import audio_below, tracks_of
from .tables import find, text_of

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
SOURCE = (
    "The original host is gone; a copy is data/genres.tar.gz of huggingface.co/datasets/marsyas/gtzan (1.23 GB). "
    "Kaggle's copy (andradaolteanu/gtzan-dataset-music-genre-classification) has an unreadable jazz.00054."
)
LISTS = {"train": "train_filtered.txt", "valid": "valid_filtered.txt", "test": "test_filtered.txt"}
_CLIP = re.compile(r"(?:^|/)(hip-?hop|[a-z]+)\.(\d{5})(?:\.(wav|au))?\s*$", re.IGNORECASE)


def entries(root: str | Path) -> list[Entry]:
    """All 1,000 clips; those outside the filtered split have no set. Works without the audio."""
    root = Path(root)
    find(root, (".",), SOURCE)
    split = split_of_clips(root)
    audio = clips_below(root)
    return [
        Entry(clip, audio.get(clip, f"genres/{genre}/{clip}.wav"), split.get(clip), None, {"genre": genre})
        for genre in GENRES
        for clip in (f"{genre}.{number:05d}" for number in range(100))
    ]


def tracks(root: str | Path) -> list[Track]:
    """The clips in `root`: the archive's `genres/<genre>/`, Kaggle's `Data/genres_original/<genre>/`, wav or au.

    Raises:
        FileNotFoundError: there is none.
    """
    return tracks_of(CORPUS, root)


def clips_below(root: Path, folders: Sequence[str] = ("",)) -> dict[str, str]:
    """{clip: path relative to root} of the first of `folders` that holds clips, wherever they lie in it.

    A clip that is there twice counts once: wav before au, then the shortest path.
    """
    for folder in folders:
        if not (root / folder).is_dir():
            continue
        paths = [(Path(folder) / path).as_posix() for path in audio_below(root / folder)]
        found: dict[str, str] = {}
        for path in sorted(paths, key=lambda path: (not path.lower().endswith(".wav"), len(path), path)):
            if (clip := name_of(path)) is not None:
                found.setdefault(clip, path)
        if found:
            return found
    return {}


def name_of(text: str) -> str | None:
    """`blues.00029` from a path or a line of a list; None where it names no clip."""
    match = _CLIP.search(text.strip().replace("\\", "/"))
    genre = match.group(1).lower().replace("-", "") if match else ""
    return f"{genre}.{match.group(2)}" if match and genre in GENRES and int(match.group(2)) < 100 else None


def split_of_clips(root: Path) -> dict[str, str]:
    """{clip: set}: from the three lists where they lie in `root`, else from the copy that comes with this package."""
    for folder in (root, root / "splits", root / "lists"):
        files = {part: folder / name for part, name in LISTS.items()}
        held = [file for file in files.values() if file.is_file()]
        if len(held) == len(LISTS):
            return {clip: part for part, file in files.items() for clip in _listed(file)}
        if held:
            raise FileNotFoundError(
                f"{folder} has {held[0].name}, and of the three lists {', '.join(LISTS.values())} some are missing: "
                "add them, or remove what is there, and the published split is used."
            )
    shipped: dict[str, str] = {}
    for line in (Path(__file__).parent / "gtzan_split.txt").read_text().splitlines()[1:]:
        genre, part, *runs = line.split()
        for run in runs:
            first, _, last = run.partition("-")
            shipped |= {f"{genre}.{number:05d}": part for number in range(int(first), int(last or first) + 1)}
    return shipped


def _listed(file: Path) -> list[str]:
    lines = [line for line in text_of(file).split("\n") if line.strip()]
    names = [(line, name_of(line)) for line in lines]
    wrong = [line for line, name in names if name is None]
    if wrong or not names:
        shown = repr(wrong[0]) if wrong else "nothing"
        raise ValueError(
            f"{file} holds {shown}, and a line should be like 'blues/blues.00029.wav': get the lists of Kereliuk, "
            "Sturm and Larsen again, or remove the three files, and the published split is used."
        )
    return [name for _, name in names if name is not None]


SPLIT_SIZES = {"train": 443, "valid": 197, "test": 290}
CHECKSUMS = (
    Checksum("genres.tar.gz", "md5", "5b3d6dddb579ab49814ab86dba69e7c7"),
    Checksum("train_filtered.txt", "sha256", "2b04966c"),
    Checksum("valid_filtered.txt", "sha256", "f8fbee7c"),
    Checksum("test_filtered.txt", "sha256", "09cafa6a"),
)
CORPUS = Corpus(
    name="gtzan",
    title="GTZAN",
    home="https://huggingface.co/datasets/marsyas/gtzan",
    source=SOURCE,
    licence="none was ever stated; the recordings are commercial ones, used for research",
    layout="The root should hold genres/<genre>/<genre>.00000.wav (or .au), or Kaggle's Data/genres_original.",
    read=entries,
    label="genre",
    expected={"split": SPLIT_SIZES},
    classes={"genre": 10},
    per_class={  # blues first, rock last; the sums are the split's sizes
        "train": dict(zip(GENRES, (46, 48, 45, 42, 47, 43, 44, 41, 43, 44))),
        "valid": dict(zip(GENRES, (23, 20, 23, 22, 18, 17, 20, 13, 17, 24))),
        "test": dict(zip(GENRES, (31, 31, 30, 29, 27, 27, 27, 30, 26, 32))),
    },
    total=1000,
    faulty=frozenset({"jazz.00054"}),
    checksums=CHECKSUMS,
    known=(
        "The split is the fault-filtered one (443/197/290; 442 where jazz.00054 can't be read): random folds over all "
        "1,000 clips leak artists and duplicates, and score 10 to 15 points better.",
        "One test clip is 0.34 points.",
    ),
)
