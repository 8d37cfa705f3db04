"""Rows of `groundbass bench data`: scanning, sharding, reading shards, fingerprints, and a million rows."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from ..audio import read as audio
from ..collections.fingerprints import RATE, SHIFTS, Index, Prints, fingerprint
from ..collections.scan import scan_folder
from ..crops import CropConfig, Crops
from ..loader import loader
from ..storage.sharding import write_shards
from ..storage.shards import Shards
from ..track import Manifest
from .peak import own_peak

ROUNDS = 5
MILLION = 1_000_000
Sound = npt.NDArray[np.float32]
Figure = tuple[str, float, str, str | None, float | None]  # what, value, unit, reference, ratio


def corpus_figures(manifest: Manifest) -> list[Figure]:
    """scan, shard, shard_read on this audio. The best of five rounds where a round is short."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        return [_scan(manifest), _shard(manifest, out), _shard_read(manifest, out)]


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _scan(manifest: Manifest) -> Figure:
    """Files/s: read, hashed, decoded to the end and examined, in one process; the reference decodes only."""
    paths = [str(manifest.path_of(track)) for track in manifest]
    ours, bare = [], []
    for _ in range(3):
        ours.append(len(paths) / _timed(lambda: scan_folder(manifest.root, workers=1, progress=False)))
        bare.append(len(paths) / _timed(lambda: [sf.read(path, dtype="float32") for path in paths]))
    best = max(bare)
    return "scan", max(ours), "files/s per core", f"soundfile.read of every file: {best:.0f} files/s", max(ours) / best


def _shard(manifest: Manifest, out: Path) -> Figure:
    """Seconds of audio per second of one core; the reference decodes each file and encodes it as FLAC again."""
    rate = int(manifest.column("sample_rate")[0])
    seconds = float(manifest.seconds().sum())
    ours = seconds / _timed(lambda: write_shards(manifest, out / "s", rate, 10.0, workers=1, progress=False))
    bare = seconds / _timed(lambda: list(map(_encode, map(str, map(manifest.path_of, manifest)))))
    return "shard", ours, "x real time per core", f"decode and encode FLAC, nothing else: {bare:.0f}", ours / bare


def _encode(path: str) -> None:
    sound, rate = sf.read(path, dtype="float32")
    sf.write(BytesIO(), sound, rate, format="FLAC", subtype="PCM_16")


def _shard_read(manifest: Manifest, out: Path) -> Figure:
    """Crops/s of 5 s from shards; the reference decodes the same seconds of FLAC files: open, seek, read, close."""
    rate = int(manifest.column("sample_rate")[0])
    shards = Shards.open_folder(out / "s")
    length = 5 * rate
    draw = np.random.default_rng(0)
    rows = np.flatnonzero((manifest.column("sample_rate") == rate) & (manifest.column("samples") >= length))
    wanted = [(int(row), int(draw.integers(manifest[int(row)].samples - length + 1))) for row in draw.choice(rows, 200)]
    flac = out / "flac"
    flac.mkdir()
    for row in {row for row, _ in wanted}:
        sf.write(flac / f"{row}.flac", manifest.read(row), rate, subtype="PCM_16")
    place = {key: n for n, key in enumerate(shards.column("key").tolist())}
    of = [place[key] for key in manifest.column("key").tolist()]

    def bare() -> None:
        for row, start in wanted:
            with sf.SoundFile(flac / f"{row}.flac") as file:
                file.seek(start)
                file.read(length, dtype="float32")

    def ours() -> None:
        for row, start in wanted:
            shards.read(of[row], rate, start, length)

    times = [(_timed(ours), _timed(bare)) for _ in range(ROUNDS)]
    fast, reference = (len(wanted) / min(column) for column in zip(*times, strict=True))
    return (
        "shard_read",
        fast,
        "crops/s",
        f"bare FLAC decoding of the same 5 s: {reference:.0f} crops/s",
        fast / reference,
    )


def overlap_figures() -> list[Figure]:
    """Fingerprinting and look-up of synthesised melodies of 10 s, against indexes of 250 to 20,000 of them."""
    sounds = [_melody(n) for n in range(100)]
    spent = min(_timed(lambda: [fingerprint(sound) for sound in sounds[:30]]) for _ in range(3)) / 30
    sorting = min(_timed(lambda: [np.fft.rfft(_framed(sound), axis=1) for sound in sounds[:30]]) for _ in range(3)) / 30
    with ProcessPoolExecutor() as pool:
        prints = list(pool.map(_melody_prints, range(1000), chunksize=50))
    draw = np.random.default_rng(1)
    queries = []
    for sound in sounds:
        cut = sound[12_345:]
        queries.append(fingerprint((0.3 * cut + draw.normal(0, 0.003, len(cut))).astype(np.float32), SHIFTS))
    larger = [*prints, *(_transposed(one, by) for by in range(1, 20) for one in prints)]
    small, large, largest = (_look_up(Index(larger[:size]), queries) for size in (250, 1000, 20_000))
    return [
        (
            "fingerprint",
            1 / spent,
            "tracks/s per core",
            f"its spectra alone: {1 / sorting:.0f} tracks/s",
            sorting / spent,
        ),
        ("lookup", large, "tracks/s, index of 1,000", f"index of 250: {small:.0f} tracks/s", large / small),
        (
            "lookup_20000",
            largest,
            "tracks/s, index of 20,000",
            f"index of 1,000: {large:.0f} tracks/s",
            largest / large,
        ),
    ]


def _transposed(prints: Prints, by: int) -> Prints:
    """Another melody, for an index that is large: every peak so many bins higher."""
    frequency = ((prints.hashes >> 13) + by) % 256
    return Prints((frequency << 13 | prints.hashes & 0x1FFF).astype(np.uint32), prints.frames)


def _melody(seed: int) -> Sound:
    """10 s of plucked notes with five harmonics over a little noise, at the fingerprints' rate."""
    draw = np.random.default_rng(seed)
    sound = 0.01 * draw.standard_normal(10 * RATE)
    for begin in np.arange(0, 10, 0.15):
        pitch = 110 * 2 ** (draw.integers(36) / 12)
        at, time_axis = round(begin * RATE), np.arange(min(RATE // 2, 10 * RATE - round(begin * RATE))) / RATE
        harmonics = sum(np.sin(2 * np.pi * pitch * n * time_axis + n) / n for n in range(1, 6))
        sound[at : at + len(time_axis)] += 0.1 * draw.uniform(0.5, 1) * harmonics * np.exp(-6 * time_axis)
    return sound.astype(np.float32)


def _melody_prints(seed: int) -> Prints:
    return fingerprint(_melody(seed))


def _framed(sound: Sound) -> Sound:
    return np.lib.stride_tricks.sliding_window_view(sound, 512)[::256] * np.hanning(512).astype(np.float32)


def _look_up(index: Index, queries: list[Prints]) -> float:
    """Queries/s. All queries are in the index; a benchmark that finds something else measures nothing."""
    for number, query in enumerate(queries[:10]):
        if [match.track for match in index.search(query, len(queries))] != [number]:
            raise RuntimeError(f"Melody {number} was not found alone in an index of {len(index)}")
    return len(queries) / min(_timed(lambda: [index.search(q, len(queries)) for q in queries]) for _ in range(3))


def million_figures() -> list[Figure]:
    """A manifest of 1,000,000 rows, in a fresh process: time to open, first batch of 32, memory for both."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        names = [f"{n}.flac" for n in range(100)]
        for number, name in enumerate(names):
            audio.write(path / name, _melody(number), RATE)
        few = scan_folder(path, progress=False)[0].table
        rows = pa.array(np.arange(MILLION) % len(few))
        keys = pa.array([f"album {n // 10}/track {n}" for n in range(MILLION)])
        table = few.take(rows).set_column(few.schema.get_field_index("key"), "key", keys)
        Manifest(table, path).write(path / "million.parquet")
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            bare = pool.submit(_open_table, str(path / "million.parquet")).result()
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            opened, first, grown = pool.submit(_open_million, str(path / "million.parquet")).result()
    return [
        ("million_open", opened, "s", f"pyarrow reads the table: {bare:.2f} s", bare / opened),
        ("million_first_batch", first, "s", None, None),
        ("million_memory", grown, "MiB", None, None),
    ]


def _open_table(path: str) -> float:
    return _timed(lambda: pq.read_table(path))


def _open_million(path: str) -> tuple[float, float, float]:
    before = own_peak()
    began = time.perf_counter()
    manifest = Manifest.open(path)
    opened = time.perf_counter() - began
    batches = loader(Crops(manifest, CropConfig(RATE, 2 * RATE), 0), 32, workers=0)
    next(batches)
    first = time.perf_counter() - began - opened
    return opened, first, own_peak() - before
