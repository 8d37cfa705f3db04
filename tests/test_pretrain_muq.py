"""MuQ's tokenizer, the linear head, several features: each against a second way of computing it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from groundbass.data.batch import Batch
from groundbass.models.quantizers import MuqQuantizer, MuqQuantizerConfig
from groundbass.pretrain.objective import Objective
from groundbass.pretrain.objectives import masked, tokenizer
from groundbass.pretrain.objectives.masked import MaskedConfig
from groundbass.pretrain.optim import build as build_optimizer
from groundbass.pretrain.recipe import Optim, find
from groundbass.pretrain.targets.codes import CodeHead, CodeHeadSettings
from groundbass.pretrain.targets.random_projection import RandomProjectionSettings, RandomProjector
from groundbass.pretrain.targets.target import FrameGrid


def make_batch(count: int = 4, samples: int = 48_000, valid: tuple[int, ...] = ()) -> Batch:
    """Melodies: a new random pitch every 0.1 s."""
    draw = np.random.default_rng(0)
    pitch = 220 * 2 ** (draw.integers(0, 24, (count, samples // 2400 + 1)).repeat(2400, 1)[:, :samples] / 12)
    waveform = torch.from_numpy(0.2 * np.sin(2 * np.pi * np.cumsum(pitch, 1) / 24_000)).float()[:, None]
    lengths = torch.tensor([*valid, *[samples] * (count - len(valid))])[:, None]
    waveform[torch.arange(samples) >= lengths[..., None]] = 0
    zeros = torch.zeros(count, 1, dtype=torch.int64)
    return Batch(waveform, 24_000, lengths, zeros, [f"track{i}" for i in range(count)], torch.arange(count))


def cut(batch: Batch, rows: slice) -> Batch:
    return Batch(batch.waveform[rows], batch.sample_rate, batch.valid[rows], batch.starts[rows], batch.keys[rows],
                 batch.index[rows])  # fmt: skip


def quantizer() -> MuqQuantizer:
    torch.manual_seed(0)
    model = MuqQuantizer(MuqQuantizerConfig(mels=32, window=1024, latent=8, codebooks=4, codebook_size=64)).eval()
    for book in model.chain:  # biases and gains that matter
        for linear in (book.down, book.up):
            torch.nn.init.normal_(linear.bias, std=0.3)
            torch.nn.init.uniform_(linear.parametrizations.weight.original0, 0.5, 2.0)
    return model


def chain(model: MuqQuantizer, frames: Tensor) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Codes, what is left, and (projection, codeword) pairs, code by code from the definitions in MuQ's paper."""
    residual, codes, pairs = frames, [], []
    for book in model.chain:
        gain, direction = book.down.parametrizations.weight.original0, book.down.parametrizations.weight.original1
        down = residual @ (gain * direction / direction.norm(dim=1, keepdim=True)).T + book.down.bias
        found = torch.tensor([int(functional.cosine_similarity(row[None], book.codewords).argmax()) for row in down])
        words = book.codewords[found]
        gain, direction = book.up.parametrizations.weight.original0, book.up.parametrizations.weight.original1
        passed = down + (words - down).detach()
        residual = residual - (passed @ (gain * direction / direction.norm(dim=1, keepdim=True)).T + book.up.bias)
        codes.append(found)
        pairs.append((down, words))
    return torch.stack(codes, 1), residual, pairs


def test_codes_are_those_of_the_chain_written_out() -> None:
    model, batch = quantizer(), make_batch()
    with torch.no_grad():
        frames = model.features(batch.waveform[:, 0])
        wanted, left, _ = chain(model, frames.flatten(0, 1))
        hidden = model(batch.waveform[:, 0]).last_hidden_state
    assert torch.equal(model.codes(batch.waveform[:, 0]).flatten(0, 1), wanted)
    torch.testing.assert_close(hidden.flatten(0, 1), frames.flatten(0, 1) - left, atol=1e-4, rtol=1e-4)
    assert len(wanted.unique()) > 20 and hidden.shape == (4, 50, 128)


def test_the_tokenizers_loss_and_gradient_are_those_written_out() -> None:
    torch.manual_seed(0)
    objective = tokenizer.muq_rvq_debug().objective.build().train()
    batch = make_batch(valid=(30_000, 48_000))
    loss = objective(batch, 0)
    features = objective.encoder.features(batch.waveform[:, 0])
    frames = torch.cat([features[0, :31], *features[1:]])
    _, left, pairs = chain(objective.encoder, frames)
    wanted = left.abs().mean()
    for latent, words in pairs:
        wanted = (
            wanted + functional.mse_loss(words, latent.detach()) + 0.25 * functional.mse_loss(latent, words.detach())
        )
    assert loss.value.item() == pytest.approx(wanted.item(), rel=1e-5) and float(loss.weight) == len(frames)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    for ours, theirs in zip(
        torch.autograd.grad(loss.value, parameters), torch.autograd.grad(wanted, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_forgotten_codes_go_where_the_data_is_however_a_batch_is_divided() -> None:
    """Codewords and counters after two steps, for three divisions into micro-batches; revival after two unused."""
    batch = make_batch(valid=(48_000, 500, 20_000))
    found = []
    for division in ([slice(0, 4)], [slice(0, 2), slice(2, 4)], [slice(0, 1), slice(1, 2), slice(2, 4)]):
        torch.manual_seed(0)
        objective = tokenizer.muq_rvq_debug().objective.build().train()
        for step in range(2):
            before = [book.codewords.detach().clone() for book in objective.encoder.chain]
            for rows in division:
                objective(cut(batch, rows), step)
            with torch.no_grad():
                objective.after_step(step)
            moved = [
                (book.codewords - old).norm(dim=1) > 0
                for book, old in zip(objective.encoder.chain, before, strict=True)
            ]
            assert any(rows.any() for rows in moved) == (step == 1)  # unused in steps 0 and 1
        latents = objective.encoder.chain[0].down(objective.encoder.features(batch.waveform[:, 0]).flatten(0, 1))
        apart = torch.cdist(objective.encoder.chain[0].codewords, latents).amin(1)
        assert (apart < 1e-4).sum() > 3  # they are projections of the batch now
        found.append([*(book.codewords.detach().clone() for book in objective.encoder.chain), objective.stale.clone()])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-5)


def test_a_linear_head_is_the_mean_cross_entropy_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    head = CodeHead(16, (7, 5), CodeHeadSettings(kind="linear"), "test")
    hidden, targets = torch.randn(11, 16), torch.stack([torch.randint(7, (11,)), torch.randint(5, (11,))], 1)
    logits = functional.linear(hidden, head.projection.weight, head.projection.bias).unflatten(1, (2, 7))
    wanted = functional.cross_entropy(logits[:, 0], targets[:, 0])
    wanted = (wanted + functional.cross_entropy(logits[:, 1, :5], targets[:, 1])) / 2
    torch.testing.assert_close(head(hidden, targets)[0], wanted)
    assert [name for name, _ in head.named_parameters()] == ["projection.weight", "projection.bias"]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_logits_are_float32_under_bf16(kind: Any) -> None:
    """To the last digits: autocast's 8 bits would be 1e-2 off."""
    torch.manual_seed(0)
    head = CodeHead(64, (50, 50), CodeHeadSettings(kind=kind), "test")
    hidden = torch.randn(20, 64)
    exact = head.logits(hidden)
    with torch.autocast("cpu", torch.bfloat16):
        found = head.logits(hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)


def test_each_published_recipe_has_its_own_head_and_decay() -> None:
    def heads(recipe: Any) -> set[str]:
        config: MaskedConfig = recipe.objective
        parts = (config.rvq, config.codec, config.random_projection)
        return {part.head.kind for part in parts if part.weight > 0}

    for address, kind in (
        ("mert_95m", "cosine"), ("mert_330m", "cosine"), ("muq_large", "linear"), ("bestrq_base", "linear"),
        ("omar_base", "linear"), ("omar_multi", "linear"),
    ):  # fmt: skip
        recipe = find(f"masked.{address}")
        assert heads(recipe) == {kind} and recipe.optim.decay_all, address


def test_vectors_decay_where_the_recipe_says_so() -> None:
    layer = torch.nn.Linear(3, 3)
    for everything in (False, True):
        torch.nn.init.ones_(layer.bias), torch.nn.init.ones_(layer.weight)
        layer.weight.grad, layer.bias.grad = torch.zeros(3, 3), torch.zeros(3)
        objective = Objective()
        objective.layer = layer
        build_optimizer(Optim(lr=0.1, weight_decay=0.5, decay_all=everything), objective).step()
        assert layer.weight.detach().eq(0.95).all()
        assert layer.bias.detach().eq(0.95 if everything else 1.0).all()


def test_several_features_have_codebooks_of_their_own() -> None:
    """Codes of one feature don't depend on the others' being there; a transposed tune changes what CQT says."""
    settings = RandomProjectionSettings(features=("mel", "cqt", "waveform"), codebooks=2, codebook_size=64, mels=32)
    grid, batch = FrameGrid(24_000, 960), make_batch()
    projector = RandomProjector(settings, grid)
    projector.measure(batch, together=True)
    assert {len(value.unique()) for value in projector.statistics().values()} == {1}  # one pair for all bins
    codes = projector(batch.waveform[:, 0])
    assert codes.shape == (4, 50, 6) and all(len(codes[..., book].unique()) > 5 for book in range(6))
    alone = RandomProjector(dataclasses.replace(settings, features=("mel",)), grid)
    alone.measure(batch, together=True)
    assert torch.equal(alone(batch.waveform[:, 0]), codes[..., :2])
    cqt = projector.inputs["cqt"]
    frames = ((cqt.compressed(batch.waveform[:, 0]) - cqt.mean) / cqt.deviation).unflatten(1, (50, 4)).flatten(2)
    query = frames @ projector.projections_cqt[1]
    near = torch.cdist(functional.normalize(query, dim=-1), projector.codewords_cqt[1]).argmin(-1)
    assert torch.equal(near, codes[..., 3])
    with pytest.raises(ValueError, match="each once"):
        RandomProjectionSettings(features=("mel", "mel"))


def test_full_sizes_are_the_published_ones() -> None:
    for recipe, million in ((masked.muq_large(), 316), (masked.bestrq_base(), 316), (masked.omar_base(), 580)):
        with torch.device("meta"):
            encoder = recipe.objective.encoder.model()
        assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(million, rel=0.01)
    assert masked.muq_large().objective.frames(720_000) == 750 and masked.omar_base().objective.frames(480_000) == 468
    assert masked.muq_large().seconds_per_step == 5760  # 1.6 h
