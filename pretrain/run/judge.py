"""Validation on the way: which checkpoint is best, and whether going on still helps.

RUN/valid.jsonl has a line per validation; it is cut back to the checkpoint on resume, like loss.jsonl. The best
checkpoint is kept whatever `keep_last` says, and is what gets published when the run ends.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list

from ...reading import json_in
from .checkpoint import weights_of
from .record import Lines

if TYPE_CHECKING:
    from torch import Tensor

    from ..objective import Objective
    from ..recipe import Recipe


class Judge:
    """Validations of one run; every rank asks, rank 0 validates and decides for all."""

    def __init__(
        self, run: Path, objective: Objective, first: int, recipe: Recipe, main: bool, say: Callable[..., Any]
    ):
        self._run, self._objective, self._main, self._say = run, objective, main, say
        self._also = {recipe.steps, *(phase.begin for phase in recipe.phases)}
        self._lines: list[dict[str, Any]] = []
        self._file: Lines | None = None
        if not objective.validate_every:
            return
        if main:
            self._file = Lines(run / "valid.jsonl", first)
            self._lines = _validations(run / "valid.jsonl")
        self._lines = self._shared(self._lines)
        if self.due(first) and not any(line["step"] == first for line in self._lines):
            self.after(first)  # killed between the checkpoint and its validation

    def due(self, step: int) -> bool:
        """Whether a step is validated: every `validate_every`, the last, the last of a phase, the start if asked."""
        every = self._objective.validate_every
        if not every or step == 0:
            return bool(every) and self._objective.validates_start
        return step % every == 0 or step in self._also

    def after(self, step: int) -> None:
        """Validate the checkpoint of `step`."""
        if self._main and self._file is not None:
            line = {"step": step, **self._objective.validate(self._weights(step))}
            self._file.write(line)
            self._lines.append(line)
            told = ", ".join(f"{name} {value:.4g}" for name, value in line.items() if name != "step")
            self._say(f"Step {step}, validation: {told}{' (best)' if self.best == step else ''}")
        self._lines = self._shared(self._lines)

    @property
    def best(self) -> int | None:
        """The step with the highest score, the first of equals; None before any validation."""
        return _best(self._lines)

    def best_before(self, step: int) -> int | None:
        """The best of the steps before this one."""
        return _best([line for line in self._lines if line["step"] < step])

    def finished(self) -> bool:
        """Whether `patience` validations have passed since the best."""
        since = sum(line["step"] > (self.best or 0) for line in self._lines)
        return bool(self._objective.patience) and since >= self._objective.patience

    def best_weights(self) -> dict[str, Tensor] | None:
        """The objective's state at the best step."""
        return None if self.best is None else self._weights(self.best)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _weights(self, step: int) -> dict[str, Tensor]:
        return weights_of(self._run, step)

    def _shared(self, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What rank 0 has."""
        found: list[dict[str, Any]] = broadcast_object_list([lines])[0]
        return found


def _best(lines: list[dict[str, Any]]) -> int | None:
    return max(lines, key=lambda line: (line["score"], -line["step"]))["step"] if lines else None


def _validations(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [
        json_in(line, f"A line of {path}") for line in path.read_text(encoding="utf-8").splitlines()
    ]
    for line in lines:
        if not isinstance(line.get("score"), (int, float)):
            raise ValueError(
                f"{path} names no score of step {line['step']}: delete that line, or choose another --run."
            )
    return lines
