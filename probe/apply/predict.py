"""`groundbass predict [CLASSIFIER…] FILES`: what classifiers say of recordings, as tables, files and a page."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import math
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro
from rich.console import Console

from ...data.audio.read import SUFFIXES
from ...data.open import POSSIBLE, address_kind, files_of, open_sound, path_of
from ...data.parallel import Part
from ...data.track import Manifest
from ...data.writing import write_text, written
from ...models.encoder import usual_device
from ...models.head_files import head_names
from ...progress import tqdm
from ...reading import json_in
from ..report.naming import short_names
from ..report.result import plain
from ..report.table import Column, Table
from .classify import (
    Aggregate,
    Classifier,
    Prediction,
    Sound,
    Unit,
    hear_all,
    load_classifier,
    loaded,
    shipped,
    sound_of,
    together,
    what_to_hear,
)
from .verdicts import check, compare, read_truth
from .zero_shot import load_clap

__all__ = ["hear_all", "hear_each", "names_several", "predict"]
FORMATS = (".json", ".csv", ".parquet", ".jams")
MOST_AT_A_TIME = 4  # recordings, each with the memory that one batch of sound takes in the encoder


@dataclass(frozen=True)
class Options:
    """How to listen and what to tell."""

    unit: Unit
    aggregate: Aggregate | None
    window: float | None
    top: int | None
    threshold: float | None


def predict(
    what: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[CLASSIFIER…] FILES")],
    *,
    unit: Unit = "track",
    aggregate: Aggregate | None = None,
    window_seconds: float | None = None,
    top: int | None = None,
    threshold: float | None = None,
    out: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = (),
    page: Path | None = None,
    labels: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LABELS.csv|WORDS")] = (),
    clap: str | None = None,
    encoder: str | None = None,
    device: str | None = None,
    threads: int = 2,
    force: bool = False,
    part: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None,
    quiet: bool = False,
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
    trust_remote_code: bool = False,
) -> None:
    """Say what classifiers hear in recordings. Heads on one encoder share one pass.

    Recordings that can't be read or are silent (below −80 dBFS throughout) are left out, with a sentence each.

    Classifiers are heads folders (of groundbass probe), runs of labelled.*, published folders, or Hugging Face audio
    classifiers; whatever else is named is sound. Without a classifier, what ships with groundbass answers.

    Args:
        what: classifiers, then sound: files and folders of audio, manifests (.parquet, .csv), shards or their URL, data
            sets of the library `datasets`, CORPUS:ROOT.
        unit: answers about tracks, windows or frames; heads of labels of whole clips have windows in place of frames.
        aggregate: of windows into a track's answer: mean, max, median or vote (the share of windows in which a class is
            likeliest, or a tag above its threshold; of numbers the median); by default each head's own way.
        window_seconds: of the windows, where the unit is one.
        top: show so many names.
        threshold: tags above this hold, shown and (with --labels) in precision, recall and F; by default the head's own
            thresholds.
        out: X.json, X.csv, X.parquet, X.jams (one JAMS per recording in a folder of that name), or a folder: chords as
            .lab, beats as .beats. May be given several times; one that was interrupted goes on.
        page: an HTML page with players and what was heard over time.
        labels: labels.csv with the truth: says how often the classifiers are right. With --clap the words to choose
            from; what comes after either and is there on the disk is sound.
        clap: a folder of transformers' CLAP, which compares sound with the words of --labels: zero-shot.
        encoder: of heads folders, where it has moved.
        device: cpu, cuda, cuda:1; a GPU where there is one.
        threads: threads that decode, a recording each, ahead of what is heard.
        force: replace OUT: begin again where it is there or begun.
        part: hear a share of the recordings only, for job arrays; afterwards the same command without it writes OUT.
        quiet: no bars and no words, only errors.
        json_: print JSON lines, one per recording and head, and nothing else.
        trust_remote_code: run the Python that a folder or Hub repository brings; read it first.

    Raises:
        ValueError: no classifier, no audio, a threshold outside [0, 1], an unknown format, labels that can't be read.
    """
    if top is not None and top < 1:
        raise ValueError(f"--top {top}: at least one name is shown.")
    if window_seconds is not None and not 0 < window_seconds < math.inf:
        raise ValueError(f"--window-seconds {window_seconds}: a window is longer than 0 s, such as 10.")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"--threshold {threshold}: a probability from 0 to 1.")
    for place in out:
        if place.suffix and place.suffix not in FORMATS:
            raise ValueError(f"--out {place}: the ending says what to write, {', '.join(FORMATS)}, or none: a folder.")
    named, more = _labels_of(labels, clap is not None)
    names, recordings = _sorted_out([*what, *more], shipped_too=clap is None)
    if page is not None and (stored := [one.name for one in recordings if one.file is None]):
        raise ValueError(f"--page plays files, and {stored[0]} is none of its own: leave it out, or unpack the sound.")
    device = usual_device(device)
    opened = [load_classifier(name, device, encoder=encoder, trust_remote_code=trust_remote_code) for name in names]
    if clap is not None:
        opened.append(load_clap(clap, named, device))
    classifiers = together(opened)
    options = Options(unit, aggregate, window_seconds, top, threshold)
    asked = [] if clap is None else [clap, *named]
    beside = _heard_at_a_time(len(recordings), device)
    share = Part.of(part)
    if share is not None and not out:
        raise ValueError(f"--part {part} needs --out, beside which the parts are kept.")
    if unit == "frame" and not quiet and (whole := [name for one in classifiers for name in one.about_clips]):
        print(f"Heads of whole clips answer about windows, not frames: {', '.join(whole)}.", file=sys.stderr)
    truth = {}
    if named and clap is None:
        truth = read_truth(Path(named[0]), [one.name for one in recordings])
        check([head[:3] for one in classifiers for head in one.answering.heads], truth, Path(named[0]))
    kept = _Kept(out, recordings, [*names, unit, aggregate, window_seconds, *asked], force, share)
    if share is not None:
        recordings = [recordings[row] for row in share.rows(len(recordings))]
    failed: dict[str, str] = {}
    resampled: Counter[tuple[int, int]] = Counter()
    results: dict[str, dict[str, Prediction]] = {}
    bar = tqdm(total=len(recordings), unit="recording", disable=quiet or json_ or len(recordings) < 2)
    with bar:
        for one, found in _heard(recordings, classifiers, options, kept, threads, beside, failed, resampled):
            bar.update()
            results[one.name] = found
            if json_:
                for name, said in found.items():
                    print(_json({"path": one.name, "head": name, **to_json(said, options)}))
            elif not quiet and len(recordings) == 1:
                _show(one.name, found, options)
    if not quiet and not json_ and len(recordings) > 1:
        _show_all(results, options)
    for (recorded, heard), count in sorted(resampled.items()) if not quiet else ():
        print(
            f"Resampled from {recorded} Hz to the {heard} Hz that a classifier hears: {count} recording(s).",
            file=sys.stderr,
        )
    for left_out, reason in failed.items():
        print(f"{left_out} is left out: {reason}", file=sys.stderr)
    if share is not None:
        print(share.told(out[0]))
        return
    if not results:
        raise ValueError(
            f"None of the {len(recordings)} recordings could be heard; the first: {next(iter(failed.values()))}"
        )
    for place in out:
        write_results(place, results, options)
    kept.done()
    if page is not None:
        from .predict_page import write_page

        write_page(page, results)
    if not quiet and not json_ and (written_to := [*out, *([] if page is None else [page])]):
        print(f"Written: {', '.join(map(str, written_to))}.")
    if truth:
        comparison = compare(results, {name: row for name, row in truth.items() if name in results}, threshold)
        if json_:
            print(_json({"comparison": comparison.to_json()}))
        elif not quiet:
            comparison.show(Console())


def names_several(sound: Any) -> bool:
    """Whether it names recordings (paths, a folder, a manifest, shards, …), not one file or the samples of one."""
    if isinstance(sound, (list, tuple)):
        return bool(sound) and all(isinstance(one, (str, Path)) for one in sound)
    return isinstance(sound, (str, Path)) and not _is_recording(path_of(sound))


def hear_each(
    classifiers: Any, sound: str | Path | Sequence[str | Path]
) -> tuple[dict[str, dict[str, Prediction]], dict[str, str]]:
    """{recording: {head: what is heard}} of all that names name, and why others are left out: {recording: reason}.

    Raises:
        ValueError, FileNotFoundError: it names no sound, or none of it can be heard.
    """
    words = [sound] if isinstance(sound, (str, Path)) else sound
    recordings = [one for word in words for one in _recordings(str(word))]
    if not recordings:
        raise ValueError(f"There is no sound to hear in {', '.join(map(str, words))}: give {POSSIBLE}.")
    asked = loaded(classifiers)
    options, failed = Options("track", None, None, None, None), dict[str, str]()
    heard = _heard(recordings, asked, options, _Kept((), recordings, (), False), 2, 1, failed, Counter())
    results = {one.name: found for one, found in heard}
    if not results:
        first = next(iter(failed.values()))
        raise ValueError(f"None of the {len(recordings)} recordings could be heard; the first: {first}")
    return results, failed


@dataclass(frozen=True)
class Recording:
    """What is heard. name: its path, or its key where it is no file; stamp: tells whether it has changed.

    file: where it is one; row: of a manifest whose sound isn't in files of its own.
    """

    name: str
    stamp: tuple[Any, ...]
    file: Path | None = None
    row: tuple[Manifest, int] | None = None

    def sound(self) -> tuple[Any, int | None]:
        """For `Classifier.hear`."""
        return (self.file, None) if self.row is None else what_to_hear(*self.row)


def _labels_of(words: Sequence[str], zero_shot: bool) -> tuple[list[str], list[str]]:
    """What --labels says, and what sound was named after it: a flag that takes several words takes those too."""
    if not zero_shot:
        return list(words[:1]), list(words[1:])
    sound = [word for word in words if path_of(word).exists()]
    return [word for word in words if word not in sound], sound


def _sorted_out(what: Sequence[str], shipped_too: bool = True) -> tuple[list[str], list[Recording]]:
    """Which words are classifiers, and the recordings that the others name.

    Raises:
        ValueError: those are none.
    """
    names: list[str] = []
    recordings: list[Recording] = []
    for word in what:
        if _names_classifier(word):
            names.append(word)
        else:
            recordings += _recordings(word)
    if not recordings:
        raise ValueError(f"There is no sound to hear: after the classifiers, give {POSSIBLE}.")
    return names or ([str(shipped())] if shipped_too else []), recordings


def _names_classifier(word: str) -> bool:
    """A folder that is meant as one, or a name that is nothing on this disk, as those of the Hub are."""
    path = path_of(word)
    if path.exists():
        return is_classifier_folder(path)
    try:
        address_kind(word)
    except FileNotFoundError:
        return path.suffix.lower() not in SUFFIXES
    return False


def _recordings(word: str) -> list[Recording]:
    path = path_of(word)
    if _is_recording(path):
        return [_of_file(path)]  # what is no audio is said when it is heard, and the others go on
    if address_kind(word) in ("folder", "table"):
        return [_of_file(file) for file in files_of(word)]
    manifest = open_sound(word)
    if manifest.has_files:
        return [_of_file(manifest.path_of(track)) for track in manifest]
    return [Recording(track.key, (track.key, track.hash), row=(manifest, row)) for row, track in enumerate(manifest)]


def _is_recording(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() not in (".parquet", ".csv")


def _of_file(file: Path) -> Recording:
    state = file.stat() if file.exists() else None  # one that isn't there is said when it is heard
    return Recording(str(file), (str(file), *((state.st_size, state.st_mtime_ns) if state else ())), file)


def is_classifier_folder(path: Path) -> bool:
    """Whether a folder is meant as a classifier, not as one of audio."""
    if not path.is_dir():
        return False
    return any((path / name).is_file() for name in ("config.json", "recipe.json")) or bool(head_names(path))


class _Kept:
    """What was heard before an interruption: a line of JSON per recording beside the first OUT."""

    def __init__(
        self, out: Sequence[Path], recordings: Sequence[Recording], settings: Sequence[Any], force: bool,
        share: Part | None = None,
    ) -> None:  # fmt: skip
        name = f".{out[0].name}.heard" if out else ""
        self.path = out[0].with_name(name if share is None else f"{name}.{share}") if out else None
        self.parts = [] if share is not None or not out else sorted(out[0].parent.glob(f"{name}.*-of-*"))
        state = [one.stamp for one in recordings]
        self.key = hashlib.blake2b(json.dumps([state, settings], default=str).encode(), digest_size=8).hexdigest()
        self.lines: dict[str, Any] = {}
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if force:
            self.path.unlink(missing_ok=True)
        for path in (self.path, *self.parts):
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else ():
                if line.endswith("\n") and (entry := json_in(line, path))["key"] == self.key:
                    self.lines[entry["path"]] = entry["heads"]

    def add(self, recording: str, found: dict[str, Prediction]) -> None:
        if self.path is not None:
            heads = {name: _whole(said) for name, said in found.items()}
            with self.path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"key": self.key, "path": recording, "heads": heads}) + "\n")

    def has(self, recording: str) -> bool:
        """Whether it was heard before."""
        return recording in self.lines

    def get(self, recording: str) -> dict[str, Prediction] | None:
        heads = self.lines.get(recording)
        return None if heads is None else {name: _from_whole(said) for name, said in heads.items()}

    def done(self) -> None:
        for path in (self.path, *self.parts):
            if path is not None:
                path.unlink(missing_ok=True)


def _heard(
    recordings: Sequence[Recording], classifiers: list[Classifier], options: Options, kept: _Kept, threads: int,
    beside: int, failed: dict[str, str], resampled: Counter[tuple[int, int]],
) -> Iterator[tuple[Recording, dict[str, Prediction]]]:  # fmt: skip
    """Each recording with its answers; `beside` are heard at a time, and the next `threads` begin to be decoded.

    resampled: counts recordings by their rate and the rate that they are heard at, where the two differ.
    """
    rates = list(dict.fromkeys(classifier.answering.rate for classifier in classifiers))

    def opened(one: Recording) -> dict[int, Sound]:
        source, own = one.sound()
        return {rate: sound_of(source, own, rate, decoders, over).expect() for rate in rates}

    def hear(opening: Future[dict[int, Sound]]) -> tuple[dict[str, Prediction], set[tuple[int, int]]]:
        sounds = opening.result()
        found: dict[str, Prediction] = {}
        for classifier in classifiers:
            sound = sounds[classifier.answering.rate]
            found |= classifier.hear(sound, None, options.unit, options.aggregate, options.window)
        if all(sound.silent for sound in sounds.values()):
            raise ValueError("It is silent, below −80 dBFS throughout, so that nothing can be heard in it.")
        return found, {(sound.recorded, sound.rate) for sound in sounds.values() if sound.recorded != sound.rate}

    coming: deque[Future[tuple[dict[str, Prediction], set[tuple[int, int]]]]] = deque()
    over = threading.Event()
    with ThreadPoolExecutor(max(1, threads)) as decoders, _hearing(beside) as hearers:
        new = (one for one in recordings if not kept.has(one.name))
        try:
            for one in recordings:
                if (known := kept.get(one.name)) is not None:
                    yield one, known
                    continue
                for later in islice(new, max(1, threads) + beside - len(coming)):
                    coming.append(hearers.submit(hear, decoders.submit(opened, later)))
                while not wait([coming[0]], timeout=1).done:
                    pass  # without a timeout, Ctrl-C in the instant before the wait begins would be heard after it
                hearing = coming.popleft()
                if isinstance(error := hearing.exception(), (ValueError, OSError)):
                    failed[one.name] = str(error)
                    continue
                found, rates_met = hearing.result()
                resampled.update(rates_met)
                kept.add(one.name, found)
                yield one, found
        finally:
            over.set()  # nobody asks any more, and an interruption needn't wait for hours: it may come at any line
            for pool in (hearers, decoders):
                pool.shutdown(wait=False, cancel_futures=True)


def _heard_at_a_time(recordings: int, device: str) -> int:
    """On a CPU each by a share of its cores, which waste less time than all of them on one; on a GPU one by one."""
    return 1 if recordings < 2 or device != "cpu" else min(torch.get_num_threads(), MOST_AT_A_TIME)


@contextlib.contextmanager
def _hearing(beside: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that hear, each with its share of the cores that this process may use."""
    cores = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(beside, "hear", torch.set_num_threads, (max(1, cores // beside),)) as pool:
            yield pool
    finally:
        torch.set_num_threads(cores)  # what a thread says holds for every thread that begins later


def _json(content: Any, **how: Any) -> str:
    """Strict JSON: null where a number isn't finite."""
    try:
        return json.dumps(content, allow_nan=False, **how)
    except ValueError:
        return json.dumps(plain(content), allow_nan=False, **how)


def to_json(said: Prediction, options: Options | None = None) -> dict[str, Any]:
    """A prediction for files: the ranked names, values, times and segments, and units where there are several."""
    top, threshold = (None, None) if options is None else (options.top, options.threshold)
    told: dict[str, Any] = {"kind": said.kind}
    if said.probabilities is not None:
        told["label"] = said.label
        told["probabilities"] = {name: round(value, 6) for name, value in said.ranked(top, threshold)}
    if said.values is not None:
        told["values"] = {name: float(value) for name, value in zip(said.names, said.values.mean(0))}
    if said.times is not None:
        told["times"] = [round(float(time), 4) for time in said.times]
        told["tempo"] = said.tempo
    if said.positions is not None:
        told["positions"] = said.positions.tolist()
    if said.segments is not None:
        told["segments"] = [[round(a, 4), round(b, 4), name] for a, b, name in said.segments]
    if len(said.start) > 1:
        table = said.values if said.values is not None else said.probabilities
        told["units"] = [
            {"start": round(float(a), 4), "end": round(float(b), 4), "values": np.round(row, 6).tolist()}
            for a, b, row in zip(said.start, said.end, table if table is not None else [])
        ]
        told["names"] = list(said.names)
    return told


def rows_of(path: str, name: str, said: Prediction, options: Options) -> Iterator[dict[str, Any]]:
    """A prediction as rows of a table: one per unit and name, per beat, per segment."""
    base = {"path": path, "head": name}
    for start, end, label in said.segments or []:
        yield base | {"start": start, "end": end, "label": label, "value": None}
    for number, time in enumerate(said.times if said.times is not None else []):
        position = "" if said.positions is None else str(said.positions[number])
        yield base | {"start": float(time), "end": float(time), "label": position, "value": None}
    if said.segments is not None or said.times is not None:
        return
    for one in said.units():
        told = one.ranked(options.top, options.threshold)
        if one.values is not None:
            told = list(zip(one.names, one.values[0].tolist()))
        for label, value in told:
            place = {"start": float(one.start[0]), "end": float(one.end[0])}
            yield base | place | {"label": label, "value": float(value)}


def write_results(place: Path, results: dict[str, dict[str, Prediction]], options: Options) -> None:
    """Write everything as the ending says; beside and renamed."""
    if place.suffix == ".json":
        told = {path: {name: to_json(said, options) for name, said in found.items()} for path, found in results.items()}
        write_text(place, _json(told, indent=1, ensure_ascii=False) + "\n")
        return
    if place.suffix in (".csv", ".parquet"):
        rows = [row for path, found in results.items() for name, said in found.items()
                for row in rows_of(path, name, said, options)]  # fmt: skip
        with written(place) as part:
            if place.suffix == ".csv":
                with part.open("w", newline="", encoding="utf-8") as lines:
                    table = csv.DictWriter(lines, ["path", "head", "start", "end", "label", "value"])
                    table.writeheader()
                    table.writerows(rows)
            else:
                pq.write_table(pa.Table.from_pylist(rows), part)
        return
    place.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for path, found in results.items():
        stem = _unique(Path(path).stem, taken)
        if place.suffix == ".jams":
            write_text(place / f"{stem}.jams", _json(jams(path, found), indent=1) + "\n")
            continue
        for name, said in found.items():
            ending = "" if sum(other.kind == said.kind for other in found.values()) == 1 else f".{_plain(name)}"
            text = said.label_kind.text(said.timed)
            if text is not None:
                write_text(place / f"{stem}{ending}{said.label_kind.ending}", text)
            else:
                write_text(place / f"{stem}.{_plain(name)}.json", _json(to_json(said, options), indent=1) + "\n")


def jams(path: str, found: dict[str, Prediction]) -> dict[str, Any]:
    """A recording's predictions as JAMS (Humphrey et al. 2014), plain JSON."""
    duration = max(float(said.end[-1]) for said in found.values())
    annotations = [
        {
            "namespace": said.label_kind.jams,
            "data": list(_observations(said)),
            "annotation_metadata": {
                "annotator": {}, "annotation_tools": "groundbass", "data_source": f"program: {name}", "version": "",
                "corpus": "", "curator": {"name": "", "email": ""}, "annotation_rules": "", "validation": "",
            },
            "sandbox": {}, "time": 0.0, "duration": duration,
        }
        for name, said in found.items()
    ]  # fmt: skip
    meta = {"title": Path(path).stem, "artist": "", "release": "", "duration": duration, "identifiers": {},
            "jams_version": "0.3.4"}  # fmt: skip
    return {"file_metadata": meta, "annotations": annotations, "sandbox": {"path": path}}


def _observations(said: Prediction) -> Iterator[dict[str, Any]]:
    def one(time: float, duration: float, value: Any, confidence: float | None) -> dict[str, Any]:
        return {"time": float(time), "duration": float(duration), "value": value, "confidence": confidence}

    if said.segments is not None:
        yield from (one(a, b - a, label, None) for a, b, label in said.segments)
    elif said.times is not None:
        places = said.positions if said.positions is not None else [None] * len(said.times)
        yield from (
            one(time, 0.0, None if place is None else int(place), None) for time, place in zip(said.times, places)
        )
    elif said.values is not None:
        yield from (one(a, b - a, row.tolist(), None) for a, b, row in zip(said.start, said.end, said.values))
    elif said.probabilities is not None:
        kind = said.label_kind
        for unit in said.units():
            start, end = unit.start[0], unit.end[0]
            for label, value in unit.ranked(None if kind.several else 1):
                yield one(start, end - start, kind.jams_value(label), value)


def _whole(said: Prediction) -> dict[str, Any]:
    """Everything of a prediction as JSON, to go on from."""

    def plain(value: Any) -> Any:
        if isinstance(value, Prediction):
            return _whole(value)
        return value.tolist() if isinstance(value, np.ndarray) else value

    return {name: plain(value) for name, value in said.__dict__.items()}


def _from_whole(told: dict[str, Any]) -> Prediction:
    arrays: dict[str, Any] = {name: None if told[name] is None else np.array(told[name])
              for name in ("start", "end", "probabilities", "values", "times", "positions")}  # fmt: skip
    segments = None if told["segments"] is None else [(a, b, name) for a, b, name in told["segments"]]
    return Prediction(told["kind"], tuple(told["names"]), segments=segments, thresholds=tuple(told["thresholds"]),
                      windows=None if told["windows"] is None else _from_whole(told["windows"]),
                      name=told["name"], **arrays)  # fmt: skip


def brief(said: Prediction, options: Options) -> str:
    """A prediction in a cell."""
    if said.segments is not None:
        names = [name for _, _, name in said.segments]
        return f"{len(said.segments)} spans: {', '.join(names[:6])}{' …' if len(names) > 6 else ''}"
    if said.times is not None:
        tempo = "" if said.tempo is None else f", {said.tempo:.1f} bpm"
        return f"{len(said.times)} beats{tempo}"
    if said.values is not None:
        return said.label
    top = options.top or (None if said.label_kind.several else 3)
    pairs = said.ranked(top, options.threshold)[:8]
    return ", ".join(f"{name} {value:.2f}" for name, value in pairs) or "–"


def _show(title: str, found: dict[str, Prediction], options: Options) -> None:
    rows: list[tuple[str, ...]] = []
    for name, said in found.items():
        if len(said.start) == 1 or said.segments is not None or said.times is not None:
            rows.append((name, "0.0", f"{said.end[-1]:.1f}", brief(said, options)))
        else:
            rows += [(name, f"{one.start[0]:.1f}", f"{one.end[0]:.1f}", brief(one, options)) for one in said.units()]
    head = ("head", Column("start", right=True), Column("end", right=True), "heard")
    Console().print(Table(head, rows, title).terminal())


def _show_all(results: dict[str, dict[str, Prediction]], options: Options) -> None:
    names = list(dict.fromkeys(name for found in results.values() for name in found))
    titles = short_names(list(results))
    rows = [
        (titles[path], *(brief(found[name], options) if name in found else "" for name in names))
        for path, found in results.items()
    ]
    Console().print(Table(("recording", *names), rows).terminal())


def _unique(stem: str, taken: set[str]) -> str:
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}_{number}", number + 1
    taken.add(name)
    return name


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
