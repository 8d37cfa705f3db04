"""NSynth: 305,979 notes of 4 s by 1,006 instruments (Engel and others 2017): instrument family and pitch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...reading import json_of
from ..track import Track
from .corpus import Checksum, Corpus, Entry
from .recordings import tracks_of
from .tables import find

SOURCE = (
    "Get nsynth-train.jsonwav.tar.gz, nsynth-valid.jsonwav.tar.gz and nsynth-test.jsonwav.tar.gz from "
    "https://magenta.tensorflow.org/datasets/nsynth and unpack them side by side."
)
SETS = ("train", "valid", "test")
FIELDS = ("instrument_family_str", "pitch")  # those the benchmark asks for


def entries(root: str | Path) -> list[Entry]:
    """All notes of the sets that are there: `instrument` (family), `pitch` (MIDI), `velocity`, `source`.

    The instrument counts as the artist: its notes sound alike. Works without the audio.
    """
    root = Path(root)
    found: list[Entry] = []
    places = [f"{folder}/examples.json" for part in SETS for folder in (f"nsynth-{part}", part)]
    find(root, places, SOURCE)
    for part in SETS:
        for folder in (f"nsynth-{part}", part):
            file = root / folder / "examples.json"
            if file.is_file():
                found += [_note(name, note, folder, part, file) for name, note in _load(file).items()]
                break
    return found


def tracks(root: str | Path) -> list[Track]:
    """Notes whose audio (nsynth-test/audio/<note>.wav) is in `root`.

    Raises:
        FileNotFoundError: there is none.
    """
    return tracks_of(CORPUS, root)


def _load(file: Path) -> dict[str, dict[str, Any]]:
    notes = json_of(file, f"its download broke off. {SOURCE.removesuffix('.')}")
    if not isinstance(notes, dict) or not notes:
        raise ValueError(f"{file} should be an object with an entry per note. {SOURCE}")
    return notes


def _note(name: str, note: dict[str, Any], folder: str, part: str, file: Path) -> Entry:
    missing = [field for field in FIELDS if field not in note]
    if missing:
        raise ValueError(f"{file} has no field {missing[0]!r} for {name}: it isn't the published file. {SOURCE}")
    labels = {
        "instrument": note["instrument_family_str"],
        "pitch": int(note["pitch"]),
        "velocity": note.get("velocity"),
        "source": note.get("instrument_source_str"),
    }
    return Entry(name, f"{folder}/audio/{name}.wav", part, note.get("instrument_str"), labels)


CORPUS = Corpus(
    name="nsynth",
    title="NSynth",
    home="https://magenta.tensorflow.org/datasets/nsynth",
    source=SOURCE,
    licence="CC BY 4.0",
    layout="The root should hold nsynth-train, nsynth-valid and nsynth-test, each with examples.json and audio/.",
    read=entries,
    label="instrument",
    expected={"split": {"train": 289205, "valid": 12678, "test": 4096}},
    classes={"instrument": 11},
    per_class={"test": {"synth_lead": 0}},
    total=305979,
    checksums=(
        Checksum("nsynth-train.jsonwav.tar.gz", "md5", "fde6665a"),
        Checksum("nsynth-valid.jsonwav.tar.gz", "md5", "87e94a00"),
        Checksum("nsynth-test.jsonwav.tar.gz", "md5", "5e6f8719"),
    ),
    known=(
        "The test set has no synth_lead: ten of the eleven families can be scored.",
        "32 test notes of brass_acoustic_046 share one waveform over 19 pitches, and 71 of its files are noise: pitch "
        "can't be told from them.",
        "Instruments of the training set are in no other set; valid and test share theirs.",
    ),
)
