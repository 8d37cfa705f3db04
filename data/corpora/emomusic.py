"""emoMusic (1000 Songs for Emotional Analysis, cleaned): arousal and valence of 744 clips of 45 s.

Soleymani and others (2013). Test: the songs of MediaEval 2013's evaluation. The rest is published only as a rule.
"""

from __future__ import annotations

import hashlib
import string
from pathlib import Path

from ..track import Track
from .corpus import Checksum, Corpus, Entry
from .recordings import place, tracks_of
from .tables import find, number_of, rows, text_of

SOURCE = (
    "Get clips_45sec.tar.gz and annotations.tar.gz from http://cvml.unige.ch/databases/emoMusic/ (its certificate is "
    "often out of date)."
)
DEAM = ("static_annotations_averaged_songs_1_2000.csv", "static_annotations_averaged_songs_2000_2058.csv")
MOST_SONGS, LAST_SONG = 1000, 1000
MEANS = frozenset({"arousal_mean", "valence_mean"})  # DEAM's names; emoMusic says mean_arousal
FOLDERS = ("clips_45seconds", "clips_45sec/clips_45seconds", "clips_45sec", "audio", "wav", "")
SET = "Mediaeval 2013 set"


def entries(root: str | Path) -> list[Entry]:
    """The 744 songs with `arousal` and `valence` (means of the annotators, 1 to 9) and `genre`. Works without audio.

    Raises:
        ValueError: DEAM, which has other songs under the same numbers.
    """
    root = Path(root)
    _refuse_deam(root)
    static = find(root, ("annotations/static_annotations.csv", "static_annotations.csv"), SOURCE)
    songs = find(root, ("annotations/songs_info.csv", "songs_info.csv"), SOURCE)
    if not MEANS.isdisjoint(text_of(static).partition("\n")[0].replace(" ", "").split(",")):
        raise _deam(f"{static} has DEAM's columns {' and '.join(sorted(MEANS))}")
    emotions = rows(static, ("song_id", "mean_arousal", "mean_valence"), SOURCE)
    known = {row["song_id"]: row for row in rows(songs, ("song_id", "Artist", "Genre", SET), SOURCE)}
    numbers = [int(number_of(row["song_id"], static, "a song's number")) for row in emotions]
    if len(numbers) > MOST_SONGS or max(numbers, default=0) > LAST_SONG:
        raise _deam(f"{static} lists {len(numbers)} songs up to number {max(numbers)}, and emoMusic has 744 up to 1000")
    unknown = [row["song_id"] for row in emotions if row["song_id"] not in known]
    if unknown:
        raise ValueError(f"{songs} doesn't know song {unknown[0]} of {static.name}: get both again. {SOURCE}")
    paths = place(root, [str(n) for n in numbers], FOLDERS, ("{}.mp3", "{}.wav"))
    return [
        Entry(
            f"{number:04d}", path, _set_of(known[row["song_id"]], songs), known[row["song_id"]]["Artist"] or None,
            {
                "arousal": number_of(row["mean_arousal"], static, "a mean arousal"),
                "valence": number_of(row["mean_valence"], static, "a mean valence"),
                "genre": known[row["song_id"]]["Genre"],
            },
        )
        for number, row, path in zip(numbers, emotions, paths)
    ]  # fmt: skip


def tracks(root: str | Path) -> list[Track]:
    """Songs whose audio (clips_45seconds/<song_id>.mp3) is in `root`.

    Raises:
        FileNotFoundError: there is none.
    """
    return tracks_of(CORPUS, root)


def artist_set(artist: str) -> str:
    """The set of a song of the development part: SHA-1 of the plain name, modulo 10: 0 to 7 train, 8 and 9 valid."""
    plain = " ".join("".join(c for c in artist.lower() if c in string.ascii_lowercase + string.whitespace).split())
    digest = int(hashlib.sha1(plain.encode("utf-8"), usedforsecurity=False).hexdigest(), 16)
    return "train" if digest % 10 < 8 else "valid"


def _set_of(song: dict[str, str], file: Path) -> str:
    part = song[SET].lower()
    if part not in ("development", "evaluation"):
        raise ValueError(
            f"{file} says {song[SET]!r} in the column {SET!r} of song {song['song_id']}, and development or evaluation "
            f"is expected. {SOURCE}"
        )
    return "test" if part == "evaluation" else artist_set(song["Artist"])


def _refuse_deam(root: Path) -> None:
    if root.is_dir():
        for name in DEAM:
            if found := next(iter(sorted(root.rglob(name))), None):
                raise _deam(f"{found} is a file of DEAM")


def _deam(why: str) -> ValueError:
    return ValueError(f"{why}: DEAM is another data set (1,802 songs), and no stand-in for emoMusic. {SOURCE}")


CORPUS = Corpus(
    name="emomusic",
    title="emoMusic",
    home="http://cvml.unige.ch/databases/emoMusic/",
    source=SOURCE,
    licence="see the page; the songs come from the Free Music Archive under Creative Commons licences",
    layout="The root should hold clips_45seconds/<song_id>.mp3 and annotations/static_annotations.csv, songs_info.csv.",
    read=entries,
    label="genre",
    expected={"split": {"train": 504, "valid": 115, "test": 125}},
    labelled={"arousal": 744, "valence": 744},
    classes={"genre": 8},
    per_class={
        "all": {
            "Classical": 116, "Country": 105, "Jazz": 105, "Blues": 100,
            "Electronic": 92, "Pop": 78, "Rock": 77, "Folk": 71,
        }
    },
    total=744,
    separate=(),
    checksums=(
        Checksum("clips_45sec.tar.gz", "sha256", "3994a5d5"),
        Checksum("annotations.tar.gz", "sha256", "e0cb0b06"),
    ),
    known=("Many papers use only the first 30 of the 45 s.",),
)  # fmt: skip
