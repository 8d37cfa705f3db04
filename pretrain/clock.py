"""What a step's time goes to: named sections, exclusive of one another, without waiting for the device.

On a GPU a section is a pair of events in its stream, read only when a line is logged.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

SECTIONS = ("data", "augment", "targets", "forward", "backward", "communication", "optimiser")


class Clock:
    """Adds up the seconds of sections since the last `take`."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._done: list[tuple[str, Any, Any, int]] = []  # name, start, end, place of the section around it (or -1)
        self._open: list[int] = []

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Time what happens inside; a section inside another is taken out of it."""
        place, around = len(self._done), self._open[-1] if self._open else -1
        self._done.append((name, self._now(), None, around))
        self._open.append(place)
        try:
            yield
        finally:
            self._open.pop()
            self._done[place] = (name, self._done[place][1], self._now(), around)

    def take(self) -> dict[str, float]:
        """Seconds of each section since the last call; waits for the device."""
        if self._cuda:
            torch.cuda.synchronize()
        seconds: dict[str, float] = defaultdict(float)
        for name, start, end, around in self._done:
            took = start.elapsed_time(end) / 1000 if self._cuda else end - start
            seconds[name] += took
            if around >= 0:
                seconds[self._done[around][0]] -= took
        self._done.clear()
        return {name: max(0.0, seconds[name]) for name in SECTIONS if name in seconds}


_current: list[Clock] = []


@contextmanager
def running(clock: Clock) -> Iterator[Clock]:
    """Let `section` write to this clock."""
    _current.append(clock)
    try:
        yield clock
    finally:
        _current.pop()


@contextmanager
def section(name: str) -> Iterator[None]:
    """A section of the running clock; nothing where none runs."""
    if not _current:
        yield
        return
    with _current[-1].section(name):
        yield
