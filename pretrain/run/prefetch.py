"""The next batch is on its way to the GPU, and augmented there, while the present one is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ...data.batch import Batch

Prepare = Callable[[Batch], Batch]


def on_device(
    batches: Iterator[Batch], device: torch.device, ahead: bool, prepare: Prepare | None = None
) -> Iterator[Batch]:
    """The batches on `device`, in their order.

    ahead: on a GPU, copy the next one and `prepare` it (`Objective.ahead`) in a stream of their own; its memory has to
    be pinned. One batch more is held on the device.
    """
    if ahead and device.type == "cuda":
        return Ahead(batches, device, prepare)
    return (batch.to(device) for batch in batches)


class Ahead(Iterator[Batch]):
    """Batches on a GPU, of which the next one is begun by `begin`, where the host would only wait for the device."""

    def __init__(self, batches: Iterator[Batch], device: torch.device, prepare: Prepare | None) -> None:
        self._batches, self._device, self._prepare = batches, device, prepare
        self._stream = torch.cuda.Stream(device)
        self._begun: list[Batch | None] = []  # at most one

    def begin(self) -> None:
        """Send the next one on its way, unless it is already. What prepares it may read nothing but the batch."""
        if self._begun:
            return
        batch = next(self._batches, None)
        if batch is not None:
            with torch.cuda.stream(self._stream):
                batch = batch.to(self._device)
                batch = batch if self._prepare is None else self._prepare(batch)
        self._begun.append(batch)

    def __next__(self) -> Batch:
        self.begin()
        batch = self._begun.pop()
        if batch is None:
            raise StopIteration
        now = torch.cuda.current_stream(self._device)
        now.wait_stream(self._stream)
        for tensor in batch.tensors().values():
            tensor.record_stream(now)  # not freed while this stream still reads it
        return batch
