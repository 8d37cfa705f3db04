"""MagnaTagATune: 25,863 clips of 29 s with 188 tags (Law and others 2009), in both circulating splits.

Both go by the first hexadecimal digit of a clip's folder: 0 to b train, c valid, d to f test. One keeps clips that
have none of the 50 most frequent tags (18,706/1,825/5,329), the other leaves them out (15,247/1,529/4,332).
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from ..track import Track
from .corpus import Checksum, Corpus, Entry
from .recordings import place, tracks_of
from .tables import check_columns, clean, find, rows, text_of

SOURCE = (
    "Get annotations_final.csv, clip_info_final.csv and mp3.zip.001 to .003 (join them, then unzip) from "
    "https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset."
)
UNREADABLE = frozenset({"35644", "55753", "57881"})  # clip ids; all in the training set
TAGS = 50
AUDIO = ("", "mp3", "mp3s", "audio", "clips")


def entries(root: str | Path) -> list[Entry]:
    """The 25,860 clips without the three whose MP3 can't be decoded.

    Labels: `tags`, those of the 50 most frequent that the clip has (a list, maybe empty, in order of frequency);
    `split_filtered`, the set where that list isn't empty. Works without the audio.
    """
    root = Path(root)
    file = find(root, ("annotations_final.csv", "annotations/annotations_final.csv"), SOURCE)
    artists = _artists(file.with_name("clip_info_final.csv"))
    clips = _clips(file)
    # sorted is stable: tags with as many clips (male voice and female vocal) keep the order of the columns
    counts = Counter(tag for _, tags in clips.values() for tag in tags)
    columns = _tag_columns(file)
    top = sorted(columns, key=lambda tag: -counts[tag])[:TAGS]
    paths = place(root, [Path(path).with_suffix("").as_posix() for path, _ in clips.values()], AUDIO, ("{}.mp3",))
    found = []
    for (clip, (name, held)), path in zip(clips.items(), paths):
        tags = [tag for tag in top if tag in held]
        part = _set_of(name, file)
        labels: dict[str, object] = {"tags": tags} | ({"split_filtered": part} if tags else {})
        found.append(Entry(clip, path, part, artists.get(clip), labels))
    return found


def tracks(root: str | Path) -> list[Track]:
    """Clips whose audio (0/…mp3 to f/…mp3) is in `root`.

    Raises:
        FileNotFoundError: there is none.
    """
    return tracks_of(CORPUS, root)


def _clips(file: Path) -> dict[str, tuple[str, set[str]]]:
    """{clip id: (mp3 path, tags)} without the unreadable ones, in the order of the file."""
    reader = csv.reader(text_of(file).split("\n"), delimiter="\t")
    header = [clean(cell) for cell in next(reader, [])]
    check_columns(file, header, ("clip_id", "mp3_path"), SOURCE)
    number, path = header.index("clip_id"), header.index("mp3_path")
    clips = {}
    for line, cells in enumerate(reader, start=2):
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise ValueError(
                f"{file}, line {line}, has {len(cells)} cells where the header has {len(header)}: the file was edited, "
                f"or its download broke off. {SOURCE}"
            )
        if cells[number] not in UNREADABLE and cells[path].strip():
            tags = {name for name, cell in zip(header, cells) if cell == "1" and name not in ("clip_id", "mp3_path")}
            clips[cells[number]] = (cells[path].strip(), tags)
    return clips


def _tag_columns(file: Path) -> list[str]:
    with open(file, encoding="utf-8-sig", errors="replace") as opened:
        header = [clean(cell) for cell in opened.readline().split("\t")]
    return [name for name in header if name not in ("clip_id", "mp3_path")]


def _artists(file: Path) -> dict[str, str]:
    """{clip id: artist}; nothing where clip_info_final.csv isn't there: only the scores' intervals need it."""
    if not file.is_file():
        return {}
    return {row["clip_id"]: row["artist"] for row in rows(file, ("clip_id", "artist"), SOURCE, "\t") if row["artist"]}


def _set_of(path: str, file: Path) -> str:
    try:
        digit = int(path.strip("/")[0], 16)
    except ValueError:
        raise ValueError(
            f"{file} has the mp3_path {path!r}, and one that begins with a folder 0 to f is expected. {SOURCE}"
        ) from None
    return "train" if digit < 12 else "valid" if digit == 12 else "test"


CORPUS = Corpus(
    name="magnatagatune",
    title="MagnaTagATune",
    home="http://tagatune.org/Magnatagatune.html",
    source=SOURCE,
    licence="CC BY-NC-SA 3.0",
    layout="The root should hold annotations_final.csv, clip_info_final.csv and the folders 0 to 9 and a to f.",
    read=entries,
    label="tags",
    expected={
        "split": {"train": 18706, "valid": 1825, "test": 5329},
        "split_filtered": {"train": 15247, "valid": 1529, "test": 4332},
    },
    classes={"tags": TAGS},
    per_class={
        "all": {
            "guitar": 4851, "classical": 4270, "slow": 3547, "male voice": 644, "female vocal": 644,
            "female voice": 505, "metal": 505, "choral": 490,
        }
    },
    total=25860,
    checksums=(
        Checksum("annotations_final.csv", "sha256", "99b94e95"),
        Checksum("clip_info_final.csv", "sha256", "cb6108a1"),
        Checksum("mp3.zip.001", "sha256", "f857fe18"),
        Checksum("mp3.zip.002", "sha256", "fc2e1ec4"),
        Checksum("mp3.zip.003", "sha256", "83a68982"),
    ),
    known=(
        "The two splits aren't comparable: for equal models average precision is about 0.06 higher on the "
        "filtered one.",
        "Clips 35644, 55753 and 57881 can't be decoded and are left out of both (some carriers keep 15,244 clips to "
        "train on instead of 15,247).",
        "61.9 % of the test clips have an artist that is also in the training set.",
    ),
)  # fmt: skip
