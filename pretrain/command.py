"""`groundbass pretrain ADDRESS --data MANIFEST --run RUN [overrides]`, and the same by `accelerate launch`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from ..data.collections import mixed as mixture
from ..data.storage.hf_dataset import is_dataset
from ..data.storage.shards import is_sharded, open_data
from ..data.track import metadata_of, place_from
from . import distributed
from .distributed import STOPPED
from .objective import Objective
from .recipe import Recipe, addresses, find
from .run.record import manifest_hash, write_json
from .train import train

USAGE = """usage: groundbass pretrain ADDRESS --data MANIFEST[=WEIGHT]… --run RUN [--avoid CORPUS:ROOT] [--init ENCODER]
                           [--optim.lr 2e-4] …
       groundbass pretrain --from RUN/recipe.json --run NEW [--data MANIFEST]
       groundbass pretrain ADDRESS --dry-run
       groundbass pretrain ADDRESS --help      every field of the recipe
       groundbass pretrain --list              every recipe

Pretrain a recipe on a manifest. The same --run folder goes on where it stopped.
On several GPUs: accelerate launch --config_file pretrain/launch/ddp.yaml -m groundbass.pretrain ADDRESS ..."""

PLACES = ("--data", "--run", "--root", "--avoid", "--same", "--dry-run")


@dataclass(frozen=True)
class Options:
    """Pretrain a recipe on a manifest. The same --run folder goes on where it stopped."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    """what is learned"""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DATA[=WEIGHT]")] = ()
    """a manifest (Parquet), a folder of shards, a data set of the library `datasets` (saved to disk, Parquet with a
    column of audio, WebDataset), or a folder of audio, which is scanned into RUN/manifest.parquet; or several
    manifests with weights, as in music.parquet=2 speech.parquet=0.5: how often each is heard for its length"""
    same: Literal["bytes", "sound"] = "bytes"
    """what several manifests share is heard once: files of the same bytes, or the same sound (found by fingerprints,
    re-encoded or cut)"""
    run: Path | None = None
    """the run's folder; one that holds this run already goes on"""
    root: Path | None = None
    """where the manifest's paths begin, if the audio has moved"""
    avoid: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="B")] = ()
    """leave out recordings that B holds too, found by their sound: a manifest, a folder, or CORPUS:ROOT such as
    gtzan:~/data/gtzan (or gtzan, in $GROUNDBASS_DATA); may be given several times"""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """print what would be trained (parameters, hours, steps) and stop"""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code: 0, or 75 where the same command goes on (SIGTERM, a lost rank).

    Raises ValueError or OSError with a sentence for the user; tyro exits with 2 on unknown or malformed overrides.
    """
    if "--list" in argv:
        return _list()
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    argv = _repeated(argv) if argv[0] == "--from" else argv
    address, words = argv[0], argv[1:]
    if address.startswith("-"):
        raise ValueError(f"The recipe's address comes first, before {address}; `groundbass pretrain --list` shows all.")
    options = tyro.cli(
        Options, args=words, default=Options(find(address)), prog=f"groundbass pretrain {address}"
    )  # fmt: skip
    if options.dry_run:
        print(_plan(address, options.recipe))
        return 0
    run = options.run
    if not options.data or run is None:
        missing = "--run RUN" if options.data else "--data MANIFEST"
        raise ValueError(f"{missing} is missing: groundbass pretrain {address} --data MANIFEST --run RUN.")
    return distributed.to_an_end(lambda: _pretrain(options, run, address, words))


def _pretrain(options: Options, run: Path, address: str, words: list[str]) -> int:
    manifest = mixture_of(options.data, run, options.same)
    if options.avoid:
        manifest = avoiding(manifest, options.avoid, run, options.root)
    overrides = list(_overrides(words))
    steps = train(options.recipe, manifest, run, root=options.root, address=address, overrides=overrides)
    if steps < options.recipe.steps:
        return STOPPED
    if distributed.rank() == 0:
        print(
            f"Done: {steps} steps. Encoder: {run / 'encoder'}; losses: {run / 'loss.jsonl'}.\n"
            f"Next: groundbass probe {shlex.quote(str(run))} folder:PATH --label COLUMN   "
            "(or synth:CORPUS, gtzan_genre, …)"
        )
    return 0


def _list() -> int:
    known = addresses()
    width = max((len(address) for address in known), default=0)
    for address, first_line in known.items():
        print(f"{address:{width}}  {first_line}")
    return 0


def _repeated(argv: list[str]) -> list[str]:
    """`--from RECIPE.JSON words` -> the address, its overrides, its manifest, and then the words (which win)."""
    if len(argv) < 2:
        raise ValueError("--from needs a file: groundbass pretrain --from RUN/recipe.json --run NEW.")
    path = Path(argv[1])
    record = json.loads(path.read_text(encoding="utf-8"))
    if not record.get("address"):
        raise ValueError(f"{path} names no address: its recipe was made in Python, not named on the command line.")
    return [record["address"], *record["overrides"], "--data", record["manifest"]["path"], *argv[2:]]


def _overrides(words: list[str]) -> Iterator[str]:
    """The words that change the recipe, without places: what `--from` gives again."""
    skip = False
    for word in words:
        if word.startswith("--"):
            skip = word.partition("=")[0].replace("_", "-") in PLACES
        if not skip:
            yield word


def scanned_once(data: Path, run: Path) -> Path:
    """The manifest; a folder of audio is scanned into the run first, once; shards and data sets are manifests."""
    if not data.is_dir() or is_sharded(data) or is_dataset(data):
        return data
    found = run / "manifest.parquet"
    distributed.join()
    with distributed.main_first():
        if found.exists() and (begun := folder_of(found)) != data.resolve():
            raise ValueError(
                f"{run} was begun on the audio in {begun}; it can't go on with {data}. Give the same --data, or "
                f"another --run; where the audio has moved, --data {found} --root {data}."
            )
        if not found.exists():
            from ..data.collections.scan import scan

            run.mkdir(parents=True, exist_ok=True)
            with redirect_stdout(sys.stderr):
                scan(data, found)
    return found


def folder_of(manifest: Path) -> Path:
    """The folder whose audio a manifest lists."""
    return Path(place_from(str(metadata_of(manifest).get("root", ".")), manifest)).resolve()


def mixture_of(data: Sequence[str], run: Path, same: Literal["bytes", "sound"] = "bytes") -> Path | str:
    """The one manifest, or several with their weights as RUN/manifest.mixed.parquet; made once.

    What was left out since an earlier manifest holds it too is counted in RUN/mixture.json, and a run that goes on must
    mix the same.
    """
    urls = [word for word in data if "://" in word]
    if urls and len(data) > 1:
        raise ValueError(f"{urls[0]} is a URL of shards: give it alone, or mix manifests before they are packed.")
    if urls:
        return urls[0]
    parts = [mixture.parse(word) for word in data]
    if len(parts) == 1:
        return scanned_once(parts[0].path, run)
    for part in parts:
        if part.path.is_dir():
            raise ValueError(f"{part.path} is a folder: several --data are manifests (groundbass data scan makes one).")
    made, listed = run / "manifest.mixed.parquet", run / "mixture.json"
    asked = {"data": list(data), "same": same}
    distributed.join()
    with distributed.main_first():
        if made.exists():
            told = json.loads(listed.read_text(encoding="utf-8"))
            if {name: told[name] for name in asked} != asked:
                raise ValueError(
                    f"{run} was begun on {' '.join(told['data'])} (--same {told['same']}); it can't go on with other "
                    "manifests or weights. Give the same, or another --run."
                )
            return made
        run.mkdir(parents=True, exist_ok=True)
        manifest, left_out = mixture.mixed(parts, by_sound=same == "sound")
        write_json(listed, asked | {"left_out": left_out})
        manifest.write(made)
        print(
            f"--data: {len(manifest)} tracks of {len(parts)} manifests; {sum(left_out.values())} that an earlier one "
            f"holds too were left out, see {listed}",
            file=sys.stderr,
        )
    return made


def avoiding(manifest: Path | str, avoid: Sequence[str], run: Path, root: Path | None = None) -> Path:
    """The manifest without the recordings that are in `avoid` too, as RUN/manifest.avoiding.parquet; made once.

    What was left out is listed in RUN/avoided.json, and a run that goes on must avoid the same.
    """
    from ..data.collections import overlap

    kept, listed = run / "manifest.avoiding.parquet", run / "avoided.json"
    distributed.join()
    with distributed.main_first():
        whole = open_data(manifest, root)
        if kept.exists():
            told = json.loads(listed.read_text(encoding="utf-8"))
            if told["avoid"] != list(avoid):
                raise ValueError(
                    f"{run} was begun avoiding {', '.join(told['avoid'])}; it can't go on avoiding {', '.join(avoid)}. "
                    "Give the same --avoid, or another --run."
                )
            if told.get("of", manifest_hash(whole)) != manifest_hash(whole):
                raise ValueError(
                    f"{run} was begun on {told['data']}, and {manifest} holds other tracks; give the same --data, or "
                    "another --run."
                )
            return kept
        run.mkdir(parents=True, exist_ok=True)
        hits = [hit for place in avoid for hit in overlap.find_overlap(whole, overlap.manifest_at(place)).hits]
        rest = overlap.without(whole, hits)
        if not len(rest):
            raise ValueError(f"Every track of {manifest} is in {', '.join(avoid)}: nothing is left to train on.")
        content: dict[str, Any] = {"avoid": list(avoid), "data": str(manifest), "of": manifest_hash(whole)}
        content["hits"] = [asdict(hit) for hit in hits]
        write_json(listed, content)
        rest.write(kept)
        print(f"--avoid: {len(whole) - len(rest)} of {len(whole)} tracks left out, see {listed}", file=sys.stderr)
    return kept


def _plan(address: str, recipe: Recipe) -> str:
    """Parameters, counted on the meta device (nothing is allocated), and the numbers derived from the recipe."""
    with torch.device("meta"):
        objective: Objective = recipe.objective.build()
    encoder = sum(parameter.numel() for parameter in objective.encoder.parameters())
    trained = sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad)
    rest = sum(parameter.numel() for parameter in objective.parameters()) - encoder
    lines = {
        "encoder": f"{encoder:,} parameters",
        "heads and the rest": f"{rest:,} parameters",
        "trained": f"{trained:,} parameters",
        "crop": f"{recipe.crop_seconds:.3f} s × {recipe.crops.views} view(s) at {recipe.crops.sample_rate} Hz",
        "step": f"{recipe.batch_size} crops = {recipe.seconds_per_step:.1f} s of audio",
        "run": f"{recipe.steps:,} steps = {recipe.total_hours:,.1f} h of audio",
        "optimiser": f"{recipe.optim.name}, lr {recipe.optim.lr:g}, {recipe.optim.warmup_steps} warm-up steps, "
        f"{recipe.optim.decay} after",
        "precision": recipe.precision,
    }
    width = max(map(len, lines))
    return "\n".join([address, *(f"  {name:{width}}  {value}" for name, value in lines.items())])
