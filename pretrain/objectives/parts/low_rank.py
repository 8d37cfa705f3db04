"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): frozen linear maps, each with a small learned addition.

W x becomes W x + (alpha / rank) B A x, with A [rank, inputs] drawn and B [outputs, rank] zero at first. PEFT puts the
additions in; here they are merged into W again, so that what is published is a plain encoder.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

BASE, DOWN, UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"  # PEFT's names


def adapt(encoder: nn.Module, names: list[str], rank: int, alpha: float) -> None:
    """Put an addition of `rank` beside each linear map of `names`, in place; A is drawn by torch's generator.

    Raises:
        ImportError: PEFT isn't installed.
        ValueError: there is no linear map.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("lora_rank needs PEFT: pip install 'groundbass[lora]', or leave it at 0.") from error
    if not names:
        kind = type(encoder).__name__
        raise ValueError(
            f"lora_rank needs linear maps in the encoder's blocks, and {kind} has none (its blocks are convolutions or "
            "recurrent): train its last blocks instead, with unfreeze."
        )
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=names), encoder)  # type: ignore[arg-type]


def linear_maps(encoder: nn.Module, depths: dict[str, int], lowest: int) -> list[str]:
    """Names of the linear layers at depth `lowest` or above; depths: of parameters by name, 0 before the blocks."""
    return [
        name
        for name, module in encoder.named_modules()
        if type(module) is nn.Linear and depths[f"{name}.weight"] >= max(1, lowest)
    ]


def merged(state: dict[str, Tensor], rank: int, alpha: float) -> dict[str, Tensor]:
    """A state dict with every addition in its map, under the names that the encoder had before `adapt`."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith((DOWN, UP)):
            continue
        if BASE not in name:
            found[name] = value
            continue
        plain = name.replace(BASE, ".")
        stem = name.partition(BASE)[0]
        if name.endswith(".weight") and stem + UP in state:
            added: Any = state[stem + UP].float() @ state[stem + DOWN].float()
            value = (value.float() + alpha / rank * added).to(value.dtype)
        found[plain] = value
    return found
