"""BEATs' loop in one command: encoder, tokenizer distilled from it, encoder on that tokenizer's codes, and so on."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tyro

from .. import arguments
from ..models.writing import beside, replace_folder
from . import distributed
from .distributed import STOPPED
from .recipe import Recipe, find
from .run.heard import kept_manifest
from .run.record import last_loss, read_record
from .train import train


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code: 0, or 75 where a SIGTERM ended a stage after its checkpoint."""
    return distributed.to_an_end(arguments.read(iterate, argv, "groundbass iterate"))


def iterate(
    size: tyro.conf.Positional[Literal["base", "small", "tiny", "debug"]],
    *,
    data: str,
    run: Path,
    iterations: int = 2,
    root: str | None = None,
    encoder_steps: int | None = None,
    tokenizer_steps: int | None = None,
    seed: int = 0,
    device: str | None = None,
    json: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """Pretrain BEATs for several iterations; the same command goes on wherever it stopped.

    RUN/encoder_1 predicts random-projection codes; RUN/tokenizer_2 is distilled from it; RUN/encoder_2 predicts that
    tokenizer's codes; and so on. Each is an ordinary run. RUN/encoder is the last one in published form, so that
    `groundbass probe RUN …` and `groundbass publish` find it.

    Args:
        size: whose recipes: tokens.beats_iter1_SIZE, …iter2_SIZE, tokenizer.beats_tokenizer_SIZE (base: no suffix).
        data: as `groundbass pretrain --data` takes it: a folder of audio, a manifest, shards, CORPUS:ROOT …
        run: the folder of the loop.
        iterations: encoders to train.
        root: where the manifest's paths begin, if the audio has moved.
        encoder_steps: of each encoder; the recipe's by default.
        tokenizer_steps: of each tokenizer; the recipe's by default.
        seed: of weights, crops and masks.
        device: cpu, cuda; a GPU where there is one. Of several, CUDA_VISIBLE_DEVICES chooses.
        json: print JSON and nothing else.
    """
    if iterations < 1:
        raise ValueError(f"--iterations is {iterations}, but there is at least one.")
    with distributed.placed(device):
        say = print if distributed.join().is_main_process else _silent
        with distributed.alone(run), arguments.aside(json):
            code = _iterate(size, data, run, iterations, root, encoder_steps, tokenizer_steps, seed, say)
    if json and distributed.rank() == 0:
        stages = {path.name: last_loss(path) for path in sorted(run.iterdir()) if (path / "recipe.json").is_file()}
        arguments.say({"run": run, "encoder": run / "encoder", "last_losses": stages})
    return code


def _iterate(
    size: str, data: str, run: Path, iterations: int, root: str | None, encoder_steps: int | None,
    tokenizer_steps: int | None, seed: int, say: Callable[[str], object],
) -> int:  # fmt: skip
    manifest = kept_manifest(data, run)
    stages = [encoder_stage(size, run, 1)]
    for number in range(2, iterations + 1):
        stages += [tokenizer_stage(size, run, number), encoder_stage(size, run, number)]
    for position, (place, address, recipe, words) in enumerate(stages):
        steps = encoder_steps if place.name.startswith("encoder") else tokenizer_steps
        recipe = dataclasses.replace(recipe, steps=steps or recipe.steps, seed=seed)
        if position + 1 < len(stages):
            _keep_teacher(place, recipe.steps, stages[position + 1][0])
        say(f"\n[{position + 1}/{len(stages)}] {place.name}: {address}")
        words = [*words, "--steps", str(recipe.steps), "--seed", str(seed)]
        if train(recipe, manifest, place, root=root, address=address, overrides=words) < recipe.steps:
            return STOPPED
    with distributed.main_first():
        if distributed.rank() == 0:
            _publish_last(run, run / f"encoder_{iterations}" / "encoder")
    say(f"Done: {iterations} iterations. Encoder: {run / 'encoder'}; losses: {run}/*/loss.jsonl.")
    return 0


def _keep_teacher(place: Path, steps: int, pupil: Path) -> None:
    """Refuse to train a stage further whose pupil has begun: what that learned would no longer fit."""
    told = place / "recipe.json"
    if not (pupil / "recipe.json").exists() or not told.exists():
        return
    trained = read_record(told)["recipe"].get("steps")
    if trained != steps:
        raise ValueError(
            f"{place} was trained for {trained} steps, and {pupil} has begun to learn from it: {steps} steps would "
            f"change the teacher. Give the same steps, another --run, or delete {pupil} and what comes after it."
        )


Stage = tuple[Path, str, Recipe, list[str]]


def encoder_stage(size: str, run: Path, number: int) -> Stage:
    """Folder, address, recipe and overrides of an encoder: iteration 1 on random codes, others on a tokenizer's."""
    place, suffix = run / f"encoder_{number}", "" if size == "base" else f"_{size}"
    address = f"tokens.beats_iter{min(number, 2)}{suffix}"
    recipe = find(address)
    if number == 1:
        return place, address, recipe, []
    tokenizer = str(run / f"tokenizer_{number}")
    codes = find(f"tokenizer.beats_tokenizer{suffix}").objective.codes
    objective = dataclasses.replace(recipe.objective, tokenizer=tokenizer, codes=codes)
    words = ["--objective.tokenizer", tokenizer, "--objective.codes", str(codes)]
    return place, address, dataclasses.replace(recipe, objective=objective), words


def tokenizer_stage(size: str, run: Path, number: int) -> Stage:
    """Folder, address, recipe and overrides of the tokenizer that the encoder before teaches."""
    address = f"tokenizer.beats_tokenizer{'' if size == 'base' else f'_{size}'}"
    recipe = find(address)
    teacher = str(run / f"encoder_{number - 1}")
    objective = dataclasses.replace(recipe.objective, teacher=teacher)
    return run / f"tokenizer_{number}", address, dataclasses.replace(recipe, objective=objective), [
        "--objective.teacher", teacher,
    ]  # fmt: skip


def _publish_last(run: Path, last: Path) -> None:
    """RUN/encoder: a copy of the last encoder."""
    with beside(run / "encoder") as part:
        shutil.copytree(last, part, dirs_exist_ok=True)
        replace_folder(run / "encoder", part)


def _silent(*_: object) -> None:
    """Say nothing: another rank does."""


if __name__ == "__main__":  # accelerate launch -m groundbass.pretrain.iterate tiny …
    from .__main__ import leave, run

    leave(run(main))
