"""Shards: a corpus as Parquet files of FLAC chunks, for clusters whose file systems don't like a million files.

OUT/shard-00000.parquet … hold a row per chunk of at most 30 s (`datasets` reads the column `audio`); OUT/index.parquet
is the manifest, with the place of every track's chunks and a checksum of every shard, and is written last. Reading back
is `Shards`, a manifest like any other: crops may span chunks, and are those of the files to half a step of 16 bits.
Decoders of MP3 and Vorbis overshoot full scale: such a chunk is stored in 24 bits and divided by its column `scale`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
import tyro
from tqdm import tqdm

from .hf_dataset import is_dataset, open_dataset
from .track import METADATA, Manifest

VERSION = 1
INDEX = "index.parquet"
CHUNK_SECONDS = 30.0
OPEN = 16  # shards that a process keeps open
PACKED = 0.6  # FLAC's size of music over that of its samples, for planning
Sound = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ShardFile:
    """One shard. file: its name; size: bytes; blake2b: of its bytes; rows: chunks."""

    file: str
    size: int
    blake2b: str
    rows: int


class Shards(Manifest):
    """A manifest whose audio lies in shards.

    folder: a path, or a URL that fsspec opens (s3://…, hf://…, memory://…). table: as a manifest's, and the columns
    `shard`, `first` and `chunks` (which rows of which file). Files are opened when they are needed, at most `OPEN` at a
    time, by memory map where they are local, by range requests where they aren't.
    """

    def __init__(self, table: pa.Table, folder: str, about: dict[str, Any]) -> None:
        super().__init__(table, Path(folder) if "://" not in folder else Path("."))
        self.folder, self.about = folder, about
        self.sample_rate, self.chunk_samples = int(about["sample_rate"]), int(about["chunk_samples"])
        self.files = [ShardFile(**shard) for shard in about["shards"]]
        self._open: OrderedDict[tuple[int, int], pq.ParquetFile] = OrderedDict()

    @classmethod
    def open_folder(cls, folder: str | Path, check: bool = False) -> Shards:
        """Open a folder of shards. check: compare every shard's checksum, not only its size.

        Raises FileNotFoundError where there is no index or a shard is missing, ValueError where a shard isn't whole.
        """
        folder = str(folder).rstrip("/")
        try:
            with fsspec.open(f"{folder}/{INDEX}", "rb") as opened:
                table = pq.read_table(opened)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{folder} has no {INDEX}: `groundbass data shard` writes it last, so sharding was not finished; the "
                "same command goes on where it stopped"
            ) from None
        except pa.ArrowInvalid as error:
            raise ValueError(f"{folder}/{INDEX} is damaged ({error}): run `groundbass data shard` again") from error
        about = json.loads((table.schema.metadata or {}).get(METADATA, b"{}"))
        if "shards" not in about:
            raise ValueError(f"{folder}/{INDEX} is no index of shards: `groundbass data shard MANIFEST OUT` makes one")
        shards = cls(table, folder, about)
        shards.check(contents=check)
        return shards

    def check(self, contents: bool = False) -> None:
        """Raise where a shard is missing, has another size, or (`contents`) other bytes than the index says."""
        filesystem, path = fsspec.core.url_to_fs(self.folder)
        for shard in self.files:
            place = f"{path}/{shard.file}"
            if not filesystem.exists(place):
                raise FileNotFoundError(f"{self.folder}/{shard.file} is missing: copy it again, or shard again")
            size = int(filesystem.size(place))
            if size != shard.size:
                raise ValueError(
                    f"{self.folder}/{shard.file} has {size} bytes and should have {shard.size}: it was cut short; copy "
                    "it again, or remove it and run `groundbass data shard` again"
                )
            if contents:
                with filesystem.open(place, "rb") as opened:
                    found = _digest(opened)
                if found != shard.blake2b:
                    raise ValueError(
                        f"{self.folder}/{shard.file} has the checksum {found[:12]}… and should have "
                        f"{shard.blake2b[:12]}…: bytes have changed; copy it again"
                    )

    def select(self, indices: Any) -> Shards:
        """The same shards, some of the tracks."""
        chosen = pa.array(np.fromiter(indices, dtype=np.int64))
        return Shards(self.table.take(chosen), self.folder, self.about)

    def check_rate(self, sample_rate: int) -> None:
        """Raise ValueError for another rate than the shards': resampled chunks wouldn't meet without a seam."""
        if sample_rate != self.sample_rate:
            raise ValueError(
                f"{self.folder} holds audio at {self.sample_rate} Hz, and {sample_rate} Hz is asked for: shard again "
                f"with --sample-rate {sample_rate}"
            )

    def read(self, row: int, sample_rate: int | None = None, start: int = 0, samples: int | None = None) -> Sound:
        """Part of a track: as `audio.read`, across chunks. Raises ValueError for another rate than the shards'."""
        self.check_rate(sample_rate or self.sample_rate)
        shard, first, chunks = (self.table[name][row].as_py() for name in ("shard", "first", "chunks"))
        end = chunks * self.chunk_samples if samples is None else start + samples
        parts = []
        for chunk in range(start // self.chunk_samples, min(chunks, -(-end // self.chunk_samples))):
            begin = chunk * self.chunk_samples
            data, scale = self._chunk(shard, first + chunk, row)
            sound = _decode(data, max(0, start - begin), min(self.chunk_samples, end - begin))
            parts.append(sound if scale == 1 else sound * np.float32(scale))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def _chunk(self, shard: int, place: int, row: int) -> tuple[Any, float]:
        """The encoded bytes of a chunk, whose checksum is right, and its scale. A row group holds one chunk."""
        name = self.files[shard].file
        try:
            table = self._file(shard).read_row_group(place, columns=["audio", "crc", "scale"], use_threads=False)
            data = table["audio"][0]["bytes"].as_buffer()
        except (OSError, pa.ArrowException, IndexError) as error:
            raise ValueError(f"{self.folder}/{name} can't be read at chunk {place} ({error}): copy it again") from error
        if zlib.crc32(data) != table["crc"][0].as_py():
            raise ValueError(
                f"{self.folder}/{name} is damaged in chunk {place}, of {self.table['key'][row].as_py()}: its checksum "
                "differs; copy the shard again"
            )
        return data, float(table["scale"][0].as_py())

    def _file(self, shard: int) -> pq.ParquetFile:
        key = os.getpid(), shard  # a forked worker opens its own
        if key not in self._open:
            place = f"{self.folder}/{self.files[shard].file}"
            local = "://" not in self.folder
            source = place if local else fsspec.open(place, "rb").open()
            self._open[key] = pq.ParquetFile(source, memory_map=local, pre_buffer=False)
            while len(self._open) > OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(key)
        return self._open[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}


def open_data(data: str | Path, root: str | Path | None = None) -> Manifest:
    """A manifest (.parquet), a folder (or URL) of shards, or a data set that the library `datasets` opens."""
    place = str(data)
    if "://" in place or is_sharded(place):
        return Shards.open_folder(place)
    if is_dataset(place):
        return open_dataset(place)
    return Manifest.open(Path(place), root)


def is_sharded(folder: str | Path) -> bool:
    """Whether a folder or URL holds shards, finished or not."""
    filesystem, path = fsspec.core.url_to_fs(str(folder))
    return bool(filesystem.exists(f"{path}/{INDEX}") or filesystem.glob(f"{path}/shard-*.parquet"))


def shard(
    manifest: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    *,
    sample_rate: int = 24_000,
    chunk_seconds: float = CHUNK_SECONDS,
    shard_mb: int = 500,
    root: Path | None = None,
    workers: int | None = None,
    check: bool = False,
) -> None:
    """Pack a manifest's audio into Parquet shards of FLAC chunks, mono at one rate.

    `groundbass pretrain … --data OUT` trains on them: the same crops as on the files, to half a step of 16 bits; and
    `datasets` reads them. The same command goes on where it stopped. Files that can't be read are left out and listed
    in OUT/skipped.json.

    Args:
        manifest: what `groundbass data scan` wrote.
        out: the folder of the shards.
        sample_rate: Hz, that of the recipes to come.
        chunk_seconds: longest chunk, at most 30.
        shard_mb: about how large a shard becomes.
        root: where the manifest's paths begin, if the audio has moved.
        workers: processes; one per core by default.
        check: write nothing, and compare the shards in OUT with their checksums.
    """
    if check:
        found = Shards.open_folder(out, check=True)
        print(f"{out}: {len(found.files)} shards with {len(found)} tracks are as they were written.")
        return
    if not 0 < chunk_seconds <= CHUNK_SECONDS:
        raise ValueError(f"--chunk-seconds {chunk_seconds} must be above 0 and at most {CHUNK_SECONDS:g}.")
    if sample_rate < 1000 or shard_mb < 1:
        raise ValueError(f"--sample-rate {sample_rate} must be at least 1000 Hz, and --shard-mb {shard_mb} at least 1.")
    print("\n".join(write_shards(Manifest.open(manifest, root), out, sample_rate, chunk_seconds, shard_mb, workers)))


def write_shards(
    manifest: Manifest,
    out: Path,
    sample_rate: int,
    chunk_seconds: float = CHUNK_SECONDS,
    shard_mb: int = 500,
    workers: int | None = None,
    progress: bool = True,
) -> list[str]:
    """See `shard`; returns sentences. Raises ValueError where `out` holds shards of something else."""
    chunk = max(1, round(chunk_seconds * sample_rate))
    groups = plan(manifest, sample_rate, shard_mb)
    digest = _plan_digest(manifest, sample_rate, chunk, groups)
    out.mkdir(parents=True, exist_ok=True)
    _check_plan(out, digest)
    if (out / INDEX).is_file():
        return [f"{out} is finished already: {len(Shards.open_folder(out))} tracks."]
    work = partial(_write_shard, manifest, out, sample_rate, chunk)
    cores = min(workers or os.cpu_count() or 1, len(groups))
    bar = tqdm(total=len(manifest), unit="track", desc="shard", disable=not progress)
    results = []
    with bar:
        for number, result in enumerate(_run(work, list(enumerate(groups)), cores)):
            results.append(result)
            bar.update(len(groups[number]))
    return _finish(manifest, out, sample_rate, chunk, digest, results)


def plan(manifest: Manifest, sample_rate: int, shard_mb: int) -> list[list[int]]:
    """Rows per shard, in the manifest's order: each shard holds about the same seconds."""
    if not len(manifest):
        raise ValueError("the manifest holds no track: there is nothing to shard")
    room = max(1.0, shard_mb * 1e6 / (2 * sample_rate * PACKED))
    place = np.floor((np.cumsum(manifest.seconds()) - manifest.seconds()) / room).astype(np.int64)
    return [np.flatnonzero(place == number).tolist() for number in np.unique(place)]


def _plan_digest(manifest: Manifest, sample_rate: int, chunk: int, groups: list[list[int]]) -> str:
    rows = [manifest.column("hash").tolist(), manifest.column("key").tolist(), [len(group) for group in groups]]
    return hashlib.blake2b(json.dumps([VERSION, sample_rate, chunk, rows]).encode(), digest_size=16).hexdigest()


def _check_plan(out: Path, digest: str) -> None:
    """The folder belongs to one plan: a manifest, a rate, a size."""
    marker = out / "plan.json"
    if marker.is_file():
        if json.loads(marker.read_text())["digest"] != digest:
            raise ValueError(
                f"{out} holds shards of another manifest, rate or size: choose another folder, or remove this one"
            )
        return
    if any(out.glob("shard-*.parquet")):
        raise ValueError(f"{out} holds shards and no plan.json: choose another folder, or remove this one")
    _write_text(marker, json.dumps({"version": VERSION, "digest": digest}))


def _run(work: Any, jobs: Sequence[tuple[int, list[int]]], cores: int) -> Iterator[dict[str, Any]]:
    if cores <= 1:
        yield from map(work, jobs)
        return
    with ProcessPoolExecutor(cores) as pool:
        try:
            yield from pool.map(work, jobs)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


SCHEMA = pa.schema(
    [
        ("key", pa.string()), ("chunk", pa.int64()), ("start", pa.int64()), ("samples", pa.int64()),
        ("crc", pa.int64()), ("scale", pa.float64()),
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ]
)  # fmt: skip


_HF_TYPES = {"key": "string", "scale": "float64"}


def _schema(sample_rate: int) -> pa.Schema:
    """With the features that `datasets` looks for, so that it decodes the column `audio`."""
    kinds = {field.name: {"dtype": _HF_TYPES.get(field.name, "int64"), "_type": "Value"} for field in SCHEMA}
    features = kinds | {"audio": {"sampling_rate": sample_rate, "_type": "Audio"}}
    return SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _write_shard(
    manifest: Manifest, out: Path, sample_rate: int, chunk: int, job: tuple[int, list[int]]
) -> dict[str, Any]:
    """Write one shard, unless it is there whole. Returns what the index must know of it."""
    number, rows = job
    path = out / f"shard-{number:05d}.parquet"
    told = path.with_suffix(".json")
    if told.is_file() and path.is_file():
        known: dict[str, Any] = json.loads(told.read_text())
        if path.stat().st_size == known["shard"]["size"]:
            return known
    beside = out / f".{path.name}.{os.getpid()}"
    tracks: list[tuple[int, int, int]] = []  # (row of the manifest, first row of the shard, chunks)
    skipped: dict[str, str] = {}
    written = 0
    try:
        with pq.ParquetWriter(beside, _schema(sample_rate), compression="none", use_dictionary=False) as writer:
            for row in rows:
                track = manifest[row]
                length = track.samples * sample_rate // track.sample_rate  # as crops count it
                try:
                    pieces = [_encoded(manifest, row, sample_rate, at, min(chunk, length - at))
                              for at in range(0, length, chunk)]  # fmt: skip
                except ValueError as error:
                    skipped[track.key] = str(error)
                    continue
                for place, (data, scale) in enumerate(pieces):
                    start = place * chunk
                    item = {
                        "key": track.key, "chunk": place, "start": start, "samples": min(chunk, length - start),
                        "crc": zlib.crc32(data), "scale": scale,
                        "audio": {"bytes": data, "path": f"{track.key}.{place}.flac"},
                    }  # fmt: skip
                    writer.write_table(pa.Table.from_pylist([item], _schema(sample_rate)), row_group_size=1)
                tracks.append((row, written, len(pieces)))
                written += len(pieces)
        with open(beside, "rb") as opened:
            digest = _digest(opened)
        about = asdict(ShardFile(path.name, beside.stat().st_size, digest, written))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    result = {"shard": about, "tracks": tracks, "skipped": skipped}
    _write_text(told, json.dumps(result))
    return result


def _encoded(manifest: Manifest, row: int, sample_rate: int, start: int, samples: int) -> tuple[bytes, float]:
    """A chunk as 16-bit FLAC and the scale 1, or as 24-bit FLAC and the power of two that it must be multiplied by.

    Raises ValueError where the file can't be read, or ends early.
    """
    try:
        sound = manifest.read(row, sample_rate, start, samples)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    if len(sound) < samples or not np.isfinite(sound).all():
        raise ValueError(f"{manifest[row].path} ends early or holds samples that are not a number: scan it again")
    peak = float(np.abs(sound).max(initial=0.0))
    scale = 1.0 if peak <= 1 else 2.0 ** np.ceil(np.log2(peak))
    buffer = io.BytesIO()
    if scale == 1:
        whole = np.clip(np.rint(sound * 32768.0), -32768, 32767).astype(np.int16)
        sf.write(buffer, whole, sample_rate, format="FLAC", subtype="PCM_16")
    else:
        sf.write(buffer, sound / np.float32(scale), sample_rate, format="FLAC", subtype="PCM_24")
    return buffer.getvalue(), scale


def _decode(data: Any, start: int, end: int) -> Sound:
    """Samples [start, end) of a FLAC chunk; fewer where it ends."""
    with sf.SoundFile(io.BytesIO(data)) as file:
        if start:
            file.seek(min(start, file.frames))
        return np.asarray(file.read(end - start, dtype="float32"))


def _finish(
    manifest: Manifest, out: Path, sample_rate: int, chunk: int, digest: str, results: list[dict[str, Any]]
) -> list[str]:
    """Write the index, then remove what only unfinished work needs."""
    places = [
        (row, number, first, chunks) for number, result in enumerate(results) for row, first, chunks in result["tracks"]
    ]
    skipped = {key: why for result in results for key, why in result["skipped"].items()}
    if not places:
        first = next(iter(skipped.values()))
        raise ValueError(f"None of the {len(manifest)} tracks could be read; the first: {first}")
    rows, shard_numbers, firsts, chunks = (np.array(column, dtype=np.int64) for column in zip(*places))
    table = manifest.select(rows).table
    for name, column in (("shard", shard_numbers), ("first", firsts), ("chunks", chunks)):
        table = table.append_column(name, pa.array(column))
    about = {
        "version": VERSION, "sample_rate": sample_rate, "chunk_samples": chunk, "plan": digest,
        "shards": [result["shard"] for result in results],
    }  # fmt: skip
    if skipped:
        _write_text(out / "skipped.json", json.dumps(skipped, indent=1, ensure_ascii=False))
    beside = out / f".{INDEX}.{os.getpid()}"
    try:
        pq.write_table(
            table.replace_schema_metadata({METADATA: json.dumps(about).encode()}), beside, compression="zstd"
        )
        beside.replace(out / INDEX)
    finally:
        beside.unlink(missing_ok=True)
    for left in [*out.glob("shard-*.json"), *out.glob(".shard-*")]:  # of finished shards, and of killed ones
        left.unlink()
    size = sum(result["shard"]["size"] for result in results)
    hours = float(manifest.select(rows).seconds().sum()) / 3600
    sentences = [f"{out}: {len(rows)} tracks, {hours:.2f} h, in {len(results)} shards of {size / 1e6:.0f} MB in all."]
    if skipped:
        sentences.append(f"{len(skipped)} tracks were left out, see {out / 'skipped.json'}.")
    return [*sentences, f"Next: groundbass pretrain RECIPE --data {out} --run RUN"]


def _digest(opened: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    while block := opened.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _write_text(path: Path, content: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(content + "\n", encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
