"""Checkpoints: written beside and renamed, with checksums; the newest whole one is where a run goes on.

RUN/checkpoints/step_N/ holds
    weights.safetensors   everything in the objective's state: weights, batch norm, EMA teachers, codebooks
    optimizer.pt          the optimiser and the fp16 scale; torch.save without pickled code (read with weights_only)
    sharded/              in place of optimizer.pt under DeepSpeed and FSDP: Accelerate's own form
    recipe.json           the run's, as it was then
    checkpoint.json       the step, the number of ranks, and the checksum of every file
Random state needs no saving: every draw is a function of the seed, the step and the example.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ...data.writing import flush, put_folder
from ...models.weight_files import DAMAGED, load_safetensors
from ...reading import json_of


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    step: int
    ranks: int

    @property
    def sharded(self) -> bool:
        """Whether DeepSpeed or FSDP wrote it."""
        return (self.folder / "sharded").is_dir()

    def weights(self) -> dict[str, Tensor]:
        """The objective's state.

        Raises:
            ValueError: the file is damaged.
        """
        return load_safetensors(self.folder / "weights.safetensors")

    def optimizer(self) -> dict[str, Any]:
        """The optimiser's state (``optimizer``) and the scaler's (``scaler``).

        Raises:
            ValueError: the file is damaged, or holds more than tensors and plain values.
        """
        if not (self.folder / "optimizer.pt").is_file():
            raise misfit(self.folder, "optimizer.pt is missing")
        try:
            state = torch.load(self.folder / "optimizer.pt", map_location="cpu", weights_only=True)
        except DAMAGED as error:
            raise misfit(self.folder, f"optimizer.pt can't be opened: {str(error).partition('. ')[0]}") from error
        if not isinstance(state, dict) or not all(isinstance(state.get(n), dict) for n in ("optimizer", "scaler")):
            raise misfit(self.folder, "optimizer.pt holds no state of an optimiser and a scaler")
        return state


def misfit(folder: Path, reason: str) -> ValueError:
    """The sentence about a checkpoint whose checksums hold and which can't be gone on from."""
    return ValueError(
        f"The checkpoint {folder} doesn't fit this run ({reason}). Delete it to go on from the one before it, or "
        "choose another --run folder."
    )


def begin(run: Path, step: int) -> Path:
    """An empty folder beside its later name, to be filled and then finished with :func:`finish`."""
    folder = run / "checkpoints" / f".step_{step}.part"
    for left in (run / "checkpoints").glob(".step_*.part"):  # of runs that were killed while they wrote
        shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@contextmanager
def complete(folder: Path, step: int) -> Iterator[None]:
    """What goes wrong with the disk while a checkpoint is written, as a sentence; the half of it is removed."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, RuntimeError) and "StreamWriter" not in str(error) and "unexpected pos" not in str(error):
            raise  # no word of torch's about the disk
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OSError(
            f"The checkpoint of step {step} can't be written to {folder.parent} ({reason}). The one before it stands. "
            "Make room (--keep-last 1 needs least), and the same command goes on."
        ) from error


def write_weights(folder: Path, state: dict[str, Tensor]) -> None:
    """Write the objective's state; tied tensors are written once per name, as safetensors wants it."""
    save_file({name: tensor.detach().cpu().clone() for name, tensor in state.items()}, folder / "weights.safetensors")


def write_optimizer(folder: Path, state: dict[str, Any]) -> None:
    """Write the optimiser's and the scaler's state."""
    torch.save(state, folder / "optimizer.pt")


def finish(
    folder: Path, step: int, ranks: int, keep_last: int, keep_every: int | None = None, keep: int | None = None
) -> Checkpoint:
    """Add the checksums, rename to ``step_N``; the newest `keep_last`, multiples of `keep_every` and `keep` stay."""
    files = {str(path.relative_to(folder)): checksum(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    (folder / "checkpoint.json").write_text(json.dumps({"step": step, "ranks": ranks, "files": files}, indent=1))
    flush(folder)
    final = folder.parent / f"step_{step}"
    if final.exists():
        shutil.rmtree(final)
    put_folder(folder, final)
    newer = [other for other in _folders(folder.parent) if int(other.name[5:]) > step]  # damaged: passed over on resume
    for damaged in newer:
        shutil.rmtree(damaged)
    prune(folder.parent, step, keep_last, keep_every, keep)
    return Checkpoint(final, step, ranks)


def prune(checkpoints: Path, step: int, keep_last: int, keep_every: int | None = None, keep: int | None = None) -> None:
    """Of the checkpoints up to `step`, the newest `keep_last`, multiples of `keep_every` and `keep` stay."""
    done = [folder for folder in _folders(checkpoints) if int(folder.name[5:]) <= step]
    for old in done[keep_last:]:
        if int(old.name[5:]) != keep and (keep_every is None or int(old.name[5:]) % keep_every):
            shutil.rmtree(old)


def newest(run: Path, say: Callable[[str], None] = warnings.warn) -> Checkpoint | None:
    """The newest whole checkpoint of a run; None where there is none. A damaged one is passed over with a sentence.

    Raises:
        ValueError: there are checkpoints and every one is damaged: to begin anew would surprise.
    """
    folders = _folders(run / "checkpoints")
    for folder in folders:
        damage = _damage(folder)
        if damage is None:
            return Checkpoint(folder, int(folder.name[5:]), _facts(folder)["ranks"])
        say(f"The checkpoint {folder} is damaged ({damage}); the one before it is used.")
    if folders:
        raise ValueError(
            f"Every checkpoint in {run / 'checkpoints'} is damaged, so the run can't go on; "
            "choose another --run folder, or delete this one to begin anew."
        )
    return None


def weights_of(run: Path, step: int) -> dict[str, Tensor]:
    """The objective's state at a step whose checkpoint is kept, checked against its checksum.

    Raises:
        ValueError: the checkpoint is gone or damaged.
    """
    folder = run / "checkpoints" / f"step_{step}"
    if (damage := _damage(folder, only="weights.safetensors")) is not None:
        raise ValueError(
            f"The checkpoint of step {step} is needed, since it validated best or is to be validated, and it is "
            f"damaged ({damage}): put {folder} back, or choose another --run folder."
        )
    return load_safetensors(folder / "weights.safetensors")


def checksum(path: Path) -> str:
    """blake2b of a file's bytes, 128 bits."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _facts(folder: Path) -> dict[str, Any]:
    """What checkpoint.json says, its fields of the right kinds; {} where it can't be read."""
    try:
        facts = json_of(folder / "checkpoint.json")
    except (OSError, ValueError):
        return {}
    whole = (
        isinstance(facts, dict)
        and facts.get("step") == int(folder.name[5:])
        and type(facts.get("ranks")) is int
        and facts["ranks"] >= 1
        and isinstance(facts.get("files"), dict)
        and "weights.safetensors" in facts["files"]
    )
    return facts if whole else {}


def _damage(folder: Path, only: str | None = None) -> str | None:
    """What is wrong with a checkpoint, or with one file of it; None where it is whole."""
    facts = _facts(folder)
    if not facts:
        return "checkpoint.json can't be read"
    for name, digest in facts["files"].items():
        if only not in (None, name):
            continue
        if not (folder / name).is_file():
            return f"{name} is missing"
        if checksum(folder / name) != digest:
            return f"{name} has another checksum"
    return None


def _folders(checkpoints: Path) -> list[Path]:
    """The checkpoint folders, the newest first."""
    found = {int(path.name[5:]): path for path in checkpoints.glob("step_*") if path.name[5:].isdigit()}
    return [found[step] for step in sorted(found, reverse=True)]
