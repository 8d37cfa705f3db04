"""What the parts of published recipes cost: conformer layer, MuQ's quantiser, split views, memory of full sizes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import (
    Wav2Vec2ConformerEncoderLayer,
    Wav2Vec2ConformerRotaryPositionalEmbedding,
)

from ...models.conformer import ConformerConfig, ConformerLayer
from ...models.quantizers import MuqQuantizer, MuqQuantizerConfig
from ...models.transformer import rotation
from ..cost.count import count
from ..cost.formulas import Case, memory, total
from ..objectives import latent, masked
from ..objectives.split_views import SplitViews
from ..objectives.tokens import take
from ..recipe import Recipe
from .parts import Bench, Row, row

LARGE = (
    "masked.muq_large",
    "masked.bestrq_base",
    "masked.omar_base",
    "latent.eat_base",
    "latent.m2d_base",
    "latent.matpac_base",
)


def rows() -> list[Row]:
    """The rows of `bench published`."""
    return [_conformer(training=False), _conformer(training=True), _quantiser(), _split_views(), *_memory()]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _in_turns(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int = 7) -> tuple[float, float]:
    """Median seconds of both, one after the other, so that a busy machine slows both."""
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for work, found in zip((ours, theirs), took, strict=True):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            began = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:  # the first round warms up
                found.append(time.perf_counter() - began)
    return median(took[0]), median(took[1])


def _conformer(training: bool) -> Row:
    """One layer of MuQ's size on 4 clips of 10 s, with the same weights; training: forward and backward, no dropout."""
    config = ConformerConfig(hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
    settings = Wav2Vec2ConformerConfig(
        hidden_size=1024, num_attention_heads=16, intermediate_size=4096, conv_depthwise_kernel_size=31,
        hidden_act="swish", position_embeddings_type="rotary", hidden_dropout=0.0, attention_dropout=0.0,
        activation_dropout=0.0, conformer_conv_dropout=0.0,
    )  # fmt: skip
    settings._attn_implementation = "sdpa"
    theirs: Any = Wav2Vec2ConformerEncoderLayer(settings).to(_device()).train(training)
    ours = ConformerLayer(config).to(_device()).train(training)
    ours.load_state_dict(theirs.state_dict())
    states = torch.randn(4, 250, 1024, device=_device())
    turn = rotation(250, 64, 10_000.0, _device())
    positions = Wav2Vec2ConformerRotaryPositionalEmbedding(settings).to(_device())(states)

    def run(layer: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def step() -> None:
            with torch.set_grad_enabled(training):
                output = layer(states)
                if training:
                    output.sum().backward()

        return step

    found, reference = _in_turns(
        run(lambda given: ours(given, None, None, turn)),
        run(lambda given: theirs(given, relative_position_embeddings=positions)),
    )
    name = "conformer_layer_training" if training else "conformer_layer"
    return row(name, found, "s, 4 clips of 10 s", "transformers' layer", reference / found)


def _quantiser() -> Row:
    """Codes of 64 clips of 5 s by MuQ's quantiser, against a plain loop over its codebooks."""
    torch.manual_seed(0)
    model: Any = MuqQuantizer(MuqQuantizerConfig())
    model = model.to(_device()).eval()
    frames = torch.randn(64 * 125, 512, device=_device())

    @torch.no_grad()
    def loop() -> Tensor:
        residual, codes = frames, []
        for book in model.chain:
            found, part, _, _ = book(residual)
            residual = residual - part
            codes.append(found)
        return torch.stack(codes, 1)

    ours, theirs = _in_turns(torch.no_grad()(lambda: model.lookup(frames)), loop)
    return row("muq_quantiser", ours, "s for 8,000 frames", "a plain loop over codebooks", theirs / ours)


def _split_views() -> Row:
    """A step of M2D base whose student hears the visible patches, against one that hears all of them."""
    micro = 64 if torch.cuda.is_available() else 2
    recipe = dataclasses.replace(latent.m2d_base(), batch_size=micro, micro_batch=micro)
    bench = Bench(recipe if torch.cuda.is_available() else dataclasses.replace(recipe, precision="no"))

    def everything() -> None:
        with patch.object(bench.objective, "_heard", _hear_all(bench.objective)):
            bench.step()

    ours, theirs = _in_turns(bench.step, everything, rounds=3)
    return row("visible_patches", ours, f"s per step of {micro} clips", "the student over all patches", theirs / ours)


def _hear_all(objective: SplitViews) -> Callable[..., Tensor]:
    """The student over whole clips, what isn't heard set to 0; gives class token and kept patches."""

    def hear(tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        kept = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device).scatter(1, positions, True)
        heard = objective.encoder.encode(tokens.masked_fill(~kept[..., None], 0.0))[-1]
        return torch.cat([heard[:, :1], take(heard[:, 1:], positions)], 1)

    return hear


def _memory() -> list[Row]:
    """GiB on an H100 under DDP of the full sizes' own micro-batches, as `groundbass plan` counts them."""
    found = []
    for address in LARGE:
        recipe = _recipe(address)
        case = Case(count(recipe), recipe, 8, "H100")
        peak = total(memory(case, "ddp", recipe.micro_batch or 1)) / 2**30
        found.append(row(f"memory_{address}", peak, f"GiB, micro-batch of {recipe.micro_batch}, DDP, counted"))
    return found


def _recipe(address: str) -> Recipe:
    module: Any = {"masked": masked, "latent": latent}[address.split(".")[0]]
    recipe: Recipe = getattr(module, address.split(".")[1])()
    return recipe
