"""When bars begin: beats whose position in the bar is 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..kind import Timed
from .beats import Beats


class Downbeats(Beats):
    """As beats; a file of beats must say positions."""

    name = "downbeats"
    words = ("downbeats", "downbeat")
    rank = 99

    @property
    def head(self) -> str:
        """Its head is that of beats."""
        return "beats"

    def convert(self, values: Sequence[Any], columns: Sequence[str]) -> Any:
        """Of [time, position in the bar], the times at 1; None without positions; a list of times as it is."""
        rows = values[0]
        if isinstance(rows, (list, tuple)) and any(isinstance(row, (list, tuple)) for row in rows):
            if any(len(row) < 2 for row in rows):
                return None
            return [row[0] for row in rows if row[1] == 1]
        return super().convert(values, columns)

    def answered(self, heard: Timed) -> Any:
        """The beats that begin a bar; all, where nothing says which do."""
        if heard.times is None or heard.positions is None:
            return heard.times
        return heard.times[heard.positions == 1]

    def names(self, labels: Sequence[Any], columns: Sequence[str]) -> tuple[str, ...]:
        """One output."""
        return ("downbeat",)

    def fits(self, values: Sequence[Any]) -> bool:
        """Never guessed: they look like beats."""
        return False


KIND = Downbeats()
