"""GiantSteps-MTG key: 1,486 electronic tracks with manual keys, of which 1,159 are sure and single: train and valid.

Faraldo, Gómez, Jordà and Herrera, "Key Estimation in Electronic Dance Music" (2016). The split is published only as a
rule (see `artist_sets`); it goes back to Castellon, Donahue and Liang, "Codified audio language modeling" (2021).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from ..track import Track
from .corpus import Corpus, Entry
from .recordings import place, tracks_of
from .tables import find, rows

SOURCE = (
    "Clone github.com/GiantSteps/giantsteps-mtg-key-dataset and run its audio_dl.sh; the audio's mirror is "
    "https://www.cp.jku.at/datasets/giantsteps/mtg_key_backup/."
)
SURE = "2"  # the annotators' confidence, 0 to 2
MODULUS, TRAIN = 116, 100
FLATS = {"C#": "Db", "D#": "Eb", "F#": "Gb", "G#": "Ab", "A#": "Bb"}
FORMS = ("{}.LOFI.mp3", "{}.LOFI.wav", "{}.mp3", "{}.wav")
_KEY = re.compile(r"([A-G])([#b]?)\s+(major|minor)", re.IGNORECASE)


def entries(root: str | Path) -> list[Entry]:
    """The 1,159 tracks with confidence 2 and a single key, keys spelt with flats. Works without the audio."""
    root = Path(root)
    places = ("annotations/annotations.txt", "annotations.txt")
    annotations = find(root, places, SOURCE)
    metadata = find(root, [str(Path(p).with_name("beatport_metadata.txt")) for p in places], SOURCE)
    keys = {row["ID"]: row for row in rows(annotations, ("ID", "MANUAL KEY", "C"), SOURCE, "\t")}
    listed = rows(metadata, ("ID", "ARTIST"), SOURCE, "\t")
    unknown = keys.keys() - {row["ID"] for row in listed}
    if unknown:
        raise ValueError(
            f"{metadata} doesn't know {len(unknown)} of the {len(keys)} tracks of {annotations.name} "
            f"({min(unknown)} is one), and the split needs their artists: the two files are of different releases. "
            f"{SOURCE}"
        )
    sets = artist_sets([(row["ID"], row["ARTIST"]) for row in listed])
    artists = {row["ID"]: row["ARTIST"] for row in listed}
    kept = [i for i, row in keys.items() if row["C"] == SURE and "/" not in row["MANUAL KEY"]]
    paths = place(root, kept, ("audio", ""), FORMS)
    return [
        Entry(
            f"giantsteps_mtg_key/{i}", path, sets[i], artists[i] or None,
            {"key": key_of(keys[i]["MANUAL KEY"], annotations)}, f"md5/{i}.LOFI.md5",
        )
        for i, path in zip(kept, paths)
    ]  # fmt: skip


def tracks(root: str | Path) -> list[Track]:
    """The sure tracks whose audio (audio/<id>.LOFI.mp3) is in `root`.

    Raises:
        FileNotFoundError: there is none.
    """
    return tracks_of(CORPUS, root)


def artist_sets(listed: list[tuple[str, str]]) -> dict[str, str]:
    """{track: set} from (track, comma-separated artists) of every row, in the order of the file.

    SHA-1 of an artist's lower-cased name, modulo 116: up to 99 train, else valid. Then, in two passes, all artists of
    a row that has a valid artist become valid, so that those who work together stay together.
    """
    names = {track: [name.strip() for name in artists.split(",")] for track, artists in listed}
    valid = {name: _digest(name.lower()) % MODULUS >= TRAIN for row in names.values() for name in row}
    for _ in range(2):
        for row in names.values():
            if any(valid[name] for name in row):
                valid.update(dict.fromkeys(row, True))
    return {track: "valid" if any(valid[name] for name in row) else "train" for track, row in names.items()}


def key_of(text: str, file: Path) -> str:
    """A key as "Db minor": padding gone, sharps as flats.

    Raises:
        ValueError: what is no key.
    """
    match = _KEY.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{file} says {text.strip()!r}, and a key such as 'C minor' or 'F# major' is expected: the file was "
            "edited, or isn't the published one."
        )
    tonic = match[1].upper() + match[2].lower()
    return f"{FLATS.get(tonic, tonic)} {match[3].lower()}"


def _digest(name: str) -> int:
    return int(hashlib.sha1(name.encode("utf-8"), usedforsecurity=False).hexdigest(), 16)


TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")


def keys_of(major: Sequence[int], minor: Sequence[int]) -> dict[str, int]:
    """{key: tracks} from the counts of C, Db … B."""
    counts = {"major": major, "minor": minor}
    return {f"{tonic} {mode}": count for mode in counts for tonic, count in zip(TONICS, counts[mode])}


PER_KEY = {
    "train": keys_of(
        (15, 31, 33, 13, 21, 21, 25, 26, 31, 23, 23, 19), (95, 61, 59, 41, 65, 75, 38, 52, 27, 47, 32, 50)
    ),
    "valid": keys_of((8, 10, 11, 14, 7, 8, 9, 6, 9, 1, 10, 3), (17, 12, 13, 2, 14, 28, 8, 13, 7, 10, 9, 7)),
}
CORPUS = Corpus(
    name="giantsteps_mtg_key",
    title="GiantSteps-MTG key",
    home="https://github.com/GiantSteps/giantsteps-mtg-key-dataset",
    source=SOURCE,
    licence="annotations CC BY-SA 4.0 (as Zenodo 1101082 says of them); audio: previews of commercial recordings",
    layout=(
        "The root should be the repository: annotations/annotations.txt and beatport_metadata.txt, audio/<id>.LOFI.mp3."
    ),
    read=entries,
    label="key",
    expected={"split": {"train": 923, "valid": 236}},
    classes={"key": 24},
    per_class=PER_KEY,
    total=1159,
    known=(
        "Papers print 1,077 training tracks; the published rule and files give 1,159 = 923 + 236.",
        "Nine pairs of the 1,486 files are the same bytes.",
    ),
)
