"""What a run hears: its --data as one manifest, kept where it had to be made, without what it must avoid."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from ...data.collections import mixed as mixture
from ...data.collections import overlap
from ...data.collections.scan import scan
from ...data.open import MANIFEST, Kind, address_kind, called, open_sound, path_of, say_left_out
from ...data.track import metadata_of, place_from
from .. import distributed
from .record import manifest_hash, read_json, write_json


def kept_manifest(data: str | Path, run: Path) -> str:
    """What to open at every start: what must be read first is kept as RUN/manifest.parquet, made once.

    Manifests, shards and data sets are opened as they are; files and folders are decoded, a corpus's annotations read.
    """
    data = str(data)
    kind = address_kind(data)
    if kind in ("manifest", "shards", "data set", "URL"):
        return data
    found, told = run / "manifest.parquet", run / "data.json"
    distributed.join()
    with distributed.main_first():
        if not found.exists():
            _keep(data, kind, run)
        elif (begun := _begun_on(found, told)) not in (str(path_of(data).resolve()), data):
            raise ValueError(
                f"{run} was begun on the audio in {begun}; it can't go on with {data}. Give the same --data, or "
                f"another --run; where the audio has moved, --data {found} --root {data}."
            )
    return str(found)


def _keep(data: str, kind: Kind, run: Path) -> None:
    """Write RUN/manifest.parquet; of a folder with the list of what was left out, of others with their address."""
    run.mkdir(parents=True, exist_ok=True)
    if kind == "folder" and not (path_of(data) / MANIFEST).is_file():
        with redirect_stdout(sys.stderr):
            scan(str(path_of(data)), run / "manifest.parquet")
        return
    refused: dict[str, str] = {}
    manifest = open_sound(data, refused=refused)
    say_left_out(data, refused)
    address = data if kind in ("corpus", "remote") else str(path_of(data).resolve())
    write_json(run / "data.json", {"data": address, "left_out": refused})
    manifest.write(run / "manifest.parquet")


def _begun_on(manifest: Path, told: Path) -> str:
    """The address, or the folder, of the audio that a run's manifest lists."""
    if told.exists():
        return str(read_json(told, data=str)["data"])
    return str(Path(place_from(str(metadata_of(manifest).get("root", ".")), manifest)).resolve())


def mixture_of(data: Sequence[str], run: Path, same: Literal["bytes", "sound"] = "bytes") -> str:
    """The one address (see `kept_manifest`), or several with their weights as RUN/manifest.mixed.parquet; made once.

    What was left out since an earlier manifest holds it too is counted in RUN/mixture.json, and a run that goes on must
    mix the same.
    """
    parts = [mixture.parse(word) for word in data]
    if len(parts) == 1:
        return kept_manifest(parts[0].address, run)
    for part in parts:
        if (kind := address_kind(part.address)) in ("URL", "remote", "shards", "data set"):
            named = f"{part.address} (a {called(kind)})"
            raise ValueError(f"{named} is given with others: give it alone, or mix before packing.")
    made, listed = run / "manifest.mixed.parquet", run / "mixture.json"
    asked = {"data": list(data), "same": same}
    distributed.join()
    with distributed.main_first():
        if made.exists():
            told = read_json(listed, data=list, same=str)
            if {name: told[name] for name in asked} != asked:
                raise ValueError(
                    f"{run} was begun on {' '.join(map(str, told['data']))} (--same {told['same']}); it can't go on "
                    "with other manifests or weights. Give the same, or another --run."
                )
            return str(made)
        run.mkdir(parents=True, exist_ok=True)
        manifest, left_out = mixture.mixed(parts, by_sound=same == "sound")
        write_json(listed, asked | {"left_out": left_out})
        manifest.write(made)
        print(
            f"--data: {len(manifest)} tracks of {len(parts)} manifests; {sum(left_out.values())} that an earlier one "
            f"holds too were left out, see {listed}",
            file=sys.stderr,
        )
    return str(made)


def only_splits(manifest: Path | str, splits: Sequence[str], run: Path, root: str | Path | None = None) -> Path:
    """The tracks of some splits, as RUN/manifest.splits.parquet; the same tracks at every start, or the run refuses.

    Raises:
        ValueError: the manifest has no track of one of them.
    """
    kept = run / "manifest.splits.parquet"
    distributed.join()
    with distributed.main_first():
        whole = open_sound(manifest, root)
        of = whole.column("split")
        there = Counter(str(split) for split in of if split is not None)
        if missing := [split for split in splits if split not in there]:
            named = ", ".join(f"{split} ({count} tracks)" for split, count in there.items()) or "none at all"
            raise ValueError(f"--splits {missing[0]}: {manifest} has no track of that split; it has {named}.")
        if distributed.rank() == 0:
            run.mkdir(parents=True, exist_ok=True)
            whole.select([row for row, split in enumerate(of) if split in splits]).write(kept)
    return kept


def avoiding(manifest: Path | str, avoid: Sequence[str], run: Path, root: str | Path | None = None) -> Path:
    """The manifest without the recordings that are in `avoid` too, as RUN/manifest.avoiding.parquet; made once.

    What was left out is listed in RUN/avoided.json, and a run that goes on must avoid the same.
    """
    kept, listed = run / "manifest.avoiding.parquet", run / "avoided.json"
    distributed.join()
    with distributed.main_first():
        whole = open_sound(manifest, root)
        if kept.exists():
            told = read_json(listed, avoid=list, data=str)
            if told["avoid"] != list(avoid):
                raise ValueError(
                    f"{run} was begun avoiding {', '.join(map(str, told['avoid']))}; it can't go on avoiding "
                    f"{', '.join(avoid)}. Give the same --avoid, or another --run."
                )
            if told.get("of", manifest_hash(whole)) != manifest_hash(whole):
                raise ValueError(
                    f"{run} was begun on {told['data']}, and {manifest} holds other tracks; give the same --data, or "
                    "another --run."
                )
            return kept
        run.mkdir(parents=True, exist_ok=True)
        hits = [hit for place in avoid for hit in overlap.find_overlap(whole, open_sound(place)).hits]
        rest = overlap.without(whole, hits)
        if not len(rest):
            raise ValueError(f"Every track of {manifest} is in {', '.join(avoid)}: nothing is left to train on.")
        content: dict[str, Any] = {"avoid": list(avoid), "data": str(manifest), "of": manifest_hash(whole)}
        content["hits"] = [asdict(hit) for hit in hits]
        write_json(listed, content)
        rest.write(kept)
        print(f"--avoid: {len(whole) - len(rest)} of {len(whole)} tracks left out, see {listed}", file=sys.stderr)
    return kept
