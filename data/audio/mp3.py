"""Sample-exact reading from the middle of an MP3 file.

libsndfile seeks in MP3 by the 100 entries of the Xing table: measured on a 10 s file, it lands up to 9,000 samples from
where it was sent, and nothing tells; soundfile seeks after every read, so reading in blocks fails too; without a Xing
header the length is a guess. So the frame headers are walked (milliseconds per file), the frames around the crop are
decoded as a small file of their own, and the result is checked once per file against a decoding from the start.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf

WARM_UP_FRAMES = 30  # the bit reservoir reaches back 511 bytes; 30 of the smallest frames hold more
DECODER_DELAY = 529  # samples every Layer III decoder adds; removed together with the delay the LAME tag states
_BITRATES = {  # kbit/s of Layer III by MPEG version (ISO 11172-3, 13818-3)
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by the header's version bits


@dataclass(frozen=True)
class FrameIndex:
    """Where the frames of an MP3 file lie.

    offsets: [frames + 1] bytes, the start of each audio frame and the end of the last (the Xing frame is no audio).
    delay, padding: samples that the decoder drops at the start and at the end. promised: frames that the Xing header
    announces, if it does. fault: what is wrong with the stream, if anything. seekable: whether decoding from the
    middle was found to be exact.
    """

    offsets: npt.NDArray[np.int64]
    frame_samples: int
    delay: int
    padding: int
    promised: int | None
    fault: str | None
    seekable: bool

    @property
    def frames(self) -> int:
        return len(self.offsets) - 1

    @property
    def samples(self) -> int:
        """Samples per channel of the decoded file; a cut file keeps all that its frames hold."""
        padding = self.padding if self.promised is None or self.frames >= self.promised else 0
        return max(0, self.frames * self.frame_samples - self.delay - padding)


def index(path: str | Path) -> FrameIndex | None:
    """The frame index of `path`, or None where the file is no plain Layer III stream (free format, changing rate)."""
    stat = Path(path).stat()
    return _index(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)  # 46 KB for a five-minute track
def _index(path: str, size: int, modified: int) -> FrameIndex | None:
    if size < 128:
        return None
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        first = _first_frame(data)
        if first is None:
            return None
        offsets, fault = _walk(data, first)
        frame_samples = 1152 if (data[first + 1] >> 3) & 3 == 3 else 576
        promised, gaps, tagged = _xing(data, first)
        if tagged:
            offsets = offsets[1:]
        if len(offsets) < 2:
            return None
        count = min(len(offsets) - 1, 24)
        beginning = data[offsets[0] : offsets[count]]
    delays = (gaps[0] + DECODER_DELAY, DECODER_DELAY, 0) if gaps is not None else (0, DECODER_DELAY)
    found = _delay(path, beginning, count, delays)
    padding = max(0, gaps[1] - DECODER_DELAY) if gaps is not None and found else 0
    return FrameIndex(np.array(offsets), frame_samples, found or 0, padding, promised, fault, found is not None)


def read_slice(path: str | Path, frames: FrameIndex, start: int, samples: int) -> npt.NDArray[np.float32] | None:
    """Samples [start, start + samples) of the decoded file: [samples, channels]; None where it can't be exact."""
    first = (start + frames.delay) // frames.frame_samples
    samples = min(samples, frames.samples - start)
    last = min(frames.frames, -(-(start + frames.delay + samples) // frames.frame_samples) + 1)
    begin = max(0, first - WARM_UP_FRAMES)
    if not frames.seekable or samples <= 0:
        return None
    with open(path, "rb") as file:
        file.seek(int(frames.offsets[begin]))
        sound = _decode(file.read(int(frames.offsets[last] - frames.offsets[begin])), last - begin, begin == 0)
    head = start + frames.delay - begin * frames.frame_samples
    return sound[head : head + samples]


def _decode(data: bytes, frames: int, from_start: bool) -> npt.NDArray[np.float32]:
    """Decode `frames` bare frames: [samples, channels].

    Before them goes an Info frame, which tells the decoder their number; after it the decoder drops its own delay, so
    at the start of a stream a silent frame follows for it to drop. What is lost is counted from the end, which is
    certain, and comes back as zeros.
    """
    header = bytearray(data[:4])
    header[1] |= 1  # no checksum
    header[2] = header[2] & 0x0D | 0x90  # a bitrate that leaves room for the tag, no padding
    tag = bytearray(_frame_bytes(bytes(header)))
    place = 4 + _side_bytes(bytes(header))
    tag[:4] = header
    tag[place : place + 12] = b"Info" + (1).to_bytes(4, "big") + (frames + from_start).to_bytes(4, "big")
    silent = bytes(header) + bytes(len(tag) - 4) if from_start else b""
    with sf.SoundFile(io.BytesIO(bytes(tag) + silent + data)) as file:
        sound = file.read(dtype="float32", always_2d=True)
    lost = frames * (1152 if (header[1] >> 3) & 3 == 3 else 576) - len(sound)
    return sound[-lost:] if lost < 0 else np.pad(sound, ((lost, 0), (0, 0)))


def _side_bytes(header: bytes) -> int:
    """Bytes of side information after the header."""
    mpeg1, mono = (header[1] >> 3) & 3 == 3, header[3] >> 6 == 3
    return (17 if mono else 32) if mpeg1 else (9 if mono else 17)


def _delay(path: str, beginning: bytes, frames: int, candidates: tuple[int, ...]) -> int | None:
    """The first candidate under which decoding bare frames equals decoding the file; None if none does."""
    try:
        bare = _decode(beginning, frames, True)
        with sf.SoundFile(path) as file:
            whole = file.read(len(bare), dtype="float32", always_2d=True)
    except (sf.LibsndfileError, RuntimeError):
        return None
    for delay in candidates:
        count = min(len(bare) - delay, len(whole))
        if count > 0 and np.allclose(bare[delay : delay + count], whole[:count], atol=1e-6):
            return delay
    return None


def _first_frame(data: mmap.mmap) -> int | None:
    """Offset of the first Layer III header that is followed by another one; ID3v2 tags are jumped over."""
    position = 0
    while data[position : position + 3] == b"ID3" and position + 10 <= len(data):
        a, b, c, d = data[position + 6 : position + 10]
        position += 10 + (a << 21 | b << 14 | c << 7 | d)
    return _next_frame(data, position)


def _next_frame(data: mmap.mmap, position: int) -> int | None:
    """The first frame within 64 KiB from `position`; two headers in a row make a frame."""
    for candidate in _syncs(data, position):
        length = _frame_bytes(data[candidate : candidate + 4])
        following = data[candidate + length : candidate + length + 4]
        if length and len(following) == 4 and _same_stream(data[candidate : candidate + 4], following):
            return candidate
    return None


def _syncs(data: mmap.mmap, position: int) -> Iterator[int]:
    limit = min(len(data) - 4, position + 65536)
    while (position := data.find(b"\xff", position, limit)) >= 0:
        yield position
        position += 1


def _same_stream(a: bytes, b: bytes) -> bool:
    """Same sync, version, layer and sample rate."""
    return b[0] == 0xFF and (a[1] | 1) == (b[1] | 1) and (a[2] & 0x0C) == (b[2] & 0x0C)


def _frame_bytes(header: bytes) -> int:
    """Length of the Layer III frame that starts with these four bytes; 0 where they are no such header."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, bitrate, rate, padding = (header[1] >> 3) & 3, header[2] >> 4, (header[2] >> 2) & 3, (header[2] >> 1) & 1
    if version == 1 or rate == 3:
        return 0
    kbits = _BITRATES[1 if version == 3 else 2][bitrate]
    return (144000 if version == 3 else 72000) * kbits // _RATES[version][rate] + padding if kbits else 0


@lru_cache
def _frame_lengths(second: int) -> tuple[int, ...]:
    """Frame length by the header's third byte."""
    return tuple(_frame_bytes(bytes((255, second, third, 0))) for third in range(256))


def _walk(data: mmap.mmap, first: int) -> tuple[list[int], str | None]:
    """Offsets of all complete frames (and the end of the last), and what is wrong with the stream, if anything."""
    head = data[first : first + 4]
    lengths = _frame_lengths(head[1])
    kinds = {head[1] | 1, head[1] & ~1}  # the lowest bit says whether a checksum follows
    offsets, position, size = [], first, len(data)
    while position + 4 <= size and data[position] == 255 and data[position + 1] in kinds:
        length = lengths[data[position + 2]]
        if not length:
            break
        offsets.append(position)
        position += length
    if position > size:
        return offsets, "its last frame is cut"  # and the last entry is where the cut frame starts
    offsets.append(position)
    if 0 < size - position < 4 and data[position] == 255:
        return offsets, "its last frame is cut"
    if size - position >= 4 and _next_frame(data, position) is not None:
        return offsets, f"bytes that are no MP3 follow {position - first} bytes of it, and then more MP3"
    return offsets, None


def _xing(data: mmap.mmap, first: int) -> tuple[int | None, tuple[int, int] | None, bool]:
    """(frames announced, (delay, padding) stated by the LAME tag, whether the first frame is such a header)."""
    tag = first + 4 + _side_bytes(data[first : first + 4])
    if data[tag : tag + 4] not in (b"Xing", b"Info"):
        vbri = data[first + 36 : first + 40] == b"VBRI"
        return (int.from_bytes(data[first + 50 : first + 54], "big") if vbri else None), None, vbri
    flags = int.from_bytes(data[tag + 4 : tag + 8], "big")
    promised = int.from_bytes(data[tag + 8 : tag + 12], "big") if flags & 1 else None
    lame = tag + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    if not data[lame : lame + 4].strip(b"\0"):
        return promised, None, True
    gaps = int.from_bytes(data[lame + 21 : lame + 24], "big")  # 12 bits each
    return promised, (gaps >> 12, gaps & 0xFFF), True
