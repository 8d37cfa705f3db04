"""GTZAN beats: beats and downbeats of 999 GTZAN clips (Marchand, Fresnel and Peeters 2015).

One file per clip, `beats/gtzan_blues_00000.beats`, a line per beat: time in s, tab, position in the bar (1: downbeat);
or the authors' own archive, `jams/blues.00000.wav.jams`.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from ...reading import json_of
from ..track import Track
from . import gtzan
from .corpus import Corpus, Entry
from .recordings import tracks_of
from .tables import find, number_of, text_of

SOURCE = (
    "The annotations are the folder beats/ of github.com/TempoBeatDownbeat/gtzan_tempo_beat, or jams/ of "
    "GTZAN-Rhythm_v2_ismir2015_lbd; the audio is GTZAN's. " + gtzan.SOURCE
)
REPOSITORY = ("", "gtzan_tempo_beat", "gtzan_tempo_beat-main", "gtzan_tempo_beat-master", "annotations")
JAMS = ("jams", "GTZAN-Rhythm_v2_ismir2015_lbd/jams")
AUDIO = ("", "../gtzan", "../GTZAN", "../genres")
_NAME = re.compile(r"(?:gtzan_)?([a-z]+)[_.](\d{5})(?:\.beats|(?:\.wav|\.au)?\.jams)$")


def entries(root: str | Path) -> list[Entry]:
    """A clip per file of beats. Labels: `beats` and `downbeats` (s, ascending; no downbeats where positions are
    missing), `tempo` (BPM) where the folder tempo/ is there, `genre`. Works without the audio.
    """
    root = Path(root)
    folder = find(root, [(Path(place) / "beats").as_posix() for place in REPOSITORY] + list(JAMS), SOURCE)
    split = gtzan.split_of_clips(root)
    audio = gtzan.clips_below(root, AUDIO)
    files = {f"{match[1]}.{match[2]}": file for file in sorted(folder.iterdir()) if (match := _NAME.search(file.name))}
    if not files:
        raise FileNotFoundError(f"{folder} has no file such as gtzan_blues_00000.beats. {SOURCE}")
    found = []
    for clip, file in files.items():
        genre = clip.partition(".")[0]
        beats, downbeats = read_jams(file) if file.suffix == ".jams" else read_beats(file)
        labels = {"beats": beats, "downbeats": downbeats, "tempo": _tempo(folder, file), "genre": genre}
        kept = {name: value for name, value in labels.items() if value is not None}
        found.append(Entry(clip, audio.get(clip, f"genres/{genre}/{clip}.wav"), split.get(clip), None, kept))
    return found


def tracks(root: str | Path) -> list[Track]:
    """The annotated clips whose audio is in `root`, or in a folder `gtzan` beside it."""
    return tracks_of(CORPUS, root)


def read_beats(file: Path) -> tuple[list[float], list[float] | None]:
    """Beat times and downbeat times in s; None for the downbeats where a line has no position.

    Raises:
        ValueError: a cell is no number, or the times don't ascend.
    """
    lines = [line.split() for line in text_of(file).split("\n") if line.strip()]
    times = _ascending([number_of(cells[0], file, "a beat's time in s") for cells in lines], file)
    if any(len(cells) < 2 for cells in lines):
        return times, None
    positions = [number_of(cells[1], file, "a beat's position in the bar") for cells in lines]
    return times, [time for time, position in zip(times, positions) if position == 1]


def read_jams(file: Path) -> tuple[list[float], list[float] | None]:
    """As `read_beats`, from a JAMS file: the annotations whose sandbox says that they are of beats and of downbeats."""
    times: dict[str, list[float]] = {}
    try:
        for annotation in json_of(file)["annotations"]:
            kind = annotation["sandbox"].get("annotation_type")
            if kind in ("beat", "downbeat"):
                times[kind] = [float(observation["time"]) for observation in annotation["data"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no JAMS file of beats ({error!r}): get it again. {SOURCE}") from error
    return _ascending(times.get("beat", []), file), times.get("downbeat") or None


def _ascending(times: list[float], file: Path) -> list[float]:
    if not times or any(later <= earlier for earlier, later in pairwise(times)):
        raise ValueError(
            f"{file} should list ascending beat times, and {'is empty' if not times else 'does not'}. {SOURCE}"
        )
    return times


def _tempo(folder: Path, file: Path) -> float | None:
    tempo = folder.parent / "tempo" / f"{file.stem}.bpm"
    return number_of(text_of(tempo).strip(), tempo, "the tempo in BPM") if tempo.is_file() else None


CORPUS = Corpus(
    name="gtzan_beats",
    title="GTZAN beats",
    home="https://github.com/TempoBeatDownbeat/gtzan_tempo_beat",
    source=SOURCE,
    licence="see the repository; for the audio, none was ever stated",
    layout=f"The root should hold beats/ and GTZAN's audio (or a folder gtzan beside it). {gtzan.CORPUS.layout}",
    read=entries,
    label="genre",
    expected={"split": gtzan.SPLIT_SIZES},
    labelled={"beats": 999, "downbeats": 993},
    classes={"genre": 10},
    per_class=gtzan.CORPUS.per_class,
    total=999,
    faulty=gtzan.CORPUS.faulty,
    checksums=gtzan.CHECKSUMS,
    known=(
        "reggae.00086 has no beats; jazz.00003, 00009, 00010, 00014, 00018 and 00020 have no downbeats.",
        "The last beat is at up to 30.52 s: beyond a crop of 30 s.",
    ),
)
