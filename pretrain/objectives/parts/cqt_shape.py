"""The shape of a `CqtModel` in a recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from ....models.cqt import CqtConfig, CqtModel


@dataclass(frozen=True)
class CqtShape:
    """A small network on a log-CQT at 25 frames per second; see `models/cqt.py`."""

    stem: Literal["patches", "conv"] = "conv"
    """whole columns through a linear layer, or 2-D convolutions"""
    trunk: Literal["transformer", "conv"] = "conv"
    """rotary transformer blocks, or dilated convolutions"""
    hidden_size: int = 192
    """width of the hidden states"""
    num_hidden_layers: int = 7
    """blocks of the trunk"""
    num_attention_heads: int = 6
    """of a transformer block"""
    intermediate_size: int = 768
    """width of its feed-forward layers"""
    tonal_channels: tuple[int, ...] = (12, 16, 24, 32)
    """of the "conv" stem's four stages on the log-CQT"""
    rhythm_channels: tuple[int, ...] = (16, 16, 64)
    """of its three stages on the log-mel"""
    mel_bins: int = 81
    """of the log-mel; 0: the log-CQT alone"""
    dropout: float = 0.1
    """in the blocks"""
    joins: int = 0
    """the block after which the tonal half joins; the states up to there are of rhythm alone. 0: from the start"""
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """of the "conv" trunk's blocks"""
    described: bool = False
    """begin the hidden states with what the front end says without learning"""

    def build(self) -> CqtModel:
        """Draw fresh weights."""
        return CqtModel(CqtConfig(**asdict(self)))
