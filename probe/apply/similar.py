"""`groundbass similar TABLE FILE…`: the recordings nearest to a file, in the terminal and on a page with players."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from einops import rearrange
from rich.console import Console
from sklearn.neighbors import NearestNeighbors

from ...data import parallel
from ...data.audio import read as audio
from ...data.collections.headers import from_headers
from ...data.track import cache_folder
from ...data.writing import write_text
from ...models.encoder import Encoder, load_encoder, usual_device
from ...models.loading import TINY, shipped
from ..listen.features import digest, identity
from ..pages.render import render
from ..report.table import Column, Table
from .embed import LAYER, embed, is_model_folder, read_about
from .embedding import Embedding, embed_parts, parts

PLAYABLE = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")  # by today's browsers
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """A stretch of a recording, in s."""

    path: str
    start: float
    end: float


@dataclass(frozen=True)
class Hit:
    """A recording near to a query: the stretches that are most alike, and the cosine of their vectors."""

    found: Place
    query: Place
    similarity: float


def similar(
    table: tyro.conf.Positional[Path],
    files: tyro.conf.Positional[tuple[Path, ...]],
    *,
    k: int = 10,
    layer: int | None = None,
    encoder: str | None = None,
    page: Path | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> list[tuple[Path, list[Any]]]:  # of `Hit`, with its file
    """Find the recordings nearest to a file among those that `groundbass embed` put into a table, or in a folder.

    Vectors are standardised over the table, then compared by their cosine, exactly. Files in the table are looked up;
    others are embedded first, with the table's own encoder and settings.

    Args:
        table: what `groundbass embed ENCODER FOLDER --out X.parquet` wrote, per track or per window (then the most
            similar moments are found); or a folder of audio, embedded first by --encoder, or groundbass-tiny.
        files: recordings to search for.
        k: how many to show for each.
        layer: only this layer of the table's, by its number there; its last by default.
        encoder: where the table's encoder lies now, if it was moved, or isn't a folder of ours: what a table names is
            looked up in folders only, and never run.
        page: also write this page (.html), to listen.
        device: cpu, cuda, cuda:1; a GPU where there is one. Files that aren't in the table are embedded there.
        trust_remote_code: run the Python that the encoder's folder or Hub repository brings; read it first.
    """
    if not files:
        raise ValueError("Similar to what? Give one or more audio files.")
    if k < 1:
        raise ValueError(f"--k must be at least 1, not {k}.")
    if page is not None and page.suffix != ".html":
        raise ValueError(f"--page {page}: it is a page, so its name ends in .html.")
    if table.is_dir():
        table, encoder = _made(table, encoder or TINY, device, trust_remote_code), encoder or TINY
    about = read_about(table)
    places, vectors = read_vectors(table, about, layer)
    index = Index(places, vectors)
    answers: list[tuple[Path, list[Any]]] = []
    strangers = [file for file in dict.fromkeys(files) if index.rows_of(file) is None]
    heard: dict[Path, tuple[list[Place], Vectors]] = {}
    place = parallel.place()
    if own := strangers[place.number :: place.count]:
        listener = _encoder(about, encoder, usual_device(device), trust_remote_code)
        heard = {file: _embedded(file, about, layer, listener) for file in own}
    for part in parallel.gathered(heard):
        heard |= part
    if not place.first:
        return answers
    console = Console()
    for file in files:
        query = index.rows_of(file)
        asked, values = heard[file] if query is None else ([places[row] for row in query], vectors[query])
        hits = index.nearest(asked, values, k)
        answers.append((file, hits))
        console.print(f"nearest to {file}, in {index.folder or table}", highlight=False, markup=False, soft_wrap=True)
        console.print(_table(hits, index.folder).terminal())
    if page is not None:
        told = f"{len(index.names):,} recordings, layer {_layer(about, layer)} of {about['encoder']}"
        write_page(page, answers, told, index.folder)
        console.print(f"Page: {page}", highlight=False, markup=False, soft_wrap=True)
    return answers


def read_vectors(table: Path, about: dict[str, Any], layer: int | None) -> tuple[list[Place], Vectors]:
    """A table's places and the vectors of one layer, [rows, width]."""
    if about["asked"]["unit"] == "frame":
        raise ValueError(f"{table} has a row per frame; embed with --unit track or --unit window to search.")
    names = ["path", "start", "end", f"{LAYER}{_layer(about, layer)}"]
    path, start, end, vectors = _npz(table, names) if table.suffix == ".npz" else _parquet(table, names)
    if len(path) < 2:
        raise ValueError(f"{table} has {len(path)} rows; a search needs at least two.")
    whole = path.ndim == start.ndim == end.ndim == vectors.ndim - 1 == 1 and vectors.shape[1] > 0
    whole = whole and path.dtype.kind == "U" and len(path) == len(start) == len(end) == len(vectors)
    if not whole or any(a.dtype.kind not in "fiu" or not np.isfinite(a).all() for a in (start, end, vectors)):
        raise ValueError(
            f"{table} isn't whole: its columns {', '.join(names)} have to be as long as each other, and "
            "hold names, then finite numbers. Embed the files again."
        )
    return [Place(*row) for row in zip(path.tolist(), start.tolist(), end.tolist())], vectors.astype(np.float32)


def _npz(table: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    with np.load(table) as held:
        _check_columns(table, names, held.files)
        return [held[name] for name in names]


def _parquet(table: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    _check_columns(table, names, pq.read_schema(table).names)
    read = pq.read_table(table, columns=list(names))
    path, start, end, vectors = (read[name].combine_chunks() for name in names)
    if pa.types.is_fixed_size_list(vectors.type) and not vectors.null_count:
        flat = vectors.flatten().to_numpy(zero_copy_only=False)
        rows = rearrange(flat, "(rows dim) -> rows dim", dim=vectors.type.list_size)
    else:
        rows = np.empty(0)
    return [*(np.array(column.to_pylist()) for column in (path, start, end)), rows]


def _check_columns(table: Path, wanted: Sequence[str], found: Sequence[str]) -> None:
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(f"{table} has no column {', '.join(missing)}, and has to have {', '.join(wanted)}.")


def _layer(about: dict[str, Any], layer: int | None) -> int:
    layers: list[int] = about["asked"]["layers"]
    if layer is None:
        return layers[-1]
    if layer not in layers:
        raise ValueError(f"--layer {layer}: the table has {', '.join(map(str, layers))}.")
    return layer


class Index:
    """Standardised vectors and where they come from."""

    def __init__(self, places: Sequence[Place], vectors: Vectors) -> None:
        self.places = list(places)
        self.names = list(dict.fromkeys(place.path for place in places))
        self.folder = _common_folder(self.names)
        self._rows: dict[str, list[int]] = {}
        for row, place in enumerate(places):
            self._rows.setdefault(os.path.realpath(place.path), []).append(row)
        self.mean = vectors.mean(axis=0, dtype=np.float64)
        spread = vectors.std(axis=0, dtype=np.float64)
        self.scale = np.where(spread > 1e-6 * max(float(spread.max()), 1e-12), spread, np.inf)  # constants say nothing
        self.search = NearestNeighbors(metric="cosine", algorithm="brute").fit(self._standard(vectors))

    def _standard(self, vectors: Vectors) -> Vectors:
        return ((vectors - self.mean) / self.scale).astype(np.float32)

    def rows_of(self, file: Path) -> list[int] | None:
        """The rows of a file that is in the table."""
        return self._rows.get(os.path.realpath(file))

    def nearest(self, asked: Sequence[Place], vectors: Vectors, k: int) -> list[Hit]:
        """The k nearest recordings other than the asked one, each by its most similar stretch, the nearest first."""
        own = os.path.realpath(asked[0].path)
        number = min(len(self.places), len(self._rows.get(own, ())) + k)
        best: dict[str, Hit] = {}
        while True:  # rows of one recording may fill the list, so that it has to grow
            distances, rows = self.search.kneighbors(self._standard(vectors), n_neighbors=number)
            best.clear()
            for query, line in enumerate(zip(distances, rows)):
                for distance, row in zip(*line):
                    found = self.places[int(row)]
                    hit = Hit(found, asked[query], 1 - float(distance))
                    old = best.get(found.path)
                    if os.path.realpath(found.path) != own and (old is None or hit.similarity > old.similarity):
                        best[found.path] = hit
            if len(best) >= k or number == len(self.places):
                return sorted(best.values(), key=lambda hit: -hit.similarity)[:k]
            number = min(len(self.places), 2 * number)


def _encoder(about: dict[str, Any], named: str | None, device: str, trust: bool) -> Encoder:
    """The encoder that the user names, else the table's, where that is a folder: nothing that a table says is run."""
    told = str(about["encoder"])
    if named is None and shipped(told) is None and not Path(told).is_dir():
        raise ValueError(
            f"The table was made by {told!r}, which is no folder here; a table may come from anyone, so it is not "
            "fetched and not run by itself: say where the encoder lies with --encoder."
        )
    heard = load_encoder(named or told, device, "float32", trust_remote_code=trust and named is not None)
    if identity(heard) != about["identity"]:
        raise ValueError(
            f"{named or told} isn't the encoder that made the table (its weights have changed, or it is another one); "
            "embed the folder again, or say where the old one lies with --encoder."
        )
    return heard


def _made(folder: Path, encoder: str, device: str | None, trust: bool) -> Path:
    """The table of a folder, in the cache; made anew where files or the encoder have changed.

    Raises:
        ValueError: the folder holds an encoder, or no sound.
    """
    if is_model_folder(folder):
        raise ValueError(f"{folder} holds a model, no table and no audio: similar TABLE FILE, or similar MUSIC FILE.")
    if not parallel.place().alone:
        raise ValueError(f"Several processes search in a table: groundbass embed {encoder} {folder} --out X.parquet.")
    table = cache_folder() / "similar" / f"{digest([str(folder.resolve()), encoder])}.parquet"
    table.parent.mkdir(parents=True, exist_ok=True)
    with redirect_stdout(sys.stderr):
        embed(encoder, (str(folder),), out=table, device=device, force=True, trust_remote_code=trust)
    return table


def _embedded(file: Path, about: dict[str, Any], layer: int | None, heard: Encoder) -> tuple[list[Place], Vectors]:
    """A file that isn't in the table, by the table's encoder and settings."""
    manifest = from_headers([file], {})
    asked = Embedding(**about["asked"] | {"layers": (_layer(about, layer),)})
    device = str(getattr(getattr(heard, "model", heard), "device", "cpu"))
    found = [
        rows
        for part in embed_parts(heard, manifest, list(parts(manifest, heard, asked)), asked, device=device)
        for rows in part
    ]
    places = [Place(str(file), float(s), float(e)) for rows in found for s, e in zip(rows.start, rows.end)]
    return places, np.concatenate([rows.values[:, 0] for rows in found])


def _common_folder(names: Sequence[str]) -> str:
    """The deepest folder that holds all of them, with its slash; empty where there is none."""
    try:
        folder = os.path.commonpath([os.path.dirname(name) for name in names])
    except ValueError:  # absolute and relative names
        return ""
    return os.path.join(folder, "") if folder else ""


def _table(hits: Sequence[Hit], folder: str) -> Table:
    head = (Column("", right=True), Column("similarity", right=True), "recording", Column("s", right=True, whole=True))
    rows = [
        (f"{rank}", f"{hit.similarity:.3f}", hit.found.path.removeprefix(folder),
         f"{hit.found.start:.1f}–{hit.found.end:.1f}")
        for rank, hit in enumerate(hits, 1)
    ]  # fmt: skip
    return Table(head, rows)


@dataclass(frozen=True)
class Player:
    """A stretch as the page plays it. source: a link with the stretch's times; None where the file is gone."""

    name: str
    place: str
    span: str
    source: str | None
    similarity: float = 1.0


def write_page(page: Path, answers: Sequence[tuple[Path, Sequence[Hit]]], about: str, folder: str) -> None:
    """A page with a player for every recording; it refers to the files where they are, relative to the page."""

    def player(place: Place, similarity: float = 1.0) -> Player:
        inside, _, name = place.path.removeprefix(folder).rpartition("/")
        span = f"{place.start:.1f}–{place.end:.1f} s"
        return Player(name, inside, span, _source(page, place), similarity)

    queries = [
        (file.name, player(hits[0].query) if hits else None, [player(hit.found, hit.similarity) for hit in hits])
        for file, hits in answers
    ]
    text = render("similar.html", about=about, queries=queries)
    write_text(page, text)


def _source(page: Path, place: Place) -> str | None:
    """A link to the stretch; what browsers don't decode is written as FLAC in PAGE.files/."""
    source = Path(place.path)
    if not source.is_file():
        return None
    part = f"#t={place.start:.2f},{place.end:.2f}"
    if source.suffix.lower() not in PLAYABLE:
        folder = page.with_suffix(".files")
        folder.mkdir(parents=True, exist_ok=True)
        rate = audio.info(source).sample_rate
        first = round(place.start * rate)
        sound = audio.read(source, None, first, round(place.end * rate) - first)
        source = folder / f"{source.name}.{first}.flac"
        audio.write(source, sound, rate)
        part = ""
    return quote(Path(os.path.relpath(source.resolve(), page.parent.resolve())).as_posix()) + part
