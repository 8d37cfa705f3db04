"""What signal processing says of frames, on sounds whose pitch, key, metre and swing are known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from groundbass.data.audio import read as audio
from groundbass.data.track import Manifest, Track
from groundbass.models.cqt import MAX_SHIFT, standardise
from groundbass.pretrain.contract import problems
from groundbass.pretrain.objectives.descriptors import MEASURED, DescriptorConfig, Workers
from groundbass.pretrain.objectives.parts.cqt_shape import CqtShape
from groundbass.pretrain.objectives.parts.descriptions import BANDS, COMBS, DESCRIPTIONS, MODULATIONS, Pictures, size_of
from groundbass.pretrain.recipe import find
from groundbass.pretrain.targets.first_crops import first_crops

RATE = 24_000
MODEL = CqtShape(stem="patches", hidden_size=24, num_hidden_layers=1).build().eval()
LOWEST = 21 + MAX_SHIFT // 2  # MIDI note of the lowest row that is seen: A0 is 21, two rows a semitone


def seen(sound: Any, shift: int = 0) -> Pictures:
    cqt, mel = MODEL.pictures(torch.as_tensor(np.asarray(sound), dtype=torch.float32)[None])
    assert mel is not None
    rows = MODEL.crop(cqt, torch.tensor([shift]))
    return Pictures(rows, mel, torch.ones(1, rows.shape[1], dtype=torch.bool), MODEL.config)


def tone(frequency: Any, seconds: float, gain: Any = 1.0) -> Tensor:
    """Five harmonics of a frequency in Hz, a number or one per sample."""
    samples = round(seconds * RATE)
    phase = 2 * math.pi * np.cumsum(np.broadcast_to(frequency, samples)) / RATE
    return torch.from_numpy(0.2 * gain * sum(np.sin(n * phase) / n for n in range(1, 6)))


@pytest.mark.parametrize("midi", [40, 57, 64, 81])
def test_pitch_is_that_of_a_note(midi: int, note: Callable[..., Any]) -> None:
    found = DESCRIPTIONS["pitch"](seen(note(midi, 1.0, RATE)))[0, 12]
    assert int(found.argmax()) == midi - LOWEST
    assert float(found.max()) == pytest.approx(1.0)
    assert float(found.mean()) < 0.1


@pytest.mark.parametrize(("key", "place"), [("C major", 0), ("A major", 9), ("Eb minor", 12 + 3), ("B minor", 12 + 11)])
def test_harmony_of_a_triad(key: str, place: int, chord: Callable[..., Any]) -> None:
    found = DESCRIPTIONS["harmony"](seen(chord(key, 3.0, RATE)))[0, 30]
    assert found[36:].argmax() == place // 12 * 12 + (place % 12 - LOWEST) % 12
    assert found[36:].sum() == pytest.approx(1.0, abs=1e-5) and found[12:36].sum() == pytest.approx(1.0, abs=1e-5)


def test_the_key_of_a_cadence(chord: Callable[..., Any]) -> None:
    cadence = np.concatenate([chord(name, 0.8, RATE) for name in ("G major", "C major", "D major", "G major")])
    found = DESCRIPTIONS["harmony"](seen(cadence))[0, 40]
    assert int(found[12:36].argmax()) == (7 - LOWEST) % 12


def test_transposing_moves_harmony_and_pitch_alike(chord: Callable[..., Any]) -> None:
    sound = chord("C major", 3.0, RATE)
    for name, start, size in (("pitch", 0, 84), ("harmony", 0, 12), ("harmony", 36, 12)):
        plain, up = (int(DESCRIPTIONS[name](seen(sound, shift))[0, 30, start:][:size].argmax()) for shift in (0, 6))
        assert up == (plain + 3) % size


@pytest.mark.parametrize("rate", MODULATIONS)
def test_modulation_knows_tremolo_from_vibrato(rate: float) -> None:
    time = np.arange(3 * RATE) / RATE
    swing = np.sin(2 * math.pi * rate * time)
    shape = (BANDS + 2, len(MODULATIONS))
    tremolo, vibrato, still = (
        DESCRIPTIONS["modulation"](seen(sound))[0, 35].unflatten(0, shape)
        for sound in (tone(330.0, 3, 1 + 0.5 * swing), tone(330.0 * 2 ** (swing / 12), 3), tone(330.0, 3))
    )
    place = MODULATIONS.index(rate)
    assert int(tremolo[BANDS].argmax()) == place  # of the level
    assert int(vibrato[-1].argmax()) == place  # of the pitch
    assert vibrato[-1, place] > max(tremolo[-1, place], still[-1, place]) + 1
    assert tremolo[BANDS, place] > max(vibrato[BANDS, place], still[BANDS, place]) + 0.5


def test_texture_knows_a_tone_from_noise() -> None:
    noise = 0.2 * np.random.default_rng(0).standard_normal(2 * RATE)
    steady, rough = (DESCRIPTIONS["texture"](seen(sound))[0, 10:40].mean(0) for sound in (tone(220.0, 2), noise))
    octaves = 7
    assert (steady[2:5] > rough[2:5] + 1).all()  # contrast of the octaves that the tone has
    assert (steady[octaves + 2 : octaves + 5] > rough[octaves + 2 : octaves + 5] + 1).all()  # rows differ, frames don't
    assert steady[2 * octaves] < rough[2 * octaves] - 0.2  # centroid
    assert (steady[-4:-2] < rough[-4:-2] - 1).all()  # flatness of the low and the middle bands; nothing sounds above


@pytest.mark.parametrize("bpm", [75.0, 100.0, 150.0])
def test_combs_stand_on_the_beat(bpm: float, clicks: Callable[..., Any]) -> None:
    sound = clicks(bpm, 8.0, RATE, 0.2)
    found = DESCRIPTIONS["metre"](seen(sound))[0].unflatten(1, (2, len(COMBS), 4)).flatten(0, 1)
    comb = found[100:300, 0, 0]  # one period from tooth to tooth, all onsets; 50 columns a second
    beats = np.arange(0.2, 8.0, 60 / bpm)
    beats = beats[(beats > 2.1) & (beats < 5.9)]
    on = [round(50 * beat) - 100 for beat in beats]
    between = [round(50 * (beat + 30 / bpm)) - 100 for beat in beats[:-1]]
    assert min(float(comb[max(0, k - 2) : k + 3].max()) for k in on) > 2
    assert max(float(comb[k - 1 : k + 2].max()) for k in between) < 1


def test_cepstra_know_nothing_of_the_level() -> None:
    sound = tone(220.0, 2)
    quiet, loud = (DESCRIPTIONS["cepstra"](seen(gain * sound)) for gain in (0.5, 1.0))
    torch.testing.assert_close(quiet, loud, atol=0.1, rtol=0)


def test_sizes_are_those_of_what_is_told() -> None:
    pictures = seen(0.1 * np.random.default_rng(1).standard_normal(RATE))
    for name, describe in DESCRIPTIONS.items():
        found = describe(pictures)
        assert found.shape == (1, 25, size_of(name, MODEL.config)), name
        assert torch.isfinite(found).all(), name


@pytest.mark.parametrize("name", list(DESCRIPTIONS))
def test_silence_is_described(name: str) -> None:
    assert torch.isfinite(DESCRIPTIONS[name](seen(np.zeros(RATE)))).all()


def test_descriptions_are_measured_and_axes_found_on_the_first_crops(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    tracks = []
    for number in range(6):
        sound = tone(110.0 * 2 ** (number / 3), 3) + torch.from_numpy(0.02 * generator.standard_normal(3 * RATE))
        audio.write(tmp_path / f"{number}.wav", sound.float().numpy(), RATE)
        tracks.append(Track(f"{number}", f"{number}.wav", 3 * RATE, RATE, 1, f"{number}"))
    manifest = Manifest.from_tracks(tracks, tmp_path)
    workers = Workers(0, 0, 0, 0, 0, pitch=1, metre=1)
    config = DescriptorConfig(CqtShape(stem="patches", hidden_size=24), workers, principal=6)
    objective, again = config.build(), config.build()
    assert not objective.encoder.patches.follows
    for made in (objective, again):
        made.prepare(manifest, tmp_path / "run")
    stem = objective.encoder.patches
    assert stem.follows and not stem.project.weight.requires_grad
    torch.testing.assert_close(stem.project.weight, again.encoder.patches.project.weight)

    batch = first_crops(manifest, RATE, MEASURED, objective.seed)
    waveform, valid = batch.by_view()
    cqt, mel = objective.encoder.pictures(waveform)
    assert mel is not None
    inside = torch.arange(cqt.shape[1]) < (valid // 960)[:, None]
    twice = inside.repeat_interleave(2, 1)
    pictures = Pictures(objective.encoder.crop(cqt, None), mel, inside, objective.encoder.config)
    for name in ("pitch", "metre"):
        found = objective._standard(name, pictures)[inside]
        assert found.mean(0).abs().max() < 0.3 and found.abs().max() <= 4.0
        assert f"{name}_scale" in objective.state_dict()
    columns = torch.cat(
        [standardise(pictures.rows, inside), standardise(mel, twice).unflatten(1, (-1, 2)).flatten(2)], 2
    )
    told = stem.project(columns[inside]).double()
    assert told.mean(0).abs().max() < 1e-3
    shared = told.T @ told / len(told)
    assert (shared.diagonal().diff() <= 1e-4).all()  # the widest axis first
    assert (shared - shared.diagonal().diag()).abs().max() < 1e-2 * shared.max()  # no two tell the same

    kept = stem.project.weight.clone()
    objective.prepare(manifest.select([0, 1]), tmp_path / "run")  # axes that came from elsewhere stay
    torch.testing.assert_close(stem.project.weight, kept)


def test_axes_need_whole_columns() -> None:
    with pytest.raises(ValueError, match=r"principal needs network\.stem patches"):
        DescriptorConfig(CqtShape(stem="conv"), principal=6)


@pytest.mark.slow
def test_all_descriptions_together_keep_the_contract() -> None:
    recipe = find("descriptors.pase_debug")
    names = (field.name for field in dataclasses.fields(Workers))
    objective = dataclasses.replace(recipe.objective, workers=Workers(**dict.fromkeys(names, 1.0)), principal=8)
    found = problems(dataclasses.replace(recipe, objective=objective))
    assert not found.failed, found.failed
