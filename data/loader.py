"""The loader: batches without end, the same ones for any number of workers, from any step on."""

from __future__ import annotations

import itertools
import math
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .batch import Batch, Example, collate
from .crops import Crops

BAD_SHARE = 0.01
PREFETCH = 2  # batches in advance per worker
MOST_RESTARTS = 3  # of the workers in one run


def loader(
    crops: Crops,
    batch_size: int,
    *,
    rank: int = 0,
    ranks: int = 1,
    first_step: int = 0,
    workers: int = 2,
    pin: bool = False,
    max_bad_share: float = BAD_SHARE,
) -> Loader:
    """Endless batches of `batch_size` examples for this rank.

    Step s takes the global examples [s × batch_size × ranks, (s + 1) × batch_size × ranks), rank r the r-th
    `batch_size` of them: the ranks' batches side by side are the batch of one rank of the joint size, and a run
    resumes at `first_step` by arithmetic. Epochs follow each other without a gap, across batches too.

    workers: processes that read and cut; 0 reads in this one. pin: page-locked memory where there is a GPU.
    max_bad_share: of the tracks may turn out unreadable. Each gives way to the example in the same place of the next
    step, and is counted in `Loader.bad`; beyond the share, `next` raises ValueError and names files.
    """
    return Loader(crops, batch_size, rank, ranks, first_step, workers, pin, max_bad_share)


class Loader(Iterator[Batch]):
    """What `loader` returns. `bad`: {key: reason} of the unreadable tracks met so far, the same on a repetition."""

    def __init__(
        self,
        crops: Crops,
        batch_size: int,
        rank: int,
        ranks: int,
        first_step: int,
        workers: int,
        pin: bool,
        max_bad_share: float,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if not 0 <= rank < ranks:
            raise ValueError(f"rank={rank} must be from 0 to ranks - 1 = {ranks - 1}")
        if first_step < 0 or workers < 0:
            raise ValueError(f"first_step={first_step} and workers={workers} must not be negative")
        self.bad: dict[str, str] = {}
        self._tracks = len(crops.tracks)
        self._max_bad_share = max_bad_share
        self._dataset = _Batches(crops, batch_size, rank, ranks, int(max_bad_share * self._tracks))
        self._step, self._workers, self._pin = first_step, workers, pin and torch.cuda.is_available()
        self._restarts = 0
        self._batches: Iterator[tuple[_Packed | None, dict[str, str]]] | None = self._start()

    def _start(self) -> Iterator[tuple[_Packed | None, dict[str, str]]]:
        """Workers from the present step on, with memory of their own: an earlier one may still be writing into its.

        They block SIGTERM and SIGINT: a scheduler and a terminal send them to all processes, and the step in progress
        needs them to finish.
        """
        self._dataset.room = _Room(self._dataset, self._workers * PREFETCH + 1) if self._workers else None
        batches = DataLoader(
            self._dataset,
            batch_size=None,  # a worker makes whole batches
            sampler=_Steps(self._step),
            num_workers=self._workers,
            collate_fn=_unchanged,
            prefetch_factor=PREFETCH if self._workers else None,
            generator=torch.Generator(),  # else making the iterator draws from torch's global state
        )
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        children = signal.getsignal(signal.SIGCHLD)
        try:
            return iter(batches)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if self._workers and children is not None and threading.current_thread() is threading.main_thread():
                # torch's handler raises wherever the main process is when a worker dies; `next` finds it by itself
                signal.signal(signal.SIGCHLD, children)

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Batch:
        if self._batches is None:
            raise StopIteration
        packed, bad = self._next()
        self._step += 1
        self.bad.update(bad)
        if packed is None or len(self.bad) > self._max_bad_share * self._tracks:
            shown = "; ".join(f"{key}: {reason}" for key, reason in itertools.islice(self.bad.items(), 3))
            raise ValueError(
                f"{len(self.bad)} of {self._tracks} tracks can't be read, more than max_bad_share="
                f"{self._max_bad_share}: scan the folder again, or raise the share. The first of them: {shown}"
            )
        return packed.batch(self._dataset.room, self._pin)

    def _next(self) -> tuple[_Packed | None, dict[str, str]]:
        """The next batch; where a worker died (killed for memory, say) all are started again at this very step."""
        while True:
            assert self._batches is not None
            try:
                return next(self._batches)
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                self._restarts += 1
                if self._restarts > MOST_RESTARTS:
                    raise OSError(
                        f"A loader process died {self._restarts} times ({str(error).splitlines()[0]}): often it is "
                        "killed for lack of memory; lower --workers. The same command goes on from the checkpoint."
                    ) from error
                warnings.warn(f"a loader process died at step {self._step}; all are started again", stacklevel=3)
                self._batches = None
                self._batches = self._start()

    def close(self) -> None:
        """Stop the workers; otherwise they end with the object."""
        self._batches = None


class _Steps(Sampler[int]):
    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first)


class _Room:
    """Memory that all processes share, as many batches as are on their way: made once, since its pages cost as much
    time as what is written into them. A batch's place is free again when the next one is asked for.
    """

    def __init__(self, batches: _Batches, places: int) -> None:
        shape = (places, *batches.shape)
        storage = torch.UntypedStorage._new_shared(4 * math.prod(shape))
        self._waveforms = torch.empty(0).set_(storage, 0, shape)  # type: ignore[call-overload]

    def of(self, step: int) -> Tensor:
        """[batch, views, samples] for the batch of a step."""
        return self._waveforms[step % len(self._waveforms)]


@dataclass(frozen=True)
class _Packed:
    """A batch between processes: its waveform lies in the room (without one it is here); what is small travels as
    bytes, without a file of its own for each tensor.
    """

    waveform: Tensor | None
    step: int
    sample_rate: int
    keys: list[str]
    small: dict[str, npt.NDArray[np.int64]]

    def batch(self, room: _Room | None, pin: bool) -> Batch:
        """The batch itself, in the process that trains."""
        tensors = (torch.from_numpy(values) for values in self.small.values())
        small: dict[str, Any] = dict(zip(self.small, (t.pin_memory() if pin else t for t in tensors), strict=True))
        waveform = self.waveform
        if waveform is None:
            assert room is not None
            waveform = room.of(self.step)
            waveform = waveform.pin_memory() if pin else torch.from_numpy(waveform.numpy().copy())
        elif pin:
            waveform = waveform.pin_memory()
        return Batch(waveform, self.sample_rate, keys=self.keys, **small)


class _Batches(Dataset[tuple[_Packed | None, dict[str, str]]]):
    """Batch of a step, and the tracks that were found unreadable on the way; None where they are too many."""

    def __init__(self, crops: Crops, batch_size: int, rank: int, ranks: int, allowed: int) -> None:
        self.crops, self.batch_size, self.rank, self.ranks, self.allowed = crops, batch_size, rank, ranks, allowed
        self.shape = (batch_size, crops.config.views, crops.config.crop_samples)
        self.room: _Room | None = None

    def __getitem__(self, step: int) -> tuple[_Packed | None, dict[str, str]]:
        bad: dict[str, str] = {}
        indices = (step * self.ranks + self.rank) * self.batch_size + np.arange(self.batch_size)
        examples = []
        waveform = torch.empty(self.shape) if self.room is None else self.room.of(step)
        places = zip(indices.tolist(), self.crops.rows_at(indices).tolist(), waveform.numpy(), strict=True)
        for index, row, out in places:
            example = self._readable(index, row, out, bad)
            if example is None:
                return None, bad
            examples.append(example)
        batch = collate(examples, self.crops.config.sample_rate, waveform)
        small = {name: tensor.numpy() for name, tensor in batch.tensors().items() if name != "waveform"}
        here = waveform if self.room is None else None
        return _Packed(here, step, batch.sample_rate, batch.keys, small), bad

    def _readable(self, index: int, row: int, out: npt.NDArray[np.float32], bad: dict[str, str]) -> Example | None:
        """The example at `index`, or the first readable one in the same place of later steps."""
        while len(bad) <= self.allowed:
            key = self.crops.key_of(row)
            if key not in bad:
                try:
                    return self.crops.cut(row, index, out)
                except (ValueError, OSError) as error:
                    bad[key] = str(error)
            index += self.batch_size * self.ranks
            row = int(self.crops.rows_at(np.array([index]))[0])
        return None


def _unchanged(item: Any) -> Any:
    return item
