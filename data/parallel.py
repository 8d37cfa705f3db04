"""The same work in several processes: on many items, with results in order; or one command by processes that were
launched together (`groundbass launch`, `accelerate launch`, torchrun, Slurm), each doing its share.

Only the command line takes a place among those (`begin`): what a library call does in somebody's own processes is
theirs.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

AHEAD = 4  # times `at_once` items per process that are begun before the first result is taken
WATCH_SECONDS = 1.0
Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value")
_held: Callable[[Any], Any] | None = None  # the work of this process, so that it travels once and not with every item


@dataclass(frozen=True)
class Part:
    """Part `number` of `count` of a long job, from 1: `--part 3/8`. Each part leaves beside OUT what it has made, and
    the same command without --part joins all of it, and makes what is missing: the same bytes as without parts.
    """

    number: int
    count: int

    @classmethod
    def of(cls, text: str | None) -> Part | None:
        """`3/8`; None of none.

        Raises:
            ValueError: another text, or a part that isn't there.
        """
        if text is None:
            return None
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"--part {text}: write I/N, part I of N, from 1/N to N/N.")
        return cls(int(found[1]), int(found[2]))

    def rows(self, total: int) -> range:
        """Its share of `total` things, in their order; the parts' sizes differ by at most one."""
        return range(total * (self.number - 1) // self.count, total * self.number // self.count)

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"

    def told(self, out: object) -> str:
        """What is left to do, in a sentence."""
        return f"{out}: part {self.number} of {self.count} is done; after all parts, the same command without --part."


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None, at_once: int = 1
) -> Iterator[Result]:
    """work(item) of every item, in their order. workers: processes, one per core by default; 1 works in this one.

    at_once: items that travel together; more where the work on one is short. The processes end with this one, even
    where it is killed. Raises what `work` raises, and OSError where a process dies.
    """
    count = workers or cores()
    if count == 1:
        yield from map(work, items)
        return
    pending: deque[Future[list[Result]]] = deque()
    rest = iter(items)
    with ProcessPoolExecutor(count, initializer=_hold, initargs=(work, os.getpid())) as pool:
        try:
            while some := list(itertools.islice(rest, at_once)):
                before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Python forgets it while it forks
                try:
                    pending.append(pool.submit(_do, some))
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
                if len(pending) == AHEAD * count:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            raise OSError(
                "A worker process died, often killed for lack of memory: lower --workers. The same command goes on "
                "where it stopped."
            ) from error
        except BaseException:
            for process in list((pool._processes or {}).values()):  # what they work on is wanted by nobody any more
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _hold(work: Callable[[Any], Any], maker: int) -> None:
    global _held
    _held = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the one that made them ends them
    threading.Thread(target=_end_with, args=(maker, os.getppid()), daemon=True).start()


def _end_with(maker: int, parent: int) -> None:
    """A pool's processes wait for work forever where the one that made them was killed.

    maker: that one; parent: the same where processes are forked, else a server that may outlive it.
    """
    while os.getppid() == parent and _lives(maker):
        time.sleep(WATCH_SECONDS)
    os._exit(1)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _do(items: list[Any]) -> list[Any]:
    assert _held is not None
    return list(map(_held, items))


# ---- processes that were launched together

LONGEST = timedelta(days=7)  # that one share may take longer than another


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
    import torch.distributed as dist  # heavy, and seldom asked for

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


@contextmanager
def _silent() -> Iterator[None]:
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def by_the_first(command: Callable[[list[str]], int], words: list[str]) -> int:
    """A command that divides its work by `place` itself: only the first process says on stdout what comes out."""
    with nullcontext() if _place.first else _silent():
        return command(words)


def in_parts(command: Callable[[list[str]], int], words: list[str]) -> int:
    """A command that takes `--part I/N`, done by all processes together; returns the exit code.

    Each does its part and is silent on stdout; then the first gives the command without --part, which joins the parts.

    Raises:
        ValueError: --part was asked for besides.
        OSError: another process has ended.
    """
    if any(word.split("=")[0] == "--part" for word in words):
        raise ValueError(f"--part: {_place.count} processes were launched together, and each takes its part by itself.")
    with _silent():
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
