"""Folders and files of models, written beside their place and renamed, so that half of one is never found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A fresh folder beside `folder`, gone afterwards unless it was renamed."""
    part, old = _names(folder)
    try:
        if old.exists() and not folder.exists():  # a writer was killed between the two renamings of `replace_folder`
            old.rename(folder)
        remove_leftovers(folder)
        part.mkdir(parents=True)
    except OSError as error:
        raise OSError(f"{folder} can't be written ({error.strerror or error}); choose another place.") from error
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace_folder(folder: Path, part: Path) -> None:
    """Put `part` where `folder` is; should the renaming fail, the old one is put back."""
    _, old = _names(folder)
    replaced = folder.exists()
    if replaced:
        folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        if replaced:
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a writer of `folder` left beside it when it was killed."""
    for left in _names(folder):
        shutil.rmtree(left, ignore_errors=True)


def put_files(folder: Path, last: Path) -> None:
    """Move the files of `folder` to where the file `last` shall lie, which is one of them and comes when all have."""
    for file in sorted(folder.iterdir(), key=lambda file: file.name == last.name):
        os.replace(file, last.parent / file.name)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A hidden name beside `path`, to be written to: renamed to `path` when the block ends, removed where it raises."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _names(folder: Path) -> tuple[Path, Path]:
    """Where `folder` is written, and where what it replaces waits."""
    return folder.parent / f".{folder.name}.part", folder.parent / f".{folder.name}.old"
