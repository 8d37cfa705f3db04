"""Taggers learning by their own heads: outputs from labels, stripes, mixed targets, refusals, and that it learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from groundbass.data.audio.read import write
from groundbass.data.batch import Batch
from groundbass.data.track import Manifest, Track
from groundbass.models.classifier_files import open_classifier
from groundbass.models.encoder import load_encoder
from groundbass.pretrain.objectives.labelled import Mixup
from groundbass.pretrain.objectives.tagging import Stripes, Tagging, TaggingConfig, musicnn_tiny, striped
from groundbass.pretrain.recipe import addresses, find
from groundbass.pretrain.train import train

RATE = 16_000
PITCHES = {"low": 200, "middle": 900, "high": 3500}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve tones in three registers, with tags too."""
    folder = tmp_path_factory.mktemp("tones")
    tracks = []
    for number in range(12):
        name = list(PITCHES)[number % 3]
        time = np.arange(RATE) / RATE
        sound = 0.2 * np.sin(2 * np.pi * PITCHES[name] * (1 + 0.03 * number) * time)
        sound += 0.02 * np.random.default_rng(number).standard_normal(len(time))
        write(folder / f"{number}.flac", sound.astype(np.float32), RATE)
        labels = {"register": name, "tags": [name, "tone"] if number % 2 else [name]}
        tracks.append(
            Track(f"{number}", f"{number}.flac", len(sound), RATE, 1, f"{number:032x}", "train", labels=labels)
        )
    Manifest.from_tracks(tracks, folder).write(folder / "manifest.parquet")
    return folder / "manifest.parquet"


def objective(manifest: Path, **changes: Any) -> Tagging:
    settings = {"network": "musicnn", "width": 0.05, "window_samples": RATE, "labels": ("register",)} | changes
    torch.manual_seed(0)
    made = TaggingConfig(**settings).build()
    made.prepare(Manifest.open(manifest), manifest.parent)
    return made


def batch(rows: int = 4) -> Batch:
    sound = 0.1 * torch.randn(rows, 1, RATE, generator=torch.Generator().manual_seed(0))
    valid = torch.full((rows, 1), RATE)
    return Batch(sound, RATE, valid, torch.zeros_like(valid), [str(i) for i in range(rows)], torch.arange(rows))


def test_the_network_has_the_labels_outputs(manifest: Path) -> None:
    made = objective(manifest)
    assert made.encoder.config.id2label == {0: "high", 1: "low", 2: "middle"}
    assert made.encoder.config.problem_type == "single_label_classification"
    made.train()
    loss = made(batch(), 0)
    loss.value.backward()
    assert all(weight.grad is not None for weight in made.parameters())
    again = objective(manifest)
    assert all(
        torch.equal(a, b)
        for a, b in zip(made.state_dict().values(), again.state_dict().values())
        if a.is_floating_point() and a.dim() > 1
    )


def test_mixed_tags_are_mixed_targets(manifest: Path) -> None:
    """Against binary cross-entropy with the mixed targets, computed apart."""
    made = objective(manifest, labels=("tags:tags",), mixup=Mixup(1.0, 1.0))
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]])
    share, partner = torch.tensor([0.9, 0.5, 0.2, 1.0]), torch.tensor([3, 0, 1, 2])
    found = made._judged(logits, targets, partner, share)
    mixed = share[:, None] * targets + (1 - share[:, None]) * targets[partner]
    torch.testing.assert_close(found.value, functional.binary_cross_entropy_with_logits(logits, mixed))


def test_stripes_are_zero_and_each_clips_own() -> None:
    features = torch.rand(3, 1, 40, 100) + 1  # [clips, 1, bins, steps]
    seeds = torch.tensor([5, 6, 5])
    found = striped(features, (3, 2), Stripes(2, 30, 1, 10), seeds)
    gone = found == 0
    assert torch.equal(found[~gone], features[~gone])
    assert torch.equal(gone[0], gone[2]) and not torch.equal(gone[0], gone[1])
    steps, bins = gone[0, 0].all(0), gone[0, 0].all(1)
    assert torch.equal(gone[0, 0], steps[None] | bins[:, None]) and 0 < steps.sum() <= 60 and bins.sum() < 10
    assert striped(features, None, Stripes(2), seeds) is features


def test_what_is_refused(manifest: Path) -> None:
    with pytest.raises(ValueError, match="answers one question, and register, tags is asked"):
        objective(manifest, labels=("register", "tags"))
    with pytest.raises(ValueError, match="There is no network 'resnet'; there is fcn"):
        objective(manifest, network="resnet")
    made = objective(manifest, window_samples=8000)
    with pytest.raises(
        ValueError, match=r"hears 8000 at 16000 Hz: set --crops.sample-rate 16000 --crops.crop-samples 8000"
    ):
        made(batch(), 0)


def test_every_recipe_builds_a_network_for_its_crops() -> None:
    small = [address for address in addresses() if address.startswith("tagging.") and address.endswith("_tiny")]
    assert len(small) == 11
    for address in small:
        recipe = find(address)
        network = recipe.objective.draw(3)
        assert network.config.window_samples == recipe.crops.crop_samples, address
        with torch.no_grad():
            assert network.eval().window_logits(torch.zeros(1, recipe.crops.crop_samples)).shape == (1, 3), address


@pytest.mark.slow
def test_a_run_tells_registers_apart_and_its_folder_answers(manifest: Path, tmp_path: Path) -> None:
    recipe = musicnn_tiny()
    small = dataclasses.replace(
        recipe.objective, labels=("register",), width=0.05, window_samples=RATE, validate_every=15
    )
    crops = dataclasses.replace(recipe.crops, crop_samples=RATE)
    recipe = dataclasses.replace(recipe, objective=small, crops=crops, steps=30, batch_size=6, workers=0, trackers=())
    train(recipe, manifest, tmp_path / "run")
    model: Any = load_encoder(tmp_path / "run").model  # type: ignore[attr-defined]
    time = torch.arange(RATE) / RATE
    for name, pitch in PITCHES.items():
        with torch.no_grad():
            tone = 0.2 * torch.sin(2 * torch.pi * pitch * 1.1 * time) + 0.02 * torch.randn(RATE)
            answer = model.class_logits(tone[None])
            assert torch.equal(open_classifier(tmp_path / "run" / "classifier")(tone[None]).logits, answer)
        assert model.config.id2label[int(answer.argmax())] == name
