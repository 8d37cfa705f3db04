"""Sound from files: decode, mix to mono, resample, write. The only place where audio is decoded or written.

Reading is exact: a crop equals the same samples of the whole file, decoded, resampled and cut. libsndfile alone doesn't
give that: it misses in MP3 (see `mp3.py`) and on the last page of Ogg Vorbis, and both are gone around here.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

from ..writing import written
from . import av_file, mp3

WRITTEN = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf")
SUFFIXES = WRITTEN + (av_file.SUFFIXES if av_file.is_installed() else ())
"""What is read: libsndfile's formats, and FFmpeg's where PyAV is installed."""
FORMATS = {".opus": ("OGG", "OPUS"), ".oga": ("OGG", "VORBIS"), ".aif": ("AIFF", None)}  # others: the suffix
Waveform = npt.NDArray[np.float32]
MARGIN_SECONDS = 0.05  # of sound around a crop for the resampler; its filter is shorter (tested)
BLOCK = 1 << 18  # frames decoded at a time where a file is read past or written
SOUGHT = ("WAV", "WAVEX", "FLAC", "AIFF", "AU", "W64", "CAF")  # formats in which libsndfile's seeking is exact
LOWEST_RATE, HIGHEST_RATE = 1000, 768_000  # Hz that are read
MOST_CHANNELS = 32
MOST_PER_BYTE = 8192  # samples that a byte can stand for: silence in FLAC's longest blocks has 4,700
DENSE_PER_BYTE = 64  # from here on a length is not believed before it has been decoded
UNKNOWN = 1 << 60  # libsndfile's word for an unknown length is the greatest integer
LOUDEST = 1000.0  # full scale is 1: 60 dB above it is no sound any more
VORBIS_BLOCK = 8192  # samples: the longest block, so the furthest that Vorbis reaches back


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says; `samples` per channel."""

    samples: int
    sample_rate: int
    channels: int

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate


def info(path: str | Path) -> AudioInfo:
    """Length, sample rate (Hz) and channels from the header of `path`.

    Headers can lie: `data scan` decodes.

    Raises:
        FileNotFoundError: it isn't there.
        ValueError: the file can't be decoded.
    """
    with open_audio(path) as file:
        frames = mp3.index(path) if file.format == "MP3" else None
        samples = frames.samples if frames else file.frames
        if samples >= UNKNOWN:
            samples = sum(len(block) for block in blocks(path))
        return AudioInfo(samples, file.samplerate, file.channels)


def read(
    path: str | Path, sample_rate: int | None = None, start: int = 0, samples: int | None = None
) -> npt.NDArray[np.float32]:
    """Part of a file as a mono mix (mean of the channels), resampled.

    sample_rate: of the result in Hz; None keeps the file's own.
    start, samples: the part, counted at the returned rate; `samples=None` reads to the end.
    Returns [samples] float32, shorter where the file ends; full scale is 1.

    Raises:
        FileNotFoundError: it isn't there.
        ValueError: the file can't be decoded.
    """
    if start < 0 or (samples is not None and samples < 0):
        raise ValueError(f"start={start} and samples={samples} must not be negative: both count samples of the result")
    start, samples = int(start), None if samples is None else int(samples)  # numpy's integers overflow in products
    with open_audio(path) as file:
        try:
            if sample_rate is None or sample_rate == file.samplerate:
                sound = _read_mono(file, path, start, samples)
            else:
                sound = _read_resampled(file, path, sample_rate, start, samples)
        except sf.LibsndfileError as error:
            raise ValueError(
                f"{path} can't be decoded at sample {start}: {error.error_string} Scan the folder again: that skips it."
            ) from error
        if file.subtype in ("FLOAT", "DOUBLE"):  # others can't hold them
            _check_level(sound, path)
        return sound


def _check_level(sound: Waveform, path: str | Path) -> None:
    peak = max(sound.max(initial=0.0), -sound.min(initial=0.0))
    if not np.isfinite(peak):
        raise ValueError(f"{path} holds NaN or infinity: repair the file, or scan the folder again, which skips it.")
    if peak > LOUDEST:
        raise ValueError(
            f"{path} holds samples of {peak:.1e}, and full scale is 1: it is damaged, or no sound. Scan the folder "
            "again: that skips it."
        )


def read_bytes(
    data: bytes, name: str, sample_rate: int | None = None, start: int = 0, samples: int | None = None
) -> npt.NDArray[np.float32]:
    """As `read`, from an encoded file in memory. WAV, FLAC and the like are sought in; others are decoded whole.

    Raises:
        ValueError: it can't be decoded; the sentence has `name`.
    """
    try:
        with sf.SoundFile(io.BytesIO(data)) as file:
            if file.format in SOUGHT:
                if sample_rate is None or sample_rate == file.samplerate:
                    return _read_mono(file, name, start, samples)
                return _read_resampled(file, name, sample_rate, start, samples)
            sound, rate = to_mono(_all(file)), file.samplerate
    except sf.LibsndfileError as error:
        raise ValueError(f"{name} can't be decoded: {error.error_string}") from error
    whole = resample(sound, rate, sample_rate or rate)
    return whole[start:] if samples is None else whole[start : start + samples]


def header_of(data: bytes) -> AudioInfo:
    """What the header of an encoded file in memory says; an MP3 is decoded, since its header may only guess.

    Raises soundfile.LibsndfileError where it is no audio.
    """
    with sf.SoundFile(io.BytesIO(data)) as file:
        samples = len(_all(file)) if file.format == "MP3" else file.frames
        return AudioInfo(samples, file.samplerate, file.channels)


def _all(file: sf.SoundFile) -> npt.NDArray[np.float32]:
    """[samples, channels] decoded to the end, whatever the header says."""
    forbid_seeking(file)
    parts = []
    while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
        parts.append(block)
    return np.concatenate(parts) if parts else np.zeros((0, file.channels), np.float32)


def _at_most(file: sf.SoundFile, count: int) -> npt.NDArray[np.float32]:
    """[samples, channels], at most `count`, with the memory of what is there and not of what is announced."""
    parts, left = [np.zeros((0, file.channels), np.float32)], count
    while left > 0 and len(block := file.read(min(BLOCK, left), dtype="float32", always_2d=True)):
        parts.append(block)
        left -= len(block)
    return np.concatenate(parts)


def blocks(path: str | Path, samples: int = 1 << 20) -> Iterator[npt.NDArray[np.float32]]:
    """The whole file, decoded in blocks of at most `samples`: each [samples, channels] float32.

    Raises:
        FileNotFoundError: it isn't there.
        ValueError: the file is no audio.
        soundfile.LibsndfileError: it breaks off.
    """
    with open_audio(path) as file:
        frames = mp3.index(path) if file.format == "MP3" else None
        if frames is not None and frames.seekable:
            for start in range(0, frames.samples, samples):
                sound = mp3.read_slice(path, frames, start, samples)
                if sound is not None:
                    yield sound
            return
        forbid_seeking(file)
        while len(sound := file.read(samples, dtype="float32", always_2d=True)):
            yield sound


def resample(waveform: npt.NDArray[np.floating[Any]], source_rate: int, target_rate: int) -> npt.NDArray[np.float32]:
    """Resample [..., samples] from `source_rate` to `target_rate` Hz with soxr's HQ filter (linear phase, no delay)."""
    if source_rate <= 0 or target_rate <= 0:
        raise ValueError(f"Sample rates must be positive, not {source_rate} and {target_rate} Hz")
    waveform = np.asarray(waveform, dtype=np.float32)
    if source_rate == target_rate or waveform.size == 0:
        return waveform
    flat = waveform.reshape(-1, waveform.shape[-1])
    sound = np.asarray(soxr.resample(flat.T, source_rate, target_rate, quality="HQ"), dtype=np.float32).T
    return np.ascontiguousarray(sound).reshape(*waveform.shape[:-1], -1)


def write(path: str | Path, waveform: npt.NDArray[np.floating[Any]], sample_rate: int) -> None:
    """Write [samples] or [channels, samples] in [-1, 1] in the format of the suffix (WAV and FLAC as 16 bit).

    The file is written beside and renamed.

    Raises:
        ValueError: an unknown suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITTEN:
        raise ValueError(f"{path.name} has no suffix that can be written: use one of {', '.join(WRITTEN)}")
    sound = np.atleast_2d(np.asarray(waveform, dtype=np.float32)).T
    suffix = path.suffix.lower()
    kind, coding = FORMATS.get(suffix, (suffix[1:].upper(), None))
    step = sample_rate // 2  # libsndfile's Ogg writer overflows its stack where it gets all at once
    with (
        written(path) as beside,
        sf.SoundFile(beside, "w", sample_rate, sound.shape[1], format=kind, subtype=coding) as file,
    ):
        for block in range(0, len(sound), step):
            file.write(sound[block : block + step])


def open_audio(path: str | Path) -> sf.SoundFile:
    """An open `soundfile.SoundFile`.

    Raises:
        FileNotFoundError: it isn't there.
        ValueError: the file is no audio.
    """
    if (why := unopenable(path)) and os.path.exists(path):
        raise ValueError(f"{path} can't be opened as audio: {why}")
    if not os.path.isfile(path):  # a device would be waited for
        raise FileNotFoundError(f"{path} does not exist or is no file: check the path, or the manifest's root (--root)")
    try:
        return _checked(_opened(path), path)
    except (
        sf.LibsndfileError,
        TypeError,
        UnicodeError,
        OSError,
    ) as error:  # TypeError: a suffix that wants to be told a rate
        reason = getattr(error, "error_string", str(error))
        raise ValueError(f"{path} can't be opened as audio: {reason} {_cure(path)}") from error


UNNAMED = "its name isn't UTF-8, so no manifest or table can hold it: rename it"


def unopenable(path: str | Path) -> str:
    """Why a file's name or kind alone keeps its sound from being read; empty where it doesn't."""
    if any("\ud800" <= letter <= "\udfff" for letter in str(path)):  # bytes that aren't UTF-8, as Python carries them
        return UNNAMED
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return ""
    return "it is a pipe, not a file: write what comes out of it to a file first" if stat.S_ISFIFO(mode) else ""


def _cure(path: str | Path) -> str:
    if str(path).lower().endswith(av_file.SUFFIXES) and not av_file.is_installed():
        return 'It needs PyAV: pip install "groundbass[av]".'
    return "Convert it to WAV, FLAC, OGG or MP3."


def _opened(path: str | Path) -> Any:
    if str(path).lower().endswith(av_file.SUFFIXES) and av_file.is_installed():
        return av_file.AvFile(path)
    if os.path.exists(os.path.join(os.path.dirname(path), "._" + os.path.basename(path))):
        # macOS leaves such files on foreign disks; libsndfile takes them for the music, unless it knows no name
        return sf.SoundFile(os.open(path, os.O_RDONLY))
    return sf.SoundFile(path)


def _checked(file: sf.SoundFile, path: str | Path) -> sf.SoundFile:
    """Refuse what no recording has, before anything is made of it: see the limits above."""
    size = os.path.getsize(path)
    if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
        why = f"its header says {file.samplerate} Hz, and recordings have {LOWEST_RATE:,} to {HIGHEST_RATE:,} Hz"
    elif file.channels > MOST_CHANNELS:
        why = f"its header says {file.channels} channels, and at most {MOST_CHANNELS} are read"
    elif size * MOST_PER_BYTE < file.frames < UNKNOWN:
        why = f"its header says {file.frames:,} samples, and no format holds so many in {size:,} bytes"
    else:
        return file
    file.close()
    raise ValueError(f"{path} can't be read: {why}. The file is damaged or made up; leave it out.")


def to_mono(sound: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[samples, channels] to [samples]: the mean of the channels (column by column: numpy's mean is 5 × slower)."""
    if sound.shape[1] == 1:
        return sound[:, 0]
    total = sound[:, 0].copy()
    for channel in range(1, sound.shape[1]):
        total += sound[:, channel]
    return total / np.float32(sound.shape[1])


def _read_mono(file: sf.SoundFile, path: str | Path, start: int, samples: int | None) -> Waveform:
    """[start, start + samples) at the file's own rate."""
    frames = mp3.index(path) if file.format == "MP3" else None
    length = frames.samples if frames else file.frames
    count = max(0, length - start if samples is None else min(samples, length - start))
    if count == 0:
        return np.zeros(0, dtype=np.float32)
    if file.format == "MP3":
        sound = mp3.read_slice(path, frames, start, count) if frames else None
        if sound is not None:
            return to_mono(sound)
        _decode_past(file, start)
    elif file.subtype == "VORBIS" and start > 0:
        _seek_vorbis(file, path, start)
    elif start > 0:
        file.seek(start)
    forbid_seeking(file)
    if count > BLOCK and os.path.isfile(path) and count > DENSE_PER_BYTE * os.path.getsize(path):
        return to_mono(_at_most(file, count))
    return to_mono(file.read(count, dtype="float32", always_2d=True))


def _read_resampled(
    file: sf.SoundFile, path: str | Path, sample_rate: int, start: int, samples: int | None
) -> Waveform:
    """[start, start + samples) at `sample_rate`.

    With source / target = up / down in lowest terms, every `down`-th target sample falls on a source sample: reading
    starts on such a pair, a margin early, so the phase and the filter's edges are those of the whole file.
    """
    if sample_rate <= 0:
        raise ValueError(f"sample_rate={sample_rate} must be a positive number of Hz")
    divisor = math.gcd(file.samplerate, sample_rate)
    up, down = file.samplerate // divisor, sample_rate // divisor
    margin = math.ceil(MARGIN_SECONDS * sample_rate * max(1.0, up / down))
    pair = max(0, start - margin) // down
    lead = start - pair * down
    count = None if samples is None else -(-(lead + samples + margin) * up // down)
    sound = resample(_read_mono(file, path, pair * up, count), file.samplerate, sample_rate)
    return sound[lead : None if samples is None else lead + samples]


def _seek_vorbis(file: sf.SoundFile, path: str | Path, start: int) -> None:
    """Go to `start`. On the last page libsndfile counts from the wrong end: start before it, decode up to `start`."""
    safe = _last_page_sample(path) - VORBIS_BLOCK
    if start <= safe:
        file.seek(start)
        return
    file.seek(max(0, safe))
    _decode_past(file, start - max(0, safe))


def _decode_past(file: sf.SoundFile, samples: int) -> None:
    """Decode and forget: exact in every format."""
    forbid_seeking(file)
    while samples > 0 and len(block := file.read(min(samples, BLOCK), dtype="float32")):
        samples -= len(block)


def forbid_seeking(file: sf.SoundFile) -> None:
    """Soundfile seeks three times around every read, which costs time, and fails in MP3: it is told that it can't."""
    file.seekable = lambda: False


def _last_page_sample(path: str | Path) -> int:
    """Sample at which the last Ogg page begins, 0 if it can't be told (a page has at most 65,307 bytes)."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * 65307))
        tail = file.read()
    last = tail.rfind(b"OggS")
    while (previous := tail.rfind(b"OggS", 0, max(last, 0))) >= 0:
        position = int.from_bytes(tail[previous + 6 : previous + 14], "little", signed=True)
        if position >= 0:  # -1: no packet ends on that page
            return position
        last = previous
    return 0
