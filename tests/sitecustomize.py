"""`KILL_AT=N`: SIGKILL straight after the N-th rename, replace or rmtree of a process; with tests/ on PYTHONPATH.

    KILL_AT=7 PYTHONPATH=tests groundbass embed RUN music --out table.parquet

Python imports this file by itself, before anything else. The count is the process's own: workers that it forks don't
count, and of several ranks the one whose RANK is $KILL_RANK (0) does. $KILL_TOLD names a file to which every one of
these events is appended as a line, which tells an undisturbed process's kill points (KILL_AT=0 kills never).

A process may stop (SIGSTOP) after every event instead, as `forks` asks: what lies on the disk then is what a kill there
would have left, and one start shows all of them.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


def arm(kill_at: int, told: str | None = None, stop: bool = False) -> None:
    """Count from now on in this process.

    kill_at: the event to die after, 0 for none. told: a file for the events. stop: stop after each, with all threads.
    """
    process, count = os.getpid(), 0

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal count
            result = real(*args, **named)
            if os.getpid() == process:
                count += 1
                if told:
                    with open(told, "a") as file:
                        file.write(f"{count} {name} {' -> '.join(Path(os.fsdecode(a)).name for a in args[:2])}\n")
                if count == kill_at or stop:
                    os.kill(process, signal.SIGKILL if count == kill_at else signal.SIGSTOP)
            return result

        return call

    for module, name in ((os, "rename"), (os, "replace"), (shutil, "rmtree")):
        setattr(module, name, counted(name, getattr(module, name)))


if "KILL_AT" in os.environ and os.environ.get("RANK", "0") == os.environ.get("KILL_RANK", "0"):
    arm(int(os.environ["KILL_AT"]), os.environ.get("KILL_TOLD"))
