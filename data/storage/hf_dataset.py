"""Data sets of the library `datasets` as manifests: saved to disk, Parquet with a column of audio, or WebDataset tars.

A folder of audio files (`audiofolder`) needs none of this: `groundbass data scan` lists it. Decoding is ours: crops are
sought in WAV and FLAC; MP3 and Vorbis are decoded whole for each, so long ones are better packed by
`groundbass data shard`.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from ...progress import tqdm
from ...reading import json_in
from ..audio import read as audio
from ..parallel import in_order
from ..track import Manifest, Track, cache_folder, metadata_of
from ..writing import written

FEW = 64  # rows that aren't worth a pool of processes
KEYS = ("__key__", "key", "id", "track_id", "file")  # columns that may name a track


class StoredAudio(Manifest):
    """A manifest whose audio lies in the rows of a `datasets.Dataset`, in its column `column`.

    The manifest's column `row` says which; an audio cell holds the encoded bytes, or the path of a file.
    """

    def __init__(self, table: pa.Table, root: str | Path, rows: Any, column: str) -> None:
        super().__init__(table, root)
        self._rows, self._column = rows, column

    def with_table(self, table: pa.Table) -> StoredAudio:
        """See `Manifest.with_table`."""
        return StoredAudio(table, self.root, self._rows, self._column)

    def read(
        self, row: int, sample_rate: int | None = None, start: int = 0, samples: int | None = None
    ) -> npt.NDArray[np.float32]:
        """As `audio.read`.

        Raises:
            ValueError: it can't be decoded.
        """
        cell = self._rows[int(self.table["row"][row].as_py())][self._column]
        if cell.get("bytes") is None:
            return audio.read(cell["path"], sample_rate, start, samples)
        return audio.read_bytes(cell["bytes"], f"{self.root}, {self._paths[row].as_py()}", sample_rate, start, samples)

    def _stored(self, here: Path) -> dict[str, Any]:
        return {"version": 1, "dataset": self.root.resolve().as_posix()}


def is_dataset(folder: str | Path) -> bool:
    """Whether a folder holds a data set that was saved to disk, WebDataset tars, or Parquet with a column of audio."""
    folder = Path(folder)
    if not folder.is_dir():
        return False
    if _is_saved(folder) or _has_tars(folder):
        return True
    first = next(iter(sorted(folder.glob("**/*.parquet"))), None)
    return first is not None and any(_holds_audio(field) for field in pq.read_schema(first))


def open_dataset(folder: str | Path, progress: bool = True) -> StoredAudio:
    """Open it as a manifest; headers are read once, and remembered in $GROUNDBASS_CACHE or ~/.cache/groundbass.

    Of several splits, `train` is used, as `datasets` tells them by the names of files (`train-00000-of-00002.parquet`,
    `train/…`); where there is no such split, the first. Rows without readable audio are left out.

    Raises:
        ValueError: there is no column of audio, or nothing in it.
    """
    folder = Path(folder)
    rows, column = _load(folder)
    memory = _memory(folder, rows)
    if memory.is_file():
        return StoredAudio(pq.read_table(memory), folder, rows, column)
    bar = partial(tqdm, total=len(rows), unit="track", desc="headers", disable=not progress)
    few = 1 if len(rows) <= FEW else None
    found = list(bar(in_order(partial(_track, rows, column), range(len(rows)), few, at_once=16)))
    places = [number for number, track in enumerate(found) if track is not None]
    if not places:
        raise ValueError(f"The column {column!r} of {folder} holds no readable audio in its {len(rows)} rows.")
    tracks = Manifest.from_tracks((track for track in found if track is not None), folder)
    table = tracks.table.append_column("row", pa.array(places, pa.int64()))
    with written(memory) as beside:
        pq.write_table(table, beside)
    return StoredAudio(table, folder, rows, column)


def open_rows(path: Path) -> StoredAudio:
    """Some tracks of a data set, as `write` listed them.

    Raises:
        ValueError: the data set has changed since.
    """
    folder = metadata_of(path)["dataset"]
    whole = open_dataset(folder)
    table = pq.read_table(path)
    place = {number: row for row, number in enumerate(whole.table["row"].to_pylist())}
    rows = [place.get(number, -1) for number in table["row"].to_pylist()]
    found = whole.select([row for row in rows if row >= 0])
    if found.table["hash"].to_pylist() != table["hash"].to_pylist():
        raise ValueError(f"{path} lists tracks of {folder} that aren't there any more: the data set has changed")
    return StoredAudio(table, folder, whole._rows, whole._column)


def _load(folder: Path) -> tuple[Any, str]:
    """The rows, audio not decoded, and the name of the column of audio."""
    import datasets

    if _is_saved(folder):
        found = datasets.load_from_disk(str(folder))
    elif _has_tars(folder):
        found = datasets.Dataset.from_generator(_samples, gen_kwargs={"tars": _training_files(folder, ".tar")})
    else:
        found = datasets.load_dataset("parquet", data_files=_training_files(folder, ".parquet"), split="train")
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


def _is_saved(folder: Path) -> bool:
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _has_tars(folder: Path) -> bool:
    return any(True for place in ("", "data/", "train/", "data/train/") for _ in folder.glob(f"{place}*.tar"))


def _training_files(folder: Path, suffix: str) -> list[str]:
    """The files of the split `train`, or of the first there is, by the rules of `datasets`."""
    from datasets.data_files import DataFilesDict, get_data_patterns

    splits = DataFilesDict.from_patterns(get_data_patterns(str(folder)), str(folder), allowed_extensions=[suffix])
    return sorted(splits.get("train") or next(files for files in splits.values() if files))


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
                            labels |= json_in(content, f"{entry.name} in {path}")
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
    content = json.dumps([str(folder.resolve()), rows._fingerprint, len(rows)])
    return cache_folder() / "datasets" / f"{hashlib.blake2b(content.encode(), digest_size=16).hexdigest()}.parquet"


def _track(rows: Any, column: str, number: int) -> Track | None:
    """What the header of a row's audio says; None where there is no readable audio."""
    row = rows[number]
    cell = row[column] or {}
    try:
        data = cell["bytes"] if cell.get("bytes") is not None else Path(str(cell.get("path"))).read_bytes()
        about = audio.header_of(data)
    except (sf.LibsndfileError, OSError):
        return None
    if about.samples < 1:
        return None
    path = str(cell.get("path") or f"row {number}")
    name = next((str(row[key]) for key in KEYS if isinstance(row.get(key), (str, int))), path)
    content = (
        row | json_in(row["labels"], f"The labels of {name}")
        if isinstance(row.get("labels"), str) and "__key__" in row
        else row
    )
    labels = {
        key: value
        for key, value in content.items()
        if isinstance(value, (str, int, float, bool)) and key not in (*KEYS, "labels")
    }
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return Track(f"{name}#{number}", path, about.samples, about.sample_rate, about.channels, digest, labels=labels)
