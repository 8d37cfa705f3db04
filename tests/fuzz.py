"""What the fuzz tests share: how many cases, from which seeds; how bytes are damaged; that nothing hangs."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

CALM = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


def few_and_many(number: int) -> Any:
    """`number` cases now, from recorded seeds; as many as $GROUNDBASS_FUZZ says in the soak."""
    return settings(max_examples=int(os.environ.get("GROUNDBASS_FUZZ", number)), **CALM)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Nothing hangs. seconds: of this process's own computing, so that a busy machine makes nothing late."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s of computing")

    before = signal.signal(signal.SIGPROF, late)
    waiting = signal.signal(signal.SIGALRM, late)  # what waits computes nothing: a pipe say
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(20 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        signal.signal(signal.SIGPROF, before)
        signal.signal(signal.SIGALRM, waiting)


@st.composite
def damage(draw: st.DrawFn, names: list[str]) -> tuple[str, list[Any]]:
    """A file's name, and what is done to its bytes: places as shares of its length, early ones more often."""
    kinds = st.sampled_from(["flip", "cut", "drop", "repeat", "number"])
    places = st.one_of(st.floats(0, 1), st.floats(0, 0.05))
    steps = st.tuples(kinds, places, st.integers(0, (1 << 32) - 1))
    return draw(st.sampled_from(names)), draw(st.lists(steps, min_size=1, max_size=6))


def damaged(content: bytes, steps: list[Any]) -> bytes:
    """The bytes after all steps."""
    data = bytearray(content)
    for kind, share, number in steps:
        place = min(int(share * len(data)), max(0, len(data) - 1))
        if kind == "flip" and data:
            data[place] ^= 1 << number % 8
        elif kind == "cut":
            del data[place:]
        elif kind == "drop":
            del data[place : place + number % 64]
        elif kind == "repeat":
            data[place:place] = data[place : place + number % 512]
        elif kind == "number":
            data[place : place + 4] = struct.pack("<I" if number % 2 else ">I", number)
    return bytes(data)
