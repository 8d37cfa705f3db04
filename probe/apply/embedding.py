"""Sound to vectors: windows of any length of sound, pooled per track, per window or not at all, with their times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

from ...data.audio import read as audio
from ...data.collections.headers import from_headers
from ...data.track import Manifest, Track
from ...models.encoder import Encoder, WrappedEncoder
from ..listen.features import Array, encode, moments, on_cpu, pooled
from ..listen.windows import READ_SECONDS, Window, cut, decoded, jobs

Unit = Literal["track", "window", "frame"]
MOST_LAYERS = "all"
PART_SECONDS, PART_BYTES = 600.0, 1 << 27  # of sound and of vectors that are held at once


@dataclass(frozen=True)
class Embedding:
    """What is asked for.

    layers: of the encoder, by number. unit: one vector per track, per window or per frame. pooling: of frames.
    window_seconds, overlap_seconds: longer tracks are cut into the fewest equal windows; neighbours share the overlap.
    """

    layers: tuple[int, ...]
    unit: Unit = "track"
    pooling: Literal["mean", "mean+std"] = "mean"
    window_seconds: float = 10.0
    overlap_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.window_seconds > 0 or not 0 <= self.overlap_seconds < self.window_seconds:
            raise ValueError(
                f"windows of {self.window_seconds:g} s that share {self.overlap_seconds:g} s: the window must be above "
                "0, and the overlap at least 0 and shorter than the window."
            )

    def width(self, dim: int) -> int:
        return 2 * dim if self.pooling == "mean+std" and self.unit != "frame" else dim

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def chosen_layers(encoder: Encoder, layers: int | Sequence[int] | str) -> tuple[int, ...]:
    """Layer numbers from numbers (negative ones count from the end) or "all".

    Raises:
        ValueError: there is no such layer.
    """
    if layers == MOST_LAYERS:
        return tuple(range(encoder.layers))
    asked: list[Any] = [layers] if isinstance(layers, int) else list(layers)
    wrong = [layer for layer in asked if not (isinstance(layer, int) and -encoder.layers <= layer < encoder.layers)]
    if wrong or not asked:
        raise ValueError(
            f"--layers {' '.join(map(str, asked))}: the encoder has the layers 0 to {encoder.layers - 1}; negative "
            f"numbers count from the end, and {MOST_LAYERS} takes every one."
        )
    return tuple(dict.fromkeys(layer % encoder.layers for layer in asked))


@dataclass(frozen=True)
class Rows:
    """Vectors of one track (or a stretch of it). values: [rows, layers, width]; start, end: [rows] s."""

    row: int
    values: Array
    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]


@dataclass
class Piece:
    """Windows whose vectors are made together: a track, or a stretch of one where tracks aren't pooled."""

    row: int
    windows: list[Window]
    before: bool  # whether the track has windows before these, and after
    after: bool


def pieces(manifest: Manifest, encoder: Encoder, asked: Embedding) -> Iterator[Piece]:
    """All tracks in order; those of hours come in stretches unless they are pooled as a whole."""
    rate = encoder.sample_rate
    longest, overlap = round(asked.window_seconds * rate), round(asked.overlap_seconds * rate)
    at_once = max(1, int(READ_SECONDS // asked.window_seconds))
    number = 0
    for row, track in enumerate(manifest):
        samples = max(1, round(track.samples * rate / track.sample_rate))
        places = cut(samples, max(1, longest), overlap)
        step = len(places) if asked.unit == "track" else at_once
        for first in range(0, len(places), step):
            windows = [Window(row, start, size, number) for start, size in places[first : first + step]]
            yield Piece(row, windows, first > 0, first + step < len(places))
            number += 1


def parts(manifest: Manifest, encoder: Encoder, asked: Embedding) -> Iterator[list[Piece]]:
    """Consecutive pieces, about ten minutes of sound each, less where the vectors would take too much memory."""
    part: list[Piece] = []
    seconds = size = 0.0
    for piece in pieces(manifest, encoder, asked):
        sound = sum(window.samples for window in piece.windows) / encoder.sample_rate
        rows = {"track": 1.0, "window": len(piece.windows), "frame": sound * encoder.frame_rate}[asked.unit]
        here = rows * len(asked.layers) * asked.width(encoder.dim) * 4
        if part and (seconds + sound > PART_SECONDS or size + here > PART_BYTES):
            yield part
            part, seconds, size = [], 0.0, 0.0
        part.append(piece)
        seconds, size = seconds + sound, size + here
    if part:
        yield part


def embed_parts(
    encoder: Encoder,
    manifest: Manifest,
    plan: Sequence[list[Piece]],
    asked: Embedding,
    *,
    device: str = "cpu",
    batch_seconds: float = 80.0,
    workers: int = 2,
    failed: Callable[[int, str], None] | None = None,
    heard: Callable[[float], None] | None = None,
) -> Iterator[list[Rows]]:
    """The vectors of each part, pieces in order. Decoding runs ahead, across parts.

    failed: told (row, why) of sound that can't be had; None raises. heard: told of seconds of sound, done.
    """
    rate = encoder.sample_rate

    def work() -> Iterator[list[list[Window]]]:
        for part in plan:
            yield from jobs([piece.windows for piece in part], round(batch_seconds * rate), round(READ_SECONDS * rate))

    def skip(read: list[Window], error: Exception) -> None:
        if failed is None:
            raise error
        failed(read[0].row, str(error))
        lost.update({window.item: 0 for window in read})
        seen.extend(read)

    lost: dict[int, int] = {}
    seen: list[Window] = []
    stream = decoded(manifest, work(), rate, workers, skip)
    for part in plan:
        held: dict[int, dict[int, Any]] = {piece.windows[0].item: {} for piece in part}
        edges = {window: edge for piece in part for window, edge in zip(piece.windows, trims(piece, rate, asked))}
        waiting = len(edges)
        while waiting:
            windows, sounds = next(stream)
            waiting -= len(seen)
            _tell(heard, seen, rate)
            seen.clear()
            for read, error in _not_finite(manifest, windows, sounds):
                skip(read, error)
                seen.clear()
            whole = [k for k, window in enumerate(windows) if window.item not in lost]
            if whole:
                own = [windows[k] for k in whole]
                for window, hidden in zip(own, encode(encoder, manifest, own, [sounds[k] for k in whole], device)):
                    chosen = torch.stack([hidden[layer] for layer in asked.layers])
                    found = _reduce(chosen, window, edges[window], encoder, asked)
                    held[window.item][window.start] = on_cpu(found)
            waiting -= len(windows)
            _tell(heard, windows, rate)
        done = [piece for piece in part if piece.windows[0].item not in lost]
        yield [_rows(piece, held[piece.windows[0].item], rate, asked) for piece in done]


def trims(piece: Piece, rate: int, asked: Embedding) -> list[tuple[float, float]]:
    """Of each window the stretch [from, to) that is its own, in samples of the track; overlaps are halved."""
    half = asked.overlap_seconds * rate / 2
    last = len(piece.windows) - 1
    return [
        (
            window.start + half if k > 0 or piece.before else -np.inf,
            window.start + window.samples - half if k < last or piece.after else np.inf,
        )
        for k, window in enumerate(piece.windows)
    ]


def _reduce(hidden: Tensor, window: Window, edge: tuple[float, float], encoder: Encoder, asked: Embedding) -> Any:
    """hidden: [layers, frames, dim] of the asked layers -> moments, or (frames, their middles in s)."""
    if asked.unit == "window":
        return moments(hidden)
    middle = window.start + (torch.arange(hidden.shape[1], dtype=torch.float64) + 0.5) * (
        encoder.sample_rate / encoder.frame_rate
    )
    own = (middle >= edge[0]) & (middle < edge[1])
    if not own.any():  # frames longer than what is the window's own: the one nearest to its middle
        own[(middle - window.start - window.samples / 2).abs().argmin()] = True
    places = own.nonzero()[:, 0].tolist()  # neighbours
    hidden = hidden[:, places[0] : places[-1] + 1]
    if asked.unit == "track":
        return moments(hidden)
    return (
        rearrange(hidden, "layers frames dim -> frames layers dim").cpu().numpy(),
        middle[own].numpy() / encoder.sample_rate,
        encoder.frame_rate,
    )


def _rows(piece: Piece, held: dict[int, Any], rate: int, asked: Embedding) -> Rows:
    found = [held[window.start] for window in piece.windows]
    first, last = piece.windows[0], piece.windows[-1]
    if asked.unit == "track":
        ends = [first.start / rate], [(last.start + last.samples) / rate]
        values = pooled(found, asked.pooling)[None].numpy()
    elif asked.unit == "window":
        ends = [w.start / rate for w in piece.windows], [(w.start + w.samples) / rate for w in piece.windows]
        values = torch.stack([pooled([part], asked.pooling) for part in found]).numpy()
    else:
        half = 0.5 / found[0][2]
        middles = np.concatenate([middle for _, middle, _ in found])
        ends = (middles - half).tolist(), (middles + half).tolist()
        values = np.concatenate([frames for frames, _, _ in found])
    return Rows(piece.row, values, np.array(ends[0]), np.array(ends[1]))


def _not_finite(
    manifest: Manifest, windows: list[Window], sounds: list[Array]
) -> Iterator[tuple[list[Window], Exception]]:
    for window, sound in zip(windows, sounds):
        if not np.isfinite(sound).all():
            yield [window], ValueError(f"{manifest[window.row].path} holds NaN or infinity: repair the file")


def _tell(heard: Callable[[float], None] | None, windows: list[Window], rate: int) -> None:
    if heard is not None and windows:
        heard(sum(window.samples for window in windows) / rate)


class _InMemory(Manifest):
    """One waveform as a manifest of one track."""

    def __init__(self, sound: Array, sample_rate: int) -> None:
        track = Track("waveform", "waveform", len(sound), sample_rate, 1, "")
        super().__init__(Manifest.from_tracks([track], ".").table, ".")
        self.sound, self.rate = sound, sample_rate

    def read(self, row: int, sample_rate: int | None = None, start: int = 0, samples: int | None = None) -> Array:
        """Resampled as a whole when it's first asked for; see `Manifest.read`."""
        if sample_rate is not None and sample_rate != self.rate:
            self.sound, self.rate = audio.resample(self.sound, self.rate, sample_rate), sample_rate
        return self.sound[start : None if samples is None else start + samples]


class LoadedEncoder(WrappedEncoder):
    """What `groundbass.load_encoder` returns: an encoder that also embeds recordings, which needs to decode files."""

    def embed(
        self,
        sound: str | Path | Tensor | npt.NDArray[Any],
        sample_rate: int | None = None,
        *,
        layers: int | Sequence[int] | Literal["all"] = -1,
        unit: Unit = "track",
        pooling: Literal["mean", "mean+std"] = "mean",
        window_seconds: float = 10.0,
        overlap_seconds: float = 0.0,
        times: bool = False,
    ) -> Any:
        """Vectors of a recording of any length.

        Args:
            sound: a file, or a waveform [samples] or [channels, samples] in [-1, 1]; channels are averaged.
            sample_rate: Hz of a waveform; None for the encoder's own. A file knows its rate.
            layers: one layer (negative ones count from the end), several, or "all".
            unit: one vector for the whole, or one per window or frame.
            pooling: of frames: their mean, or mean and standard deviation (twice as wide).
            window_seconds: longer sound is heard in equal windows of at most this length.
            overlap_seconds: what neighbouring windows share; a frame is taken from the window in which it is further
                from the edge.
            times: also return [rows, 2] float64, start and end of each row in s.

        Returns:
            float32 on the CPU: [dim] for a track; [rows, dim] for windows and frames. With several layers an axis for
            them stands before `dim`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: sound that can't be decoded, is empty or not finite, or arguments that don't fit.
        """
        asked = Embedding(chosen_layers(self, layers), unit, pooling, window_seconds, overlap_seconds)
        if isinstance(sound, (str, Path)):
            own = audio.info(sound).sample_rate
            if sample_rate not in (None, own):
                raise ValueError(f"{sound} has {own} Hz and sample_rate says {sample_rate}; leave it out for files.")
            manifest: Manifest = from_headers([Path(sound)], {})
        else:
            manifest = _InMemory(_mono(sound), sample_rate or self.sample_rate)
        model = getattr(self, "model", self)
        device = str(getattr(model, "device", "cpu"))
        found = [
            rows
            for part in embed_parts(self, manifest, list(parts(manifest, self, asked)), asked, device=device)
            for rows in part
        ]
        values = torch.from_numpy(np.concatenate([rows.values for rows in found]))
        if isinstance(layers, int):
            values = values[:, 0]
        if unit == "track":
            values = values[0]
        spans = np.stack([np.concatenate([r.start for r in found]), np.concatenate([r.end for r in found])], 1)
        return (values, torch.from_numpy(spans)) if times else values


def _mono(sound: Any) -> Array:
    waveform = np.asarray(sound.detach().cpu() if isinstance(sound, Tensor) else sound)
    if waveform.ndim not in (1, 2) or not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(
            f"A waveform is floating point, [samples] or [channels, samples] in [-1, 1], not {waveform.dtype} "
            f"{list(waveform.shape)}; integers are divided by their largest value."
        )
    if waveform.ndim == 2:
        if waveform.shape[0] > waveform.shape[1]:
            raise ValueError(f"A waveform is [channels, samples], not {list(waveform.shape)}: transpose it.")
        waveform = waveform.mean(axis=0)
    if not waveform.size:
        raise ValueError("The waveform is empty; an encoder needs at least one sample.")
    return waveform.astype(np.float32)
