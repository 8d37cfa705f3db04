"""Which features a forest's splits use: named ones of the hand-crafted set, numbered ones of an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..fit import Outcome

SHOWN = 20
WORDS = {"encoder": "the encoder's numbers", "lecture": "the hand-crafted features"}


def importance(outcome: Outcome, names: Sequence[str] | None = None) -> dict[str, float]:
    """The `SHOWN` most used features and their shares, the mean over folds and seeds that chose the commonest layer."""
    heads = [head for fold in outcome.heads for head in fold if head.layer == outcome.layer]
    chosen = [head.importance for head in heads if head.importance is not None]
    if not chosen:
        return {}
    share = np.mean(chosen, axis=0)
    names = names or [f"layer {outcome.layer}, number {number}" for number in range(len(share))]
    best = np.argsort(-share)[:SHOWN]
    return {names[place]: round(float(share[place]), 5) for place in best}


def moments_of(names: Sequence[str]) -> list[str]:
    """Names of features pooled as means and deviations."""
    return [f"{moment} of {name}" for moment in ("mean", "deviation") for name in names]


def sentences(found: dict[str, dict[str, float]]) -> list[str]:
    """What a reader is told."""
    return [
        f"Of {WORDS.get(system, system)} the forest uses most: "
        + ", ".join(f"{name} ({share:.1%})" for name, share in list(shares.items())[:5])
        + "."
        for system, shares in found.items()
        if shares
    ]
