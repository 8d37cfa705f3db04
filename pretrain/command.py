"""`groundbass pretrain ADDRESS --data MANIFEST --run RUN [overrides]`, and the same by `accelerate launch`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from .. import arguments, plugins
from . import distributed
from .contract import check
from .distributed import STOPPED
from .objective import Objective
from .recipe import Recipe, addresses, find
from .run.heard import avoiding, mixture_of, only_splits
from .run.probing import check_tasks
from .run.record import asked_of, last_loss
from .train import train

USAGE = """usage: groundbass pretrain ADDRESS --data MANIFEST[=WEIGHT]… --run RUN [--avoid CORPUS:ROOT]
                           [--splits train valid] [--init ENCODER] [--optim.lr 2e-4] …
       groundbass pretrain --from RUN/recipe.json --run NEW [--data MANIFEST]
       groundbass pretrain ADDRESS --dry-run
       groundbass pretrain ADDRESS --help      every field of the recipe
       groundbass pretrain check ADDRESS       what is wrong with a recipe and objective of your own
       groundbass pretrain --list              every recipe

ADDRESS is a recipe of the list, or my_recipes.py:tiny, a function that returns a Recipe.

Pretrain a recipe on a manifest. The same --run folder goes on where it stopped.
On several GPUs: groundbass launch ddp --gpus 8 -- pretrain ADDRESS …"""

PLACES = ("--data", "--run", "--root", "--avoid", "--splits", "--same", "--device", "--dry-run", "--json")


@dataclass(frozen=True)
class Options:
    """Pretrain a recipe on a manifest. The same --run folder goes on where it stopped."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    """what is learned"""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DATA[=WEIGHT]")] = ()
    """a manifest (.parquet), a folder or URL of shards, a data set of the library `datasets` (saved to disk, Parquet
    with a column of audio, WebDataset); or a file or folder of audio, a .csv with a column `path`, CORPUS:ROOT, which
    are read into RUN/manifest.parquet; or several with weights, as in music.parquet=2 speech.parquet=0.5: how often
    each is heard for its length"""
    same: Literal["bytes", "sound"] = "bytes"
    """what several manifests share is heard once: files of the same bytes, or the same sound (found by fingerprints,
    re-encoded or cut)"""
    run: Path | None = None
    """the run's folder; one that holds this run already goes on"""
    root: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """where the manifest's paths begin, if the audio has moved"""
    avoid: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="B")] = ()
    """leave out recordings that B holds too, found by their sound: whatever --data takes, such as
    gtzan:~/data/gtzan (or gtzan, in $GROUNDBASS_DATA); may be given several times"""
    splits: tuple[str, ...] = ()
    """hear only the tracks of these splits of the manifest, such as train valid; without it all are heard, and a probe
    of test tracks that were heard says that it is transductive"""
    device: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """cpu, cuda; a GPU where there is one. Of several, CUDA_VISIBLE_DEVICES chooses"""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """print what would be trained (parameters, hours, steps) and stop"""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """print JSON and nothing else"""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code: 0, or 75 where the same command goes on (SIGTERM, a lost rank).

    Raises:
        ValueError: an option or a file is wrong.
        OSError: a file can't be read or written.
    """
    if "--list" in argv:
        return _list("--json" in argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    if argv[0] == "check":
        arguments.run(check, argv[1:], "groundbass pretrain check").hold_all()
        return 0
    argv = _repeated(argv) if argv[0] == "--from" else argv
    address, words = argv[0], argv[1:]
    if address.startswith("-"):
        raise ValueError(f"The recipe's address comes first, before {address}; `groundbass pretrain --list` shows all.")
    options = chosen(address, words)[1]
    if options.dry_run:
        _check_probes(options.recipe)
        if options.json:
            arguments.say({"recipe": address, **figures(options.recipe)})
        else:
            print(_plan(address, options.recipe))
        return 0
    run = options.run
    if not options.data or run is None:
        missing = "--run RUN" if options.data else "--data MANIFEST"
        raise ValueError(f"{missing} is missing: groundbass pretrain {address} --data MANIFEST --run RUN.")
    return distributed.to_an_end(lambda: _pretrain(options, run, address, words))


def chosen(recipe: str | Recipe, words: list[str]) -> tuple[str | None, Options]:
    """The recipe's address (None: it was made in Python) and what the words make of it.

    Raises:
        ValueError: there is no such recipe, or a word isn't understood.
    """
    address = recipe if isinstance(recipe, str) else None
    begin = find(recipe) if isinstance(recipe, str) else recipe
    return address, arguments.read(Options, words, f"groundbass pretrain {address or ''}".rstrip(), Options(begin))


def pretrain(options: Options, address: str | None, words: list[str]) -> int:
    """Train, and return the steps that are done.

    Raises:
        ValueError: the folder holds another run, there is no --run, or no such device.
    """
    if options.run is None:
        raise ValueError("Where to? Name the run's folder.")
    _check_probes(options.recipe)
    with distributed.placed(options.device):
        manifest = mixture_of(options.data, options.run, options.same)
        if options.splits:
            manifest = str(only_splits(manifest, options.splits, options.run, options.root))
        if options.avoid:
            manifest = str(avoiding(manifest, options.avoid, options.run, options.root))
        overrides = list(_overrides(words)) if address is not None else []
        return train(options.recipe, manifest, options.run, root=options.root, address=address, overrides=overrides)


def _check_probes(recipe: Recipe) -> None:
    if recipe.probe_every:
        check_tasks(recipe.probe_tasks)


def _pretrain(options: Options, run: Path, address: str, words: list[str]) -> int:
    with arguments.aside(options.json):
        steps = pretrain(options, address, words)
    if steps < options.recipe.steps:
        return STOPPED
    if distributed.rank() == 0 and options.json:
        arguments.say({"run": run, "steps": steps, "encoder": run / "encoder", "last_loss": last_loss(run)})
    elif distributed.rank() == 0:
        print(
            f"Done: {steps} steps. Encoder: {run / 'encoder'}; losses: {run / 'loss.jsonl'}.\n"
            f"Next: groundbass probe {shlex.quote(str(run))} folder:PATH --label COLUMN   "
            "(or synth:CORPUS, gtzan_genre, …)"
        )
    return 0


def _list(json: bool) -> int:
    known = addresses()
    offered = {name: f"of {plugins.origin(entry)}" for name, entry in plugins.installed("recipes").items()}
    if json:
        arguments.say(list((known | offered).items()))
        return 0
    width = max(map(len, [*known, *offered]), default=0)
    for address, line in (known | offered).items():
        print(f"{address:{width}}  {line}")
    return 0


def _repeated(argv: list[str]) -> list[str]:
    """`--from RECIPE.JSON words` -> the address, its overrides, its manifest, and then the words (which win)."""
    if len(argv) < 2:
        raise ValueError("--from needs a file: groundbass pretrain --from RUN/recipe.json --run NEW.")
    record = asked_of(Path(argv[1]), "--from takes the recipe.json of a run")
    return [record["address"], *record["overrides"], "--data", record["manifest"]["path"], *argv[2:]]


def _overrides(words: list[str]) -> Iterator[str]:
    """The words that change the recipe, without places: what `--from` gives again."""
    skip = False
    for word in words:
        if word.startswith("--"):
            skip = word.partition("=")[0].replace("_", "-") in PLACES
        if not skip:
            yield word


def figures(recipe: Recipe) -> dict[str, Any]:
    """Parameters, counted on the meta device (nothing is allocated), and the numbers derived from the recipe."""
    with torch.device("meta"):
        objective: Objective = recipe.objective.build()
    encoder = sum(parameter.numel() for parameter in objective.encoder.parameters())
    trained = sum(parameter.numel() for parameter in objective.parameters() if parameter.requires_grad)
    rest = sum(parameter.numel() for parameter in objective.parameters()) - encoder
    return {
        "parameters": {"encoder": encoder, "rest": rest, "trained": trained},
        "crop_seconds": recipe.crop_seconds,
        "views": recipe.crops.views,
        "sample_rate": recipe.crops.sample_rate,
        "batch_size": recipe.batch_size,
        "audio_seconds_per_step": recipe.seconds_per_step,
        "steps": recipe.steps,
        "audio_hours": recipe.total_hours,
        "precision": recipe.precision,
        "notes": recipe.cautions(1),
    }


def _plan(address: str, recipe: Recipe) -> str:
    """`figures` and the optimiser, for people."""
    known = figures(recipe)
    later = "".join(f"; from step {one.begin:,} {one.optim.name}, lr {one.optim.lr:g}" for one in recipe.phases)
    lines = {
        "encoder": f"{known['parameters']['encoder']:,} parameters",
        "heads and the rest": f"{known['parameters']['rest']:,} parameters",
        "trained": f"{known['parameters']['trained']:,} parameters",
        "crop": f"{recipe.crop_seconds:.3f} s × {recipe.crops.views} view(s) at {recipe.crops.sample_rate} Hz",
        "step": f"{recipe.batch_size} crops = {recipe.seconds_per_step:.1f} s of audio",
        "run": f"{recipe.steps:,} steps = {recipe.total_hours:,.1f} h of audio",
        "optimiser": f"{recipe.optim.name}, lr {recipe.optim.lr:g}, {recipe.optim.warmup_steps} warm-up steps, "
        f"{recipe.optim.decay} after{later}",
        "precision": recipe.precision,
    }
    width = max(map(len, lines))
    rows = [*lines.items(), *(("note", said) for said in known["notes"])]
    return "\n".join([address, *(f"  {name:{width}}  {value}" for name, value in rows)])
