"""The shape of a `CqtModel` in a recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ....models.cqt import CqtConfig, CqtFields, CqtModel


@dataclass
class CqtShape(CqtFields):
    """A small network on a log-CQT."""

    def build(self) -> CqtModel:
        """Draw fresh weights."""
        return CqtModel(CqtConfig(**asdict(self)))
