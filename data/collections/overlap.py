"""`groundbass data overlap A B`: which recordings of A are in B too, whatever was done to their files?"""

from __future__ import annotations

import hashlib
import json as json_text
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from ...progress import tqdm
from ..open import open_sound
from ..parallel import Part, cores, in_order
from ..track import Manifest, cache_folder
from ..writing import remove_leftovers, write_text, written
from .fingerprints import RATE, SHIFTS, VERSION, Index, Prints, fingerprint

BATCH = 32  # tracks whose prints are remembered in one file
LONGEST = 3600  # s that are fingerprinted of one file
SHOWN = 20  # hits in the terminal


@dataclass(frozen=True)
class Hit:
    """A recording that is in both: `a`, `b` are keys; offset: s, where a begins in b; votes, share, chance: as in
    `fingerprints.Match`; confidence: -log10 of chance.
    """

    a: str
    b: str
    offset: float
    votes: int
    share: float
    confidence: float


@dataclass(frozen=True)
class Report:
    """hits: best first; skipped: {key: why} of tracks that have no prints, from both sides."""

    hits: list[Hit]
    skipped: dict[str, str]
    a: int
    b: int


def overlap(
    a: tyro.conf.Positional[str],
    b: tyro.conf.Positional[str],
    *,
    out: Path | None = None,
    exclude: Path | None = None,
    json: bool = False,
    workers: int | None = None,
    part: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None,
) -> None:
    """Find recordings of A that are in B too: re-encoded, resampled, cut, louder or softer.

    By landmarks of the spectrum (Wang 2003). About 4 s in common are enough. Prints are remembered, so a second
    comparison is quick, and an interrupted one goes on.

    Args:
        a: what you train on: a file or folder of audio, a manifest (.parquet, .csv), shards or their URL, a data set,
            or CORPUS:ROOT, such as gtzan:~/data/gtzan (CORPUS alone is looked for in $GROUNDBASS_DATA).
        b: what you test on, likewise.
        out: write the hits as a table, .parquet, .csv or .json.
        exclude: write the manifest of A without the hits, for training.
        json: print JSON and nothing else.
        workers: processes that decode; one per core by default.
        part: fingerprint a share of the tracks only, for job arrays with one $GROUNDBASS_CACHE; afterwards the same
            command without it compares.
    """
    if out is not None and out.suffix not in (".parquet", ".csv", ".json"):
        raise ValueError(f"--out {out}: the ending says what to write, .parquet, .csv or .json.")
    first, second, refused = opened(a, b)
    if (share := Part.of(part)) is not None:
        fingerprint_part(first, second, share, progress=not json, workers=workers)
        print(share.told(f"{a} and {b}"))
        return
    found = find_overlap(first, second, progress=not json, workers=workers, refused=refused)
    if out is not None:
        _write(found, out)
    if exclude is not None:
        without(first, found.hits).write(exclude)
    if json:
        print(json_text.dumps({**asdict(found), "kept": len(without(first, found.hits))}, indent=1, ensure_ascii=False))
    else:
        _show(found, a, b, exclude)


def opened(a: str | Path, b: str | Path) -> tuple[Manifest, Manifest, dict[str, str]]:
    """Both sides, and {path in A or B: why} of what can't be heard: whether that is in the other one isn't known."""
    refused: dict[str, str] = {}
    found = []
    for address in (a, b):
        here: dict[str, str] = {}
        found.append(open_sound(address, refused=here))
        refused |= {f"{path} in {address}": why for path, why in here.items()}
    return found[0], found[1], refused


def find_overlap(
    a: Manifest, b: Manifest, progress: bool = True, workers: int | None = None, cache: Path | None = None,
    refused: Mapping[str, str] | None = None,
) -> Report:  # fmt: skip
    """Search every track of `a` among those of `b`. A track is compared with itself too, where both hold it.

    cache: where prints are remembered; $GROUNDBASS_CACHE or ~/.cache/groundbass by default. Memory: about 12 bytes per
    print of `b`, some 90 prints per second of music. Tracks that can't be read, or are silent, are skipped and listed.
    refused: what was skipped before (see `opened`).
    """
    skipped: dict[str, str] = dict(refused or {})
    folder = cache or cache_folder() / "fingerprints"
    folder.mkdir(parents=True, exist_ok=True)
    prints: list[Prints] = []
    for made, faults in _in_batches(_Listener(b, folder, (0,)), len(b), progress, workers):
        prints += made
        skipped.update(faults)
    search = _Searcher(_Listener(a, folder, SHIFTS), Index(prints))
    keys = b.column("key")
    hits: list[Hit] = []
    for found, faults in _in_batches(search, len(a), progress, workers):
        skipped.update(faults)
        hits += [
            Hit(
                key,
                keys[match.track],
                match.offset,
                match.votes,
                match.share,
                float(-np.log10(max(match.chance, 1e-300))),
            )
            for key, match in found
        ]
    hits.sort(key=lambda hit: (-hit.confidence, -hit.share))
    return Report(hits, skipped, len(a), len(b))


def fingerprint_part(
    a: Manifest, b: Manifest, share: Part, progress: bool = True, workers: int | None = None, cache: Path | None = None
) -> None:
    """Make a share of the prints that `find_overlap` will ask for, batch by batch, and remember them."""
    folder = cache or cache_folder() / "fingerprints"
    folder.mkdir(parents=True, exist_ok=True)
    for manifest, shifts in ((b, (0,)), (a, SHIFTS)):
        batches = _batches(len(manifest))
        mine = [batches[number] for number in share.rows(len(batches))]
        listener = _Listener(manifest, folder, shifts)
        for _ in _each(listener, mine, progress, workers):
            pass


def without(manifest: Manifest, hits: list[Hit]) -> Manifest:
    """The manifest without the tracks that were hit."""
    hit = {found.a for found in hits}
    return manifest.select([row for row, key in enumerate(manifest.column("key")) if key not in hit])


Batch = tuple[list[Any], dict[str, str]]  # what was made of some tracks, and {key: why} of those without prints


@dataclass(frozen=True)
class _Listener:
    """The prints of some tracks, made or remembered in `folder`."""

    manifest: Manifest
    folder: Path
    shifts: tuple[int, ...]

    def __call__(self, rows: range) -> Batch:
        """A batch with a track that couldn't be read isn't remembered: its file may come back."""
        tracks = self.manifest[rows.start : rows.stop]
        place = self._place(tracks)
        faults: dict[str, str] = {}
        prints = _recall(place) if place.is_file() else None
        if prints is None:
            prints = [self._prints(tracks, row, faults) for row in range(len(tracks))]
            if not faults:
                _remember(place, prints)
        for key, found in zip(tracks.column("key"), prints):
            if not len(found.hashes):
                faults.setdefault(key, "it has no prints: silent, or shorter than about 2 s")
        return prints, faults

    def _place(self, tracks: Manifest) -> Path:
        """The file that remembers a batch, by the content of its tracks."""
        content = json_text.dumps([VERSION, RATE, list(self.shifts), tracks.hashes()])
        return self.folder / f"{hashlib.blake2b(content.encode(), digest_size=16).hexdigest()}.npz"

    def _prints(self, tracks: Manifest, row: int, faults: dict[str, str]) -> Prints:
        try:
            return fingerprint(tracks.read_all(row, RATE, LONGEST), self.shifts)
        except (ValueError, OSError) as error:
            faults[tracks[row].key] = str(error)
            return Prints(np.empty(0, np.uint32), np.empty(0, np.int32))


@dataclass(frozen=True)
class _Searcher:
    """What is found of some tracks, each with its key."""

    listener: _Listener
    index: Index

    def __call__(self, rows: range) -> Batch:
        prints, faults = self.listener(rows)
        manifest = self.listener.manifest
        keys = manifest.column("key")[rows.start : rows.stop]
        found = [(key, match) for key, one in zip(keys, prints) for match in self.index.search(one, len(manifest))]
        return found, faults


def _in_batches(work: Callable[[range], Batch], tracks: int, progress: bool, workers: int | None) -> Iterator[Batch]:
    yield from _each(work, _batches(tracks), progress, workers)


def _batches(tracks: int) -> list[range]:
    return [range(start, min(tracks, start + BATCH)) for start in range(0, tracks, BATCH)]


def _each(work: Callable[[range], Batch], batches: list[range], progress: bool, workers: int | None) -> Iterator[Batch]:
    count = max(1, min(workers or cores(), len(batches)))
    with tqdm(total=sum(map(len, batches)), unit="track", desc="fingerprints", disable=not progress) as bar:
        for rows, result in zip(batches, in_order(work, batches, count)):
            yield result
            bar.update(len(rows))


def _remember(place: Path, prints: list[Prints]) -> None:
    ends = np.cumsum([0, *(len(p.hashes) for p in prints)])
    hashes, frames = (np.concatenate([getattr(p, name) for p in prints]) for name in ("hashes", "frames"))
    with written(place) as beside, beside.open("wb") as file:
        np.savez(file, ends=ends, hashes=hashes, frames=frames)


def _recall(place: Path) -> list[Prints] | None:
    """None where the file is damaged: it is only a memory."""
    try:
        with np.load(place) as made:
            ends, hashes, frames = made["ends"], made["hashes"], made["frames"]
    except (OSError, ValueError, KeyError, BadZipFile):
        return None
    return [Prints(hashes[start:end], frames[start:end]) for start, end in pairwise(ends)]


def _write(found: Report, out: Path) -> None:
    """The hits as a table, written beside and renamed."""
    remove_leftovers(out)
    if out.suffix == ".json":
        write_text(out, json_text.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n")
        return
    names = [("a", pa.string()), ("b", pa.string()), ("offset", pa.float64()), ("votes", pa.int64()),
             ("share", pa.float64()), ("confidence", pa.float64())]  # fmt: skip
    table = pa.Table.from_pylist([asdict(hit) for hit in found.hits], pa.schema(names))
    with written(out) as beside:
        if out.suffix == ".csv":
            from pyarrow import csv

            csv.write_csv(table, beside)
        else:
            pq.write_table(table, beside)


def _show(found: Report, a: str, b: str, exclude: Path | None) -> None:
    console = Console()
    hit = len({item.a for item in found.hits})
    if found.hits:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        for name in ("in A", "in B"):
            table.add_column(name, overflow="fold")
        for name in ("A begins in B at", "share", "confidence"):
            table.add_column(name, justify="right")
        for item in found.hits[:SHOWN]:
            table.add_row(item.a, item.b, f"{item.offset:+.2f} s", f"{item.share:.0%}", f"{item.confidence:.0f}")
        console.print(table)
        if len(found.hits) > SHOWN:
            console.print(f"… and {len(found.hits) - SHOWN} more (--out FILE.parquet lists all)", highlight=False)
    for key, why in list(found.skipped.items())[:SHOWN]:
        console.print(f"skipped {key}: {why}", style="dim", highlight=False, markup=False)
    console.print(
        f"{hit} of {found.a} tracks of {a} are among the {found.b} of {b}; {len(found.skipped)} tracks were skipped.",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    if exclude is not None:
        console.print(f"{exclude}: {found.a - hit} tracks to train on.", highlight=False, markup=False, soft_wrap=True)
    elif hit:
        console.print("--exclude OUT.parquet writes A without them.", highlight=False)
