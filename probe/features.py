"""Encode once: features of a corpus in one memory-mapped file, named by the content of everything that made them.

A store is a folder ROOT/KEY with features.npy and meta.json. It is written as ROOT/KEY.partial and renamed when the
last clip is in, so a killed extraction leaves no valid store, and the next one goes on with the clips that are missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import open_memmap
from torch import Tensor
from tqdm import tqdm

from ..data.track import Manifest
from ..models.encoder import Encoder, weights_hash
from .windows import READ_SECONDS, Window, decoded, jobs, plan

VERSION = 1  # of this file's arithmetic; a change gives new keys
Pooling = Literal["mean", "mean+std", "frames"]
Array = npt.NDArray[np.float32]


def default_root() -> Path:
    """$GROUNDBASS_CACHE, else ~/.cache/groundbass."""
    return Path(os.environ.get("GROUNDBASS_CACHE") or Path.home() / ".cache" / "groundbass")


def identity(encoder: Encoder) -> dict[str, Any]:
    """What makes an encoder's features what they are; `weights_hash` covers class, config, weights and buffers."""
    return {
        "class": type(encoder).__qualname__,
        "weights": getattr(encoder, "fingerprint", None) or weights_hash(encoder),
        "sample_rate": int(encoder.sample_rate),
        "frame_rate": float(encoder.frame_rate),
        "dim": int(encoder.dim),
        "layers": int(encoder.layers),
    }


def digest(content: Any) -> str:
    """A short name for JSON-able content."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Frames:
    """Frame features of some tracks, layer-major.

    array: [layers, frames, dim]; layers: which of the encoder's; spans: row -> (first, end) in the frame axis; times:
    [frames] middle of each frame in s from the start of its track.
    """

    array: Array
    layers: tuple[int, ...]
    spans: dict[int, tuple[int, int]]
    times: npt.NDArray[np.float64]


@dataclass
class FeatureStore:
    """Features by content. root: folder of the stores; calls: how often an encoder was called; told: print sizes."""

    root: Path
    window_seconds: float = 10.0
    batch_seconds: float = 80.0
    workers: int = 2
    device: str = "cpu"
    quiet: bool = False
    calls: int = field(default=0, init=False)

    def clips(self, encoder: Encoder, manifest: Manifest, pooling: Pooling = "mean", name: str = "encoder") -> Array:
        """Pooled features of all tracks and all layers: [layers, tracks, dim] (2 dim for "mean+std"), float32,
        memory-mapped, or pooled anew from stored frames where a frame task has encoded the same clips.

        The mean is over valid frames only; windows of a long track are weighted by their valid frames.
        Raises ValueError naming the track when its features aren't finite or it is shorter than a frame; OSError when
        the disk hasn't the room.
        """
        width = encoder.dim * (2 if pooling == "mean+std" else 1)
        rows = list(range(len(manifest)))
        shape = (encoder.layers, len(manifest), width)
        key = self.key(encoder, manifest, rows, pooling, None)
        plans = plan(manifest, rows, encoder.sample_rate, round(self.window_seconds * encoder.sample_rate))

        def write(array: Array, row: int, windows: list[Moments]) -> None:
            array[:, row] = pooled(windows, pooling).numpy()

        if not (self.root / key / "meta.json").is_file():
            every = list(range(encoder.layers))
            if (self.root / self.key(encoder, manifest, rows, "frames", every) / "meta.json").is_file():
                found = self.frames(encoder, manifest, rows, every, name)  # encoded already, for a frame task
                return np.stack([_pooled_frames(found, row, pooling) for row in rows], 1)
        return self._made(key, encoder, manifest, plans, shape, moments, write, name)

    def frames(
        self, encoder: Encoder, manifest: Manifest, rows: Sequence[int], layers: Sequence[int], name: str
    ) -> Frames:
        """Frame features of some rows and layers, layer-major; see `Frames`."""
        plans = plan(manifest, rows, encoder.sample_rate, round(self.window_seconds * encoder.sample_rate))
        sizes = [[int(encoder.valid_frames(torch.tensor([w.samples]))[0]) for w in windows] for windows in plans]
        ends = np.cumsum([sum(size) for size in sizes])
        spans = {row: (int(end - sum(size)), int(end)) for row, end, size in zip(rows, ends, sizes)}
        times = [
            window.start / encoder.sample_rate + (np.arange(count) + 0.5) / encoder.frame_rate
            for windows, size in zip(plans, sizes)
            for window, count in zip(windows, size)
        ]
        shape = (len(layers), int(ends[-1]), encoder.dim)

        def pick(hidden: Tensor) -> Tensor:
            return hidden[list(layers)]

        def write(array: Array, row: int, windows: list[Tensor]) -> None:
            found = torch.cat(windows, 1).numpy()
            first, end = spans[row]
            array[:, first : min(end, first + found.shape[1])] = found[:, : end - first]

        key = self.key(encoder, manifest, rows, "frames", list(layers))
        array = self._made(key, encoder, manifest, plans, shape, pick, write, f"{name}, frames")
        return Frames(array, tuple(layers), spans, np.concatenate(times))

    def key(
        self, encoder: Encoder, manifest: Manifest, rows: Sequence[int], pooling: Pooling, layers: list[int] | None
    ) -> str:
        """The name of a store: changes with one weight, one clip, the window, the pooling or this code's version."""
        clips = [manifest[row].hash for row in rows]
        return digest([VERSION, identity(encoder), clips, self.window_seconds, pooling, layers])

    def _made(
        self,
        key: str,
        encoder: Encoder,
        manifest: Manifest,
        plans: list[list[Window]],
        shape: tuple[int, int, int],
        reduce: Callable[[Tensor], Any],
        write: Callable[[Array, int, list[Any]], None],
        name: str,
    ) -> Array:
        """The finished store's array; made first if it isn't there."""
        final, partial = self.root / key, self.root / f"{key}.partial"
        if not (final / "meta.json").is_file():
            self.root.mkdir(parents=True, exist_ok=True)
            with _alone(self.root / f"{key}.lock"):
                if not (final / "meta.json").is_file():  # another process may have made it while this one waited
                    self._fill(partial, encoder, manifest, plans, shape, reduce, write, name)
                    meta = {"version": VERSION, "shape": list(shape), "encoder": identity(encoder), "name": name}
                    (partial / "meta.json").write_text(json.dumps(meta, indent=1))
                    (partial / "done.npy").unlink()
                    partial.rename(final)
        array: Array = np.load(final / "features.npy", mmap_mode="r")
        if array.shape != shape:
            raise ValueError(
                f"The feature store {final} has shape {array.shape}, expected {shape}: delete the folder and run again."
            )
        return array

    def _fill(
        self,
        partial: Path,
        encoder: Encoder,
        manifest: Manifest,
        plans: list[list[Window]],
        shape: tuple[int, int, int],
        reduce: Callable[[Tensor], Any],
        write: Callable[[Array, int, list[Any]], None],
        name: str,
    ) -> None:
        array, done = self._open(partial, shape, len(manifest), name)
        missing = [windows for windows in plans if not done[windows[0].row]]
        rate = encoder.sample_rate
        work = jobs(missing, round(self.batch_seconds * rate), round(READ_SECONDS * rate))
        lacking = {windows[0].row: len(windows) for windows in missing}
        held: dict[int, list[tuple[int, Any]]] = {}  # windows of tracks that aren't complete, already reduced
        bar = tqdm(total=len(plans), initial=len(plans) - len(missing), unit="clip", desc=name[:40], disable=self.quiet)
        with bar:
            for windows, waveforms in decoded(manifest, work, rate, self.workers):
                for window, hidden in zip(windows, self._encode(encoder, manifest, windows, waveforms)):
                    row = window.row
                    held.setdefault(row, []).append((window.start, reduce(hidden)))
                    if len(held[row]) == lacking[row]:
                        write(array, row, [part for _, part in sorted(held.pop(row), key=lambda pair: pair[0])])
                        done[row] = 1
                        bar.update()
                array.flush()
                done.flush()

    def _open(self, partial: Path, shape: tuple[int, int, int], clips: int, name: str) -> tuple[Any, Any]:
        """Open or make the unfinished store. Says the size before it is written."""
        size = int(np.prod(shape)) * 4
        features, done = partial / "features.npy", partial / "done.npy"
        if features.is_file() and done.is_file():
            old = np.load(features, mmap_mode="r+"), np.load(done, mmap_mode="r+")
            if old[0].shape == shape and old[1].shape == (clips,):
                self._say(f"features of {name}: going on after {int(old[1].sum())} of {clips} clips")
                return old
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        free = shutil.disk_usage(partial).free
        if size > free:
            raise OSError(
                f"Features of {name} need {size / 1e9:.2f} GB and {partial.parent} has {free / 1e9:.2f} GB: "
                "choose another --store."
            )
        self._say(f"features of {name}: {' x '.join(map(str, shape))} float32, {size / 1e6:.1f} MB in {partial.parent}")
        array = open_memmap(features, "w+", np.float32, shape)
        marks = open_memmap(done, "w+", np.uint8, (clips,))
        return array, marks

    def _say(self, sentence: str) -> None:
        if not self.quiet:
            print(sentence, file=sys.stderr)

    def _encode(
        self, encoder: Encoder, manifest: Manifest, windows: list[Window], waveforms: list[Array]
    ) -> Iterator[Tensor]:
        """The valid frames of each window: [layers, frames, dim] float32 on the CPU."""
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        batch = torch.zeros(len(waveforms), int(lengths.max()))
        for row, waveform in enumerate(waveforms):
            batch[row, : len(waveform)] = torch.from_numpy(np.ascontiguousarray(waveform))
        padded = bool((lengths < lengths.max()).any())
        with torch.inference_mode():
            valid = lengths.to(self.device) if padded else None
            hidden = encoder.hidden_states(batch.to(self.device), valid)
        self.calls += 1
        expected = (len(windows), encoder.layers, encoder.dim)
        if hidden.ndim != 4 or (hidden.shape[0], hidden.shape[1], hidden.shape[3]) != expected:
            raise ValueError(
                f"The encoder returned hidden states of shape {tuple(hidden.shape)}; expected "
                "[batch, layers, frames, dim] = "
                f"[{expected[0]}, {expected[1]}, frames, {expected[2]}]. `groundbass probe check ENCODER` explains."
            )
        frames = encoder.valid_frames(lengths).tolist()
        for row, (window, count) in enumerate(zip(windows, frames)):
            track = manifest[window.row]
            if count < 1 or hidden.shape[2] < 1:
                raise ValueError(
                    f"{track.path} ({track.seconds:.3f} s) is shorter than one frame of the encoder "
                    f"({1 / encoder.frame_rate:.3f} s): take it out of the corpus."
                )
            one = hidden[row, :, : int(count)].float().cpu()
            if not torch.isfinite(one).all():
                bad = (~torch.isfinite(one)).flatten(1).any(1).nonzero()[:, 0].tolist()
                raise ValueError(
                    f"The encoder's features of {track.path} aren't finite (layers {bad}); the audio is "
                    "finite, so the weights or the precision are at fault."
                )
            yield one


@dataclass(frozen=True)
class Moments:
    """frames: how many; mean, spread: [layers, dim] float64, spread being the sum of squares around the mean."""

    frames: int
    mean: Tensor
    spread: Tensor


def moments(hidden: Tensor) -> Moments:
    """hidden: [layers, frames, dim] of one window."""
    hidden = hidden.double()
    mean = hidden.mean(1)
    return Moments(hidden.shape[1], mean, (hidden - mean[:, None]).square().sum(1))


def pooled(windows: list[Moments], pooling: Pooling) -> Tensor:
    """Windows of one clip as one vector per layer, each frame weighing the same: [layers, dim] or, with std, [layers, 2
    dim].
    """
    frames = sum(window.frames for window in windows)
    mean = torch.stack([window.mean * window.frames for window in windows]).sum(0) / frames
    if pooling == "mean":
        return mean.float()
    spread = torch.stack([w.spread + w.frames * (w.mean - mean).square() for w in windows]).sum(0) / frames
    return torch.cat([mean, spread.sqrt()], -1).float()


def _pooled_frames(found: Frames, row: int, pooling: Pooling) -> Array:
    """One clip's vector per layer from its frames: what `pooled` gives from windows, to rounding."""
    first, end = found.spans[row]
    return pooled([moments(torch.from_numpy(np.array(found.array[:, first:end])))], pooling).numpy()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock file: of two processes that want one store, the second waits for the first. The system frees it on a
    kill.
    """
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that fills {lock.stem}", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    lock.unlink(missing_ok=True)
