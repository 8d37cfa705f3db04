"""Tracks from the headers of files alone: for who hears each file once, and meets a damaged one then."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..audio import read as audio
from ..track import Manifest, Track
from .scan import is_text


def from_headers(files: Iterable[Path], refused: dict[str, str]) -> Manifest:
    """Files as tracks whose key is their path as given, and whose hash is size and time.

    refused: gets path and reason of those that can't be opened.

    Raises:
        ValueError: none can; a single file raises its own error.
    """
    tracks: list[Track] = []
    error: Exception | None = None
    count = 0
    for file in files:
        count += 1
        try:
            tracks.append(_track(file))
        except (ValueError, OSError) as caught:
            error = caught
            refused[str(file)] = str(caught)
    if error is not None and count == 1:
        raise error
    if error is not None and not tracks:
        raise ValueError(f"None of the {count} files can be read: {next(iter(refused.values()))}")
    return Manifest.from_tracks(tracks, ".")


def _track(file: Path) -> Track:
    if not is_text(str(file)):
        raise ValueError(f"I{audio.UNNAMED[1:]}")
    about = audio.info(file)
    if about.samples < 1:
        raise ValueError(f"{file} holds no sound")
    state = file.stat()
    return Track(
        str(file), str(file), about.samples, about.sample_rate, about.channels, f"{state.st_size} {state.st_mtime_ns}"
    )
