"""groundbass: pretrain self-supervised music foundation models, measure what they learned, publish them.

The one door for everyday use is :func:`load_encoder`; everything else lives in the folders `data` (what do we hear?),
`models` (what function is it?), `pretrain` (what must it learn?) and `probe` (what did it learn?).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_encoder"]

if TYPE_CHECKING:
    from .models.encoder import load_encoder


def __getattr__(name: str) -> Any:
    """Import `load_encoder` on first use, so that `import groundbass` doesn't wait for torch."""
    if name == "load_encoder":
        from .models.encoder import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
