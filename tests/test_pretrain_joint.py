"""Masked crop contrast, descriptions of frames, and several objectives on one encoder: oracles and physics."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from groundbass.data.batch import Batch
from groundbass.models.cqt import MAX_SHIFT, CqtConfig, CqtModel, describe
from groundbass.models.vit import ViTConfig, ViTModel
from groundbass.pretrain.objectives.contrastive import ContrastiveConfig, NetworkConfig
from groundbass.pretrain.objectives.crop_contrast import CropContrastConfig, on_circle
from groundbass.pretrain.objectives.descriptors import DescriptorConfig, Workers, describe_frames, lags, tempogram
from groundbass.pretrain.objectives.joint import JointConfig, Part
from groundbass.pretrain.objectives.parts.cqt_shape import CqtShape
from groundbass.pretrain.objectives.parts.nt_xent import first_place
from groundbass.pretrain.objectives.split_views import ViTShape
from groundbass.pretrain.recipe import find
from groundbass.pretrain.run.alarms import Watch

RATE = 24_000
SMALL = CqtConfig(
    stem="patches", trunk="transformer", hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=32, mel_bins=27, dropout=0.0,
)  # fmt: skip


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def note(midi: float, seconds: float = 1.0, level: float = 0.3) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return (level * torch.sin(2 * math.pi * 440 * 2 ** ((midi - 69) / 12) * time))[None]


def batch_of(crops: int = 4, samples: int = 24_000) -> Batch:
    return Batch(
        waveform=0.1 * draw(crops, 2, samples), sample_rate=RATE, valid=torch.full((crops, 2), samples),
        starts=torch.zeros(crops, 2, dtype=torch.int64), keys=[f"track {n}" for n in range(crops)],
        index=torch.arange(crops),
    )  # fmt: skip


# ---- hearing some of the tokens


def test_left_out_columns_are_as_if_nobody_attended_to_them() -> None:
    torch.manual_seed(0)
    model = CqtModel(SMALL).eval()
    tokens, inside = model.tokens(0.1 * draw(2, RATE), torch.tensor([RATE, RATE]))
    kept = torch.tensor([[0, 3, 4, 17, 24], [1, 2, 9, 20, 21]])
    found = model.encode_some(tokens, kept, torch.ones(2, 5, dtype=torch.bool))
    attended = torch.zeros_like(inside).scatter(1, kept, True)
    expected = model.encoder(tokens, attended, keep_all=False)[-1].gather(1, kept[..., None].expand(-1, -1, 16))
    torch.testing.assert_close(found, expected)
    moved = model.encode_some(tokens, kept[:, [0, 1, 2, 3, 3]], torch.tensor([[True] * 4 + [False]] * 2))
    assert not torch.allclose(moved[:, :4], found[:, :4], atol=1e-4)  # what is kept does count


def test_all_columns_are_what_the_model_hears() -> None:
    model = CqtModel(SMALL).eval()
    sound = 0.1 * draw(1, RATE)
    tokens, _ = model.tokens(sound, torch.tensor([RATE]))
    found = model.encode_some(tokens, torch.arange(25)[None], torch.ones(1, 25, dtype=torch.bool))
    torch.testing.assert_close(found, model(sound).last_hidden_state)


def test_flat_tokens_know_neither_level_nor_mean_spectrum() -> None:
    config = ViTConfig(
        mel_bins=32, frame_samples=1024, shift_samples=512, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, stretch=3,
    )  # fmt: skip
    model, valid = ViTModel(config).eval(), torch.tensor([16_000])
    sound = 0.1 * draw(1, 16_000)
    quiet, loud = (model.tokens(gain * sound, valid, flat=True)[0] for gain in (0.5, 1.0))
    torch.testing.assert_close(quiet, loud, atol=2e-3, rtol=0)
    plain = [model.tokens(gain * sound, valid)[0] for gain in (0.5, 1.0)]
    assert (plain[0] - plain[1]).abs().max() > 0.05


# ---- the contrast and the key


def test_first_place_against_brute_force() -> None:
    z_a, z_b = (torch.nn.functional.normalize(draw(7, 3, seed=seed), dim=1) for seed in (1, 2))
    everything = torch.cat([z_a, z_b])
    hits = 0
    for anchor in range(14):
        order = [other for other in range(14) if other != anchor]
        nearest = max(order, key=lambda other: float(everything[anchor] @ everything[other]))
        hits += nearest == (anchor + 7) % 14
    assert float(first_place(z_a, z_b, z_a, z_b, 0)) == pytest.approx(hits / 14)


@pytest.mark.parametrize("semitones", [-5, 1, 4])
def test_a_key_that_turns_with_the_sound_has_no_error(semitones: int) -> None:
    objective = CropContrastConfig(
        encoder=CqtShape(stem="patches", trunk="transformer", hidden_size=12, num_attention_heads=2, mel_bins=27),
        key_weight=1.0,
    ).build()  # fmt: skip
    assert objective.classes is not None
    with torch.no_grad():
        objective.classes.weight.copy_(100 * torch.eye(12))
        objective.classes.bias.zero_()
    at = torch.eye(12)[[0, 3]]
    shift = torch.full((2,), 2 * semitones)
    turned = at.roll(semitones, 1)
    assert float(objective._key_error(at, at, turned, shift)) == pytest.approx(0.0, abs=1e-6)
    assert float(objective._key_error(at, at, at, shift)) > 0.1
    nothing = torch.zeros(2, 12)
    assert float(objective._key_error(nothing, nothing, nothing, shift)) == pytest.approx(1.0, abs=1e-5)


def test_points_on_the_circle_of_fifths() -> None:
    logits = torch.full((1, 12), -1e4)
    logits[0, 7] = 0.0  # a fifth up is one step on the circle of fifths: 7 · 7 = 49 = 4 · 12 + 1
    torch.testing.assert_close(on_circle(logits, 7)[0], torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)]))


def test_the_third_view_is_always_transposed() -> None:
    objective = find("contrastive.myna_debug").objective.build()
    shift = objective._shift(dataclasses.replace(batch_of(), index=torch.arange(500)))
    assert set(shift.tolist()) == {2 * step for step in range(-6, 7) if step}
    assert int(shift.abs().max()) <= MAX_SHIFT


def test_what_cannot_be_contrasted_is_refused() -> None:
    with pytest.raises(ValueError, match="can't transpose"):
        CropContrastConfig(encoder=ViTShape(), key_weight=0.5)
    with pytest.raises(ValueError, match="leave tokens out"):
        CropContrastConfig(encoder=CqtShape())
    with pytest.raises(ValueError, match=r"kept is 0\.0"):
        CropContrastConfig(kept=0.0)


def test_a_contrast_that_is_too_easy_is_said() -> None:
    line = {"loss": 1.0, "gradient_norm": 1.0, "tracks/first_place": 0.99}
    assert "too easy" in Watch("cpu").look(line, {})[0]
    assert not Watch("cpu").look({**line, "tracks/first_place": 0.6}, {})


# ---- descriptions


def test_the_tempogram_of_clicks_peaks_at_their_distance() -> None:
    onsets = torch.zeros(1, 400)
    onsets[0, ::25] = 1.0  # columns of 20 ms: every half second, 120 beats per minute
    distances = lags(25.0)
    found = tempogram(onsets, distances, 50)[0, 100:300].mean(0)
    best = [distances[place] for place in found.topk(2).indices.tolist()]
    assert all(abs(lag / 25 - round(lag / 25)) <= 1 / 25 for lag in best), best


@pytest.mark.parametrize("midi", [57, 64])
def test_descriptions_of_a_note(midi: int) -> None:
    model = CqtModel(CqtConfig(hidden_size=384, described=True, num_hidden_layers=1)).eval()
    states = model(note(midi), output_hidden_states=True).hidden_states
    assert len(states) == model.layers == 3
    seen, size = states[0][0, 12], model.config.described_size
    assert int(seen[:168].argmax()) == 2 * (midi - 21) - MAX_SHIFT  # A0 is 21; two rows a semitone
    classes = seen[168 + 162 + 40 :][:12]
    assert int(classes.argmax()) == (midi - 21 - MAX_SHIFT // 2) % 12
    assert not seen[size:].any()
    targets = describe_frames(
        model.crop(model.pictures(note(midi))[0], None), model.pictures(note(midi))[1], torch.ones(1, 25, dtype=bool),  # type: ignore[arg-type,call-overload]
        model.config, {"chroma": 1.0, "cqt": 1.0},
    )  # fmt: skip
    assert int(targets["chroma"][0, 12].argmax()) == int(classes.argmax())
    assert int(targets["cqt"][0, 12].argmax()) == int(seen[:168].argmax())


def test_cepstra_know_nothing_of_the_level() -> None:
    model = CqtModel(CqtConfig(hidden_size=384, described=True, num_hidden_layers=1)).eval()
    found = []
    for gain in (1.0, 2.0):
        cqt, mel = model.pictures(gain * 0.2 * draw(1, RATE))
        assert mel is not None
        found.append(describe(model.crop(cqt, None), mel, 24)[0, 5:20])
    quiet, loud = found
    torch.testing.assert_close(quiet[:, 330:370], loud[:, 330:370], atol=0.02, rtol=0)
    assert (loud[:, -2:] > quiet[:, -2:] + 0.1).all()  # the levels do


def test_what_describes_needs_room() -> None:
    with pytest.raises(ValueError, match="at least 384"):
        CqtConfig(hidden_size=192, described=True)


def test_transposing_moves_what_is_to_be_told() -> None:
    objective = DescriptorConfig(network=CqtShape(hidden_size=24), workers=Workers(chroma=0, mel=0, onsets=0)).build()
    model = objective.encoder
    cqt, mel = model.pictures(note(57))
    assert mel is not None
    ones, names = torch.ones(1, 25, dtype=torch.bool), {"cqt": 1.0}
    plain, up = (
        describe_frames(model.crop(cqt, torch.tensor([bins])), mel, ones, model.config, names)["cqt"][0, 12].argmax()
        for bins in (0, 6)
    )
    assert int(up) == int(plain) + 6


def test_descriptors_refuse_what_they_cannot_tell() -> None:
    with pytest.raises(ValueError, match="mel_bins is 0"):
        DescriptorConfig(network=CqtShape(mel_bins=0))
    with pytest.raises(ValueError, match="weights are"):
        Workers(0, 0, 0, 0, 0)


# ---- several objectives


def joint(weights: tuple[float, float] = (1.0, 0.5), every: int = 1) -> Any:
    torch.manual_seed(3)
    parts = find("joint.pase_myna_debug").objective.parts
    return JointConfig(
        tuple(dataclasses.replace(part, weight=weight) for part, weight in zip(parts, weights)), share_every=every
    ).build()


def test_one_encoder_is_trained_and_kept_once() -> None:
    objective = joint()
    assert all(part.encoder is objective.encoder for part in objective.parts.values())
    names = [name for name in objective.state_dict() if "masked_spec_embed" in name]
    assert names == ["encoder.masked_spec_embed"]
    assert objective.encoder.masked_spec_embed.requires_grad  # frames hide by it, though tracks don't
    numbers = [id(parameter) for parameter in objective.parameters()]
    assert len(numbers) == len(set(numbers))


def test_loss_and_gradient_are_the_weighted_sums_of_the_parts() -> None:
    objective, batch = joint((2.0, 0.5)), batch_of()
    objective.train()
    loss = objective(batch, 0)
    loss.value.backward()
    whole = {
        name: weight.grad.clone() for name, weight in objective.encoder.named_parameters() if weight.grad is not None
    }
    total, summed = 0.0, {name: torch.zeros_like(grad) for name, grad in whole.items()}
    for part, weight in zip(objective.parts.values(), (2.0, 0.5)):
        objective.zero_grad()
        found = part(batch, 0)
        found.value.backward()
        total += weight * float(found.value.detach())
        for name, parameter in objective.encoder.named_parameters():
            if parameter.grad is not None:
                summed[name] += weight * parameter.grad
    assert float(loss.value.detach()) == pytest.approx(total, rel=1e-5)
    for name, grad in whole.items():
        torch.testing.assert_close(grad, summed[name], atol=1e-5, rtol=1e-3)


def test_shares_of_the_gradient_add_up_and_follow_the_weights() -> None:
    shares = [joint((1.0, weight))(batch_of(), 0).metrics["tracks/gradient_share"] for weight in (0.5, 5.0)]
    other = joint((1.0, 0.5))(batch_of(), 0).metrics["frames/gradient_share"]
    assert float(shares[0] + other) == pytest.approx(1.0, abs=1e-5)
    odds = [float(share / (1 - share)) for share in shares]
    assert odds[1] / odds[0] == pytest.approx(10.0, rel=1e-3)


def test_what_one_part_holds_fixed_no_other_moves() -> None:
    frames = find("descriptors.music_tiny").objective
    shape = dataclasses.replace(frames.network, hidden_size=16, num_hidden_layers=1, mel_bins=27)
    settings = dataclasses.asdict(shape)
    tracks = ContrastiveConfig(sample_rate=RATE, augment=False, network=NetworkConfig("cqt", settings))
    parts = Part("frames", dataclasses.replace(frames, network=shape)), Part("tracks", tracks)
    torch.manual_seed(0)
    made = JointConfig(parts).build()
    made(batch_of(samples=96_000), 0).value.backward()
    without = {name for name, weight in made.encoder.named_parameters() if weight.grad is None}
    assert without == {"patches.project.weight", "patches.project.bias"} == set(made.fixed)


def test_parts_that_bring_different_encoders_are_refused() -> None:
    frames, tracks = find("joint.pase_myna_debug").objective.parts
    wider = dataclasses.replace(frames.objective.network, hidden_size=32)
    other = dataclasses.replace(frames, objective=dataclasses.replace(frames.objective, network=wider))
    with pytest.raises(ValueError, match="hidden_size is 16, not 32"):
        JointConfig((other, tracks)).build()
    with pytest.raises(ValueError, match="at least two"):
        JointConfig((frames,))
    with pytest.raises(ValueError, match="a plain word"):
        Part("a.b", frames.objective)


def test_stand_ins_and_cautions_are_the_parts_own(tmp_path: Path) -> None:
    config = joint().config
    assert config.stand_in(tmp_path, 24_000) == (config, "")
    assert config.cautions(2) == ["Negatives come from one micro-batch: a smaller one is another training."]
