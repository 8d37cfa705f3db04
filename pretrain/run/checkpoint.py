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
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...data.writing import flush, put_folder


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    step: int
    ranks: int

    def weights(self) -> dict[str, Tensor]:
        """The objective's state."""
        return load_file(self.folder / "weights.safetensors")

    def optimizer(self) -> dict[str, Any]:
        """The optimiser's state (``optimizer``) and the scaler's (``scaler``)."""
        state: dict[str, Any] = torch.load(self.folder / "optimizer.pt", map_location="cpu", weights_only=True)
        return state


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
    for old in _folders(folder.parent)[keep_last:]:
        if int(old.name[5:]) != keep and (keep_every is None or int(old.name[5:]) % keep_every):
            shutil.rmtree(old)
    return Checkpoint(final, step, ranks)


def newest(run: Path, say: Callable[[str], None] = warnings.warn) -> Checkpoint | None:
    """The newest whole checkpoint of a run; None where there is none. A damaged one is passed over with a sentence.

    Raises:
        ValueError: there are checkpoints and every one is damaged: to begin anew would surprise.
    """
    folders = _folders(run / "checkpoints")
    for folder in folders:
        damage = _damage(folder)
        if damage is None:
            facts = json.loads((folder / "checkpoint.json").read_text())
            return Checkpoint(folder, facts["step"], facts["ranks"])
        say(f"The checkpoint {folder} is damaged ({damage}); the one before it is used.")
    if folders:
        raise ValueError(
            f"Every checkpoint in {run / 'checkpoints'} is damaged, so the run can't go on; "
            "choose another --run folder, or delete this one to begin anew."
        )
    return None


def checksum(path: Path) -> str:
    """blake2b of a file's bytes, 128 bits."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is whole."""
    try:
        facts = json.loads((folder / "checkpoint.json").read_text())
        expected = dict(facts["files"])
        int(facts["step"]), int(facts["ranks"])
    except (OSError, ValueError, KeyError, TypeError):
        return "checkpoint.json can't be read"
    for name, digest in expected.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if checksum(folder / name) != digest:
            return f"{name} has another checksum"
    return None


def _folders(checkpoints: Path) -> list[Path]:
    """The checkpoint folders, the newest first."""
    found = {int(path.name[5:]): path for path in checkpoints.glob("step_*") if path.name[5:].isdigit()}
    return [found[step] for step in sorted(found, reverse=True)]
