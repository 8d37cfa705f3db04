"""What every objective keeps. Found by their `*_debug` recipes, so that a new file in `objectives/` is tested too."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import groundbass.pretrain.train as train_module
from groundbass.data.audio.read import write
from groundbass.data.batch import Batch
from groundbass.data.crops import Crops
from groundbass.data.draws import draw_seed
from groundbass.data.loader import loader
from groundbass.data.track import Manifest, Track
from groundbass.models.encoder import load_encoder
from groundbass.models.published import write_encoder
from groundbass.pretrain.objective import Loss, Objective
from groundbass.pretrain.optim import build
from groundbass.pretrain.recipe import Recipe, addresses, find
from groundbass.pretrain.train import train

# a recipe whose tokenizer is "" can't train before one is named: test_pretrain_tokens.py names one
DEBUG = [a for a in addresses() if a.endswith("_debug") and getattr(find(a).objective, "tokenizer", None) != ""]
RATE = 24000

pytestmark = pytest.mark.parametrize("address", DEBUG)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, labels_of: Callable[..., dict[str, Any]]) -> Path:
    """Ten tracks of gliding chords and noise; the last is short."""
    folder = tmp_path_factory.mktemp("chords")
    tracks = []
    for number in range(10):
        time = np.arange(int(RATE * (1.0 if number == 9 else 7.0))) / RATE
        draw = np.random.default_rng(number)
        sound = 0.02 * draw.standard_normal(len(time))
        for pitch in draw.uniform(100, 2000, 4):
            sound += 0.1 * np.sin(2 * np.pi * pitch * time * (1 + 0.02 * time)) * (np.sin(time * pitch / 50) > 0)
        write(folder / f"{number}.flac", sound.astype(np.float32), RATE)
        tracks.append(
            Track(f"{number}.flac", f"{number}.flac", len(sound), RATE, 1, f"{number:032x}", labels=labels_of(number))
        )
    Manifest.from_tracks(tracks, folder).write(folder / "manifest.parquet")
    return folder / "manifest.parquet"


def make(address: str, manifest: Path, run: Path) -> tuple[Recipe, Objective]:
    """The objective as the trainer makes it."""
    recipe = find(address)
    torch.manual_seed(draw_seed(recipe.seed, 1))
    objective: Objective = recipe.objective.build()
    objective.seed = recipe.seed
    objective.train()
    objective.prepare(Manifest.open(manifest), run)
    objective.place(torch.device("cpu"))
    return recipe, objective


def batches(recipe: Recipe, manifest: Path, count: int) -> list[Batch]:
    crops = Crops(Manifest.open(manifest), recipe.crops, recipe.seed)
    return list(itertools.islice(loader(crops, recipe.micro_batch or recipe.batch_size, workers=0), count))


def forward(objective: Objective, batch: Batch, step: int = 0) -> Loss:
    torch.manual_seed(step)
    loss: Loss = objective(batch, step)
    return loss


def test_the_loss_is_a_finite_number_with_a_weight(address: str, manifest: Path, tmp_path: Path) -> None:
    recipe, objective = make(address, manifest, tmp_path)
    for step, batch in enumerate(batches(recipe, manifest, 3)):
        loss = forward(objective, batch, step)
        assert loss.value.shape == () and loss.value.dtype == torch.float32
        assert math.isfinite(float(loss.value.detach()))
        assert float(loss.weight) > 0 and not loss.weight.requires_grad
        for name, value in loss.metrics.items():
            assert math.isfinite(float(value)), name
            assert not (isinstance(value, torch.Tensor) and value.requires_grad), f"{name} holds the graph"


def test_gradient_reaches_every_trainable_parameter(address: str, manifest: Path, tmp_path: Path) -> None:
    recipe, objective = make(address, manifest, tmp_path)
    reached = set()
    for step, batch in enumerate(batches(recipe, manifest, 4)):  # several: layer drop leaves some out
        objective.zero_grad()
        forward(objective, batch, step).value.backward()
        reached |= {n for n, p in objective.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    trainable = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}
    assert trainable - reached == set()
    assert reached <= trainable


def test_same_seed_same_loss(address: str, manifest: Path, tmp_path: Path) -> None:
    losses = []
    for _ in range(2):
        recipe, objective = make(address, manifest, tmp_path)
        losses.append(float(forward(objective, batches(recipe, manifest, 1)[0]).value.detach()))
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_the_loss_falls_on_one_batch(address: str, manifest: Path, tmp_path: Path) -> None:
    recipe, objective = make(address, manifest, tmp_path)
    batch = batches(recipe, manifest, 1)[0]
    optimizer = build(dataclasses.replace(recipe.optim, lr=max(recipe.optim.lr, 1e-3), fused=False), objective)
    values = []
    for _ in range(40):
        loss = forward(objective, batch)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        with torch.no_grad():
            objective.after_step(0)
        values.append(float(loss.value.detach()))
    assert np.mean(values[-5:]) < np.mean(values[:5])


def test_state_is_complete(address: str, manifest: Path, tmp_path: Path) -> None:
    """A fresh objective with this one's state_dict says the same."""
    recipe, objective = make(address, manifest, tmp_path)
    batch = batches(recipe, manifest, 1)[0]
    optimizer = build(recipe.optim, objective)
    for step in range(2):
        forward(objective, batch, step).value.backward()
        optimizer.step()
        with torch.no_grad():
            objective.after_step(step)
    _, fresh = make(address, manifest, tmp_path)
    fresh.load_state_dict(objective.state_dict())
    assert float(forward(fresh, batch, 2).value.detach()) == float(forward(objective, batch, 2).value.detach())


@pytest.mark.slow
def test_resumed_is_straight_to_the_bit(address: str, manifest: Path, tmp_path: Path) -> None:
    recipe = _four_steps(address)
    train(recipe, manifest, tmp_path / "straight")
    train(dataclasses.replace(recipe, steps=2), manifest, tmp_path / "twice")
    train(recipe, manifest, tmp_path / "twice")
    _assert_same_run(tmp_path / "straight", tmp_path / "twice")


@pytest.mark.slow
def test_the_dry_run_leaves_no_trace(
    address: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _four_steps(address)
    train(recipe, manifest, tmp_path / "with")
    monkeypatch.setattr(train_module, "trial_step", lambda *_: False)
    train(recipe, manifest, tmp_path / "without")
    _assert_same_run(tmp_path / "with", tmp_path / "without")


def _four_steps(address: str) -> Recipe:
    recipe = find(address)
    optim = dataclasses.replace(recipe.optim, decay_steps=recipe.optim.decay_steps or recipe.steps)
    return dataclasses.replace(recipe, steps=4, optim=optim, checkpoint_every=4, log_every=1, workers=0, trackers=())


def _assert_same_run(one: Path, other: Path) -> None:
    states = [load_file(run / "checkpoints/step_4/weights.safetensors") for run in (one, other)]
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []
    assert (one / "loss.jsonl").read_bytes() == (other / "loss.jsonl").read_bytes()


def test_the_encoder_is_published_and_reloads(address: str, manifest: Path, tmp_path: Path) -> None:
    recipe, objective = make(address, manifest, tmp_path / "run")
    write_encoder(objective.encoder, tmp_path / "encoder")
    loaded = load_encoder(str(tmp_path / "encoder"))
    waveform = batches(recipe, manifest, 1)[0].waveform[:1, 0]
    hidden = loaded.hidden_states(waveform)
    assert hidden.shape[:2] == (1, loaded.layers) and hidden.shape[3] == loaded.dim
    objective.encoder.eval()
    with torch.no_grad():
        expected = objective.encoder(waveform, output_hidden_states=True).hidden_states[-1][0]
    bands = len(expected) // hidden.shape[2]  # BEATs: a frame is the mean over its patches
    assert torch.allclose(hidden[0, -1], expected.unflatten(0, (-1, bands)).mean(1), atol=1e-5)


def test_the_recipe_is_plain_data(address: str, manifest: Path, tmp_path: Path) -> None:
    from groundbass.pretrain.recipe import resolved

    record = resolved(find(address))
    assert json.loads(json.dumps(record)) == record
    with pytest.raises(dataclasses.FrozenInstanceError):
        find(address).steps = 3  # type: ignore[misc]
