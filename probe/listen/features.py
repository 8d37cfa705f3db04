"""Encode once: features of a corpus in one memory-mapped file, named by the content of everything that made them.

A store is a folder ROOT/FAMILY/KEY with features.npy, items.json and meta.json; a family is an encoder with its
settings, a key a list of tracks. It is written as KEY.partial and renamed when the last clip is in, so a killed
extraction leaves no valid store, and the next one goes on with the clips that are missing. A new store copies the clips
that others of its family have, so tasks of one corpus with different tracks share what they share.

What is kept of a clip are its moments: mean, deviation, and the deviations of differences over one and four frames.
They are the widest pooling, and every narrower one is their beginning, so that no pooling costs a second pass.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import open_memmap
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ...data import parallel
from ...data.locks import alone
from ...data.track import Manifest
from ...data.writing import put_folder
from ...models.encoder import Encoder, bare, weights_hash
from ...models.heads import POOLINGS, Moments, combined, moments
from ...models.heads import pooled as pool_moments
from ...progress import tqdm
from ...reading import json_of
from .windows import READ_SECONDS, Window, decoded, jobs, window_rows

VERSION = 2  # of this file's arithmetic; a change gives new keys
_FILLING = threading.Lock()  # threads of one process, which share its lock on a file
LARGE_BYTES = 2**30  # a memory-mapped array of more isn't kept in memory
Pooling = Literal["mean", "mean+std", "mean+std+change"]
WIDEST: Pooling = "mean+std+change"  # begins with what the narrower ones are
Array = npt.NDArray[np.float32]


def identity(encoder: Encoder) -> dict[str, Any]:
    """What makes an encoder's features what they are; `weights_hash` covers class, config, weights and buffers."""
    return {
        "class": type(bare(encoder)).__qualname__,
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


@dataclass(frozen=True)
class Windows:
    """Pooled features of stretches of tracks. array: [layers, stretches, dim]; owner: [stretches] row of the track."""

    array: Array
    owner: npt.NDArray[np.int64]


class Change(Protocol):
    """Something done to the sound before the encoder hears it. name: what it is, entirely; it becomes part of a key."""

    @property
    def name(self) -> str: ...

    def __call__(self, waveform: Array, sample_rate: int, seed: int) -> Array:
        """waveform: [samples] -> [samples], the same for the same seed."""
        ...


@dataclass(frozen=True)
class Listening:
    """One extraction: who listens to what.

    plans: the windows of every track; names: of the items, by content; setting: what else the features depend on.
    reduce: [layers, frames, dim] of a window -> what is held until its item is complete; write: puts an item in place.
    """

    encoder: Encoder
    manifest: Manifest
    plans: list[list[Window]]
    names: list[str]
    shape: tuple[int, int, int]
    setting: list[Any]
    title: str
    reduce: Callable[[Tensor], Any]
    write: Callable[[Array, int, list[Any]], None]
    change: Change | None = None

    @property
    def family(self) -> str:
        """Stores of one family hold the same features of different tracks."""
        return digest([VERSION, identity(self.encoder), self.setting, self.change and self.change.name])

    @property
    def key(self) -> str:
        return f"{self.family}/{digest(self.names)}"


@dataclass
class FeatureStore:
    """Features by content.

    root: folder of the stores; window_seconds: longer tracks are heard in equal windows of at most this length;
    batch_seconds: of sound per call of the encoder; workers: threads that decode; quiet: no sizes, no progress bars;
    calls: how often an encoder was called; made: the stores that were written.
    """

    root: Path
    window_seconds: float = 10.0
    batch_seconds: float = 80.0
    workers: int = 2
    device: str = "cpu"
    quiet: bool = False
    calls: int = field(default=0, init=False)
    made: list[Path] = field(default_factory=list, init=False)

    def clips(
        self,
        encoder: Encoder,
        manifest: Manifest,
        pooling: Pooling = "mean",
        name: str = "encoder",
        change: Change | None = None,
    ) -> Array:
        """Pooled features of all tracks and layers: [layers, tracks, POOLINGS[pooling] · dim] float32, memory-mapped.

        Means, then deviations of frames, then of their differences over one and four frames; all four are stored. What
        other stores hold of these tracks is copied, and frames that a frame task has stored are pooled, before the
        encoder is asked.

        The mean is over valid frames only; windows of a long track are weighted by their valid frames.

        Raises:
            ValueError: its features aren't finite or it is shorter than a frame; the sentence names the track.
            OSError: the disk hasn't the room.
        """
        return self._pooled(encoder, manifest, pooling, name, None, change).array

    def windows(
        self,
        encoder: Encoder,
        manifest: Manifest,
        seconds: float,
        pooling: Pooling = "mean",
        name: str = "encoder",
        change: Change | None = None,
    ) -> Windows:
        """As `clips`, of the fewest equal stretches of at most `seconds` of every track."""
        return self._pooled(encoder, manifest, pooling, name, seconds, change)

    def _pooled(
        self,
        encoder: Encoder,
        manifest: Manifest,
        pooling: Pooling,
        name: str,
        seconds: float | None,
        change: Change | None,
    ) -> Windows:
        rate = encoder.sample_rate
        stretch = None if seconds is None else max(1, round(seconds * rate))
        plans = window_rows(manifest, range(len(manifest)), rate, round(self.window_seconds * rate), stretch)
        firsts = {window.item: window for windows in reversed(plans) for window in reversed(windows)}
        items = [firsts[item] for item in range(len(firsts))]
        hashes = manifest.hashes()
        names = [hashes[w.row] if stretch is None else f"{hashes[w.row]} from {w.start}" for w in items]
        width = encoder.dim * POOLINGS[pooling]

        def write(array: Array, item: int, parts: list[Moments]) -> None:
            array[:, item] = pooled(parts, WIDEST).numpy()

        listening = Listening(
            encoder, manifest, plans, names, (encoder.layers, len(items), encoder.dim * POOLINGS[WIDEST]),
            [self.window_seconds, seconds, WIDEST], name, moments, write, change,
        )  # fmt: skip
        array = self._older(listening, pooling)
        if array is None:
            array = self._made(listening, lambda array, done: self._known(listening, array, done))
        return Windows(array[..., :width], np.array([window.row for window in items], dtype=np.int64))

    def _older(self, listening: Listening, pooling: Pooling) -> Array | None:
        """What an earlier version stored of these very items by fewer moments, where these are enough."""
        if (self.root / listening.key / "meta.json").is_file():
            return None
        window, seconds, _ = listening.setting
        narrow: list[Pooling] = ["mean+std", "mean"]
        for name in narrow:
            older = self.root / replace(listening, setting=[window, seconds, name]).key
            if not (older / "meta.json").is_file():
                continue
            if POOLINGS[name] >= POOLINGS[pooling]:
                array: Array = np.load(older / "features.npy", mmap_mode="r")
                return array
            self._say(
                f"features of {listening.title}: {older} holds {name} alone, by an earlier version; they are computed "
                "anew with all moments."
            )
        return None

    def _known(self, listening: Listening, array: Array, done: npt.NDArray[np.uint8]) -> None:
        """Put in place what this machine knows already: items of stores of the same family, pooled frames of a task."""
        place = {name: item for item, name in enumerate(listening.names) if not done[item]}
        for other in sorted((self.root / listening.family).glob("*/meta.json")):
            held = json_of(other.parent / "items.json")
            found = [(item, place.pop(name)) for item, name in enumerate(held) if name in place]
            if found:
                theirs, ours = map(list, zip(*found))
                for layer, features in enumerate(np.load(other.parent / "features.npy", mmap_mode="r")):
                    array[layer, ours] = features[theirs]
                done[ours] = 1
        if place and listening.change is None and listening.setting[1] is None:
            self._pool_frames(listening, array, done)

    def _pool_frames(self, listening: Listening, array: Array, done: npt.NDArray[np.uint8]) -> None:
        rows = range(len(listening.manifest))
        layers = list(range(listening.encoder.layers))
        wanted, spans, _ = self._frames_of(listening.encoder, listening.manifest, rows, layers, "")
        if (self.root / wanted.key / "meta.json").is_file():
            frames = np.load(self.root / wanted.key / "features.npy", mmap_mode="r")
            for row in np.flatnonzero(done == 0):
                first, end = spans[int(row)]
                part = listening.reduce(torch.from_numpy(np.array(frames[:, first:end])))
                listening.write(array, int(row), [part])
                done[row] = 1

    def frames(
        self,
        encoder: Encoder,
        manifest: Manifest,
        rows: Sequence[int],
        layers: Sequence[int],
        name: str,
        change: Change | None = None,
    ) -> Frames:
        """Frame features of some rows and layers, layer-major; see `Frames`."""
        listening, spans, times = self._frames_of(encoder, manifest, rows, layers, name, change)
        places = list(spans.values())
        known = None if parallel.place().alone else partial(self._known_frames, listening, places)
        return Frames(self._made(listening, known), tuple(layers), spans, times)

    def _known_frames(
        self, listening: Listening, places: list[tuple[int, int]], array: Array, done: npt.NDArray[np.uint8]
    ) -> None:
        """Put in place what stores of some of these tracks hold: the shares of processes launched together."""
        items = {name: item for item, name in enumerate(listening.names)}
        for other in sorted((self.root / listening.family).glob("*/meta.json")):
            held = json_of(other.parent / "items.json")
            if not items.keys() >= set(held):
                continue
            frames, begin = np.load(other.parent / "features.npy", mmap_mode="r"), 0
            for item in map(items.__getitem__, held):
                first, end = places[item]
                array[:, first:end] = frames[:, begin : begin + end - first]
                done[item] = 1
                begin += end - first

    def _frames_of(
        self,
        encoder: Encoder,
        manifest: Manifest,
        rows: Sequence[int],
        layers: Sequence[int],
        name: str,
        change: Change | None = None,
    ) -> tuple[Listening, dict[int, tuple[int, int]], npt.NDArray[np.float64]]:
        plans = window_rows(manifest, rows, encoder.sample_rate, round(self.window_seconds * encoder.sample_rate))
        sizes = [[int(encoder.valid_frames(torch.tensor([w.samples]))[0]) for w in windows] for windows in plans]
        ends = np.cumsum([sum(size) for size in sizes])
        places = [(int(end - sum(size)), int(end)) for end, size in zip(ends, sizes)]
        times = [
            window.start / encoder.sample_rate + (np.arange(count) + 0.5) / encoder.frame_rate
            for windows, size in zip(plans, sizes)
            for window, count in zip(windows, size)
        ]

        def pick(hidden: Tensor) -> Tensor:
            return torch.stack([hidden[layer] for layer in layers])

        def write(array: Array, item: int, windows: list[Tensor]) -> None:
            found = torch.cat(windows, 1).numpy()
            first, end = places[item]
            array[:, first : min(end, first + found.shape[1])] = found[:, : end - first]

        hashes = manifest.hashes()
        listening = Listening(
            encoder, manifest, plans, [hashes[row] for row in rows], (len(layers), int(ends[-1]), encoder.dim),
            [self.window_seconds, "frames", list(layers)], f"{name}, frames", pick, write, change,
        )  # fmt: skip
        return listening, dict(zip(rows, places)), np.concatenate(times)

    def _made(self, listening: Listening, known: Callable[[Array, Any], None] | None = None) -> Array:
        """The finished store's array; made first if it isn't there. known: fills in what needs no encoder."""
        final = self.root / listening.key
        part, lock = final.with_name(f"{final.name}.partial"), final.with_name(f"{final.name}.lock")
        if not (final / "meta.json").is_file():
            final.parent.mkdir(parents=True, exist_ok=True)
            with _FILLING, alone(lock, f"the features in {final}", wait=True):
                if not (final / "meta.json").is_file():  # another process may have made it while this one waited
                    self._fill(part, listening, known)
                    about = {"encoder": identity(listening.encoder), "setting": listening.setting}
                    change = listening.change and listening.change.name
                    meta = {"version": VERSION, "shape": listening.shape, **about, "change": change}
                    (part / "items.json").write_text(json.dumps(listening.names))
                    (part / "done.npy").unlink()
                    (part / "meta.json").write_text(json.dumps(meta, indent=1))
                    put_folder(part, final)
                    self.made.append(final)
        elif lock.exists():
            lock.unlink(missing_ok=True)  # of a process that was killed after the renaming: nobody needs it any more
        array: Array = np.load(final / "features.npy", mmap_mode="r")
        if array.shape != listening.shape:
            raise ValueError(
                f"The feature store {final} has shape {array.shape}, expected {listening.shape}: delete the folder and "
                "run again."
            )
        return array

    def _fill(self, partial: Path, listening: Listening, known: Callable[[Array, Any], None] | None) -> None:
        array, done = self._open(partial, listening.shape, len(listening.names), listening.title)
        if known is not None:
            known(array, done)
        missing = [[window for window in windows if not done[window.item]] for windows in listening.plans]
        missing = [windows for windows in missing if windows]
        encoder, rate = listening.encoder, listening.encoder.sample_rate
        work = jobs(missing, round(self.batch_seconds * rate), round(READ_SECONDS * rate))
        lacking = Counter(window.item for windows in missing for window in windows)
        held: dict[int, list[tuple[int, Any]]] = {}  # windows of items that aren't complete, already reduced
        bar = tqdm(total=len(done), initial=int(done.sum()), unit="clip", desc=listening.title[:40], disable=self.quiet)
        with bar:
            for windows, waveforms in decoded(listening.manifest, work, rate, self.workers):
                if listening.change is not None:
                    waveforms = [self._changed(listening, w, sound) for w, sound in zip(windows, waveforms)]
                self.calls += 1
                complete = []
                found = encode(encoder, listening.manifest, windows, waveforms, self.device)
                for window, hidden in zip(windows, found):
                    item = window.item
                    held.setdefault(item, []).append((window.start, on_cpu(listening.reduce(hidden))))
                    if len(held[item]) == lacking[item]:
                        parts = sorted(held.pop(item), key=lambda pair: pair[0])
                        listening.write(array, item, [part for _, part in parts])
                        complete.append(item)
                array.flush()
                forget(array)
                done[complete] = 1  # only when the features are on the disk
                done.flush()
                bar.update(len(complete))

    def _changed(self, listening: Listening, window: Window, waveform: Array) -> Array:
        assert listening.change is not None
        seed = int(digest([listening.names[window.item], window.start])[:8], 16)
        return listening.change(waveform, listening.encoder.sample_rate, seed)

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


def encode(
    encoder: Encoder, manifest: Manifest, windows: list[Window], waveforms: list[Array], device: str
) -> Iterator[Tensor]:
    """One call of the encoder: the valid frames of each window, [layers, frames, dim] float32, where it computed them.

    What is made of them (moments, say) is made there too, and only that is brought to the CPU: see `on_cpu`.

    Raises:
        ValueError: hidden states of a wrong shape or another frame rate than the encoder tells, windows under a
            frame, and features that aren't finite.
    """
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    batch = torch.zeros(len(waveforms), int(lengths.max()))
    for row, waveform in enumerate(waveforms):
        batch[row, : len(waveform)] = torch.from_numpy(np.ascontiguousarray(waveform))
    padded = bool((lengths < lengths.max()).any())
    with torch.inference_mode():
        hidden = encoder.hidden_states(batch.to(device), lengths.to(device) if padded else None)
    expected = (len(windows), encoder.layers, encoder.dim)
    if hidden.ndim != 4 or (hidden.shape[0], hidden.shape[1], hidden.shape[3]) != expected:
        raise ValueError(
            f"The encoder returned hidden states of shape {tuple(hidden.shape)}; expected "
            "[batch, layers, frames, dim] = "
            f"[{expected[0]}, {expected[1]}, frames, {expected[2]}]. `groundbass probe check ENCODER` explains."
        )
    frames = encoder.valid_frames(lengths).tolist()
    wanted = float(lengths.max()) / encoder.sample_rate * encoder.frame_rate
    wrong = abs(hidden.shape[2] - wanted) > max(2.0, 0.1 * wanted) or max(frames) > hidden.shape[2]
    if hidden.shape[2] and wrong:
        raise ValueError(
            f"The encoder made {hidden.shape[2]} frames of {int(lengths.max()) / encoder.sample_rate:.2f} s; its "
            f"frame_rate of {encoder.frame_rate:g} Hz says about {wanted:.1f}, its valid_frames {max(frames)}. "
            "`groundbass probe check ENCODER` explains."
        )
    finite = _finite(hidden, frames)
    for row, (window, count) in enumerate(zip(windows, frames)):
        track = manifest[window.row]
        if count < 1 or hidden.shape[2] < 1:
            raise ValueError(
                f"{track.path} ({track.seconds:.3f} s) is shorter than one frame of the encoder "
                f"({1 / encoder.frame_rate:.3f} s): take it out of the corpus."
            )
        if not finite[row].all():
            bad = (~finite[row]).nonzero()[:, 0].tolist()
            raise ValueError(
                f"The encoder's features of {track.path} aren't finite (layers {bad}); the audio is "
                "finite, so the weights or the precision are at fault."
            )
        yield hidden[row, :, : int(count)].float()


def _finite(hidden: Tensor, frames: Sequence[int]) -> Tensor:
    """Bool [batch, layers] on the CPU, read once: whether the first `frames` of each item are numbers."""
    parts = [torch.isfinite(hidden[row, :, : int(count)]).flatten(1).all(1) for row, count in enumerate(frames)]
    return torch.stack(parts).cpu()


def on_cpu(found: Any) -> Any:
    """A tensor, or several in a tuple, on the CPU."""
    return tree_map_only(Tensor, Tensor.cpu, found)


def pooled(windows: Sequence[Moments], pooling: str) -> Tensor:
    """Windows of one clip as one vector per layer, each frame weighing the same: [layers, POOLINGS[pooling] · dim]."""
    return pool_moments(combined(windows), pooling)


def forget(array: npt.NDArray[Any]) -> None:
    """Let go of the pages that a large memory-mapped array has in memory; what is needed again is read again."""
    mapped: Any = array.base
    while isinstance(mapped, np.ndarray):  # a view of some columns
        mapped = mapped.base
    if isinstance(mapped, mmap.mmap) and array.nbytes > LARGE_BYTES:
        mapped.madvise(mmap.MADV_DONTNEED)
