"""The embedded corpus: `groundbass data synth OUT` renders it, with exact labels for every probe task."""

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import tyro

from ...progress import tqdm
from ...reading import json_of
from ..audio import read as audio
from ..locks import alone
from ..track import Manifest, Track
from ..writing import put_folder
from .labels import music_labels
from .plan import PARTS, SECONDS, SHARES, SPLITS, Clip, plan_clips, rng_of
from .render import Room, draw_room, render_score
from .score import Band, ScoreWriter, draw_band
from .soundfont import SAMPLE_RATE, Sampler, Waveform, soundfont_path
from .styles import style_named
from .technique import Instrument, Musician, single_note, technique_clip
from .theory import KEYS
from .variety import free_band, free_room

VERSION = 1  # of the music: a change of what a seed sounds like raises it
RECIPE = "corpus.json"
MANIFEST = "manifest.parquet"


@dataclass(frozen=True)
class Job:
    """One clip for a worker."""

    clip: Clip
    seed: int
    folder: str
    variety: float = 0.0


@lru_cache(maxsize=1)
def _sampler() -> Sampler:
    return Sampler()


@lru_cache(maxsize=16)
def _band(seed: int, name: str, style: str, free: bool) -> tuple[Band, Room]:
    rng = rng_of(seed, "band", name)
    if free:
        return free_band(style_named(style), rng), free_room(rng)
    return draw_band(style_named(style), rng), draw_room(rng)


@lru_cache(maxsize=64)
def _musician(seed: int, name: str, instrument: Instrument) -> Musician:
    rng = rng_of(seed, "band", name)
    return Musician(instrument, float(rng.uniform(-12.0, 12.0)), draw_room(rng))


def _music(clip: Clip, seed: int, variety: float) -> tuple[Waveform, dict[str, Any]]:
    rng = rng_of(seed, clip.part, clip.index)
    free = variety > 0.0 and float(rng_of(seed, "variety", clip.band).random()) < variety
    band, room = _band(seed, clip.band, clip.kind, free)
    key = KEYS[clip.choice]
    score = ScoreWriter(band, key, clip.seconds, rng).write()
    level = -27.0 + 12.0 * band.style.energy + float(rng.normal(0.0, 2.5))
    wave = render_score(_sampler(), score, room, clip.seconds, band.tuning, min(-11.0, level))
    labels = music_labels(band.style, key, score, wave)
    if free:  # such a band keeps to no style
        del labels["style"]
    return wave, labels


def _alone(clip: Clip, seed: int) -> tuple[Waveform, dict[str, Any]]:
    """A note or technique clip."""
    if clip.instrument is None:
        raise RuntimeError(f"{clip.path} has no instrument")
    rng = rng_of(seed, clip.part, clip.index)
    musician = _musician(seed, clip.band, clip.instrument)
    labels = {"part": clip.part, "instrument": clip.instrument.family, "pitch": clip.choice}
    if clip.part == "note":
        return single_note(_sampler(), musician, clip.choice, clip.seconds, rng), labels
    wave, rate = technique_clip(_sampler(), musician, clip.kind, clip.choice, clip.seconds, rng)
    return wave, labels | {"technique": clip.kind, "rate": round(rate, 4)}


def make_clip(clip: Clip, seed: int, variety: float = 0.0) -> tuple[Waveform, dict[str, Any]]:
    """Sound and labels of a clip: a pure function of its plan, the corpus's seed and its share of free bands."""
    return _music(clip, seed, variety) if clip.part == "music" else _alone(clip, seed)


def _write_clip(job: Job) -> Track:
    wave, labels = make_clip(job.clip, job.seed, job.variety)
    path = Path(job.folder) / job.clip.path
    audio.write(path, wave, SAMPLE_RATE)
    return Track(
        key=job.clip.path, path=job.clip.path, samples=len(wave), sample_rate=SAMPLE_RATE, channels=1,
        hash=hashlib.blake2b(path.read_bytes()).hexdigest(),
        split=job.clip.split, artist=job.clip.band, labels=labels,
    )  # fmt: skip


def _write_clips(jobs: list[Job], workers: int) -> Iterator[Track]:
    """Tracks in the order of the jobs."""
    if workers == 1:
        yield from map(_write_clip, jobs)
        return
    # spawn: the caller may hold threads (torch), which don't survive a fork
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(_write_clip, jobs, chunksize=8)


def synth(
    out: tyro.conf.Positional[Path],
    *,
    hours: float = 1.0,
    seed: int = 0,
    workers: int | None = None,
    clip_seconds: float = SECONDS["music"],
    variety: float = 0.0,
    music: float = SHARES["music"],
    train: float = SPLITS["train"],
) -> dict[str, Any]:
    """Render the embedded corpus: music in twelve styles, single notes and playing techniques, with exact labels.

    Writes OUT/audio/*.flac (24 kHz, mono) and OUT/manifest.parquet. The same seed gives the same bytes, for any number
    of workers. A corpus that is already there is left alone.

    Args:
        out: the folder to make.
        hours: hours of audio: 60 % music, 18 % single notes, 22 % techniques.
        seed: of everything.
        workers: processes; one per core by default.
        clip_seconds: length of a music clip.
        variety: share of the bands that keep to no style: wider tempo, harmony, rhythm, orchestration, tuning, room,
            a tempo that wanders. For learning from labels that shall hold on recordings; their clips have no `style`.
        music: share of the hours that is music.
        train: share of the clips that is for training.
    """
    _check(hours, seed, workers, clip_seconds, {"variety": variety, "music": music, "train": train})
    out = Path(os.path.abspath(out))
    recipe = {"version": VERSION, "hours": hours, "seed": seed, "clip_seconds": clip_seconds}
    usual = {"variety": 0.0, "music": SHARES["music"], "train": SPLITS["train"]}
    asked = {"variety": variety, "music": music, "train": train}
    recipe |= {name: value for name, value in asked.items() if value != usual[name]}
    if _is_made(out, recipe):
        print(f"{out} already holds this corpus ({hours} h, seed {seed}): left as it is.", file=sys.stderr)
        return figures(list(Manifest.open(out / MANIFEST)), out)
    soundfont_path()
    with alone(out.with_name(f".{out.name}.lock"), str(out)):
        tracks = _make(out, recipe, plan_clips(hours, seed, clip_seconds, music, train), variety, workers)
    print(summary(tracks, out), file=sys.stderr)
    return figures(tracks, out)


def figures(tracks: list[Track], out: Path) -> dict[str, Any]:
    """What is in a corpus: hours, and clips of each part."""
    hours = sum(track.seconds for track in tracks) / 3600
    return {"out": out, "clips": len(tracks), "hours": hours, "parts": Counter(t.labels["part"] for t in tracks)}


def _make(out: Path, recipe: dict[str, Any], clips: list[Clip], variety: float, workers: int | None) -> list[Track]:
    """Render everything beside `out`, then give it its name."""
    partial = out.with_name(f".{out.name}.partial")
    if partial.exists():  # a run that was stopped
        shutil.rmtree(partial)
    (partial / "audio").mkdir(parents=True)
    processes = workers or (1 if len(clips) < 100 else os.cpu_count() or 1)
    jobs = [Job(clip, recipe["seed"], str(partial), variety) for clip in clips]
    tracks: list[Track] = []
    with tqdm(total=round(sum(clip.seconds for clip in clips)), unit="s", desc="synth", disable=None) as bar:
        for track in _write_clips(jobs, processes):
            tracks.append(track)
            bar.update(round(track.seconds))
    Manifest.from_tracks(tracks, partial).write(partial / MANIFEST)
    (partial / RECIPE).write_text(json.dumps(recipe, indent=1) + "\n")
    put_folder(partial, out)
    return tracks


def _check(hours: float, seed: int, workers: int | None, clip_seconds: float, shares: dict[str, float]) -> None:
    if not 0.005 <= hours <= 10_000.0:
        raise ValueError(f"A corpus of {hours} hours can't be made; ask for 0.005 to 10000 hours.")
    if seed < 0:
        raise ValueError(f"The seed must be 0 or greater, not {seed}.")
    if workers is not None and workers < 1:
        raise ValueError(f"At least one worker is needed, not {workers}; leave it out to use all cores.")
    if not 4.0 <= clip_seconds <= 120.0:
        raise ValueError(f"Music clips of {clip_seconds} s can't carry a key; ask for 4 to 120 seconds.")
    for name, share in shares.items():
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"{name} is a share, not {share}; ask for 0 to 1.")


def _is_made(out: Path, recipe: dict[str, Any]) -> bool:
    """Whether the same corpus is in the folder; FileExistsError when something else is."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / RECIPE).is_file() or not (out / MANIFEST).is_file():
        raise FileExistsError(f"{out} holds other things; name a folder that is new or empty.")
    found = json_of(out / RECIPE)
    if found != recipe:
        raise FileExistsError(f"{out} holds another corpus ({found}, not {recipe}); name another folder or delete it.")
    return True


def summary(tracks: list[Track], out: Path) -> str:
    """What was made, a line for each part."""
    lines = [f"{out}: {sum(track.seconds for track in tracks) / 3600.0:.2f} h in {len(tracks)} clips"]
    for part in PARTS:
        chosen = [track for track in tracks if track.labels["part"] == part]
        splits = Counter(track.split for track in chosen)
        bands = len({track.artist for track in chosen})
        kind = {"music": "style", "note": "instrument", "technique": "technique"}[part]
        classes = len({track.labels.get(kind) for track in chosen} - {None})
        numbers = ", ".join(f"{name} {splits[name]}" for name in SPLITS)
        lines.append(f"  {part:9s} {len(chosen):5d} clips ({numbers}), {bands} bands, {classes} × {kind}")
    return "\n".join(lines)
