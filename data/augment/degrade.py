"""`groundbass data degrade IN OUT --chain CHAIN`: recordings through a chain, their labels moved with the sound."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from dataclasses import dataclass
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
from ..open import open_sound
from ..parallel import in_order
from ..storage.remote import RemoteFiles, RemoteFolder, is_url
from ..track import Manifest, Track, file_hash
from ..writing import write_text
from .degradations import SILENT, DegradationChain, find_chain

TIMES = ("beats", "downbeats", "onsets")  # labels that are lists of moments in s
TEMPI = ("tempo", "bpm")  # numbers that grow with speed
PITCHES = ("key", "chords", "pitch", "note")  # labels that a shift of pitch makes wrong
SPANS = ("start", "end")


@dataclass(frozen=True)
class Done:
    """What became of one recording."""

    track: Track
    cut: int
    """labels of moments or spans that lay in a part that was cut away"""
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
        out: an audio file for a file, else a folder: audio under the same paths, and manifest.parquet.
        chain: live, phone, phone_speaker, radio, strong_mp3, vinyl, or a JSON file, for example
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
    found = find_chain(chain)
    place = Path(sound)
    if not is_url(sound) and not place.exists():
        raise FileNotFoundError(f"There is no {sound}: give an audio file, a folder of audio, or a manifest.")
    if out.exists() and not force and (out.is_file() or any(out.iterdir())):
        raise FileExistsError(f"{out} is in use; choose another place, or say --force.")
    if out.exists() and place.resolve() in (out.resolve(), *out.resolve().parents):
        raise FileExistsError(f"{out} lies in {sound}, which is to be read; choose another place.")
    if place.is_file() and place.suffix not in (".parquet", ".csv"):
        done = [_one_file(place, out, found, seed)]
    else:
        done = _many(sound, out, found, seed, workers, quiet)
    if not quiet:
        print(summary(done, found, out))
    return {
        "out": out,
        "recordings": len(done),
        "labels_cut": sum(item.cut for item in done),
        "clipped": sum(item.clipped for item in done),
        "silent": sum(item.silent for item in done),
    }


def _one_file(file: Path, out: Path, chain: DegradationChain, seed: int) -> Done:
    if out.suffix.lower() not in audio.WRITTEN:
        raise ValueError(f"{out} has no suffix that can be written: use one of {', '.join(audio.WRITTEN)}.")
    about = audio.info(file)
    track = Track(file.name, file.name, about.samples, about.sample_rate, about.channels, "")
    out.parent.mkdir(parents=True, exist_ok=True)
    return _degraded(track, file, out, chain, seed)


def _many(place: str, out: Path, chain: DegradationChain, seed: int, workers: int | None, quiet: bool) -> list[Done]:
    manifest = open_sound(place, progress=not quiet)
    remote = manifest.place if isinstance(manifest, RemoteFiles) else None
    if not manifest.has_files and remote is None:
        raise ValueError(f"{place} holds sound that isn't in files of its own: give files, a folder or a manifest.")
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    work = partial(_item, root=remote or manifest.root, out=out, chain=chain, seed=seed)
    done = list(
        tqdm(in_order(work, manifest, workers), total=len(manifest), unit="file", desc="degrade", disable=quiet)
    )
    Manifest.from_tracks([item.track for item in done], out).write(out / "manifest.parquet")
    steps = [{"name": step.NAME, **dataclasses.asdict(step)} for step in chain.steps]
    about = {"chain": steps, "seed": seed, "from": str(place)}
    write_text(out / "degraded.json", json.dumps(about, indent=1))
    return done


def _item(track: Track, root: Path | RemoteFolder, out: Path, chain: DegradationChain, seed: int) -> Done:
    path = Path(track.path)
    if path.suffix.lower() not in audio.WRITTEN:
        path = path.with_suffix(".flac")
    if isinstance(root, RemoteFolder):
        source = root.fetch(track.path, root.version(track.path))
    else:
        source = root / track.path
    target = out / path
    target.parent.mkdir(parents=True, exist_ok=True)
    return _degraded(dataclasses.replace(track, path=path.as_posix()), source, target, chain, seed, listed=True)


def _degraded(
    track: Track, source: Path, target: Path, chain: DegradationChain, seed: int, listed: bool = False
) -> Done:
    """Degrade one file and its labels. listed: it goes into a manifest."""
    own = draw_seed(seed, key_id(track.key))
    rate = track.sample_rate
    before = torch.from_numpy(audio.read(source, rate))[None]
    if not before.shape[1]:
        raise ValueError(f"{source} holds no samples; leave it out.")
    silent = chain.needs_level and float(before.square().mean()) <= SILENT
    try:
        after = chain(before, rate, torch.tensor([own]))[0].numpy()
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    audio.write(target, np.clip(after, -1.0, 1.0), rate)
    labels, cut = moved_labels(track.labels, chain, before.shape[1], rate, own)
    if listed:
        track = dataclasses.replace(track, samples=len(after), channels=1, hash=file_hash(target))
    clipped = bool(np.abs(after).max(initial=0.0) > 1.0)
    return Done(dataclasses.replace(track, labels=labels), cut, clipped, silent)


def moved_labels(
    labels: dict[str, Any], chain: DegradationChain, samples: int, rate: int, seed: int
) -> tuple[dict[str, Any], int]:
    """Labels of one recording after the chain, and how many moments and spans were cut away.

    Lists of moments (beats, downbeats, onsets) and of spans (dictionaries with start and end in s) move; a span that a
    cut shortens keeps what is left of it. A tempo grows with the speed.
    """
    if not chain.moves:
        return labels, 0

    def move(times: Any) -> Any:
        return chain.moved(np.asarray(times, dtype=np.float64), samples, rate, seed)

    result, cut = dict(labels), 0
    for name, value in labels.items():
        if name in TIMES and isinstance(value, list):
            moved = move(value)
            result[name] = moved[~np.isnan(moved)].tolist()
            cut += len(value) - len(result[name])
        elif isinstance(value, list) and value and all(isinstance(v, dict) and set(SPANS) <= v.keys() for v in value):
            kept = [span for span in (_moved_span(span, move) for span in value) if span is not None]
            cut += len(value) - len(kept)
            result[name] = kept
        elif name in TEMPI and isinstance(value, int | float) and not isinstance(value, bool):
            result[name] = value * _speed(move, samples / rate)
    return result, cut


def _moved_span(span: dict[str, Any], move: Any) -> dict[str, Any] | None:
    """The span where it is now: what a cut leaves of it, None where nothing is left."""
    fine = np.linspace(span["start"], span["end"], 201)
    moved = move(fine)
    left = moved[~np.isnan(moved)]
    if not len(left) or left[-1] <= left[0]:
        return None
    return {**span, "start": float(left[0]), "end": float(left[-1])}


def _speed(move: Any, seconds: float) -> float:
    """How much faster the recording runs: over the widest part that nothing was cut from."""
    fine = np.linspace(0, seconds, 1001)
    steps = np.diff(move(fine))
    return float(np.diff(fine)[0] / np.nanmedian(steps))


def summary(done: list[Done], chain: DegradationChain, out: Path) -> str:
    """Sentences for people, counts of everything that isn't as it was."""
    names = ", ".join(step.NAME for step in chain.steps) or "nothing"
    said = [f"{len(done)} recording(s) through {names}: {out}"]
    if cut := sum(item.cut for item in done):
        said.append(f"{cut} moments or spans lay in parts that were cut away, and are no labels any more.")
    if silent := sum(item.silent for item in done):
        said.append(f"{silent} recording(s) are silent: there is no level to set a noise against, so none was added.")
    if clipped := sum(item.clipped for item in done):
        said.append(f'{clipped} recording(s) went beyond full scale and were clipped; end the chain with "normalize".')
    known = Counter(name for item in done for name in item.track.labels)
    wrong = [name for name in PITCHES if name in known]
    if chain.shifts and wrong:
        said.append(f"The chain moves the pitch, but {', '.join(wrong)} of the manifest stay as they were.")
    return "\n".join(said)
