"""Shards: a corpus as Parquet files of FLAC chunks, for clusters whose file systems don't like a million files.

OUT/shard-00000.parquet … hold a row per chunk of at most 30 s (`datasets` reads the column `audio`). Beside them lies
OUT/__groundbass__/index.parquet, which `datasets` passes over: the manifest, with the place of every track's chunks and
a checksum of every shard. `sharding.py` writes both, the index last. Reading back is `Shards`, a manifest like any
other: crops may span chunks, and are those of the files to half a step of 16 bits. Decoders of MP3 and Vorbis overshoot
full scale: such a chunk is stored in 24 bits and divided by its column `scale`.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import threading
import zlib
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from ...reading import json_in
from ..audio import read as audio
from ..track import METADATA, Manifest, metadata_of, place_from
from .remote import filesystem_of

OURS = "__groundbass__"  # `datasets` leaves out folders whose names begin so
INDEX = f"{OURS}/index.parquet"
READ = ("audio.bytes", "crc", "scale")  # columns of a chunk
OPEN = 16  # shards that a thread keeps open
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
    time, by memory map where they are local, by one range request per chunk where they aren't.
    """

    def __init__(self, table: pa.Table, folder: str, about: dict[str, Any]) -> None:
        super().__init__(table, Path(folder) if "://" not in folder else Path("."))
        self.folder, self.about = folder, about
        self.sample_rate, self.chunk_samples = int(about["sample_rate"]), int(about["chunk_samples"])
        self.files = [ShardFile(**shard) for shard in about["shards"]]
        self._places = np.stack([self.column(name) for name in ("shard", "first", "chunks")], axis=1)  # [tracks, 3]
        self._held = threading.local()  # a ParquetFile that two threads read at once crashes

    @classmethod
    def open_folder(cls, folder: str | Path, check: bool = False) -> Shards:
        """Open a folder of shards. check: compare every shard's checksum, not only its size.

        Raises:
            FileNotFoundError: there is no index or a shard is missing.
            ValueError: a shard isn't whole.
        """
        folder = str(folder).rstrip("/")
        try:
            filesystem, path = filesystem_of(folder)
            with filesystem.open(f"{path}/{INDEX}", "rb") as opened:
                # by this thread alone: Arrow's own would still let go of `opened` while Python ends, which aborts it
                whole = pq.ParquetFile(opened, page_checksum_verification=True, pre_buffer=False)
                table = whole.read(use_threads=False)
        except FileNotFoundError:
            if not is_sharded(folder):
                raise FileNotFoundError(
                    f"{folder} holds no shards: `groundbass data shard MANIFEST OUT` makes them; other data is read "
                    "from a folder of this machine"
                ) from None
            raise FileNotFoundError(
                f"{folder} has no {INDEX}: `groundbass data shard` writes it last, so sharding was not finished; the "
                "same command goes on where it stopped"
            ) from None
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{folder}/{INDEX} is damaged ({error}): run `groundbass data shard` again") from error
        return cls._opened(table, folder, f"{folder}/{INDEX}", check)

    @classmethod
    def open_selection(cls, path: Path, folder: str | Path | None = None) -> Shards:
        """Open what `Shards.write` wrote: some tracks of shards that lie in `folder`, or where they lay then."""
        table = pq.read_table(path)
        stored = str(metadata_of(path)["folder"])
        return cls._opened(table, str(folder or place_from(stored, path)), str(path), check=False)

    @classmethod
    def _opened(cls, table: pa.Table, folder: str, name: str, check: bool) -> Shards:
        try:
            shards = cls(table, folder, json_in((table.schema.metadata or {})[METADATA], name))
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"{name} is no index of shards, or is damaged ({error}): `groundbass data shard MANIFEST OUT` makes one"
            ) from error
        shards.check(contents=check)
        return shards

    def check(self, contents: bool = False) -> None:
        """Raise where a shard is missing, has another size, or (`contents`) other bytes than the index says."""
        filesystem, path = filesystem_of(self.folder)
        sizes = _sizes(filesystem, path)
        for shard in self.files:
            place = f"{path}/{shard.file}"
            try:
                size = sizes[shard.file] if shard.file in sizes else int(filesystem.info(place)["size"])
            except FileNotFoundError:
                raise FileNotFoundError(
                    f"{self.folder}/{shard.file} is missing: copy it again, or shard again"
                ) from None
            if size != shard.size:
                raise ValueError(
                    f"{self.folder}/{shard.file} has {size} bytes and should have {shard.size}: it was cut short; copy "
                    "it again, or remove it and run `groundbass data shard` again"
                )
            if contents:
                with filesystem.open(place, "rb") as opened:
                    found = digest_of(opened)
                if found != shard.blake2b:
                    raise ValueError(
                        f"{self.folder}/{shard.file} has the checksum {found[:12]}… and should have "
                        f"{shard.blake2b[:12]}…: bytes have changed; copy it again"
                    )

    def with_table(self, table: pa.Table) -> Shards:
        """See `Manifest.with_table`."""
        return Shards(table, self.folder, self.about)

    def _stored(self, here: Path) -> dict[str, Any]:
        folder = self.folder if "://" in self.folder else self._place_seen_from(here)
        return {**self.about, "folder": folder}

    def check_rate(self, sample_rate: int) -> None:
        """Raise ValueError for another rate than the shards': resampled chunks wouldn't meet without a seam."""
        if sample_rate != self.sample_rate:
            raise ValueError(
                f"{self.folder} holds audio at {self.sample_rate} Hz, and {sample_rate} Hz is asked for: shard again "
                f"with --sample-rate {sample_rate}"
            )

    def read(self, row: int, sample_rate: int | None = None, start: int = 0, samples: int | None = None) -> Sound:
        """Part of a track: as `audio.read`, across chunks.

        Raises:
            ValueError: another rate than the shards'.
        """
        self.check_rate(sample_rate or self.sample_rate)
        shard, first, chunks = self._places[row].tolist()
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

    def read_all(self, row: int, sample_rate: int, seconds: float) -> Sound:
        """The first `seconds` of a track, resampled as one."""
        held = self.read(row, None, 0, round(seconds * self.sample_rate))
        return audio.resample(held, self.sample_rate, sample_rate)

    def _chunk(self, shard: int, place: int, row: int) -> tuple[Any, float]:
        """The encoded bytes of a chunk, whose checksum is right, and its scale. A row group holds one chunk."""
        name = self.files[shard].file
        try:
            opened, source = self._file(shard)
            if source is not None:
                source.fetch(*_span(opened.metadata.row_group(place)))
            table = opened.read_row_group(place, columns=list(READ), use_threads=False)
            data = table["audio"].chunk(0).field("bytes")[0].as_buffer()
            scale, checksum = float(table["scale"][0].as_py()), table["crc"][0].as_py()
        except (OSError, pa.ArrowException, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.folder}/{name} can't be read at chunk {place} ({error}): copy it again") from error
        if checksum_of(data, scale) != checksum:
            raise ValueError(
                f"{self.folder}/{name} is damaged in chunk {place}, of {self.table['key'][row].as_py()}: its checksum "
                "differs; copy the shard again"
            )
        return data, scale

    def _file(self, shard: int) -> tuple[pq.ParquetFile, _Fetched | None]:
        """An open shard, and where it is remote what it reads from."""
        key = os.getpid(), shard  # a forked worker opens its own
        files: OrderedDict[tuple[int, int], Any] = self._held.__dict__.setdefault("files", OrderedDict())
        if key not in files:
            name, source = self.files[shard].file, None
            if "://" in self.folder:
                filesystem, path = filesystem_of(self.folder)
                source = _Fetched(filesystem.open(f"{path}/{name}", "rb", cache_type="none"))
            opened = f"{self.folder}/{name}" if source is None else source
            files[key] = pq.ParquetFile(opened, memory_map=source is None, pre_buffer=False), source
            while len(files) > OPEN:
                files.popitem(last=False)
        files.move_to_end(key)
        found: tuple[pq.ParquetFile, _Fetched | None] = files[key]
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_held"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._held = threading.local()


class _Fetched(io.RawIOBase):
    """A remote file that answers from the last stretch that was fetched, where that holds what is asked for.

    So a chunk is one request, made by the thread that asks: Arrow would do as much ahead, but by threads of its own,
    which let go of Python's files when they like, and abort a process that has just ended.
    """

    def __init__(self, opened: Any) -> None:
        super().__init__()
        self._opened, self._at, self._start, self._held = opened, 0, 0, b""

    def fetch(self, start: int, end: int) -> None:
        """Hold the bytes from `start` to `end`."""
        self._opened.seek(start)
        self._start, self._held = start, self._opened.read(end - start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._opened.size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._opened.size if size < 0 else self._at + size
        if not self._start <= self._at <= end <= self._start + len(self._held):
            self.fetch(self._at, end)
        found = self._held[self._at - self._start : end - self._start]
        self._at += len(found)
        return bytes(found)


def _span(group: Any) -> tuple[int, int]:
    """From which byte to which the columns lie that a chunk is read from."""
    columns = [group.column(number) for number in range(group.num_columns)]
    columns = [column for column in columns if column.path_in_schema in READ]
    starts = [
        min(o for o in (column.dictionary_page_offset, column.data_page_offset) if o is not None) for column in columns
    ]
    return min(starts), max(start + column.total_compressed_size for start, column in zip(starts, columns, strict=True))


def is_sharded(folder: str | Path) -> bool:
    """Whether a folder or URL holds shards, finished or not."""
    filesystem, path = filesystem_of(str(folder))
    with suppress(FileNotFoundError, NotImplementedError):  # servers that list nothing
        return bool(filesystem.exists(f"{path}/{INDEX}") or filesystem.glob(f"{path}/shard-*.parquet"))
    return False


def checksum_of(data: Any, scale: float) -> int:
    """The CRC-32 of a chunk's bytes and of its scale."""
    return zlib.crc32(struct.pack("<d", scale), zlib.crc32(data))


def digest_of(opened: Any) -> str:
    """The blake2b digest of an open file's bytes, hex."""
    digest = hashlib.blake2b(digest_size=16)
    while block := opened.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _sizes(filesystem: Any, path: str) -> dict[str, int]:
    """{name: bytes} of what a folder holds, from one request; nothing where a server doesn't list sizes."""
    try:
        listed = filesystem.ls(path, detail=True)
    except (OSError, NotImplementedError):
        return {}
    return {entry["name"].rpartition("/")[2]: int(entry["size"]) for entry in listed if entry.get("size")}


def _decode(data: Any, start: int, end: int) -> Sound:
    """Samples [start, end) of a FLAC chunk; fewer where it ends."""
    with sf.SoundFile(io.BytesIO(data)) as file:
        if start:
            file.seek(min(start, file.frames))
        audio.forbid_seeking(file)
        return np.asarray(file.read(end - start, dtype="float32"))
