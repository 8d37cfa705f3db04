"""Files whose end is missing: downloads that broke off decode well, and only their headers and last pages tell."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from . import av_file, mp3

XING_SLACK_SECONDS = 0.1  # an MP3 that lacks less than this of what its header announces is kept


def what_is_cut(file: Path, kind: str, samples: int, promised: int, rate: int) -> str:
    """What shows that the end of the file is missing; empty if nothing does.

    kind: libsndfile's name of the format. samples: decoded; promised: announced by libsndfile, which is the header's
    count in FLAC, AIFF and the like; in WAV and Ogg it is corrected to what is there, in MP3 it can be a guess.
    """
    if kind == "MP3" and (frames := mp3.index(file)) is not None:
        if frames.promised is None:
            return frames.fault or ""
        missing = (frames.promised - frames.frames) * frames.frame_samples / rate
        if missing > XING_SLACK_SECONDS:
            return f"the header announces {frames.promised} frames, the file has {frames.frames}"
        return ""
    if kind == "OGG":
        return _cut_ogg(file)
    if kind == av_file.AvFile.format:
        seconds = av_file.announced_seconds(file)
        lacks = seconds - samples / rate > av_file.SLACK_SECONDS
        return f"the header announces {seconds:.1f} s, {samples / rate:.1f} s can be decoded" if lacks else ""
    if kind in ("WAV", "WAVEX") and (missing_bytes := _cut_wav(file)):
        return f"its data chunk lacks {missing_bytes} bytes"
    if kind in _CHUNKED and (missing_bytes := _cut_chunks(file, kind)):
        return f"its sound lacks {missing_bytes} bytes of what the header announces"
    if samples < promised < 1 << 60:  # libsndfile's word for an unknown length is the greatest integer
        return f"the header announces {promised} samples, {samples} can be decoded"
    return ""


_CHUNKED = ("AU", "AIFF", "W64", "CAF")  # libsndfile corrects their lengths to what is there


def _cut_chunks(file: Path, kind: str) -> int:
    """Bytes that the header of an AU, AIFF, W64 or CAF announces and the file doesn't have; 0 where it says none."""
    with open(file, "rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(0)
        head = opened.read(40)
        if kind == "AU":
            order: Literal["big", "little"] = "little" if head[:4] == b"dns." else "big"
            start, length = (int.from_bytes(head[k : k + 4], order) for k in (4, 8))
            return 0 if length == 0xFFFFFFFF else max(0, start + length - size)
        position = {"AIFF": 12, "W64": 40, "CAF": 8}[kind]
        while position + 24 <= size:
            opened.seek(position)
            head = opened.read(24)
            if kind == "AIFF":
                length, step = int.from_bytes(head[4:8], "big"), 8
                following = position + 8 + length + length % 2
            elif kind == "W64":
                length, step = int.from_bytes(head[16:24], "little") - 24, 24
                following = position + (length + 24 + 7) // 8 * 8
            else:
                length, step = int.from_bytes(head[4:12], "big", signed=True), 12
                following = position + 12 + length
            if head[:4] in (b"SSND", b"data"):
                return max(0, position + step + length - size) if length > 0 else 0
            if following <= position:
                return 0
            position = following
        return 0


def _cut_ogg(file: Path) -> str:
    """An Ogg stream ends with a page that says so, and that is complete."""
    with open(file, "rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - 2 * 65307))
        tail = opened.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return "its last Ogg page is cut"
    return "" if page[5] & 4 else "its last Ogg page is not marked as the last"


def _cut_wav(file: Path) -> int:
    """Bytes that the data chunk announces and the file doesn't have; 0 where the length was left open by a stream."""
    with open(file, "rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(0)
        if opened.read(4) != b"RIFF":
            return 0
        position = 12
        while position + 8 <= size:
            opened.seek(position)
            name, length = opened.read(4), int.from_bytes(opened.read(4), "little")
            if name == b"data":
                streamed = length in (0, 0x7FFFFFFF, 0xFFFFFFFF) or length >= 0xFFFFFFFF - 4096
                return 0 if streamed else max(0, position + 8 + length - size)
            position += 8 + length + length % 2
    return 0
