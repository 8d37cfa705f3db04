"""From entries to tracks: where the audio lies, and what its headers and bytes say, remembered beside the corpus."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...progress import tqdm
from ..audio import mp3
from ..audio.files import find_audio
from ..audio.read import open_audio, unopenable
from ..audio.truncation import what_is_cut
from ..parallel import in_order
from ..track import Track, cache_folder
from ..writing import written
from .corpus import Corpus, Entry

REMEMBERED = ".groundbass-audio.parquet"
SAVE_SECONDS = 60.0
SAMPLE = 200  # names that are looked for in each candidate folder
Digest = Any  # hashlib's objects
FEW = 64  # files that aren't worth a pool of processes


@dataclass(frozen=True)
class Facts:
    """What one file is.

    size (bytes) and changed (ns) say whether it's still the file that was read. fault: why it can't be read; cut: what
    shows that its end is missing; both empty where all is well.
    """

    path: str
    size: int
    changed: int
    samples: int = 0
    sample_rate: int = 0
    channels: int = 0
    hash: str = ""
    fault: str = ""
    cut: str = ""


def tracks_of(corpus: Corpus, root: str | Path, progress: bool = True) -> list[Track]:
    """The corpus's tracks: entries whose audio is there and readable, in the order of the annotations.

    Files that are missing or unreadable are left out: `groundbass data verify` names them. Headers are read in
    parallel, once: what they say is remembered in ROOT/.groundbass-audio.parquet by size and time of change.

    Raises:
        FileNotFoundError: there is no audio at all; what `corpus.read` raises.
    """
    root = Path(root)
    entries = corpus.read(root)
    known = facts_of(root, [entry.path for entry in entries], corpus.name, progress)
    tracks = [track for entry in entries if (track := track_of(entry, known.get(entry.path))) is not None]
    if not tracks:
        first = f" ({entries[0].path} is the first)" if entries else ""
        raise FileNotFoundError(
            f"{root} has the annotations of {len(entries)} tracks and no readable audio of any{first}. {corpus.layout} "
            f"{corpus.source}"
        )
    return tracks


def track_of(entry: Entry, facts: Facts | None) -> Track | None:
    """The entry as a track, None where its audio is missing or unreadable."""
    if facts is None or facts.fault:
        return None
    return Track(
        entry.key, entry.path, facts.samples, facts.sample_rate, facts.channels, facts.hash,
        entry.split, entry.artist, entry.labels,
    )  # fmt: skip


def facts_of(
    root: Path, paths: Iterable[str], name: str, progress: bool = True, workers: int | None = None
) -> dict[str, Facts]:
    """{path: facts} of all files that exist; those that haven't changed since the last time aren't opened."""
    remembered = _recall(root)
    known: dict[str, Facts] = {}
    unread = []
    for path in paths:
        try:
            stat = os.stat(root / path)
        except OSError:
            continue
        old = remembered.get(path)
        if old is not None and (old.size, old.changed) == (stat.st_size, stat.st_mtime_ns):
            known[path] = old
        else:
            unread.append(path)
    if not unread:
        return known
    saved = monotonic()
    try:
        for facts in _look_at_all(root, unread, name, progress, workers):
            known[facts.path] = facts
            if monotonic() - saved > SAVE_SECONDS:
                _remember(root, {**remembered, **known})
                saved = monotonic()
    finally:
        _remember(root, {**remembered, **known})
    return known


def look_at(root: Path, path: str) -> Facts:
    """Open one file's header, and hash its bytes."""
    file = root / path
    stat = file.stat()
    nothing = Facts(path, stat.st_size, stat.st_mtime_ns)
    if why := unopenable(file):
        return Facts(path, 0, stat.st_mtime_ns, fault=why)
    if stat.st_size == 0:
        return Facts(path, 0, stat.st_mtime_ns, fault="the file is empty (0 bytes)")
    try:
        with open_audio(file) as opened:
            samples, rate, channels, kind = opened.frames, opened.samplerate, opened.channels, opened.format
        if kind == "MP3" and (frames := mp3.index(file)) is not None:
            samples = frames.samples
        cut = what_is_cut(file, kind, samples, samples, rate)
        digest = digest_of(file, hashlib.blake2b(digest_size=16))  # as in every manifest
    except (OSError, ValueError) as error:
        return Facts(path, nothing.size, nothing.changed, fault=str(error))
    fault = "" if samples > 0 else "it holds no sound"
    return Facts(path, nothing.size, nothing.changed, samples, rate, channels, digest, fault, cut)


def digest_of(file: Path, digest: Digest) -> str:
    """The hex digest of a file's bytes."""
    with open(file, "rb") as opened:
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def audio_below(root: Path) -> list[str]:
    """All audio below `root`, relative and sorted; macOS's and hidden folders are left out."""
    try:
        found = find_audio(root)
    except ValueError:  # no audio at all, which is for the caller to judge
        return []
    return [path for path in found if "__MACOSX" not in Path(path).parts]


def place(root: Path, names: Sequence[str], folders: Sequence[str], forms: Sequence[str]) -> list[str]:
    """The path of each name in that of `folders`, and written in that of `forms` ("{}.mp3"), which has most of them.

    The first folder and form where none has any, so that a sentence can say what is missing where.
    """
    styles = [(folder, form) for folder in folders for form in forms]
    for step in dict.fromkeys((max(1, len(names) // SAMPLE), 1)):
        hits = [sum(os.path.exists(_joined(f"{root}/", style, name)) for name in names[::step]) for style in styles]
        if any(hits):
            break
    best = styles[hits.index(max(hits))]
    return [_joined("", best, name) for name in names]


def _joined(root: str, style: tuple[str, str], name: str) -> str:
    folder = f"{style[0]}/" if style[0] else ""
    return f"{root}{folder}{style[1].format(name)}"


def _look_at_all(root: Path, paths: Sequence[str], name: str, progress: bool, workers: int | None) -> Iterator[Facts]:
    bar = partial(tqdm, total=len(paths), desc=f"read {name}", unit="file", disable=not progress)
    few = 1 if len(paths) <= FEW else None
    yield from bar(in_order(partial(look_at, root), paths, workers or few, at_once=16))


def _memories(root: Path) -> tuple[Path, Path]:
    """Beside the corpus, or in the user's cache where the corpus may not be written to."""
    digest = hashlib.blake2b(str(root.resolve()).encode(), digest_size=8).hexdigest()
    return root / REMEMBERED, cache_folder() / f"audio-{digest}.parquet"


def _recall(root: Path) -> dict[str, Facts]:
    names = [item.name for item in fields(Facts)]
    for file in _memories(root):
        if not file.is_file():
            continue
        try:
            table = pq.read_table(file)
        except (pa.ArrowInvalid, OSError):  # cut or foreign: it is only a memory, the audio is read again
            continue
        if table.column_names == names:
            return {row["path"]: Facts(**row) for row in table.to_pylist()}
    return {}


def _remember(root: Path, known: dict[str, Facts]) -> None:
    table = pa.Table.from_pylist([asdict(facts) for facts in known.values()])
    for file in _memories(root):
        try:
            with written(file) as beside:
                pq.write_table(table, beside, compression="zstd")
            return
        except OSError:  # a read-only corpus or home: the next run reads the headers again
            continue
