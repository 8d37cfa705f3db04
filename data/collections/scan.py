"""From a folder of audio to a manifest: every file is decoded once, and what is no use is left out with its reason."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import soundfile as sf
import tyro

from ...progress import tqdm
from ...reading import json_in
from ..audio import av_file
from ..audio.files import find_audio
from ..audio.read import LOUDEST, SUFFIXES, UNNAMED, blocks, open_audio, to_mono, unopenable
from ..audio.truncation import what_is_cut
from ..labels.annotations import gathered, is_spans
from ..parallel import Part, cores, in_order
from ..storage.remote import RemoteFiles, RemoteFolder, is_url
from ..track import Manifest, Track, file_hash
from ..writing import write_text, written

MIN_SECONDS = 0.1
SILENCE = 1e-4  # peak of the mono mix (-80 dB): below the noise of any recording of music
BLOCK = 1 << 18  # samples decoded at a time
LABELS = "labels.csv"
DEEPEST = 8  # lists within lists in a cell; deeper ones are text
HELD_OUT = {"test", "valid", "validation", "val", "dev", "eval"}  # names of folders beside train
Reason = Literal["unreadable", "truncated", "silent", "too short", "nan", "too loud", "duplicate"]


@dataclass(frozen=True)
class Skipped:
    """A file that is left out: `path` relative to the folder, `reason` in one word or two, `detail` in a sentence."""

    path: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class LabelRows:
    """What FOLDER/labels.csv said: rows, rows that name no kept track, and tracks without a row."""

    rows: int
    without_audio: list[str]
    unlabelled: list[str]


def scan(
    folder: tyro.conf.Positional[str],
    out: tyro.conf.Positional[Path],
    *,
    workers: int | None = None,
    part: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None,
) -> dict[str, Any]:
    """Write a manifest of all audio below a folder; returns the figures that it prints.

    Files that are unreadable, truncated, silent, under 0.1 s, not a number or duplicates are left out and listed with
    the reason in OUT.skipped.csv. A labels.csv in the folder (column `path`; `split` and `artist` if you have them;
    any other column is a label) goes into the manifest.

    Args:
        folder: folder with WAV, FLAC, OGG, Opus, MP3, AIFF or AU files at any depth (with PyAV also m4a, AAC, WMA, the
            sound of videos), or its URL (s3://, gs://, https://); hidden files are ignored.
        out: the Parquet manifest to write.
        workers: processes that decode; one per CPU core by default.
        part: read a share of the files only, for job arrays; afterwards the same command without it writes OUT.
    """
    share = Part.of(part)
    if share is not None:
        _check_out(out)
        _scan_part(source_of(folder), share, _parts_of(out), workers)
        print(share.told(out))
        return {"out": out, "part": str(share)}
    manifest, skipped = write_scan(folder, out, workers)
    if others := Counter() if is_url(folder) else not_read(Path(folder)):
        told = ", ".join(f"{count} {suffix}" for suffix, count in others.items())
        print(f'not read: {told} (they need PyAV: pip install "groundbass[av]")')
    reasons = Counter(item.reason for item in skipped)
    hours = float(manifest.seconds().sum()) / 3600
    return {"out": out, "tracks": len(manifest), "hours": hours, "skipped": reasons, "not_read": others}


def write_scan(folder: str | Path, out: Path, workers: int | None = None) -> tuple[Manifest, list[Skipped]]:
    """`scan_folder`, kept in OUT and OUT.skipped.csv, with what parts have found before; says what it found.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: OUT is no .parquet, or nothing in the folder can be used.
    """
    _check_out(out)
    source, beside = source_of(folder), _parts_of(out)
    manifest, skipped, rows = _scan(source, workers, progress=True, known=_known_parts(source, beside))
    listed = out.with_suffix(".skipped.csv")
    _write_skipped(skipped, listed)
    if not len(manifest):
        raise ValueError(f"None of the {len(skipped)} audio files in {folder} can be used: {listed} lists the reasons.")
    manifest.write(out)
    shutil.rmtree(beside, ignore_errors=True)
    print("\n".join(_summary(manifest, skipped, rows, out, listed)))
    return manifest, skipped


def _parts_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.parts")


def not_read(folder: Path) -> Counter[str]:
    """How many files of each kind that only PyAV decodes lie below a folder, where it isn't installed."""
    if SUFFIXES[-1] in av_file.SUFFIXES:
        return Counter()
    kinds = (path.suffix.lower() for path in Path(folder).rglob("*") if path.is_file())
    return Counter(kind for kind in kinds if kind in av_file.SUFFIXES)


def scan_folder(
    folder: str | Path, workers: int | None = None, progress: bool = True
) -> tuple[Manifest, list[Skipped]]:
    """All tracks below `folder` in the order of their paths, and what was left out.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.
        ValueError: it holds no audio or its labels.csv can't be understood.
    """
    manifest, skipped, _ = _scan(source_of(folder), workers, progress)
    return manifest, skipped


def scan_remote(
    place: RemoteFolder, files: dict[str, str], workers: int | None = None, progress: bool = True
) -> tuple[Manifest, list[Skipped]]:
    """Of what was listed below a URL ({path: version}), all tracks, and what was left out.

    Raises:
        ValueError: it holds no audio, or its labels.csv can't be understood.
    """
    manifest, skipped, _ = _scan(_Remote(place, files), workers, progress)
    return manifest, skipped


def told_of(skipped: Sequence[Skipped]) -> dict[str, str]:
    """{path: why it was left out}, in letters that files in UTF-8 can hold."""
    told = {item.path: f"{item.reason}: {item.detail}" if item.detail else item.reason for item in skipped}
    return {_utf8(path): _utf8(why) for path, why in told.items()}


def _utf8(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def examine(root: Path, path: str) -> Track | Skipped:
    """Decode one file to its end. Memory is bounded by a block, whatever the file's length."""
    file = root / path
    skipped = partial(Skipped, path)
    try:
        if not is_text(path):
            return skipped("unreadable", UNNAMED)
        if why := unopenable(file):
            return skipped("unreadable", why)
        if file.stat().st_size == 0:
            return skipped("unreadable", "the file is empty (0 bytes)")
        with open_audio(file) as opened:
            promised, rate, channels, kind = opened.frames, opened.samplerate, opened.channels, opened.format
        samples, peak, finite, broken = _decode(file)
        digest = file_hash(file)
    except (OSError, ValueError) as error:
        return skipped("unreadable", str(error))
    if broken:
        return skipped("truncated" if samples or promised else "unreadable", broken)
    if cut := what_is_cut(file, kind, samples, promised, rate):
        return skipped("truncated", cut)
    if samples < MIN_SECONDS * rate:
        return skipped("too short", f"{samples / rate:.3f} s, at least {MIN_SECONDS} s are needed")
    if not finite:
        return skipped("nan", "it holds samples that are not a number or infinite")
    if peak > LOUDEST:
        return skipped("too loud", f"the peak of its mono mix is {peak:.1e}, and full scale is 1")
    if peak < SILENCE:
        return skipped("silent", f"the peak of its mono mix is {peak:.1e} of full scale")
    return Track(path, path, samples, rate, channels, digest)


def is_text(name: str) -> bool:
    """Whether a file's name is UTF-8, so that tables can hold it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


Known = dict[str, Track | Skipped]


@dataclass(frozen=True)
class _Local:
    """A folder of this machine."""

    folder: Path

    def paths(self) -> list[str]:
        return find_audio(self.folder)

    def labels(self) -> Path:
        return self.folder / LABELS

    def state(self, path: str) -> list[int]:
        return _state(self.folder / path)

    def examined(self, paths: Sequence[str], workers: int | None, progress: bool) -> Iterator[Track | Skipped]:
        return _examine_all(partial(examine, self.folder), paths, workers, progress)

    def manifest(self, tracks: list[Track]) -> Manifest:
        return Manifest.from_tracks(tracks, self.folder)


@dataclass(frozen=True)
class _Remote:
    """A folder behind a URL, as it was listed: {path: version}."""

    folder: RemoteFolder
    files: dict[str, str]

    def paths(self) -> list[str]:
        found = [path for path in self.files if path.lower().endswith(SUFFIXES)]
        if not found:
            raise ValueError(f"There is no audio in {self.folder.url}: files that end in {', '.join(SUFFIXES)}.")
        return found

    def labels(self) -> Path:
        there = LABELS in self.files
        return self.folder.fetch(LABELS, self.files[LABELS]) if there else self.folder.copies() / LABELS

    def state(self, path: str) -> list[str]:
        return [self.files.get(path, "")]

    def examined(self, paths: Sequence[str], workers: int | None, progress: bool) -> Iterator[Track | Skipped]:
        items = [(path, self.files[path]) for path in paths]
        return _examine_all(partial(examine_remote, self.folder), items, workers, progress)

    def manifest(self, tracks: list[Track]) -> Manifest:
        return RemoteFiles.of(tracks, self.folder, self.files)


Source = _Local | _Remote


def source_of(folder: str | Path) -> Source:
    """A folder, or what lies behind a URL: then the server is asked for a list.

    Raises:
        FileNotFoundError: a URL that leads nowhere.
    """
    if not is_url(folder):
        return _Local(Path(folder))
    place = RemoteFolder(str(folder).rstrip("/"))
    return _Remote(place, place.files())


def examine_remote(place: RemoteFolder, item: tuple[str, str]) -> Track | Skipped:
    """Fetch a file, (path, version), and decode it to its end."""
    path, version = item
    for _ in range(3):  # another process may make room between the two
        try:
            copy = place.fetch(path, version)
        except (OSError, ValueError) as error:
            return Skipped(path, "unreadable", str(error))
        found = examine(place.copies(version), path)
        if isinstance(found, Track) or copy.exists():
            break
    return found


def _scan(
    source: Source, workers: int | None, progress: bool, known: Known | None = None
) -> tuple[Manifest, list[Skipped], LabelRows | None]:
    paths = source.paths()
    table = read_labels(source.labels())  # a mistake in it shows at once
    return _gathered(source, paths, table, workers, progress, known or {})


def _scan_part(source: Source, share: Part, beside: Path, workers: int | None) -> None:
    """Examine a share of the files and keep in `beside` what was found: a line of JSON per file, with its state."""
    paths = source.paths()
    mine = [paths[row] for row in share.rows(len(paths))]
    lines = [
        json.dumps([source.state(path), type(found).__name__, asdict(found)])
        for path, found in zip(mine, source.examined(mine, workers, progress=True), strict=True)
    ]
    write_text(beside / f"{share}.jsonl", "".join(f"{line}\n" for line in lines))


def _known_parts(source: Source, beside: Path) -> Known:
    """What parts have found of files that are still as they were."""
    known: Known = {}
    for file in sorted(beside.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            state, kind, fields = json_in(line, file)
            if state == source.state(fields["path"]):
                known[fields["path"]] = Track(**fields) if kind == "Track" else Skipped(**fields)
    return known


def _state(file: Path) -> list[int]:
    try:
        told = file.stat()
    except OSError:
        return []
    return [told.st_size, told.st_mtime_ns]


def scan_files(
    root: Path,
    paths: Sequence[str],
    table: dict[str, dict[str, Any]] | None,
    workers: int | None = None,
    progress: bool = True,
    known: Known | None = None,
) -> tuple[Manifest, list[Skipped], LabelRows | None]:
    """The files `paths` below `root` in that order, what was left out, and what `table` (see `read_labels`) said.

    known: what was found of some of them before.
    """
    return _gathered(_Local(root), paths, table, workers, progress, known or {})


def _gathered(
    source: Source, paths: Sequence[str], table: dict[str, dict[str, Any]] | None, workers: int | None, progress: bool,
    known: Known,
) -> tuple[Manifest, list[Skipped], LabelRows | None]:  # fmt: skip
    rest = source.examined([path for path in paths if path not in known], workers, progress)
    tracks: list[Track] = []
    skipped: list[Skipped] = []
    first: dict[str, str] = {}
    for path in paths:
        result = known[path] if path in known else next(rest)
        if isinstance(result, Skipped):
            skipped.append(result)
        elif result.hash in first:
            skipped.append(Skipped(result.path, "duplicate", f"the same bytes as {first[result.hash]}"))
        else:
            first[result.hash] = result.path
            tracks.append(result)
    next(rest, None)  # its bar ends
    rows = None
    if table is not None:
        tracks, rows = _label(tracks, table)
    return source.manifest(tracks), skipped, rows


def _examine_all(
    look: Callable[[Any], Track | Skipped], items: Sequence[Any], workers: int | None, progress: bool
) -> Iterator[Track | Skipped]:
    """Results in the order of the files. Processes, since decoders hold their locks longer than threads like."""
    workers = max(1, min(workers or cores(), len(items)))
    at_once = max(1, min(16, len(items) // (4 * workers)))
    bar = partial(tqdm, total=len(items), desc="scan", unit="file", disable=not progress)
    yield from bar(in_order(look, items, workers, at_once))


def _decode(file: Path) -> tuple[int, float, bool, str]:
    """(samples, peak of the mono mix, all finite, the decoder's complaint if it broke off)."""
    samples, peak, finite = 0, 0.0, True
    try:
        for block in blocks(file, BLOCK):
            samples += len(block)
            loudest = float(np.abs(to_mono(block)).max(initial=0.0))  # nan and inf get through
            finite = finite and math.isfinite(loudest) and bool(np.isfinite(block).all())
            peak = max(peak, loudest)
    except sf.LibsndfileError as error:
        return samples, peak, finite, f"decoding breaks off after {samples} samples: {error.error_string}"
    return samples, peak, finite, ""


def read_labels(file: Path) -> dict[str, dict[str, Any]] | None:
    """labels.csv, or a table like it, as {path: {column: value}}; None where there is none.

    Raises:
        ValueError: saying the row, where it can't be understood.
    """
    if not file.is_file():
        return None
    with open(file, newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened)
        try:
            columns, rows = list(reader.fieldnames or []), list(reader)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{file} is not UTF-8 after its row {reader.line_num} (byte {error.object[error.start]:#x}): save it "
                "as UTF-8."
            ) from error
        except csv.Error as error:
            raise ValueError(f"{file} can't be read after its row {reader.line_num}: {error}.") from error
        if "path" not in columns:
            raise ValueError(
                f"{file} has no column `path` (it has {', '.join(columns) or 'nothing'}): add one, each file's place "
                "relative to the folder."
            )
    for number, row in enumerate(rows, 2):
        if None in row:
            raise ValueError(
                f"{file} has more cells than columns in row {number}: put quotes around cells that hold commas"
            )
        if not is_text("".join(str(cell) for cell in row.values())):
            raise ValueError(f"{file} holds half a character in row {number}: save it as UTF-8.")
    if rows and is_spans(columns):
        rows = gathered(rows, file)
        columns = list(rows[0])
    paths = [Path(row["path"]).as_posix() for row in rows]
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise ValueError(f"{file} names {twice[0]} more than once: keep one row per file")
    typed: dict[str, list[Any]] = {}
    for name in columns:
        cells = [None if row[name] == "" else row[name] for row in rows]
        if name and name != "path":
            asis = name in ("split", "artist") or any(isinstance(cell, list) for cell in cells)
            typed[name] = cells if asis else _typed(cells)
    return {path: {name: values[i] for name, values in typed.items()} for i, path in enumerate(paths)}


def _typed(cells: list[str | None]) -> list[Any]:
    """A column's values: all integers, all numbers, all JSON lists, or else text. An empty cell is None."""
    filled = [cell for cell in cells if cell]
    for parse in (_integer, _number, _json_list):
        try:
            for cell in filled:
                parse(cell)
        except ValueError:
            continue
        return [parse(cell) if cell else None for cell in cells]
    return [cell or None for cell in cells]


def _integer(cell: str) -> int:
    if str(int(cell)) != cell.strip():  # 007 is a name
        raise ValueError(cell)
    if not -(1 << 63) <= int(cell) < 1 << 63:  # what tables hold; a longer one is a name
        raise ValueError(cell)
    return int(cell)


def _number(cell: str) -> float:
    if "_" in cell or re.match(r"0\d", cell.strip(" +-")):
        raise ValueError(cell)
    if cell.strip(" +-").isdigit() and len(cell.strip()) > 18:
        raise ValueError(cell)  # a name: a number would lose digits
    return float(cell)


def _json_list(cell: str) -> list[Any]:
    if max(accumulate(_STEPS.get(letter, 0) for letter in cell)) > DEEPEST:
        raise ValueError(cell)
    value = json.loads(cell)
    if not isinstance(value, list):
        raise ValueError(cell)
    return value


_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


def _label(tracks: list[Track], table: dict[str, dict[str, Any]]) -> tuple[list[Track], LabelRows]:
    """Tracks with what the table says of them: `split` and `artist` are fields, the rest are labels."""
    labelled = []
    for track in tracks:
        row = {name: value for name, value in table.get(track.path, {}).items() if value is not None}
        labelled.append(replace(track, split=row.pop("split", None), artist=row.pop("artist", None), labels=row))
    names = {track.path for track in tracks}
    unlabelled = [track.path for track in tracks if track.path not in table]
    return labelled, LabelRows(len(table), [path for path in table if path not in names], unlabelled)


def _check_out(out: Path) -> None:
    """Fail before hours of decoding, not after them."""
    if out.suffix != ".parquet":
        raise ValueError(f"{out} must end in .parquet, as manifests do")
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder: give the name of the Parquet file to write")
    probe = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"{out} can't be written ({error.strerror}): choose a folder that you may write to") from error


def plain_cell(text: str) -> str:
    """A cell of a CSV that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _write_skipped(skipped: list[Skipped], file: Path) -> None:
    with (
        written(file) as beside,
        beside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as opened,
    ):
        writer = csv.writer(opened)
        writer.writerow(("path", "reason", "detail"))
        writer.writerows([plain_cell(cell) for cell in (item.path, item.reason, item.detail)] for item in skipped)


def _summary(
    manifest: Manifest, skipped: list[Skipped], rows: LabelRows | None, out: Path, listed: Path
) -> Iterator[str]:
    seconds = manifest.seconds()
    rates = ", ".join(f"{rate} Hz" for rate, _ in Counter(manifest.column("sample_rate").tolist()).most_common(4))
    total = len(manifest) + len(skipped)
    yield f"{len(manifest)} of {total} files kept, {_duration(float(seconds.sum()))} ({rates}): {out}"
    if skipped:
        counts = ", ".join(f"{count} {reason}" for reason, count in Counter(x.reason for x in skipped).most_common())
        yield f"{len(skipped)} skipped ({counts}): {listed}"
    if rows is not None:
        yield f"{LABELS}: {rows.rows} rows, labels {', '.join(manifest.label_names) or 'none'}"
        if rows.without_audio:
            yield f"  {len(rows.without_audio)} rows name no kept file, the first is {rows.without_audio[0]}"
        if rows.unlabelled:
            yield f"  {len(rows.unlabelled)} kept files have no row, the first is {rows.unlabelled[0]}"
    tops = {path.partition("/")[0] for path in manifest.column("path").tolist()}
    if "train" in tops and (held_out := tops & HELD_OUT):
        yield f"train/ and {sorted(held_out)[0]}/ are both in it: to keep a test set unheard, scan train/ alone"


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
