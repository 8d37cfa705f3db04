"""`groundbass data shard`: writes the folder that `shards.py` reads, in several processes, so that a kill costs little.

Each shard is written beside and renamed; a stamp says that it is whole, and the index, written last, that all are.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
import tyro

from ...progress import tqdm
from ...reading import json_of
from ..locks import alone
from ..open import open_sound
from ..parallel import Part, cores, in_order
from ..track import METADATA, Manifest
from ..writing import write_text, written
from .shards import INDEX, OURS, ShardFile, Shards, checksum_of, digest_of

VERSION = 2
CHUNK_SECONDS = 30.0
PACKED = 0.6  # FLAC's size of music over that of its samples, for planning
STAMPS = f"{OURS}/done"


def shard(
    manifest: tyro.conf.Positional[str],
    out: tyro.conf.Positional[Path],
    *,
    sample_rate: int = 24_000,
    chunk_seconds: float = CHUNK_SECONDS,
    shard_mb: int = 500,
    root: str | None = None,
    workers: int | None = None,
    check: bool = False,
    part: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None,
) -> dict[str, Any]:
    """Pack a manifest's audio into Parquet shards of FLAC chunks, mono at one rate.

    `groundbass pretrain … --data OUT` trains on them: the same crops as on the files, to half a step of 16 bits; and
    `datasets` reads them. The same command goes on where it stopped. Files that can't be read are left out and listed
    in OUT/__groundbass__/skipped.json.

    Args:
        manifest: what `groundbass data scan` wrote, a folder of audio, a data set of the library `datasets` (saved to
            disk, Parquet with a column of audio, WebDataset), or CORPUS:ROOT.
        out: the folder of the shards.
        sample_rate: Hz, that of the recipes to come.
        chunk_seconds: longest chunk, at most 30.
        shard_mb: about how large a shard becomes.
        root: where the manifest's paths begin, if the audio has moved.
        workers: processes; one per core by default.
        check: write nothing, and compare the shards in OUT with their checksums.
        part: write a share of the shards only, for job arrays; afterwards the same command without it writes the index.
    """
    if check:
        found = Shards.open_folder(out, check=True)
        print(f"{out}: {len(found.files)} shards with {len(found)} tracks are as they were written.")
        return _figures(out, found)
    if not 0 < chunk_seconds <= CHUNK_SECONDS:
        raise ValueError(f"--chunk-seconds {chunk_seconds} must be above 0 and at most {CHUNK_SECONDS:g}.")
    if sample_rate < 1000 or shard_mb < 1:
        raise ValueError(f"--sample-rate {sample_rate} must be at least 1000 Hz, and --shard-mb {shard_mb} at least 1.")
    refused: dict[str, str] = {}
    sound = open_sound(manifest, root, refused=refused)
    told = write_shards(sound, out, sample_rate, chunk_seconds, shard_mb, workers, True, Part.of(part), refused)
    print("\n".join(told))
    return {"out": out, "part": part} if part is not None else _figures(out, Shards.open_folder(out))


def _figures(out: Path, found: Shards) -> dict[str, Any]:
    hours = float(found.seconds().sum()) / 3600
    size = sum(file.stat().st_size for file in out.glob("shard-*.parquet"))
    listed = out / OURS / "skipped.json"
    skipped = json_of(listed) if listed.is_file() else {}
    return {
        "out": out, "shards": len(found.files), "tracks": len(found), "hours": hours, "bytes": size, "skipped": skipped,
    }  # fmt: skip


def write_shards(
    manifest: Manifest,
    out: Path,
    sample_rate: int,
    chunk_seconds: float = CHUNK_SECONDS,
    shard_mb: int = 500,
    workers: int | None = None,
    progress: bool = True,
    part: Part | None = None,
    refused: Mapping[str, str] | None = None,
) -> list[str]:
    """See `shard`; returns sentences. refused: path and reason of what was left out before, for skipped.json.

    Raises:
        ValueError: `out` holds shards of something else.
    """
    manifest.check_rate(sample_rate)
    groups = shard_rows(manifest, sample_rate, shard_mb)
    job = _Job(out, sample_rate, max(1, round(chunk_seconds * sample_rate)))
    digest = _plan_digest(manifest, job, groups)
    with alone(out / OURS / ("lock" if part is None else f"lock-{part}"), str(out)):
        return _write_all(manifest, job, groups, digest, workers, progress, part, refused or {})


def _write_all(
    manifest: Manifest, job: _Job, groups: list[list[int]], digest: str, workers: int | None, progress: bool,
    part: Part | None, refused: Mapping[str, str],
) -> list[str]:  # fmt: skip
    out = job.out
    (out / STAMPS).mkdir(parents=True, exist_ok=True)
    _check_plan(out, digest)
    if (out / INDEX).is_file():
        _tidy(out)
        return [f"{out} is finished already: {len(Shards.open_folder(out))} tracks."]
    share = range(len(groups)) if part is None else part.rows(len(groups))
    items = ((number, groups[number], manifest.select(groups[number])) for number in share)
    results: list[dict[str, Any]] = []
    try:
        total = sum(len(groups[number]) for number in share)
        with tqdm(total=total, unit="track", desc="shard", disable=not progress) as bar:
            for result in in_order(partial(_write_shard, job), items, max(1, min(workers or cores(), len(share)))):
                bar.update(len(groups[share[len(results)]]))
                results.append(result)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            error.errno, f"no space is left for {out}, which will need about {_gigabytes(manifest, job):.1f} GB; free "
            f"some, and the same command goes on with shard {len(results)} of {len(groups)}"
        ) from error  # fmt: skip
    return [part.told(out)] if part is not None else _finish(manifest, job, digest, results, refused)


def shard_rows(manifest: Manifest, sample_rate: int, shard_mb: int) -> list[list[int]]:
    """Rows per shard, in the manifest's order: each shard holds about the same seconds."""
    if not len(manifest):
        raise ValueError("The manifest holds no track: there is nothing to shard")
    room = max(1.0, shard_mb * 1e6 / (2 * sample_rate * PACKED))
    place = np.floor((np.cumsum(manifest.seconds()) - manifest.seconds()) / room).astype(np.int64)
    return [np.flatnonzero(place == number).tolist() for number in np.unique(place)]


def _gigabytes(manifest: Manifest, job: _Job) -> float:
    return float(manifest.seconds().sum()) * 2 * job.sample_rate * PACKED / 1e9


@dataclass(frozen=True)
class _Job:
    """What is the same for all shards. chunk: its samples."""

    out: Path
    sample_rate: int
    chunk: int


def _plan_digest(manifest: Manifest, job: _Job, groups: list[list[int]]) -> str:
    rows = [manifest.column("hash").tolist(), manifest.column("key").tolist(), [len(group) for group in groups]]
    content = json.dumps([VERSION, job.sample_rate, job.chunk, rows])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def _check_plan(out: Path, digest: str) -> None:
    """The folder belongs to one plan: a manifest, a rate, a size."""
    marker = out / OURS / "plan.json"
    if marker.is_file():
        if json_of(marker)["digest"] != digest:
            raise ValueError(
                f"{out} holds shards of another manifest, rate or size: choose another folder, or remove this one"
            )
        return
    if any(out.glob("shard-*.parquet")):
        raise ValueError(f"{out} holds shards and no {OURS}/plan.json: choose another folder, or remove this one")
    write_text(marker, json.dumps({"version": VERSION, "digest": digest}) + "\n")


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


def _write_shard(job: _Job, item: tuple[int, list[int], Manifest]) -> dict[str, Any]:
    """Write one shard of these tracks, unless it is there whole. Returns what the index must know of it."""
    number, rows, tracks = item
    path = job.out / f"shard-{number:05d}.parquet"
    stamp = job.out / STAMPS / f"{path.stem}.json"
    if stamp.is_file() and path.is_file():
        known: dict[str, Any] = json_of(stamp)
        if path.stat().st_size == known["shard"]["size"]:
            return known
    places: list[tuple[int, int, int]] = []  # (row of the whole manifest, first row of the shard, chunks)
    skipped: dict[str, str] = {}
    count = 0
    with written(path) as beside:
        with pq.ParquetWriter(beside, _schema(job.sample_rate), compression="none", use_dictionary=False) as writer:
            for place, row in enumerate(rows):
                try:
                    chunks = _chunks(job, tracks, place)
                except ValueError as error:
                    skipped[tracks[place].key] = str(error)
                    continue
                for chunk in chunks:  # a row group each, so that one can be read by itself
                    writer.write_table(pa.Table.from_pylist([chunk], writer.schema), row_group_size=1)
                places.append((row, count, len(chunks)))
                count += len(chunks)
        with open(beside, "rb") as opened:
            digest = digest_of(opened)
        about = asdict(ShardFile(path.name, beside.stat().st_size, digest, count))
    result = {"shard": about, "tracks": places, "skipped": skipped}
    write_text(stamp, json.dumps(result) + "\n")
    return result


def _chunks(job: _Job, tracks: Manifest, row: int) -> list[dict[str, Any]]:
    """The rows of one track.

    Raises:
        ValueError: it can't be read.
    """
    track = tracks[row]
    length = track.samples * job.sample_rate // track.sample_rate  # as crops count it
    found = []
    for place, start in enumerate(range(0, length, job.chunk)):
        samples = min(job.chunk, length - start)
        data, scale = _encoded(tracks, row, job.sample_rate, start, samples)
        audio = {"bytes": data, "path": f"{track.key}.{place}.flac"}
        found.append(
            {"key": track.key, "chunk": place, "start": start, "samples": samples, "crc": checksum_of(data, scale),
             "scale": scale, "audio": audio}
        )  # fmt: skip
    return found


def _encoded(tracks: Manifest, row: int, sample_rate: int, start: int, samples: int) -> tuple[bytes, float]:
    """A chunk as 16-bit FLAC and the scale 1, or as 24-bit FLAC and the power of two that it must be multiplied by.

    Raises:
        ValueError: the file can't be read, or ends early.
    """
    try:
        sound = tracks.read(row, sample_rate, start, samples)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    if len(sound) < samples or not np.isfinite(sound).all():
        raise ValueError(f"{tracks[row].path} ends early or holds samples that are not a number: scan it again")
    peak = float(np.abs(sound).max(initial=0.0))
    scale = 1.0 if peak <= 1 else 2.0 ** np.ceil(np.log2(peak))
    buffer = io.BytesIO()
    if scale == 1:
        whole = np.clip(np.rint(sound * 32768.0), -32768, 32767).astype(np.int16)
        sf.write(buffer, whole, sample_rate, format="FLAC", subtype="PCM_16")
    else:
        sf.write(buffer, sound / np.float32(scale), sample_rate, format="FLAC", subtype="PCM_24")
    return buffer.getvalue(), scale


def _finish(
    manifest: Manifest, job: _Job, digest: str, results: list[dict[str, Any]], refused: Mapping[str, str]
) -> list[str]:
    """Write the index, then tidy up."""
    out = job.out
    places = [(row, n, first, chunks) for n, result in enumerate(results) for row, first, chunks in result["tracks"]]
    skipped = {**refused, **{key: why for result in results for key, why in result["skipped"].items()}}
    if not places:
        first = next(iter(skipped.values()))
        raise ValueError(f"None of the {len(manifest)} tracks could be read; the first: {first}")
    rows, *columns = (np.array(column, dtype=np.int64) for column in zip(*places))
    table = manifest.select(rows).table
    for name, column in zip(("shard", "first", "chunks"), columns):
        table = table.append_column(name, pa.array(column))
    about = {
        "version": VERSION, "sample_rate": job.sample_rate, "chunk_samples": job.chunk, "plan": digest,
        "shards": [result["shard"] for result in results],
    }  # fmt: skip
    if skipped:
        write_text(out / OURS / "skipped.json", json.dumps(skipped, indent=1, ensure_ascii=False) + "\n")
    index = out / INDEX
    with written(index) as beside:
        table = table.replace_schema_metadata({METADATA: json.dumps(about).encode()})
        pq.write_table(table, beside, compression="zstd", write_page_checksum=True)
    _tidy(out)
    size = sum(result["shard"]["size"] for result in results)
    hours = float(manifest.select(rows).seconds().sum()) / 3600
    sentences = [f"{out}: {len(rows)} tracks, {hours:.2f} h, in {len(results)} shards of {size / 1e6:.0f} MB in all."]
    if skipped:
        sentences.append(f"{len(skipped)} tracks were left out, see {out / OURS / 'skipped.json'}.")
    return [*sentences, f"Next: groundbass pretrain RECIPE --data {out} --run RUN"]


def _tidy(out: Path) -> None:
    """Remove what only unfinished work needs, and what killed runs left."""
    shutil.rmtree(out / STAMPS, ignore_errors=True)
    for left in (*out.glob(".shard-*"), *(out / OURS).glob(".*.json.*"), *(out / OURS).glob(".*.parquet.*")):
        left.unlink(missing_ok=True)
