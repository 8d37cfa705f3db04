"""One door for sound: whatever names recordings becomes a manifest.

Every command that takes sound takes what `POSSIBLE` lists. Files and folders are scanned (decoded to their ends, what
can't be used is left out) or, with `headers`, taken as their headers say.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .. import plugins
from ..progress import tqdm
from . import corpora
from .audio.files import find_audio
from .audio.read import SUFFIXES
from .collections.headers import from_headers
from .collections.scan import read_labels, scan_files, scan_folder, scan_remote, told_of
from .storage.hf_dataset import is_dataset, open_dataset, open_rows
from .storage.remote import RemoteFiles, RemoteFolder, is_url
from .storage.shards import Shards, is_sharded
from .track import Manifest, metadata_of

POSSIBLE = (
    "an audio file, a folder of audio, a manifest (.parquet, or .csv with a column `path`), a folder of shards, a URL "
    "of one of these (s3://, gs://, https://), a folder with a data set of the library `datasets`, or CORPUS:ROOT "
    "(also my_corpus.py:CORPUS:ROOT)"
)
Kind = Literal["file", "folder", "manifest", "table", "shards", "URL", "remote", "data set", "corpus"]
"""URL is of shards, or of a manifest; remote, of audio files: those are listed and decoded first."""
SYNTH = "synth"  # the corpus that is made here has no reader: its folder holds a manifest
MANIFEST = "manifest.parquet"  # in a folder of audio: what it holds, with labels
SAID = 3  # reasons
MANY = 1000  # files whose headers take long enough for a bar


def address_kind(address: str | Path) -> Kind:
    """What an address names.

    Raises:
        FileNotFoundError: nothing that is there; the sentence lists what is possible.
        ValueError: a file of another kind.
    """
    path = path_of(address)
    if _corpus_in(str(address)):
        return "corpus"
    if is_url(address):
        return _kind_behind(str(address))
    if path.is_dir():
        return "shards" if is_sharded(path) else "data set" if _is_data_set(path) else "folder"
    suffix = path.suffix.lower()
    if suffix == ".parquet" or _is_parquet(path):
        return "manifest"  # one that isn't there is named by `Manifest.open`
    if not path.exists():
        raise FileNotFoundError(
            f"There is no {address}: sound is {POSSIBLE} with one of {', '.join((*corpora.names(), SYNTH))}."
        )
    if suffix == ".csv":
        return "table"
    if suffix in SUFFIXES:
        return "file"
    raise ValueError(f"{address} is no sound: give {POSSIBLE}; audio files end in {', '.join(SUFFIXES)}.")


def called(kind: Kind) -> str:
    """As sentences call it."""
    return "URL" if kind == "remote" else kind


def _kind_behind(url: str) -> Kind:
    if url.lower().endswith(SUFFIXES):
        return "remote"
    return "URL" if url.endswith(".parquet") or is_sharded(url) else "remote"


def path_of(address: str | Path) -> Path:
    """The path that an address is, where it is one; as `probe` has it, folder:PATH is PATH."""
    return Path(str(address).removeprefix("folder:")).expanduser()


def open_sound(
    address: str | Path,
    root: str | Path | None = None,
    *,
    headers: bool = False,
    refused: dict[str, str] | None = None,
    progress: bool = True,
) -> Manifest:
    """The recordings that an address names.

    Args:
        address: see `POSSIBLE`. CORPUS alone lies in $GROUNDBASS_DATA/CORPUS; a folder that holds a manifest.parquet is
            what that lists (not with `headers`, which takes the folder's files).
        root: where a manifest's paths begin, or its shards lie, if they have moved.
        headers: believe the headers of files, folders and tables; else their audio is decoded to the end, and left out
            where it breaks off, is silent, or holds the same bytes as another file.
        refused: gets path and reason of what is left out; else stderr is told how much that is, and why.
        progress: show a bar while files are read.

    Raises:
        FileNotFoundError, ValueError: there is no such thing, or no sound in it; a sentence for the user.
    """
    told: dict[str, str] = {} if refused is None else refused
    manifest = _opened(address, root, headers, told, progress)
    if refused is None:
        say_left_out(address, told)
    return manifest


def say_left_out(address: str | Path, refused: dict[str, str]) -> None:
    """Tell on stderr, where anything was left out: how much, and the first reasons."""
    if refused:
        first = "; ".join(f"{path}: {why}" for path, why in list(refused.items())[:SAID])
        more = f"; and {len(refused) - SAID:,} more" if len(refused) > SAID else ""
        print(f"{address}: {len(refused):,} files were left out. {first}{more}", file=sys.stderr)


def _opened(
    address: str | Path, root: str | Path | None, headers: bool, refused: dict[str, str], progress: bool
) -> Manifest:
    """See `open_sound`."""
    path, kind = path_of(address), address_kind(address)
    if kind == "remote":
        return _remote(str(address), refused, progress)
    if kind == "URL":
        return _behind(str(address), root)
    if kind == "shards":
        return Shards.open_folder(path)
    if kind == "data set":
        return open_dataset(path, progress)
    if kind == "manifest":
        return _stored(path, root)
    if kind == "corpus":
        return _corpus(str(address), progress)
    if headers:
        return from_headers(_bar(files_of(address), progress), refused)
    if kind == "folder" and (path / MANIFEST).is_file():
        return _stored(path / MANIFEST, root)
    return _scanned(path, kind, refused, progress)


def open_several(addresses: Sequence[str | Path], refused: dict[str, str]) -> Manifest:
    """One address, or several files, folders and tables together, as their headers say. refused: see `open_sound`."""
    if not addresses:
        raise ValueError(f"Which sound? Give {POSSIBLE}.")
    if len(addresses) == 1:
        return open_sound(addresses[0], headers=True, refused=refused)
    files: list[Path] = []
    for address in addresses:
        kind = address_kind(address)
        if kind not in ("file", "folder", "table"):
            raise ValueError(f"{address} (a {called(kind)}) is given with others: give it alone.")
        files += files_of(address)
    return from_headers(_bar(list(dict.fromkeys(files)), progress=True), refused)


def files_of(address: str | Path) -> list[Path]:
    """The audio files that a file, a folder or a table names.

    Raises:
        ValueError: what names no files.
    """
    kind, path = address_kind(address), path_of(address)
    if kind == "file":
        return [path]
    if kind == "folder":
        return [path / name for name in find_audio(path)]
    if kind == "table":
        return [path.parent / name for name in _rows(path)]
    raise ValueError(f"{address} (a {kind}) names no files of its own.")


def _scanned(path: Path, kind: Kind, refused: dict[str, str], progress: bool) -> Manifest:
    if kind == "folder":
        manifest, skipped = scan_folder(path, progress=progress)
    elif kind == "table":
        rows = _rows(path)
        manifest, skipped, _ = scan_files(path.parent, list(rows), rows, progress=progress)
    else:
        manifest, skipped, _ = scan_files(path.parent, [path.name], None, progress=False)
    refused |= told_of(skipped)
    if not len(manifest):
        raise ValueError(f"{path} holds no sound that can be used: {next(iter(refused.values()))}.")
    return manifest


def _stored(path: Path, root: str | Path | None) -> Manifest:
    """A .parquet: of files, or some tracks of shards or of a data set."""
    about = metadata_of(path)
    if is_url(str(root or about.get("root", "."))):
        return RemoteFiles.open_stored(path, root)
    if "shards" in about:
        return Shards.open_selection(path, root)
    if "dataset" in about:
        return open_rows(path)
    return Manifest.open(path, root)


def _behind(url: str, root: str | Path | None) -> Manifest:
    """Shards behind a URL, or the manifest that it is, whose audio lies in its folder or below."""
    if not url.endswith(".parquet"):
        return Shards.open_folder(url)
    folder, _, name = url.rpartition("/")
    place = RemoteFolder(folder)
    return RemoteFiles.open_stored(place.fetch(name, place.version(name)), root, whence=folder)


def _remote(url: str, refused: dict[str, str], progress: bool) -> Manifest:
    """Audio behind a URL: a file, a folder with a manifest, or one that is scanned; the scan is remembered."""
    folder, name = (url.rstrip("/"), "") if not url.lower().endswith(SUFFIXES) else tuple(url.rsplit("/", 1))
    place = RemoteFolder(folder)
    there = {name: place.version(name)} if name else place.files()
    if MANIFEST in there:
        return RemoteFiles.open_stored(place.fetch(MANIFEST, there[MANIFEST]), whence=folder)
    digest = hashlib.blake2b(json.dumps(there).encode(), digest_size=8).hexdigest()
    remembered = place.copies("scans") / f"{digest}.parquet"
    if remembered.is_file() and not name:
        return RemoteFiles.open_stored(remembered)
    manifest, skipped = scan_remote(place, there, progress=progress)
    refused |= told_of(skipped)
    if not len(manifest):
        raise ValueError(f"{url} holds no sound that can be used: {next(iter(refused.values()))}.")
    manifest.write(remembered)
    return manifest


def _corpus(address: str, progress: bool) -> Manifest:
    """By the manifest or the shards in its folder, else by the corpus's reader."""
    name, place = corpora.split_address(address)
    if is_url(place or ""):
        if name == SYNTH or address_kind(str(place)) == "URL":
            return open_sound(str(place), progress=progress)
        return _fetched(name, str(place).rstrip("/"), progress)
    root = path_of(place) if place else corpora.place_of(name)
    if root.is_file() or root.suffix == ".parquet":
        return _stored(root, None)
    if (root / MANIFEST).is_file():
        return _stored(root / MANIFEST, None)
    if root.is_dir() and is_sharded(root):
        return Shards.open_folder(root)
    if name == SYNTH:
        raise FileNotFoundError(f"There is no manifest {root / MANIFEST}; make it with `groundbass data synth {root}`.")
    return corpora.manifest(name, root, progress)


def _fetched(name: str, url: str, progress: bool) -> Manifest:
    """A corpus behind a URL: by its manifest, else its folder is fetched for its reader."""
    place = RemoteFolder(url)
    if MANIFEST in place.files():
        return _remote(url, {}, progress)
    version = place.fetch_all(progress)
    tracks = list(corpora.manifest(name, place.copies(version), progress))
    return RemoteFiles.of(tracks, place, {track.path: version for track in tracks})


def _corpus_in(address: str) -> str | None:
    """The corpus that CORPUS:ROOT names, or CORPUS where no file or folder is called so."""
    if plugins.named(address) is not None:
        return corpora.split_address(address)[0]
    name, colon, root = address.partition(":")
    known = name in corpora.names() or name == SYNTH
    return name if known and (root or (not colon and not Path(name).exists())) else None


def _rows(table: Path) -> dict[str, dict[str, object]]:
    rows = read_labels(table) or {}
    if not rows:
        raise ValueError(f"{table} names no file: give a CSV with a column `path`, relative to its folder.")
    return rows


def _bar(files: Sequence[Path], progress: bool) -> Sequence[Path]:
    bar: Sequence[Path] = tqdm(files, unit="file", desc="headers", disable=not progress or len(files) < MANY)
    return bar


def _is_data_set(folder: Path) -> bool:
    """Not where audio files or a labels.csv lie in the folder too: a tar beside them may be anything."""
    own = any(entry.name == "labels.csv" or entry.suffix.lower() in SUFFIXES for entry in folder.iterdir())
    return not own and is_dataset(folder)


def _is_parquet(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as opened:
        return opened.read(4) == b"PAR1"
