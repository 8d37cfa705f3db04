"""HEAR's interface: its functions by name, the shapes and types that its API asks for, and what they must mean."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from groundbass import cli
from groundbass.models.encoder import load_encoder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("hear") / "adapter.py"
    with pytest.raises(SystemExit) as stop:
        cli.main(["bridge", "hear", "groundbass-tiny", "--out", str(out), "--layers", "0", "-1"])
    assert stop.value.code == 0
    spec = importlib.util.spec_from_file_location("adapter", out)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_signatures_are_those_of_hear(adapter: Any) -> None:
    assert list(inspect.signature(adapter.load_model).parameters) == ["model_file_path"]
    for name in ("get_scene_embeddings", "get_timestamp_embeddings"):
        assert list(inspect.signature(getattr(adapter, name)).parameters) == ["audio", "model"]
    model = adapter.load_model()
    assert isinstance(model, torch.nn.Module) and not model.training
    assert model.sample_rate in (16_000, 22_050, 44_100, 48_000)
    assert isinstance(model.scene_embedding_size, int) and isinstance(model.timestamp_embedding_size, int)


@pytest.mark.parametrize("seconds", [0.2, 3.0, 31.0])
def test_shapes_types_and_times(adapter: Any, seconds: float) -> None:
    model = adapter.load_model()
    audio = 0.1 * torch.randn(2, round(seconds * model.sample_rate), generator=torch.Generator().manual_seed(0))
    frames, times = adapter.get_timestamp_embeddings(audio, model)
    assert frames.dtype == torch.float32 and frames.shape[::2] == (2, model.timestamp_embedding_size)
    assert times.shape == frames.shape[:2]
    assert (times.diff(dim=1) > 0).all() and 0 < float(times[0, 0]) and float(times[0, -1]) < 1000 * seconds + 60
    scene = adapter.get_scene_embeddings(audio, model)
    assert scene.shape == (2, model.scene_embedding_size) and torch.allclose(scene, frames.mean(1))
    alone = adapter.get_scene_embeddings(audio[:1], model)
    assert torch.allclose(alone[0], scene[0], atol=1e-4)


def test_it_hears_what_the_encoder_hears_when_it_hears_it(
    adapter: Any, note: Callable[..., npt.NDArray[np.float32]]
) -> None:
    """A note that begins after two seconds changes frames from there on, and not before."""
    model = adapter.load_model()
    encoder = load_encoder("groundbass-tiny")
    sound = torch.zeros(1, 4 * model.sample_rate)
    tone = torch.from_numpy(note(69, 2.0, model.sample_rate))
    sound[0, 2 * model.sample_rate :] = tone
    frames, times = adapter.get_timestamp_embeddings(sound, model)
    front = frames[0, :, : encoder.dim]  # layer 0: the front end, which looks a little to either side
    change = (front - front[0]).norm(dim=1)
    first = float(times[0, int((change > 0.5 * change.max()).nonzero()[0])])
    assert abs(first - 2000) < 150


def test_what_is_no_module_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["bridge", "hear", "groundbass-tiny", "--out", str(tmp_path / "my-adapter.py")])
    assert stop.value.code == 2 and "its name is one word" in capsys.readouterr().err
