"""Work that falls into shares among processes that were launched together (`groundbass launch`, `accelerate launch`,
torchrun, Slurm): each does its own, and the first puts together what all have made.

Only the command line takes a place (`begin`): what a library call does in somebody's own processes is theirs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

LONGEST = timedelta(days=7)  # that one share may take longer than another
Value = TypeVar("Value")


@dataclass(frozen=True)
class Place:
    """Which of `count` processes this one is, from 0."""

    number: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one puts together."""
        return self.number == 0

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.count == 1

    def __str__(self) -> str:
        return f"{self.number + 1}/{self.count}"


_place = Place()


def begin() -> Place:
    """Take the place that the launcher tells, RANK of WORLD_SIZE; the only one where nothing is told."""
    global _place
    _place = Place(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    return _place


def place() -> Place:
    """What `begin` took; the only one where nobody did."""
    return _place


def gathered(value: Value) -> list[Value]:
    """The values of all processes, in their order, on every one of them; waits for all. Values can be pickled.

    Raises:
        OSError: another process has ended.
    """
    if _place.alone:
        return [value]
    found: list[Any] = [None] * _place.count
    try:
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=LONGEST)
        dist.all_gather_object(found, value)
    except RuntimeError as error:
        raise OSError(
            f"Process {_place} of those that were launched: another one ended before its share was done; its own "
            "message says why. What is done is kept, and the same command goes on."
        ) from error
    return found


def told(value: Value) -> Value:
    """The first process's value, on every one of them; waits for it."""
    return gathered(value if _place.first else None)[0]  # type: ignore[return-value]


def in_parts(command: Callable[[list[str]], int], words: list[str]) -> int:
    """A command that takes `--part I/N`, done by all processes together; returns the exit code.

    Each does its part and is silent on stdout; then the first gives the command without --part, which joins the parts.

    Raises:
        ValueError: --part was asked for besides.
        OSError: another process has ended.
    """
    if any(word.split("=")[0] == "--part" for word in words):
        raise ValueError(f"--part: {_place.count} processes were launched together, and each takes its part by itself.")
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        code = command([*words, "--part", str(_place)])
    codes = gathered(code)
    if any(codes) or not _place.first:
        return code
    return command(words)


def leave(code: int) -> None:
    """End this process at once where there are others, since threads of gloo can abort Python's own end."""
    if not _place.alone:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
