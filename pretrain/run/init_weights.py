"""`--init FOLDER`: begin with the weights of an encoder that is there already, published or imported."""

from __future__ import annotations

from typing import Any

import torch

from ...models.encoder import ModelEncoder, load_encoder, weights_hash
from ...models.own_heads import UNHEARD

HEADS = ("head.", "predictor.")  # a fitted classifier is no part of what is pretrained


def start_from(encoder: Any, name: str) -> str:
    """Copy the weights of `name` (a run, a published or an imported folder) into `encoder`; their hash.

    A tagger's own head of other labels begins afresh, and an AST's positions are cut or stretched to its window.

    Raises:
        FileNotFoundError: there is no such encoder.
        ValueError: it is of another kind or shape; the sentence says where they differ.
    """
    loaded = load_encoder(name)
    if not isinstance(loaded, ModelEncoder) or type(loaded.model) is not type(encoder):
        kind = type(getattr(loaded, "model", loaded)).__name__
        raise ValueError(f"--init {name} is a {kind}; this recipe trains a {type(encoder).__name__}.")
    theirs = {key: value for key, value in loaded.model.state_dict().items() if not key.startswith(HEADS)}
    if hasattr(encoder, "fitted"):
        theirs = encoder.fitted(theirs)
    ours = encoder.state_dict()
    other = {key for key in theirs if key.startswith(UNHEARD) and key in ours and theirs[key].shape != ours[key].shape}
    theirs, ours = ({k: v for k, v in state.items() if k not in other} for state in (theirs, ours))
    differ = sorted(set(ours) ^ set(theirs)) or [key for key in ours if ours[key].shape != theirs[key].shape]
    if differ:
        key = differ[0]
        shapes = " against ".join(str(list(state[key].shape)) if key in state else "none" for state in (theirs, ours))
        raise ValueError(
            f"--init {name} has another shape than this recipe's encoder: {key} ({shapes}), and {len(differ) - 1} "
            "more. Set --objective.encoder.… as in its config.json."
        )
    if loaded.sample_rate != encoder.config.sample_rate:
        raise ValueError(f"--init {name} hears {loaded.sample_rate} Hz, this recipe {encoder.config.sample_rate} Hz.")
    with torch.no_grad():
        for key, value in ours.items():
            value.copy_(theirs[key])
    return weights_hash(loaded)
