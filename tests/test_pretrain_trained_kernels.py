"""Spectrogram kernels that learn by nnAudio's layer, and are published in ours."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from groundbass.data.audio.read import write
from groundbass.data.collections.scan import scan_folder
from groundbass.models.frontends import MelFrontEnd, TrainedLogMel
from groundbass.models.mert import MertModel
from groundbass.pretrain.objectives.masked import EncoderShape, Masked
from groundbass.pretrain.objectives.parts.trained_kernels import NnAudioLogMel
from groundbass.pretrain.recipe import Recipe, find
from groundbass.pretrain.train import train

RATE = 24_000
KERNELS = [f"feature_extractor.log_mel.{name}" for name in ("cosines", "filters", "sines")]


def trained_kernels() -> Recipe:
    recipe = find("masked.bestrq_debug")
    shape = dataclasses.replace(recipe.objective.encoder, mel_kernels="trained", mel_bins=16, n_fft=256)
    objective = dataclasses.replace(recipe.objective, encoder=shape)
    return dataclasses.replace(recipe, objective=objective, steps=2, batch_size=2, workers=0, trackers=())


def test_nnaudio_computes_what_our_layer_does_and_the_same_gradients() -> None:
    waveform = 0.1 * torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    own = TrainedLogMel(RATE, 256, 240, 16)
    with torch.no_grad():
        own.sines.mul_(1.01)  # something that no Fourier transform does
    theirs = NnAudioLogMel(own, RATE)
    assert theirs.state_dict().keys() == own.state_dict().keys()
    torch.testing.assert_close(theirs(waveform), own(waveform), atol=1e-4, rtol=1e-5)
    for layer in (own, theirs):
        layer(waveform).square().mean().backward()
    for ours, other in zip(own.parameters(), theirs.parameters(), strict=True):
        assert ours.grad is not None and other.grad is not None
        torch.testing.assert_close(ours.grad, other.grad, atol=1e-4 * float(ours.grad.abs().max()), rtol=1e-3)


def test_only_who_asks_for_it_trains_its_kernels() -> None:
    assert not [name for name in EncoderShape(frontend="mel").model().state_dict() if "log_mel" in name]
    objective = trained_kernels().objective.build()
    assert isinstance(objective, Masked) and isinstance(objective.encoder, MertModel)
    front_end = objective.encoder.feature_extractor
    assert isinstance(front_end, MelFrontEnd) and type(front_end.log_mel) is NnAudioLogMel
    assert sorted(name for name in objective.encoder.state_dict() if "log_mel" in name) == KERNELS


@pytest.mark.slow
def test_what_was_trained_is_published_without_nnaudio(tmp_path: Path) -> None:
    """Two steps change the kernels; a process that has torch and transformers alone hears by them, as the run does."""
    (tmp_path / "music").mkdir()
    for number in range(2):
        draw = np.random.default_rng(number)
        sound = 0.1 * draw.standard_normal(6 * RATE)
        write(tmp_path / "music" / f"{number}.wav", sound.astype(np.float32), RATE)
    scan_folder(tmp_path / "music", workers=1, progress=False)[0].write(tmp_path / "music.parquet")
    recipe = trained_kernels()
    assert train(recipe, tmp_path / "music.parquet", tmp_path / "run") == 2
    folder = tmp_path / "run" / "encoder"
    kept = load_file(folder / "model.safetensors")
    fresh = TrainedLogMel(RATE, 256, 240, 16).state_dict()
    assert sorted(name for name in kept if "log_mel" in name) == KERNELS
    for name, weight in fresh.items():
        assert not torch.equal(kept[f"feature_extractor.log_mel.{name}"], weight), f"{name} has learned nothing"
    assert json.loads((folder / "config.json").read_text())["mel_kernels"] == "trained"
    imports = [line for path in folder.glob("*.py") for line in path.read_text().splitlines() if "import " in line]
    assert imports and not [line for line in imports if "nnAudio" in line]
    code = (
        "import sys; sys.modules['nnAudio'] = None; sys.modules['groundbass'] = None; sys.modules['einops'] = None\n"
        "import torch; from transformers import AutoModel\n"
        f"model = AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True).eval()\n"
        "torch.manual_seed(0); print(float(model(0.1 * torch.randn(1, 24000)).last_hidden_state.double().sum()))\n"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    objective = recipe.objective.build()
    objective.encoder.load_state_dict(kept)
    torch.manual_seed(0)
    with torch.no_grad():
        here = objective.encoder.eval()(0.1 * torch.randn(1, 24000)).last_hidden_state
    assert float(told.stdout) == pytest.approx(float(here.double().sum()), abs=1e-3)
    assert train(dataclasses.replace(recipe, steps=3), tmp_path / "music.parquet", tmp_path / "run") == 3
