"""`groundbass data degrade IN OUT --chain CHAIN`: recordings through a chain, their labels moved with the sound."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from ...progress import tqdm
from ..audio import read as audio
from ..batch import key_id
from ..draws import draw_seed
from ..labels.annotations import SUFFIXES as ANNOTATIONS
from ..labels.annotations import annotation_text, name_annotations, read_annotation
from ..open import open_sound, path_of, say_left_out
from ..parallel import in_order
from ..storage.remote import RemoteFiles, RemoteFolder, is_url
from ..track import Manifest, Track, file_hash
from ..writing import write_text
from .degradations import SILENT, DegradationChain, find_chain
from .label_times import TimeMap, moved_labels, moved_rows

PITCHES = ("key", "chords", "pitch", "note")  # labels that a shift of pitch makes wrong


@dataclass(frozen=True)
class Job:
    """What is done to every recording: where its sound and its annotation files lie, and through what it goes."""

    root: Path | RemoteFolder
    chain: DegradationChain
    seed: int
    columns: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """labels that are kept in files, and what these end in (`.beats`, `.lab`)"""
    crowded: frozenset[str] = frozenset()
    """paths without their suffix that several recordings share: what is written keeps the suffix in its name"""

    def file_of(self, path: str) -> Path:
        """Where a file lies on this machine."""
        if isinstance(self.root, RemoteFolder):
            return self.root.fetch(path, self.root.version(path))
        return self.root / path

    def base(self, path: Path) -> Path:
        """A sound's path without its suffix, or with it where others would be called the same."""
        bare = path.with_suffix("")
        return path if bare.as_posix() in self.crowded else bare

    def sound(self, path: Path) -> Path:
        """Where a sound goes to, below OUT: its own path, as FLAC where its format can't be written."""
        if path.suffix.lower() in audio.WRITTEN:
            return path
        return self.base(path).with_name(f"{self.base(path).name}.flac")

    def annotation(self, path: Path, column: str, suffix: str) -> Path:
        """Where a label's file goes to: beside the sound, of its name and, if several end so, the label's."""
        alone = column == suffix.removeprefix(".") or sum(suffix in found for found in self.columns.values()) == 1
        label = "" if alone else "." + re.sub(r"[^\w-]+", "_", column)
        return self.base(path).with_name(f"{self.base(path).name}{label}{suffix}")


@dataclass(frozen=True)
class Done:
    """What became of one recording."""

    track: Track
    cut: int
    """labels of moments or spans that lay in a part that was cut away"""
    unread: tuple[str, ...]
    """a sentence per annotation file that can't be read"""
    mixed: bool
    """it had several channels, which became one"""
    clipped: bool
    """samples beyond full scale were clipped by the file format"""
    silent: bool
    """no level to set a noise against, so none was added"""


def degrade(
    sound: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IN")],
    out: Annotated[Path, tyro.conf.Positional],
    *,
    chain: str,
    seed: int = 0,
    workers: int | None = None,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Damage recordings by a chain of degradations; labels of a manifest move along with the sound.

    Args:
        sound: an audio file, a folder of audio, a manifest (.parquet, .csv), or a URL of one of these.
        out: an audio file for a file, else a folder: audio under the same paths, and manifest.parquet. Annotation files
            (.beats, .lab) that a label names, or that lie beside the sound, go beside it again, their times moved.
        chain: dopbandpass, live, phone, phone_speaker, radio, strong_mp3, vinyl, or a JSON file, for example
            [{"name": "noise", "snr": [10, 30]}, {"name": "mp3", "bitrate": 64}].
        seed: of what is drawn; each recording draws its own.
        workers: processes; one per core by default.
        force: replace OUT where it is there.
        quiet: no bars and no words, only errors.

    Raises:
        ValueError: no such chain, an unwritable format, or a recording that nothing would be left of.
        FileExistsError: OUT is in use.
        FileNotFoundError: no such recording.
    """
    refused: dict[str, str] = {}
    found = find_chain(chain)
    place = path_of(sound)
    if not is_url(sound) and not place.exists():
        raise FileNotFoundError(f"There is no {sound}: give an audio file, a folder of audio, or a manifest.")
    if out.exists() and not force and (out.is_file() or any(out.iterdir())):
        raise FileExistsError(f"{out} is in use; choose another place, or say --force.")
    if out.exists() and place.resolve() in (out.resolve(), *out.resolve().parents):
        raise FileExistsError(f"{out} lies in {sound}, which is to be read; choose another place.")
    if place.is_file() and place.suffix not in (".parquet", ".csv"):
        done = [_one_file(place, out, found, seed, force)]
    else:
        done = _many(sound, out, found, seed, workers, quiet, refused)
    if not quiet:
        say_left_out(sound, refused)
        print(summary(done, found, out))
    return {
        "out": out,
        "recordings": len(done),
        "skipped": refused,
        "labels_cut": sum(item.cut for item in done),
        "annotations_unread": sum(len(item.unread) for item in done),
        "mixed": sum(item.mixed for item in done),
        "clipped": sum(item.clipped for item in done),
        "silent": sum(item.silent for item in done),
    }


def _one_file(file: Path, out: Path, chain: DegradationChain, seed: int, force: bool) -> Done:
    if out.suffix.lower() not in audio.WRITTEN:
        raise ValueError(f"{out} has no suffix that can be written: use one of {', '.join(audio.WRITTEN)}.")
    about = audio.info(file)
    labels = _beside(file)
    same = file.resolve().with_suffix("") == out.resolve().with_suffix("")
    columns = {name: frozenset({Path(label).suffix}) for name, label in labels.items()}
    job = Job(file.parent, chain, seed, columns, frozenset({out.stem} if same else ()))
    for name, label in labels.items():
        if (there := out.parent / job.annotation(Path(out.name), name, Path(label).suffix)).exists() and not force:
            raise FileExistsError(f"{there} is in use, where the labels of {file} would go to; say --force.")
    track = Track(file.name, file.name, about.samples, about.sample_rate, about.channels, "", labels=labels)
    return _degraded(track, Path(out.name), out.parent, job)


def _many(
    place: str, out: Path, chain: DegradationChain, seed: int, workers: int | None, quiet: bool, refused: dict[str, str]
) -> list[Done]:
    manifest = open_sound(place, refused=refused, progress=not quiet)
    remote = manifest.place if isinstance(manifest, RemoteFiles) else None
    if not manifest.has_files and remote is None:
        raise ValueError(f"{place} holds sound that isn't in files of its own: give files, a folder or a manifest.")
    tracks = list(manifest) if remote else _with_files(list(manifest), manifest.root)
    stems = Counter(Path(track.path).with_suffix("").as_posix() for track in tracks)
    crowded = frozenset(stem for stem, count in stems.items() if count > 1)
    job = Job(remote or manifest.root, chain, seed, _annotation_columns(tracks), crowded)
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    work = partial(_item, out=out, job=job)
    done = list(tqdm(in_order(work, tracks, workers), total=len(tracks), unit="file", desc="degrade", disable=quiet))
    Manifest.from_tracks([item.track for item in done], out).write(out / "manifest.parquet")
    steps = [{"name": step.NAME, **dataclasses.asdict(step)} for step in chain.steps]
    about = {"chain": steps, "seed": seed, "from": str(place)}
    write_text(out / "degraded.json", json.dumps(about, indent=1))
    return done


def _item(track: Track, out: Path, job: Job) -> Done:
    done = _degraded(track, path := job.sound(Path(track.path)), out, job)
    about = dataclasses.replace(done.track, path=path.as_posix(), channels=1, hash=file_hash(out / path))
    return dataclasses.replace(done, track=about)


def _degraded(track: Track, path: Path, out: Path, job: Job) -> Done:
    """Degrade one file and its labels. path: of what is written, below `out`."""
    own, rate = draw_seed(job.seed, key_id(track.key)), track.sample_rate
    source = job.file_of(track.path)
    before = torch.from_numpy(audio.read(source, rate))[None]
    if not before.shape[1]:
        raise ValueError(f"{source} holds no samples; leave it out.")
    silent = job.chain.needs_level and float(before.square().mean()) <= SILENT
    try:
        after = job.chain(before, rate, torch.tensor([own]))[0].numpy()
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    audio.write(out / path, np.clip(after, -1.0, 1.0), rate)
    where = TimeMap(job.chain, before.shape[1], rate, own)
    labels, cut = moved_labels(track.labels, where)
    files, cut_of_files, unread = _moved_files(track, path, out, job, where)
    labels = {name: label for name, label in (labels | files).items() if label is not None}
    return Done(
        dataclasses.replace(track, labels=labels, samples=len(after)), cut + cut_of_files, unread,
        mixed=track.channels > 1, clipped=bool(np.abs(after).max(initial=0.0) > 1.0), silent=silent,
    )  # fmt: skip


def _with_files(tracks: Sequence[Track], root: Path) -> list[Track]:
    """Tracks with the annotation files beside their sound as labels, as `folder:` has them: `beats` and `lab`."""
    known = {name for track in tracks for name in track.labels}
    return [
        dataclasses.replace(track, labels={**_beside(root / track.path, known), **track.labels}) for track in tracks
    ]


def _beside(sound: Path, known: Collection[str] = ()) -> dict[str, str]:
    """Label -> annotation file of the sound's name, beside it as `Track.path` would name it."""
    files = {suffix.removeprefix("."): sound.with_suffix(suffix) for suffix in ANNOTATIONS}
    return {name: str(file.resolve()) for name, file in files.items() if name not in known and file.is_file()}


def _annotation_columns(tracks: Sequence[Track]) -> dict[str, frozenset[str]]:
    """The labels that are kept in files, and what these end in."""
    names = dict.fromkeys(name for track in tracks for name in track.labels)
    columns = {name: [track.labels[name] for track in tracks if name in track.labels] for name in names}
    return {
        name: frozenset(Path(file).suffix.lower() for file in files)
        for name, files in columns.items()
        if name_annotations(files)
    }


def _moved_files(
    track: Track, path: Path, out: Path, job: Job, where: TimeMap
) -> tuple[dict[str, str | None], int, tuple[str, ...]]:
    """Labels that are kept in files, written beside the sound `path` below `out`.

    Returns what the labels name now, how many moments and spans were cut away, and a sentence per file that can't be
    read, whose label is left out.
    """
    named: dict[str, str | None] = {}
    written: dict[Path, str] = {}  # several labels may name one file
    unread: list[str] = []
    cut = 0
    for name in job.columns:
        label = track.labels.get(name)
        if label is None:
            continue
        try:
            file = job.file_of(label).resolve()
            rows = [] if file in written else read_annotation(file)
        except (OSError, ValueError) as error:
            named[name] = None
            unread.append(str(error))
            continue
        if file not in written:
            moved = moved_rows(rows, where)
            cut += len(rows) - len(moved)
            there = job.annotation(path, name, file.suffix.lower())
            write_text(out / there, annotation_text(moved))
            written[file] = there.as_posix()
        named[name] = written[file]
    return named, cut, tuple(dict.fromkeys(unread))


def summary(done: list[Done], chain: DegradationChain, out: Path) -> str:
    """Sentences for people, counts of everything that isn't as it was."""
    names = ", ".join(step.NAME for step in chain.steps) or "nothing"
    said = [f"{len(done)} recording(s) through {names}: {out}"]
    if cut := sum(item.cut for item in done):
        said.append(f"{cut} moments or spans lay in parts that were cut away, and are no labels any more.")
    if unread := [sentence for item in done for sentence in item.unread]:
        said.append(f"{len(unread)} annotation file(s) can't be read, and are no labels any more. {unread[0]}")
    if mixed := sum(item.mixed for item in done):
        said.append(f"{mixed} recording(s) had several channels, which were mixed to one.")
    if silent := sum(item.silent for item in done):
        said.append(f"{silent} recording(s) are silent: there is no level to set a noise against, so none was added.")
    if clipped := sum(item.clipped for item in done):
        said.append(f'{clipped} recording(s) went beyond full scale and were clipped; end the chain with "normalize".')
    known = Counter(name for item in done for name in item.track.labels)
    wrong = [name for name in PITCHES if name in known]
    if chain.shifts and wrong:
        said.append(f"The chain moves the pitch, but {', '.join(wrong)} of the manifest stay as they were.")
    return "\n".join(said)
