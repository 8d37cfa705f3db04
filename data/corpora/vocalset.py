"""VocalSet 1.1 and 1.2: 20 singers, 17 techniques, 10.1 h (Wilkins, Seetharaman, Wahl and Pardo 2018).

Singer and technique come from the folders: some file names are malformed (m10 isn't m1, lip_trill isn't trill).
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ..track import Track
from .corpus import Corpus, Entry
from .recordings import audio_below, tracks_of
from .tables import find, text_of

SOURCE = (
    "Get VocalSet11.zip from https://zenodo.org/records/1203819 (1.1), or 1.2 from https://zenodo.org/records/1442513."
)
SINGERS = tuple([f"female{n}" for n in range(1, 10)] + [f"male{n}" for n in range(1, 12)])
TEST_SINGERS = ("female2", "female8", "male3", "male5", "male10")
TECHNIQUES = (  # those of the benchmark
    "belt", "breathy", "inhaled", "lip_trill", "spoken", "straight", "trill", "trillo", "vibrato", "vocal_fry",
)  # fmt: skip
OTHERS = ("fast_forte", "fast_piano", "forte", "messa", "pp", "slow_forte", "slow_piano")
FOLDERS = ("FULL", "data_by_singer", "VocalSet11/FULL", "VocalSet1-2/data_by_singer", "VocalSet/FULL")
LIST = "test_singers_technique.txt"


def entries(root: str | Path) -> list[Entry]:
    """All recordings that are there: the folders are the annotations, so nothing says what is missing but the count.

    Labels: `singer`; `technique`, one of the ten of the benchmark, and `technique_17`, one of all;
    `split_singer`, the set for telling singers. `split` is the set for telling techniques, in which no singer is in two
    sets. Both go by rules where nothing is published: see `valid_singers` and `singer_set`.
    """
    root = Path(root)
    folder = find(root, FOLDERS, SOURCE)
    test = _test_singers(root)
    valid = valid_singers(test)
    found: dict[str, Entry] = {}
    for path in audio_below(folder):
        singer, technique = _singer(Path(path)), _technique(Path(path))
        if singer is None:
            continue
        key = "/".join(Path(path).parts[_depth(Path(path)) :])
        labels = {"singer": singer, "split_singer": singer_set(key)}
        part = None
        if technique is not None:
            labels["technique_17"] = technique
        if technique in TECHNIQUES:
            labels["technique"] = technique
            part = "test" if singer in test else "valid" if singer in valid else "train"
        found[key] = Entry(key, (folder / path).relative_to(root).as_posix(), part, singer, labels)
    if not found:
        raise FileNotFoundError(f"{folder} has no recording below a folder female1 … male11. {CORPUS.layout} {SOURCE}")
    return list(found.values())


def tracks(root: str | Path) -> list[Track]:
    """The recordings in `root`: 1.1's FULL/<singer>/<context>/<technique>/, or 1.2's data_by_singer (each recording
    is in three trees there; one is read).
    """
    return tracks_of(CORPUS, root)


def valid_singers(test: tuple[str, ...] = TEST_SINGERS) -> tuple[str, ...]:
    """Three of the singers who aren't tested on: those whose names have the lowest SHA-1 (none are published)."""
    return tuple(sorted((s for s in SINGERS if s not in test), key=_digest)[:3])


def singer_set(key: str) -> str:
    """The set of a recording for telling singers, 12:8:5 as is usual: SHA-1 of the key, modulo 25."""
    place = _digest(key) % 25
    return "train" if place < 12 else "valid" if place < 20 else "test"


def _digest(name: str) -> int:
    return int(hashlib.sha1(name.encode("utf-8"), usedforsecurity=False).hexdigest(), 16)


def _test_singers(root: Path) -> tuple[str, ...]:
    """From the list that 1.1 ships where it is there, else the same as a constant."""
    for file in (root / LIST, root / "VocalSet11" / LIST):
        if file.is_file():
            names = tuple(re.findall(r"(?:fe)?male\d+", text_of(file)))
            if not names or any(name not in SINGERS for name in names):
                raise ValueError(f"{file} should name test singers, such as female2, one per line. {SOURCE}")
            return names
    return TEST_SINGERS


def _depth(path: Path) -> int:
    """Where in the path the singer's folder is, -1 for nowhere."""
    places = [i for i, part in enumerate(path.parts[:-1]) if part.strip().lower() in SINGERS]
    return places[0] if places else -1


def _singer(path: Path) -> str | None:
    depth = _depth(path)
    return path.parts[depth].strip().lower() if depth >= 0 else None


def _technique(path: Path) -> str | None:
    """The innermost folder that is a technique."""
    for part in reversed(path.parts[:-1]):
        name = re.sub(r"[\s-]+", "_", part.strip().lower())
        if name in TECHNIQUES or name in OTHERS:
            return name
    return None


CORPUS = Corpus(
    name="vocalset",
    title="VocalSet",
    home="https://zenodo.org/records/1193957",
    source=SOURCE,
    licence="CC BY 4.0",
    layout="The root should hold FULL/<singer>/<context>/<technique>/ (1.1) or data_by_singer/ (1.2).",
    read=entries,
    label="technique",
    expected={"split": {}, "split_singer": {}},
    classes={"technique": 10, "technique_17": 17, "singer": 20},
    total=3613,
    about=True,
    separate=("split",),
    known=(
        "Test singers are published (female2, female8, male3, male5, male10); validation singers and the split for "
        "telling singers aren't, so ours can't be compared with others' to the last point.",
        "Version 1.2 renames some files: its split for telling singers differs in those.",
    ),
)
