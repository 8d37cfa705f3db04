"""Which files of a folder are audio."""

from __future__ import annotations

import os
from pathlib import Path

from . import av_file
from .read import SUFFIXES


def find_audio(folder: Path) -> list[str]:
    """POSIX paths, relative to `folder`, of all files with an audio suffix, sorted.

    Hidden files and folders are left out (`._x.mp3` is no music); links to folders are followed, each folder once.
    """
    if not folder.is_dir():
        problem = "is no folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {problem}: give the folder that holds your audio files")
    found, seen = [], set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real in seen:
            continue
        seen.add(real)
        names = (name for name in files if not name.startswith(".") and name.lower().endswith(SUFFIXES))
        found += [Path(here, name).relative_to(folder).as_posix() for name in names]
    if not found:
        more = (
            "" if av_file.is_installed() else f'; with pip install "groundbass[av]" also {", ".join(av_file.SUFFIXES)}'
        )
        raise ValueError(f"There is no audio in {folder}: it should hold files that end in {', '.join(SUFFIXES)}{more}")
    return sorted(found)
