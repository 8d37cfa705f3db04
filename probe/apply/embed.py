"""`groundbass embed ENCODER FILES…`: anyone's audio as a table of vectors, in Parquet or NumPy's .npz.

Parts of about ten minutes of sound are written beside the table as they are done, so a killed job goes on; the last
one joins them. What can't be read is left out, counted and listed.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from einops import rearrange

from ...data.audio.read import SUFFIXES
from ...data.collections.scan import plain_cell
from ...data.locks import alone
from ...data.open import POSSIBLE, open_several, path_of
from ...data.parallel import Part
from ...data.track import Manifest
from ...data.writing import write_text, written
from ...models.encoder import Encoder, load_encoder, usual_device
from ...models.loading import TINY, shipped
from ...progress import tqdm
from ...reading import json_in
from ..listen.features import digest, identity
from .embedding import Embedding, Piece, Rows, Unit, chosen_layers, embed_parts, parts

VERSION = 1
METADATA = b"groundbass"
LAYER = "layer_"  # columns are named layer_<number>
MOST_SECONDS = 1e6  # of a window that a table may speak of


def embed(
    encoder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[ENCODER]")],
    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILES_OR_FOLDER…")] = (),
    *,
    out: Path,
    layers: tuple[int, ...] | Literal["all"] = (-1,),
    unit: Unit = "track",
    pooling: Literal["mean", "mean+std"] = "mean",
    window_seconds: float = 10.0,
    overlap_seconds: float = 0.0,
    device: str | None = None,
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    batch_seconds: float = 80.0,
    threads: int = 2,
    force: bool = False,
    part: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Turn recordings of any length into vectors: a table with path, start, end and one column per layer.

    The same command goes on where it was killed. Files that can't be read are left out and listed in
    OUT.skipped.csv. `pandas.read_parquet(OUT)` and `datasets` open the table; numpy.load opens an .npz.

    Args:
        encoder: a run, a published folder, a Hub name, any Hugging Face audio model, or file.py:Class; without one
            groundbass-tiny, which ships with the package.
        sources: audio files and folders (at any depth); or one manifest (.parquet, .csv), folder or URL of shards, data
            set of the library `datasets`, or CORPUS:ROOT.
        out: X.parquet, or X.npz.
        layers: which layers, 0 being the front end; negative numbers count from the end; all. A model card or
            `groundbass report` says which layer suits which task.
        unit: one vector per track, per window, or per frame.
        pooling: of the frames of a track or window: mean, or mean and standard deviation (twice as wide).
        window_seconds: longer tracks are heard in equal windows of at most this length.
        overlap_seconds: what neighbouring windows share, so that no frame lies at an edge.
        device: cpu, cuda, cuda:1; a GPU where there is one.
        dtype: of the weights; vectors are float32 in any case.
        batch_seconds: of sound per call of the encoder; less needs less memory.
        threads: threads that decode.
        force: replace OUT where it is another table.
        part: embed a share of the recordings only, for job arrays; afterwards the same command without it writes OUT.
        trust_remote_code: run the Python that the encoder's folder or Hub repository brings; read it first.
    """
    if out.suffix not in (".parquet", ".npz"):
        raise ValueError(f"--out {out}: the ending says what to write, .parquet or .npz.")
    if batch_seconds <= 0:
        raise ValueError(f"--batch-seconds must be above 0, not {batch_seconds:g}.")
    encoder, sources = with_shipped(encoder, sources)
    device = usual_device(device)
    weights = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[dtype]
    heard = load_encoder(encoder, device, weights, trust_remote_code=trust_remote_code)
    asked = Embedding(chosen_layers(heard, layers), unit, pooling, window_seconds, overlap_seconds)
    refused: dict[str, str] = {}
    manifest = open_several(sources, refused)
    manifest.check_rate(heard.sample_rate)
    about = describe(heard, encoder, asked, dtype)
    key = digest([about, manifest.column("key").tolist(), manifest.hashes()])
    share = Part.of(part)
    with alone(out.with_name(f".{out.name}{'' if share is None else f'.{share}'}.lock"), str(out)):
        if _finished(out, key, force):
            shutil.rmtree(out.with_name(f".{out.name}.parts"), ignore_errors=True)
            print(f"{out} is there already, from the same files, encoder and settings.")
        else:
            means = device, batch_seconds, threads
            _write_table(out, heard, manifest, asked, about | {"key": key}, refused, means, share)
    if share is not None:
        return {"out": out, "part": str(share)}
    return {"out": out, "tracks": len(manifest), "width": asked.width(heard.dim), **_held(out), **asked.to_json()}


def with_shipped(encoder: str, sources: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Encoder and sound; where the first word is sound already, the encoder is the one that ships."""
    path = path_of(encoder)
    sounds = path.suffix.lower() in (*SUFFIXES, ".parquet", ".csv") if path.is_file() else path.is_dir()
    if sources and not (sounds and not is_model_folder(path)):
        return encoder, tuple(sources)
    if shipped(encoder) is not None or is_model_folder(path):
        raise ValueError(f"Which sound shall {encoder} hear? Give {POSSIBLE}.")
    print(f"No encoder is named: {TINY} hears.", file=sys.stderr)
    return TINY, (encoder, *sources)


def is_model_folder(path: Path) -> bool:
    """Whether a folder is meant as an encoder, not as one of audio."""
    return any((path / name).exists() for name in ("config.json", "recipe.json", "encoder"))


def _held(out: Path) -> dict[str, int]:
    """Rows of a table, and of the list of what was left out of it."""
    listed = out.with_name(f"{out.name}.skipped.csv")
    skipped = len(listed.read_text(encoding="utf-8", errors="replace").splitlines()) - 1 if listed.is_file() else 0
    if out.suffix == ".npz":
        with np.load(out) as held:
            return {"rows": len(held["path"]), "skipped": skipped}
    return {"rows": pq.read_metadata(out).num_rows, "skipped": skipped}


def _write_table(
    out: Path,
    heard: Encoder,
    manifest: Manifest,
    asked: Embedding,
    about: dict[str, Any],
    refused: dict[str, str],
    means: tuple[str, float, int],
    share: Part | None,
) -> None:
    """The table, part by part, and the list of what was left out. means: device, seconds per call, threads."""
    device, batch_seconds, workers = means
    folder = out.with_name(f".{out.name}.parts")
    plan = list(parts(manifest, heard, asked))
    wanted = range(len(plan)) if share is None else share.rows(len(plan))
    missing = _begun(folder, about["key"], wanted)
    with tqdm(
        total=_seconds([plan[number] for number in wanted], heard.sample_rate), unit="s", desc="embed", unit_scale=True
    ) as bar:
        left = _seconds([plan[number] for number in missing], heard.sample_rate)
        bar.update(_seconds([plan[number] for number in wanted], heard.sample_rate) - left)
        failures: list[tuple[str, str]] = []
        made = embed_parts(
            heard, manifest, [plan[number] for number in missing], asked,
            device=device, batch_seconds=batch_seconds, workers=workers,
            failed=lambda row, why: failures.append((manifest[row].path, why)), heard=bar.update,
        )  # fmt: skip
        for number, rows in zip(missing, made, strict=True):
            table = _table(rows, manifest, asked, asked.width(heard.dim), failures)
            with written(folder / f"{number:06d}.parquet", locked=True) as beside:
                pq.write_table(table, beside)
            failures.clear()
    if share is not None:
        print(share.told(out))
        return
    skipped = [*refused.items(), *_failed(folder, len(plan))]
    _list(skipped, out.with_name(f"{out.name}.skipped.csv"))  # before the table: a table that is there is whole
    rows_written = _join(folder, len(plan), out, about, asked, heard)
    shutil.rmtree(folder)
    print(
        f"{out}: {rows_written:,} rows from {len(manifest) - len(dict(skipped)) + len(refused):,} tracks, "
        f"{', '.join(f'{LAYER}{layer}' for layer in asked.layers)} of {asked.width(heard.dim)} numbers."
    )
    if skipped:
        print(
            f"{len(dict(skipped))} tracks could not be read, wholly or in part: {out}.skipped.csv has the reasons.",
            file=sys.stderr,
        )
    if not rows_written:
        raise ValueError(f"Nothing could be read: the first reason is: {skipped[0][1]}")


def describe(encoder: Encoder, name: str, asked: Embedding, dtype: str) -> dict[str, Any]:
    """What a table says about itself, in its metadata."""
    place = str(Path(name).resolve()) if Path(name).exists() else name
    about = {"kind": "embeddings", "version": VERSION, "encoder": place, "dtype": dtype}
    return about | {"identity": identity(encoder), "asked": asked.to_json()}


def read_about(path: Path) -> dict[str, Any]:
    """The metadata of a table.

    Raises:
        FileNotFoundError: it isn't there.
        ValueError: it is none of ours.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {path}: `groundbass embed ENCODER FILES --out {path}` makes one.")
    about: dict[str, Any] = {}
    try:
        if path.suffix == ".npz":
            with np.load(path) as held:
                about = json_in(str(held["about"]), path) if "about" in held else {}
        else:
            about = json_in((pq.read_schema(path).metadata or {}).get(METADATA, b"{}"), path)
    except (OSError, ValueError, zipfile.BadZipFile):
        about = {}
    if not isinstance(about, dict) or about.get("kind") != "embeddings":
        raise ValueError(
            f"{path} is no table of embeddings: `groundbass embed ENCODER FILES --out X.parquet` makes one."
        )
    wrong = _wrong(about)
    if wrong:
        raise ValueError(f"{path} is no whole table of embeddings: its metadata say {wrong}. Embed the files again.")
    return about


def _wrong(about: dict[str, Any]) -> str:
    """What of a table's metadata, which may be anyone's, isn't what `embed` writes; empty where all is."""
    asked, kinds = about.get("asked"), get_type_hints(Embedding)
    if not isinstance(asked, dict) or not {"layers", "unit"} <= asked.keys() <= kinds.keys():
        return f"asked = {str(asked)[:200]!r}"
    for name, value in asked.items():
        if name == "layers":
            fine = isinstance(value, list) and value and all(type(n) is int and n >= 0 for n in value)
        elif kinds[name] is float:
            fine = type(value) in (int, float) and 0 <= value <= MOST_SECONDS
        else:
            fine = value in get_args(kinds[name])
        if not fine:
            return f"asked.{name} = {str(value)[:200]!r}"
    for name, kind in (("encoder", str), ("identity", dict)):
        if not isinstance(about.get(name), kind):
            return f"{name} = {str(about.get(name))[:200]!r}"
    return ""


def _finished(out: Path, key: str, force: bool) -> bool:
    if not out.exists():
        return False
    try:
        if read_about(out).get("key") == key:
            return True
    except ValueError:
        pass
    if force:
        return False
    raise FileExistsError(f"{out} exists and holds something else; choose another --out, or replace it with --force.")


def _begun(folder: Path, key: str, wanted: range) -> list[int]:
    """Which of the wanted parts aren't done; a folder of other files or settings is cleared."""
    note = folder / "key"
    with alone(folder.with_name(f"{folder.name}.lock"), str(folder), wait=True):  # several jobs may begin at once
        if not note.is_file() or note.read_text() != key:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_text(note, key)
    missing = [number for number in wanted if not (folder / f"{number:06d}.parquet").is_file()]
    if len(missing) < len(wanted):
        print(f"going on after {len(wanted) - len(missing)} of {len(wanted)} parts", file=sys.stderr)
    return missing


def _seconds(plan: Sequence[list[Piece]], rate: int) -> float:
    return sum(window.samples for part in plan for piece in part for window in piece.windows) / rate


def _schema(asked: Embedding, width: int) -> pa.Schema:
    fields = [("path", pa.string()), ("start", pa.float64()), ("end", pa.float64())]
    return pa.schema([*fields, *((f"{LAYER}{layer}", pa.list_(pa.float32(), width)) for layer in asked.layers)])


def _table(
    rows: list[Rows], manifest: Manifest, asked: Embedding, width: int, failures: list[tuple[str, str]]
) -> pa.Table:
    schema = _schema(asked, width).with_metadata({METADATA: json.dumps({"failed": failures})})
    if not rows:
        return schema.empty_table()
    values = np.concatenate([part.values for part in rows])
    tracks = [manifest[part.row] for part in rows]
    names = [str(manifest.path_of(track)) if manifest.has_files else track.path for track in tracks]
    columns = [
        pa.array(np.repeat(np.array(names, dtype=object), [len(part.start) for part in rows]), pa.string()),
        pa.array(np.concatenate([part.start for part in rows])),
        pa.array(np.concatenate([part.end for part in rows])),
        *(
            pa.FixedSizeListArray.from_arrays(np.ascontiguousarray(values[:, k]).reshape(-1), width)
            for k in range(len(asked.layers))
        ),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _parts(folder: Path, number: int) -> Iterator[pq.ParquetFile]:
    for k in range(number):
        yield pq.ParquetFile(folder / f"{k:06d}.parquet")


def _failed(folder: Path, number: int) -> list[tuple[str, str]]:
    found = []
    for part in _parts(folder, number):
        found += json_in(part.schema_arrow.metadata[METADATA], folder)["failed"]
    return [(path, why) for path, why in found]


def _join(folder: Path, number: int, out: Path, about: dict[str, Any], asked: Embedding, encoder: Encoder) -> int:
    """All parts as one file, written beside and renamed; the number of rows."""
    schema = _schema(asked, asked.width(encoder.dim)).with_metadata({METADATA: json.dumps(about)})
    with written(out, locked=True) as beside:
        if out.suffix == ".npz":
            return _join_npz(folder, number, beside, about, schema)
        rows = 0
        with pq.ParquetWriter(beside, schema) as writer:
            for part in _parts(folder, number):
                rows += part.metadata.num_rows
                writer.write_table(part.read().replace_schema_metadata(schema.metadata))
    return rows


def _join_npz(folder: Path, number: int, beside: Path, about: dict[str, Any], schema: pa.Schema) -> int:
    """One column in memory at a time."""
    rows = 0
    with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in schema.names:
            column = pa.chunked_array(
                [c for part in _parts(folder, number) for c in part.read([name])[name].chunks], schema.field(name).type
            )
            rows = len(column)
            if name.startswith(LAYER):
                width = schema.field(name).type.list_size
                flat = [chunk.flatten().to_numpy() for chunk in column.chunks] or [np.empty(0, np.float32)]
                array = rearrange(np.concatenate(flat), "(rows dim) -> rows dim", dim=width)
            else:
                array = np.array(column.to_pylist(), dtype=str if name == "path" else np.float64)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        with archive.open("about.npy", "w") as file:
            np.lib.format.write_array(file, np.array(json.dumps(about)), allow_pickle=False)
    return rows


def _list(skipped: Sequence[tuple[str, str]], path: Path) -> None:
    """OUT.skipped.csv where there is something to list."""
    if not skipped:
        path.unlink(missing_ok=True)
        return
    with (
        written(path, locked=True) as beside,
        beside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["path", "reason"])
        writer.writerows([plain_cell(cell) for cell in line] for line in skipped)
