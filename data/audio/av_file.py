"""Sound that libsndfile can't decode, by PyAV (FFmpeg): m4a, AAC, WMA, the sound of videos. The extra `av` installs it.

A file looks like a `soundfile.SoundFile`. What a format is, its suffix says and nothing in the file: a playlist that
is called song.m4a opens no other file and no network. Decoders keep a state that no seek restores, so a part is reached
by decoding up to it: exact, and slow for crops from long files, which `groundbass data shard` makes quick.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import soundfile as sf

DEMUXERS = {
    ".m4a": "mov", ".m4b": "mov", ".mp4": "mov", ".m4v": "mov", ".mov": "mov", ".3gp": "mov", ".aac": "aac",
    ".wma": "asf", ".wmv": "asf", ".mkv": "matroska", ".mka": "matroska", ".webm": "matroska", ".avi": "avi",
    ".ape": "ape", ".wv": "wv", ".tta": "tta", ".ac3": "ac3", ".dsf": "dsf",
}  # fmt: skip
"""FFmpeg's names of the formats by suffix."""
SUFFIXES = tuple(DEMUXERS)
UNKNOWN = 1 << 60  # the length before it has been decoded: headers count priming and padding in their own ways
SLACK_SECONDS = 0.5  # that a header may announce beyond what there is


def is_installed() -> bool:
    """Whether PyAV is there; it isn't imported."""
    return importlib.util.find_spec("av") is not None


class Broken(sf.LibsndfileError):
    """FFmpeg's complaint, as one of libsndfile."""

    def __init__(self, why: str) -> None:
        super().__init__(0)
        self._why = why

    @property
    def error_string(self) -> str:
        """The complaint in words."""
        return self._why


class AvFile:
    """The first sound of a file, read forwards.

    Raises:
        Broken: FFmpeg can't open it, or there is no sound in it.
    """

    format = "AV"
    frames = UNKNOWN

    def __init__(self, path: str | Path) -> None:
        self._path, self._suffix = str(path), Path(path).suffix.lower()
        self._open()
        rest = next(self._decoded, None)
        if rest is None:
            self.close()
            raise Broken("No sound can be decoded.")
        self._rest = rest
        self.channels = rest.shape[1]
        self.subtype = f"AV_{self._stream.codec_context.name}"
        self.seekable = lambda: False

    def _open(self) -> None:
        import av

        try:
            self._container = av.open(self._path, format=DEMUXERS[self._suffix], metadata_errors="ignore")
        except (av.FFmpegError, ValueError) as error:
            raise Broken(str(error)) from error
        if not self._container.streams.audio:
            self._container.close()
            raise Broken("There is no sound in it.")
        self._stream = self._container.streams.audio[0]
        self._decoded = self._blocks()
        self._at = 0

    def _blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        import av

        planar = None
        try:
            for frame in self._container.decode(self._stream):
                if planar is None:
                    self.samplerate = int(frame.sample_rate)  # HE-AAC's header names half of it
                    planar = av.AudioResampler("fltp", frame.layout, frame.sample_rate)
                frame.pts = None  # holes in the clock are no silence
                for part in planar.resample(frame):
                    yield np.ascontiguousarray(part.to_ndarray().T, dtype=np.float32)
            for part in planar.resample(None) if planar is not None else ():
                yield np.ascontiguousarray(part.to_ndarray().T, dtype=np.float32)
        except (av.FFmpegError, ValueError) as error:
            raise Broken(str(error)) from error

    def read(self, frames: int = -1, dtype: str = "float32", always_2d: bool = False) -> npt.NDArray[Any]:
        """[samples, channels] (or [samples] of one channel), at most `frames`; empty at the end."""
        parts, held = [self._rest], len(self._rest)
        while (frames < 0 or held < frames) and (block := next(self._decoded, None)) is not None:
            parts.append(block)
            held += len(block)
        sound = np.concatenate(parts)
        taken, self._rest = (sound, sound[len(sound) :]) if frames < 0 else (sound[:frames], sound[frames:])
        self._at += len(taken)
        return taken.astype(dtype) if always_2d or self.channels > 1 else taken[:, 0].astype(dtype)

    def seek(self, frame: int) -> int:
        """Go to a sample, by decoding."""
        if frame < self._at:
            self.close()
            self._open()
            self._rest = np.zeros((0, self.channels), np.float32)
        while self._at < frame and len(self.read(min(1 << 18, frame - self._at), always_2d=True)):
            pass
        return self._at

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def announced_seconds(path: str | Path) -> float:
    """What the header says of the length; 0 where it says nothing."""
    with AvFile(path) as file:
        stream = file._stream
        return float(stream.duration * stream.time_base) if stream.duration else 0.0
