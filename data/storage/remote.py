"""Folders of audio behind a URL (s3://, gs://, https://, whatever fsspec opens) as manifests.

A file is fetched whole when it is first heard, and stays below $GROUNDBASS_CACHE/remote, where the files that weren't
heard for longest make room: at most $GROUNDBASS_REMOTE_GB of them stay, 50 by default. Training on more than fits is
what shards are for: from them a chunk is one request.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import fsspec.asyn
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ...progress import tqdm
from ..audio import read as audio
from ..track import Manifest, Track, cache_folder, metadata_of
from ..writing import written

ROOM_GB = "GROUNDBASS_REMOTE_GB"
OFTEN = 16  # fetches between looks at how much has gathered
VERSION = "version"  # the column that tells a file's copies apart
_fetched = 0


def _forget_threads() -> None:
    """In a forked process fsspec's thread is gone: it begins one of its own. fsspec says so itself from 2025.5 on."""
    fsspec.asyn.loop[0] = fsspec.asyn.iothread[0] = None
    fsspec.asyn.reset_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def is_url(address: str | Path) -> bool:
    """Whether an address is a URL."""
    return "://" in str(address)


def filesystem_of(folder: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path in it.

    Raises:
        ValueError: a package is missing, or there is no such kind of URL.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(folder)
    except (ImportError, ValueError) as error:
        cure = ': pip install "groundbass[remote]"' if isinstance(error, ImportError) else ""
        raise ValueError(f"{folder} can't be opened: {str(error).rstrip('.')}{cure}.") from error
    return filesystem, path


@dataclass(frozen=True)
class RemoteFolder:
    """A folder behind a URL."""

    url: str

    def files(self) -> dict[str, str]:
        """{path below it: what tells this version of the file from others}, hidden ones left out.

        Raises:
            FileNotFoundError: there is nothing.
            OSError: it can't be reached.
        """
        return {path: _version(about) for path, about in self._listed().items()}

    def _listed(self) -> dict[str, dict[str, Any]]:
        """{path below it: what its server says of it}; see `files`."""
        filesystem, root = filesystem_of(self.url)
        try:
            listed = filesystem.find(root, detail=True)
        except FileNotFoundError:
            listed = {}
        except (OSError, PermissionError) as error:
            raise OSError(f"{self.url} can't be listed: {error}") from error
        root = root.rstrip("/")
        found = {name[len(root) + 1 :]: about for name, about in listed.items() if name.startswith(root)}
        found = {path: about for path, about in found.items() if _is_plain(path)}
        if not found:
            raise FileNotFoundError(f"There is nothing in {self.url}, or its server lists nothing: check the address.")
        return dict(sorted(found.items()))

    def fetch_all(self, progress: bool = True) -> str:
        """Fetch every file, but those that are here; `copies` of the version that is returned is then the folder.

        Raises:
            FileNotFoundError: there is nothing.
            OSError: it can't be fetched, or is more than may stay here.
        """
        listed = self._listed()
        told = [[path, _version(about)] for path, about in listed.items()]
        version = "whole-" + hashlib.blake2b(repr(told).encode(), digest_size=8).hexdigest()
        size, room = sum(int(about.get("size") or 0) for about in listed.values()), _room()
        if size > room:
            raise OSError(
                f"{self.url} holds {size / 1e9:.1f} GB, and {room / 1e9:g} of fetched files may stay here: raise "
                f"{ROOM_GB}, or copy the folder to a disk of this machine."
            )
        missing = [path for path in listed if not (self.copies(version) / path).is_file()]
        if missing and progress:
            bytes_left = sum(int(listed[path].get("size") or 0) for path in missing)
            print(f"{self.url}: fetching {len(missing):,} files, {bytes_left / 1e9:.2f} GB.", file=sys.stderr)
        for path in tqdm(missing, unit="file", desc="fetch", disable=not progress or not missing):
            self.fetch(path, version)
        return version

    def version(self, path: str) -> str:
        """What tells this version of a file from others.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it can't be reached.
        """
        filesystem, root = filesystem_of(self.url)
        try:
            return _version(filesystem.info(f"{root.rstrip('/')}/{path}"))
        except FileNotFoundError:
            raise FileNotFoundError(f"There is no {self.url}/{path}.") from None
        except OSError as error:
            raise OSError(f"{self.url}/{path} can't be reached: {error}") from error

    def fetch(self, path: str, version: str = "") -> Path:
        """The copy of a file on this machine; it lies in `copies(version)`.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it can't be fetched, or there is no room for it.
        """
        if not _is_plain(path) or "/" in version or version.startswith("."):
            raise ValueError(f"{path!r} is no path below {self.url}.")
        copy = self.copies(version) / path
        with suppress(FileNotFoundError):
            os.utime(copy)  # heard just now
            return copy
        filesystem, root = filesystem_of(self.url)
        with written(copy) as beside:
            try:
                filesystem.get_file(f"{root.rstrip('/')}/{path}", str(beside))
            except FileNotFoundError:
                raise FileNotFoundError(f"There is no {self.url}/{path}.") from None
            except OSError as error:
                raise OSError(f"{self.url}/{path} can't be fetched: {error}") from error
        _make_room(copy)
        return copy

    def copies(self, version: str = "") -> Path:
        """Where copies of files of this version lie, under their paths."""
        name = hashlib.blake2b(self.url.encode(), digest_size=8).hexdigest()
        return cache_folder() / "remote" / name / (version or "any")


class RemoteFiles(Manifest):
    """A manifest of audio files behind a URL; its column `version` tells which version of each was listed."""

    def __init__(self, table: pa.Table, place: RemoteFolder) -> None:
        super().__init__(table, ".")
        self.place = place
        self._versions = table[VERSION].combine_chunks() if VERSION in table.column_names else None

    @classmethod
    def of(cls, tracks: Iterable[Track], place: RemoteFolder, versions: dict[str, str]) -> RemoteFiles:
        """Tracks whose paths are below the folder."""
        table = Manifest.from_tracks(tracks, ".").table
        column = pa.array([versions[path] for path in table["path"].to_pylist()], pa.string())
        return cls(table.append_column(VERSION, column), place)

    @classmethod
    def open_stored(cls, path: Path, root: str | Path | None = None, whence: str = "") -> RemoteFiles:
        """What `write` wrote, or a manifest that was fetched: then its root is a folder below the URL `whence`.

        Raises:
            ValueError: it is no manifest, or names another machine's disk.
        """
        stored = str(root or metadata_of(path).get("root", "."))
        if whence and not is_url(stored):
            if PurePosixPath(stored).is_absolute() or ".." in PurePosixPath(stored).parts:
                raise ValueError(f"The manifest in {whence} says that its audio lies in {stored}, which isn't there.")
            stored = f"{whence}/{stored}".removesuffix("/.")
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{whence or path} is no Parquet file, or a damaged one: {error}.") from error
        found = cls(table, RemoteFolder(stored.rstrip("/")))
        found._check_numbers(path)
        return found

    def with_table(self, table: pa.Table) -> RemoteFiles:
        """See `Manifest.with_table`."""
        return RemoteFiles(table, self.place)

    def read(
        self, row: int, sample_rate: int | None = None, start: int = 0, samples: int | None = None
    ) -> npt.NDArray[np.float32]:
        """As `audio.read`, of the copy on this machine.

        Raises:
            OSError: it can't be fetched.
            ValueError: it can't be decoded.
        """
        path, version = self._paths[row].as_py(), self._version_of(row)
        for _ in range(2):  # another process may make room between the two
            with suppress(FileNotFoundError):
                return audio.read(self.place.fetch(path, version), sample_rate, start, samples)
        return audio.read(self.place.fetch(path, version), sample_rate, start, samples)

    def _stored(self, here: Path) -> dict[str, Any]:
        return {"version": 1, "root": self.place.url}

    def _hash_of(self, row: int) -> str:
        return f"{self.place.url}/{self._paths[row].as_py()} {self._version_of(row)}"

    def _version_of(self, row: int) -> str:
        return "" if self._versions is None else str(self._versions[row].as_py())


def _version(about: dict[str, Any]) -> str:
    """What a listing says of a file that changes with its content."""
    told = [about.get(name) for name in ("size", "ETag", "LastModified", "mtime", "updated", "md5Hash", "created")]
    return hashlib.blake2b(repr(told).encode(), digest_size=6).hexdigest()


def _is_plain(path: str) -> bool:
    """Whether a path stays below its folder and isn't hidden."""
    return bool(path) and not path.startswith("/") and all(not part.startswith(".") for part in path.split("/") if part)


def _room() -> float:
    """How many bytes of fetched files may stay.

    Raises:
        ValueError: the variable says no number.
    """
    told = os.environ.get(ROOM_GB, "50")
    try:
        return float(told) * 1e9
    except ValueError:
        raise ValueError(f"{ROOM_GB}={told} is no number of gigabytes.") from None


def _make_room(fresh: Path) -> None:
    """Remove the copies that weren't heard for longest, where there are too many; never the one that came just now."""
    global _fetched
    _fetched += 1
    if _fetched % OFTEN:
        return
    room = _room()
    copies = []
    for file in (cache_folder() / "remote").rglob("*"):
        with suppress(FileNotFoundError):
            if file.is_file() and file != fresh:
                about = file.stat()
                copies.append((about.st_mtime, about.st_size, file))
    held = sum(size for _, size, _ in copies)
    for _, size, file in sorted(copies, key=lambda copy: copy[0]):
        if held <= room:
            return
        file.unlink(missing_ok=True)
        held -= size
