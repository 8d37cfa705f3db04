"""Work on several layers at a time, in threads that take one core each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Work = TypeVar("Work")
Found = TypeVar("Found")


def side_by_side(function: Callable[[Work], Found], works: Sequence[Work], most: int | None = None) -> Iterator[Found]:
    """`function` of every work, in their order; one after the other on all cores where `most` is 1.

    While they run, torch takes one thread per work, so that a result is the same on any number of cores.
    """
    workers = max(1, min(len(works), most or len(works), os.cpu_count() or 1))
    if workers == 1:
        yield from map(function, works)
        return
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(function, works)
    finally:
        torch.set_num_threads(threads)
