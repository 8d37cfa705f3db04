"""Write beside and rename: what stands under a name is whole, or what stood there before.

A file is written under a hidden name in its own folder and renamed when it is whole. Nothing else in `data`, `pretrain`
and `probe` renames; published folders of models have `models/writing.py`, as neither side imports the other.
"""

from __future__ import annotations

import glob
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STALE_SECONDS = 86_400.0


@contextmanager
def written(path: Path, *, locked: bool = False) -> Iterator[Path]:
    """A hidden name beside `path`, to be written to: renamed to `path` when the block ends, removed where it raises.

    Its folder is made. The name is the thread's own, `.NAME.NUMBER`, so that several may write at once and the last one
    counts. locked: the caller holds the lock of this place: the name is `.NAME.part`, so that a start that was killed
    leaves nothing that the next doesn't write over.
    """
    beside = path.with_name(f".{path.name}.{'part' if locked else threading.get_native_id()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left beside it, once it is a day old: they may be on another machine.

    Lists the folder, so it is for who writes one file there, not thousands.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*"):
        with suppress(FileNotFoundError, PermissionError):  # another was faster, or it is another's
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()


def write_text(path: Path, text: str, *, locked: bool = False) -> None:
    """Write UTF-8 text beside and rename (see `written`)."""
    with written(path, locked=locked) as beside:
        beside.write_text(text, encoding="utf-8")


def put_folder(filled: Path, path: Path) -> None:
    """Give a folder that is whole its name, under which nothing but an empty folder may stand."""
    os.replace(filled, path)


def flush(folder: Path) -> None:
    """Bring every file in a folder to the disk: a power cut after its renaming then finds it whole."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
