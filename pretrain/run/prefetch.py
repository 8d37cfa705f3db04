"""The next batch is on its way to the GPU while the present one is trained on."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...data.batch import Batch


def on_device(batches: Iterator[Batch], device: torch.device, ahead: bool) -> Iterator[Batch]:
    """The batches on `device`, in their order.

    ahead: on a GPU, the copy of the next one begins, in a stream of its own, before the present one is handed out; its
    memory has to be pinned. One batch more is held on the device.
    """
    if not ahead or device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    stream = torch.cuda.Stream(device)
    coming = _copied(batches, device, stream)
    while coming is not None:
        torch.cuda.current_stream(device).wait_stream(stream)
        batch = coming
        for tensor in batch.tensors().values():
            tensor.record_stream(torch.cuda.current_stream(device))  # not freed while this stream still reads it
        coming = _copied(batches, device, stream)
        yield batch


def _copied(batches: Iterator[Batch], device: torch.device, stream: torch.cuda.Stream) -> Batch | None:
    batch = next(batches, None)
    if batch is None:
        return None
    with torch.cuda.stream(stream):
        return batch.to(device)
