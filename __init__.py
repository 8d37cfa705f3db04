"""groundbass: pretrain self-supervised music foundation models, measure what they learned, publish them.

A function for every step, each the same way that a command of its kind takes:

    recordings   scan, synth, verify, overlap
    training     train, finetune, publish
    measuring    evaluate
    listening    load_encoder, load_classifier, predict, embed, similar

They are imported on first use, so that `import groundbass` is quick. What stands behind them lives in the folders
`data` (what do we hear?), `models` (what function is it?), `pretrain` (what must it learn?) and `probe` (what did it
learn?).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = [
    "Finetuned",
    "Results",
    "Run",
    "Scan",
    "Vectors",
    "__version__",
    "embed",
    "evaluate",
    "finetune",
    "load_classifier",
    "load_encoder",
    "overlap",
    "predict",
    "publish",
    "scan",
    "similar",
    "synth",
    "train",
    "verify",
]

if TYPE_CHECKING:
    from .api import (
        Finetuned,
        Results,
        Run,
        Scan,
        Vectors,
        embed,
        evaluate,
        finetune,
        load_classifier,
        load_encoder,
        overlap,
        predict,
        publish,
        scan,
        similar,
        synth,
        train,
        verify,
    )


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"The module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
