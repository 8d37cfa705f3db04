"""Tracks as windows of bounded length: planned from the manifest, decoded by threads while the encoder works."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np
import numpy.typing as npt

from ...data.track import Manifest

READ_SECONDS = 120.0  # longest stretch decoded at once, which bounds the memory of hour-long files


@dataclass(frozen=True)
class Window:
    """A stretch of one track. row: in the manifest; start, samples: at the encoder's rate; item: what it is a part of,
    by its place in the store (a track, or a stretch of one).
    """

    row: int
    start: int
    samples: int
    item: int


def cut(samples: int, longest: int, overlap: int = 0) -> list[tuple[int, int]]:
    """Cut a clip into the fewest windows of at most `longest` samples, equal to a sample: no short tail. Neighbours
    share `overlap` samples.

    A tail of a few samples would be mostly padding for encoders with long frames; equal windows also batch without
    padding.
    """
    number = max(1, ceil((samples - overlap) / (longest - overlap)))
    if number == 1:
        return [(0, samples)]
    edges = [(samples - overlap) * k // number for k in range(number + 1)]
    return [(start, end - start + overlap) for start, end in pairwise(edges)]


def window_rows(
    manifest: Manifest, rows: Sequence[int], sample_rate: int, longest: int, stretch: int | None = None
) -> list[list[Window]]:
    """The windows of each row, in the order of `rows`: an item per row, or per stretch of at most `stretch` samples."""
    plans, item = [], 0
    for row in rows:
        track = manifest[row]
        samples = max(1, round(track.samples * sample_rate / track.sample_rate))
        windows = []
        for first, length in cut(samples, stretch or samples):
            windows += [Window(row, first + start, size, item) for start, size in cut(length, longest)]
            item += 1
        plans.append(windows)
    return plans


def jobs(plans: list[list[Window]], batch_samples: int, read_samples: int, most: int = 64) -> list[list[list[Window]]]:
    """Group windows into jobs of similar length, longest first (so that a lack of memory shows at once).

    Each job is a list of reads; each read is a list of consecutive windows of one track. A job holds at most `most`
    windows and about `batch_samples` samples, padding included.
    """
    reads: list[list[Window]] = []
    for windows in plans:
        size = max(1, min(most, min(batch_samples, read_samples) // max(1, windows[0].samples)))
        reads += [windows[i : i + size] for i in range(0, len(windows), size)]
    reads.sort(key=lambda read: (-read[0].samples, read[0].row, read[0].start))
    result: list[list[list[Window]]] = []
    count = 0
    for read in reads:
        longest = result[-1][0][0].samples if result else 0
        if not result or count + len(read) > most or (count + len(read)) * longest > batch_samples:
            result.append([])
            count = 0
        result[-1].append(read)
        count += len(read)
    return result


def decode(manifest: Manifest, read: list[Window], sample_rate: int) -> list[npt.NDArray[np.float32]]:
    """Read consecutive windows of one track in one go.

    Raises:
        ValueError: the file is shorter than the manifest says.
    """
    track = manifest[read[0].row]
    start, end = read[0].start, read[-1].start + read[-1].samples
    waveform = manifest.read(read[0].row, sample_rate, start, end - start)
    windows = [waveform[window.start - start : window.start - start + window.samples] for window in read]
    if not all(len(window) for window in windows):
        raise ValueError(
            f"{track.path} ended before its {track.seconds:.2f} s: it changed since the scan. Scan the folder again."
        )
    return windows


Read = list[Window]  # consecutive windows of one track, decoded in one go
Failure = Callable[[Read, Exception], None]


def decoded(
    manifest: Manifest, plan: Iterable[list[Read]], sample_rate: int, workers: int, failed: Failure | None = None
) -> Iterator[tuple[list[Window], list[npt.NDArray[np.float32]]]]:
    """Run the jobs' decoding in threads, a few jobs ahead; decoders and resamplers leave Python's lock.

    failed: told of a read that can't be decoded, which is then left out; None raises.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:
        ahead: deque[tuple[list[Read], list[Future[list[npt.NDArray[np.float32]]]]]] = deque()
        try:
            for job in plan:
                ahead.append((job, [pool.submit(decode, manifest, read, sample_rate) for read in job]))
                if len(ahead) > 2:
                    yield _collect(*ahead.popleft(), failed)
            while ahead:
                yield _collect(*ahead.popleft(), failed)
        finally:
            for _, futures in ahead:
                for future in futures:
                    future.cancel()


def _collect(
    job: list[Read], futures: list[Future[list[npt.NDArray[np.float32]]]], failed: Failure | None
) -> tuple[list[Window], list[npt.NDArray[np.float32]]]:
    windows: list[Window] = []
    sounds: list[npt.NDArray[np.float32]] = []
    for read, future in zip(job, futures):
        try:
            sounds += future.result()
            windows += read
        except (ValueError, OSError) as error:
            if failed is None:
                raise
            failed(read, error)
    return windows, sounds
