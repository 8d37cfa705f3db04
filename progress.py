"""Bars for what takes long: on a terminal as ever, elsewhere one line a minute, none where GROUNDBASS_QUIET is set.

`groundbass --quiet COMMAND …` sets it. A notebook draws its own bar. This module knows no other one of groundbass.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm as _tqdm

QUIET = "GROUNDBASS_QUIET"
MINUTE = 60.0


def is_quiet() -> bool:
    """Whether bars are off: GROUNDBASS_QUIET is set to anything but 0."""
    return os.environ.get(QUIET, "") not in ("", "0")


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Without bars, in here."""
    before = os.environ.get(QUIET)
    if quiet:
        os.environ[QUIET] = "1"
    try:
        yield
    finally:
        if quiet and before is None:
            del os.environ[QUIET]
        elif quiet:
            os.environ[QUIET] = str(before)


class _Lines:
    """What a bar writes to, where that is no terminal: each state of it is a line."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line:
            self.file.write(f"{line}\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class tqdm(_tqdm):
    """Tqdm's bar, as this module says."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        if is_quiet():
            settings["disable"] = True
        file = settings.get("file") or sys.stderr
        if "notebook" not in _tqdm.__module__ and not getattr(file, "isatty", bool)():
            settings |= {"file": _Lines(file), "mininterval": MINUTE, "maxinterval": MINUTE, "ncols": 100}
            if settings.get("disable", False) is None:  # tqdm's way of saying: on terminals only
                settings["disable"] = False
        super().__init__(*args, **settings)


def trange(*args: int, **settings: Any) -> tqdm:
    """A bar over a range."""
    return tqdm(range(*args), **settings)
