"""Tracks (recordings) and manifests: the Parquet table that says what there is to hear, with its labels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..reading import json_in
from .audio import read as audio
from .writing import written

FIELDS = pa.schema(
    [
        ("key", pa.string()),
        ("path", pa.string()),
        ("samples", pa.int64()),
        ("sample_rate", pa.int64()),
        ("channels", pa.int64()),
        ("hash", pa.string()),
        ("split", pa.string()),
        ("artist", pa.string()),
    ]
)
MOST_SAMPLES, MOST_RATE = 1 << 40, 10_000_000  # of a track: 265 days at 48 kHz
LABEL = "label."  # label columns are named label.<name>
WEIGHT = "weight"  # a column of mixtures: how often a track is heard, against the others
METADATA = b"groundbass"  # schema metadata: {"version", "root"}


@dataclass(frozen=True)
class Track:
    """One recording.

    key: unique in its manifest, the POSIX path relative to the root unless told. path: relative to the root.
    samples, sample_rate (Hz), channels: of the file. hash: blake2b of the file's bytes, hex.
    labels: str, int, float, bool, or nested lists and dicts of them; a label that is None counts as absent.
    """

    key: str
    path: str
    samples: int
    sample_rate: int
    channels: int
    hash: str
    split: str | None = None
    artist: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate


class Manifest(Sequence[Track]):
    """Tracks in an Arrow table: a million rows open at once; a `Track` is made when it is asked for.

    root: the folder that the paths are relative to. table: the columns of `FIELDS`, and `label.<name>` for each label.
    """

    def __init__(self, table: pa.Table, root: str | Path) -> None:
        missing = [name for name in FIELDS.names if name not in table.column_names]
        if missing:
            raise ValueError(
                f"This table is no manifest, it lacks {', '.join(missing)}: `groundbass data scan FOLDER OUT` makes one"
            )
        self.root = Path(root)
        self.table = table.combine_chunks()
        self._paths = self.table["path"].combine_chunks()

    @classmethod
    def open(cls, path: str | Path, root: str | Path | None = None) -> Manifest:
        """Open a Parquet manifest; `root` overrides the folder where its audio lies.

        Raises:
            FileNotFoundError: the manifest, or the first file that it names, is missing.
            ValueError: the file is no manifest.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no manifest {path}: give the .parquet file that `groundbass data scan FOLDER OUT` wrote"
            )
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{path} is no Parquet file, or a damaged one: give the .parquet that `groundbass data scan FOLDER "
                "OUT` wrote"
            ) from error
        stored = _said(table.schema, path)
        if "shards" in stored or "dataset" in stored:
            raise ValueError(
                f"{path} names tracks of {stored.get('folder') or stored['dataset']}, which aren't files: open it with "
                "groundbass.data.open.open_sound"
            )
        manifest = cls(table, root if root is not None else place_from(stored.get("root", "."), path))
        manifest._check_numbers(path)
        manifest._check_root(path)
        return manifest

    @classmethod
    def from_tracks(cls, tracks: Iterable[Track], root: str | Path) -> Manifest:
        """A manifest of these tracks.

        Raises:
            ValueError: two share a key.
        """
        tracks = list(tracks)
        seen: set[str] = set()
        for track in tracks:
            if track.key in seen:
                raise ValueError(f"Two tracks have the key {track.key!r}: keys must be unique in a manifest")
            seen.add(track.key)
        columns = [
            pa.array([getattr(track, name) for track in tracks], FIELDS.field(name).type) for name in FIELDS.names
        ]
        names = dict.fromkeys(name for track in tracks for name in track.labels)  # in order of appearance
        for name in names:
            try:
                columns.append(pa.array([track.labels.get(name) for track in tracks]))
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise ValueError(f"Label {name!r} mixes types ({error}): give it one type in all tracks") from error
        return cls(pa.table(columns, names=[*FIELDS.names, *(LABEL + name for name in names)]), root)

    def write(self, path: str | Path) -> None:
        """Write Parquet, beside and renamed.

        The root is stored relative to the file where one of the two folders holds the other (they move together),
        else absolute.
        """
        path = Path(path)
        metadata = {METADATA: json.dumps(self._stored(path.parent.resolve())).encode()}
        with written(path) as beside:
            pq.write_table(self.table.replace_schema_metadata(metadata), beside, compression="zstd")

    def _stored(self, here: Path) -> dict[str, Any]:
        """What a manifest that lies in `here` says of where the audio is."""
        return {"version": 1, "root": self._place_seen_from(here)}

    def _place_seen_from(self, here: Path) -> str:
        root = self.root.resolve()
        together = root.is_relative_to(here) or here.is_relative_to(root)
        return Path(os.path.relpath(root, here)).as_posix() if together else root.as_posix()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Track: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Track | Self:
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"track {index} of {len(self)}")
        (row,) = self.table.slice(index % len(self), 1).to_pylist()
        return _track(row)

    def __iter__(self) -> Iterator[Track]:
        for batch in self.table.to_batches(max_chunksize=1024):
            yield from map(_track, batch.to_pylist())

    def select(self, indices: Iterable[int] | npt.NDArray[np.integer[Any]]) -> Self:
        """A manifest of these rows, in this order."""
        return self.with_table(self.table.take(pa.array(np.fromiter(indices, dtype=np.int64))))

    def with_table(self, table: pa.Table) -> Self:
        """The same sound by another table, such as one with fewer rows or one more column."""
        return type(self)(table, self.root)

    def relabelled(self, rows: Sequence[int], tracks: Sequence[Track]) -> Self:
        """The sound of these rows under the fields and labels of `tracks`."""
        known = self.select(rows).table
        table = Manifest.from_tracks(tracks, self.root).table
        for name in known.column_names:  # where it lies, how often it is heard
            if name not in FIELDS.names and not name.startswith(LABEL):
                table = table.append_column(name, known[name])
        return self.with_table(table)

    def column(self, name: str) -> npt.NDArray[Any]:
        """One of `FIELDS` for all tracks, as numpy (strings as objects)."""
        return np.asarray(self.table[name].to_numpy())

    def hashes(self) -> list[str]:
        """[tracks] what each track's bytes are known by; of its file, where a stranger's manifest leaves it empty."""
        return [told or self._hash_of(row) for row, told in enumerate(self.table["hash"].to_pylist())]

    def _hash_of(self, row: int) -> str:
        file = Path(os.path.join(self.root, self._paths[row].as_py()))
        return file_hash(file) if file.is_file() else ""

    def seconds(self) -> npt.NDArray[np.float64]:
        """[tracks] duration in s."""
        return np.asarray(self.column("samples") / self.column("sample_rate"), dtype=np.float64)

    def labels(self, name: str) -> list[Any]:
        """The label of every track, None where it has none.

        Raises:
            ValueError: an unknown name.
        """
        if LABEL + name not in self.table.column_names:
            known = ", ".join(self.label_names) or "no labels"
            raise ValueError(f"The manifest has no label {name!r}: it has {known}")
        return list(self.table[LABEL + name].to_pylist())

    @property
    def label_names(self) -> list[str]:
        return [name.removeprefix(LABEL) for name in self.table.column_names if name.startswith(LABEL)]

    def read(
        self, row: int, sample_rate: int | None = None, start: int = 0, samples: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Part of a track's sound: see `audio.read`. A corpus in shards reads from them."""
        return audio.read(os.path.join(self.root, self._paths[row].as_py()), sample_rate, start, samples)

    def read_all(self, row: int, sample_rate: int, seconds: float) -> npt.NDArray[np.float32]:
        """The first `seconds` of a track at any rate, for who looks at tracks one by one."""
        return self.read(row, sample_rate, 0, round(seconds * sample_rate))

    def check_rate(self, sample_rate: int) -> None:
        """Raise ValueError where crops can't be had at this rate. Those of files can, at any; shards hold one."""

    @property
    def has_files(self) -> bool:
        """Whether each track is a file of its own, at `path_of`; shards and data sets hold them otherwise."""
        return type(self) is Manifest

    def path_of(self, track: Track) -> Path:
        return self.root / track.path

    def _check_numbers(self, manifest: Path) -> None:
        """Raise where a track can't be as long as it says, or has no length: what follows would make room for it."""
        for name, least, most in (("samples", 0, MOST_SAMPLES), ("sample_rate", 1, MOST_RATE)):
            column = self.table[name]
            wrong = pc.fill_null(pc.or_(pc.less(column, least), pc.greater(column, most)), True)
            if pc.any(wrong).as_py():
                row = pc.index(wrong, True).as_py()
                raise ValueError(
                    f"{manifest} says {name} = {column[row].as_py()} of {self.table['key'][row].as_py()!r}, and it "
                    f"must be {least:,} to {most:,}: scan the folder again"
                )

    def _check_root(self, manifest: Path) -> None:
        """Raise where the first track is missing: the usual sign that the audio moved."""
        if len(self) and not (first := self.root / self.table["path"][0].as_py()).is_file():
            raise FileNotFoundError(
                f"{first} is missing, the first file that {manifest} names: if the audio moved, say where it is now "
                f"(--root FOLDER, or root= in Python; the manifest says {self.root}), else scan it again"
            )


def file_hash(file: Path) -> str:
    """blake2b of a file's bytes, hex: what manifests know it by."""
    digest = hashlib.blake2b(digest_size=16)
    with open(file, "rb") as opened:
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def cache_folder() -> Path:
    """$GROUNDBASS_CACHE, else ~/.cache/groundbass."""
    return Path(os.environ.get("GROUNDBASS_CACHE") or Path.home() / ".cache" / "groundbass")


def metadata_of(path: Path) -> dict[str, Any]:
    """What `write` put into a file's schema; nothing for what is no Parquet file of ours."""
    if not path.is_file():
        return {}
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return {}
    return _said(schema, path)


def _said(schema: pa.Schema, path: Path) -> dict[str, Any]:
    """What a file of ours says about itself in its schema."""
    try:
        stored = json_in((schema.metadata or {}).get(METADATA, b"{}"), path)
    except ValueError:
        stored = None
    if not isinstance(stored, dict) or not isinstance(stored.get("root", "."), str) or "\0" in stored.get("root", "."):
        raise ValueError(
            f"{path} says nothing sensible about itself (schema metadata {METADATA.decode()!r}): scan again"
        )
    return stored


def place_from(stored: str, path: Path) -> str:
    """A folder that the file `path` names, relative to its own or absolute, or a URL."""
    return stored if "://" in stored else os.path.normpath(path.parent.resolve() / stored)


def _track(row: dict[str, Any]) -> Track:
    labels = {name[len(LABEL) :]: row.pop(name) for name in list(row) if name.startswith(LABEL)}
    known = {name: row[name] for name in FIELDS.names}
    return Track(**known, labels={name: value for name, value in labels.items() if value is not None})
