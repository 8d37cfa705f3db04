"""CPC: the original networks' answers, InfoNCE against a triple loop, who may be a negative, what padding may do."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from groundbass.data.batch import Batch
from groundbass.models.cpc import CpcConfig, CpcModel
from groundbass.models.encoder import ModelEncoder
from groundbass.pretrain.objectives import predictive
from groundbass.pretrain.objectives.predictive import (
    InfoNce,
    Predictive,
    PredictiveConfig,
    draw_negatives,
    summed_up,
)

GOLDEN = Path(__file__).parent / "golden"
SMALL = predictive.cpc_debug().objective


def golden_weights(case: dict[str, Any]) -> dict[str, Tensor]:
    """The numbers that the case's key names and seed stand for."""
    found = {}
    for key, shape in case["keys"].items():
        x = np.random.default_rng(zlib.crc32(f"{case['seed']}:{key}".encode())).standard_normal(shape)
        x = 0.1 * x if len(shape) == 1 else x / math.sqrt(math.prod(shape[1:]))
        found[key] = torch.tensor(x, dtype=torch.float32)
    return found


def golden_sound(samples: int, rate: int) -> Tensor:
    t = np.arange(samples) / rate
    x = 0.3 * np.sin(2 * np.pi * 220 * t) + 0.2 * np.sin(2 * np.pi * 330 * t)
    x += 0.1 * np.sin(2 * np.pi * (500 + 200 * t) * t) * np.sin(2 * np.pi * 2 * t)
    return torch.tensor(x + 0.05 * np.random.default_rng(5).standard_normal(samples), dtype=torch.float32)


@pytest.mark.parametrize("name", ["cpc_speech", "cpc_music"])
def test_the_original_networks_answer_the_same(name: str) -> None:
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    config = dataclasses.replace(getattr(predictive, name)().objective, input_std=1.0)
    objective = config.build().eval()
    weights = golden_weights(case)
    assert sum(value.numel() for value in weights.values()) == {"cpc_speech": 7_414_784, "cpc_music": 8_988_672}[name]
    objective.loss.load_state_dict({"predictor.weight": weights.pop("loss.predictor.weight")})
    objective.encoder.load_state_dict(weights)
    sound = golden_sound(case["input"][-1], case["sample_rate"]).expand(2, -1)
    with torch.no_grad():
        found = dict(zip("zc", objective.encoder.encode(sound)))
    for part, expected in case["output"].items():
        value = found[part]
        assert list(value.shape) == expected["shape"]
        assert float(value.double().sum()) == pytest.approx(expected["sum"], rel=1e-4)
        assert float(value.double().abs().sum()) == pytest.approx(expected["abs_sum"], rel=1e-4)
        assert torch.allclose(value.flatten()[:16], torch.tensor(expected["first_16"]), atol=1e-4)
        assert torch.allclose(value.flatten()[-8:], torch.tensor(expected["last_8"]), atol=1e-4)


def test_padding_changes_no_valid_frame_and_the_future_no_past() -> None:
    torch.manual_seed(0)
    encoder = ModelEncoder(CpcModel(SMALL.network()))
    sound = torch.randn(1, 8000)
    alone = encoder.hidden_states(sound[:, :5001])
    padded = encoder.hidden_states(torch.cat([sound[:, :5001], torch.randn(1, 999)], 1), torch.tensor([5001]))
    frames = int(encoder.valid_frames(torch.tensor([5001]))[0])
    assert alone.shape == (1, 2, frames, 12) and torch.equal(alone[:, 0, :, 8:], torch.zeros(1, frames, 4))
    assert torch.allclose(alone, padded[:, :, :frames], atol=1e-6)
    other = sound.clone()
    other[:, 4000:] = 0
    past = 4000 // encoder.model.config.hop - 3  # a latent hears a little to both sides
    assert torch.allclose(encoder.hidden_states(other)[:, :, :past], encoder.hidden_states(sound)[:, :, :past])
    assert encoder.shortest > 1 and encoder.hidden_states(sound[:, :1]).shape[2] == 1


def test_the_channel_norm_normalises() -> None:
    model = CpcModel(SMALL.network())
    convolution, norm, _ = model.encoder.seq[0]
    value = norm(convolution(torch.randn(2, 1, 800)))
    assert isinstance(norm, nn.LayerNorm) and torch.allclose(value.mean(1), torch.zeros(1), atol=1e-5)


def brute_force(
    context: Tensor, latents: Tensor, others: Tensor, matrix: Tensor, lengths: list[int], ahead: int
) -> float:
    """InfoNCE as the paper writes it, one dot product at a time; each step's mean, then theirs."""
    dim, losses = latents.shape[2], []
    for k in range(1, ahead + 1):
        step = matrix[(k - 1) * dim : k * dim].double()
        terms = []
        for clip, length in enumerate(lengths):
            for t in range(length - k):
                guess = step @ context[clip, t].double()
                candidates = [latents[clip, t + k], *others[clip, t + k]]
                products = [float(guess @ candidate.double()) for candidate in candidates]
                terms.append(math.log(sum(math.exp(p) for p in products)) - products[0])
        losses.append(sum(terms) / len(terms))
    return sum(losses) / ahead


def test_the_loss_is_the_triple_loops() -> None:
    torch.manual_seed(1)
    nce = InfoNce(5, 4, 3)
    context, latents, others = torch.randn(2, 9, 5), torch.randn(2, 9, 4), torch.randn(2, 9, 6, 4)
    loss = summed_up(nce(context, latents, others), torch.tensor([9, 9]))
    expected = brute_force(context, latents, others, nce.predictor.weight.detach(), [9, 9], 3)
    assert float(loss.value.detach()) == pytest.approx(expected, rel=1e-5)
    short = summed_up(nce(context, latents, others), torch.tensor([9, 2]))  # one frame predicts one step
    alone = summed_up(nce(context[:1], latents[:1], others[:1]), torch.tensor([9]))
    rest = summed_up(nce(context[1:], latents[1:], others[1:]), torch.tensor([2]))
    joint = (alone.value * alone.weight + rest.value * rest.weight) / (alone.weight + rest.weight)
    assert float(short.value) == pytest.approx(float(joint), rel=1e-5)


def test_chance_is_the_logarithm_of_the_candidates() -> None:
    config = dataclasses.replace(SMALL, negatives=10)
    objective = config.build()
    with torch.no_grad():
        objective.loss.predictor.weight.zero_()
    loss = objective(make_batch(), 0)
    assert float(loss.value) == pytest.approx(math.log(11), abs=1e-5) and loss.metrics["chance_loss"] == math.log(11)


def make_batch(crops: int = 4, seed: int = 0, valid: list[int] | None = None) -> Batch:
    samples = 8000
    sound = 0.2 * torch.randn(crops, 1, samples, generator=torch.Generator().manual_seed(seed))
    lengths = torch.tensor(valid or [samples] * crops)[:, None]
    return Batch(
        waveform=sound * (torch.arange(samples) < lengths)[:, None], sample_rate=8000, valid=lengths,
        starts=torch.zeros(crops, 1, dtype=torch.int64), keys=[str(n) for n in range(crops)], index=torch.arange(crops),
    )  # fmt: skip


@pytest.mark.parametrize("source", ["all", "same", "others"])
def test_negatives_come_from_where_they_should_and_evenly(source: Any) -> None:
    lengths, own = torch.tensor([7, 3, 5]), torch.tensor([0, 2])
    config = dataclasses.replace(SMALL, negatives=4000, negatives_from=source)
    drawn = draw_negatives(lengths, own, 7, config, torch.tensor([11, 12]))
    assert bool((drawn.frames < lengths[drawn.clips]).all()) and bool((drawn.frames >= 0).all())
    for row, clip in enumerate(own.tolist()):
        for frame in range(int(lengths[clip])):
            found = torch.zeros(3, 7)
            found.index_put_((drawn.clips[row, frame], drawn.frames[row, frame]), torch.ones(4000), accumulate=True)
            allowed = torch.arange(7)[None] < lengths[:, None]
            allowed[clip, frame] = False
            if source == "same":
                allowed[torch.arange(3) != clip] = False
            if source == "others":
                allowed[clip] = False
            expected = 4000 / int(allowed.sum())
            assert not found[~allowed].any()
            assert ((found[allowed] - expected).abs() < 5 * math.sqrt(expected)).all()


def test_padding_is_neither_predicted_nor_a_candidate() -> None:
    objective = SMALL.build().eval()
    batch = make_batch(valid=[8000, 8000, 3000, 8000])
    noisy = dataclasses.replace(batch, waveform=batch.waveform.clone())
    noisy.waveform[2, 0, 3000:] = 1.0
    assert float(objective(batch, 0).value) == pytest.approx(float(objective(noisy, 0).value), rel=1e-6)
    tiny = objective(make_batch(valid=[100, 100, 100, 100]), 0)  # nothing to predict
    assert float(tiny.weight) == 0 and float(tiny.value) == 0


def test_it_learns_to_foretell_a_melody_within_its_own_clip() -> None:
    """Five notes in a circle, one per latent: a fifth of the negatives sounds like the truth, the rest can be told."""
    torch.manual_seed(0)
    config = dataclasses.replace(
        SMALL, kernels=(10, 8), strides=(10, 8), paddings=(0, 0), channels=(16, 16), context_size=16,
        ahead=5, negatives=8, negatives_from="same",
    )  # fmt: skip
    objective: Predictive = config.build()
    time, crop = torch.arange(8000), torch.arange(4)[:, None]
    pitch = 300.0 * 1.5 ** ((time // 80 + crop) % 5)
    batch = dataclasses.replace(make_batch(4), waveform=0.5 * torch.sin(2 * math.pi * pitch * time / 8000)[:, None])
    optimiser = torch.optim.Adam(objective.parameters(), lr=1e-2)
    values = []
    for step in range(40):
        loss = objective(batch, step)
        optimiser.zero_grad()
        loss.value.backward()
        optimiser.step()
        values.append(float(loss.value.detach()))
    assert values[0] == pytest.approx(math.log(9), abs=0.3) and values[-1] < 1.2  # ln(1 + 8 / 5) = 0.96 at best
    assert set(loss.metrics) >= {f"accuracy_{k}" for k in range(1, 6)}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"ahead": 0}, "both are at least 1"),
        ({"negatives_from": "mine"}, "choose all, same or others"),
        ({"within": 3}, "3 are predicted ahead"),
    ],
)
def test_what_cannot_be_learned_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SMALL, **changes)


def test_a_batch_that_cannot_be_predicted_is_refused() -> None:
    with pytest.raises(ValueError, match="hears 8000 Hz, but the crops have 16000"):
        SMALL.build()(dataclasses.replace(make_batch(), sample_rate=16000), 0)
    with pytest.raises(ValueError, match="make crops longer"):
        dataclasses.replace(SMALL, ahead=60).build()(make_batch(), 0)
    with pytest.raises(ValueError, match=r"no latent to take negatives from \(others\)"):
        dataclasses.replace(SMALL, negatives_from="others").build()(make_batch(1), 0)
    with pytest.raises(ValueError, match="needs one of each"):
        CpcConfig(kernels=[3])
    with pytest.raises(ValueError, match="mono waveform"):
        CpcModel(SMALL.network())(torch.zeros(1, 2, 800))
    assert PredictiveConfig(within=81).within == 81
