"""NT-Xent against a triple loop, gradient caching against the large batch, and what the metrics mean."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from groundbass.data.batch import Batch
from groundbass.models.encoder import ModelEncoder, load_encoder
from groundbass.models.music_taggers import SIZES
from groundbass.models.published import write_encoder
from groundbass.pretrain.objectives.contrastive import (
    Contrastive,
    ContrastiveConfig,
    NetworkConfig,
    clmr_base,
    clmr_debug,
    contrast,
    effective_rank,
    nt_xent,
    pooled,
    projector,
)
from groundbass.pretrain.recipe import find

CONFIG = ContrastiveConfig(sample_rate=8000, width=0.03, projection=8, pitch=False)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_batch(crops: int = 6, seed: int = 0, keys: list[str] | None = None) -> Batch:
    samples = 20736
    return Batch(
        waveform=0.1 * draw(crops, 2, samples, seed=seed), sample_rate=8000,
        valid=torch.full((crops, 2), samples), starts=torch.zeros(crops, 2, dtype=torch.int64),
        keys=keys or [f"track {number}" for number in range(crops)], index=torch.arange(crops),
    )  # fmt: skip


def build(config: ContrastiveConfig = CONFIG, seed: int = 0) -> Contrastive:
    torch.manual_seed(seed)
    objective = config.build()
    objective.train()
    return objective


def triple_loop(z_a: Tensor, z_b: Tensor, temperature: float, keys: list[int] | None) -> float:
    """NT-Xent as the paper writes it, one similarity at a time."""
    count = len(z_a)
    z = [row / row.norm() for row in torch.cat([z_a, z_b]).double()]
    owner = (list(range(count)) if keys is None else keys) * 2
    total = 0.0
    for anchor in range(2 * count):
        partner = (anchor + count) % (2 * count)
        denominator = 0.0
        for other in range(2 * count):
            negative = owner[other] != owner[anchor] if keys is not None else other != anchor
            if other == partner or negative:
                product = 0.0
                for dimension in range(z_a.shape[1]):
                    product += float(z[anchor][dimension] * z[other][dimension])
                denominator += math.exp(product / temperature)
        total -= math.log(math.exp(float(z[anchor] @ z[partner]) / temperature) / denominator)
    return total / (2 * count)


@pytest.mark.parametrize("keys", [None, [0, 1, 2, 3, 4], [0, 1, 0, 2, 1]])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_equals_a_triple_loop(keys: list[int] | None, temperature: float) -> None:
    z_a, z_b = draw(5, 4), draw(5, 4, seed=1)
    value = nt_xent(z_a, z_b, temperature, None if keys is None else torch.tensor(keys))
    assert float(value) == pytest.approx(triple_loop(z_a, z_b, temperature, keys), rel=1e-5)


def test_identical_embeddings_cost_the_logarithm_of_the_choices() -> None:
    same = draw(1, 8).expand(7, 8)
    assert float(nt_xent(same, same, 0.5)) == pytest.approx(math.log(2 * 7 - 1), rel=1e-6)


def test_crops_of_one_track_have_nothing_to_be_told_from() -> None:
    z_a, z_b = draw(4, 8), draw(4, 8, seed=1)
    assert float(nt_xent(z_a, z_b, 0.5, torch.zeros(4, dtype=torch.int64))) == pytest.approx(0.0, abs=1e-6)


def test_views_and_lengths_can_be_exchanged() -> None:
    z_a, z_b = draw(6, 8), draw(6, 8, seed=1)
    assert torch.allclose(nt_xent(z_a, z_b, 0.3), nt_xent(7 * z_b, 0.1 * z_a, 0.3), rtol=1e-6)


def test_parts_of_the_anchors_average_to_the_whole() -> None:
    """What each rank computes: its anchors against everyone."""
    keys = torch.tensor([0, 1, 2, 0, 3, 4])
    z_a = torch.nn.functional.normalize(draw(6, 8), dim=-1)
    z_b = torch.nn.functional.normalize(draw(6, 8, seed=1), dim=-1)
    parts = [
        contrast(z_a[i : i + 2], z_b[i : i + 2], z_a, z_b, i, 0.5, keys[i : i + 2], keys) for i in range(0, 6, 2)
    ]  # fmt: skip
    assert torch.allclose(torch.stack(parts).mean(), nt_xent(z_a, z_b, 0.5, keys), rtol=1e-6)


def test_effective_rank_counts_directions() -> None:
    basis = torch.eye(8)[:4]
    assert float(effective_rank(torch.cat([basis, -basis]))) == pytest.approx(4.0, rel=1e-4)
    line = draw(20, 1) * draw(1, 8)
    assert float(effective_rank(line)) == pytest.approx(1.0, abs=1e-3)


def freeze_batch_norm(objective: Contrastive, batch: Batch) -> None:
    """Give batch norm this batch's statistics and keep them: in training they would be those of a chunk."""
    for norm in objective.encoder.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.momentum = 1.0
    with torch.no_grad():
        objective.encoder(batch.waveform.flatten(0, 1))
    objective.encoder.eval()


def gradients(objective: Contrastive, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    objective.zero_grad()
    loss = objective(batch, 0)
    loss.value.backward()
    return float(loss.value.detach()), {
        name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None
    }


def test_cached_gradients_are_those_of_the_large_batch() -> None:
    whole, cached = build(), build(dataclasses.replace(CONFIG, chunk=2))
    batch = make_batch()
    for objective in (whole, cached):
        freeze_batch_norm(objective, batch)
    (value, expected), (cached_value, found) = gradients(whole, batch), gradients(cached, batch)
    assert cached_value == pytest.approx(value, rel=1e-6)
    assert set(found) == set(expected)
    for name in expected:
        scale = float(expected[name].abs().max())
        assert scale > 1e-4, "a test of vanishing gradients would test nothing"
        assert torch.allclose(found[name], expected[name], atol=1e-4 * scale), name


def test_caching_keeps_fewer_activations() -> None:
    def kept_bytes(objective: Contrastive) -> int:
        kept = 0

        def note(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            objective(make_batch(), 0)
        return kept

    cached, whole = build(dataclasses.replace(CONFIG, chunk=2)), build()
    assert kept_bytes(cached) < 0.2 * kept_bytes(whole)


def test_caching_counts_each_chunks_statistics_once() -> None:
    cached = build(dataclasses.replace(CONFIG, chunk=3))
    batch = make_batch(crops=6)
    by_hand = build()
    with torch.no_grad():
        for view in (0, 1):
            for first in (0, 3):
                part = make_batch(crops=6)
                part.waveform, part.index = batch.waveform[first : first + 3], batch.index[first : first + 3]
                part.valid = batch.valid[first : first + 3]
                by_hand._embed(part, view)
    cached(batch, 0).value.backward()
    for name, buffer in by_hand.encoder.named_buffers():
        assert torch.allclose(dict(cached.encoder.named_buffers())[name], buffer, rtol=1e-5, atol=1e-7), name


def test_an_example_is_augmented_alike_wherever_it_stands() -> None:
    objective, batch = build(), make_batch(4)
    freeze_batch_norm(objective, batch)
    embedded = objective._embed(batch, 0)[0]
    turned = dataclasses.replace(batch, waveform=batch.waveform.flip(0), index=batch.index.flip(0))
    assert torch.allclose(objective._embed(turned, 0)[0].flip(0), embedded, rtol=1e-4, atol=1e-6)
    other = dataclasses.replace(batch, index=batch.index + 100)
    assert not torch.allclose(objective._embed(other, 0)[0], embedded, rtol=1e-2)
    same_sound = dataclasses.replace(batch, waveform=batch.waveform[:, :1].expand(-1, 2, -1))
    assert not torch.allclose(objective._embed(same_sound, 1)[0], objective._embed(same_sound, 0)[0], rtol=1e-2)


def test_metrics_say_what_their_names_say() -> None:
    objective = build()
    loss = objective(make_batch(6), 0)
    assert float(loss.weight) == 6
    assert loss.metrics["chance_loss"] == pytest.approx(math.log(11))
    assert float(loss.metrics["loss_over_chance"]) == pytest.approx(float(loss.value.detach()) / math.log(11))
    assert -1 <= float(loss.metrics["negative_similarity"]) <= 1
    assert 1 <= float(loss.metrics["effective_rank"]) <= 11
    objective.logs = False
    assert objective(make_batch(6), 0).metrics == {}


def test_negative_similarity_by_hand() -> None:
    z_a = torch.nn.functional.normalize(draw(3, 4), dim=-1)
    z_b = torch.nn.functional.normalize(draw(3, 4, seed=1), dim=-1)
    metrics = build()._metrics(torch.tensor(1.0), z_a, z_b, z_a, z_b, draw(6, 4))
    z = torch.cat([z_a, z_b])
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j and abs(i - j) != 3]
    by_hand = sum(float(z[i] @ z[j]) for i, j in pairs) / len(pairs)
    assert float(metrics["negative_similarity"]) == pytest.approx(by_hand, abs=1e-6)
    assert float(metrics["positive_similarity"]) == pytest.approx(float((z_a * z_b).sum(-1).mean()), abs=1e-6)


def test_one_view_is_refused() -> None:
    batch = make_batch()
    batch.waveform = batch.waveform[:, :1]
    with pytest.raises(ValueError, match=r"two views.*crops\.views"):
        build()(batch, 0)


def test_published_sizes() -> None:
    objective = clmr_base().objective.build()
    assert sum(p.numel() for p in objective.encoder.parameters()) == 2_368_512
    assert sum(p.numel() for p in objective.projector.parameters()) == 294_912
    assert clmr_debug().crops.views == 2


# ---- any encoder


@pytest.mark.parametrize(
    "model, settings",
    [
        ("mert", find("contrastive.simclr_debug").objective.network.settings),
        ("cqt", {"hidden_size": 16, "num_hidden_layers": 1, "tonal_channels": (2, 2, 2, 2),
                 "rhythm_channels": (2, 2, 4)}),
        ("conformer", {"mel_bins": 16, "n_fft": 256, "mel_hop": 80, "mel_channels": 2, "hidden_size": 16,
                       "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "conv_kernel": 3}),
        ("cpc", {"channels": (4,) * 5, "context_size": 4}),
        ("samplecnn", {"width": 0.03}),
        ("beats", {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
                   "patch_dim": 16, "conv_pos": 16, "conv_pos_groups": 2}),
        ("vit", {"mel_bins": 32, "frame_samples": 1024, "shift_samples": 512, "hidden_size": 16, "num_hidden_layers": 1,
                 "num_attention_heads": 2, "intermediate_size": 32}),
        *[("music_taggers", {"network": network, "width": 0.03, "window_samples": 16_000}) for network in SIZES],
        ("tagging_transformer", {"hidden_size": 16, "channels": 4, "num_hidden_layers": 1, "num_attention_heads": 2,
                                 "window_samples": 22_050}),
        ("panns", {"network": "Cnn6", "width": 0.05, "window_samples": 16_000}),
        ("panns", {"network": "Cnn14_DecisionLevelAtt", "width": 0.01, "window_samples": 16_000}),
        ("spectrogram_transformer", {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                                     "spectra": 128, "window_samples": 16_000}),
        ("htsat", {"hidden_size": 4, "depths": (1, 1, 1, 1), "heads": (1, 1, 1, 1), "drop_path": 0.0,
                   "window_samples": 32_000}),
    ],
)  # fmt: skip
def test_every_encoder_can_be_contrasted(model: str, settings: dict[str, Any], tmp_path: Path) -> None:
    rates = {"beats": 16000, "cqt": 24000, "vit": 16000, "music_taggers": 16000, "tagging_transformer": 22050}
    rate = (rates | {"panns": 32000, "spectrogram_transformer": 16000, "htsat": 32000}).get(model, 8000)
    config = ContrastiveConfig(
        sample_rate=rate, projection=8, augment=False, network=NetworkConfig(model, settings), pooling="mean+max"
    )  # fmt: skip
    objective = build(config)
    batch = dataclasses.replace(make_batch(3), sample_rate=rate)
    batch.valid[1] = 12_000
    loss = objective(batch, 0)
    loss.value.backward()
    unreached = {n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None}
    assert math.isfinite(float(loss.value.detach()))
    assert not unreached  # DDP would wait for their gradients
    noisy = dataclasses.replace(batch, waveform=batch.waveform.clone())
    noisy.waveform[1, :, 12_000:] = 0.5
    objective.eval()
    if model != "samplecnn":  # whose only window is padded with what lies there
        assert float(objective(noisy, 0).value) == pytest.approx(float(objective(batch, 0).value), abs=1e-4)
    write_encoder(objective.encoder, tmp_path / "encoder")  # with what masks would need, though nothing was hidden
    opened = cast(ModelEncoder, load_encoder(tmp_path / "encoder")).model.state_dict()
    assert opened.keys() == objective.encoder.state_dict().keys()
    assert all(torch.equal(opened[name], value) for name, value in objective.encoder.state_dict().items())


def test_pooling_and_projector_are_what_they_say() -> None:
    frames, counts = draw(2, 5, 3), torch.tensor([5, 2])
    assert torch.allclose(pooled(frames, counts, "mean")[1], frames[1, :2].mean(0))
    assert torch.equal(pooled(frames, counts, "max")[1], frames[1, :2].amax(0))
    assert torch.equal(pooled(frames, counts, "mean+max")[:, 3:], pooled(frames, counts, "max"))
    layers = projector(7, 14, 3, 3)
    assert [tuple(p.shape) for p in layers.parameters()] == [(7, 14), (7, 7), (3, 7)]
    assert isinstance(layers[-1], torch.nn.Linear)


@pytest.mark.parametrize(
    "network, words",
    [
        (NetworkConfig("merd"), "no model 'merd' in models/; nearest: mert"),
        (NetworkConfig("layers"), "has none; write file:Class"),
        (NetworkConfig("mert", {"width": 3}), "MertConfig has no width"),
    ],
)
def test_a_network_that_is_none_is_refused(network: NetworkConfig, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        network.build(16000)
    with pytest.raises(ValueError, match="at least 1"):
        ContrastiveConfig(projector_layers=0)
