"""Data sets of the library `datasets` as manifests: saved to disk, Parquet with a column of audio, or WebDataset tars.

A folder of audio files (`audiofolder`) needs none of this: `groundbass data scan` lists it. Decoding is ours; each crop
decodes its whole track, so long tracks are better packed by `groundbass data shard`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
from tqdm import tqdm

from . import audio
from .track import Manifest, Track

KEYS = ("__key__", "key", "id", "track_id", "file")  # columns that may name a track


class StoredAudio(Manifest):
    """A manifest whose audio lies in the rows of a `datasets.Dataset`, in its column `column`.

    The manifest's column `row` says which; an audio cell holds the encoded bytes, or the path of a file.
    """

    def __init__(self, table: pa.Table, root: str | Path, rows: Any, column: str) -> None:
        super().__init__(table, root)
        self._rows, self._column = rows, column

    def select(self, indices: Any) -> StoredAudio:
        """The same data set, some of the tracks."""
        chosen = pa.array(np.fromiter(indices, dtype=np.int64))
        return StoredAudio(self.table.take(chosen), self.root, self._rows, self._column)

    def read(
        self, row: int, sample_rate: int | None = None, start: int = 0, samples: int | None = None
    ) -> npt.NDArray[np.float32]:
        """As `audio.read`. The whole track is decoded. Raises ValueError where it can't be."""
        cell = self._rows[int(self.table["row"][row].as_py())][self._column]
        if cell.get("bytes") is None:
            return audio.read(cell["path"], sample_rate, start, samples)
        try:
            sound, rate = sf.read(io.BytesIO(cell["bytes"]), dtype="float32", always_2d=True)
        except sf.LibsndfileError as error:
            raise ValueError(f"{self.root}, {self._paths[row].as_py()}: it can't be decoded ({error})") from error
        mono = np.ascontiguousarray(sound.mean(1))
        if sample_rate not in (None, rate):
            mono = audio.resample(mono, rate, sample_rate)
        return mono[start:] if samples is None else mono[start : start + samples]


def is_dataset(folder: str | Path) -> bool:
    """Whether a folder holds a data set that was saved to disk, WebDataset tars, or Parquet with a column of audio."""
    folder = Path(folder)
    if not folder.is_dir():
        return False
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file() or any(folder.glob("*.tar")):
        return True
    first = next(iter(sorted(folder.glob("**/*.parquet"))), None)
    return first is not None and any(_holds_audio(field) for field in pq.read_schema(first))


def open_dataset(folder: str | Path, progress: bool = True) -> StoredAudio:
    """Open it as a manifest; headers are read once, and remembered in $GROUNDBASS_CACHE or ~/.cache/groundbass.

    Of several splits, `train` is used. Rows without readable audio are left out.
    Raises ValueError where there is no column of audio, or nothing in it.
    """
    folder = Path(folder)
    rows, column = _load(folder)
    memory = _memory(folder, rows)
    if memory.is_file():
        return StoredAudio(pq.read_table(memory), folder, rows, column)
    tracks, places = [], []
    for number in tqdm(range(len(rows)), unit="track", desc="headers", disable=not progress):
        track = _track(rows[number], column, number)
        if track is not None:
            tracks.append(track)
            places.append(number)
    if not tracks:
        raise ValueError(f"The column {column!r} of {folder} holds no readable audio in its {len(rows)} rows.")
    table = Manifest.from_tracks(tracks, folder).table.append_column("row", pa.array(places, pa.int64()))
    memory.parent.mkdir(parents=True, exist_ok=True)
    beside = memory.with_name(f".{memory.name}.{os.getpid()}")
    pq.write_table(table, beside)
    beside.replace(memory)
    return StoredAudio(table, folder, rows, column)


def _load(folder: Path) -> tuple[Any, str]:
    """The rows, audio not decoded, and the name of the column of audio."""
    import datasets

    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        found = datasets.load_from_disk(str(folder))
    elif tars := sorted(str(path) for path in folder.glob("*.tar")):
        found = datasets.Dataset.from_generator(_samples, gen_kwargs={"tars": tars})
    else:
        files = sorted(str(path) for path in folder.glob("**/*.parquet"))
        found = datasets.load_dataset("parquet", data_files=files)
    if isinstance(found, datasets.DatasetDict):
        found = found["train"] if "train" in found else found[next(iter(found))]
    columns = [name for name, kind in found.features.items() if isinstance(kind, datasets.Audio)]
    columns += [
        name for name, kind in found.features.items() if isinstance(kind, dict) and {"bytes", "path"} <= kind.keys()
    ]
    if not columns:
        raise ValueError(f"{folder} has no column of audio: it has {', '.join(found.features)}.")
    for name in columns:
        found = found.cast_column(name, datasets.Audio(decode=False))
    return found, columns[0]


def _samples(tars: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The samples of WebDataset tars: files that share a name up to its first dot.

    Ours, as the reader of `datasets` asks for torchcodec to store audio. JSON, text and class files become labels.
    """
    for path in tars:
        try:
            with tarfile.open(path) as tar:
                files = (entry for entry in tar if entry.isfile() and "." in PurePosixPath(entry.name).name)
                for stem, entries in groupby(files, _stem):
                    sample: dict[str, Any] = {"__key__": stem, "audio": None}
                    labels: dict[str, Any] = {}
                    for entry in entries:
                        suffix = entry.name.removeprefix(f"{stem}.").lower()
                        opened = tar.extractfile(entry)
                        content = opened.read() if opened else b""
                        if suffix == "json":
                            labels |= json.loads(content)
                        elif suffix in ("txt", "cls"):
                            labels[suffix] = content.decode().strip()
                        elif f".{suffix}" in audio.SUFFIXES:
                            sample["audio"] = {"bytes": content, "path": entry.name}
                    if sample["audio"]:
                        yield sample | {"labels": json.dumps(labels)}
        except (tarfile.ReadError, EOFError) as error:
            raise ValueError(f"{path} is no whole tar file ({error}): copy it again") from error


def _stem(entry: tarfile.TarInfo) -> str:
    folder, _, name = entry.name.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}" if folder else name.partition(".")[0]


def _holds_audio(field: pa.Field) -> bool:
    return pa.types.is_struct(field.type) and {"bytes", "path"} <= {part.name for part in field.type}


def _memory(folder: Path, rows: Any) -> Path:
    cache = Path(os.environ.get("GROUNDBASS_CACHE") or Path.home() / ".cache" / "groundbass")
    content = json.dumps([str(folder.resolve()), rows._fingerprint, len(rows)])
    return cache / "datasets" / f"{hashlib.blake2b(content.encode(), digest_size=16).hexdigest()}.parquet"


def _track(row: dict[str, Any], column: str, number: int) -> Track | None:
    """What the header says; None where there is no readable audio."""
    cell = row[column] or {}
    data = cell.get("bytes")
    try:
        with sf.SoundFile(io.BytesIO(data) if data is not None else str(cell.get("path"))) as file:
            samples, rate, channels = file.frames, file.samplerate, file.channels
    except (sf.LibsndfileError, OSError, TypeError):
        return None
    if samples < 1:
        return None
    path = str(cell.get("path") or f"row {number}")
    digest = hashlib.blake2b(data if data is not None else Path(path).read_bytes(), digest_size=16).hexdigest()
    name = next((str(row[key]) for key in KEYS if isinstance(row.get(key), (str, int))), path)
    content = row | json.loads(row["labels"]) if isinstance(row.get("labels"), str) and "__key__" in row else row
    labels = {
        key: value
        for key, value in content.items()
        if isinstance(value, (str, int, float, bool)) and key not in (*KEYS, "labels")
    }
    return Track(f"{name}#{number}", path, samples, rate, channels, digest, labels=labels)
